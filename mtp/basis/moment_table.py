"""Which moments exist and how they contract into invariants: a table of integers, no physics.

The scalars are the multigraphs of mtp/basis/graphs.py, but not their products one by one. With
S_p(M, N) the symmetrised contraction of p indices of two moments, three-factor graphs are the dot
products S_p(M1, M2)·M3, and a basis of the four-factor graphs with given moments is found among the
dot products S_p(M1, M2)·S_q(M3, M4), whose expansion into graphs is known exactly; the cheapest
independent ones are taken (a few graphs above level 24 need a chain of contractions instead). The
span is that of the graphs, and each S_p is computed once for all the scalars that need it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from math import comb, factorial

import numpy as np

from mtp.basis.graphs import EDGES, MAX_FACTORS, Graph, MomentSpec, graphs

Component = tuple[int, int, int, int]  # radial index μ, powers of x, y, z
Factor = tuple[int, int]  # μ, ν


@dataclass(frozen=True, eq=False)
class MomentTable:
    """Basic moments, products and scalars; all a kernel needs to know of a basis.

    basic: (n_basic, 4) μ, powers of x, y, z.  products: (n, 4) left, right, factor, target:
    ``moment[target] += factor·moment[left]·moment[right]``; rows are complete before they are read,
    and rows 0…n_basic-1 are the basic moments.  scalars: (n_scalars,) rows of invariants.
    """

    basic: np.ndarray
    products: np.ndarray
    scalars: np.ndarray
    n_moments: int

    @property
    def n_radial(self) -> int:
        """Number of radial functions f_μ."""
        return int(self.basic[:, 0].max()) + 1


@lru_cache(maxsize=8)
def moment_table(spec: MomentSpec) -> MomentTable:
    """The table of a level; cached. Raises InvalidInput when the basis is absurdly large."""
    return _Builder(graphs(spec)).table()


def _canonical(factors: list[Factor], edges: dict[tuple[int, int], int]) -> tuple:
    """Key of a four-factor graph that is the same for every relabelling of its vertices."""
    best = None
    for order in itertools.permutations(range(4)):
        labels = tuple(factors[v] for v in order)
        key = (labels, tuple(edges[tuple(sorted((order[i], order[j])))] for i, j in EDGES))
        if best is None or key < best:
            best = key
    return best


@cache
def components(rank: int) -> tuple[tuple[int, int, int], ...]:
    """Independent components (a, b, c) of a symmetric tensor of a rank, a + b + c = rank."""
    return tuple((a, b, rank - a - b) for a in range(rank, -1, -1) for b in range(rank - a, -1, -1))


def multinomial(powers: tuple[int, int, int]) -> int:
    """How many index tuples fall on one component."""
    a, b, c = powers
    return factorial(a + b + c) // (factorial(a) * factorial(b) * factorial(c))


def _add(*powers: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(map(sum, zip(*powers, strict=True)))


@cache
def _splits(u: tuple[int, int, int], size: int) -> tuple:
    """(part, rest, ways) of choosing `size` of the indices of a component u."""
    return tuple(
        (
            s,
            (u[0] - s[0], u[1] - s[1], u[2] - s[2]),
            comb(u[0], s[0]) * comb(u[1], s[1]) * comb(u[2], s[2]),
        )
        for s in components(size)
        if s[0] <= u[0] and s[1] <= u[1] and s[2] <= u[2]
    )


@cache
def _contraction(nu1: int, nu2: int, p: int) -> tuple:
    """S_p for ranks nu1, nu2, times comb(rank, nu1 − p): {(component, component): weight} each."""
    result = []
    for u in components(nu1 + nu2 - 2 * p):
        terms: dict[tuple, int] = defaultdict(int)
        for s, t, ways in _splits(u, nu1 - p):
            for k in components(p):
                terms[_add(s, k), _add(t, k)] += ways * multinomial(k)
        result.append(terms)
    return tuple(result)


class _Builder:
    """Collects tensors (rows of components) and products, then numbers them."""

    def __init__(self, found: tuple[Graph, ...]) -> None:
        self.found = found
        self.basic: list[Component] = []
        self.rows: dict[tuple, list[int]] = {}
        for mu, nu in sorted({f for graph in found for f in graph.factors}):
            start = len(self.basic)
            self.basic.extend((mu, *powers) for powers in components(nu))
            self.rows["basic", mu, nu] = list(range(start, len(self.basic)))
        self.products: list[tuple[int, int, int, int]] = []
        self.n_moments = len(self.basic)

    def table(self) -> MomentTable:
        scalars = []
        classes: dict[tuple, list[Graph]] = defaultdict(list)
        for graph in self.found:
            if len(graph.factors) == MAX_FACTORS:
                classes[tuple(sorted(graph.factors))].append(graph)
            else:
                scalars.append(self._few_factors(graph))
        for factors, members in sorted(classes.items(), key=lambda item: sum(map(sum, item[0]))):
            scalars.extend(self._four_factors(list(factors), members))
        return MomentTable(
            np.array(self.basic, dtype=np.int64).reshape(-1, 4),
            np.array(self.products, dtype=np.int64).reshape(-1, 4),
            np.array(scalars, dtype=np.int64),
            self.n_moments,
        )

    def _few_factors(self, graph: Graph) -> int:
        factors = graph.factors
        if len(factors) == 1:
            return self.rows["basic", *factors[0]][0]
        if len(factors) == 2:
            return self._symmetric(factors[0], factors[1], graph.edges[0])[0]
        edges = graph.edge_map
        costs = {}
        for third, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
            cost = self._pair_cost(factors[i], factors[j], edges[i, j])
            costs[cost + len(components(factors[third][1])), third] = (i, j)
        (_, third), (i, j) = min(costs.items())
        pair = self._symmetric(factors[i], factors[j], edges[i, j])
        return self._dot(pair, self.rows["basic", *factors[third]], factors[third][1])

    def _four_factors(self, factors: list[Factor], members: list[Graph]) -> list[int]:
        """Scalars that span the given graphs: the cheapest independent dot products of pairs."""
        column = {_canonical(graph.factors, graph.edge_map): n for n, graph in enumerate(members)}
        forms = list(self._forms(factors))
        chosen: list[int] = []
        echelon: list[list[Fraction]] = []
        while forms and len(chosen) < len(members):
            (i, j, p), (k, m, q), rank, expansion = forms.pop(
                min(range(len(forms)), key=lambda n: self._form_cost(factors, forms[n]))
            )
            row = [Fraction(0)] * len(column)
            for edges, weight in expansion:
                row[column[_canonical(factors, edges)]] += weight
            if _independent(row, echelon):
                left = self._symmetric(factors[i], factors[j], p)
                right = self._symmetric(factors[k], factors[m], q)
                chosen.append(self._dot(left, right, rank))
        for n, graph in enumerate(members):
            if len(chosen) == len(members):
                break
            if _independent([Fraction(int(n == m)) for m in range(len(members))], echelon):
                chosen.append(self._chain(graph))
        return chosen

    def _forms(self, factors: list[Factor]):
        """(pair, pair, rank, expansion into graphs) of S_p(i, j)·S_q(k, m)."""
        nus = [nu for _, nu in factors]
        for i, j, k, m in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
            for p in range(min(nus[i], nus[j]) + 1):
                rank = nus[i] + nus[j] - 2 * p
                q, odd = divmod(nus[k] + nus[m] - rank, 2)
                if odd or not 0 <= q <= min(nus[k], nus[m]):
                    continue
                free_i, free_k, free_m = nus[i] - p, nus[k] - q, nus[m] - q
                expansion = []
                for ik in range(max(0, free_i - free_m), min(free_i, free_k) + 1):
                    weight = Fraction(comb(free_k, ik) * comb(free_m, free_i - ik))
                    counts = {
                        (i, j): p,
                        (k, m): q,
                        (i, k): ik,
                        (i, m): free_i - ik,
                        (j, k): free_k - ik,
                        (j, m): free_m - free_i + ik,
                    }
                    edges = {tuple(sorted(pair)): count for pair, count in counts.items()}
                    expansion.append((edges, weight))
                yield (i, j, p), (k, m, q), rank, expansion

    def _form_cost(self, factors: list[Factor], form: tuple) -> int:
        (i, j, p), (k, m, q), rank, _ = form
        return (
            len(components(rank))
            + self._pair_cost(factors[i], factors[j], p)
            + self._pair_cost(factors[k], factors[m], q)
        )

    def _pair_cost(self, one: Factor, two: Factor, p: int) -> int:
        """Products that S_p(one, two) would add; none when it is there already."""
        one, two = sorted((one, two))
        if ("pair", one, two, p) in self.rows:
            return 0
        return sum(len(terms) for terms in _contraction(one[1], two[1], p))

    def _basic(self, factor: Factor) -> dict[tuple[int, int, int], int]:
        return dict(zip(components(factor[1]), self.rows["basic", *factor], strict=True))

    def _symmetric(self, one: Factor, two: Factor, p: int) -> list[int]:
        """Rows of S_p(one, two)."""
        one, two = sorted((one, two))
        key = ("pair", one, two, p)
        if key not in self.rows:
            left, right = self._basic(one), self._basic(two)
            self.rows[key] = [
                self._row((left[a], right[b], weight) for (a, b), weight in terms.items())
                for terms in _contraction(one[1], two[1], p)
            ]
        return self.rows[key]

    def _dot(self, left: list[int], right: list[int], rank: int) -> int:
        weights = map(multinomial, components(rank))
        return self._row(zip(left, right, weights, strict=True))

    def _chain(self, graph: Graph) -> int:
        """One graph exactly: contract vertices 0 and 1, then 2, then 3."""
        one, two, three, four = map(self._basic, graph.factors)
        e01, e02, e03, e12, e13, e23 = graph.edges
        pair = {}
        for s in components(e02 + e12):
            for t in components(e03 + e13):
                pair[s, t] = self._row(
                    (one[_add(k, s1, t1)], two[_add(k, s2, t2)], ways * more * multinomial(k))
                    for s1, s2, ways in _splits(s, e02)
                    for t1, t2, more in _splits(t, e03)
                    for k in components(e01)
                )
        triple = [
            self._row(
                (pair[s, t], three[_add(s, x)], ways * multinomial(s))
                for x, t, ways in _splits(u, e23)
                for s in components(e02 + e12)
            )
            for u in components(e03 + e13 + e23)
        ]
        return self._dot(triple, list(four.values()), graph.factors[3][1])

    def _row(self, terms) -> int:
        """A new moment, the sum of (left, right, weight)."""
        merged: dict[tuple[int, int], int] = defaultdict(int)
        for a, b, weight in terms:
            merged[min(a, b), max(a, b)] += weight
        target = self.n_moments
        self.n_moments += 1
        self.products.extend((a, b, weight, target) for (a, b), weight in sorted(merged.items()))
        return target


def _independent(row: list[Fraction], echelon: list[list[Fraction]]) -> bool:
    """Whether a row is linearly independent of those before; if so it joins the echelon form."""
    for basis in echelon:
        lead = next(index for index, value in enumerate(basis) if value)
        if row[lead]:
            factor = row[lead] / basis[lead]
            row = [x - factor * y for x, y in zip(row, basis, strict=True)]
    if not any(row):
        return False
    echelon.append(row)
    return True
