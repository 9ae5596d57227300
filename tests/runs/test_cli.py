"""The commands themselves: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtp.data import read, write
from mtp.errors import InvalidInput
from mtp.model_file import load_model, save_model
from stages.cli import main
from tests.training import potential, structures

CONTROL = Path(__file__).parents[2] / "configs" / "minimal.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.mtp.safetensors"
    save_model(path, potential(), {"stage": "stage2", "epoch": 3, "data": {"a.xyz": "0" * 64}})
    return path


def test_show(model: Path, capsys: Any) -> None:
    assert main(["show", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["elements"] == ["Al", "Cu"]
    assert err == ""
    assert main(["show", str(model)]) == 0
    out, _ = capsys.readouterr()
    rows = [" ".join(line.split()) for line in out.splitlines()]
    for row in (
        "elements Al Cu",
        "head default: energy, linear",
        "from stage2, epoch 3",
        "distances 1 to 4 Å",
    ):
        assert row in rows


@pytest.mark.filterwarnings("default:.*below min_dist")
def test_convert_a_model_and_back(model: Path, tmp_path: Path, capsys: Any) -> None:
    there, back = tmp_path / "model.mtp", tmp_path / "back.safetensors"
    assert main(["convert", str(model), str(there)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{there}: species 0 = Al, 1 = Cu\n"
    assert err.startswith("warning: ")
    assert len(err.splitlines()) == 1
    assert main(["convert", str(there), str(back)]) == 0
    assert load_model(back).spec.species == (13, 29)


@pytest.mark.filterwarnings("default:.*below min_dist")
def test_convert_to_almtp_and_back(
    model: Path, tmp_path: Path, capsys: Any, rng: np.random.Generator
) -> None:
    there, back, data = tmp_path / "a.almtp", tmp_path / "b.safetensors", tmp_path / "a.xyz"
    write(data, structures(rng, 3))
    command = ["convert", str(model), str(there)]
    assert main(command) == 2
    assert "name the files with the training structures by --data" in capsys.readouterr().err
    assert main([*command, "--data", str(data)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{there}: species 0 = Al, 1 = Cu; active set of 3 structures\n"
    assert err.startswith("warning: ")
    assert main(["convert", str(there), str(back)]) == 0
    assert load_model(back).spec == load_model(model).spec


def test_convert_takes_the_elements_of_types(model: Path, tmp_path: Path, capsys: Any) -> None:
    there, back = tmp_path / "model.mtp", tmp_path / "back.safetensors"
    assert main(["convert", str(model), str(there)]) == 0
    there.write_text(there.read_text().replace("atomic_numbers 13 29", ""))
    command = ["convert", str(there), str(back)]
    assert main(command) == 2
    assert "--type-map" in capsys.readouterr().err
    assert main([*command, "--type-map", "Ni,Al"]) == 0
    assert capsys.readouterr().out == f"{back}: species 0 = Al, 1 = Ni\n"


def test_convert_data(tmp_path: Path, capsys: Any, rng: np.random.Generator) -> None:
    write(tmp_path / "a.xyz", structures(rng, 3))
    assert main(["convert", str(tmp_path / "a.xyz"), str(tmp_path / "b.h5")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b.h5'}: 3 structures\n"
    energies = [[item.energy for item in read(tmp_path / name)] for name in ("a.xyz", "b.h5")]
    np.testing.assert_allclose(*energies)


def train_with(monkeypatch: pytest.MonkeyPatch, train: Any) -> None:
    """Put a function in the place of the whole trainer."""
    module = type("run", (), {"train": staticmethod(train)})
    monkeypatch.setitem(sys.modules, "stages.run.train", module)


def test_train_is_told_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: dict[str, Any] = {}

    def train(plan: Any, output: Path, **options: Any) -> dict[str, Any]:
        asked.update(plan=plan, output=output, **options)
        return {"default": {"test": {"frames": 25, "energy_mae_meV_per_atom": 1.5}}}

    train_with(monkeypatch, train)
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(CONTROL), "--device", "cpu", "--restart", "--strict"]) == 0
    assert (asked["output"], asked["device"]) == (Path("runs/minimal"), "cpu")
    assert asked["restart"]
    assert asked["plan"].run.strict
    assert [stage.epochs for stage in asked["plan"].stages] == [2, 4, 2]
    assert "1.50" in capsys.readouterr().out


def test_type_map_names_the_elements_of_numbered_types(
    tmp_path: Path, capsys: Any, rng: np.random.Generator
) -> None:
    source, target = tmp_path / "a.cfg", tmp_path / "b.xyz"
    write(source, before := structures(rng, 2))
    lines = source.read_text().splitlines()
    source.write_text("\n".join(line for line in lines if "Feature" not in line) + "\n")
    command = ["convert", str(source), str(target)]
    assert main(command) == 2
    assert "--type-map" in capsys.readouterr().err
    assert main([*command, "--type-map", "Cu, Al"]) == 0
    for old, new in zip(before, read(target), strict=True):
        assert new.numbers.tolist() == [{13: 29, 29: 13}[z] for z in old.numbers]
    model = tmp_path / "model.mtp.safetensors"
    save_model(model, potential())
    assert main(["eval", str(model), str(source), "--type-map", "Al,Cu"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidInput("a.xyz: no energy", "b.xyz: no energy"), 2, "a.xyz: no energy\nb.xyz: no en"),
        (FloatingPointError("stage1, epoch 3: not finite"), 1, "failed: stage1, epoch 3"),
        (OSError(28, "No space left on device"), 1, "failed: [Errno 28] No space left"),
        (
            RuntimeError("mtp kernel: a number is wrong"),
            1,
            "failed: mtp kernel: a number is wrong\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command with --restart goes on"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, error: BaseException, code: int, said: str
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise error

    train_with(monkeypatch, train)
    assert main(["train", str(CONTROL)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)


@pytest.mark.parametrize("kind", [TypeError, RuntimeError])
def test_an_error_of_the_program_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise kind("a defect")

    train_with(monkeypatch, train)
    with pytest.raises(kind, match="a defect"):
        main(["train", str(CONTROL)])


def test_arguments(capsys: Any) -> None:
    for arguments in ([], ["trane"], ["train", "a.json", "--chek"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
