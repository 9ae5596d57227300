"""The report of a run with several tasks: their shares, what moves, terms in their own units."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtp.structure import Structure
from mtp.terms import PREDICTED, TERMS
from stages.metrics import metrics
from stages.plan import (
    DataFile,
    DataPlan,
    HeadPlan,
    ModelPlan,
    Plan,
    Prefactors,
    RunPlan,
    Schedule,
    Stage,
    TaskStage,
)
from stages.predictions import Predictions, write_predictions
from stages.report import plots
from stages.report.history import History
from stages.report.page import write_report
from stages.report.plots import Image
from stages.report.tables import plan_table
from stages.report.tasks import across_tasks, moves, portions, tasks_section

KINDS = {"pes": "energy", "mu": "dipole", "alpha": "polarizability"}
SIZES = {"energy": 0.01, "forces": 0.1, "stress": 1e-3}


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Figures cost most of a report's time; their alternative texts tell them apart."""
    monkeypatch.setattr(plots, "embed", lambda figure, alt: Image("data:,", alt))


def terms(head: str) -> tuple[str, ...]:
    return PREDICTED[KINDS[head]]


@pytest.fixture
def plan() -> Plan:
    def task(head, **changes):
        return TaskStage("mse", dict.fromkeys(terms(head), 1.0), **changes)

    def stage(name, trainable, **tasks):
        return Stage(name, 2, 0.01, "adam", Schedule("none", 1), trainable, tasks)

    first = stage(
        "stage1",
        ("descriptor", "pes", "mu.readout", "type_embedding"),
        pes=task("pes", weight=3.0),
        mu=task("mu", weight=1.0, lr=0.5),
        alpha=task("alpha", weight=0.0),
    )
    everything = ("descriptor", "readout", "shifts")
    prefactors = {"dipole": Prefactors(0.02, 1.0)}
    second = stage(
        "stage2",
        everything,
        pes=task("pes"),
        mu=replace(task("mu"), prefactors=prefactors, epochs=4.0),
        alpha=task("alpha"),
    )
    last = {head: replace(task(head), coefficients=None) for head in KINDS}
    heads = tuple(HeadPlan(name, kind) for name, kind in KINDS.items())
    data = {head: DataPlan((DataFile("train.xyz"),)) for head in KINDS}
    stages = (first, second, stage("calibration", everything, **last))
    return Plan(ModelPlan(5.0, 8, 8, 2, 4, 1, heads), data, stages, RunPlan(batch_size=10))


SCAN = {"pes": 95, "mu": 20, "alpha": 30}  # 10, 2 and 3 batches


def scans() -> dict:
    return {head: {"sets": {"train": frames}} for head, frames in SCAN.items()}


def log() -> History:
    """Two epochs of every stage; the loss of each task is 1, 2 and 4."""
    rows = []
    for number, name in enumerate(("stage1", "stage2", "calibration"), 1):
        heads = list(KINDS)[: 2 if number == 1 else 3]
        for epoch in (1, 2):
            values = {
                head: {f"{t}_mse": 1e-4 for t in terms(head)}
                | {f"{t}_l1": 1e-2 for t in terms(head)}
                | {"loss": 2.0**i}
                for i, head in enumerate(heads)
            }
            steps = dict(zip(heads, (0.75, 0.25) if number == 1 else (0.5, 0.3, 0.2), strict=True))
            gradient = {head: (0.1 if epoch == 1 else 0.3) for head in heads[1:]}
            gradient[heads[0]] = 1 - sum(gradient.values())
            rows.append(
                {
                    "stage": number, "name": name, "epoch": epoch, "lr": 0.01,
                    "coeff": {head: dict.fromkeys(terms(head), 1.0) for head in heads},
                    "train": values, "valid": values, "seconds": 0.1,
                    "share": {h: {"steps": steps[h], "gradient": gradient[h]} for h in heads},
                }
            )  # fmt: skip
    return History(tuple(rows))


def calibration() -> dict:
    def term(value):
        return {"loss": value, "at_floor": False, "coefficient_before": 1.0,
                "coefficient_after": 1.0, "share_before": 0.5, "share_after": 0.5,
                "target": 0.5}  # fmt: skip

    return {
        head: {
            "previous_stage": "stage2", "epochs": [2], "loss": "mse", "weighted_loss": 2.0**i,
            "terms": {t: term(1e-4) for t in terms(head)}, "factor": (1.5, 0.75, 0.375)[i],
        }
        for i, head in enumerate(KINDS)
    }  # fmt: skip


def test_planned_shares(plan):
    first, second, _ = plan.as_dict()["stages"]
    assert portions(plan.as_dict(), scans(), first) == {"pes": 0.75, "mu": 0.25, "alpha": 0.0}
    found = portions(plan.as_dict(), scans(), second)  # batches, times own epochs
    assert found == pytest.approx({"pes": 10 / 21, "mu": 8 / 21, "alpha": 3 / 21})


def test_what_moves(plan):
    content = plan.as_dict()
    first, second, _ = content["stages"]
    assert moves(content, first, "pes") == "descriptor, its head"
    assert moves(content, first, "mu") == "descriptor, readout"
    assert moves(content, first, "alpha") == "idle"
    assert moves(content, second, "mu") == "descriptor, readout"  # a dipole has no shifts
    assert moves(content, second, "alpha") == "descriptor, readout, shifts"


def test_shares_of_steps_gradient_and_loss(plan):
    section = tasks_section(plan.as_dict(), scans(), log())
    rows = [[cell.text for cell in row] for row in section.table.rows]
    assert rows[0] == ["stage1", "pes", "descriptor, its head", "75 %", "75 %", "80 %", "60 %"]
    assert rows[1][3:] == ["25 %", "25 %", "20 %", "40 %"]  # 0.25·2 of 0.75·1 + 0.25·2
    assert rows[2][2:] == ["idle", "0 %", "0 %", "0 %", "–"]
    assert [name for name, _ in section.stages] == ["stage1", "stage2", "calibration"]
    steps, gradient, loss = section.stages[1][1]
    assert [part[2] for part in steps.parts] == pytest.approx([50, 30, 20])
    assert [part[2] for part in gradient.parts] == pytest.approx([60, 20, 20])
    assert [part[2] for part in loss.parts] == pytest.approx([100 * w / 38 for w in (10, 16, 12)])


def test_the_only_active_task_gets_everything(plan):
    content = plan.as_dict()
    content["stages"][0]["tasks"]["mu"]["weight"] = 0.0
    rows = [{k: v for k, v in row.items() if k != "share"} for row in log().rows[:2]]
    rows = [row | {"train": {"pes": row["train"]["pes"]}} for row in rows]
    section = tasks_section(content, scans(), History(tuple(rows)))
    cells = [[cell.text for cell in row] for row in section.table.rows]
    assert cells[0][3:] == ["100 %", "100 %", "100 %", "100 %"]
    assert cells[1][2:] == ["idle", "0 %", "–", "–", "–"]


def test_one_task_has_no_such_section(plan):
    content = plan.as_dict()
    content["data"] = {"pes": content["data"]["pes"]}
    assert tasks_section(content, scans(), log()) is None


def test_calibration_across_tasks(plan):
    content = plan.as_dict()
    before, after, first, end = across_tasks(content, scans(), calibration(), log())
    assert before.label == "End of stage2"
    assert [part[2] for part in before.parts] == pytest.approx([100 * w / 26 for w in (10, 4, 12)])
    shares = np.array([15, 3, 4.5])
    assert [part[2] for part in after.parts] == pytest.approx(list(100 * shares / shares.sum()))
    assert [part[2] for part in first.parts] == pytest.approx([100 * w / 26 for w in (10, 4, 12)])
    assert end.label == "End of calibration"


def test_plan_table_of_tasks(plan):
    rows = [[cell.text for cell in row] for row in plan_table(plan.as_dict(), History(())).rows]
    assert rows[1][1:] == ["mu", "adam", "mse", "dipole 1, atomic dipole 1", "2", "0.5, constant"]
    assert rows[2][4] == "idle"
    assert rows[4][4] == "dipole 0.02 → 1, atomic dipole 1"
    assert rows[7][4] == "from the log"


def predictions(rng, head: str) -> Predictions:
    structures = []
    for index in range(6):
        labels = {t: rng.normal(size=TERMS[t].shape(3)) for t in terms(head)}
        structures.append(
            Structure(
                np.array([8, 1, 1]), rng.normal(size=(3, 3)), 5 * np.eye(3), np.ones(3, dtype=bool),
                source="train.xyz", index=index, **labels,
            )
        )  # fmt: skip
    values = {
        t: np.concatenate([np.atleast_1d(s.label(t)) for s in structures]) + 0.01
        for t in terms(head)
    }
    return Predictions.collect(structures, values)


@pytest.fixture
def run(plan, rng, tmp_path) -> Path:
    """A run directory of the three tasks."""
    content = plan.as_dict()
    for task in content["stages"][-1]["tasks"].values():
        task["weight"] = 1.0  # without scan.json nobody knows the number of batches
    (tmp_path / "plan.json").write_text(json.dumps(content))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log().rows))
    (tmp_path / "calibration.json").write_text(json.dumps(calibration()))
    sets = {
        head: {"train": predictions(rng, head), "test": predictions(rng, head)} for head in KINDS
    }
    write_predictions(tmp_path / "predictions.npz", sets)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics(sets)))
    return tmp_path


def test_page_of_three_tasks(run):
    page = write_report(run).read_text(encoding="utf-8")
    for head in KINDS:
        assert f"Test errors: {head}" in page
        assert f"<h2>Predictions: {head}</h2>" in page
        assert f">Predictions: {head}</a>" in page
    alts = re.findall(r'alt="([^"]*)"', page)
    for quantity in ("dipole of atoms", "polarizability of atoms", "dipole", "force"):
        assert f"{quantity} errors of train and valid over the epochs of all stages" in alts
        assert any(alt.startswith(f"predicted over reference {quantity} ") for alt in alts)
    assert "predicted over reference polarizability yz xz xy for train, test" in alts
    assert "<h2>Tasks</h2>" in page
    assert "Between the tasks" in page
    assert 'aria-label="pes 50.0 %, mu 30.0 %, alpha 20.0 %"' in page
    assert "Atomic dipole errors per element" in page
    assert "polarizability MAE, Å³/atom" in page
    assert "e·Å/atom" in page
    assert "no labels" not in page
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))
