"""`mtp label`: labels are the teacher's, failures are counted, a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

import mtp.data
from mtp.errors import InvalidInput
from pretrained import labelling
from pretrained.labelling import label
from pretrained.samplers import rattle
from stages.cli import main


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    """Seven copper cells and an element that EMT does not know."""
    frames = [*rattle(bulk("Cu", cubic=True), 7, 0), bulk("W", cubic=True)]
    write(tmp_path / "in.xyz", frames)
    return tmp_path / "in.xyz"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "CHUNK", 3)
    labelling._calculator.cache_clear()


def test_labels_are_the_teachers(structures: Path, tmp_path: Path) -> None:
    done = label("emt", structures, tmp_path / "out.xyz")
    assert (done.structures, done.written, sum(done.failed.values())) == (8, 7, 1)
    found = mtp.data.read(tmp_path / "out.xyz")
    for item in found:
        atoms = Atoms(item.numbers, item.positions, cell=item.cell, pbc=True, calculator=EMT())
        assert item.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(item.forces, atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(item.stress, atoms.get_stress(), atol=1e-12)
        assert item.config_type == "rattle"
    record = json.loads((tmp_path / "out.xyz.json").read_text())
    assert record["written"] == 7
    assert record["source"] == "in.xyz"
    assert not (tmp_path / "out.xyz.parts").exists()


def test_a_killed_run_goes_on(
    structures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label("emt", structures, tmp_path / "whole.xyz")
    compute, calls = labelling._label_chunk, []

    def killed(calculator, parts, work):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(work[0])
        return compute(calculator, parts, work)

    monkeypatch.setattr(labelling, "_label_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        label("emt", structures, tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()
    monkeypatch.setattr(
        labelling, "_label_chunk", lambda *a: calls.append(a[-1][0]) or compute(*a)
    )
    label("emt", structures, tmp_path / "out.xyz")
    assert calls == [0, 3, 6]
    assert (tmp_path / "out.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


def test_parts_of_another_job_are_refused(structures: Path, tmp_path: Path) -> None:
    other = tmp_path / "out.xyz.parts"
    other.mkdir()
    (other / "job.json").write_text('{"calculator": "lj"}')
    with pytest.raises(InvalidInput, match="another calculator"):
        label("emt", structures, tmp_path / "out.xyz")


def test_molecules_get_no_stress_and_long_forces_are_flagged(tmp_path: Path) -> None:
    frames = [Atoms("Cu2", [[0, 0, 0], [0, 0, x]]) for x in (1.2, 2.4)]
    write(tmp_path / "in.xyz", frames)
    done = label("emt", tmp_path / "in.xyz", tmp_path / "out.xyz", max_forces=5.0)
    assert done.flagged == (0,)
    assert all(item.stress is None for item in mtp.data.read(tmp_path / "out.xyz"))


def test_nothing_labelled_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", bulk("W"))
    with pytest.raises(InvalidInput, match="failed on every structure"):
        label("emt", tmp_path / "in.xyz", tmp_path / "out.xyz")


@pytest.mark.parametrize("calculator", ["emtt", "tblite:GFN9"])
def test_unknown_teachers_are_refused(calculator: str, structures: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="teacher"):
        label(calculator, structures, tmp_path / "out.xyz")


def test_two_workers_write_what_one_does(structures: Path, tmp_path: Path) -> None:
    label("emt", structures, tmp_path / "one.xyz")
    label("emt", structures, tmp_path / "two.xyz", workers=2)
    one, two = mtp.data.read(tmp_path / "one.xyz"), mtp.data.read(tmp_path / "two.xyz")
    assert [a.energy for a in one] == pytest.approx([b.energy for b in two], abs=1e-12)
    assert all(np.allclose(a.forces, b.forces, atol=1e-12) for a, b in zip(one, two, strict=True))


def test_command(structures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["label", "emt", str(structures), str(tmp_path / "out.xyz")]) == 0
    assert "7 of 8 structures" in capsys.readouterr().out
    assert main(["label", "emt", str(structures), str(tmp_path / "out.nonsense")]) == 2
    assert main(["label", "emt", "nothing.xyz", str(tmp_path / "out.xyz")]) == 2


def test_tight_binding(tmp_path: Path) -> None:
    """Hot electrons: the energy is the free energy that belongs to the forces."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    h = 1e-3
    write(tmp_path / "in.xyz", [Atoms("TiO", [[0, 0, 0], [0, 0, 1.7 + d]]) for d in (-h, 0, h)])
    label("tblite:GFN1-xTB@3000K", tmp_path / "in.xyz", tmp_path / "out.xyz")
    low, middle, high = mtp.data.read(tmp_path / "out.xyz")
    slope = (high.energy - low.energy) / (2 * h)
    assert middle.forces[1, 2] == pytest.approx(-slope, abs=1e-3)
