"""What a restart would change, in the words of the control file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.plan import DataFile, EmbeddingPlan, HeadPlan, Plan, coefficients
from stages.run.changes import differences
from tests.training import stage, task, tiny_plan


def with_model(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, model=replace(plan.model, **changes))


def with_run(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, run=replace(plan.run, **changes))


def with_data(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, data={"default": replace(plan.data["default"], **changes)})


def with_first(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, stages=(replace(plan.stages[0], **changes), *plan.stages[1:]))


CHANGES: dict[str, Callable[[Plan], Plan]] = {
    "mtp_config.rc: was 4.0, is now 5.0": lambda p: with_model(p, rc=5.0),
    "common_config.batch_size: was 4": lambda p: with_run(p, batch_size=5),
    "run_config.seed": lambda p: with_run(p, seed=7),
    "common_config.max_forces": lambda p: with_data(p, max_forces=3.0),
    "data_config.valid_fraction": lambda p: with_data(p, valid_fraction=0.5),
    "data_config.files.0.weight": lambda p: with_data(p, files=(DataFile("x.xyz", 2.0),)),
    "multistage_config.epoch_list of stage1": lambda p: with_first(p, epochs=9),
    "stage_options.ema of stage1": lambda p: with_first(p, ema=0.5),
    "common_config.lr_scheduling of stage1": lambda p: with_first(
        p, schedule=replace(p.stages[0].schedule, kind="step")
    ),
    "multistage_config.forces_loss_coeff_list of stage1": lambda p: with_first(
        p, tasks={"default": task(coefficients=coefficients(1.0, 0.5, 10.0))}
    ),
    'multistage_config (stages): was ["stage1", "stage2", "stage3", "calibration"], is now '
    '["stage1"]': lambda p: replace(p, stages=(stage(),)),
}


def plain(plan: Plan) -> Any:
    return json.loads(json.dumps(plan.as_dict()))


@pytest.mark.parametrize("said", CHANGES)
def test_a_change_has_the_name_of_its_key(tmp_path: Path, said: str) -> None:
    plan = tiny_plan(tmp_path)
    (line,) = differences(plain(plan), plain(CHANGES[said](plan)))
    assert line.startswith(f"the control file changed: {said}")


def test_paths_of_data_and_what_changes_no_result_are_free(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    other = with_run(with_data(plan, files=(DataFile("data.xyz"),)), memory=1.0)
    assert differences(plain(plan), plain(replace(other, warnings=("x",)))) == []


def two_tasks(folder: Path) -> Plan:
    """A plan with the energy tasks a and b."""
    plan = tiny_plan(folder)
    data = {name: plan.data["default"] for name in "ab"}
    stages = tuple(replace(s, tasks={n: s.tasks["default"] for n in "ab"}) for s in plan.stages)
    heads = (HeadPlan("a"), HeadPlan("b"))
    return replace(with_model(plan, heads=heads), data=data, stages=stages)


def with_b(plan: Plan, **changes: Any) -> Plan:
    tasks = plan.stages[0].tasks
    return with_first(plan, tasks=tasks | {"b": replace(tasks["b"], **changes)})


TASKS: dict[str, Callable[[Plan], Plan]] = {
    'tasks (heads): was ["a", "b"], is now ["a"]': lambda p: with_model(p, heads=p.model.heads[:1]),
    "tasks.b.readout.neuron": lambda p: with_model(
        p, heads=(p.model.heads[0], HeadPlan("b", hidden=(3,)))
    ),
    "tasks.b.data.valid_fraction": lambda p: replace(
        p, data=p.data | {"b": replace(p.data["b"], valid_fraction=0.5)}
    ),
    "stage_options.task_weight.b of stage1: was null, is now 0.5": lambda p: with_b(p, weight=0.5),
    "tasks.b.loss or stage_options.task_loss (loss_func) of stage1": lambda p: with_b(p, loss="l1"),
    "tasks.b.loss or stage_options.task_loss (coefficients.forces) of stage1": lambda p: with_b(
        p, coefficients=coefficients(1.0, 0.5, 10.0)
    ),
    "tasks.type_embedding": lambda p: with_model(p, embedding=EmbeddingPlan()),
    "run_config.task_draw": lambda p: with_run(p, task_draw="random"),
}


@pytest.mark.parametrize("said", TASKS)
def test_a_change_of_a_task_has_the_name_of_its_key(tmp_path: Path, said: str) -> None:
    plan = two_tasks(tmp_path)
    (line,) = differences(plain(plan), plain(TASKS[said](plan)))
    assert line.startswith(f"the control file changed: {said}")
