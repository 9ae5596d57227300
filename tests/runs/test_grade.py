"""`mtp grade`, and the active sets that training leaves in its best model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtp import load_model, save_model
from mtp.data import write
from mtp.grade import TOLERANCE
from mtp.model_file import describe
from stages import cli
from stages.grade import grade_structures
from stages.run.train import train
from tests.training import potential, structures, tiny_plan


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.mtp.safetensors", potential(), {"stage": "one"})
    return tmp_path / "model.mtp.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data.xyz", structures(np.random.default_rng(1), 60))
    return tmp_path / "data.xyz"


def test_command(model: Path, data: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["grade", str(model), str(data)]) == cli.INVALID
    assert "has no active sets" in capsys.readouterr().err
    assert cli.main(["grade", "--build", str(model), str(data)]) == cli.DONE
    capsys.readouterr()
    other = tmp_path / "other.xyz"
    dense = [
        replace(s, cell=0.8 * s.cell, positions=0.8 * s.positions)
        for s in structures(np.random.default_rng(2), 6)
    ]
    write(other, dense)
    assert cli.main(["grade", str(model), str(data), str(other), "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    assert found[str(data)]["frames"] == 60
    assert found[str(data)]["largest"] <= TOLERANCE * 1.0001
    assert found[str(data)]["frames_above_2"] == 0
    assert found[str(other)]["largest"] > 2
    assert cli.main(["grade", str(model), str(data)]) == cli.DONE
    assert "frames above 10" in capsys.readouterr().out


def test_building_changes_nothing_else(model: Path, data: Path) -> None:
    before, old = load_model(model), describe(model)
    assert cli.main(["grade", "--build", str(model), str(data)]) == cli.DONE
    after, new = load_model(model), describe(model)
    assert all((a == b).all() for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert new["provenance"] == old["provenance"]
    assert new["basis"] == old["basis"]


@pytest.mark.parametrize("wanted", [True, False])
def test_training_leaves_active_sets(wanted: bool, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    plan = replace(plan, run=replace(plan.run, grade=wanted))
    train(plan, tmp_path / "out", device="cpu")
    best = load_model(tmp_path / "out" / "best.mtp.safetensors")
    assert (best.grading is not None) == wanted
    assert load_model(tmp_path / "out" / "model.mtp.safetensors").grading is None
    if wanted:
        frames = structures(np.random.default_rng(3), 5)
        found = grade_structures(tmp_path / "out" / "best.mtp.safetensors", frames)
        assert len(found.atoms) == sum(map(len, frames))
        assert (found.largest <= found.atoms.max()).all()
