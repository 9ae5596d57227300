"""A CUDA graph without a GPU: operations noted once and done again on the same memory.

Like a graph it knows addresses only: an array that was made anew since, or a number that the host
put in, is seen as it was when it was recorded. Like a graph it refuses to let the host read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Notes operations; `launch` runs and notes a pass in Triton."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Callable[[], None]] = []
        c = torch._C
        self.outside = c._dispatch_tls_local_include_set(), c._dispatch_tls_local_exclude_set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        assert "_local_scalar_dense" not in str(function), "the host reads a number"
        if function.namespace == "mtp":  # written in torch itself, with derivatives
            with torch.no_grad(), torch._C._ForceDispatchKeyGuard(*self.outside):
                result = function(*arguments, **keywords)
        else:
            result = function(*arguments, **keywords)
        if "aten.empty" not in str(function):  # which puts nothing there
            self.entries.append(lambda: _again(function, arguments, keywords, result))
        return result


def _again(function: Any, arguments: tuple, keywords: dict, result: Any) -> None:
    """Do an operation again and put what comes out where it was."""
    given = {_place(x) for x in _tensors((arguments, keywords))}
    new = function(*arguments, **keywords)
    for old, value in zip(_tensors(result), _tensors(new), strict=True):
        if _place(old) not in given:  # else a view, or changed in place
            old.copy_(value)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class TapedGraph:
    """In place of mtp.kernels.gpu.graph.Graph."""

    recording: Tape | None = None
    made = 0

    def __init__(self, pool: Any = None) -> None:
        self.tape = Tape()

    def record(self, function, state=(), generator=None) -> Any:
        before = [value.clone() for value in state]
        random = None if generator is None else generator.get_state()
        function()
        TapedGraph.recording, TapedGraph.made = self.tape, TapedGraph.made + 1
        with self.tape:
            result = function()
        TapedGraph.recording = None
        for value, old in zip(state, before, strict=True):
            value.copy_(old)
        if generator is not None:
            generator.set_state(random)
        for value in _tensors([vars(x) if hasattr(x, "__dict__") else x for x in result or ()]):
            value.fill_(torch.nan)  # there is nothing before a replay
        return result

    def replay(self) -> None:
        for entry in self.tape.entries:
            with torch.no_grad():
                entry()


def noting(launch: Callable) -> Callable:
    """A `launch` that the graph being recorded knows of."""

    def run(*arguments, **constants) -> None:
        launch(*arguments, **constants)
        if TapedGraph.recording is not None:
            TapedGraph.recording.entries.append(lambda: launch(*arguments, **constants))

    return run
