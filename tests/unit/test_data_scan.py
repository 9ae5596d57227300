"""Filters, duplicates and the scan's report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from data_systems import crystal, molecule

from mtp.baseline import fit_shifts, is_isolated
from mtp.data import DataError, select
from mtp.data.scan import coverage, min_distance, report, worst
from mtp.structure import Structure


def with_force(rng, norm: float) -> Structure:
    forces = np.zeros((3, 3))
    forces[1] = norm * np.array([0.6, 0.0, -0.8])
    return crystal(rng, forces=forces)


def test_max_forces_is_the_norm_and_strict(rng) -> None:
    items = [with_force(rng, norm) for norm in (1.0, 5.0, 5.001)]
    assert select(items, max_forces=5.0).structures == items[:2]


def test_max_energy_is_one_sided_and_per_atom(rng) -> None:
    items = [crystal(rng, energy=energy) for energy in (-1e4, -3.0, -2.9)]
    assert select(items, max_energy=-1.0).structures == items[:2]


def test_max_energy_above_the_shifts(rng) -> None:
    items = [crystal(rng, energy=energy) for energy in (-900.0, -897.0, -894.0)]
    shifts = fit_shifts([], (29, 46), {"Cu": -300.0, "Pd": -300.0})
    assert select(items, max_energy=1.5, shifts=shifts).structures == items[:2]
    # raw energies cannot be compared with such a threshold: everything passes, and we say so
    raw = select(items, max_energy=1.5)
    assert len(raw.structures) == 3
    assert 'set max_energy_reference to "e0"' in raw.warnings[0]


def test_frames_without_a_label_pass_its_filter(rng) -> None:
    item = crystal(rng, energy=None, forces=None)
    assert select([item], max_energy=-100, max_forces=0.1).structures == [item]


@pytest.mark.parametrize("name", ["positions", "cell", "forces", "stress", "energy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(rng, name, value) -> None:
    good = crystal(rng)
    bad = replace(good, **{name: np.asarray(getattr(good, name)) * value})
    selection = select([bad, good])
    assert selection.structures == [good]
    assert selection.dropped == {"made": Counter(nonfinite=1)}


def test_duplicates(rng) -> None:
    item = crystal(rng)
    nudged = replace(item, positions=item.positions + 5e-9)
    moved = replace(item, positions=item.positions + 1e-6)
    unlabelled = replace(item, stress=None)
    items = [item, nudged, moved, unlabelled, replace(item, weight=3.0)]
    selection = select(items)
    assert selection.structures == [item, moved, unlabelled]
    assert selection.dropped["made"] == Counter(duplicate=2)
    assert not selection.warnings
    assert select(items, drop_duplicates=False).structures == items


def test_the_bins_of_duplicates_have_no_edges(rng) -> None:
    """Whatever the position, a shift by less than the tolerance is found."""
    item = molecule(rng, (6,))
    for x in rng.uniform(-1e-6, 1e-6, 300):
        one = replace(item, positions=np.full((1, 3), x))
        other = replace(item, positions=one.positions + rng.uniform(-9e-9, 9e-9, (1, 3)))
        assert len(select([one, other]).structures) == 1


def test_same_geometry_other_energy_is_kept_and_named(rng) -> None:
    item = crystal(rng)
    other = replace(item, energy=item.energy + 0.5, index=7)
    selection = select([item, other])
    assert len(selection.structures) == 2
    assert "made#0 and made#7 (+0.5 eV)" in selection.warnings[0]


def test_many_dropped_frames_are_a_warning_and_all_an_error(rng) -> None:
    items = [with_force(rng, 1.0 + i) for i in range(10)]
    assert "dropped 2 of 10 frames (20 %): 2 by forces" in select(items, max_forces=8).warnings[0]
    bad = crystal(rng, energy=np.nan)
    with pytest.raises(DataError, match="no frame is left of 11: dropped 1 by nonfinite, 10 by f"):
        select([bad, *items], max_forces=0.5)


def test_smallest_distance_counts_periodic_images(rng) -> None:
    one = Structure(np.array([14]), np.zeros((1, 3)), np.diag([9, 2.5, 9]), np.ones(3, dtype=bool))
    slab = replace(one, pbc=np.array([True, False, True]), index=1)
    two = Structure(np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 1.25]]), index=2)
    assert min_distance([slab], 6.0) == (None, None)
    assert min_distance([slab, one], 6.0) == (2.5, "#0")
    assert min_distance([one, two], 6.0) == (1.25, "#2")


def test_worst_frames_are_those_of_largest_force(rng) -> None:
    items = [with_force(rng, float(i)) for i in range(20)]
    rows = worst(items)
    assert [round(row["max_force"]) for row in rows] == list(range(19, 9, -1))
    energies = [crystal(rng, forces=None, energy=3.0 * i) for i in range(20)]
    assert worst(energies)[0]["energy_per_atom"] == 19


def test_report(rng) -> None:
    bad = crystal(rng, energy=np.nan)
    water = molecule(rng, source="other", weight=2.0)
    items = [crystal(rng), crystal(rng, stress=None), bad, water]
    scan = json.loads(json.dumps(report(items, select(items), 6.0)))
    assert scan["frames"] == 3
    assert scan["elements"] == {"Cu": 4, "H": 2, "O": 1, "Pd": 2}
    made, other = scan["files"]
    counts = {"unlabelled": 0, "nonfinite": 1, "duplicate": 0, "energy": 0, "forces": 0}
    assert made == {"file": "made", "read": 3, **counts, "kept": 2}
    assert other["kept"] == 1
    first, second = scan["coverage"]
    assert (first["config_type"], first["energy"], first["forces"], first["stress"]) == (
        ("bulk", 2, 2, 1)
    )
    assert (second["file"], second["stress"], second["weight"]) == ("other", 0, 2.0)
    assert coverage([]) == []


def test_touching_atoms_are_named(rng) -> None:
    item = molecule(rng, (1, 1), positions=np.array([[0, 0, 0], [0, 0, 0.1]]))
    assert "0.100 Å apart in made#0" in report([item], select([item]), 6.0)["warnings"][0]


def test_the_smallest_distance_in_a_wide_flat_cell() -> None:
    flat = Structure(
        numbers=np.array([14]),
        positions=np.zeros((1, 3)),
        cell=np.diag([300.0, 300.0, 1.2]),
        pbc=np.ones(3, dtype=bool),
    )
    assert min_distance([flat], 6.0)[0] == pytest.approx(1.2)
    assert not is_isolated(flat)
    assert is_isolated(replace(flat, cell=np.diag([300.0, 300.0, 12.0])))
