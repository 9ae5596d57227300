"""The CUDA kernel behind CPU tensors: on a GPU, or without one through Triton's interpreter."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch.utils._pytree import tree_map_only

from mtp.geometry import Pairs

ON_GPU = torch.cuda.is_available()
HAS_TRITON = find_spec("triton") is not None
HOW = "on the GPU" if ON_GPU else "through Triton's interpreter"

if not ON_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported


class OnDevice:
    """A CudaKernel whose arguments go to the GPU, where there is one, and whose results return."""

    name = "cuda"
    reads_out = False

    def __init__(self, *arguments) -> None:
        if not ON_GPU:
            _patch_once_per_pass()
        from mtp.kernels.cuda import CudaKernel

        self._kernel = CudaKernel(*arguments)

    def __getattr__(self, name: str):
        def call(*arguments, **more):
            there = [_there(x) for x in arguments]
            result = getattr(self._kernel, name)(*there, **{k: _there(x) for k, x in more.items()})
            return tree_map_only(torch.Tensor, lambda x: x.cpu(), result)

        return call


def _there(x):
    if not ON_GPU:
        return x
    if isinstance(x, Pairs):
        arrays = {k: v.cuda() for k, v in vars(x).items() if v is not None}
        return replace(x, **arrays)
    return x.cuda()


def _patch_once_per_pass() -> None:
    """The interpreter replaces Triton's language at every call of a function; once is enough."""
    from triton.runtime.interpreter import InterpretedFunction

    original = InterpretedFunction.__call__
    if original.__module__ != InterpretedFunction.__module__:
        return

    def call(self, *arguments, **more):
        if self.fn.__module__.startswith("mtp."):
            return self.rewrite()(*arguments, **more)
        return original(self, *arguments, **more)

    InterpretedFunction.__call__ = call
