"""The kernel for CUDA, behind CPU tensors, through the same checks as the others."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map_only

from mtp.geometry import Pairs
from tests.kernels.test_kernels import check_against_autograd
from tests.systems import SPECS, SYSTEMS, case


class OnDevice:
    """A kernel whose arguments go to the GPU and whose results come back."""

    def __init__(self, *arguments) -> None:
        module = pytest.importorskip("mtp.kernels.cuda", reason="there is no kernel for CUDA yet")
        self._kernel = module.CudaKernel(*arguments)

    def __getattr__(self, name: str):
        def call(*arguments):
            there = [self._there(x) for x in arguments]
            result = getattr(self._kernel, name)(*there)
            return tree_map_only(torch.Tensor, lambda x: x.cpu(), result)

        return call

    @staticmethod
    def _there(x):
        if isinstance(x, Pairs):
            return Pairs(*(array.cuda() for array in vars(x).values()))
        return x.cuda()


@pytest.mark.cuda
@pytest.mark.parametrize("spec", SPECS)
def test_every_table(spec: str) -> None:
    at = case(SYSTEMS["left-handed"], SPECS[spec], dtype=torch.float32)
    check_against_autograd(OnDevice, at, 5e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(system: str) -> None:
    at = case(SYSTEMS[system], dtype=torch.float32)
    check_against_autograd(OnDevice, at, 5e-5)
