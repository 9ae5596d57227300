"""What a restart would change, in the words of the control file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.plan import DataFile, Plan, coefficients
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
