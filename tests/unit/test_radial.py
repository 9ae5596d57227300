"""The radial basis: known values, slope, smoothness at both ends, bounded below min_dist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from mtp.basis.radial import CLAMP_WIDTH, RadialSpec, radial_basis

SPEC = RadialSpec(1.8, 5.0, 6)


def distances(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_values_are_chebyshev_polynomials_times_the_cutoff(size: int) -> None:
    spec = RadialSpec(1.8, 5.0, size)
    r = torch.linspace(1.8, 5.0, 101, dtype=torch.float64)
    xi = (2 * r - 6.8) / 3.2
    expected = (
        np.polynomial.chebyshev.chebvander(xi.numpy(), size - 1) * ((5 - r) ** 2).numpy()[:, None]
    )
    value, slope = radial_basis(r, spec)
    assert value.shape == slope.shape == (101, size)
    np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=1e-13 * 3.2**2)


@pytest.mark.parametrize("beyond", [0.0, 1e-12, 3.0])
def test_exactly_nothing_at_and_beyond_the_cutoff(beyond: float) -> None:
    value, slope = radial_basis(distances(5.0 + beyond), SPEC)
    assert not value.any()
    assert not slope.any()


@pytest.mark.parametrize("r", [0.3, 1.65, 1.75, 1.81, 3.0, 4.99, 5.5])
def test_slope_is_the_derivative(r: float) -> None:
    at = distances(r).requires_grad_()
    assert gradcheck(lambda r: radial_basis(r, SPEC)[0], at)
    assert gradgradcheck(lambda r: radial_basis(r, SPEC)[0], at)
    (by_autograd,) = torch.autograd.functional.jacobian(
        lambda r: radial_basis(r, SPEC)[0], (at.detach(),)
    )
    torch.testing.assert_close(by_autograd[0, :, 0], radial_basis(at.detach(), SPEC)[1][0])


def test_slope_is_continuous_at_the_cutoff_and_at_min_dist() -> None:
    for r in (SPEC.r_min, SPEC.r_max):
        below, above = (radial_basis(distances(r + shift), SPEC) for shift in (-1e-7, 1e-7))
        for one, two in zip(below, above, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-3)


def test_values_saturate_below_min_dist() -> None:
    """The polynomials see no distance below r_min − CLAMP_WIDTH; above r_min nothing changes."""
    near = radial_basis(distances(0.0, 0.5, 1.0), SPEC)
    assert torch.isfinite(near[0]).all()
    torch.testing.assert_close(near[0][0], near[0][1], rtol=1e-6, atol=0)
    assert near[1].abs().max() < 1e-3
    xi = (2 * (1.8 - CLAMP_WIDTH) - 6.8) / 3.2
    expected = np.polynomial.chebyshev.chebvander([xi], 5)[0] * (3.2 + CLAMP_WIDTH) ** 2
    np.testing.assert_allclose(near[0][0].numpy(), expected, rtol=1e-12)


def test_nan_stays_nan_and_no_pairs_are_no_pairs() -> None:
    value, slope = radial_basis(distances(float("nan"), 3.0), SPEC)
    assert value[0].isnan().all()
    assert slope[0].isnan().all()
    assert not value[1].isnan().any()
    assert radial_basis(distances(), SPEC)[0].shape == (0, 6)


def test_single_precision() -> None:
    r = torch.linspace(1.5, 5.5, 50, dtype=torch.float64)
    for one, two in zip(radial_basis(r.float(), SPEC), radial_basis(r, SPEC), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), two, rtol=0, atol=2e-6 * float(two.abs().max()))
