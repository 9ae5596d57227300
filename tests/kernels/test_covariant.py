"""Outputs that turn with the structure: rows of the moment table that are vectors and tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mtp.basis.moment_table import MomentTable
from mtp.kernels.choose import register_basis
from mtp.kernels.cpu import CpuKernel
from mtp.kernels.operator import invariants
from mtp.kernels.reference import ReferenceKernel
from tests.kernels.on_device import OnDevice
from tests.systems import SYSTEMS, Case, case, random_rotation

XX_YY_ZZ_YZ_XZ_XY = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


def table() -> MomentTable:
    """M_{1,0}; outputs: vectors M_{0,1}, M_{1,0} M_{0,1}, tensors M_{0,2}, M_{0,1} M_{0,1}."""
    powers = np.eye(3, dtype=int)
    basic = [[1, 0, 0, 0], *([0, *p] for p in powers)]
    basic += [[0, *(powers[i] + powers[j])] for i, j in XX_YY_ZZ_YZ_XZ_XY]
    products = [[0, 1 + k, 1, 10 + k] for k in range(3)]
    products += [[1 + i, 1 + j, 1, 13 + k] for k, (i, j) in enumerate(XX_YY_ZZ_YZ_XZ_XY)]
    outputs = [1, 2, 3, 10, 11, 12, *range(4, 10), *range(13, 19)]
    return MomentTable(
        np.array(basic, np.int64), np.array(products, np.int64), np.array(outputs, np.int64), 19
    )


def turned(rows: Tensor, q: Tensor) -> Tensor:
    """Rows of two vectors and two tensors of rank 2, turned by q."""
    vectors = rows[:, :6].reshape(-1, 2, 3) @ q.T
    places = torch.tensor(XX_YY_ZZ_YZ_XZ_XY)
    full = rows.new_zeros(len(rows), 2, 3, 3)
    for given, (i, j) in zip(rows[:, 6:].reshape(-1, 2, 6).unbind(2), places.tolist(), strict=True):
        full[:, :, i, j] = full[:, :, j, i] = given
    tensors = (q @ full @ q.T)[:, :, places[:, 0], places[:, 1]]
    return torch.cat([vectors.flatten(1), tensors.flatten(1)], 1)


def of(name: str) -> Case:
    return replace(case(SYSTEMS[name]), table=table())


@pytest.fixture(params=[CpuKernel, ReferenceKernel, OnDevice], ids=["cpu", "reference", "cuda"])
def kernel(request):
    """The class of each kernel."""
    return request.param


@pytest.mark.parametrize("name", ["molecule", "two species"])
@pytest.mark.parametrize("determinant", [1, -1])
def test_rows_turn_with_the_structure(kernel, name: str, determinant: int, rng) -> None:
    at = of(name)
    own, pairs = kernel(at.table, at.radial), at.pairs
    q = torch.from_numpy(random_rotation(rng, determinant))
    other = replace(pairs, displacement=pairs.displacement @ q.T)
    rows = own.invariants(at.c, pairs)
    assert float(rows.abs().max()) > 0.1
    torch.testing.assert_close(own.invariants(at.c, other), turned(rows, q), rtol=0, atol=1e-12)

    # Turned seeds of the vectors give the same c_bar, and d_bar turned with the structure.
    seed = torch.zeros_like(rows)
    seed[:, :6] = at.randn(len(rows), 6)
    c_bar, d_bar = own.gradient(seed, at.c, pairs)
    c_other, d_other = own.gradient(turned(seed, q), at.c, other)
    torch.testing.assert_close(c_other, c_bar, rtol=0, atol=1e-11)
    torch.testing.assert_close(d_other, d_bar @ q.T, rtol=0, atol=1e-11)
    assert d_bar.any()


def test_derivatives_by_finite_differences() -> None:
    at = of("dimer")
    basis = register_basis(at.table, at.radial)

    def rows(c: Tensor, d: Tensor) -> Tensor:
        return invariants(c, replace(at.pairs, displacement=d), basis)

    given = (at.c.requires_grad_(), at.pairs.displacement.requires_grad_())
    assert torch.autograd.gradcheck(rows, given)
    assert torch.autograd.gradgradcheck(rows, given)


def test_kernels_agree() -> None:
    at = of("two species")
    seed = at.randn(len(at.pairs), 18)
    own, reference = (k(at.table, at.radial) for k in (CpuKernel, ReferenceKernel))
    for one, two in zip(
        (own.invariants(at.c, at.pairs), *own.gradient(seed, at.c, at.pairs)),
        (reference.invariants(at.c, at.pairs), *reference.gradient(seed, at.c, at.pairs)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-11)


def test_a_row_may_be_an_output_twice() -> None:
    at = of("molecule")
    twice = MomentTable(at.table.basic, at.table.products, np.array([1, 1]), 19)
    once = MomentTable(at.table.basic, at.table.products, np.array([1]), 19)
    seed = at.randn(len(at.pairs), 2)
    found = CpuKernel(twice, at.radial).gradient(seed, at.c, at.pairs)
    wanted = CpuKernel(once, at.radial).gradient(seed.sum(1, keepdim=True), at.c, at.pairs)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
