"""The Chebyshev radial basis and its slope."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLAMP_WIDTH = 0.1  # Å; how far below r_min the radial functions may still be extrapolated


@dataclass(frozen=True)
class RadialSpec:
    """r_min (smallest distance of the data) and r_max (cutoff) in Å, number of polynomials."""

    r_min: float
    r_max: float
    size: int


def radial_basis(r: Tensor, spec: RadialSpec) -> tuple[Tensor, Tensor]:
    """Q_n(r) = T_n(ξ)·(r_max − r)² and dQ_n/dr, exactly 0 at and beyond r_max.

    r: (pairs,) in Å. Returns two tensors (pairs, size) in Å² and Å.
    Below r_min the distance is replaced by one that saturates smoothly at r_min − CLAMP_WIDTH, so
    that the polynomials never run away where there were no data.
    Source: docs/theory.md, "Radial basis".
    """
    r, slope = _clamped(r, spec.r_min)
    xi = (2 * r - (spec.r_min + spec.r_max)) / (spec.r_max - spec.r_min)
    t, t_slope = [torch.ones_like(xi), xi], [torch.zeros_like(xi), torch.ones_like(xi)]
    for _ in range(2, spec.size):
        t.append(2 * xi * t[-1] - t[-2])
        t_slope.append(2 * t[-2] + 2 * xi * t_slope[-1] - t_slope[-2])
    chebyshev = torch.stack(t[: spec.size], -1)
    chebyshev_slope = torch.stack(t_slope[: spec.size], -1) * (2 / (spec.r_max - spec.r_min))
    x = torch.where(r >= spec.r_max, 0.0, spec.r_max - r)[:, None]  # NaN stays NaN
    return chebyshev * x * x, (chebyshev_slope * x * x - 2 * x * chebyshev) * slope[:, None]


def _clamped(r: Tensor, r_min: float) -> tuple[Tensor, Tensor]:
    """The distance that enters the polynomials, and its slope: r above r_min, bounded below it."""
    depth = torch.tanh(torch.clamp(r_min - r, min=0) / CLAMP_WIDTH)
    below = r < r_min
    return torch.where(below, r_min - CLAMP_WIDTH * depth, r), 1 - depth * depth
