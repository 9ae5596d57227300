"""The loss of some batches as a function of the potential's parameters, with its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.loss import Errors, Sums, cotangents, label_counts, weighted_loss
from stages.plan import Stage, TaskStage
from stages.tasks import Draw, TaskData, chunks

if TYPE_CHECKING:
    from mtp.geometry import Batch, Geometry
    from mtp.potential import Potential


class NotFinite(FloatingPointError):
    """The loss or its gradient is not a finite number; the message names the frame."""


@dataclass(frozen=True)
class Evaluation:
    """The loss where the parameters stand, and the sums it comes from, task → Sums."""

    value: float
    sums: dict[str, Sums]


@dataclass(frozen=True)
class Objective:
    """Σ over tasks of share · loss of the drawn training frames.

    Minibatches hold one draw with share 1; full-batch stages hold every frame of every task.
    """

    potential: Potential
    stage: Stage
    data: dict[str, TaskData]
    draws: list[Draw]
    shares: dict[str, float]

    def batches(self) -> Iterator[tuple[Draw, Batch]]:
        for draw in self.draws:
            yield draw, self.data[draw.task].train.batch(draw.indices)

    def normalisers(self) -> dict[str, Tensor]:
        """Task → (3,) what the sums of residuals over all draws are divided by."""
        counts = dict.fromkeys(self.shares, torch.zeros(3).double())
        if len(self.draws) == 1:
            draw, batch = next(self.batches())
            counts[draw.task] = label_counts(batch).cpu()
        else:
            counts = {task: self.data[task].counts for task in self.shares}
        return {task: self.data[task].normaliser(count) for task, count in counts.items()}

    def gradient(self) -> Evaluation:
        """Evaluate the loss; afterwards every parameter's ``.grad`` holds its gradient."""
        self.potential.zero_grad(set_to_none=True)
        return self.value(with_gradient=True)

    def value(self, with_gradient: bool = False) -> Evaluation:
        """Evaluate the loss, and on request add its gradient to every parameter's ``.grad``."""
        normalisers = self.normalisers()
        value, sums = 0.0, {}
        for draw, batch in self.batches():
            task = self.stage.tasks[draw.task]
            errors = Errors.of(self.potential.predict(batch, draw.task), batch)
            normaliser = normalisers[draw.task].to(errors.energy.device)
            share = self.shares[draw.task]
            part = Sums.of(errors, task)
            value += share * float(weighted_loss(part.minimised, normaliser, task.coefficients))
            add(sums, draw.task, part)
            if with_gradient:
                slopes = [share * slope for slope in cotangents(errors, task, normaliser)]
                self.potential.backward(batch, draw.task, *slopes)
        return Evaluation(value, sums)

    def not_finite(self) -> NotFinite:
        """The error for a loss that is not finite, naming the worst frame of the draws."""
        for draw, batch in self.batches():
            errors = Errors.of(self.potential.predict(batch, draw.task), batch)
            bad = not_finite_frames(errors, batch)
            if bad.any():
                frame = int(torch.nonzero(bad)[0])
                where = self.data[draw.task].where["train"][draw.indices[frame]]
                return NotFinite(f"the loss is not finite at frame {where}")
        draw, batch = next(self.batches())
        where = self.data[draw.task].where["train"][draw.indices[worst_frame(errors, batch)]]
        return NotFinite(f"the gradient of the loss is not finite; worst frame {where}")


def add(sums: dict[str, Sums], task: str, part: Sums) -> None:
    """Join ``part`` to what ``sums`` holds for the task."""
    sums[task] = sums[task] + part if task in sums else part


def evaluate(
    potential: Potential, head: str, geometry: Geometry, task: TaskStage, chunk: int
) -> Sums | None:
    """Sums over all frames of a set, None where it is empty."""
    total = None
    for indices in chunks(len(geometry), chunk):
        batch = geometry.batch(indices)
        part = Sums.of(Errors.of(potential.predict(batch, head), batch), task)
        total = part if total is None else total + part
    return total


def frame_size(errors: Errors, batch: Batch) -> Tensor:
    """(S,) Σ |error| of each frame over all its labels; NaN or infinite where one is."""
    size = errors.energy.abs() + errors.stress.abs().sum(1)
    return size.index_add(0, batch.structure, errors.forces.abs().sum(1))


def not_finite_frames(errors: Errors, batch: Batch) -> Tensor:
    """(S,) frames with an error that is not finite (or whose square is not)."""
    return ~torch.isfinite(frame_size(errors, batch).square())


def worst_frame(errors: Errors, batch: Batch) -> int:
    """Position in the batch of the frame with the largest error."""
    return int(frame_size(errors, batch).argmax())
