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

from stages.loss import Sums

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.potential import Potential

Work = Callable[["Batch", Mapping[str, Tensor]], tuple[Tensor, Sums]]
"""Batch and coefficients → loss and sums; leaves the gradient in every parameter's ``.grad``."""

SEEN = 3  # times before a shape is recorded
MOST = 32  # graphs of a stage
RESIDENT = ("neighbour", "displacement", "incoming")  # arrays of pairs that are never copied


class Graph:
    """One recorded call of a function without arguments."""

    def __init__(self, pool: Any) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    def record(self, function: Callable[[], Any]) -> Any:
        """Warm up, which compiles what is to be compiled, and record."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, pool=self._pool):
            return function()

    def replay(self) -> None:
        """Do it again, on the memory of the record."""
        self._graph.replay()


class Recorded:
    """The steps of one stage, recorded where their shape comes again."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._seen: Counter = Counter()
        self._steps: dict[tuple, _Step] = {}
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    def __call__(
        self, task: str, batch: Batch, coefficients: Mapping[str, float], work: Work
    ) -> tuple[Tensor, Sums]:
        """What ``work`` returns, and the gradient in ``.grad``; both last until the next call."""
        device = batch.volume.device
        given = {
            t: torch.full((), c, dtype=torch.float64, device=device)
            for t, c in coefficients.items()
        }
        key = (task, tuple(given), *_shapes(batch))
        self._seen[key] += 1
        if key not in self._steps:
            if self._seen[key] < SEEN or len(self._steps) == MOST:
                self.potential.zero_grad(set_to_none=True)
                return work(batch, given)
            self._steps[key] = _Step(self.potential, Graph(self._pool), batch, given, work)
        return self._steps[key](batch, given)


class _Step:
    """A graph with the arrays that it reads and writes."""

    def __init__(
        self, potential: Potential, graph: Graph, batch: Batch, given: dict[str, Tensor], work: Work
    ) -> None:
        self.graph, self.parameters = graph, list(potential.parameters())
        self.batch = _mapped(batch, Tensor.clone)
        self.given = {term: value.clone() for term, value in given.items()}

        def once() -> tuple[Tensor, Sums]:
            potential.zero_grad(set_to_none=True)
            return work(self.batch, self.given)

        self.loss, self.sums = graph.record(once)
        self.gradients = [parameter.grad for parameter in self.parameters]

    def __call__(self, batch: Batch, given: dict[str, Tensor]) -> tuple[Tensor, Sums]:
        for own, new in zip(_tensors(self.batch), _tensors(batch), strict=True):
            own.copy_(new)
        for term, value in given.items():
            self.given[term].copy_(value)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.clone(), _mapped(self.sums, Tensor.clone)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of dataclasses and dictionaries with the function applied to their tensors."""
    if isinstance(value, Tensor):
        return function(value)
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
