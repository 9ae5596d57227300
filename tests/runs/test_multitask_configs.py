"""Every control file of configs/multitask and configs/finetuning runs, with a few epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtp.model_file import load_model
from stages.cli import main, train_main

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "configs" / "multitask", ROOT / "configs" / "finetuning")
CONFIGS = {path.stem: path for folder in FOLDERS for path in folder.glob("*.json")}


def shortened(name: str, folder: Path, **common: Any) -> Path:
    """The control file with paths that are absolute and a few epochs, in a folder of its own."""

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: absolute(one) for key, one in value.items()}
        if isinstance(value, list):
            return [absolute(one) for one in value]
        is_path = isinstance(value, str) and value.endswith(".xyz.gz")
        return str((CONFIGS[name].parent / value).resolve()) if is_path else value

    control = absolute(json.loads(CONFIGS[name].read_text()))
    control.setdefault("common_config", {}).update({"total_epoch": 6, **common})
    control["run_config"] = {"threads": 1}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(control))
    return path


def train(name: str, folder: Path, **common: Any) -> dict[str, Any]:
    control = shortened(name, folder, **common)
    assert train_main([str(control), "--output", str(folder / name)]) == 0
    assert (folder / name / "report.html").exists()
    return json.loads((folder / name / "metrics.json").read_text())


def test_none_is_forgotten() -> None:
    assert set(CONFIGS) == {
        *("two_levels", "shared_layers", "inherit_and_extend"),
        *("water_tensors", "liquid_water", "alloy_type_embedding"),
        *("pretrained", "cheap", "expensive", "replay"),
    }


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("two_levels", {"b3lyp": "forces_mae_meV_per_A", "gfn2": "forces_mae_meV_per_A"}),
        ("shared_layers", {"b3lyp": "forces_mae_meV_per_A", "gfn2": "forces_mae_meV_per_A"}),
        ("alloy_type_embedding", {"pbe": "stress_mae_GPa"}),
        ("pretrained", {"default": "forces_mae_meV_per_A"}),
        ("replay", {"ethanol": "forces_mae_meV_per_A", "gfn2": "forces_mae_meV_per_A"}),
        (
            "water_tensors",
            {
                "energy": "energy_mae_meV_per_atom",
                "dipole": "dipole_mae_eA_per_atom",
                "polarizability": "polarizability_mae_A3_per_atom",
            },
        ),
    ],
)
def test_runs(name: str, heads: dict[str, str], tmp_path: Path) -> None:
    metrics = train(name, tmp_path)
    for head, key in heads.items():
        assert metrics[head]["train"][key] > 0
    assert set(metrics) == set(heads)


def test_inherit_and_extend(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train("two_levels", tmp_path)
    source = tmp_path / "two_levels" / "best.mtp.safetensors"
    capsys.readouterr()
    metrics = train("inherit_and_extend", tmp_path, reload_model=str(source))
    told = capsys.readouterr().err
    assert "b3lyp  head b3lyp" in told
    assert "gfn1   head gfn2" in told
    assert set(metrics) == {"b3lyp", "gfn1"}
    assert load_model(tmp_path / "inherit_and_extend" / "best.mtp.safetensors").spec.head_names == (
        *("b3lyp", "gfn1"),
    )


def test_cheap_then_expensive(tmp_path: Path) -> None:
    train("cheap", tmp_path)
    source = tmp_path / "cheap" / "best.mtp.safetensors"
    train("expensive", tmp_path, reload_model=str(source))
    log = (tmp_path / "expensive" / "log.jsonl").read_text().splitlines()
    before = json.loads(log[0])["train"]["default"]
    assert before["energy_l1"] < 0.1  # eV/atom: the levels' zeros lie hundreds of eV apart


def test_liquid_water(tmp_path: Path) -> None:
    if not (ROOT.parent / "shared" / "data" / "water_pbe0ts").exists():
        pytest.skip("the data sets of configs/multitask/liquid_water.json are not there")
    assert main(["train", str(shortened("liquid_water", tmp_path)), "--check"]) == 0
