"""Active sets over all coefficients, and the .almtp files that hold them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.mlip_file import mlip_numbers, read_mtp, write_mtp
from mtp.mlip_selection import coefficient_rows, read_selection, select_rows, write_almtp
from mtp.potential import Potential
from mtp.structure import Structure
from tests.potentials import SMALL, disordered, random_potential

SPECIES = (8, 14)


def structures(count: int, start: int = 0) -> list[Structure]:
    made = [disordered(SPECIES, seed) for seed in range(start, start + count)]
    return [Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in made]


def rows_of(potential: Potential, structure: Structure) -> np.ndarray:
    batch = Geometry([structure], SPECIES, potential.spec.cutoff).batch()
    return coefficient_rows(potential, batch.pairs)


@pytest.mark.parametrize("level", [(6, 2, 4, 1), SMALL])
def test_rows_are_derivatives_of_energies(level: tuple[int, int, int, int]) -> None:
    """Linear coefficients exactly; radial ones by central differences."""
    potential = random_potential(SPECIES, level)
    batch = Geometry(structures(1), SPECIES, potential.spec.cutoff).batch()
    rows, numbers = coefficient_rows(potential, batch.pairs), mlip_numbers(potential)
    n = numbers.radial.size
    linear = np.concatenate([numbers.shifts, numbers.moment_coeffs])
    energies = potential.predict(batch).energies.numpy()
    assert_allclose(rows[:, n:] @ linear, energies, rtol=1e-12)
    step, scale = 1e-5, potential.radial_scale
    for column in (0, 3, n // 2, n - 1):
        index = np.unravel_index(column, numbers.radial.shape)
        moved = []
        for sign in (1, -1):
            other = random_potential(SPECIES, level)
            with torch.no_grad():
                other.radial[index] += sign * step / scale[index[3]]
            moved.append(other.predict(batch).energies.numpy())
        slope = (moved[0] - moved[1]) / (2 * step)
        assert_allclose(rows[:, column], slope, rtol=0, atol=1e-7 * np.abs(rows).max())


@pytest.mark.parametrize("neighbourhood", [True, False])
def test_grades_of_what_was_selected(neighbourhood: bool) -> None:
    """Training rows grade 1 at most (up to the tolerance), rows twice as large twice as much."""
    potential, given = random_potential(SPECIES, (6, 2, 4, 1)), structures(12)
    selection = select_rows(potential, given, neighbourhood=neighbourhood)
    assert_allclose(selection.rows @ selection.inverse, np.eye(len(selection.rows)), atol=1e-6)
    for structure in given:
        rows = rows_of(potential, structure)
        rows = rows if neighbourhood else rows.sum(0, keepdims=True)
        grades = selection.grades(rows)
        assert grades.max() < 1.02
        assert_allclose(selection.grades(2 * rows), 2 * grades)
    squeezed = replace(given[0], positions=0.8 * given[0].positions, cell=0.8 * given[0].cell)
    assert selection.grades(rows_of(potential, squeezed).sum(0, keepdims=True)).max() > 10


def test_file_comes_back(tmp_path: Path) -> None:
    potential = random_potential(SPECIES, (6, 2, 4, 1))
    selection = select_rows(potential, structures(3))
    write_almtp(tmp_path / "a.almtp", potential, selection)
    found = read_selection(tmp_path / "a.almtp")
    for name, value in vars(selection).items():
        assert_array_equal(getattr(found, name), value, err_msg=name)
    assert_array_equal(
        read_mtp(tmp_path / "a.almtp").moment_coeffs, mlip_numbers(potential).moment_coeffs
    )


def test_layout(tmp_path: Path) -> None:
    """Byte by byte what other programs expect: weights, '#', two matrices, origins."""
    potential = random_potential((14,), (2, 2, 4, 1), n_q=2)
    given = [disordered((14,))]
    given = [Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in given]
    selection = select_rows(potential, given)
    write_almtp(tmp_path / "a.almtp", potential, selection)
    with pytest.warns(UserWarning, match="below min_dist"):
        write_mtp(tmp_path / "a.mtp", potential)
    content, text = ((tmp_path / f"a.{suffix}").read_bytes() for suffix in ("almtp", "mtp"))
    n = len(selection.rows)
    assert n == 2 + 1 + 1
    header = (
        b"\n#MVS_v1.1\n"
        b"energy_weight 0.0000000000000000e+00\nforce_weight 0.0000000000000000e+00\n"
        b"stress_weight 0.0000000000000000e+00\nsite_en_weight 1.0000000000000000e+00\n"
        b"weight_scaling 0\n#"
    )
    assert content.startswith(text + header)
    rest = content[len(text + header) :]
    rows, inverse = np.frombuffer(rest, "<f8", 2 * n * n).reshape(2, n, n)
    assert_array_equal(rows, selection.rows)
    assert_allclose(inverse @ rows.T, np.eye(n), atol=1e-9)  # grade: max_i |Σ_j b_j inverse[i, j]|
    assert rest[16 * n * n :] == b"\n#\n" + b"-1 -1\n" * n + b"#\n"


def test_no_active_set(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="below min_dist"):
        write_mtp(tmp_path / "a.almtp", random_potential(SPECIES))
    assert read_selection(tmp_path / "a.almtp") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (rb"weight_scaling 0\n#", rb"weight_scaling 0\n#12345678", "not one over its 16 coeff"),
        (rb"site_en_weight 1", rb"site_en_weight x", "damaged weights of the active set"),
        (rb"force_weight 0", rb"force_weight 1", "rows must be of atoms"),
        (rb"energy_weight 0", rb"energy_weight 1", "energies and forces or stresses is not read"),
        (rb"-1 -1\n#\n", b"", "must say the origin of its 16 rows"),
    ],
)
def test_damage(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    potential = random_potential((14,), (6, 2, 4, 1))
    path = tmp_path / "a.almtp"
    made = [disordered((14,))]
    given = [Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in made]
    write_almtp(path, potential, select_rows(potential, given))
    path.write_bytes(re.sub(old, new, path.read_bytes(), count=1))
    with pytest.raises(InvalidInput, match=message):
        read_selection(path)


def test_set_of_another_potential(tmp_path: Path) -> None:
    potential = random_potential(SPECIES, (6, 2, 4, 1))
    selection = select_rows(potential, structures(1))
    other = random_potential(SPECIES, (8, 2, 4, 1))
    with pytest.raises(InvalidInput, match="must have 51 rows and columns, one for each coeff"):
        write_almtp(tmp_path / "a.almtp", other, selection)
