"""The loss of some batches as a function of the potential's parameters, with its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtp.heads import add_to_gradient
from mtp.terms import TERMS
from stages.distributed import all_sum, mine, sum_gradients
from stages.loss import Errors, Sums, cotangents, label_counts, weighted_loss
from stages.optimisers.curvature import Preconditioner, flat_gradient
from stages.optimisers.division import Division, divide
from stages.plan import Stage, TaskStage
from stages.recorded import Recorded
from stages.tasks import Draw, TaskData, chunks

if TYPE_CHECKING:
    from torch.nn import Parameter

    from mtp.geometry import Batch, Geometry
    from mtp.potential import Potential


class NotFinite(FloatingPointError):
    """The loss or its gradient is not a finite number; the message names the frame."""


@dataclass(frozen=True)
class Evaluation:
    """The loss where the parameters stand.

    sums: what it comes from, task → Sums.  norms: task → norm of its part of the gradient, where
    there are several tasks and a gradient was asked for. On a GPU, which is not waited for, both
    are tensors of one number.
    """

    value: float | Tensor
    sums: dict[str, Sums]
    norms: dict[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """Σ over tasks of share · loss of the drawn training frames.

    Minibatches hold one draw with share 1; full-batch stages hold every frame of every task.
    origin: name of a parameter → where the stage's ``pull`` draws it to: a loaded model, the first
    parameters or those with which a network joined in. Added to the loss is
    pull · noise / n · Σ (θ − origin)² over what moves, n the number of labels: a normal prior of
    variance 1 / pull beside data of variance ``noise``, the validation loss of the last epoch. It
    counts less the more data there are and the better they are described, more when a potential
    overfits.
    recorded: does batches on a GPU as graphs.
    """

    potential: Potential
    stage: Stage
    data: dict[str, TaskData]
    draws: list[Draw]
    shares: dict[str, float]
    origin: Mapping[str, Tensor] = field(default_factory=dict)
    noise: float = 1.0
    recorded: Recorded | None = None

    def batches(self, most: float = math.inf) -> Iterator[tuple[Draw, Batch]]:
        """Every draw, of its frames those of this process.

        most: atoms, where a draw may be taken in parts.
        """
        for draw in self.draws:
            train = self.data[draw.task].train
            for part in chunks(train.n_atoms[draw.indices], most):
                yield draw, train.batch(mine(draw.indices[part], train.costs))

    def normaliser(self, task: str, batch: Batch) -> Tensor:
        """(terms,) what the sums of a task's residuals over all draws are divided by."""
        data = self.data[task]
        if len(self.draws) > 1:
            return data.normaliser(data.counts_on(batch.volume.device))
        (counts,) = all_sum([label_counts(batch, data.terms)])
        return data.normaliser(counts)

    def gradient(self) -> Evaluation:
        """Evaluate the loss; afterwards every parameter's ``.grad`` holds its gradient."""
        self.potential.zero_grad(set_to_none=True)
        return self.value(with_gradient=True)

    def value(self, with_gradient: bool = False) -> Evaluation:
        """Evaluate the loss, and on request add its gradient to every parameter's ``.grad``."""
        device = next(self.potential.parameters()).device
        value = torch.zeros((), dtype=torch.float64, device=device)
        sums, norms = {}, _Norms(self)
        for draw, batch in self.batches():
            coefficients = self.stage.tasks[draw.task].coefficients
            given = (batch, self.normaliser(draw.task, batch), coefficients)
            work = partial(self._part, draw.task, with_gradient)
            if self.recorded is not None and with_gradient:
                loss, part = self.recorded(draw.task, *given, work)
            else:
                loss, part = work(*given)
            value += loss
            add(sums, draw.task, part)
            if with_gradient:
                norms.add(draw.task)
        sums = {task: total(part) for task, part in sums.items()}
        (value,) = all_sum([value])
        if with_gradient:
            sum_gradients(self.potential.parameters())
        return Evaluation(number(value + self._pull(with_gradient)), sums, norms.found())

    def _part(
        self,
        task: str,
        with_gradient: bool,
        batch: Batch,
        normaliser: Tensor,
        coefficients: Mapping[str, float | Tensor],
    ) -> tuple[Tensor, Sums]:
        """The part of one batch in the loss, its sums and, added to ``.grad``, its gradient."""
        plan = replace(self.stage.tasks[task], coefficients=coefficients)
        errors = Errors.of(self.potential.predict(batch, task), batch)
        share, sums = self.shares[task], Sums.of(errors, plan)
        if with_gradient:
            slopes = cotangents(errors, plan, normaliser)
            slopes = {term: share * slope for term, slope in slopes.items()}
            self.potential.backward(batch, task, slopes)
        return share * weighted_loss(sums, normaliser, coefficients), sums

    def pulled(self) -> Iterator[tuple[Parameter, Tensor]]:
        """The parameters that are drawn to their origin, with it."""
        for name, parameter in self.potential.named_parameters():
            if self.stage.pull and parameter.requires_grad and name in self.origin:
                yield parameter, self.origin[name]

    @property
    def pull(self) -> float:
        """Weight of Σ (θ − origin)² in the loss, a mean over the labels of the active tasks."""
        labels = sum(float(self.data[task].counts.sum()) for task in self.shares)
        return self.stage.pull * self.noise / max(1.0, labels)

    def _pull(self, with_gradient: bool) -> Tensor | float:
        value = 0.0
        for parameter, origin in self.pulled():
            away = parameter.detach() - origin
            value = value + self.pull * away.double().square().sum()
            if with_gradient:
                add_to_gradient(parameter, 2 * self.pull * away)
        return value

    def division(self, parameters: list[Parameter]) -> Division:
        """Which numbers a full-batch optimiser searches, and which it solves for."""
        return divide(self, parameters)

    def preconditioner(self, division: Division, seed: int, damping: float) -> Preconditioner:
        """An approximate inverse of the second derivatives by what is searched, of a full batch."""
        return Preconditioner.of(self, division, seed, damping)

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


class _Norms:
    """Norms of the parts of a gradient that single tasks add, where there are several tasks."""

    def __init__(self, objective: Objective) -> None:
        several = len(objective.stage.active()) > 1
        self.parameters = [p for p in objective.potential.parameters() if several]
        self.parts: dict[str, Tensor] = {}
        self.before: Tensor | float = 0.0

    def add(self, task: str) -> None:
        """What was added to .grad since the last call belongs to the task."""
        if self.parameters:
            now = flat_gradient(self.parameters)
            self.parts[task] = self.parts.get(task, 0.0) + (now - self.before)
            self.before = now

    def found(self) -> dict[str, float | Tensor]:
        parts = all_sum(list(self.parts.values())) if self.parts else []
        return {task: number(part.norm()) for task, part in zip(self.parts, parts, strict=True)}


def number(value: Tensor) -> float | Tensor:
    """The number, where the host need not wait for it."""
    return value if value.is_cuda else float(value)


def add(sums: dict[str, Sums], task: str, part: Sums) -> None:
    """Join ``part`` to what ``sums`` holds for the task."""
    sums[task] = sums[task] + part if task in sums else part


def total(sums: Sums) -> Sums:
    """The sums over all processes."""
    kinds = list(sums.residuals)
    *residuals, minimised, weights = all_sum(
        [*sums.residuals.values(), sums.minimised, sums.weights]
    )
    return Sums(dict(zip(kinds, residuals, strict=True)), minimised, weights, sums.terms)


def evaluate(potential: Potential, head: str, geometry: Geometry, task: TaskStage) -> Sums | None:
    """Sums over all frames of a set, None where it is empty."""
    sums = None
    for indices in chunks(geometry.n_atoms):
        batch = geometry.batch(mine(indices, geometry.costs))
        part = Sums.of(Errors.of(potential.predict(batch, head), batch), task)
        sums = part if sums is None else sums + part
    return None if sums is None else total(sums)


def worst_frame(
    potential: Potential, head: str, geometry: Geometry, indices: np.ndarray
) -> tuple[float, str]:
    """Squared errors of the worst of some frames, infinite if they are no number, and its name."""
    batch = geometry.batch(indices)
    errors = Errors.of(potential.predict(batch, head), batch)
    size = torch.zeros_like(errors.atoms)
    for term, values in errors.values.items():
        squares = values.square().sum(1)
        per_atom = TERMS[term].rows == "atom"
        size = size.index_add(0, batch.structure, squares) if per_atom else size + squares
    size = torch.nan_to_num(size, nan=math.inf, posinf=math.inf)
    worst = int(size.argmax())
    return float(size[worst]), geometry.structures[indices[worst]].where
