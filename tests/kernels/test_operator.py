"""The torch operators: gradcheck twice, refusal of the third derivative, and torch's own checks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mtp.errors import InvalidInput
from mtp.kernels import operator
from mtp.kernels.choose import Basis, kernel_name, register_basis
from tests.systems import SPECS, SYSTEMS, Case, case


@pytest.fixture(params=["reference", "cpu"])
def kernel(request, monkeypatch) -> str:
    """The operators run with this kernel."""
    monkeypatch.setenv("MTP_KERNEL", request.param)
    return request.param


def at(system: str, spec: str = "level 6", n_q: int = 2) -> tuple[Case, Basis, Tensor, Tensor]:
    """A case, its basis, and its coefficients and displacements as leaves."""
    made = case(SYSTEMS[system], SPECS[spec], n_q)
    basis = register_basis(made.table, made.radial)
    c, d = made.c.clone().requires_grad_(), made.pairs.displacement.clone().requires_grad_()
    return made, basis, c, d


@pytest.mark.parametrize("system", ["dimer", "pair below min_dist"])
def test_first_and_second_derivatives(kernel: str, system: str) -> None:
    made, basis, c, d = at(system)

    def energy(c: Tensor, d: Tensor) -> Tensor:
        return operator.invariants(c, replace(made.pairs, displacement=d), basis)

    assert gradcheck(energy, (c, d))
    assert gradgradcheck(energy, (c, d))


def test_tangent_is_differentiable_by_the_coefficients(kernel: str) -> None:
    made, basis, c, _ = at("molecule", n_q=1)
    v, strain = made.randn(5, 3), made.randn(5, 6)
    assert gradcheck(lambda c: operator.tangent(c, v, strain, made.pairs, basis), (c,))


def test_nested_derivatives_make_the_forces(kernel: str) -> None:
    """−∂E/∂r by autograd through positions is what `forces` returns without a graph."""
    made, basis, c, _ = at("three species", "level 8")
    rows, centre, neighbour = made.pairs.explicit()
    r = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
    moved = made.pairs.displacement.index_add(0, rows, r[neighbour] - r[centre])
    b = operator.invariants(c, replace(made.pairs, displacement=moved), basis)
    b_bar = torch.randn_like(b)
    (slope,) = torch.autograd.grad((b * b_bar).sum(), r, create_graph=True)
    with torch.no_grad():
        forces, _ = operator.forces(b_bar, c, made.pairs, basis)
    torch.testing.assert_close(forces, -slope.detach(), rtol=1e-10, atol=1e-9)

    v = made.randn(8, 3)
    (by_c,) = torch.autograd.grad((-slope * v).sum(), c)
    _, b_dot = operator.tangent(c, v, torch.zeros(8, 6, dtype=torch.float64), made.pairs, basis)
    (by_tangent,) = torch.autograd.grad((b_dot * b_bar).sum(), c)
    size = by_c.abs().max().item()
    torch.testing.assert_close(by_tangent, by_c, rtol=0, atol=1e-11 * size)


def test_a_third_derivative_is_refused_in_words(kernel: str) -> None:
    made, basis, c, d = at("dimer")
    b = operator.invariants(c, replace(made.pairs, displacement=d), basis)
    (first,) = torch.autograd.grad(b.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), d, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"third derivatives .* are not available"):
        torch.autograd.grad(second.sum(), d)


OPERATORS = ["invariants", "invariants_backward", "invariants_double_backward"]
OPERATORS += ["forces", "tangent", "tangent_backward"]


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_finds_the_operators_sound(name: str) -> None:
    made, basis, c, d = at("molecule")
    pairs, n = made.pairs, len(made.pairs)
    b_bar, c_dot, d_dot = made.randn(n, made.n_scalars), torch.randn_like(c), torch.randn_like(d)
    v, strain = made.randn(n, 3), made.randn(n, 6)
    arguments = {
        "invariants": (c, d),
        "invariants_backward": (b_bar, c, d),
        "invariants_double_backward": (c_dot, d_dot, b_bar, c, d),
        "forces": (b_bar, c.detach(), d.detach()),
        "tangent": (c, v, strain, d.detach()),
        "tangent_backward": (b_bar, 2 * b_bar, c.detach(), v, strain, d.detach()),
    }[name]
    flat = (pairs.species, pairs.start, pairs.count, pairs.base, pairs.neighbour, basis.handle)
    # aot: a third derivative (traced here) is refused on purpose
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    torch.library.opcheck(getattr(torch.ops.mtp, name), (*arguments, *flat), test_utils=checks)


def test_the_kernel_follows_the_environment(monkeypatch) -> None:
    monkeypatch.delenv("MTP_KERNEL", raising=False)
    assert kernel_name("cpu") == "cpu"
    assert kernel_name("cuda:1") == "cuda"
    monkeypatch.setenv("MTP_KERNEL", "reference")
    assert kernel_name("cpu") == kernel_name("cuda") == "reference"


def test_a_kernel_that_cannot_run_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("MTP_KERNEL", "cuda")
    with pytest.raises(InvalidInput, match="MTP_KERNEL=cuda cannot run on device cpu"):
        kernel_name("cpu")
    monkeypatch.setenv("MTP_KERNEL", "gpu")
    with pytest.raises(InvalidInput, match="must be one of reference, cpu, cuda, got 'gpu'"):
        kernel_name("cpu")
