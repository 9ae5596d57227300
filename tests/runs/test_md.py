"""`mtp md`: from a model file or a teacher, stopped by the grade, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.io import read, write

from mtp import save_model
from mtp.geometry import Geometry
from mtp.grade import build_grading
from mtp.structure import Structure
from stages import cli
from tests.potentials import disordered, random_potential

SPECIES = (8, 14)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A structure, a model with the active sets of its likes, and one without."""
    write(tmp_path / "start.xyz", disordered(SPECIES))
    potential = random_potential(SPECIES)
    save_model(tmp_path / "plain.mtp.safetensors", potential)
    frames = [disordered(SPECIES, seed) for seed in range(20)]
    structures = [Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in frames]
    potential.grading = build_grading(potential, Geometry(structures, SPECIES, 5.0))
    save_model(tmp_path / "graded.mtp.safetensors", potential)
    return tmp_path


def run(folder: Path, model: str, *options: str) -> int:
    fixed = ("--output", str(folder / "out"), "--every", "2", "--timestep", "0.5")
    return cli.main(["md", str(folder / model), str(folder / "start.xyz"), *fixed, *options])


def test_grades_stop_it(folder: Path, capsys) -> None:
    code = run(folder, "graded.mtp.safetensors", "--steps", "400", "--temperature", "20000",
               "--max-grade", "3")  # fmt: skip
    assert code == cli.DONE
    said = capsys.readouterr()
    assert "is above 3" in said.err
    assert said.out.strip() == str(folder / "out" / "trajectory.xyz")
    record = json.loads((folder / "out" / "md.json").read_text())
    assert 0 < record["last_step"] < 400
    frames = read(folder / "out" / "trajectory.xyz", ":")
    assert all("grades" in frame.arrays for frame in frames)
    rows = (folder / "out" / "thermo.csv").read_text().splitlines()
    assert float(rows[1].split(",")[-1]) == pytest.approx(frames[0].info["grade"])


def test_more_steps(folder: Path) -> None:
    """A finished run goes on when more steps are asked for."""
    assert (
        run(folder, "plain.mtp.safetensors", "--steps", "4", "--repeat", "1", "1", "2") == cli.DONE
    )
    more = ("--steps", "8", "--repeat", "1", "1", "2", "--restart")
    assert run(folder, "plain.mtp.safetensors", *more) == cli.DONE
    frames = read(folder / "out" / "trajectory.xyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 2, 4, 6, 8]
    assert len(frames[0]) == 16


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("plain.mtp.safetensors", ("--max-grade", "3"), "no active sets"),
        ("plain.mtp.safetensors", ("--temperature", "1", "2", "3"), "one or two numbers"),
        ("nothing.mtp.safetensors", (), "cannot be read"),
        ("plain.mtp.safetensors", ("--head", "pbe"), "head must be one of default"),
        ("plain.mtp.safetensors", ("--timestep", "-1"), "timestep must be more than 0"),
    ],
)
def test_refusals(folder: Path, model: str, options: tuple, says: str, capsys) -> None:
    assert run(folder, model, *options) == cli.INVALID
    assert says in capsys.readouterr().err
    assert not (folder / "out").exists()
