""".mtp files: the same energies, forces and stresses as ours in an independent program."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from mtp.calculator import MTPCalculator
from mtp.errors import InvalidInput
from mtp.mlip_file import mlip_numbers, read_mtp, write_mtp
from mtp.mlip_import import load_mtp
from mtp.potential import Potential
from tests.potentials import SMALL, disordered, random_potential
from tests.reference.make_motep import motep_results

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = json.loads((REFERENCE / "motep.json").read_text())["cases"]


def our_results(potential: Potential, atoms: Atoms) -> dict[str, Any]:
    atoms = atoms.copy()
    atoms.calc = MTPCalculator(potential)
    return {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """To 1e-10 of the largest component: the rest is rounding in another order of sums."""
    for name, value in ours.items():
        expected = np.asarray(theirs[name])
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def written(path: Path, potential: Potential) -> Path:
    with pytest.warns(UserWarning, match="below min_dist"):
        write_mtp(path, potential)
    return path


@pytest.mark.parametrize("name", CASES)
def test_equals_stored_values_of_motep(name: str) -> None:
    case = CASES[name]
    atoms = Atoms(case["numbers"], case["positions"], cell=case["cell"], pbc=True)
    assert_equal(our_results(load_mtp(REFERENCE / f"{name}.mtp"), atoms), case)


@pytest.mark.parametrize("species", [(14,), (13, 29), (3, 8, 22)])
@pytest.mark.parametrize("level", [(8, 2, 4, 1), SMALL, (10, 2, 4, 1), (10, 1, 3, 2)])
def test_equals_motep(
    tmp_path: Path, species: tuple[int, ...], level: tuple[int, int, int, int]
) -> None:
    pytest.importorskip("motep", reason="motep is not installed (extra: test)")
    potential, atoms = random_potential(species, level, seed=1), disordered(species, seed=1)
    path = written(tmp_path / "a.mtp", potential)
    assert_equal(our_results(potential, atoms), motep_results(path, species, atoms, "cext"))


@pytest.mark.parametrize("level", [(2, 2, 4, 1), (8, 2, 4, 1), SMALL])
def test_round_trip_is_exact(tmp_path: Path, level: tuple[int, int, int, int]) -> None:
    """17 digits; level 2 has no products at all."""
    potential = random_potential((8, 22), level)
    before, after = mlip_numbers(potential), read_mtp(written(tmp_path / "a.mtp", potential))
    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(after, name), value, err_msg=name)


def test_layout(tmp_path: Path) -> None:
    """Readers rely on this order of lines and on the tabs."""
    lines = written(tmp_path / "a.mtp", random_potential((8, 22), n_q=3)).read_text().splitlines()
    assert lines[0:2] == ["MTP", "version = 1.1.0"]
    assert [line.split("=")[0].strip() for line in lines[2:6]] == [
        "potential_name",
        "scaling",
        "species_count",
        "potential_tag",
    ]
    assert lines[5] == "potential_tag = atomic_numbers 8 22"
    assert [line.split("=")[0] for line in lines[6:13]] == [
        "radial_basis_type ",
        "\tmin_dist ",
        "\tmax_dist ",
        "\tradial_basis_size ",
        "\tradial_funcs_count ",
        "\tradial_coeffs",
        "\t\t0-0",
    ]
    assert lines[13].startswith("\t\t\t{")
    assert [line.split("=")[0].strip() for line in lines[24:]] == [
        "alpha_moments_count",
        "alpha_index_basic_count",
        "alpha_index_basic",
        "alpha_index_times_count",
        "alpha_index_times",
        "alpha_scalar_moments",
        "alpha_moment_mapping",
        "species_coeffs",
        "moment_coeffs",
    ]


def test_neural_readout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot express a neural readout: .*nn_dim_list"):
        write_mtp(tmp_path / "a.mtp", random_potential((14,), hidden=(4,)))
    assert not (tmp_path / "a.mtp").exists()


def test_binary_tail_of_almtp_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mtp", random_potential((14,)))
    plain = read_mtp(path)
    path.write_bytes(path.read_bytes() + b"#MVS_v1.1\n\xff\xfe\x00")
    np.testing.assert_array_equal(read_mtp(path).moment_coeffs, plain.moment_coeffs)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MTP", "NTP", "first line must be MTP"),
        ("1.1.0", "1.2.0", "version 1.1.0 is read, got 1.2.0"),
        ("RBChebyshev", "RBShapeev", "only RBChebyshev potentials are read, got RBShapeev"),
        ("moment_coeffs", "moments", "untrained or damaged .mtp: moment_coeffs missing"),
        ("{", "{x", "damaged"),
        ("radial_basis_size = 5", "radial_basis_size = 4", "damaged"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path / "a.mtp", random_potential((14,)))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InvalidInput, match=message):
        read_mtp(path)


def test_warning_is_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_mtp(tmp_path / "a.mtp", random_potential((14,)))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
