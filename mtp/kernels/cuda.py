"""The kernel in Triton: the reference kernel's methods on a GPU, deterministic, without host waits.

Importing this imports Triton; `mtp.kernels.choose` does so for tensors on a CUDA device only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from mtp.basis.moment_table import MomentTable
from mtp.basis.radial import CLAMP_WIDTH, RadialSpec
from mtp.geometry import Pairs
from mtp.kernels.gpu import passes
from mtp.kernels.gpu.launch import launch
from mtp.kernels.gpu.plan import UNROLL, Plan, Program, make_plan

THREADS = 128
"""Of a program: atoms times neighbour slots of a block, one pair (or atom) a thread."""

SLOTS = ((8192, 16), (65536, 8))
"""(atoms, slots): below so many atoms of a call, so many neighbours of an atom side by side."""

MEMORY = 4 * 2**30
"""Bytes of moments and slopes at once: larger batches are done slab by slab of atoms."""

PROGRAMS = 2048
"""How many programs keep a large GPU busy; rows of products are dealt out to reach it."""

GROUP = 4
"""Species whose coefficient gradients are summed in one run over the pairs."""


class CudaKernel:
    """Invariants of a moment table and their derivatives in Triton, float32 or float64.

    Shapes are checked, but indices are not: reading them would make the host wait.
    """

    name = "cuda"
    reads_out = False  # readouts are torch's, on the invariants

    def __init__(self, table: MomentTable, radial: RadialSpec) -> None:
        self.table = table
        self.radial = radial
        self.plan = make_plan(table)
        self._tables: dict[tuple, Tables] = {}

    # --- the functions every kernel has -----------------------------------------------------------

    def invariants(self, c: Tensor, pairs: Pairs) -> Tensor:
        b = self._per_scalar(c, pairs)
        for slab in self._slabs(c, pairs):
            slab.forward()
            b[slab.atoms] = slab.outputs()[0]
        return b

    def gradient(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        d_bar, c_bar = c.new_zeros(pairs.displacement.shape), self._coefficient_sums(c)
        self._check(pairs, c, b_bar=b_bar)
        for slab in self._slabs(c, pairs):
            slab.forward()
            slab.reverse(b_bar[slab.atoms])
            slab.pull(d_bar)
            c_bar += slab.coefficients()
        return self._c_bar(c_bar, c).to(c.dtype), d_bar

    def second(
        self,
        b_bar: Tensor,
        b_dot_bar: Tensor,
        c: Tensor,
        c_dot: Tensor,
        d_dot: Tensor,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        b_dot, d_bar = self._per_scalar(c, pairs), c.new_zeros(pairs.displacement.shape)
        self._check(pairs, c, b_bar=b_bar, b_dot_bar=b_dot_bar, c_dot=c_dot, d_dot=d_dot)
        c_bar = self._coefficient_sums(c)
        for slab in self._slabs(c, pairs, d_dot.contiguous(), c_dot.contiguous()):
            slab.forward()
            b_dot[slab.atoms] = slab.outputs()[1]
            slab.reverse(b_dot_bar[slab.atoms], b_bar[slab.atoms])
            slab.pull(d_bar)
            c_bar += slab.coefficients()
        return b_dot, self._c_bar(c_bar, c).to(c.dtype), d_bar

    def forces(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        d_bar = torch.empty_like(pairs.displacement, memory_format=torch.contiguous_format)
        self._check(pairs, c, b_bar=b_bar)
        for slab in self._slabs(c, pairs):
            slab.forward()
            slab.reverse(b_bar[slab.atoms])
            slab.pull(d_bar)
        forces, virial = collect(d_bar, pairs)
        return forces.to(c.dtype), virial.to(c.dtype)

    def tangent(self, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        b, b_dot = self._per_scalar(c, pairs), self._per_scalar(c, pairs)
        self._check(pairs, c, v=v, strain=strain)
        for slab in self._slabs(c, pairs, direction(v, strain, pairs)):
            slab.forward()
            b[slab.atoms], b_dot[slab.atoms] = slab.outputs()
        return b, b_dot

    def tangent_backward(
        self, b_bar: Tensor, b_dot_bar: Tensor, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs
    ) -> Tensor:
        c_bar = self._coefficient_sums(c)
        self._check(pairs, c, b_bar=b_bar, b_dot_bar=b_dot_bar, v=v, strain=strain)
        for slab in self._slabs(c, pairs, direction(v, strain, pairs)):
            slab.forward()
            slab.reverse(b_dot_bar[slab.atoms], b_bar[slab.atoms])
            c_bar += slab.coefficients()
        return self._c_bar(c_bar, c).to(c.dtype)

    # --- what they share --------------------------------------------------------------------------

    def _slabs(
        self, c: Tensor, pairs: Pairs, d_dot: Tensor | None = None, c_dot: Tensor | None = None
    ) -> Iterator[Slab]:
        """Consecutive atoms of the batch, as many as fit into MEMORY with their moments."""
        self._check(pairs, c)
        given = Given(c.contiguous(), pairs.displacement.contiguous(), c_dot, d_dot, pairs)
        tables = self._tables_on(c)
        numbers = (2 if d_dot is None else 4) * self.plan.n_rows  # of an atom
        numbers += len(self.plan.tensors) * len(c) * self.radial.size  # parts of c_bar
        size = max(1, MEMORY // (numbers * c.element_size()))
        for first in range(0, len(pairs), size):
            yield Slab(tables, given, slice(first, min(first + size, len(pairs))))

    def _tables_on(self, c: Tensor) -> Tables:
        key = (c.device, c.dtype)
        if key not in self._tables:
            self._tables[key] = Tables(self.plan, self.radial, c)
        return self._tables[key]

    def _per_scalar(self, c: Tensor, pairs: Pairs) -> Tensor:
        return c.new_empty(len(pairs), len(self.table.scalars))

    def _coefficient_sums(self, c: Tensor) -> Tensor:
        """(S, tensors, S, n_q) zeros."""
        shape = (len(c), len(self.plan.tensors), len(c), self.radial.size)
        return c.new_zeros(shape, dtype=torch.float64)

    def _c_bar(self, sums: Tensor, c: Tensor) -> Tensor:
        """Sums by tensor added to those of c (S, S, n_radial, n_q)."""
        to = self._tables_on(c).radial_of_tensor
        return torch.einsum("ztjn,tm->zjmn", sums, to)

    def _check(self, pairs: Pairs, c: Tensor, **given: Tensor) -> None:
        """Shapes and types: passes know addresses only."""
        if c.dtype not in (torch.float32, torch.float64) or pairs.displacement.dtype != c.dtype:
            raise TypeError(f"coefficients {c.dtype} and displacements {pairs.displacement.dtype}")
        n, rows, k = len(pairs), len(pairs.displacement), len(self.table.scalars)
        c_shape = (len(c), len(c), self.table.n_radial, self.radial.size)
        shapes = {"c": c_shape, "c_dot": c_shape, "displacement": (rows, 3), "d_dot": (rows, 3)}
        shapes |= {name: (n,) for name in ("species", "start", "count", "base")}
        shapes |= {"neighbour": (rows,), "v": (n, 3), "strain": (n, 6)}
        shapes |= {"b_bar": (n, k), "b_dot_bar": (n, k)}
        arrays = {name: x for name, x in vars(pairs).items() if name in shapes}
        for name, array in {"c": c, **arrays, **given}.items():
            if tuple(array.shape) != shapes[name] or array.device != c.device:
                raise ValueError(
                    f"{name} must have shape {shapes[name]} on {c.device}, "
                    f"got {tuple(array.shape)} on {array.device}"
                )


# --- passes on slabs of atoms ---------------------------------------------------------------------


class Tables:
    """A plan's integers and constants on a device, in one precision."""

    def __init__(self, plan: Plan, radial: RadialSpec, like: Tensor) -> None:
        def there(values, dtype=None) -> Tensor:
            return torch.as_tensor(values).to(like.device, dtype or like.dtype)

        self.plan, self.n_q = plan, radial.size
        width = radial.r_max - radial.r_min
        shift = (radial.r_min + radial.r_max) / width
        constants = [radial.r_min, radial.r_max, 2 / width, shift, CLAMP_WIDTH]
        self.constants = there(torch.tensor(constants, dtype=torch.float64))
        self.tensors = there(plan.tensors, torch.int32)
        n_radial = int(plan.tensors[:, 0].max()) + 1
        of_tensor = torch.nn.functional.one_hot(torch.as_tensor(plan.tensors[:, 0]).long())
        self.radial_of_tensor = there(of_tensor, torch.float64)
        self.n_radial = n_radial
        self.forward = self._program(plan.forward, there)
        self.reverse = self._program(plan.reverse, there)
        self.scalars = there(plan.scalars, torch.int64)
        unique, which = plan.unique_scalars
        self.seeded = there(unique, torch.int64)
        repeated = len(unique) < len(which)
        to_row = torch.nn.functional.one_hot(torch.as_tensor(which), len(unique))
        self.to_row = there(to_row) if repeated else None
        self.order = there(plan.scalars.argsort(), torch.int64)

    @staticmethod
    def _program(program: Program, there) -> tuple[Tensor, ...]:
        integers = (program.row, program.begin, program.left, program.right)
        return *(there(x, torch.int32) for x in integers), there(program.factor)

    def seeds(self, b_bar: Tensor) -> Tensor:
        """Rows `seeded` of the slopes: (n, atoms), outputs of the same row added."""
        rows = b_bar[:, self.order] if self.to_row is None else b_bar @ self.to_row
        return rows.T


@dataclass(frozen=True, eq=False)
class Given:
    """What the passes of one call read."""

    c: Tensor
    d: Tensor
    c_dot: Tensor | None
    d_dot: Tensor | None
    pairs: Pairs


class Slab:
    """Some atoms of a batch with their moments (rows, atoms); with a direction all is dual."""

    def __init__(self, tables: Tables, given: Given, atoms: slice) -> None:
        self.tables, self.given, self.atoms = tables, given, atoms
        self.n = atoms.stop - atoms.start
        self.dual = given.d_dot is not None
        pairs = given.pairs
        species, start = pairs.species.int(), pairs.start.long()
        per_atom = (species, start, pairs.count.int(), pairs.base.int())
        whole = (pairs.neighbour.int(), species)
        self.lists = [x.contiguous() for x in (*(x[atoms] for x in per_atom), *whole)]
        self.slots = next((slots for most, slots in SLOTS if self.n < most), 4)
        self.block = THREADS // self.slots
        self.m, self.m_dot = self._rows(torch.empty)
        self.g = self.g_dot = None

    def forward(self) -> None:
        """All moments."""
        given, tables, plan = self.given, self.tables, self.tables.plan
        self.m_dot[plan.ones] = 0.0
        self.m[plan.ones] = 1.0  # m_dot is m where there is no direction
        launch(
            *(passes.moments, self._grid(len(plan.tensors))),
            *(*self.lists, given.d, self._d_dot(), given.c, self._c_dot()),
            *(tables.constants, tables.tensors, self.m, self.m_dot, self.n, self.n),
            *(len(given.c), tables.n_radial),
            **self._compiled(C_DOT=given.c_dot is not None),
        )
        self._contract(plan.forward, tables.forward, self.m, self.m_dot, self.m, self.m_dot, False)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """B (atoms, n_scalars) and, in a dual pass, its derivative."""
        return self.m[self.tables.scalars].T, self.m_dot[self.tables.scalars].T

    def reverse(self, seed: Tensor, seed_dot: Tensor | None = None) -> None:
        """Slopes of all moments from those of the outputs (atoms, n_scalars)."""
        self.g, self.g_dot = self._rows(torch.zeros)
        self.g[self.tables.seeded] = self.tables.seeds(seed)
        if self.dual:
            self.g_dot[self.tables.seeded] = self.tables.seeds(seed_dot)
        program, there = self.tables.plan.reverse, self.tables.reverse
        self._contract(program, there, self.g, self.g_dot, self.m, self.m_dot, True)

    def pull(self, d_bar: Tensor) -> None:
        """Write the derivative by the displacement of every pair of the atoms."""
        given, tables = self.given, self.tables
        launch(
            *(passes.pull, self._grid()),
            *(*self.lists, given.d, self._d_dot(), given.c, self._c_dot()),
            *(tables.constants, tables.tensors, self.g, self.g_dot, d_bar, self.n, self.n),
            *(len(given.c), tables.n_radial, len(tables.tensors)),
            **self._compiled(C_DOT=given.c_dot is not None),
        )

    def coefficients(self) -> Tensor:
        """Derivative by c, summed over the atoms: (S, tensors, S, n_q), float64."""
        given, tables, n_species = self.given, self.tables, len(self.given.c)
        shape = (len(tables.tensors), n_species, tables.n_q)
        partial = given.c.new_empty(*shape, self.n)
        launch(
            *(passes.coefficients, self._grid(len(tables.tensors))),
            *(*self.lists, given.d, self._d_dot(), tables.constants, tables.tensors),
            *(self.g, self.g_dot, partial, self.n, self.n, n_species),
            **self._compiled(GROUP=min(GROUP, n_species)),
        )
        columns = partial.numel() // self.n
        chunk = max(1024, triton.cdiv(self.n, 64))
        n_chunks = triton.cdiv(self.n, chunk)
        sums = partial.new_empty(n_chunks, n_species, columns, dtype=torch.float64)
        launch(
            *(passes.by_species, (columns, n_chunks)),
            *(partial, self.lists[0], sums, self.n, self.n, n_species, chunk),
            B=1024,
        )
        return sums.sum(0).reshape(n_species, *shape)

    def _contract(self, program: Program, there: tuple, x, x_dot, out, out_dot, add: bool) -> None:
        """Run a program stage by stage; y is always the moments."""
        blocks = triton.cdiv(self.n, THREADS)
        for first, last in zip(program.stage[:-1], program.stage[1:], strict=True):
            each = max(1, (last - first) * blocks // PROGRAMS)
            grid = (blocks, triton.cdiv(last - first, each))
            launch(
                *(passes.contract, grid),
                *(x, x_dot, self.m, self.m_dot, *((x, x_dot) if add else (out, out_dot))),
                *(*there, first, last, each, self.n, self.n),
                **dict(ADD=add, DUAL=self.dual, UNROLL=UNROLL, A=THREADS),
            )

    def _rows(self, make) -> tuple[Tensor, Tensor]:
        c, n_rows = self.given.c, self.tables.plan.n_rows
        rows = [
            make((n_rows, self.n), dtype=c.dtype, device=c.device) for _ in range(1 + self.dual)
        ]
        return rows[0], rows[-1]

    def _d_dot(self) -> Tensor:
        return self.given.d if self.given.d_dot is None else self.given.d_dot

    def _c_dot(self) -> Tensor:
        return self.given.c if self.given.c_dot is None else self.given.c_dot

    def _grid(self, tensors: int = 1) -> tuple[int, int]:
        return triton.cdiv(self.n, self.block), tensors

    def _compiled(self, **more: int | bool) -> dict:
        fixed = {"N_Q": self.tables.n_q, "MAX_RANK": self.tables.plan.max_rank, "DUAL": self.dual}
        return {**fixed, "A": self.block, "K": self.slots, **more}


# --- sums -----------------------------------------------------------------------------------------


def direction(v: Tensor, strain: Tensor, pairs: Pairs) -> Tensor:
    """ḋ (rows, 3) of every pair of the batch along v and strain; other rows are not set."""
    d = pairs.displacement.contiguous()
    d_dot, n, slots = torch.empty_like(d), len(pairs), 8
    if n:
        launch(
            *(passes.direction, (triton.cdiv(n, THREADS // slots),)),
            *(pairs.start.long().contiguous(), pairs.count.int().contiguous()),
            *(pairs.base.int().contiguous(), pairs.neighbour.int().contiguous()),
            *(d, v.contiguous(), strain.contiguous(), d_dot, n),
            **dict(A=THREADS // slots, K=slots),
        )
    return d_dot


def collect(d_bar: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Forces (atoms, 3) and virials (atoms, 6) from ∂E/∂d of the pairs, float64."""
    n, slots = len(pairs), 8
    forces = d_bar.new_empty(n, 3, dtype=torch.float64)
    virial = d_bar.new_empty(n, 6, dtype=torch.float64)
    if n:
        launch(
            *(passes.collect, (triton.cdiv(n, THREADS // slots),)),
            *(pairs.start.long().contiguous(), pairs.count.int().contiguous(), *incoming(pairs)),
            *(pairs.displacement.contiguous(), d_bar, forces, virial, n),
            **dict(A=THREADS // slots, K=slots),
        )
    return forces, virial


def incoming(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of pairs that end at an atom of the batch, and each atom's part: start and count.

    Known beforehand where the geometry is resident; found by sorting for any other list.
    """
    if pairs.incoming is not None:
        return pairs.incoming, pairs.start.long().contiguous(), pairs.count.int().contiguous()
    rows, _, neighbour = pairs.explicit()
    ends, order = torch.sort(neighbour, stable=True)
    edges = torch.searchsorted(ends, torch.arange(len(pairs) + 1, device=ends.device))
    return rows[order], edges[:-1].contiguous(), (edges[1:] - edges[:-1])


def by_structure(values: Tensor, structure: Tensor, n: int) -> Tensor:
    """Sums (n, …) in float64 of values (atoms, …) over structures; structure: ascending.

    The same to the last bit every time, which torch's index_add on a GPU is not.
    """
    columns = math.prod(values.shape[1:])
    flat = values.double().reshape(len(values), columns).contiguous()
    edges = torch.arange(n + 1, device=structure.device, dtype=structure.dtype)
    begin = torch.searchsorted(structure.contiguous(), edges)
    chunk = max(1024, triton.cdiv(len(flat), 64))
    chunks = max(1, triton.cdiv(len(flat), chunk))
    sums = flat.new_zeros(chunks, n, columns)
    if n and columns:
        grid = (n * columns, chunks)
        launch(passes.by_structure, grid, flat, begin, sums, n, columns, chunk, B=256)
    return sums.sum(0).reshape(n, *values.shape[1:])
