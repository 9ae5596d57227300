"""Heads that earlier stages left out start on the descriptor that those have trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.plan import HeadPlan, Plan, TaskStage
from stages.run import folder as run_folder
from stages.run import train as run
from stages.run.loading import adjust_shifts
from stages.run.start import start_late_heads, starting_point
from stages.run.train import read_data, train
from tests.training import stage, tiny_plan

EVEN = {"energy": 1.0, "forces": 1.0, "stress": 1.0}


def plan_of_two(folder: Path) -> Plan:
    """Two heads of networks on the same data; the second takes part from the second stage on."""
    plan = tiny_plan(folder)
    heads = (HeadPlan("first", hidden=(4,)), HeadPlan("late", hidden=(4,)))
    both = {"first": TaskStage("mse", EVEN), "late": TaskStage("mse", EVEN)}
    alone = both | {"late": TaskStage("mse", EVEN, weight=0.0)}
    stages = tuple(
        replace(stage(name=name, epochs=2, optimizer="lbfgs"), tasks=tasks)
        for name, tasks in (("one", alone), ("two", both), ("three", both))
    )
    data = dict.fromkeys(("first", "late"), plan.data["default"])
    return replace(plan, model=replace(plan.model, heads=heads), data=data, stages=stages)


def test_a_late_head_fits_a_descriptor_that_has_grown(tmp_path: Path) -> None:
    plan = plan_of_two(tmp_path)
    datasets = {task: read_data(plan, task) for task in plan.data}
    potential, _ = starting_point(plan, datasets)
    data = run.build_geometry(plan, datasets, potential, torch.device("cpu"))

    def spread(head: str) -> float:
        batch = data[head].train.batch()
        return float((potential.predict(batch, head).forces - batch.labels["forces"]).std())

    before = spread("late")
    with torch.no_grad():
        potential.radial.mul_(30.0)
    grown, first = spread("late"), spread("first")
    start_late_heads(potential, datasets, {"late"}, seed=0)
    assert grown > 3 * before
    assert spread("late") < 1.2 * before
    assert spread("first") == first


def test_a_head_starts_once_and_not_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run, "write_report", lambda folder: None)
    plan, started = plan_of_two(tmp_path), []

    def note(potential, datasets, late, seed):
        started.append(late)
        start_late_heads(potential, datasets, late, seed)

    monkeypatch.setattr(run, "start_late_heads", note)
    train(plan, tmp_path / "whole", device="cpu")
    assert started == [{"late"}]

    def killed(self, line, loss, old=run_folder.Keeper.epoch):
        if line["name"] == "two" and line["epoch"] == 2:
            raise KeyboardInterrupt
        old(self, line, loss)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Keeper, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(plan, tmp_path / "again", device="cpu")
    train(plan, tmp_path / "again", device="cpu", restart=True)
    assert started == [{"late"}] * 2
    ends = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])["train"]
        for name in ("whole", "again")
    ]
    assert ends[0] == ends[1]


def test_a_head_whose_last_layer_is_anothers_starts_with_shifts_that_fit_it(tmp_path: Path) -> None:
    plan = plan_of_two(tmp_path)
    heads = tuple(replace(head, shared=("hidden", "last")) for head in plan.model.heads)
    plan = replace(plan, model=replace(plan.model, heads=heads))
    datasets = {task: read_data(plan, task) for task in plan.data}
    potential, _ = starting_point(plan, datasets)
    weight = potential.heads["first"].last.weight
    with torch.no_grad():
        weight.mul_(-30.0)
    trained = weight.clone()
    start_late_heads(potential, datasets, {"late"}, seed=0)
    assert potential.heads["late"].last.weight is weight
    assert torch.equal(weight, trained)
    assert adjust_shifts(potential, "late", datasets["late"]) < 1e-9
