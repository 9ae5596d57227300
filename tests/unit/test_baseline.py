"""Species shifts: known answers, and honesty about what compositions do not determine."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from data_systems import crystal, molecule
from numpy.testing import assert_allclose

from mtp.baseline import fit_shifts, is_isolated, isotropic_shifts
from mtp.data import DataError
from mtp.structure import Structure

TRUE = {1: -13.6, 6: -1030.0, 8: -2041.5}


def labelled(rng, numbers, noise: float = 0.0, **changes) -> Structure:
    energy = sum(TRUE[z] for z in numbers) + noise * len(numbers) * rng.normal()
    return molecule(rng, tuple(numbers), energy=float(energy), **changes)


def test_least_squares_finds_exact_shifts(rng) -> None:
    items = [labelled(rng, numbers) for numbers in ((1, 1), (6, 8), (6, 1, 1, 1, 1), (8, 8, 1))]
    shifts = fit_shifts(items, (1, 6, 8))
    assert_allclose(shifts.array, list(TRUE.values()), rtol=1e-12)
    assert shifts.rms < 1e-6
    assert shifts.undetermined == ()
    assert shifts.energy(items[1]) == pytest.approx(TRUE[6] + TRUE[8], rel=1e-12)


def test_species_may_stand_in_any_order(rng) -> None:
    items = [labelled(rng, numbers) for numbers in ((1, 1), (6, 8), (6, 1))]
    assert_allclose(fit_shifts(items, (8, 1, 6)).array, [TRUE[8], TRUE[1], TRUE[6]])


def test_noise_is_reported_per_atom(rng) -> None:
    items = [labelled(rng, rng.choice([1, 6, 8], 10), noise=0.02) for _ in range(300)]
    shifts = fit_shifts(items, (1, 6, 8))
    assert shifts.rms == pytest.approx(20, rel=0.15)
    assert_allclose(shifts.array, list(TRUE.values()), atol=0.05)


def test_weights_count(rng) -> None:
    items = [replace(labelled(rng, (1, 1)), energy=e, weight=w) for e, w in ((-2, 3.0), (-6, 1.0))]
    assert fit_shifts(items, (1,)).values == (pytest.approx(-1.5),)
    silent = [replace(item, weight=0.0) for item in items]
    assert fit_shifts(silent, (1,)).values == (pytest.approx(-2.0),)


def test_one_composition_takes_the_mean_energy_per_atom(rng) -> None:
    items = [labelled(rng, (8, 1, 1)) for _ in range(4)]
    shifts = fit_shifts(items, (1, 6, 8))
    mean = items[0].energy / 3
    assert_allclose(shifts.array, mean)
    assert shifts.undetermined == (("H", "O"), ("C",))
    assert "H O; C" in shifts.warnings[0]


def test_undetermined_directions_leave_the_rest_exact(rng) -> None:
    """C and O always come as CO: their sum is known, their difference is not."""
    items = [labelled(rng, numbers) for numbers in ((1, 1), (6, 8), (6, 8, 1), (6, 8, 6, 8, 1))]
    shifts = fit_shifts(items, (1, 6, 8))
    assert shifts.undetermined == (("C", "O"),)
    assert shifts.values[0] == pytest.approx(TRUE[1])
    assert shifts.values[1] == pytest.approx(shifts.values[2])
    assert shifts.rms < 1e-6


def test_no_energies_at_all(rng) -> None:
    shifts = fit_shifts([molecule(rng, energy=None)], (1, 8))
    assert shifts.values == (0.0, 0.0)
    assert shifts.rms is None
    assert "no frame has an energy" in shifts.warnings[0]


def test_isolated_atoms(rng) -> None:
    atoms = [molecule(rng, (z,), energy=e) for z, e in ((1, -13.0), (1, -13.6), (8, -2041.5))]
    box = Structure(
        np.array([6]), np.zeros((1, 3)), 12 * np.eye(3), np.ones(3, dtype=bool), -1030.0
    )
    crystal_of_one = replace(box, cell=3 * np.eye(3), energy=-2000.0)
    items = [*atoms, box, crystal_of_one, labelled(rng, (6, 8))]
    assert fit_shifts(items, (1, 6, 8), "isolated").values == (-13.6, -1030.0, -2041.5)
    assert not is_isolated(crystal_of_one)
    with pytest.raises(DataError, match='"isolated": no single-atom frame with an energy for C'):
        fit_shifts(atoms, (1, 6, 8), "isolated")


def test_given_shifts(rng) -> None:
    items = [labelled(rng, (8, 1, 1))]
    shifts = fit_shifts(items, (1, 8), {"O": -2041.5, "H": -13.6, "Xe": 0})
    assert shifts.values == (-13.6, -2041.5)
    assert shifts.warnings == ()
    far = fit_shifts(items, (1, 8), {"O": 0, "H": 0})
    assert "are e0 and energies from the same method?" in far.warnings[0]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"H": -1.0}, "no energy for O, given are"),
        ({"H": -1.0, "O": float("nan")}, "must be finite"),
        ({"H": -1.0, "Oo": -1.0}, r"\['Oo'\] are not element symbols"),
        ("mean", '"lstsq", "isolated" or energies by element, got \'mean\''),
    ],
)
def test_bad_modes(rng, mode, message) -> None:
    with pytest.raises(DataError, match=message):
        fit_shifts([molecule(rng)], (1, 8), mode)


def test_an_element_that_is_not_listed(rng) -> None:
    with pytest.raises(DataError, match=r"made#0: elements \['O'\] are not among \['H'\]"):
        fit_shifts([molecule(rng)], (1,))


def test_mixed_methods_are_noticed(rng) -> None:
    items = [crystal(rng, energy=energy) for energy in (-9.0, -9.3, -5000.0)]
    assert any("unexplained" in text for text in fit_shifts(items, (29, 46)).warnings)


def test_report_is_plain_data(rng) -> None:
    report = fit_shifts([labelled(rng, (8, 1, 1))], (1, 8)).as_dict()
    assert json.loads(json.dumps(report))["values"].keys() == {"H", "O"}


ALPHA = {1: 0.4, 6: 1.3, 8: 0.9}


def polarizable(rng, numbers, **changes) -> Structure:
    """Atoms that add isotropic polarizabilities, and something without a trace."""
    total = sum(ALPHA[z] for z in numbers)
    anisotropy = np.array([0.2, -0.3, 0.1, 0.5, 0.6, 0.7])
    value = np.array([total, total, total, 0, 0, 0]) + anisotropy
    return molecule(rng, tuple(numbers), energy=None, **{"polarizability": value} | changes)


def test_isotropic_shifts_of_structures(rng) -> None:
    items = [polarizable(rng, numbers) for numbers in ((1, 1), (6, 8), (8, 8, 1), (6,))]
    shifts = isotropic_shifts([*items, molecule(rng)], (1, 6, 8))
    assert_allclose(shifts.array, list(ALPHA.values()), rtol=1e-12)
    assert (shifts.unit, shifts.mode, shifts.frames) == ("Å³", "isotropic", 4)
    assert shifts.rms < 1e-9
    one = isotropic_shifts([polarizable(rng, (8, 1, 1))] * 3, (1, 8))
    assert_allclose(one.array, 1.7 / 3)
    assert one.undetermined == (("H", "O"),)
    assert "isotropic polarizabilities of H O" in one.warnings[0]


def test_isotropic_shifts_of_selected_species(rng) -> None:
    items = [polarizable(rng, numbers) for numbers in ((8, 1), (8, 8, 1, 1), (1,))]
    shifts = isotropic_shifts(items, (1, 8), selected=(8,))
    assert shifts.values == (0.0, pytest.approx(ALPHA[8] + ALPHA[1]))


def test_isotropic_shifts_of_atoms_win_over_those_of_structures(rng) -> None:
    atomic = np.zeros((3, 6))
    atomic[:, :3] = np.array([0.9, 0.3, 0.5])[:, None] + np.array([0.1, -0.1, 0])
    items = [molecule(rng, (8, 1, 1), atomic_polarizability=atomic), polarizable(rng, (6, 6))]
    shifts = isotropic_shifts(items, (1, 6, 8))
    assert_allclose(shifts.array, [0.4, 0.0, 0.9], atol=1e-15)
    assert shifts.undetermined == (("C",),)
    assert shifts.rms == pytest.approx(0.0, abs=1e-9)
