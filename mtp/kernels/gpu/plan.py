"""A moment table as the GPU passes use it: tensors summed over pairs, then rows of products.

Everything is integers on the host; nothing here knows of Triton.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtp.basis.moment_table import MomentTable, components, multinomial

UNROLL = 4
"""Terms of a row are filled up to a multiple of this with terms of factor 0."""


@dataclass(frozen=True, eq=False)
class Program:
    """out[row] (+)= Σ factor·x[left]·y[right], row by row; rows of one stage are independent.

    row: (n,).  begin: (n + 1,) into the terms.  stage: first entry of each stage, and the end.
    """

    row: np.ndarray
    begin: np.ndarray
    left: np.ndarray
    right: np.ndarray
    factor: np.ndarray
    stage: tuple[int, ...]

    @property
    def n_terms(self) -> int:
        """Multiply-adds, without those that only fill up."""
        return int(np.count_nonzero(self.factor))


@dataclass(frozen=True, eq=False)
class Plan:
    """Internal rows: components of the core tensors, a row of ones, then what products make.

    tensors: (n, 3) μ, ν, first row of each tensor M_{μν} that is summed over pairs.
    Because û·û = 1, M_{μ,ν−2} is the trace of M_{μν}: only the highest ν of each parity is
    a core tensor, the lower ones are rows of `forward`. scalars: (n_scalars,) internal rows.
    """

    tensors: np.ndarray
    n_rows: int
    ones: int
    forward: Program
    reverse: Program
    scalars: np.ndarray

    @property
    def max_rank(self) -> int:
        """Highest ν."""
        return int(self.tensors[:, 1].max(initial=0))

    @cached_property
    def unique_scalars(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that are outputs, each once, and for every output which of them it is."""
        return np.unique(self.scalars, return_inverse=True)


Terms = dict[int, list[tuple[int, int, float]]]
"""Row → its terms (left, right, factor)."""


def make_plan(table: MomentTable) -> Plan:
    """The plan of a table. Raises ValueError where rows are read before they are complete."""
    tensors, place = _core(table.basic)
    ones = sum(len(components(nu)) for _, nu, _ in tensors)
    rows = np.full(table.n_moments, -1, dtype=np.int64)
    terms: Terms = defaultdict(list)
    n_rows = ones + 1
    for index, (mu, *powers) in enumerate(table.basic.tolist()):
        key = (mu, *powers)
        if key not in place:
            place[key] = n_rows
            terms[n_rows] = _trace(key, tensors, place, ones)
            n_rows += 1
        rows[index] = place[key]
    for left, right, factor, target in table.products.tolist():
        if target < len(table.basic) or min(rows[left], rows[right]) < 0:
            raise ValueError("a product reads a moment that is not complete, or writes a basic one")
        if rows[target] < 0:
            rows[target] = n_rows
            n_rows += 1
        terms[int(rows[target])].append((int(rows[left]), int(rows[right]), float(factor)))
    if not len(table.scalars) or (rows[table.scalars] < 0).any():
        raise ValueError("a scalar of the table is a moment that nothing makes")
    stages = _stages(terms, n_rows)
    return Plan(
        np.array(tensors, dtype=np.int32).reshape(-1, 3),
        n_rows,
        ones,
        _program(terms, stages),
        _program(*_reversed(terms, stages, ones)),
        rows[table.scalars],
    )


def _core(basic: np.ndarray) -> tuple[list[tuple[int, int, int]], dict]:
    """Tensors (μ, ν, first row) and the row of each of their components."""
    highest: dict[tuple[int, int], int] = {}
    for mu, nu in {(int(b[0]), int(b[1:].sum())) for b in basic}:
        highest[mu, nu % 2] = max(highest.get((mu, nu % 2), 0), nu)
    tensors, place, row = [], {}, 0
    for mu, nu in sorted((mu, nu) for (mu, _), nu in highest.items()):
        tensors.append((mu, nu, row))
        for powers in components(nu):
            place[(mu, *powers)] = row
            row += 1
    return tensors, place


def _trace(key: tuple, tensors: list, place: dict, ones: int) -> list[tuple[int, int, float]]:
    """A component of lower rank: the core tensor's, summed over (x² + y² + z²)^n."""
    mu, *powers = key
    nu = sum(powers)
    rank = next(n for m, n, _ in tensors if m == mu and n > nu and (n - nu) % 2 == 0)
    return [
        (place[(mu, *(p + 2 * k for p, k in zip(powers, extra, strict=True)))], ones, ways)
        for extra in components((rank - nu) // 2)
        for ways in [float(multinomial(extra))]
    ]


def _stages(terms: Terms, n_rows: int) -> list[list[int]]:
    """Rows by depth: those of one stage need only rows of stages before it."""
    depth = np.zeros(n_rows, dtype=np.int64)
    for row, row_terms in terms.items():  # in the order in which rows become complete
        depth[row] = 1 + max(max(depth[i], depth[j]) for i, j, _ in row_terms)
    stages: list[list[int]] = [[] for _ in range(depth.max(initial=0))]
    for row in terms:
        stages[depth[row] - 1].append(row)
    return stages


def _reversed(terms: Terms, stages: list, ones: int) -> tuple[Terms, list[list[int]]]:
    """Program of g[i] += factor·g[row]·m[j]: gathered by i, so that each row is written once.

    A row's slope is complete when all rows that read it are: the stages run backwards.
    """
    slopes: Terms = defaultdict(list)
    for row, row_terms in terms.items():
        for i, j, factor in row_terms:
            for target, other in ((i, j), (j, i)):
                if target != ones:
                    slopes[target].append((row, other, factor))
    in_core = [row for row in slopes if row not in terms]
    order = [[r for r in stage if r in slopes] for stage in reversed(stages)]
    return slopes, [stage for stage in (*order, in_core) if stage]


def _program(terms: Terms, stages: list[list[int]]) -> Program:
    row, begin, left, right, factor, ends = [], [0], [], [], [], [0]
    for stage in stages:
        for target in stage:
            padded = terms[target] + [(0, 0, 0.0)] * (-len(terms[target]) % UNROLL)
            row.append(target)
            for column, values in zip(
                (left, right, factor), zip(*padded, strict=True), strict=True
            ):
                column.extend(values)
            begin.append(len(left))
        ends.append(len(row))
    as_int = (np.array(x, dtype=np.int32) for x in (row, begin, left, right))
    return Program(*as_int, np.array(factor, dtype=np.float64), tuple(ends))
