"""The basis: counts of the standard levels, completeness of the table, what the scalars span."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from mtp.basis.contraction import components
from mtp.basis.graphs import Graph, MomentSpec, graphs
from mtp.basis.moment_table import MomentTable, moment_table
from mtp.errors import InvalidInput
from tests.systems import SPECS, random_rotation

# Level: radial functions, basic components, scalars by number of factors, as in the standard
# tables of these levels (costs 2/4/1).
STANDARD = {
    2: (1, 1, (1,)),
    4: (1, 1, (1, 1)),
    6: (2, 5, (2, 2, 1)),
    8: (2, 11, (2, 4, 2, 1)),
    10: (3, 25, (3, 6, 5, 2)),
    12: (3, 46, (3, 10, 10, 6)),
    14: (4, 81, (4, 14, 20, 14)),
    16: (4, 130, (4, 20, 35, 33)),
    18: (5, 201, (5, 26, 62, 70)),
    20: (5, 295, (5, 35, 100, 148)),
    22: (6, 421, (6, 44, 160, 290)),
    24: (6, 581, (6, 56, 244, 558)),
    26: (6, 706, (6, 67, 366, 1025)),
    28: (6, 866, (6, 81, 524, 1834)),
}
NEIGHBOURS = 20


@pytest.mark.parametrize("level", STANDARD)
def test_counts_of_standard_levels(level: int) -> None:
    n_radial, n_basic, by_factors = STANDARD[level]
    found = graphs(MomentSpec(level))
    count = Counter(len(graph.mus) for graph in found)
    assert tuple(count[n] for n in sorted(count)) == by_factors
    factors = {factor for graph in found for factor in graph.factors}
    assert sum(len(components(nu)) for _, nu in factors) == n_basic
    assert max(mu for mu, _ in factors) + 1 == n_radial


@pytest.mark.parametrize("level", [2, 4, 6, 8, 10, 12, 14, 16, 18])
def test_table_has_the_counts_of_its_graphs(level: int) -> None:
    n_radial, n_basic, by_factors = STANDARD[level]
    table = moment_table(MomentSpec(level))
    assert table.n_radial == n_radial
    assert len(table.basic) == n_basic
    assert len(table.scalars) == sum(by_factors)


def test_small_has_its_known_size() -> None:
    table = moment_table(SPECS["small"])
    assert (len(table.scalars), table.n_radial, len(table.basic)) == (27, 7, 22)


@pytest.mark.parametrize(
    ("level", "costs", "scalars"), [(8, (1, 1, 1), 96), (8, (2, 1, 2), 22), (8, (2, 4, 1), 9)]
)
def test_costs_decide_the_size(level: int, costs: tuple[int, int, int], scalars: int) -> None:
    assert len(graphs(MomentSpec(level, *costs))) == scalars


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((8, 2, 0, 1), "mu ≥ 1"),
        ((8, 2, 4, 0), "nu ≥ 1"),
        ((8, -1, 4, 1), "init ≥ 0"),
        ((1, 2, 4, 1), "levmax 1 is below moment_init_cost 2"),
    ],
)
def test_costs_that_make_no_basis_are_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        MomentSpec(*arguments)


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="lower levmax or raise the costs"):
        graphs(MomentSpec(24, 1, 1, 1))


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_complete_before_they_are_read(name: str) -> None:
    table = moment_table(SPECS[name])
    last_write = dict.fromkeys(range(len(table.basic)), -1)
    for n, (_, _, _, target) in enumerate(table.products):
        assert target >= len(table.basic)
        last_write[int(target)] = n
    assert sorted(last_write) == list(range(table.n_moments))
    for n, (left, right, factor, _) in enumerate(table.products):
        assert factor != 0
        assert last_write[int(left)] < n
        assert last_write[int(right)] < n
    assert len(set(table.scalars)) == len(table.scalars)


def test_equal_specs_share_one_table() -> None:
    assert moment_table(MomentSpec(8)) is moment_table(MomentSpec(8))


# --- values on random environments ----------------------------------------------------------------


@cache
def environments(n_radial: int, count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Radial values (count, neighbours, n_radial), independent of each other, and unit vectors."""
    rng = np.random.default_rng(7)
    u = rng.normal(size=(count, NEIGHBOURS, 3))
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    return rng.uniform(-1, 1, (count, NEIGHBOURS, n_radial)), u


def scalar_values(table: MomentTable, f: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(environments, n_scalars) by the table."""
    moments = np.zeros((len(f), table.n_moments))
    for row, (mu, a, b, c) in enumerate(table.basic):
        monomial = u[..., 0] ** a * u[..., 1] ** b * u[..., 2] ** c
        moments[:, row] = (f[..., mu] * monomial).sum(1)
    for left, right, factor, target in table.products:
        moments[:, target] += factor * moments[:, left] * moments[:, right]
    return moments[:, table.scalars]


def graph_values(found: tuple[Graph, ...], f: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(environments, graphs) by contracting whole Cartesian tensors, index by index."""
    tensors = {factor: tensor(*factor, f, u) for graph in found for factor in graph.factors}
    values = []
    for graph in found:
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        subscripts = ["Z"] * len(graph.mus)
        for (i, j), multiplicity in graph.edge_map.items():
            for letter in (next(letters) for _ in range(multiplicity)):
                subscripts[i] += letter
                subscripts[j] += letter
        factors = [tensors[factor] for factor in graph.factors]
        values.append(np.einsum(f"{','.join(subscripts)}->Z", *factors, optimize="greedy"))
    return np.stack(values, 1)


def tensor(mu: int, nu: int, f: np.ndarray, u: np.ndarray) -> np.ndarray:
    """M_{μ,ν} with all its 3^ν components, (environments, 3, …, 3)."""
    power = f[..., mu]  # (environments, neighbours)
    for _ in range(nu):
        power = np.einsum("zn...,znk->zn...k", power, u)
    return power.sum(1)


def rank(columns: np.ndarray) -> int:
    """Numerical rank of columns of unit length."""
    values = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)
    return int((values > 1e-11 * values[0]).sum())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (MomentSpec(4), 2),
        (MomentSpec(6), 5),
        (MomentSpec(8), 9),
        (MomentSpec(10), 16),
        (MomentSpec(12), 29),
        (MomentSpec(14), 52),
        (MomentSpec(16), 91),  # of 92: four tensors in three dimensions obey one identity
        (MomentSpec(18), 161),
        pytest.param(MomentSpec(20), 282, marks=pytest.mark.slow),
        (SPECS["small"], 27),
        (SPECS["odd costs"], None),
        (MomentSpec(10, 1, 2, 2), None),
    ],
    ids=str,
)
def test_scalars_span_what_the_graphs_span(spec: MomentSpec, expected: int | None) -> None:
    table = moment_table(spec)
    f, u = environments(table.n_radial, 100 + 3 * len(table.scalars) // 2)
    ours, theirs = scalar_values(table, f, u), graph_values(graphs(spec), f, u)
    ours /= np.linalg.norm(ours, axis=0)
    theirs /= np.linalg.norm(theirs, axis=0)
    assert ours.shape == theirs.shape
    assert rank(ours) == rank(theirs) == rank(np.hstack([ours, theirs]))
    assert expected in (None, rank(ours))


@pytest.mark.slow
def test_graphs_that_no_pair_of_contractions_reaches_are_there() -> None:
    """Cheap indices give four-factor graphs of high rank; a few are contracted in a chain."""
    spec = MomentSpec(18, 0, 20, 1)
    table = moment_table(spec)
    f, u = environments(table.n_radial, 500)
    ours = scalar_values(table, f, u)
    members = [g for g in graphs(spec) if sorted(g.nus) == [4, 4, 5, 5]]
    assert members
    theirs = graph_values(tuple(members), f, u)
    assert rank(np.hstack([ours, theirs])) == rank(ours)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("name", SPECS)
def test_scalars_do_not_change_when_space_turns(name: str, determinant: int, rng) -> None:
    table = moment_table(SPECS[name])
    f, u = environments(table.n_radial)
    before = scalar_values(table, f, u)
    turned = scalar_values(table, f, u @ random_rotation(rng, determinant))
    np.testing.assert_allclose(turned, before, rtol=0, atol=1e-11 * np.abs(before).max())
