"""Errors against labels: known answers, masks, breakdowns, file round trip."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from ase.units import GPa

from mtp.structure import Structure
from stages.metrics import (
    Predictions,
    by_config_type,
    by_element,
    by_file,
    metrics,
    read_predictions,
    set_metrics,
    worst_frames,
    write_predictions,
)


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
    return Predictions.collect(structures, np.array([-9.8, 3.0]), forces, stress)


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
    one = Predictions.collect([molecule], np.zeros(1), np.zeros((1, 3)), np.full((1, 6), np.nan))
    assert not [key for key in set_metrics(one) if key.startswith("stress")]


def test_nothing_at_all():
    none = Predictions.collect([], np.zeros(0), np.zeros((0, 3)), np.zeros((0, 6)))
    assert set_metrics(none) == {"frames": 0, "atoms": 0}
    assert worst_frames(none, "forces") == []


def test_prediction_that_is_not_finite_names_the_frame():
    structures = [crystal([14], index=7)]
    with pytest.raises(FloatingPointError, match=r"a\.xyz#7"):
        Predictions.collect(structures, np.zeros(1), np.full((1, 3), np.nan), np.zeros((1, 6)))


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
    for f in fields(two):
        read = getattr(back["default"]["train"], f.name)
        np.testing.assert_array_equal(read, getattr(two, f.name))
    assert metrics(back)["default"]["test"]["frames"] == 1
