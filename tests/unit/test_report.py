"""The report is built from whatever a run left, on one page that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mtp.errors import InvalidInput
from mtp.short_names import short_names
from mtp.structure import Structure
from stages.calibration import calibrated_stage
from stages.metrics import metrics
from stages.plan import (
    GROUPS,
    DataFile,
    DataPlan,
    HeadPlan,
    ModelPlan,
    Plan,
    RunPlan,
    Schedule,
    Stage,
    TaskStage,
    coefficients,
)
from stages.predictions import Predictions, write_predictions
from stages.report import plots
from stages.report.history import History
from stages.report.page import write_report
from stages.report.plots import Image
from stages.report.tables import plan_table


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Figures cost most of a report's time; only tests that ask for them draw."""
    if "figures" not in request.fixturenames:
        image = Image("data:image/svg+xml;base64,", "")
        monkeypatch.setattr(plots, "embed", lambda figure, alt: image)


@pytest.fixture
def figures():
    """Asks for real figures."""


def make_plan(heads=("default",), calibration=True, nn=()) -> Plan:
    def stage(name, epochs, lr, weights, target=None):
        tasks = {head: TaskStage("mse", weights) for head in heads}
        schedule = Schedule("linear_warmup", 1)
        return Stage(
            name,
            epochs,
            lr,
            "adam",
            schedule,
            GROUPS,
            tasks,
            target and dict.fromkeys(heads, target),
        )

    stages = [
        stage("stage1", 8, 0.1, coefficients(1e-5, 10.0, 1e-5)),
        stage("stage2", 16, 0.01, coefficients(1.0, 0.1, 10.0)),
    ]
    if calibration:
        third = coefficients(1 / 3, 1 / 3, 1 / 3)
        stages.append(stage("calibration", 8, 0.01, None, third))
    model = tuple(HeadPlan(head, hidden=nn) for head in heads)
    data = {head: DataPlan((DataFile("train.xyz"),), (DataFile("test.xyz"),)) for head in heads}
    return Plan(ModelPlan(5.0, 8, 8, 2, 1, 1, model), data, tuple(stages), RunPlan())


def make_log(plan: Plan, rng, terms=("energy", "forces", "stress"), epochs=None):
    """Errors that fall over the epochs; (lines, content of calibration.json)."""
    scale = {"energy": 0.3, "forces": 0.8, "stress": 0.03}
    floor = {"energy": 3e-3, "forces": 0.08, "stress": 1e-3}
    rows, table, done = [], None, 0
    for number, stage in enumerate(plan.stages, start=1):
        if stage.name == "calibration":
            stage, table = calibrated_stage(plan, stage, rows, dict.fromkeys(stage.tasks, 1.0))
        for epoch in range(0 if number == 1 else 1, stage.epochs + 1):
            coeff = {head: dict(task.coefficients) for head, task in stage.tasks.items()}
            rate = {"stage1": 0.25, "stage2": 0.12}.get(stage.name, 0.08)
            for term in scale:
                scale[term] += (floor[term] - scale[term]) * (rate if done else 0)
            values = {}
            for part, factor in (("train", 1.0), ("valid", 1.15)):
                noisy = {t: factor * scale[t] * np.exp(0.04 * rng.normal()) for t in terms}
                values[part] = {
                    head: {f"{t}_mse": float(v**2) for t, v in noisy.items()}
                    | {f"{t}_l1": float(0.75 * v) for t, v in noisy.items()}
                    for head in stage.tasks
                }
            rows.append(
                {
                    "stage": number, "name": stage.name, "epoch": epoch, "lr": stage.lr,
                    "coeff": coeff if len(coeff) > 1 else next(iter(coeff.values())),
                    **values, "seconds": 0.5 + 0.1 * rng.random(),
                }
            )  # fmt: skip
            done += 1
    return rows[:epochs], table


def make_predictions(rng, frames, atoms=20, stress=True, elements=(14,), source="train.xyz"):
    structures, energy, forces, stresses = [], [], [], []
    for index in range(frames):
        numbers = rng.choice(elements, atoms)
        label = Structure(
            numbers=numbers,
            positions=rng.random((atoms, 3)) * 7,
            cell=np.eye(3) * 7,
            pbc=np.full(3, stress),
            energy=float(-5.4 * atoms - 90 * (numbers == 8).sum() + rng.normal()),
            forces=rng.normal(size=(atoms, 3)),
            stress=rng.normal(size=6) * 0.02 if stress else None,
            config_type=str(rng.choice(["bulk", "surface", "liquid"])),
            source=source,
            index=index,
        )
        structures.append(label)
        energy.append(label.energy + 0.05 * rng.normal())
        forces.append(label.forces + 0.1 * rng.normal(size=(atoms, 3)) * rng.gamma(2))
        stresses.append(np.zeros(6) if not stress else label.stress + 2e-3 * rng.normal(size=6))
    values = {"energy": energy, "forces": np.concatenate(forces), "stress": np.array(stresses)}
    return Predictions.collect(structures, values)


def make_scan(stress=True, frames=40) -> dict:
    counts = {"nonfinite": 1, "duplicate": 0, "energy": 0, "forces": 3}
    return {
        "frames": frames, "atoms": 20 * frames, "elements": {"Si": 20 * frames},
        "min_dist": 2.173, "min_dist_frame": "/data/set/train.xyz#7",
        "files": [{"file": "/data/set/train.xyz", "read": frames + 4, **counts, "kept": frames,
                   "train": frames - frames // 8, "valid": frames // 8}],
        "coverage": [{"file": "/data/set/train.xyz", "config_type": "", "frames": frames,
                      "atoms": 20 * frames, "energy": frames, "forces": frames - 2,
                      "stress": frames if stress else 0, "weight": 1.0}],
        "worst": [{"frame": "/data/set/train.xyz#3", "config_type": "", "max_force": 12.5,
                   "energy_per_atom": -4.9}],
        "warnings": ["two atoms are near in /data/set/train.xyz#7"],
        "shifts": {"values": {"Si": -5.2}, "mode": "lstsq", "rms": 105.0},
    }  # fmt: skip


def make_run(folder: Path, rng, heads=("default",), elements=(14,), frames=40, **options) -> Path:
    """A run directory as a finished training leaves it."""
    plan = make_plan(heads, options.pop("calibration", True))
    stress = options.get("terms", "stress")[-1] == "stress" or "terms" not in options
    (folder / "plan.json").write_text(json.dumps(plan.as_dict()))
    log, calibration = make_log(plan, rng, **options)
    if any(row["name"] == "calibration" for row in log):
        (folder / "calibration.json").write_text(json.dumps(calibration))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / "scan.json").write_text(json.dumps({head: make_scan(stress) for head in heads}))
    sets = {"train": frames, "valid": max(2, frames // 8), "test": frames // 2}
    predictions = {
        head: {
            name: make_predictions(
                rng, count, stress=stress, elements=elements,
                source=f"{'test' if name == 'test' else 'train'}.xyz",
            )
            for name, count in sets.items()
        }
        for head in heads
    }  # fmt: skip
    write_predictions(folder / "predictions.npz", predictions)
    (folder / "metrics.json").write_text(json.dumps(metrics(predictions)))
    return folder


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_needs_nothing_but_itself(tmp_path, rng, figures):
    page = page_of(make_run(tmp_path, rng))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "url(" not in page
    assert len(page) < 3e6
    for heading in ("Plan", "Data", "Learning", "Calibration", "Predictions", "Worst frames"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/svg+xml") == 3 + 1 + 3 + 3  # curves, rate, parity, distributions


def test_is_the_same_page_again(tmp_path, rng, figures):
    make_run(tmp_path, rng, frames=8)
    assert page_of(tmp_path) == page_of(tmp_path)


def test_headline_is_that_of_metrics_json(tmp_path, rng):
    page = page_of(make_run(tmp_path, rng, frames=8))
    test = json.loads((tmp_path / "metrics.json").read_text())["default"]["test"]
    assert "Test errors" in page
    assert f"{test['forces_mae_meV_per_A']:.0f} <small>meV/Å" in page


def test_every_missing_piece_is_named(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    (tmp_path / "predictions.npz").unlink()
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "scan.json").unlink()
    page = page_of(tmp_path)
    for name in ("predictions.npz", "log.jsonl", "scan.json", "best.mtp.safetensors"):
        assert f"{name} is absent" in page


def test_unfinished_run(tmp_path, rng):
    make_run(tmp_path, rng, frames=8, epochs=12)
    (tmp_path / "predictions.npz").unlink()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"stage": 2, "na')  # the process was killed while it wrote
    page = page_of(tmp_path)
    assert "Unfinished: 11 of 32 epochs, last stage stage2" in page
    assert "No calibration has taken place" in page


def test_no_stress_labels(tmp_path, rng):
    page = page_of(make_run(tmp_path, rng, frames=8, terms=("energy", "forces")))
    assert "No stress labels" in page
    assert page.count("data:image/svg+xml") == 2 + 1 + 2 + 2


def test_no_test_set(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    sets = {"train": make_predictions(rng, 8), "valid": make_predictions(rng, 2)}
    write_predictions(tmp_path / "predictions.npz", {"default": sets})
    page = page_of(tmp_path)
    assert "No test files were given" in page
    assert "Validation errors" in page


def test_calibration_before_and_after(tmp_path, rng):
    page = page_of(make_run(tmp_path, rng, frames=8))
    bars = re.findall(r'aria-label="(energy [^"]*)"', page)
    assert len(bars) == 4
    assert bars[1] == "energy 33.3 %, forces 33.3 %, stress 33.3 %"  # what calibration is for
    assert "is normal" not in page


def test_calibration_that_misses_its_target_is_told(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    first = json.loads(lines[25])
    first["train"]["default"]["energy_mse"] *= 4
    lines[25] = json.dumps(first)
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert "In the first epoch of calibration energy had" in page_of(tmp_path)


def test_plan_table_has_the_coefficients_that_ran(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    plan = json.loads((tmp_path / "plan.json").read_text())
    history = History.read(tmp_path / "log.jsonl")
    for row in history.rows[:9]:
        row["coeff"]["stress"] = 0.0  # as where no frame has a stress
    cells = [[cell.text for cell in row] for row in plan_table(plan, history).rows]
    assert [row[-1] for row in cells[:2]] == ["0", "10"]
    assert plan_table(plan, History(())).rows[0][-1].text == "1×10⁻⁵"


@pytest.mark.parametrize("optimizer", ["lbfgs", "lstsq"])
def test_stages_without_a_learning_rate_show_none(tmp_path, rng, optimizer):
    make_run(tmp_path, rng, frames=8)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["stages"][1]["optimizer"] = optimizer
    rates = [row[4].text for row in plan_table(plan, History(())).rows]
    assert [text.startswith("–") for text in rates] == [False, True, False]


def test_two_heads_without_calibration(tmp_path, rng):
    page = page_of(make_run(tmp_path, rng, ("pbe", "scan"), frames=8, calibration=False))
    assert "Test errors: pbe" in page
    assert "Predictions: scan" in page
    assert "The plan has no calibration stage" in page


def test_no_run_here(tmp_path):
    with pytest.raises(InvalidInput, match="holds no run"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["predictions.npz", "plan.json", "log.jsonl"])
def test_damaged_file_is_named(tmp_path, rng, name):
    make_run(tmp_path, rng, frames=8)
    (tmp_path / name).write_bytes(b"not what it should be\n")
    with pytest.raises(InvalidInput, match=name):
        write_report(tmp_path)


def test_text_of_a_data_file_is_not_markup(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    sets = {"train": make_predictions(rng, 8, source="<b>x<i>.xyz")}
    write_predictions(tmp_path / "predictions.npz", {"default": sets})
    page = page_of(tmp_path)
    assert "<b>x<i>" not in page
    assert "&lt;b&gt;x&lt;i&gt;.xyz#" in page


def test_paths_are_cut_to_what_tells_them_apart(tmp_path, rng):
    assert short_names(["/a/b/x.xyz", "/a/c/x.xyz", "y.xyz"]) == {
        "/a/b/x.xyz": "b/x.xyz", "/a/c/x.xyz": "c/x.xyz", "y.xyz": "y.xyz",
    }  # fmt: skip
    assert short_names(["/x.xyz", "/a/x.xyz"]) == {"/x.xyz": "x.xyz", "/a/x.xyz": "a/x.xyz"}
    page = page_of(make_run(tmp_path, rng, frames=8))
    assert "/data/set" not in page
    assert "two atoms are near in set/train.xyz#7" in page


def test_history_finds_stages_and_contributions(tmp_path, rng):
    make_run(tmp_path, rng, frames=8)
    history = History.read(tmp_path / "log.jsonl")
    assert [(s.name, s.start, s.end) for s in history.spans] == [
        ("stage1", 1, 9), ("stage2", 9, 25), ("calibration", 25, 33),
    ]  # fmt: skip
    assert list(history.epochs[[0, 1, -1]]) == [0, 1, 32]
    window = history.window(history.spans[1])
    assert window == range(24, 25)
    coefficients = {"energy": 2.0, "forces": 0.0, "stress": 1.0}
    share = history.contributions("default", window, coefficients, "mse")
    expected = 2 * history.rows[24]["train"]["default"]["energy_mse"]
    assert share["energy"] == pytest.approx(expected)
    assert share["forces"] == 0
