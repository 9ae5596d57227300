"""Contractions of moments as multigraphs: enumeration up to isomorphism.

Vertex = moment M_{μ,ν}, edge = one contracted index, leg = one free index, degree = ν. Without legs
a graph is a scalar, with d legs a symmetric tensor of rank d (docs/theory.md, "Invariants").
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mtp.errors import InvalidInput

MAX_FACTORS = 4
STANDARD_COSTS = (2, 4, 1)
MAX_SCALARS = 5000
EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class MomentSpec:
    """Levels: lev(M_{μ,ν}) = init_cost + mu_cost·μ + nu_cost·ν; the sum of factors is ≤ levmax."""

    levmax: int
    init_cost: int = 2
    mu_cost: int = 4
    nu_cost: int = 1

    def __post_init__(self) -> None:
        if self.mu_cost < 1 or self.nu_cost < 1 or self.init_cost < 0:
            raise InvalidInput(
                f"moment costs must be mu ≥ 1, nu ≥ 1, init ≥ 0 (else the basis is infinite), got "
                f"init {self.init_cost}, mu {self.mu_cost}, nu {self.nu_cost}"
            )
        if self.levmax < self.init_cost:
            raise InvalidInput(
                f"levmax {self.levmax} is below moment_init_cost {self.init_cost}: the basis is "
                "empty; raise levmax"
            )

    @property
    def max_mu(self) -> float:
        """The cap on μ belongs to the standard costs only."""
        return 5 if self._standard else np.inf

    @property
    def max_nu(self) -> float:
        """The cap on ν belongs to the standard costs only."""
        return 10 if self._standard else np.inf

    @property
    def _standard(self) -> bool:
        return (self.init_cost, self.mu_cost, self.nu_cost) == STANDARD_COSTS


@dataclass(frozen=True, order=True)
class Graph:
    """A multigraph: radial indices of vertices, multiplicities of edges (EDGES order), legs."""

    mus: tuple[int, ...]
    edges: tuple[int, ...]
    legs: tuple[int, ...]  # free indices of each vertex

    @property
    def nus(self) -> tuple[int, ...]:
        count = self.edge_map.items()
        return tuple(sum(m for pair, m in count if v in pair) + n for v, n in enumerate(self.legs))

    @property
    def rank(self) -> int:
        """Of the tensor: 0 for a scalar."""
        return sum(self.legs)

    @property
    def factors(self) -> list[tuple[int, int]]:
        """(μ, ν) of each vertex."""
        return list(zip(self.mus, self.nus, strict=True))

    @property
    def edge_map(self) -> dict[tuple[int, int], int]:
        """Multiplicity of each pair of vertices."""
        return dict(zip(_pairs(len(self.mus)), self.edges, strict=True))


def _pairs(n: int) -> list[tuple[int, int]]:
    return [pair for pair in EDGES if pair[1] < n]


@lru_cache(maxsize=8)
def graphs(spec: MomentSpec, rank: int = 0) -> tuple[Graph, ...]:
    """All symmetric tensors of a rank and level up to isomorphism, fewest factors first."""
    found: list[Graph] = []
    for factors in range(1, MAX_FACTORS + 1):
        for mus in _radial_indices(spec, factors):
            level = sum(spec.init_cost + spec.mu_cost * mu for mu in mus) + spec.nu_cost * rank
            if level > spec.levmax:
                continue
            max_edges = (spec.levmax - level) // (2 * spec.nu_cost)
            found.extend(_graphs_of(mus, max_edges, rank, spec.max_nu))
        if len(found) > MAX_SCALARS:
            what = f"covariants of rank {rank}" if rank else "invariants"
            raise InvalidInput(
                f"levmax {spec.levmax} with costs {spec.init_cost}/{spec.mu_cost}/{spec.nu_cost} "
                f"gives more than {MAX_SCALARS} {what}; lower levmax or raise the costs"
            )
    return tuple(found)


def _radial_indices(spec: MomentSpec, factors: int):
    budget = spec.levmax - factors * spec.init_cost
    highest = min(budget // spec.mu_cost, spec.max_mu) if budget >= 0 else -1
    return itertools.combinations_with_replacement(range(int(highest) + 1), factors)


def _graphs_of(mus: tuple[int, ...], max_edges: int, rank: int, max_nu: float) -> list[Graph]:
    """Graphs on vertices with the given (sorted) radial indices: one per orbit of relabellings."""
    n = len(mus)
    pairs = _pairs(n)
    places = [*pairs, *((v,) for v in range(n))]  # columns: edges, then legs
    edges = np.array(list(_bounded_sums(len(pairs), max_edges)), dtype=np.int64)
    legs = np.array([x for x in _bounded_sums(n, rank) if sum(x) == rank], dtype=np.int64)
    rows = np.hstack([np.repeat(edges, len(legs), 0), np.tile(legs, (len(edges), 1))])
    degrees = np.stack([rows[:, [v in place for place in places]].sum(1) for v in range(n)], 1)
    rows = rows[(degrees <= max_nu).all(1)]
    weights = (max(max_edges, rank) + 1) ** np.arange(len(places))
    key = rows @ weights
    smallest = key.copy()
    for order in itertools.permutations(range(n)):
        if tuple(mus[v] for v in order) == mus:
            columns = [places.index(tuple(sorted(order[v] for v in place))) for place in places]
            np.minimum(smallest, rows[:, columns] @ weights, out=smallest)
    return [
        Graph(mus, tuple(row[: len(pairs)]), tuple(row[len(pairs) :]))
        for row in rows[key == smallest].tolist()
    ]


def _bounded_sums(length: int, total: int):
    """All tuples of non-negative integers of a length with sum ≤ total."""
    if length == 0:
        yield ()
        return
    for first in range(total + 1):
        for rest in _bounded_sums(length - 1, total - first):
            yield (first, *rest)
