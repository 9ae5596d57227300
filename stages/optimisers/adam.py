"""Optimisers behind one signature: Adam, L-BFGS and the exact least-squares solve.

An optimiser has ``full_batch`` (does a step see all frames or one minibatch), ``step(objective,
lr)``, which moves the parameters and returns the loss and sums to log, and ``state_dict`` and
``load_state_dict``, which together with the parameters continue it bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from stages.objective import Evaluation, Objective
from stages.optimisers.lbfgs import LBFGS
from stages.optimisers.least_squares import LeastSquares
from stages.plan import Stage


class Optimiser(Protocol):
    """What the trainer needs of an optimiser."""

    full_batch: bool

    def step(self, objective: Objective, lr: float) -> Evaluation: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Adam:
    """Adam with decoupled weight decay, never of the species shifts, and gradient clipping."""

    full_batch = False

    def __init__(self, groups: dict[str, list[Parameter]], stage: Stage) -> None:
        decay = {name: 0.0 if name == "shifts" else stage.weight_decay for name in groups}
        self.parameters = [p for group in groups.values() for p in group]
        self.clip = stage.gradient_clip
        self.adam = torch.optim.AdamW(
            [{"params": group, "weight_decay": decay[name]} for name, group in groups.items()],
            lr=stage.lr,
        )

    def step(self, objective: Objective, lr: float) -> Evaluation:
        """One update; the loss returned is the one before it."""
        evaluation = objective.gradient()
        # Without clipping the norm is still needed: it is the cheapest check of the gradient.
        limit = float("inf") if self.clip is None else self.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        # A GPU would have to be waited for; the trainer looks at the sums of the epoch anyway.
        if not norm.is_cuda and not torch.isfinite(norm + evaluation.value):
            raise objective.not_finite()
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state)


OPTIMISERS = {
    "adam": Adam,
    "lbfgs": LBFGS,
    "lstsq": LeastSquares,
}


class Average:
    """Exponential moving average of the parameters; without a decay, the parameters themselves."""

    def __init__(self, parameters: list[Parameter], decay: float | None) -> None:
        self.parameters = parameters if decay is not None else []
        self.decay = decay
        self.values = [p.detach().clone() for p in self.parameters]

    def update(self) -> None:
        """Move the average by one step."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.detach(), 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the parameters are the averaged ones."""
        raw = [p.detach().clone() for p in self.parameters]
        self.adopt()
        try:
            yield
        finally:
            _copy(raw, self.parameters)

    def adopt(self) -> None:
        """Make the averaged values the parameters."""
        _copy(self.values, self.parameters)

    def state_dict(self) -> list[Tensor]:
        return [value.clone() for value in self.values]

    def load_state_dict(self, values: list[Tensor]) -> None:
        for mine, saved in zip(self.values, values, strict=True):
            mine.copy_(saved)


@torch.no_grad()
def _copy(values: list[Tensor], parameters: list[Parameter]) -> None:
    for value, parameter in zip(values, parameters, strict=True):
        parameter.copy_(value)
