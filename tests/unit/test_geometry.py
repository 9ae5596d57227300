"""Neighbour pairs against a brute-force search, and batches cut from a geometry."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtp.errors import InvalidInput
from mtp.geometry import Geometry, neighbour_pairs
from mtp.structure import Structure
from tests.systems import LIST_CUTOFF, SYSTEMS, elements, free, geometry, rattled

LABELLED = replace(
    SYSTEMS["triclinic"],
    energy=-3.5,
    forces=np.arange(12.0).reshape(4, 3),
    stress=np.arange(6.0),
    weight=2.0,
)


def brute_force(structure: Structure, cutoff: float) -> list[tuple]:
    """(i, j, displacement) of all directed pairs, by trying every image that could matter."""
    heights = 1 / np.linalg.norm(np.linalg.inv(full_cell(structure)), axis=0)
    spread = np.ptp(structure.positions, axis=0).max()
    reach = [
        int((cutoff + spread) // h) + 2 if p else 0
        for h, p in zip(heights, structure.pbc, strict=True)
    ]
    found = []
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        offset = np.array(shift) @ structure.cell
        for i, j in itertools.product(range(len(structure)), repeat=2):
            d = structure.positions[j] - structure.positions[i] + offset
            if (any(shift) or i != j) and np.linalg.norm(d) < cutoff:
                found.append((i, j, d))
    return found


def full_cell(structure: Structure) -> np.ndarray:
    """The cell with unit vectors where it has none."""
    return structure.cell + np.diag([0.0 if row.any() else 1.0 for row in structure.cell])


def sorted_pairs(pairs: list[tuple]) -> np.ndarray:
    rows = np.array([(i, j, *np.round(d, 9)) for i, j, d in pairs]).reshape(-1, 5)
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("name", SYSTEMS)
def test_pairs_are_those_of_a_brute_force_search(name: str) -> None:
    structure = SYSTEMS[name]
    count, neighbour, displacement = neighbour_pairs(structure, LIST_CUTOFF)
    centre = np.repeat(np.arange(len(structure)), count)
    assert count.shape == (len(structure),)
    found = sorted_pairs(list(zip(centre, neighbour, displacement, strict=True)))
    expected = sorted_pairs(brute_force(structure, LIST_CUTOFF))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-9)


@pytest.mark.parametrize("signs", list(itertools.product([-60, 3, 200], repeat=3)))
def test_pairs_do_not_depend_on_where_atoms_lie(signs: tuple[int, ...], rng) -> None:
    structure = free([14] * 12, rng.uniform(0, 8, (12, 3)))
    moved = replace(structure, positions=structure.positions + signs)
    for pbc in ((False, False, False), (True, False, True)):
        cell = np.diag([9.0, 9.5, 10.0])
        count = [
            neighbour_pairs(replace(s, cell=cell, pbc=np.array(pbc)), LIST_CUTOFF)[0]
            for s in (structure, moved)
        ]
        np.testing.assert_array_equal(*count)


@pytest.mark.parametrize(
    ("width", "axes"),
    [(2e3, 2), (5e3, 2), (5e5, 1), (1e6, 3)],
    ids=["sheet", "wide", "wire", "all"],
)
def test_wide_and_flat_structures(width: float, axes: int) -> None:
    """Two dimers far from each other; vesin alone would end the process here."""
    far = np.where(np.arange(3) < axes, width, 0.0)
    structure = free([14] * 4, [[0, 0, 0], [1.5, 0, 0], far, np.add(far, [1.5, 0, 0])])
    count, neighbour, _ = neighbour_pairs(structure, LIST_CUTOFF)
    assert count.tolist() == [1, 1, 1, 1]
    assert neighbour.tolist() == [1, 0, 3, 2]


def test_an_atom_that_flew_off_is_an_error() -> None:
    structure = free([14] * 3, [[0, 0, 0], [1.5, 0, 0], [1e9, 1e9, 0]])
    with pytest.raises(InvalidInput, match="has an atom flown off"):
        neighbour_pairs(structure, LIST_CUTOFF)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("array", ["positions", "cell"])
def test_numbers_that_are_not_finite_are_an_error(array: str, bad: float) -> None:
    structure = replace(SYSTEMS["triclinic"], source="a.xyz")
    values = getattr(structure, array).copy()
    values[1, 2] = bad
    with pytest.raises(InvalidInput, match=r"a\.xyz#0: .* not a finite number"):
        neighbour_pairs(replace(structure, **{array: values}), LIST_CUTOFF)


def test_every_pair_has_its_reverse() -> None:
    pairs = geometry([SYSTEMS["left-handed"]]).batch().pairs
    _, centre, neighbour = pairs.explicit()
    total = torch.zeros(4, 4, 3, dtype=torch.float64)
    total.index_put_((centre, neighbour), pairs.displacement, accumulate=True)
    torch.testing.assert_close(total, -total.transpose(0, 1))


def test_batch_holds_labels_in_the_order_asked_for() -> None:
    whole = geometry([SYSTEMS["two species"], LABELLED, SYSTEMS["molecule"]])
    batch = whole.batch([2, 1])
    assert batch.n_structures == 2
    assert batch.n_atoms == 5 + 4
    assert batch.structure.tolist() == [0] * 5 + [1] * 4
    assert batch.atoms_per_structure.tolist() == [5, 4]
    assert batch.labels["energy"].tolist() == [0, -3.5]
    assert batch.present["energy"].tolist() == batch.present["forces"].tolist() == [False, True]
    assert batch.present["stress"].tolist() == [False, True]
    assert batch.weight.tolist() == [1, 2]
    np.testing.assert_array_equal(batch.labels["forces"][5:].numpy(), LABELLED.forces)
    np.testing.assert_array_equal(batch.labels["stress"][1].numpy(), LABELLED.stress)
    assert batch.volume.tolist() == pytest.approx([0, LABELLED.volume])
    assert batch.indices.tolist() == [2, 1]


def test_species_are_indices_into_the_potential() -> None:
    batch = geometry([SYSTEMS["molecule"]], (1, 6, 8, 79)).batch()
    assert batch.species.tolist() == [2, 0, 0, 1, 0]


def test_neighbours_of_a_batch_are_atoms_of_the_same_structure() -> None:
    names = ["molecule", "bulk", "slab", "isolated atom"]
    batch = geometry([SYSTEMS[n] for n in names]).batch([3, 0, 2])
    _, centre, neighbour = batch.pairs.explicit()
    assert torch.equal(batch.structure[centre], batch.structure[neighbour])


def test_pairs_beyond_the_memory_limit_are_found_again() -> None:
    structures = [SYSTEMS["bulk"], SYSTEMS["molecule"], SYSTEMS["slab"]]
    species = elements(*structures)
    kept = Geometry(structures, species, LIST_CUTOFF)
    small = Geometry(structures, species, LIST_CUTOFF, memory_limit=1e-9)
    assert kept.cached
    assert not small.cached
    assert kept.n_pairs == len(kept.batch().pairs.displacement)
    assert small.n_pairs is None
    one, two = kept.batch([2, 0]), small.batch([2, 0])
    for index, value in enumerate(one.pairs.explicit()[1:]):
        assert torch.equal(value, two.pairs.explicit()[1:][index])
    rows, other = one.pairs.explicit()[0], two.pairs.explicit()[0]
    assert torch.equal(one.pairs.displacement[rows], two.pairs.displacement[other])


def test_a_stress_label_counts_only_in_three_periodic_directions() -> None:
    slab = replace(SYSTEMS["slab"], stress=np.ones(6))
    batch = geometry([slab]).batch()
    assert not batch.present["stress"].any()
    assert not batch.volume.any()


def test_volume_of_a_left_handed_cell_is_positive() -> None:
    structure = SYSTEMS["left-handed"]
    assert np.linalg.det(structure.cell) < 0
    assert structure.volume > 0
    assert geometry([structure]).batch().volume.item() == pytest.approx(structure.volume)


def test_an_unknown_element_is_named_with_its_frame() -> None:
    stranger = replace(free([2], [[0, 0, 0]]), source="gas.xyz", index=3)
    with pytest.raises(
        InvalidInput, match=r"gas\.xyz#3: element He is not in the potential \(Si\)"
    ):
        geometry([SYSTEMS["bulk"], stranger], (14,))


def test_no_structures() -> None:
    nothing = Geometry([], (14,), 5.0)
    assert len(nothing) == 0
    assert nothing.batch().n_atoms == 0


def test_single_precision_pairs() -> None:
    batch = geometry([rattled([14])], dtype=torch.float32).batch()
    assert batch.pairs.displacement.dtype == torch.float32
    assert batch.labels["energy"].dtype == torch.float64
