"""The loop of one stage and nothing else: it reads no file and knows no stage by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from mtp.kernels.choose import kernel_name
from stages.distributed import is_root
from stages.loss import Sums
from stages.objective import Evaluation, NotFinite, Objective, add, evaluate, worst_frame
from stages.optimisers.adam import OPTIMISERS, Average
from stages.plan import LINEAR, Stage
from stages.recorded import Recorded
from stages.run.checkpoint import Position
from stages.schedule import decay, learning_rate, with_prefactors
from stages.tasks import Draw, Sampler, TaskData, chunks, everything

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from mtp.potential import Potential

MILLI = 1e3


class Recorder(Protocol):
    """Who is told of progress (`Keeper` of stages/run/folder.py)."""

    def begin(self, loss: float) -> None:
        """A stage begins with a potential of this loss."""

    def epoch(self, line: dict[str, Any], loss: float) -> None:
        """An epoch is complete; the potential holds the parameters to be judged by."""

    def save(self, position: Callable[[], Position], final: bool = False) -> None:
        """A moment at which the run can be continued from; ``final``: end of a stage."""

    def step(self, position: Callable[[], Position]) -> None:
        """A step is complete; may save and raise KeyboardInterrupt."""


@dataclass(frozen=True)
class Setting:
    """What stays the same over all stages."""

    potential: Potential
    data: dict[str, TaskData]
    batch_size: int
    seed: int
    random: bool = False  # tasks are drawn at random at every step
    origin: Mapping[str, Tensor] = field(default_factory=dict)  # see Objective


def run_stage(
    setting: Setting, stage: Stage, index: int, start: Position, recorder: Recorder
) -> None:
    """Train the potential through one stage, from where ``start`` stands to the last epoch.

    index: position of the stage in the plan, from 0.
    Raises NotFinite, naming stage, epoch and frame, when the loss stops being a number.
    """
    run = _StageRun(setting, stage, index, start)
    bar = tqdm(
        total=stage.epochs,
        initial=max(start.epoch, 0),
        desc=stage.name,
        unit="epoch",
        disable=None if is_root() else True,
    )
    if not run.goes_on:
        recorder.begin(run.noise)
    with bar:
        for epoch in range(start.epoch + 1, stage.epochs + 1):
            with _naming(stage, epoch):
                line = run.epoch(epoch, recorder)
            bar.set_postfix_str(progress(line), refresh=False)
            bar.update(min(epoch, 1))
    run.average.adopt()


class _StageRun:
    """The moving parts of a stage: optimiser, average, sampler and where they stand."""

    def __init__(self, setting: Setting, stage: Stage, index: int, start: Position) -> None:
        self.setting, self.stage, self.index = setting, with_prefactors(stage, 1.0), index
        groups = move_only(setting.potential, stage)
        frames = {task: len(data.train) for task, data in setting.data.items()}
        self.sampler = Sampler(
            stage, frames, setting.batch_size, setting.seed, index, setting.random
        )
        self.shares = self.sampler.shares
        self.optimiser = OPTIMISERS[stage.optimizer](groups, stage)
        self.average = Average([p for group in groups.values() for p in group], stage.ema)
        self.goes_on = start.optimiser is not None
        if self.goes_on:
            self.optimiser.load_state_dict(start.optimiser)
            self.average.load_state_dict(start.average)
        self.start = start
        self.noise = start.noise if self.goes_on else self._loss_now()
        self.recorded = self._recorder()
        whole = sum(self.shares.values())
        portions = {task: share / whole for task, share in self.shares.items()}
        self.everything = self._objective(everything(setting.data, self.shares), portions)

    def epoch(self, epoch: int, recorder: Recorder) -> dict[str, Any]:
        """One epoch (0: evaluation only) and its log line."""
        resumed = self.start if self.start.epoch == epoch - 1 else Position()
        begun = time.perf_counter() - resumed.seconds
        effort: dict[str, list[float]] = {}
        if epoch == 0:
            train, lr = self._evaluate("train"), learning_rate(self.stage, 1, 0, 1)
        else:
            train, lr, effort = self._steps(epoch, resumed, begun, recorder)
        with self.average.applied():
            valid = self._evaluate("valid")
            self._check(train, valid)
            line = self._line(epoch, lr, train, valid, time.perf_counter() - begun)
            if len(self.shares) > 1 and effort:
                line["share"] = _portions(effort)
            loss = self._loss(valid if valid else train)
            self.noise = loss
            recorder.epoch(line, loss)
        recorder.save(lambda: self._position(epoch))
        return line

    def _steps(
        self, epoch: int, resumed: Position, begun: float, recorder: Recorder
    ) -> tuple[dict[str, Sums], float, dict[str, list[float]]]:
        """The steps of an epoch that are left.

        Returns the sums of all, the last rate, and task → steps and sum of gradient norms.
        """
        draws = self._draws(epoch)
        place = next(self.setting.potential.parameters()).device
        sums, lr = {task: part.to(place) for task, part in resumed.sums.items()}, 0.0
        effort = {task: list(values) for task, values in resumed.effort.items()}
        for step in range(resumed.step, len(draws)):
            lr = learning_rate(self.stage, epoch, step, len(draws))
            self.stage = with_prefactors(self.stage, decay(self.stage, epoch, step, len(draws)))
            objective, rate = self._objective_of(draws[step]), self._rate(draws[step], lr)
            evaluation: Evaluation = self.optimiser.step(objective, rate)
            self.average.update()
            for task, part in evaluation.sums.items():
                add(sums, task, part)
            for task, norm in evaluation.norms.items():
                done, total = effort.get(task, (0, 0.0))
                effort[task] = [done + 1, total + norm]  # on a GPU a tensor: not waited for
            if step + 1 < len(draws):
                here = (epoch - 1, step + 1, dict(sums), {t: list(e) for t, e in effort.items()})
                recorder.step(lambda: self._position(*here, time.perf_counter() - begun))  # noqa: B023
        return sums, lr, {task: [float(x) for x in values] for task, values in effort.items()}

    def _loss_now(self) -> float:
        """The validation loss, or the training loss where there is no validation set."""
        return self._loss(self._evaluate("valid") or self._evaluate("train"))

    def _recorder(self) -> Recorded | None:
        """Graphs of steps: where the kernel can be recorded and all pairs stay on the GPU."""
        potential, data = self.setting.potential, self.setting.data.values()
        device = next(potential.parameters()).device
        there = device.type == "cuda" and kernel_name(device) == "cuda"
        return Recorded(potential) if there and all(d.train.resident for d in data) else None

    def _draws(self, epoch: int) -> list[Draw | None]:
        """The batches of an epoch; None: all frames of all tasks."""
        return [None] if self.optimiser.full_batch else self.sampler.epoch(epoch)

    def _objective_of(self, draw: Draw | None) -> Objective:
        if draw is None:
            return replace(self.everything, stage=self.stage, noise=self.noise)
        return self._objective([draw], {draw.task: 1.0})

    def _objective(self, draws: list[Draw], portions: dict[str, float]) -> Objective:
        setting = self.setting
        return Objective(
            *(setting.potential, self.stage, setting.data, draws, portions, setting.origin),
            noise=self.noise,
            recorded=self.recorded,
        )

    def _rate(self, draw: Draw | None, lr: float) -> float:
        """The learning rate of a step: that of its task, where it has one, on the same curve."""
        own = None if draw is None else self.stage.tasks[draw.task].lr
        return lr if own is None else lr * own / self.stage.lr

    def _position(
        self,
        epoch: int,
        step: int = 0,
        sums: dict[str, Sums] | None = None,
        effort: dict[str, list[float]] | None = None,
        seconds: float = 0.0,
    ) -> Position:
        return Position(
            self.index,
            epoch,
            step,
            sums or {},
            {task: [float(x) for x in values] for task, values in (effort or {}).items()},
            seconds,
            self.optimiser.state_dict(),
            self.average.state_dict(),
            self.noise,
        )

    def _evaluate(self, which: str) -> dict[str, Sums]:
        """Task → sums over its whole training or validation set; empty sets are left out."""
        found = {}
        for task in self.shares:
            geometry = getattr(self.setting.data[task], which)
            sums = evaluate(self.setting.potential, task, geometry, self.stage.tasks[task])
            if sums is not None:
                found[task] = sums
        return found

    def _check(self, train: dict[str, Sums], valid: dict[str, Sums]) -> None:
        """Raise NotFinite when a term of the epoch is no number."""
        for which, found in (("train", train), ("valid", valid)):
            for task, sums in found.items():
                if all(map(math.isfinite, self._terms(task, sums).values())):
                    continue
                geometry = getattr(self.setting.data[task], which)
                frames = chunks(geometry.n_atoms)
                _, where = max(
                    worst_frame(self.setting.potential, task, geometry, some) for some in frames
                )
                name = {"train": "training", "valid": "validation"}[which]
                raise NotFinite(f"the {name} loss is not finite; worst frame {where}")

    def _loss(self, sums: dict[str, Sums]) -> float:
        """The loss of the stage over all tasks, the same function in all its epochs."""
        whole = sum(self.shares[task] for task in sums)
        last = with_prefactors(self.stage, 0.0)
        losses = {t: s.loss(last.tasks[t].coefficients) for t, s in sums.items()}
        return sum(self.shares[task] / whole * loss for task, loss in losses.items())

    def _line(
        self,
        epoch: int,
        lr: float,
        train: dict[str, Sums],
        valid: dict[str, Sums],
        seconds: float,
    ) -> dict[str, Any]:
        coefficients = {t: dict(self.stage.tasks[t].coefficients) for t in self.shares}
        only = next(iter(coefficients.values()))
        return {
            "stage": self.index + 1,
            "name": self.stage.name,
            "epoch": epoch,
            "lr": lr,
            "coeff": only if len(coefficients) == 1 else coefficients,
            "train": {task: self._terms(task, sums) for task, sums in train.items()},
            "valid": {task: self._terms(task, sums) for task, sums in valid.items()},
            "seconds": round(seconds, 3),
        }

    def _terms(self, task: str, sums: Sums) -> dict[str, float]:
        return sums.means() | {"loss": sums.loss(self.stage.tasks[task].coefficients)}


def move_only(potential: Potential, stage: Stage) -> dict[str, list[Parameter]]:
    """The groups a stage moves; the parameters of the others are frozen.

    Returns name → parameters, each parameter once; species shifts are the group "shifts". A network
    that nothing has trained stays silent where only the linear part of its readout moves.
    """
    active = set(stage.active())
    for name, head in potential.heads.items():
        head.silent = not moves_network(stage, name) and head.untrained
    groups: dict[str, list[Parameter]] = {}
    for parameter in potential.parameters():
        parameter.requires_grad_(False)
    moving = set(stage.trainable)
    for (head, name), parameters in potential.groups().items():
        if name == "readout" and not moves_network(stage, head):
            wanted, parameters = {LINEAR, f"{head}.{LINEAR}"}, potential.linear_part(head)
        else:
            wanted = {name, head, f"{head}.{name}"}
        if wanted & moving and (head is None or head in active):
            for parameter in parameters:
                if not parameter.requires_grad:  # a shared layer stands in several heads
                    parameter.requires_grad_(True)
                    groups.setdefault(name, []).append(parameter)
    return groups


def moves_network(stage: Stage, head: str) -> bool:
    """Whether a stage trains the hidden layers of a head."""
    wanted = {"readout", head, f"{head}.readout"}
    return head in stage.active() and bool(wanted & set(stage.trainable))


def _portions(effort: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Task → its share of the steps and of the sum of gradient norms."""
    steps = sum(done for done, _ in effort.values())
    norms = sum(norm for _, norm in effort.values()) or 1.0
    return {
        task: {"steps": done / steps, "gradient": norm / norms}
        for task, (done, norm) in effort.items()
    }


@contextmanager
def _naming(stage: Stage, epoch: int) -> Iterator[None]:
    """Say in which stage and epoch a loss stopped being a number."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(
            f"{stage.name}, epoch {epoch}: {error}; the checkpoint and best model before it are "
            "kept. Try a smaller learning rate, or look at this frame"
        ) from error


def progress(line: dict[str, Any]) -> str:
    """Mean absolute errors of the first task for the progress bar."""
    terms = next(iter((line["valid"] or line["train"]).values()))
    units = {"energy_l1": "meV/atom", "forces_l1": "meV/Å"}
    return ", ".join(f"{MILLI * terms[k]:.3g} {unit}" for k, unit in units.items() if k in terms)
