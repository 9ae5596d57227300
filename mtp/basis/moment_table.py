"""Which moments exist and how they contract into invariants: a table of integers, no physics.

The scalars are the multigraphs of mtp/basis/graphs.py, but not their products one by one. With
S_p(A, B) the symmetrised contraction of p indices of two tensors, three-factor scalars are the full
contractions of S_p(M1, M2) with M3. Four-factor scalars, and covariants of three and four factors,
are found among contractions of contractions, whose expansion into graphs is known exactly: for each
multiset of moments the cheapest independent ones are taken (a few graphs of high rank need a chain
of contractions instead). The span is that of the graphs, and each S_p is computed once for all the
outputs that need it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod

import numpy as np

from mtp.basis.contraction import (
    Component,
    Expansion,
    add,
    components,
    contraction,
    expansion,
    multinomial,
    splits,
)
from mtp.basis.graphs import Graph, MomentSpec, graphs
from mtp.errors import InvalidInput

Factor = tuple[int, int]  # μ, ν
Tensor = tuple  # ("basic", μ, ν), or ("pair", tensor, tensor, p) for S_p of the two

VOIGT = {1: [0, 1, 2], 2: [0, 3, 5, 4, 2, 1]}
"""Rank → places of its components, as tensors are given, in the order of `components`."""


@dataclass(frozen=True, eq=False)
class MomentTable:
    """Basic moments, products and scalars; all a kernel needs to know of a basis.

    basic: (n_basic, 4) μ, powers of x, y, z.  products: (n, 4) left, right, factor, target:
    ``moment[target] += factor·moment[left]·moment[right]``; rows are complete before they are read,
    and rows 0…n_basic-1 are the basic moments.  scalars: (n_scalars,) rows of invariants; in the
    table of a tensor, components of covariants follow them.
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
    found = graphs(spec)
    builder = _Builder(found)
    return builder.table(builder.outputs(found))


@lru_cache(maxsize=8)
def covariant_table(rank: int, spec: MomentSpec, invariants: MomentSpec | None) -> MomentTable:
    """The symmetric tensors of a rank and level, behind the invariants of a level (None: none).

    rank: 1 or 2.  Outputs: the invariants in the order of `moment_table`, then the components of
    each tensor, x y z or xx yy zz yz xz xy. Raises InvalidInput where the level holds no tensor or
    too many.
    """
    scalars = () if invariants is None else graphs(invariants)
    tensors = graphs(spec, rank)
    if not tensors:
        costs = f"{spec.init_cost}/{spec.mu_cost}/{spec.nu_cost}"
        raise InvalidInput(
            f"levmax {spec.levmax} with costs {costs} gives no covariants of rank {rank}; raise it"
        )
    builder = _Builder([*scalars, *tensors])
    rows = np.array(builder.outputs(tensors)).reshape(len(tensors), -1)[:, VOIGT[rank]]
    return builder.table([*builder.outputs(scalars), *rows.flatten().tolist()])


class _Builder:
    """Collects tensors (rows of components) and products, then numbers them."""

    def __init__(self, found: Iterable[Graph]) -> None:
        basic: list[tuple[int, int, int, int]] = []
        self.rows: dict[Tensor, list[int]] = {}
        for mu, nu in sorted({f for graph in found for f in graph.factors}):
            start = len(basic)
            basic.extend((mu, *powers) for powers in components(nu))
            self.rows["basic", mu, nu] = list(range(start, len(basic)))
        self.basic = np.array(basic, dtype=np.int64).reshape(-1, 4)
        self.products: list[tuple[int, int, int, int]] = []
        self.n_moments = len(basic)

    def table(self, outputs: list[int]) -> MomentTable:
        return MomentTable(
            self.basic,
            np.array(self.products, dtype=np.int64).reshape(-1, 4),
            np.array(outputs, dtype=np.int64),
            self.n_moments,
        )

    def outputs(self, found: Iterable[Graph]) -> list[int]:
        """Rows of tensors that span the graphs: for each all its components."""
        rows: list[int] = []
        classes: dict[tuple[Factor, ...], list[Graph]] = defaultdict(list)
        for graph in found:
            node = self._one_contraction(graph)
            if node is None:
                classes[tuple(sorted(graph.factors))].append(graph)
            else:
                rows.extend(self._rows_of(node))
        for factors, members in sorted(classes.items(), key=lambda item: sum(map(sum, item[0]))):
            rows.extend(self._span(list(factors), members))
        return rows

    def _one_contraction(self, graph: Graph) -> Tensor | None:
        """The cheapest tensor that is the graph, where there is one for every such graph."""
        moments = [("basic", *factor) for factor in graph.factors]
        edges = graph.edge_map
        if len(moments) == 1:
            return moments[0]
        if len(moments) == 2:
            return _pair(*moments, edges[0, 1])
        if len(moments) == 3 and graph.rank == 0:
            nodes = [
                _pair(_pair(moments[i], moments[j], edges[i, j]), moments[k], graph.nus[k])
                for i, j, k in ((1, 2, 0), (0, 2, 1), (0, 1, 2))
            ]
            return min(nodes, key=self._cost)
        return None

    def _span(self, factors: list[Factor], members: list[Graph]) -> list[int]:
        """Rows that span the given graphs of the same moments: the cheapest independent forms."""
        column = {_canonical(g.factors, g.edge_map, g.legs): n for n, g in enumerate(members)}
        forms = list(_forms(factors, members[0].rank))
        chosen: list[list[int]] = []
        echelon: list[list[Fraction]] = []
        while forms and len(chosen) < len(members):
            cheapest = min(range(len(forms)), key=lambda n: self._cost(forms[n][0]))
            node, terms = forms.pop(cheapest)
            row = [Fraction(0)] * len(column)
            for (edges, legs), weight in terms.items():
                row[column[_canonical(factors, dict(edges), legs)]] += weight
            if _independent(row, echelon):
                chosen.append(self._rows_of(node))
        for n, graph in enumerate(members):
            if len(chosen) == len(members):
                break
            if _independent([Fraction(int(n == m)) for m in range(len(members))], echelon):
                chosen.append(self._chain(graph))
        return [row for rows in chosen for row in rows]

    def _cost(self, node: Tensor) -> int:
        """Products that a tensor would add; none when it is there already."""
        if node in self.rows:
            return 0
        _, one, two, p = node
        own = sum(len(terms) for terms in contraction(_rank(one), _rank(two), p))
        return own + self._cost(one) + self._cost(two)

    def _rows_of(self, node: Tensor) -> list[int]:
        """Rows of a tensor, added where they are not there yet."""
        if node not in self.rows:
            _, one, two, p = node
            left, right = self._components(one), self._components(two)
            self.rows[node] = [
                self._row((left[a], right[b], weight) for (a, b), weight in terms.items())
                for terms in contraction(_rank(one), _rank(two), p)
            ]
        return self.rows[node]

    def _components(self, node: Tensor) -> dict[Component, int]:
        return dict(zip(components(_rank(node)), self._rows_of(node), strict=True))

    def _chain(self, graph: Graph) -> list[int]:
        """One graph exactly, vertex by vertex.

        What is contracted so far has a group of indices for every later vertex and one of legs.
        """
        n, edges = len(graph.mus), graph.edge_map
        first, *others = (self._components(("basic", *factor)) for factor in graph.factors)
        ranks = [*(edges[0, w] for w in range(1, n)), graph.legs[0]]
        made = {g: first[add(*g)] for g in itertools.product(*map(components, ranks))}
        for v, moment in enumerate(others, 1):
            own = [*(edges[v, w] for w in range(v + 1, n)), graph.legs[v]]
            joined, *rest = ranks
            ranks = [a + b for a, b in zip(rest, own, strict=True)]
            made = {
                groups: self._row(
                    (made[s, *old], moment[add(s, *mine)], prod(ways) * multinomial(s))
                    for mine, old, ways in _all_splits(groups, own)
                    for s in components(joined)
                )
                for groups in itertools.product(*map(components, ranks))
            }
        return [made[u,] for u in components(graph.rank)]

    def _row(self, terms) -> int:
        """A new moment, the sum of (left, right, weight)."""
        merged: dict[tuple[int, int], int] = defaultdict(int)
        for a, b, weight in terms:
            merged[min(a, b), max(a, b)] += weight
        target = self.n_moments
        self.n_moments += 1
        self.products.extend((a, b, weight, target) for (a, b), weight in sorted(merged.items()))
        return target


def _pair(one: Tensor, two: Tensor, p: int) -> Tensor:
    """S_p, which is symmetric in its arguments."""
    return ("pair", *sorted((one, two)), p)


def _rank(node: Tensor) -> int:
    if node[0] == "basic":
        return node[2]
    _, one, two, p = node
    return _rank(one) + _rank(two) - 2 * p


def _forms(factors: list[Factor], rank: int) -> Iterator[tuple[Tensor, Expansion]]:
    """Contractions of all the moments to a tensor of a rank, with their expansion into graphs."""
    moments: list[tuple[Tensor, Expansion]] = []
    for v, (mu, nu) in enumerate(factors):
        legs = tuple(nu if w == v else 0 for w in range(len(factors)))
        moments.append((("basic", mu, nu), {((), legs): 1}))
    for one, two in _last_steps(moments, rank > 0):
        p, odd = divmod(_rank(one[0]) + _rank(two[0]) - rank, 2)
        if not odd and 0 <= p <= min(_rank(one[0]), _rank(two[0])):
            yield _contracted(one, two, p)


def _last_steps(moments: list, chains: bool) -> Iterator[tuple]:
    """The two tensors that the last contraction joins: pairs, or a moment and all others."""
    if len(moments) == 4:
        for i, j, k, m in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
            yield from itertools.product(
                _contractions(moments[i], moments[j]), _contractions(moments[k], moments[m])
            )
    if not chains:
        return
    for last in moments:
        others = [moment for moment in moments if moment is not last]
        for i, j in itertools.combinations(range(len(others)), 2):
            made = _contractions(others[i], others[j])
            for k in set(range(len(others))) - {i, j}:
                made = [x for one in made for x in _contractions(one, others[k])]
            yield from ((one, last) for one in made)


def _contractions(one: tuple, two: tuple) -> list[tuple[Tensor, Expansion]]:
    """Every S_p of two tensors."""
    highest = min(_rank(one[0]), _rank(two[0]))
    return [_contracted(one, two, p) for p in range(highest + 1)]


def _contracted(one: tuple, two: tuple, p: int) -> tuple[Tensor, Expansion]:
    return _pair(one[0], two[0], p), expansion(one[1], two[1], p)


def _canonical(
    factors: list[Factor], edges: dict[tuple[int, int], int], legs: tuple[int, ...]
) -> tuple:
    """Key of a graph that is the same for every relabelling of its vertices."""
    best, n = None, len(factors)
    for order in itertools.permutations(range(n)):
        key = (
            tuple((*factors[v], legs[v]) for v in order),
            tuple(
                edges.get((min(order[i], order[j]), max(order[i], order[j])), 0)
                for i, j in itertools.combinations(range(n), 2)
            ),
        )
        if best is None or key < best:
            best = key
    return best


def _all_splits(groups: tuple[Component, ...], sizes: list[int]) -> Iterator[tuple]:
    """(parts, rests, ways) of splitting each group of indices, the parts of the given sizes."""
    for split in itertools.product(*map(splits, groups, sizes)):
        yield tuple(zip(*split, strict=True))


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
