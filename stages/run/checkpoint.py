"""The checkpoint of a run: everything from which it goes on bit by bit, in one file."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from stages.loss import Sums

FORMAT = 6


@dataclass
class Position:
    """Where a run stands.

    stage: index into the plan's stages; their number when all are done.  epoch: the last complete
    epoch of it; −1 before the evaluation that precedes the first step.  step: steps done of the
    epoch after that, with ``sums``, their loss sums (task → Sums), ``effort``, task → steps and sum
    of gradient norms, and ``seconds``, their time.
    optimiser, average: states of the stage's optimiser and moving average; None at its start.
    noise: see Objective.
    """

    stage: int = 0
    epoch: int = -1
    step: int = 0
    sums: dict[str, Sums] = field(default_factory=dict)
    effort: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    optimiser: dict[str, Any] | None = None
    average: list[torch.Tensor] | None = None
    noise: float = 1.0


@dataclass
class Checkpoint:
    """One saved state.

    identity: what must not change between start and restart, name → fingerprint.
    origin: see Objective.
    best: lowest validation loss of the stage, None before its first epoch.
    log_length: bytes of log.jsonl at this point.
    """

    identity: dict[str, str]
    model: dict[str, Any]
    origin: dict[str, torch.Tensor]
    position: Position
    best: float | None
    log_length: int
    finished: bool = False


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: whenever the process dies, the old or the new one is there, whole."""
    position = vars(checkpoint.position)
    sums = {task: vars(one) for task, one in checkpoint.position.sums.items()}
    content = vars(checkpoint) | {"format": FORMAT, "position": position | {"sums": sums}}
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint, None where there is none. Loading runs no code from the file.

    Raises InvalidInput when the file is not a checkpoint of this program.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("format")
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path}: not a checkpoint ({error}); remove it to start the run again"
        ) from error
    if version != FORMAT:
        raise InvalidInput(
            f"{path}: checkpoint format {version}, this version of the program reads {FORMAT}; "
            "continue with the version that wrote it"
        )
    position = content.pop("position")
    sums = {task: Sums(**one) for task, one in position.pop("sums").items()}
    return Checkpoint(position=Position(**position, sums=sums), **content)
