"""A recorded call: a CUDA graph, which repeats the same operations on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor


class Graph:
    """A function without arguments, recorded once; the host no longer says each operation.

    pool: memory shared with other graphs (`torch.cuda.graph_pool_handle`), None for one's own.
    """

    def __init__(self, pool: Any = None) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    def record(
        self,
        function: Callable[[], Any],
        state: Sequence[Tensor] = (),
        generator: Generator | None = None,
    ) -> Any:
        """Warm up, which compiles what is to be compiled, and record.

        state, generator: what the function changes and has drawn from; they are as before
        afterwards. What the function returns, and what it leaves in other places, is the record's
        memory: numbers stand there after `replay` only.
        """
        before = [value.clone() for value in state]
        random = None if generator is None else generator.get_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)
        for value, old in zip(state, before, strict=True):
            value.copy_(old)
        if generator is not None:
            generator.set_state(random)
            self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph, pool=self._pool):
            return function()

    def replay(self) -> None:
        """Do it again, on the memory of the record."""
        self._graph.replay()
