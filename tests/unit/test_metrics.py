"""Errors against labels: known answers, masks, breakdowns, file round trip."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import GPa

from mtp.structure import Structure
from stages.metrics import (
    by_config_type,
    by_element,
    by_file,
    metrics,
    set_metrics,
    worst_frames,
)
from stages.predictions import Predictions, read_predictions, write_predictions


def crystal(numbers, *, periodic=True, index=0, source="a.xyz", config_type="", **labels):
    return Structure(
        numbers=np.array(numbers),
        positions=np.arange(3.0 * len(numbers)).reshape(-1, 3),
        cell=np.eye(3) * 10,
        pbc=np.full(3, periodic),
        index=index,
        source=source,
        config_type=config_type,
        **labels,
    )


@pytest.fixture
def two():
    """Two silicon atoms with every label and one oxygen molecule with forces only."""
    structures = [
        crystal([14, 14], energy=-10.0, forces=np.zeros((2, 3)), stress=np.zeros(6)),
        crystal([8], forces=np.ones((1, 3)), source="b.xyz", index=4, config_type="gas"),
    ]
    forces = np.array([[0.3, 0, 0], [0, -0.1, 0], [1, 1, 1.2]])
    stress = np.array([[GPa, 0, 0, 0, 0, -2 * GPa], [0] * 6])
    values = {"energy": np.array([-9.8, 3.0]), "forces": forces, "stress": stress}
    return Predictions.collect(structures, values)


def test_known_errors(two):
    values = set_metrics(two)
    assert values["frames"] == 2
    assert values["atoms"] == 3
    # the energy error is per atom of the frame, over the labelled frame alone
    assert values["energy_mae_meV_per_atom"] == pytest.approx(100.0)
    assert values["energy_rmse_meV_per_atom"] == pytest.approx(100.0)
    assert values["forces_mae_meV_per_A"] == pytest.approx(600 / 9)
    assert values["forces_rmse_meV_per_A"] == pytest.approx(1e3 * np.sqrt(0.14 / 9))
    assert values["forces_max_meV_per_A"] == pytest.approx(300)
    assert values["stress_mae_GPa"] == pytest.approx(3 / 6)
    assert values["stress_rmse_GPa"] == pytest.approx(np.sqrt(5 / 6))
    assert values["stress_mae_meV_per_A3"] == pytest.approx(1e3 * GPa / 2)


def test_absent_label_has_no_key(two):
    values = set_metrics(two.select(np.array([False, True])))
    assert not [key for key in values if key.startswith(("energy", "stress"))]
    assert values["forces_max_meV_per_A"] == pytest.approx(200)


def test_stress_of_a_molecule_is_no_label():
    molecule = crystal([8], periodic=False, stress=np.ones(6), energy=0.0)
    values = {"energy": np.zeros(1), "forces": np.zeros((1, 3)), "stress": np.full((1, 6), np.nan)}
    one = Predictions.collect([molecule], values)
    assert not [key for key in set_metrics(one) if key.startswith("stress")]


def test_nothing_at_all():
    values = {"energy": np.zeros(0), "forces": np.zeros((0, 3)), "stress": np.zeros((0, 6))}
    none = Predictions.collect([], values)
    assert set_metrics(none) == {"frames": 0, "atoms": 0}
    assert worst_frames(none, "forces") == []


def test_prediction_that_is_not_finite_names_the_frame():
    structures = [crystal([14], index=7)]
    with pytest.raises(FloatingPointError, match=r"a\.xyz#7"):
        Predictions.collect(structures, {"forces": np.full((1, 3), np.nan)})


def test_breakdowns_recombine_to_the_whole(two):
    whole = set_metrics(two)
    elements = by_element(two)
    assert set(elements) == {"Si", "O"}
    assert elements["Si"]["atoms"] == 2
    mean = sum(row["atoms"] * row["forces_mae_meV_per_A"] for row in elements.values()) / 3
    assert mean == pytest.approx(whole["forces_mae_meV_per_A"])
    files = by_file(two)
    assert set(files) == {"a.xyz", "b.xyz"}
    square = sum(files[f]["atoms"] * files[f]["forces_rmse_meV_per_A"] ** 2 for f in files) / 3
    assert np.sqrt(square) == pytest.approx(whole["forces_rmse_meV_per_A"])
    assert set(by_config_type(two)) == {"", "gas"}


def test_no_config_types_no_breakdown(two):
    assert by_config_type(two.select(np.array([True, False]))) == {}


def test_worst_frames(two):
    first, second = worst_frames(two, "forces")
    assert first["where"] == "a.xyz#0"
    assert first["error"] == pytest.approx(300)
    assert (first["atom"], first["element"]) == (0, "Si")
    assert second["where"] == "b.xyz#4"
    assert second["atom"] == 0
    (only,) = worst_frames(two, "stress")
    assert only["error"] == pytest.approx(2)
    assert worst_frames(two, "energy", 5)[0]["error"] == pytest.approx(100)
    assert len(worst_frames(two, "forces", 1)) == 1


def test_predictions_file_round_trip(two, tmp_path):
    path = tmp_path / "predictions.npz"
    first = two.select(np.array([True, False]))
    write_predictions(path, {"default": {"train": two, "test": first}})
    back = read_predictions(path)
    assert {head: list(sets) for head, sets in back.items()} == {"default": ["train", "test"]}
    read = back["default"]["train"]
    for name in ("atoms_per_structure", "numbers", "source", "index", "config_type"):
        np.testing.assert_array_equal(getattr(read, name), getattr(two, name))
    for name in ("labels", "predicted"):
        one, other = getattr(read, name), getattr(two, name)
        assert list(one) == list(other) == ["energy", "forces", "stress"]
        for term in one:
            np.testing.assert_array_equal(one[term], other[term])
    assert metrics(back)["default"]["test"]["frames"] == 1


@pytest.fixture
def tensors():
    """Two waters, one without a label of the structure, dipoles of oxygen atoms alone."""
    atomic = np.array([[0.1, 0.2, 0.3], [9.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    water = [8, 1, 1]
    structures = [
        crystal(water, periodic=False, dipole=np.array([0.3, 0.0, 0.0])),
        crystal(water, periodic=False, atomic_dipole=atomic, source="b.xyz"),
    ]
    values = {"dipole": np.array([[0.9, 0, -0.3], [5, 5, 5]]), "atomic_dipole": np.zeros((6, 3))}
    return Predictions.collect(structures, values, selected=(8,))


def test_known_errors_of_dipoles(tensors):
    values = set_metrics(tensors)
    assert values["dipole_mae_eA_per_atom"] == pytest.approx((0.2 + 0 + 0.1) / 3)
    assert values["dipole_rmse_eA_per_atom"] == pytest.approx(np.sqrt(0.05 / 3))
    assert values["atomic_dipole_mae_eA"] == pytest.approx(0.2)  # hydrogen has none
    assert values["atomic_dipole_max_eA"] == pytest.approx(0.3)
    assert not [key for key in values if key.startswith(("energy", "polarizability"))]
    assert by_element(tensors)["O"] == {"atoms": 1} | {
        key: value for key, value in values.items() if key.startswith("atomic")
    }
    assert list(by_element(tensors)) == ["O"]


def test_known_errors_of_polarizabilities():
    label = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.6])
    atoms = [crystal([8, 1], polarizability=label, atomic_polarizability=np.zeros((2, 6)))]
    atomic = np.zeros((2, 6))
    atomic[1, 4] = 0.6
    values = {"polarizability": label[None] + 0.6, "atomic_polarizability": atomic}
    found = set_metrics(Predictions.collect(atoms, values))
    assert found["polarizability_mae_A3_per_atom"] == pytest.approx(0.3)
    assert found["atomic_polarizability_mae_A3"] == pytest.approx(0.05)
    (worst,) = worst_frames(Predictions.collect(atoms, values), "atomic_polarizability")
    assert (worst["error"], worst["element"], worst["atom"]) == (pytest.approx(0.6), "H", 1)


def test_worst_dipoles(tensors):
    (worst,) = worst_frames(tensors, "dipole")
    assert worst["error"] == pytest.approx(np.sqrt(0.04 + 0.01))
    (worst,) = worst_frames(tensors, "atomic_dipole")
    assert (worst["where"], worst["atom"], worst["element"]) == ("b.xyz#0", 0, "O")


def test_tensors_round_trip(tensors, tmp_path):
    write_predictions(tmp_path / "p.npz", {"mu": {"test": tensors}})
    back = read_predictions(tmp_path / "p.npz")["mu"]["test"]
    assert set_metrics(back) == set_metrics(tensors)
    assert set_metrics(back.select(np.array([False, True])))["atoms"] == 3
