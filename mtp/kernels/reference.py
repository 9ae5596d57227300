"""The kernel in plain torch: the definition that every faster kernel is tested against.

`invariants` is differentiable by autograd to any order. `gradient` is its derivative written by
hand (docs/theory.md, "Derivatives"); its own directional derivative, `second`, is forward-mode
through the same lines, so each formula stands here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mtp.basis.moment_table import MomentTable
from mtp.basis.radial import RadialSpec, radial_basis
from mtp.geometry import Pairs

# Voigt order xx yy zz yz xz xy.
_FIRST, _SECOND = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
PAIRS_PER_BLOCK = 20_000  # bounds the memory of pairs × moments


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive atoms of a batch with their pairs, explicit."""

    rows: Tensor  # (pairs,) into the pair arrays
    centre: Tensor  # (pairs,) atom within the block
    species_pair: tuple[Tensor, Tensor]  # (pairs,) of the centre, of the neighbour
    n_atoms: int


class ReferenceKernel:
    """Invariants of a moment table and their derivatives in plain torch, any device and dtype."""

    name = "reference"
    reads_out = False  # readouts are torch's, on the invariants

    def __init__(self, table: MomentTable, radial: RadialSpec) -> None:
        self.table = table
        self.radial = radial

    # --- the three functions every kernel has ---------------------------------------------------

    def invariants(self, c: Tensor, pairs: Pairs) -> Tensor:
        """B (atoms, n_scalars) from coefficients c (S, S, n_radial, size)."""
        d = pairs.displacement
        parts = [self._invariants(c, d[block.rows], block) for block in self._blocks(pairs)]
        return torch.cat(parts) if parts else c.new_zeros(0, len(self.table.scalars))

    def gradient(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Derivatives of Σ b_bar·B by c and displacements d; d's rows outside the batch are 0."""
        d = pairs.displacement
        c_bar, d_bar, first = torch.zeros_like(c), torch.zeros_like(d), 0
        for block in self._blocks(pairs):
            part = b_bar[first : first + block.n_atoms]
            first += block.n_atoms
            by_c, by_d = self._gradient(part, c, d[block.rows], block)
            c_bar = c_bar + by_c
            d_bar = d_bar.index_copy(0, block.rows, by_d)
        return c_bar, d_bar

    def second(
        self,
        b_bar: Tensor,
        b_dot_bar: Tensor,
        c: Tensor,
        c_dot: Tensor,
        d_dot: Tensor,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Along (c_dot, d_dot): Ḃ, and the derivatives of Σ b_bar·B + b_dot_bar·Ḃ by c and d."""
        d = pairs.displacement
        # Forward mode writes into tangents: an expanded tensor has one number for many entries.
        b_bar, b_dot_bar, c_dot, d_dot = (x.contiguous() for x in (b_bar, b_dot_bar, c_dot, d_dot))
        b_dot, first = [], 0
        c_bar, d_bar = torch.zeros_like(c), torch.zeros_like(d)
        for block in self._blocks(pairs):
            part = slice(first, first + block.n_atoms)
            first += block.n_atoms
            at = (c, d[block.rows])
            along = (c_dot, d_dot[block.rows])
            b_dot.append(torch.func.jvp(lambda *x, b=block: self._invariants(*x, b), at, along)[1])
            _, (by_c, by_d) = torch.func.jvp(
                lambda *x, b=block: self._gradient(*x, b),
                (b_dot_bar[part], *at),
                (b_bar[part], *along),
            )
            c_bar += by_c
            d_bar.index_copy_(0, block.rows, by_d)
        empty = c.new_zeros(0, len(self.table.scalars))
        return torch.cat(b_dot) if b_dot else empty, c_bar, d_bar

    # --- the same for training: displacement fields and forces of atoms instead of pairs ---------

    def forces(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Forces (atoms, 3) and per-atom virials (atoms, 6) for ∂E/∂B = b_bar."""
        _, d_bar = self.gradient(b_bar, c, pairs)
        rows, centre, neighbour = pairs.explicit()
        n, pull, d = len(pairs), d_bar[rows], pairs.displacement[rows]
        force = d.new_zeros(n, 3).index_add(0, centre, pull).index_add(0, neighbour, -pull)
        virial = d.new_zeros(n, 6).index_add(0, centre, d[:, _FIRST] * pull[:, _SECOND])
        return force, virial

    def tangent(self, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """B and Ḃ along the displacement field of v and strain."""
        b = self.invariants(c, pairs)
        zero, field = torch.zeros_like(b), displacement_field(v, strain, pairs)
        return b, self.second(zero, zero, c, torch.zeros_like(c), field, pairs)[0]

    def tangent_backward(
        self, b_bar: Tensor, b_dot_bar: Tensor, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs
    ) -> Tensor:
        """Derivative of Σ b_bar·B + b_dot_bar·Ḃ by c."""
        field = displacement_field(v, strain, pairs)
        return self.second(b_bar, b_dot_bar, c, torch.zeros_like(c), field, pairs)[1]

    # --- formulas -------------------------------------------------------------------------------

    def _invariants(self, c: Tensor, d: Tensor, block: Block) -> Tensor:
        _, _, q, _, u = self._pair_functions(d)
        moments = self._moments(c, q, u, block)
        return self._products(moments)[:, self._index["scalars"]]

    def _moments(self, c: Tensor, q: Tensor, u: Tensor, block: Block) -> Tensor:
        f = torch.einsum("pn,pmn->pm", q, c[block.species_pair])  # (pairs, n_radial)
        terms = f[:, self._index["mu"]] * self._monomials(u)
        return c.new_zeros(block.n_atoms, terms.shape[1]).index_add(0, block.centre, terms)

    def _gradient(self, b_bar: Tensor, c: Tensor, d: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        _, inverse, q, q_slope, u = self._pair_functions(d)
        g = self._moment_gradient(self._products(self._moments(c, q, u, block)), b_bar)
        g = g[block.centre]  # (pairs, n_basic)
        mu, coefficients = self._index["mu"], c[block.species_pair]
        monomials = self._monomials(u)
        by_radial = q.new_zeros(len(q), coefficients.shape[1]).index_add(1, mu, g * monomials)
        c_bar = torch.zeros_like(c).index_put(
            block.species_pair, by_radial[:, :, None] * q[:, None, :], accumulate=True
        )
        f = torch.einsum("pn,pmn->pm", q, coefficients)
        f_slope = torch.einsum("pn,pmn->pm", q_slope, coefficients)
        along = (f_slope * by_radial).sum(1)
        weight = g * f[:, mu]
        angular = torch.stack([(weight * slope).sum(1) for slope in self._monomial_slopes(u)], -1)
        across = (angular - (angular * u).sum(1, keepdim=True) * u) * inverse[:, None]
        return c_bar, along[:, None] * u + across

    def _pair_functions(self, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """r, 1/r, Q, dQ/dr, unit vector."""
        r = torch.linalg.norm(d, dim=1)
        inverse = 1 / r
        return r, inverse, *radial_basis(r, self.radial), d * inverse[:, None]

    def _monomials(self, u: Tensor) -> Tensor:
        """û_x^a û_y^b û_z^c of every basic moment, (pairs, n_basic)."""
        x, y, z = self._powers(u)
        a, b, c = self._index["abc"]
        return x[a] * y[b] * z[c]

    def _monomial_slopes(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = self._powers(u)
        a, b, c = self._index["abc"]
        lower = [torch.clamp(k - 1, min=0) for k in (a, b, c)]
        return (
            a * x[lower[0]] * y[b] * z[c],
            b * x[a] * y[lower[1]] * z[c],
            c * x[a] * y[b] * z[lower[2]],
        )

    def _powers(self, u: Tensor) -> list[_Powers]:
        return [_Powers(u[:, k], self._max_power) for k in range(3)]

    def _products(self, basic: Tensor) -> Tensor:
        """All moments (atoms, n_moments) from the basic ones."""
        extra = self.table.n_moments - basic.shape[1]
        moments = torch.cat([basic, basic.new_zeros(len(basic), extra)], 1)
        for left, right, factor, target in self._levels(basic):
            terms = factor * moments[:, left] * moments[:, right]
            moments = moments.index_add(1, target, terms)
        return moments

    def _moment_gradient(self, moments: Tensor, b_bar: Tensor) -> Tensor:
        """Derivative of Σ b_bar·B with respect to the basic moments, (atoms, n_basic)."""
        g = torch.zeros_like(moments).index_add(1, self._index["scalars"], b_bar)
        for left, right, factor, target in reversed(self._levels(moments)):
            up = factor * g[:, target]
            g = g.index_add(1, left, up * moments[:, right])
            g = g.index_add(1, right, up * moments[:, left])
        return g[:, : len(self.table.basic)]

    # --- bookkeeping ----------------------------------------------------------------------------

    @property
    def _max_power(self) -> int:
        return int(self.table.basic[:, 1:].max(initial=0))

    @cached_property
    def _index(self) -> dict:
        basic = torch.from_numpy(self.table.basic)
        return {
            "mu": basic[:, 0],
            "abc": (basic[:, 1], basic[:, 2], basic[:, 3]),
            "scalars": torch.from_numpy(self.table.scalars),
        }

    @cached_property
    def _depths(self) -> list[np.ndarray]:
        """Products by depth: those of one group need only moments of groups before it."""
        depth = np.zeros(self.table.n_moments, dtype=np.int64)
        for left, right, _, target in self.table.products:
            depth[target] = max(depth[target], 1 + max(depth[left], depth[right]))
        of_product = depth[self.table.products[:, 3]]
        return [self.table.products[of_product == n] for n in range(1, depth.max(initial=0) + 1)]

    def _levels(self, like: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        columns = [torch.from_numpy(group).to(like.device) for group in self._depths]
        return [(p[:, 0], p[:, 1], p[:, 2].to(like.dtype), p[:, 3]) for p in columns]

    def _blocks(self, pairs: Pairs) -> list[Block]:
        rows, centre, neighbour = pairs.explicit()
        species = pairs.species.long()
        count = pairs.count.long()
        end = torch.cumsum(count, 0).tolist()
        blocks, atom, pair = [], 0, 0
        while atom < len(count):
            last = atom + 1
            while last < len(count) and end[last] - pair <= PAIRS_PER_BLOCK:
                last += 1
            chosen = slice(pair, end[last - 1])
            z = (species[centre[chosen]], species[neighbour[chosen]])
            blocks.append(Block(rows[chosen], centre[chosen] - atom, z, last - atom))
            atom, pair = last, end[last - 1]
        return blocks


def displacement_field(v: Tensor, strain: Tensor, pairs: Pairs) -> Tensor:
    """ḋ of every row of the pair arrays for one cotangent of forces and stress (docs/theory.md)."""
    rows, centre, neighbour = pairs.explicit()
    matrix = strain[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]  # Voigt → (atoms, 3, 3)
    d = pairs.displacement
    field = v[centre] - v[neighbour] + torch.einsum("pab,pb->pa", matrix[centre], d[rows])
    return torch.zeros_like(d).index_copy(0, rows, field)


class _Powers:
    """Powers 0…n of a vector of numbers, picked by an index tensor: (pairs, len(index))."""

    def __init__(self, x: Tensor, highest: int) -> None:
        powers = [torch.ones_like(x)]
        for _ in range(highest):
            powers.append(powers[-1] * x)
        self.table = torch.stack(powers, -1)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.table[:, index]
