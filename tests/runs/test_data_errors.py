"""Bad data through the command: what only reading the data can tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtp.data import write
from mtp.model_file import save_model
from mtp.structure import Structure
from stages.cli import main
from tests.training import potential, structures, unlabelled

CONTROL = {
    "common_config": {"total_epoch": 3},
    "mtp_config": {"rc": 4.0, "levmax": 4, "n_q": 3},
    "multistage_config": {"lr_list": [0.01, 0.01]},
}


@pytest.fixture
def frames(rng: np.random.Generator) -> list[Structure]:
    return structures(rng, 8)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Function: frames, changed sections, arguments → exit code and lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(
        frames: list[Structure], *arguments: str, **sections: dict[str, Any]
    ) -> tuple[int, list[str]]:
        write("data.xyz", frames)
        Path("control.json").write_text(json.dumps(CONTROL | sections))
        code = main(["train", "control.json", "--data", "data.xyz", *arguments])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert code == 0 or not Path("runs").exists()
        return code, err.splitlines()

    return run


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


def coefficients(term: str) -> list[float]:
    rows = Path("runs/control/log.jsonl").read_text().splitlines()
    return [json.loads(row)["coeff"][term] for row in rows]


def test_d01_element_that_the_model_does_not_know(train: Any, frames: list[Structure]) -> None:
    save_model("start.safetensors", potential())
    frames[1] = replace(frames[1], numbers=np.full(len(frames[1]), 14))
    sections = {"common_config": {"total_epoch": 3, "reload_model": "start.safetensors"}}
    code, (*_, line) = train(frames, mtp_config={}, **sections)
    assert code == 2
    for part in ("Si", "Al Cu", "data.xyz#1"):
        assert part in line


def test_d02_a_term_without_labels_is_switched_off(train: Any, frames: list[Structure]) -> None:
    frames = [unlabelled(frame, "stress") for frame in frames]
    code, lines = train(frames, "--strict")
    assert code == 2
    assert any("stress" in line for line in lines)
    code, lines = train(frames)
    assert code == 0
    assert len([line for line in warnings(lines) if "stress" in line]) == 1
    assert set(coefficients("stress")) == {0.0}
    assert all(value > 0 for value in coefficients("energy"))


def test_d02_no_label_at_all(train: Any, frames: list[Structure]) -> None:
    bare = [unlabelled(frame, "energy", "forces", "stress") for frame in frames]
    code, lines = train(bare)
    assert code == 2
    assert "energy" in lines[-1]


def test_d03_labels_of_the_wrong_shape(train: Any, frames: list[Structure]) -> None:
    write("data.xyz", frames)
    text = Path("data.xyz").read_text().replace("forces:R:3", "forces:R:2:more:R:1")
    Path("bad.xyz").write_text(text)
    code, (line,) = train(frames, "--data", "bad.xyz")
    assert code == 2
    assert line.startswith("bad.xyz#0: ")


def test_d03_labels_that_are_not_finite(train: Any, frames: list[Structure]) -> None:
    frames[2] = replace(frames[2], energy=float("nan"))
    assert train(frames, "--strict")[0] == 2
    code, lines = train(frames)
    assert code == 0
    assert any("data.xyz#2" in line for line in warnings(lines))


def test_d04_nothing_left_after_filtering(train: Any, frames: list[Structure]) -> None:
    code, (*_, line) = train(frames, common_config={"total_epoch": 3, "max_energy": -1e6})
    assert code == 2
    assert "8" in line
    assert "energy" in line


def test_d06_forces_without_energies(train: Any, frames: list[Structure]) -> None:
    code, lines = train([unlabelled(frame, "energy") for frame in frames])
    assert code == 0
    assert any("no training frame has energy" in line for line in warnings(lines))
    assert set(coefficients("energy")) == {0.0}


def test_c14_cutoff_below_the_shortest_distance(train: Any, frames: list[Structure]) -> None:
    code, (*_, line) = train(frames, mtp_config={"rc": 0.5, "levmax": 4})
    assert code == 2
    assert line.startswith("rc 0.5 Å: ")


@pytest.mark.parametrize("text", ["", "no structure\n", "2\n\nSi 0 0 0\n"])
def test_files_that_hold_no_structures(train: Any, frames: list[Structure], text: str) -> None:
    Path("bad.xyz").write_text(text)
    code, lines = train(frames, "--data", "bad.xyz")
    assert code == 2
    assert "bad.xyz" in lines[-1]
