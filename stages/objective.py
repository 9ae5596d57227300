"""The loss of some batches as a function of the potential's parameters, with its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.loss import Errors, Sums, cotangents, weighted_loss
from stages.optimisers.curvature import Preconditioner
from stages.plan import Stage, TaskStage
from stages.tasks import Draw, TaskData, chunks

if TYPE_CHECKING:
    from torch.nn import Parameter

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

    def normaliser(self, task: str, errors: Errors) -> Tensor:
        """(3,) what the sums of a task's residuals over all draws are divided by."""
        data = self.data[task]
        return data.normaliser(errors.counts if len(self.draws) == 1 else data.counts)

    def gradient(self) -> Evaluation:
        """Evaluate the loss; afterwards every parameter's ``.grad`` holds its gradient."""
        self.potential.zero_grad(set_to_none=True)
        return self.value(with_gradient=True)

    def value(self, with_gradient: bool = False) -> Evaluation:
        """Evaluate the loss, and on request add its gradient to every parameter's ``.grad``."""
        value, sums = 0.0, {}
        for draw, batch in self.batches():
            task = self.stage.tasks[draw.task]
            errors = Errors.of(self.potential.predict(batch, draw.task), batch)
            normaliser = self.normaliser(draw.task, errors).to(errors.energy.device)
            share = self.shares[draw.task]
            part = Sums.of(errors, task)
            value += share * float(weighted_loss(part.minimised, normaliser, task.coefficients))
            add(sums, draw.task, part)
            if with_gradient:
                slopes = [share * slope for slope in cotangents(errors, task, normaliser)]
                self.potential.backward(batch, draw.task, *slopes)
        return Evaluation(value, sums)

    def preconditioner(
        self, parameters: list[Parameter], seed: int, damping: float
    ) -> Preconditioner:
        """An approximate inverse of the second derivatives by ``parameters``, of a full batch."""
        return Preconditioner.of(self, parameters, seed, damping)

    def not_finite(self) -> NotFinite:
        """The error for a loss that is not finite, naming the worst frame of the draws."""
        size, where = max(self._worst_frames())
        what = "loss" if math.isinf(size) else "gradient of the loss"
        return NotFinite(f"the {what} is not finite; worst frame {where}")

    def _worst_frames(self) -> Iterator[tuple[float, str]]:
        """Size of the largest error and the frame it is in, for each draw."""
        for draw in self.draws:
            data = self.data[draw.task]
            yield worst_frame(self.potential, draw.task, data.train, draw.indices)


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


def worst_frame(
    potential: Potential, head: str, geometry: Geometry, indices: np.ndarray
) -> tuple[float, str]:
    """Squared errors of the worst of some frames, infinite if they are no number, and its name."""
    batch = geometry.batch(indices)
    errors = Errors.of(potential.predict(batch, head), batch)
    size = errors.energy.square() + errors.stress.square().sum(1)
    size = size.index_add(0, batch.structure, errors.forces.square().sum(1))
    size = torch.nan_to_num(size, nan=math.inf, posinf=math.inf)
    worst = int(size.argmax())
    return float(size[worst]), geometry.structures[indices[worst]].where
