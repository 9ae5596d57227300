"""Which values become labels."""

from __future__ import annotations

import numpy as np
import pytest
from data_systems import crystal
from numpy.testing import assert_allclose

from mtp.data import DataError, LabelKeys, iread, read, write


def one(tmp_path, info, columns="", values="", **keys):
    path = tmp_path / "a.xyz"
    properties = f"Properties=species:S:1:pos:R:3{columns}"
    path.write_text(f"1\nLattice='4 0 0 0 4 0 0 0 4' {properties} {info}\nSi 0 0 0 {values}\n")
    return read(path, **keys)[0]


@pytest.mark.parametrize("name", ["energy", "REF_energy", "dft_energy", "free_energy"])
def test_usual_names(tmp_path, name) -> None:
    item = one(tmp_path, f"{name}=-2.5", ":REF_forces:R:3", "1 2 3")
    assert item.energy == -2.5
    assert_allclose(item.forces, [[1, 2, 3]])
    assert item.stress is None


def test_absent_labels_stay_absent(tmp_path) -> None:
    item = one(tmp_path, "note=1")
    assert (item.energy, item.forces, item.stress) == (None, None, None)


def test_a_given_key_wins(tmp_path) -> None:
    item = one(tmp_path, "energy=1 mine=2", energy_key="mine")
    assert item.energy == 2


def test_two_usual_names_that_disagree_are_named(tmp_path) -> None:
    with pytest.warns(UserWarning, match="took 'energy'.*set energy_key"):
        assert one(tmp_path, "energy=1 REF_energy=2").energy == 1
    assert one(tmp_path, "energy=1 REF_energy=1 free_energy=0.9").energy == 1


def test_a_key_that_is_nowhere_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match="energy_key 'E' is in no frame; names there: e, f"):
        one(tmp_path, "e=1", ":f:R:3", "1 2 3", energy_key="E")
    with pytest.raises(DataError, match="weight_key 'w'"):
        one(tmp_path, "e=1", weight_key="w")


def test_a_given_virial_has_the_opposite_sign(tmp_path) -> None:
    item = one(tmp_path, "my_virial='64 0 0 0 128 0 0 0 0'", stress_key="my_virial")
    assert_allclose(item.stress, [-1, -2, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("info", "keys", "message"),
    [
        ("energy='1 2'", {}, "#0: 'energy' must have 1 numbers, got 2"),
        ("energy=none", {}, "#0: 'energy' must be numbers, got 'none'"),
        ("stress='1 2 3'", {}, "'stress' must have 6 or 9 numbers, got 3"),
        ("dipole='1 2'", {}, "'dipole' must have 3 numbers, got 2"),
        ("polarizability='1 2'", {}, "'polarizability' must have 9 or 6 numbers, got 2"),
        ("w=-1", {"weight_key": "w"}, "'w' must be a finite weight >= 0, got -1"),
    ],
)
def test_labels_of_the_wrong_shape(tmp_path, info, keys, message) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, info, **keys)


def test_tensors_by_their_usual_names(tmp_path) -> None:
    info = "dipole='1 2 3' polarizability='_JSON [[1, 6, 5], [6, 2, 4], [5, 4, 3]]'"
    columns = ":atomic_dipole:R:3:atomic_polarizability:R:9"
    item = one(tmp_path, info, columns, "7 8 9 1 0 0 0 2 0 0 0 3")
    assert_allclose(item.dipole, [1, 2, 3])
    assert_allclose(item.polarizability, [1, 2, 3, 4, 5, 6])
    assert_allclose(item.atomic_dipole, [[7, 8, 9]])
    assert_allclose(item.atomic_polarizability, [[1, 2, 3, 0, 0, 0]])


def test_tensors_by_keys(tmp_path) -> None:
    keys = {"dipole_key": "mu", "polarizability_key": "alpha", "atomic_dipole_key": "wannier"}
    item = one(tmp_path, "mu='1 2 3' alpha='1 2 3 4 5 6'", ":wannier:R:3", "7 8 9", **keys)
    assert_allclose(item.dipole, [1, 2, 3])
    assert_allclose(item.polarizability, [1, 2, 3, 4, 5, 6])
    assert_allclose(item.atomic_dipole, [[7, 8, 9]])
    with pytest.raises(DataError, match="dipole_key 'd' is in no frame"):
        one(tmp_path, "mu='1 2 3'", dipole_key="d")


def test_a_tensor_must_be_symmetric(tmp_path) -> None:
    with pytest.raises(DataError, match="#0: 'polarizability' must be symmetric 3x3 tensors"):
        one(tmp_path, "polarizability='1 0 0.5 0 1 0 0 0 1'")
    with pytest.warns(UserWarning, match=r"not quite symmetric: made symmetric \(1 frames\)"):
        item = one(tmp_path, "polarizability='1 0 0.01 0 1 0 0 0 1'")
    assert_allclose(item.polarizability, [1, 1, 1, 0, 0.005, 0])


def test_rows_of_elements_that_a_head_leaves_out_are_zero(tmp_path) -> None:
    path = tmp_path / "a.xyz"
    properties = "Properties=species:S:1:pos:R:3:atomic_dipole:R:3"
    path.write_text(f"2\n{properties}\nO 0 0 0 1 2 3\nH 0 0 1 4 5 6\n")
    (item,) = iread(path, LabelKeys(selected=(8,)))
    assert_allclose(item.atomic_dipole, [[1, 2, 3], [0, 0, 0]])


def test_labels_that_are_not_asked_for_are_not_read(tmp_path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy=none dipole='1 2 3'\nSi 0 0 0\n")
    (item,) = iread(path, LabelKeys(terms=("dipole",)))
    assert item.energy is None
    assert_allclose(item.dipole, [1, 2, 3])


def test_the_dipole_of_an_ion_is_remarked_on(tmp_path) -> None:
    with pytest.warns(UserWarning, match="must not depend on where the origin is"):
        one(tmp_path, "dipole='1 2 3' charge=1")


def test_forces_of_the_wrong_length(tmp_path) -> None:
    with pytest.raises(DataError, match="'forces' must have 3 numbers, got 2"):
        one(tmp_path, "", ":forces:R:2", "1 2")


def test_frames_that_are_not_finite_are_left_out(tmp_path, rng) -> None:
    forces = np.full((3, 3), np.nan)
    bad = [crystal(rng, energy=float("nan")), crystal(rng, forces=forces)]
    write(tmp_path / "a.xyz", [crystal(rng), *bad])
    with pytest.warns(UserWarning, match=r"left out 2 frames.*#1.*#2"):
        found = read(tmp_path / "a.xyz")
    assert [item.index for item in found] == [0]
