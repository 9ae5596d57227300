"""Covariant moments: counts, what they span, how they turn, what a table of them looks like."""

from __future__ import annotations

import numpy as np
import pytest

from mtp.basis import moment_table as builder
from mtp.basis.contraction import components
from mtp.basis.graphs import Graph, MomentSpec, graphs
from mtp.basis.moment_table import MomentTable, covariant_table, moment_table
from mtp.errors import InvalidInput
from tests.systems import SPECS, random_rotation
from tests.unit.test_moment_table import environments, rank, scalar_values, tensor

# Level: covariants of rank 1, symmetric ones of rank 2 (costs 2/4/1, at most four factors).
COUNTS = {6: (2, 3), 8: (5, 8), 10: (11, 19), 12: (23, 42), 14: (48, 93), 16: (98, 198)}
VOIGT = np.array([[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
SPANNED = [MomentSpec(8), MomentSpec(12), MomentSpec(14), SPECS["small"], SPECS["odd costs"]]


def tensors(table: MomentTable, degree: int, f: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(environments, components, tensors) of a table without invariants."""
    values = scalar_values(table, f, u)
    return values.reshape(len(f), -1, len(components(degree))).swapaxes(1, 2)


def graph_tensors(found: tuple[Graph, ...], f: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The same by contracting whole Cartesian tensors, index by index, and symmetrising."""
    values = []
    for graph in found:
        letters, free = iter("abcdefghijklmnopqrstuvw"), iter("xy")
        subscripts, out = ["Z"] * len(graph.mus), "Z"
        for (i, j), multiplicity in graph.edge_map.items():
            for letter in (next(letters) for _ in range(multiplicity)):
                subscripts[i] += letter
                subscripts[j] += letter
        for v, legs in enumerate(graph.legs):
            for letter in (next(free) for _ in range(legs)):
                subscripts[v] += letter
                out += letter
        moments = [tensor(*factor, f, u) for factor in graph.factors]
        full = np.einsum(f"{','.join(subscripts)}->{out}", *moments, optimize="greedy")
        if graph.rank == 2:
            full = (full + full.swapaxes(1, 2))[:, *VOIGT]
        values.append(full)
    return np.stack(values, -1)


def independent(columns: np.ndarray) -> int:
    """Numerical rank of tensors (environments, components, tensors) as functions."""
    return rank(columns.reshape(-1, columns.shape[-1]))


@pytest.mark.parametrize("level", COUNTS)
@pytest.mark.parametrize("degree", [1, 2])
def test_counts_of_standard_levels(level: int, degree: int) -> None:
    found = graphs(MomentSpec(level), degree)
    assert len(found) == len(set(found)) == COUNTS[level][degree - 1]
    assert {graph.rank for graph in found} == {degree}
    table = covariant_table(degree, MomentSpec(level), None)
    assert len(table.scalars) == len(found) * len(components(degree))
    assert len(set(table.scalars)) == len(table.scalars)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("spec", SPANNED, ids=str)
def test_tensors_span_what_the_graphs_span(spec: MomentSpec, degree: int) -> None:
    table = covariant_table(degree, spec, None)
    f, u = environments(table.n_radial, 40 + len(table.scalars) // 6)
    ours, theirs = tensors(table, degree, f, u), graph_tensors(graphs(spec, degree), f, u)
    assert ours.shape == theirs.shape
    both = np.concatenate([ours, theirs], -1)
    assert independent(ours) == independent(theirs) == independent(both)


@pytest.mark.parametrize(
    ("degree", "level", "expected"), [(1, 12, 23), (1, 14, 48), (2, 10, 19), (2, 12, 42)]
)
def test_tensors_are_independent_up_to_known_identities(
    degree: int, level: int, expected: int
) -> None:
    table = covariant_table(degree, MomentSpec(level), None)
    f, u = environments(table.n_radial, 100)
    assert independent(tensors(table, degree, f, u)) == expected


@pytest.mark.parametrize("degree", [1, 2])
def test_chains_are_the_graphs(degree: int, monkeypatch) -> None:
    """What no form reaches is contracted vertex by vertex: here everything of many factors."""
    monkeypatch.setattr(builder, "_forms", lambda factors, rank: [])
    spec = MomentSpec(12)
    found = graphs(spec, degree)
    made = builder._Builder(found)
    rows = np.array(made.outputs(found)).reshape(len(found), -1)[:, builder.VOIGT[degree]]
    table = made.table(rows.flatten().tolist())
    f, u = environments(table.n_radial)
    ours = tensors(table, degree, f, u)
    for n, graph in enumerate(g for g in found if len(g.mus) < 3):
        ratio = ours[..., n] / graph_tensors((graph,), f, u)[..., 0]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
    theirs = graph_tensors(found, f, u)
    assert independent(np.concatenate([ours, theirs], -1)) == independent(ours) == len(found)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("degree", [1, 2])
def test_tensors_turn_with_space(degree: int, determinant: int, rng) -> None:
    table = covariant_table(degree, MomentSpec(12), MomentSpec(8))
    scalars = len(graphs(MomentSpec(8)))
    f, u = environments(table.n_radial, 20)
    q = random_rotation(rng, determinant)
    before, after = (scalar_values(table, f, at) for at in (u, u @ q.T))
    np.testing.assert_allclose(after[:, :scalars], before[:, :scalars], atol=1e-9)
    before, after = (x[:, scalars:].reshape(len(f), -1, 3 * degree) for x in (before, after))
    if degree == 1:
        turned = before @ q.T
    else:
        i, j = VOIGT
        full = np.empty((*before.shape[:2], 3, 3))
        full[..., i, j] = full[..., j, i] = before
        turned = (q @ full @ q.T)[..., i, j]
    np.testing.assert_allclose(after, turned, rtol=0, atol=1e-11 * np.abs(before).max())


def test_invariants_come_first_and_in_their_usual_order() -> None:
    spec = MomentSpec(12)
    alone, table = moment_table(spec), covariant_table(2, MomentSpec(14), spec)
    f, u = environments(table.n_radial)
    np.testing.assert_allclose(
        scalar_values(table, f, u)[:, : len(alone.scalars)],
        scalar_values(alone, f[..., : alone.n_radial], u),
        rtol=1e-12,
    )


def test_a_level_without_tensors_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"levmax 2 .* no covariants of rank 1; raise it"):
        covariant_table(1, MomentSpec(2), None)
