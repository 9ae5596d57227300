""".mtp files: the same energies, forces and stresses as ours in an independent program."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from mtp.calculator import MTPCalculator
from mtp.errors import InvalidInput
from mtp.mlip_file import mlip_numbers, read_mtp, write_mtp
from mtp.mlip_import import load_mtp, load_template
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
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
        ("moment_coeffs", "moments", "damaged .mtp file: moment_coeffs missing"),
        ("{", "{x", "damaged"),
        ("radial_basis_size = 5", "radial_basis_size = 4", "damaged"),
        ("\tradial_coeffs", "magnetic_basis_type = BChebyshev", "a magnetic potential"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path / "a.mtp", random_potential((14,)))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InvalidInput, match=message):
        read_mtp(path)


def test_head_by_name(tmp_path: Path) -> None:
    one = random_potential((14,))
    heads = tuple(HeadSpec(name) for name in ("pbe", "scan"))
    several = Potential(replace(one.spec, heads=heads))
    several.heads["scan"].last.weight.data.fill_(1.0)
    with pytest.raises(InvalidInput, match=r"holds one head: name one of pbe, scan \(--head\)"):
        mlip_numbers(several)
    with pytest.raises(InvalidInput, match="must be one of pbe, scan of this potential, got lda"):
        mlip_numbers(several, "lda")
    assert (mlip_numbers(several, "scan").moment_coeffs == 1).all()


def test_tensor_heads_are_refused() -> None:
    spec = replace(random_potential((14,)).spec, heads=(HeadSpec("mu", "dipole", level=6),))
    with pytest.raises(InvalidInput, match="holds energies, and head mu is a dipole"):
        mlip_numbers(Potential(spec))


def test_type_embedding_becomes_a_table(tmp_path: Path) -> None:
    """The file has coefficients for every pair of species, as a potential without embedding."""
    one = random_potential((8, 22))
    potential = Potential(replace(one.spec, embedding=EmbeddingSpec((4,))))
    for k, parameter in enumerate(potential.parameters()):
        torch.nn.init.uniform_(parameter, -0.5, 0.5, generator=torch.Generator().manual_seed(k))
    loaded = load_mtp(written(tmp_path / "a.mtp", potential))
    assert loaded.spec == one.spec
    atoms = disordered((8, 22))
    assert_equal(our_results(loaded, atoms), our_results(potential, atoms))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("level", [(2, 2, 4, 1), (8, 2, 4, 1), SMALL])
def test_files_of_motep(tmp_path: Path, level: tuple[int, int, int, int], legacy: bool) -> None:
    """What MOTEP writes, in both of its dialects (it reads the older one only)."""
    mlip = pytest.importorskip("motep.io.mlip.mtp", reason="motep is not installed (extra: test)")
    potential, atoms = random_potential((8, 22), level), disordered((8, 22))
    data = mlip.read_mtp(written(tmp_path / "a.mtp", potential))
    mlip.write_mtp(tmp_path / "b.mtp", data, legacy=legacy)
    mlip.write_mtp(tmp_path / "c.mtp", data, legacy=True)
    loaded = load_mtp(tmp_path / "b.mtp")
    expected = motep_results(tmp_path / "c.mtp", (8, 22), atoms, "numpy")
    assert_equal(our_results(loaded, atoms), expected)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"min_dist": "min_val", "max_dist": "max_val", "radial_basis_size": "basis_size"},
        {"min_dist": "min", "max_dist": "max", "radial_basis_size": "size"},
    ],
)
def test_dialects(tmp_path: Path, names: dict[str, str]) -> None:
    """Other names of the lines about the radial basis; a scaling there multiplies the first."""
    path = written(tmp_path / "a.mtp", random_potential((8, 22)))
    before, text = read_mtp(path), path.read_text()
    for usual, other in names.items():
        text = text.replace(f"\t{usual} =", f"\t{other} =")
    text = text.replace("radial_basis_type = RBChebyshev", "radial_basis_type = RBChebyshev\r")
    path.write_text(text.replace("RBChebyshev\r\n", "RBChebyshev\n\tscaling = 5e-1\n"))
    after = read_mtp(path)
    assert after.scaling == 0.5 * before.scaling
    assert (after.min_dist, after.max_dist) == (before.min_dist, before.max_dist)
    np.testing.assert_array_equal(after.radial, before.radial)


def test_template(tmp_path: Path) -> None:
    """What MLIP ships: a basis without coefficients."""
    path = template(tmp_path / "12.mtp", random_potential((14,), (12, 2, 4, 1)))
    numbers = read_mtp(path)
    assert not numbers.trained
    assert numbers.radial.shape == (1, 1, 3, 5)
    assert not numbers.moment_coeffs.any()
    with pytest.raises(InvalidInput, match="an untrained template; train it: name it as reload_"):
        load_mtp(path)
    spec = load_template(path, [22, 8])
    assert spec == PotentialSpec((8, 22), 5.0, 1.5, 5, 12)


def template(path: Path, potential: Potential) -> Path:
    """The potential's file without what training finds."""
    lines = written(path, potential).read_text().splitlines(keepends=True)
    coefficients = ("\tradial_coeffs", "\t\t", "species_coeffs", "moment_coeffs", "potential_")
    path.write_text("".join(line for line in lines if not line.startswith(coefficients)))
    return path


def test_warning_is_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_mtp(tmp_path / "a.mtp", random_potential((14,)))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
