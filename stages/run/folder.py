"""The run directory: where everything is, whether a run may begin there, and how it is kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.model_file import save_model
from stages.distributed import any_rank
from stages.plan import Plan
from stages.run.changes import differences
from stages.run.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from stages.run.interrupt import Interrupt
from stages.run.log import Log

if TYPE_CHECKING:
    from mtp.potential import Potential

SAVE_EVERY = 2.0  # seconds between two checkpoints, unless a stage ends or somebody waits


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    plan = property(lambda self: self.path / "plan.json")
    scan = property(lambda self: self.path / "scan.json")
    environment = property(lambda self: self.path / "environment.json")
    log = property(lambda self: self.path / "log.jsonl")
    checkpoint = property(lambda self: self.path / "checkpoint" / "state.pt")
    model = property(lambda self: self.path / "model.mtp.safetensors")
    best = property(lambda self: self.path / "best.mtp.safetensors")
    calibration = property(lambda self: self.path / "calibration.json")
    predictions = property(lambda self: self.path / "predictions.npz")
    metrics = property(lambda self: self.path / "metrics.json")

    @property
    def used(self) -> bool:
        """Whether a run has been here."""
        return any(p.exists() for p in (self.plan, self.log, self.checkpoint, self.model))

    def write_json(self, path: Path, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, text.encode())

    def open(self, plan: Plan, restart: bool) -> Checkpoint | None:
        """The state to go on from; None to begin.

        Raises InvalidInput for a directory with a run and no ``restart``, and for a restart whose
        control file is not that of the run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(f"{self.path}: is a file; --output must name a directory")
        if not restart:
            if self.used:
                raise InvalidInput(
                    f"{self.path}: holds a run already; go on with it by --restart, or choose "
                    "another directory with --output"
                )
            return None
        saved = load_checkpoint(self.checkpoint)
        if saved is not None:
            changed = differences(json.loads(self.plan.read_text()), _plain(plan))
            if changed:
                raise InvalidInput(*(f"{self.path}: {line}" for line in changed))
        return saved

    def mark_finished(self) -> None:
        """Say in the checkpoint that nothing is left to do."""
        saved = load_checkpoint(self.checkpoint)
        save_checkpoint(self.checkpoint, replace(saved, finished=True))


def _plain(plan: Plan) -> Any:
    return json.loads(json.dumps(plan.as_dict()))


class Keeper:
    """Keeps a run while it is trained: log, checkpoint, last and best model (trainer.Recorder).

    origin: where `pull` draws to.  identity: what must not change until a restart.
    provenance: goes into the model files.
    """

    def __init__(
        self,
        folder: RunFolder,
        potential: Potential,
        origin: dict[str, torch.Tensor],
        identity: dict[str, str],
        provenance: dict[str, Any],
        saved: Checkpoint | None,
        interrupt: Interrupt,
    ) -> None:
        self.folder, self.potential, self.origin = folder, potential, origin
        self.identity, self.provenance, self.interrupt = identity, provenance, interrupt
        self.log = Log(folder.log, 0 if saved is None else saved.log_length)
        self.best = None if saved is None else saved.best
        self._models: dict[Path, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._saved_at: float | None = None

    def begin(self, loss: float) -> None:
        """A stage begins; what was best so far counts no more, for it has another loss."""
        rows = self.log.rows()
        if rows:
            self._compare(loss, rows[-1])

    def epoch(self, line: dict[str, Any], loss: float) -> None:
        """Log an epoch; keep its model as the last, and as the best if it is."""
        self.log.append(line)
        self._keep(self.folder.model, _place(line))
        self._compare(loss, line)

    def _compare(self, loss: float, line: dict[str, Any]) -> None:
        if math.isfinite(loss) and (self.best is None or loss < self.best):
            self.best = loss
            self._keep(self.folder.best, _place(line))

    def stage_ends(self, next_stage: int) -> None:
        """Save; see `begin`."""
        self.best = None
        self.save(lambda: Position(stage=next_stage, epoch=0), final=True)

    def step(self, position: Callable[[], Position]) -> None:
        if any_rank(self.interrupt.asked):
            self.write(position())
            raise KeyboardInterrupt

    def save(self, position: Callable[[], Position], final: bool = False) -> None:
        """Write what is pending when it is time; raises KeyboardInterrupt when that was asked."""
        asked = any_rank(self.interrupt.asked)
        if final or asked or self._due:
            self.write(position())
        if asked:
            raise KeyboardInterrupt

    def write(self, position: Position) -> None:
        """Models first, checkpoint last: what a checkpoint speaks of is on disk."""
        self.write_models()
        self.log.sync()
        save_checkpoint(
            self.folder.checkpoint,
            Checkpoint(
                self.identity,
                self.potential.state_dict(),
                self.origin,
                position,
                self.best,
                self.log.length,
            ),
        )
        self._saved_at = time.monotonic()

    @property
    def _due(self) -> bool:
        return self._saved_at is None or time.monotonic() - self._saved_at >= SAVE_EVERY

    def write_models(self) -> None:
        """Write the last and the best model where they are newer than their files."""
        for path, (state, place) in self._models.items():
            save_model(path, _with_state(self.potential, state), self.provenance | place)
        self._models = {}

    def close(self) -> None:
        self.log.close()

    def _keep(self, path: Path, place: dict[str, Any]) -> None:
        state = {k: v.detach().clone() for k, v in self.potential.state_dict().items()}
        self._models[path] = (state, place)


class Follower:
    """The recorder of all processes but the first: writes nothing and stops when the first does."""

    def __init__(self, origin: dict[str, torch.Tensor], interrupt: Interrupt) -> None:
        self.origin, self.interrupt = origin, interrupt

    def begin(self, loss: float) -> None:
        pass

    def epoch(self, line: dict[str, Any], loss: float) -> None:
        pass

    def step(self, position: Callable[[], Position]) -> None:
        if any_rank(self.interrupt.asked):
            raise KeyboardInterrupt

    def save(self, position: Callable[[], Position], final: bool = False) -> None:
        self.step(position)

    def stage_ends(self, next_stage: int) -> None:
        self.step(Position)

    def write_models(self) -> None:
        pass

    def close(self) -> None:
        pass


def _place(line: dict[str, Any]) -> dict[str, Any]:
    return {"stage": line["name"], "epoch": line["epoch"]}


def _with_state(potential: Potential, state: dict[str, torch.Tensor]) -> Potential:
    """A second potential of the same shape with these parameters."""
    other = type(potential)(potential.spec).cast(potential.dtype)
    other.load_state_dict(state)
    return other
