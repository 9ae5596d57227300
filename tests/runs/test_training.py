"""Whole runs from a plan to a run directory, on a few small structures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.data import read, write
from mtp.errors import InvalidInput
from mtp.model_file import describe, load_model
from stages.evaluate import predict_structures
from stages.metrics import set_metrics
from stages.objective import NotFinite
from stages.plan import DataFile, HeadPlan, Plan, Prefactors, coefficients
from stages.run.train import train
from tests.training import stage, structures, task, tiny_plan, unlabelled


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def with_data(plan: Plan, path: Path, frames: list) -> Plan:
    """The plan on other frames, which are written to a file."""
    write(path, frames)
    return replace(
        plan, data={"default": replace(plan.data["default"], files=(DataFile(str(path)),))}
    )


def with_run(plan: Plan, **changes) -> Plan:
    return replace(plan, run=replace(plan.run, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("run")
    plan = tiny_plan(folder)
    write(folder / "test.xyz", structures(np.random.default_rng(5), 3))
    data = replace(plan.data["default"], test_files=(DataFile(str(folder / "test.xyz")),))
    plan = replace(plan, data={"default": data})
    return folder / "out", train(plan, folder / "out", device="cpu")


def test_run_directory_is_complete(finished):
    run, result = finished
    files = {path.name for path in run.iterdir()}
    assert files == {
        "plan.json",
        "scan.json",
        "log.jsonl",
        "model.mtp.safetensors",
        "best.mtp.safetensors",
        "checkpoint",
        "calibration.json",
        "predictions.npz",
        "metrics.json",
        "report.html",
        "environment.json",
    }
    assert json.loads((run / "metrics.json").read_text()) == result
    assert set(result["default"]) == {"train", "valid", "test"}
    assert result["default"]["test"]["frames"] == 3


def test_log_has_every_epoch_of_every_stage_once(finished):
    rows = log(finished[0])
    places = [(row["stage"], row["name"], row["epoch"]) for row in rows]
    assert places == [
        *((1, "stage1", epoch) for epoch in range(4)),
        *((2, "stage2", epoch) for epoch in (1, 2)),
        (3, "stage3", 1),
        *((4, "calibration", epoch) for epoch in (1, 2, 3)),
    ]


def test_calibration_takes_its_coefficients_from_the_log(finished):
    """Its shares of the loss with which the stage before ended are equal."""
    rows = log(finished[0])
    before, coeff = rows[6]["train"]["default"], rows[7]["coeff"]
    shares = [coeff[term] * before[f"{term}_mse"] for term in ("energy", "forces", "stress")]
    assert shares == pytest.approx([shares[0]] * 3)
    assert (finished[0] / "calibration.json").exists()


def test_best_is_the_epoch_of_the_last_stage_with_the_lowest_validation_loss(finished):
    run, result = finished
    rows = [row for row in log(run) if row["name"] == "calibration"]
    best = min(rows, key=lambda row: row["valid"]["default"]["loss"])
    header = describe(run / "best.mtp.safetensors")["provenance"]
    assert (header["stage"], header["epoch"]) == ("calibration", best["epoch"])
    valid = result["default"]["valid"]
    assert valid["frames"] > 0
    assert describe(run / "model.mtp.safetensors")["provenance"]["epoch"] == 3


def test_metrics_are_those_of_the_best_model_file(finished):
    run, result = finished
    plan = json.loads((run / "plan.json").read_text())
    frames = read(plan["data"]["default"]["test_files"][0]["path"])
    model = load_model(run / "best.mtp.safetensors")
    again = set_metrics(predict_structures(model, frames))
    assert again == pytest.approx(result["default"]["test"], rel=1e-9)


def test_model_files_say_no_path_and_no_time(finished):
    run, _ = finished
    for name in ("model.mtp.safetensors", "best.mtp.safetensors"):
        assert str(run.parent).encode() not in (run / name).read_bytes()
        assert "seconds" not in json.dumps(describe(run / name))


def test_the_same_plan_gives_the_same_bytes(finished, tmp_path):
    run, _ = finished
    plan = Plan.from_dict(json.loads((run / "plan.json").read_text()))
    train(plan, tmp_path / "again", device="cpu")
    for name in ("model.mtp.safetensors", "best.mtp.safetensors", "metrics.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_another_seed_gives_another_model(finished, tmp_path):
    train(tiny_plan(tmp_path, seed=1), tmp_path / "out", device="cpu")
    one, other = (p / "model.mtp.safetensors" for p in (finished[0], tmp_path / "out"))
    assert one.read_bytes() != other.read_bytes()


def test_geometry_found_again_for_every_batch_changes_nothing(tmp_path):
    for name, memory in (("kept", 1.0), ("found", 0.0)):
        train(with_run(tiny_plan(tmp_path), memory=memory), tmp_path / name, device="cpu")
    one, other = (tmp_path / name / "model.mtp.safetensors" for name in ("kept", "found"))
    assert one.read_bytes() == other.read_bytes()


def test_a_term_without_labels_is_switched_off_with_one_warning(tmp_path, capsys):
    """Molecules: no stress."""
    frames = [
        replace(unlabelled(f, "stress"), pbc=np.zeros(3, dtype=bool), cell=np.zeros((3, 3)))
        for f in structures(np.random.default_rng(0), 12, atoms=(3, 5))
    ]
    plan = with_data(tiny_plan(tmp_path), tmp_path / "molecules.xyz", frames)
    result = train(plan, tmp_path / "out", device="cpu")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "stress" in line]
    assert len(warnings) == 1
    assert "no training frame has stress" in warnings[0]
    rows = log(tmp_path / "out")
    assert all(row["coeff"]["stress"] == 0 for row in rows)
    assert not any("stress" in key for row in rows for key in row["train"]["default"])
    assert not any("stress" in key for key in result["default"]["train"])
    with pytest.raises(InvalidInput, match="no training frame has stress"):
        train(with_run(plan, strict=True), tmp_path / "strict", device="cpu")
    assert not (tmp_path / "strict").exists()


def test_prefactors_of_a_term_without_labels_are_switched_off(tmp_path):
    frames = [unlabelled(f, "stress") for f in structures(np.random.default_rng(0), 8)]
    following = {term: Prefactors(2.0, 1.0) for term in ("energy", "forces", "stress")}
    constant = coefficients(2.0, 2.0, 2.0)
    plan = with_data(
        tiny_plan(
            tmp_path, stages=(stage(task(prefactors=following, coefficients=constant), epochs=2),)
        ),
        tmp_path / "data.xyz",
        frames,
    )
    train(plan, tmp_path / "out", device="cpu")
    rows = [row["coeff"] for row in log(tmp_path / "out") if row["epoch"] > 0]
    assert [row["stress"] for row in rows] == [0.0, 0.0]
    assert all(0 < row["energy"] <= 2 and row["forces"] == row["energy"] for row in rows)


def test_a_stage_left_without_a_term_is_refused(tmp_path):
    frames = [unlabelled(f, "forces", "stress") for f in structures(np.random.default_rng(0), 8)]
    plan = with_data(tiny_plan(tmp_path), tmp_path / "energies.xyz", frames)
    only_forces = (stage(task(coefficients=coefficients(0.0, 1.0, 0.0))),)
    with pytest.raises(InvalidInput, match=r"stage1: its coefficients .* are all 0"):
        train(replace(plan, stages=only_forces), tmp_path / "out", device="cpu")


def test_data_without_any_label_are_refused(tmp_path):
    frames = [
        unlabelled(f, "energy", "forces", "stress") for f in structures(np.random.default_rng(0), 8)
    ]
    plan = with_data(tiny_plan(tmp_path), tmp_path / "bare.xyz", frames)
    with pytest.raises(InvalidInput):
        train(plan, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_neural_network_readout_in_float32(tmp_path):
    plan = tiny_plan(tmp_path)
    plan = with_run(
        replace(plan, model=replace(plan.model, heads=(HeadPlan(hidden=(4, 4)),))), dtype="float32"
    )
    train(plan, tmp_path / "out", device="cpu")
    rows = log(tmp_path / "out")
    assert rows[-1]["train"]["default"]["loss"] < rows[-3]["train"]["default"]["loss"] * 1.5
    assert load_model(tmp_path / "out" / "best.mtp.safetensors").spec.heads[0].hidden == (4, 4)


def test_training_goes_on_from_a_model_file(finished, tmp_path):
    """With a rate of almost nothing the model stays what it was."""
    model = finished[0] / "best.mtp.safetensors"
    plan = tiny_plan(tmp_path, stages=(stage(lr=1e-12, epochs=1),))
    heads = (HeadPlan(adjust=False),)
    plan = replace(plan, model=replace(plan.model, reload_model=str(model), heads=heads))
    train(plan, tmp_path / "out", device="cpu")
    before, after = (load_model(p) for p in (model, tmp_path / "out" / "model.mtp.safetensors"))
    assert after.spec == before.spec
    for one, other in zip(after.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_stage_that_only_harms_leaves_the_model_before_it(tmp_path):
    harm = stage(name="stage2", epochs=2, lr=3.0)
    train(tiny_plan(tmp_path, stages=(stage(epochs=3), harm)), tmp_path / "out", device="cpu")
    best = describe(tmp_path / "out" / "best.mtp.safetensors")["provenance"]
    assert (best["stage"], best["epoch"]) == ("stage1", 3)
    assert log(tmp_path / "out")[-1]["name"] == "stage2"


def test_a_model_file_that_lacks_an_element_is_refused(finished, tmp_path):
    frames = structures(np.random.default_rng(0), 8)
    frames[2] = replace(frames[2], numbers=np.full(len(frames[2]), 47))
    plan = with_data(tiny_plan(tmp_path), tmp_path / "silver.xyz", frames)
    model = replace(plan.model, reload_model=str(finished[0] / "best.mtp.safetensors"))
    with pytest.raises(InvalidInput, match="Ag"):
        train(replace(plan, model=model), tmp_path / "out", device="cpu")


@pytest.mark.parametrize("batch_size", [4, 100])
def test_divergence_stops_the_run_and_leaves_good_files(tmp_path, batch_size):
    """A step of 1e200 overflows, in the next step or else in validation; good files stay."""
    plan = tiny_plan(tmp_path, stages=(stage(lr=1e200),))
    plan = with_run(plan, batch_size=batch_size)
    with pytest.raises(NotFinite, match=r"stage1, epoch 1: .*data\.xyz#\d+"):
        train(plan, tmp_path / "out", device="cpu")
    assert [row["epoch"] for row in log(tmp_path / "out")] == [0]
    best = load_model(tmp_path / "out" / "best.mtp.safetensors")
    assert all(torch.isfinite(p).all() for p in best.parameters())
    assert (tmp_path / "out" / "checkpoint" / "state.pt").exists()


def test_a_cutoff_that_reaches_no_neighbour_is_refused(tmp_path):
    plan = tiny_plan(tmp_path)
    plan = replace(plan, model=replace(plan.model, rc=0.01))
    with pytest.raises(InvalidInput, match=r"rc 0.01 Å"):
        train(plan, tmp_path / "out", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="device cuda: torch sees no CUDA device"):
        train(tiny_plan(tmp_path), tmp_path / "out", device="cuda")
