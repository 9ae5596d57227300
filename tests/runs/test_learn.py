"""Active learning: whole loops on a cheap teacher, stops, labels from elsewhere, what is picked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

import stages.learn.loop as loop
from mtp import load_model
from mtp.data import read
from mtp.structure import Structure
from stages import cli
from stages.control.sections.learn import Learn
from stages.learn.begin import first_structures
from stages.learn.pick import Judged, accept, pick
from stages.learn.setting import Setting

CONTROL: dict[str, Any] = {
    "common_config": {"total_epoch": 12},
    "mtp_config": {"rc": 4.5, "levmax": 6, "n_q": 5},
    "data_config": {"test_files": ["hold_out.xyz"]},
    "learn": {
        "teacher": "emt",
        "start": ["start.xyz"],
        "initial_samples": 6,
        "rounds": 2,
        "temperatures": [2000.0],
        "steps": 40,
        "timestep": 4.0,
        "interval": 5,
        "max_samples": 3,
        "grade_select": 1.1,
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A start, a hold-out and a control file."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    write(tmp_path / "start.xyz", atoms)
    frames = []
    for seed in range(4):
        frame = atoms.copy()
        frame.rattle(0.2, seed=seed)
        frame.calc = EMT()
        frame.get_stress()
        frames.append(frame)
    write(tmp_path / "hold_out.xyz", frames)
    control(tmp_path)
    return tmp_path


def control(folder: Path, **changes: Any) -> Path:
    content = CONTROL | {"learn": CONTROL["learn"] | changes}
    (folder / "control.json").write_text(json.dumps(content))
    return folder / "control.json"


def run(folder: Path, output: str = "out") -> int:
    return cli.main(["learn", str(folder / "control.json"), "--output", str(folder / output)])


def tree(folder: Path) -> dict[str, bytes]:
    """Files that must not depend on interruptions."""
    names = ("*.xyz", "round.json", "best.mtp.safetensors", "md_*.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in sorted(folder.rglob(name))
    }


def test_a_loop(folder: Path, capsys) -> None:
    """Labels grow, the model is graded, the report is there; called again, it changes nothing."""
    assert run(folder) == cli.DONE
    printed = capsys.readouterr()
    assert "report.html" in printed.out
    out = folder / "out"
    first = json.loads((out / "round_00" / "round.json").read_text())
    assert first["train"]["test"]["frames"] == 4
    assert 0 < first["added"] <= 3
    assert len(first["judged"]["grade"]) == first["labelled"]
    second = json.loads((out / "round_01" / "round.json").read_text())
    frames = sum(second["train"][name]["frames"] for name in ("train", "valid"))
    assert frames == 6 + first["added"]
    assert load_model(out / "best.mtp.safetensors").grading is not None
    added = read(out / "round_00" / "added.xyz")
    assert all(frame.energy is not None and frame.forces is not None for frame in added)
    assert "Grade and error" in (out / "report.html").read_text()
    before = tree(out)
    assert run(folder) == cli.DONE
    assert tree(out) == before


def test_a_killed_loop_goes_on(folder: Path, monkeypatch) -> None:
    """Killed again and again, before each of its steps, it ends with the same bytes."""
    assert run(folder) == cli.DONE
    whole = tree(folder / "out")
    (folder / "out").rename(folder / "whole")

    def killed(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    for where in ("label", "train", "explore", "pick", "judge"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, where, killed)
            assert run(folder) == cli.INTERRUPTED
    assert run(folder) == cli.DONE
    assert tree(folder / "out") == whole


def test_labels_from_elsewhere(folder: Path, capsys) -> None:
    """Without a teacher the loop waits for a file and goes on when it is there."""
    path = control(folder, teacher=None, rounds=1, selection="random")
    content = json.loads(path.read_text())
    (folder / "first.xyz").write_bytes((folder / "hold_out.xyz").read_bytes())
    content["data_config"]["files"] = ["first.xyz"]
    (folder / "control.json").write_text(json.dumps(content))
    assert run(folder) == cli.DONE
    picked = folder / "out" / "round_00" / "picked.xyz"
    labelled = picked.with_name("labelled.xyz")
    assert f"put them into {labelled}" in capsys.readouterr().err
    assert not (folder / "out" / "best.mtp.safetensors").exists()
    frames = []
    for frame in read(picked):
        atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    write(labelled, frames)
    assert run(folder) == cli.DONE
    assert (folder / "out" / "best.mtp.safetensors").exists()


@pytest.mark.parametrize("selection", ["error", "random"])
def test_other_ways_to_pick(folder: Path, selection: str) -> None:
    control(folder, selection=selection, rounds=1, dF_min=0.01, pressure=0.0, fine_tune=0.5)
    assert run(folder) == cli.DONE
    record = json.loads((folder / "out" / "round_00" / "round.json").read_text())
    assert 0 < record["added"] <= 3
    if selection == "error":
        assert record["labelled"] >= record["added"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start": []}, "/learn/start: names no file"),
        ({"temperatures": []}, "/learn/temperatures: is empty"),
        ({"teacher": None, "selection": "error"}, "/learn/selection: `error` needs a teacher"),
        ({"teacher": None}, "/learn/teacher: is null and data_config has no files"),
        ({"interval": 0}, "/learn/interval"),
        ({"teacher": "nobody"}, "teacher 'nobody': unknown"),
        ({"start": ["nowhere.xyz"]}, "nowhere.xyz: no such file"),
    ],
)
def test_mistakes(folder: Path, changes: dict, says: str, capsys) -> None:
    control(folder, **changes)
    assert run(folder) == cli.INVALID
    assert says in capsys.readouterr().err


def test_another_control_file(folder: Path, capsys) -> None:
    control(folder, rounds=0)
    assert run(folder) == cli.DONE
    control(folder, rounds=0, steps=41)
    assert run(folder) == cli.INVALID
    assert "learn.steps was another" in capsys.readouterr().err
    control(folder, rounds=1)  # more rounds are fine
    assert run(folder) == cli.DONE


# --- the parts ------------------------------------------------------------------------------------


def test_the_same_novelty_is_picked_once(folder: Path) -> None:
    control(folder, rounds=0)
    assert run(folder) == cli.DONE
    model = folder / "out" / "best.mtp.safetensors"
    strange, other = bulk("Cu", cubic=True, a=3.0) * (2, 1, 1), bulk("Cu", cubic=True, a=5.0) * 2
    known = read(folder / "out" / "begin.xyz")[0]
    frames = [
        Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in (strange, strange, other)
    ]
    learn = Learn(max_samples=10, grade_select=2.0)
    found = pick(learn, model, [known, *frames], seed=0)
    assert len(found) == 2
    assert {frame.volume for frame in found} == {frames[0].volume, frames[2].volume}
    assert pick(Learn(max_samples=1), model, frames, seed=0) == [found[0]]
    assert pick(learn, model, [], seed=0) == []


def test_windows_of_errors() -> None:
    """LightPFP's rule: any of the three errors in its window, none of the forces absurd."""
    frames = [
        Structure(np.array([29]), np.zeros((1, 3)), forces=np.array([[force, 0, 0]]), index=k)
        for k, force in enumerate([1.0, 1.0, 1.0, 1.0, 80.0])
    ]
    judged = Judged(
        energy=np.array([0.001, 0.01, 0.001, 0.5, 0.01]),
        force=np.array([0.5, 0.5, 2.0, 0.5, 0.5]),
        stress=np.zeros(5),
        grade=np.ones(5),
    )
    mean = {"energy": 0.002, "stress": 1e-3}
    kept = accept(Learn(selection="error"), frames, judged, mean)
    assert [frame.index for frame in kept] == [1, 2]
    kept = accept(Learn(selection="grade"), frames, judged, mean)
    assert [frame.index for frame in kept] == [0, 1, 2, 3]


def test_first_structures_are_ever_more_disturbed() -> None:
    atoms = bulk("Cu", cubic=True)
    found = first_structures([atoms], 20, seed=3)
    volumes = np.array([abs(frame.volume / atoms.get_volume() - 1) for frame in found])
    assert len(found) == 20
    assert volumes[:5].max() < volumes.max() < 0.2
    again = first_structures([atoms], 20, seed=3)
    np.testing.assert_array_equal(found[7].positions, again[7].positions)


def test_plans_of_later_trainings(folder: Path) -> None:
    control(folder, fine_tune=0.25)
    setting = Setting.read(folder / "control.json")
    fresh = setting.training([], None)
    tuned = setting.training([Path("more.xyz")], Path("last.safetensors"))
    assert fresh.model.reload_model is None
    assert tuned.model.reload_model == "last.safetensors"
    assert sum(s.epochs for s in tuned.stages) < sum(s.epochs for s in fresh.stages)
    assert [file.path for file in tuned.data["default"].files] == ["more.xyz"]
