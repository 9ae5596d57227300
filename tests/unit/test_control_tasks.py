"""Tasks in a control file: what they mean for the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtp.errors import InvalidInput
from stages.control.defaults import LISTS
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.plan import EmbeddingPlan, HeadPlan, Plan, Prefactors, coefficients
from stages.plan_text import describe_plan

TWO = {"energy": {}, "mu": {"type": "dipole"}}


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    """Function: content of a control file → its plan, without data."""

    def make(content: dict[str, Any], **options: Any) -> Plan:
        path = tmp_path / "control.json"
        path.write_text(json.dumps(content))
        return resolve(read_control(path), **{"need_data": False} | options)

    return make


def staged(options: dict[str, Any], tasks: dict[str, Any] = TWO, **changed: Any) -> dict[str, Any]:
    """Two stages of adam and calibration."""
    return {"tasks": tasks, "multistage_config": LISTS | changed, "stage_options": options}


def test_a_file_without_tasks_is_the_task_default(plan: Any) -> None:
    content = {"mtp_config": {"nn_dim_list": [4]}, "multistage_config": LISTS}
    alone = plan(content)
    assert alone.model.heads == (HeadPlan("default", hidden=(4,)),)
    assert plan(content | {"tasks": {"default": {}}}) == alone


def test_heads(plan: Any) -> None:
    tasks = {
        "ccsd": {"readout": {"neuron": [8, 8], "activation": "silu", "resnet_dt": True}},
        "wb97m-x": {"layer_name": ["l0", None]},
        "mu": {"type": "dipole", "sel_type": ["O"], "level": 6, "readout": {"embedding": False}},
        "alpha": {"type": "polar"},
        "type_embedding": {"neuron": [2, 4]},
    }
    model = plan({"tasks": tasks, "mtp_config": {"nn_dim_list": [5]}}).model
    assert model.heads == (
        HeadPlan("ccsd", hidden=(8, 8), activation="silu", timestep=True),
        HeadPlan("wb97m-x", hidden=(5,), shared=("l0", None)),
        HeadPlan("mu", "dipole", level=6, species=("O",)),
        HeadPlan("alpha", "polarizability", hidden=(5,), level=8),
    )
    assert model.embedding == EmbeddingPlan((2, 4))


def test_data_of_a_task_falls_back_on_data_config(plan: Any, tmp_path: Path) -> None:
    for name in ("a.xyz", "b.xyz"):
        (tmp_path / name).touch()
    tasks = {
        "a": {"data": {"files": ["a.xyz"]}},
        "b": {"data": {"files": [{"path": "b.xyz", "weight": 2}], "energy_key": "E"}},
    }
    section = {"valid_fraction": 0.2, "energy_key": "e"}
    content = {"tasks": tasks, "data_config": section, "common_config": {"max_forces": 3.0}}
    data = plan(content, need_data=True).data
    assert [Path(one.files[0].path).name for one in data.values()] == ["a.xyz", "b.xyz"]
    assert [one.energy_key for one in data.values()] == ["e", "E"]
    assert {one.valid_fraction for one in data.values()} == {0.2}
    assert {one.max_forces for one in data.values()} == {3.0}
    assert data["b"].files[0].weight == 2.0


def test_the_single_task_may_take_the_files_of_data_config(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").touch()
    content = {"tasks": {"mu": {"type": "dipole"}}, "data_config": {"files": ["a.xyz"]}}
    assert len(plan(content, need_data=True).data["mu"].files) == 1
    given = plan(content, data=[str(tmp_path / "a.xyz")], need_data=True)
    assert "--data replaces this file" in given.warnings[0]


def test_losses_of_a_stage_of_a_task_of_a_default(plan: Any) -> None:
    tasks = {
        "energy": {"loss": {"forces_coeff": 7.0, "loss_func": "huber"}},
        "mu": {"type": "dipole", "loss": {"atomic_dipole_coeff": 0.0}},
    }
    options = {"task_loss": [{"energy": {"loss_func": "l1", "stress_coeff": 3.0, "lr": 0.5}}, None]}
    one, two, calibration = plan(staged(options, tasks)).stages
    assert one.tasks["energy"].loss == "l1"
    assert one.tasks["energy"].lr == 0.5
    assert one.tasks["energy"].coefficients == coefficients(1e-5, 7.0, 3.0)
    assert two.tasks["energy"].loss == "huber"
    assert two.tasks["energy"].lr is None
    assert two.tasks["energy"].coefficients == coefficients(1.0, 7.0, 10.0)
    for stage in (one, two):
        assert stage.tasks["mu"].loss == "mse"
        assert stage.tasks["mu"].coefficients == {"dipole": 1000.0, "atomic_dipole": 0.0}
    assert calibration.tasks["energy"].loss == "huber"
    assert calibration.tasks["mu"].coefficients is None


def test_prefactors_replace_the_coefficients_of_the_lists(plan: Any) -> None:
    loss = {"prefactors": {"energy": [0.02, 1], "virial": [0, 1]}, "forces_coeff": 2.0}
    tasks = {"e": {"loss": loss | {"energy_weighting": "per_atom"}}}
    one, two, calibration = plan(
        staged({"task_loss": [None, {"e": {"stress_coeff": 5.0}}]}, tasks)
    ).stages
    following = {"energy": Prefactors(0.02, 1.0), "forces": Prefactors(2.0, 2.0)}
    assert one.tasks["e"].prefactors == following | {"stress": Prefactors(0.0, 1.0)}
    assert one.tasks["e"].virial
    assert one.tasks["e"].energy_weighting == "per_atom"
    assert two.tasks["e"].prefactors == following | {"stress": Prefactors(5.0, 5.0)}
    assert not two.tasks["e"].virial
    assert calibration.tasks["e"].prefactors is None
    assert calibration.tasks["e"].energy_weighting == "per_atom_squared"


def test_weights_and_the_idle(plan: Any) -> None:
    """Nothing said: as many steps as batches. 0 and null: idle. Not named: idle, and strange."""
    found = plan(
        staged({"task_weight": [{"energy": 1}, {"energy": 2, "mu": None}, {"energy": 1, "mu": 0}]})
    )
    assert [[t.weight for t in s.tasks.values()] for s in found.stages] == [
        [1, 0],
        [2, 0],
        [1, 0],
    ]
    assert [line.split(": ")[1] for line in found.warnings] == [
        "task mu has no weight in stage1",
        "task mu is idle in stage2, calibration",
    ]
    assert list(found.stages[0].active()) == ["energy"]


def test_idle_on_purpose_is_allowed_when_strict(plan: Any) -> None:
    meant = staged({"task_weight": [{"energy": 1, "mu": 0}, {"energy": 1, "mu": 1}]})
    assert plan(meant, strict=True).stages[0].tasks["mu"].weight == 0
    forgotten = staged({"task_weight": [{"energy": 1}, {"energy": 1, "mu": 1}]})
    with pytest.raises(InvalidInput, match=r"no weight in stage1.*write 0 if that is meant"):
        plan(forgotten, strict=True)


def test_epochs_of_tasks(plan: Any) -> None:
    one, two, _ = plan(staged({"task_epochs": [{"energy": 10, "mu": 0.5}, None, None]})).stages
    assert [task.epochs for task in one.tasks.values()] == [10.0, 0.5]
    assert [task.epochs for task in two.tasks.values()] == [None, None]


def test_targets_of_calibration(plan: Any) -> None:
    *_, last = plan(staged({"calibration_target": {"forces": 4}})).stages
    assert last.calibration_target["energy"] == coefficients(1.0, 4.0, 1.0)
    assert last.calibration_target["mu"] == {"dipole": 1.0, "atomic_dipole": 1.0}
    options = {
        "calibration_target": {"mu": {"atomic_dipole": 0}},
        "task_target": {"energy": 3, "mu": 1},
    }
    *_, last = plan(staged(options)).stages
    assert last.calibration_target["energy"] == coefficients(1.0, 1.0, 1.0)
    assert last.calibration_target["mu"] == {"dipole": 1.0, "atomic_dipole": 0.0}
    assert last.task_target == {"energy": 3.0, "mu": 1.0}


def test_the_default_plan_holds_for_energies_of_tasks(plan: Any) -> None:
    stages = plan({"tasks": TWO}).stages
    alone = plan({}).stages
    for one, other in zip(stages, alone, strict=True):
        assert one.tasks["energy"] == other.tasks["default"]
    assert stages[-1].calibration_target["energy"] == alone[-1].calibration_target["default"]
    assert stages[-1].calibration_target["mu"] == {"dipole": 1.0, "atomic_dipole": 1.0}


def test_groups_of_single_heads(plan: Any) -> None:
    options = {"trainable": [["descriptor", "mu"], ["energy.readout", "shifts"], None]}
    assert plan(staged(options)).stages[0].trainable == ("descriptor", "mu")


def test_a_plan_with_tasks_survives_json_and_is_shown(plan: Any) -> None:
    tasks = {"e": {"loss": {"prefactors": {"energy": [1, 2]}}}, "a": {"type": "polar"}}
    options = {"task_weight": [{"e": 1, "a": 0}, None], "task_target": {"e": 1, "a": 2}}
    made = plan(
        staged(options, tasks | {"type_embedding": {}}) | {"run_config": {"task_draw": "random"}}
    )
    assert Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert made.run.task_draw == "random"
    text = describe_plan(made)
    assert "polar" in text
