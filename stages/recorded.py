"""Steps as CUDA graphs: the GPU repeats a recorded step without the host saying each operation.

A graph repeats the same operations on the same memory, so batches of one task and shape share one:
their small arrays are copied into those that were recorded, while the pairs of the data set, which
stay on the GPU, are read where they are. A shape is recorded when it comes for the third time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtp.heads import add_to_gradient
from mtp.kernels.gpu.graph import Graph
from stages.loss import Sums

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.potential import Potential

Work = Callable[["Batch", Tensor, Mapping[str, "float | Tensor"]], tuple[Tensor, Sums]]
"""Batch, normaliser and coefficients → loss and sums; adds the gradient to ``.grad``."""

SEEN = 3  # times before a shape is recorded
MOST = 32  # graphs of a stage
RESIDENT = ("neighbour", "displacement", "incoming")  # arrays of pairs that are never copied


class Recorded:
    """The steps of one stage, recorded where their shape comes again."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._seen: Counter = Counter()
        self._steps: dict[tuple, _Step] = {}
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    def __call__(
        self,
        task: str,
        batch: Batch,
        normaliser: Tensor,
        coefficients: Mapping[str, float],
        work: Work,
    ) -> tuple[Tensor, Sums]:
        """What ``work`` returns; the gradient is added to ``.grad``."""
        key = (task, tuple(coefficients), *_shapes(batch))
        self._seen[key] += 1
        if key not in self._steps:
            if self._seen[key] < SEEN or len(self._steps) == MOST:
                return work(batch, normaliser, coefficients)
            given = _mapped((batch, normaliser), Tensor.clone)
            self._steps[key] = _Step(self.potential, Graph(self._pool), *given, coefficients, work)
        return self._steps[key](batch, normaliser, coefficients)


class _Step:
    """A graph with the arrays that it reads and writes."""

    def __init__(
        self,
        potential: Potential,
        graph: Graph,
        batch: Batch,
        normaliser: Tensor,
        coefficients: Mapping[str, float],
        work: Work,
    ) -> None:
        self.graph, self.parameters = graph, list(potential.parameters())
        self.batch, self.normaliser = batch, normaliser
        self.coefficients = {term: torch.zeros_like(normaliser[0]) for term in coefficients}

        def once() -> tuple[Tensor, Sums]:
            potential.zero_grad(set_to_none=True)
            return work(self.batch, self.normaliser, self.coefficients)

        before = [parameter.grad for parameter in self.parameters]
        self.loss, self.sums = graph.record(once)
        self.gradients = [parameter.grad for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, before, strict=True):
            parameter.grad = gradient

    def __call__(
        self, batch: Batch, normaliser: Tensor, coefficients: Mapping[str, float]
    ) -> tuple[Tensor, Sums]:
        mine, theirs = (self.batch, self.normaliser), (batch, normaliser)
        for own, new in zip(_tensors(mine), _tensors(theirs), strict=True):
            own.copy_(new)
        for term, value in coefficients.items():
            self.coefficients[term].fill_(value)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is not None:
                add_to_gradient(parameter, gradient)
        return self.loss.clone(), _mapped(self.sums, Tensor.clone)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of dataclasses and dictionaries with the function applied to their tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_mapped(one, function) for one in value)
    if isinstance(value, dict):
        return {key: _mapped(one, function) for key, one in value.items()}
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in RESIDENT}
        return replace(value, **{k: _mapped(v, function) for k, v in parts.items()})
    return value


def _tensors(value: Any) -> list[Tensor]:
    """The tensors that `_mapped` copies, in order."""
    found: list[Tensor] = []
    _mapped(value, lambda x: (found.append(x), x)[1])
    return found


def _shapes(batch: Batch) -> tuple:
    """What two batches must share to be done by one graph."""
    pairs = batch.pairs
    resident = [getattr(pairs, name) for name in RESIDENT]
    places = tuple(None if x is None else x.data_ptr() for x in resident)
    return (*places, *(tuple(x.shape) for x in _tensors(batch)))
