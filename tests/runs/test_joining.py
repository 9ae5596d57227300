"""Heads and networks that earlier stages left out start on what those have trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtp.model_file import save_model
from stages.control.defaults import WITHOUT_NETWORKS
from stages.plan import HeadPlan, Plan, TaskStage
from stages.run import folder as run_folder
from stages.run import joining
from stages.run import train as run
from stages.run.joining import join
from stages.run.loading import adjust_shifts
from stages.run.start import start_heads, starting_point
from stages.run.train import read_data, train
from stages.trainer import move_only
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
    origin = join(plan, 1, potential, datasets, {})
    assert {name.rsplit(".")[1] for name in origin} == {"late"}
    assert grown > 3 * before
    assert spread("late") < 1.2 * before
    assert spread("first") == first


def test_a_head_starts_once_and_not_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run, "write_report", lambda folder: None)
    plan, started = plan_of_two(tmp_path), []

    def note(potential, datasets, new, silent, generator):
        started.append(new)
        start_heads(potential, datasets, new, silent, generator)

    monkeypatch.setattr(joining, "start_heads", note)
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
    join(plan, 1, potential, datasets, {})
    assert potential.heads["late"].last.weight is weight
    assert torch.equal(weight, trained)
    assert adjust_shifts(potential, "late", datasets["late"]) < 1e-9


def plan_of_network(folder: Path, pull: float = 0.0) -> Plan:
    """A network that joins in at the second stage."""
    plan = tiny_plan(folder)
    first, *rest = (
        replace(stage(name=name, epochs=6, optimizer="lbfgs"), pull=pull)
        for name in ("one", "two", "three")
    )
    stages = (replace(first, trainable=WITHOUT_NETWORKS, pull=0.0), *rest)
    model = replace(plan.model, heads=(HeadPlan("default", hidden=(4,)),))
    return replace(plan, model=model, stages=stages)


def test_a_silent_network_is_a_linear_readout(tmp_path: Path) -> None:
    """Also for its gradient, and as a kernel sees it that does not know of silence."""
    plan = plan_of_network(tmp_path)
    datasets = {"default": read_data(plan, "default")}
    potential, _ = starting_point(plan, datasets)
    head = potential.heads["default"]
    groups = move_only(potential, plan.stages[0])
    assert head.silent
    assert {id(p) for group in groups.values() for p in group} == {
        id(p) for p in (potential.radial, head.last.weight, head.shifts)
    }
    data = run.build_geometry(plan, datasets, potential, torch.device("cpu"))["default"]
    batch = data.train.batch()
    here = potential.predict(batch, "default")
    slopes = {term: torch.ones_like(value) for term, value in here.values.items()}
    potential.zero_grad()
    potential.backward(batch, "default", slopes)
    assert head.last.weight.grad[:, -len(head.mean) :].abs().min() > 0
    assert not head.last.weight.grad[:, : -len(head.mean)].any()
    silent = potential.radial.grad.clone()
    head.silent = False
    there = potential.predict(batch, "default")
    for term, value in there.values.items():
        torch.testing.assert_close(value, here.values[term], rtol=1e-10, atol=1e-10)
    potential.zero_grad()
    potential.backward(batch, "default", slopes)
    torch.testing.assert_close(potential.radial.grad, silent, rtol=1e-8, atol=1e-8)


def test_a_network_joins_beside_the_linear_part_that_stays(tmp_path: Path) -> None:
    plan = plan_of_network(tmp_path)
    datasets = {"default": read_data(plan, "default")}
    potential, _ = starting_point(plan, datasets)
    head = potential.heads["default"]
    with torch.no_grad():
        potential.radial.mul_(3.0)  # as training does: invariants have another mean and size
    batch = run.build_geometry(plan, datasets, potential, torch.device("cpu"))["default"]
    batch = batch.train.batch()
    before = potential.predict(batch, "default").forces
    shifts = head.shifts.clone()
    assert join(plan, 0, potential, datasets, {}) == {}  # nothing but the linear part moves there
    origin = join(plan, 1, potential, datasets, {})
    assert not head.untrained
    network = float((potential.predict(batch, "default").forces - before).std())
    assert 0 < network < 0.3 * float(before.std())
    assert torch.equal(head.shifts, shifts)
    moved = {name for name, _ in potential.named_parameters()} - {"heads.default.shifts"}
    assert origin.keys() == moved
    with torch.no_grad():
        head.last.weight[:, : -len(head.mean)] = 0
    torch.testing.assert_close(potential.predict(batch, "default").forces, before)


def test_heads_of_one_last_layer_join_together(tmp_path: Path) -> None:
    """Also one that is idle then: it would see weights that were scaled for the other."""
    plan = plan_of_network(tmp_path)
    shared = ("hidden", "last")
    heads = tuple(HeadPlan(name, hidden=(4,), shared=shared) for name in ("a", "b"))
    both = {name: TaskStage("mse", EVEN) for name in ("a", "b")}
    tasks = (both, both | {"b": TaskStage("mse", EVEN, weight=0.0)}, both)
    stages = tuple(replace(s, tasks=t) for s, t in zip(plan.stages, tasks, strict=True))
    data = dict.fromkeys(("a", "b"), plan.data["default"])
    model = replace(plan.model, heads=heads)
    plan = replace(plan, model=model, data=data, stages=stages)
    datasets = {task: read_data(plan, task) for task in plan.data}
    potential, _ = starting_point(plan, datasets)
    with torch.no_grad():
        potential.radial.mul_(3.0)
    batch = run.build_geometry(plan, datasets, potential, torch.device("cpu"))["b"].train.batch()
    before = potential.predict(batch, "b").forces
    join(plan, 1, potential, datasets, {})
    assert not potential.heads["b"].untrained
    assert join(plan, 2, potential, datasets, {}) == {}
    head = potential.heads["b"]
    with torch.no_grad():
        head.last.weight[:, : -len(head.mean)] = 0
    torch.testing.assert_close(potential.predict(batch, "b").forces, before)


def test_a_network_is_drawn_to_where_it_joined_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run, "write_report", lambda folder: None)
    last = {}
    for pull in (0.0, 1e6):
        plan, name = plan_of_network(tmp_path, pull), f"whole{pull:g}"
        train(plan, tmp_path / name, device="cpu")
        rows = (tmp_path / name / "log.jsonl").read_text().splitlines()
        last[pull] = [json.loads(row)["train"]["default"]["loss"] for row in rows]
    assert last[0.0][:7] == last[1e6][:7]  # the first stage knows of no network
    assert last[0.0][-1] < 0.9 * last[1e6][-1]

    def killed(self, line, loss, old=run_folder.Keeper.epoch):
        if line["name"] == "three" and line["epoch"] == 2:
            raise KeyboardInterrupt
        old(self, line, loss)

    plan = plan_of_network(tmp_path, 1e6)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Keeper, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(plan, tmp_path / "again", device="cpu")
    train(plan, tmp_path / "again", device="cpu", restart=True)
    rows = (tmp_path / "again" / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["train"]["default"]["loss"] for row in rows] == last[1e6]


def test_a_silent_network_of_a_loaded_model_is_drawn_to_where_it_joins(tmp_path: Path) -> None:
    plan = plan_of_network(tmp_path, 30.0)
    datasets = {"default": read_data(plan, "default")}
    silent, _ = starting_point(plan, datasets)
    save_model(tmp_path / "silent.mtp.safetensors", silent)
    again = replace(plan.model, reload_model=str(tmp_path / "silent.mtp.safetensors"))
    plan = replace(plan, model=again, stages=plan.stages[1:])
    potential, names = starting_point(plan, datasets)
    named = dict(potential.named_parameters())
    origin = {name: named[name].detach().clone() for name in names}
    move_only(potential, plan.stages[0])
    before = origin["heads.default.last.weight"]
    origin = join(plan, 0, potential, datasets, origin)
    assert not torch.equal(origin["heads.default.last.weight"], before)
    for name in names:
        torch.testing.assert_close(origin[name], named[name].detach())
