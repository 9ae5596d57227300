"""Symmetrised contractions of tensors, and which graphs they are made of.

S_p(A, B) contracts p indices of two symmetric tensors and symmetrises over those that are left.
`contraction` says which products of components it needs, `expansion` which graphs it is a sum of
when A and B are themselves such contractions of moments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from math import comb, factorial

Component = tuple[int, int, int]  # powers of x, y, z
Expansion = dict[tuple[tuple, tuple[int, ...]], int]
"""Graph on labelled vertices → weight. A graph: its edges ((i, j), multiplicity), and its legs."""


@cache
def components(rank: int) -> tuple[Component, ...]:
    """Independent components (a, b, c) of a symmetric tensor of a rank, a + b + c = rank."""
    return tuple((a, b, rank - a - b) for a in range(rank, -1, -1) for b in range(rank - a, -1, -1))


def multinomial(powers: tuple[int, ...]) -> int:
    """(Σ powers)! / Π powers!: how many index tuples fall on one component."""
    result = factorial(sum(powers))
    for power in powers:
        result //= factorial(power)
    return result


def add(*powers: Component) -> Component:
    """The component of a tensor product."""
    return tuple(map(sum, zip(*powers, strict=True)))


@cache
def splits(u: Component, size: int) -> tuple:
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
def contraction(rank1: int, rank2: int, p: int) -> tuple[dict[tuple[Component, Component], int]]:
    """S_p for two ranks, times comb(rank, rank1 − p): {(component, component): weight} each."""
    result = []
    for u in components(rank1 + rank2 - 2 * p):
        terms: dict[tuple, int] = defaultdict(int)
        for s, t, ways in splits(u, rank1 - p):
            for k in components(p):
                terms[add(s, k), add(t, k)] += ways * multinomial(k)
        result.append(dict(terms))
    return tuple(result)


# --- expansion into graphs ------------------------------------------------------------------------


def expansion(one: Expansion, two: Expansion, p: int) -> Expansion:
    """S_p of two sums of graphs with different vertices, as a sum of graphs, up to a factor.

    Both tensors are symmetric, so every choice of p of their legs counts alike, and so does every
    way to join the chosen ones.
    """
    result: Expansion = defaultdict(int)
    for (edges1, legs1), weight1 in one.items():
        for (edges2, legs2), weight2 in two.items():
            for joined, left, weight in _joinings(legs1, legs2, p):
                edges = tuple(sorted((*edges1, *edges2, *joined)))
                result[edges, left] += weight1 * weight2 * weight
    return dict(result)


@cache
def _joinings(legs1: tuple[int, ...], legs2: tuple[int, ...], p: int) -> tuple:
    """(edges, legs left, weight) of joining p legs; vertices outside a graph have no legs."""
    found = []
    for chosen1 in bounded(legs1, p):
        for chosen2 in bounded(legs2, p):
            ways = 1
            for legs, chosen in ((legs1, chosen1), (legs2, chosen2)):
                for n, k in zip(legs, chosen, strict=True):
                    ways *= comb(n, k) * factorial(k)
            left = tuple(
                a + b - c - d for a, b, c, d in zip(legs1, legs2, chosen1, chosen2, strict=True)
            )
            for matrix in _tables(chosen1, chosen2):
                edges, weight = [], ways
                for i, row in enumerate(matrix):
                    for j, n in enumerate(row):
                        if n:
                            edges.append(((min(i, j), max(i, j)), n))
                            weight //= factorial(n)
                found.append((tuple(edges), left, weight))
    return tuple(found)


def bounded(limits: tuple[int, ...], total: int) -> Iterator[tuple[int, ...]]:
    """All tuples of non-negative integers within limits and with a given sum."""
    if not limits:
        if total == 0:
            yield ()
        return
    for first in range(min(limits[0], total) + 1):
        for rest in bounded(limits[1:], total - first):
            yield (first, *rest)


def _tables(rows: tuple[int, ...], columns: tuple[int, ...]) -> Iterator[tuple]:
    """All matrices of non-negative integers with these sums of rows and columns."""
    if not rows:
        if not any(columns):
            yield ()
        return
    for first in bounded(columns, rows[0]):
        left = tuple(c - f for c, f in zip(columns, first, strict=True))
        for rest in _tables(rows[1:], left):
            yield (first, *rest)
