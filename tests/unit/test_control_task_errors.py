"""Mistakes about tasks: each one line with its place, what is wrong and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtp.errors import InvalidInput
from stages.control.defaults import LISTS
from stages.control.reader import read_control
from stages.control.resolve import resolve

TWO: dict[str, Any] = {"pbe": {}, "mu": {"type": "dipole"}}
OF = "/stage_options"


def tasks(**changed: Any) -> dict[str, Any]:
    return {"tasks": TWO | changed}


def staged(given: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"tasks": given or TWO, "multistage_config": LISTS, "stage_options": options}


def lbfgs(given: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return staged(given, optimizer=["adam", "lbfgs"], **options)


def network(*names: str | None, **changed: Any) -> dict[str, Any]:
    return {"readout": {"neuron": [4, 4]} | changed, "layer_name": list(names)}


# name: content, place, part of the message
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "name with a space": (tasks(**{"a b": {}}), "/tasks/a b", "letters, digits, _ and -"),
    "name of a group": (tasks(shifts={}), "/tasks/shifts", "reserved word"),
    "type": (tasks(pbe={"type": "energy"}), "/tasks/pbe/type", "must be 'ener', 'dipole' or"),
    "descriptor of nothing": (tasks(descriptor={}), "/tasks/descriptor", "none is named"),
    "finetune of nothing": (
        tasks(pbe={"finetune_head": "x"}),
        "/tasks/pbe/finetune_head",
        "no model is loaded",
    ),
    "adjust nothing": (
        tasks(pbe={"adjust_shifts": False}),
        "/tasks/pbe/adjust_shifts",
        "no effect",
    ),
    "level of energies": (tasks(pbe={"level": 4}), "/tasks/pbe/level", "for dipole and polar"),
    "level without tensors": (
        tasks(mu={"type": "polar", "level": 3}),
        "/tasks/mu/level",
        "level 3 holds nothing for a polar task; it begins at 4",
    ),
    "huge level": (
        tasks(mu={"type": "dipole", "level": 60}),
        "/tasks/mu/level",
        "more than 5000 covariants",
    ),
    "no element": (
        tasks(mu={"type": "dipole", "sel_type": ["O", "Q"]}),
        "/tasks/mu/sel_type/1",
        "'Q' is no element",
    ),
    "no embedding": (
        tasks(pbe={"readout": {"neuron": [4], "embedding": True}}),
        "/tasks/pbe/readout/embedding",
        "there is no type embedding",
    ),
    "embedding without layer": (
        tasks(pbe={"readout": {"embedding": True}}, type_embedding={}),
        "/tasks/pbe/readout/embedding",
        "the readout is linear",
    ),
    "layer names": (
        tasks(pbe=network("l0", None)),
        "/tasks/pbe/layer_name",
        "must have 3 names (hidden layers and output), got 2",
    ),
    "layer shapes": (
        {"tasks": {"a": network("x", "y", None), "b": network(None, None, "y")}},
        "/tasks/b/layer_name/2",
        "layer 'y' is 4 × energy, but 4 × 4, tanh at /tasks/a/layer_name/1",
    ),
    "layer activations": (
        {
            "tasks": {
                "a": network("x", None, None),
                "b": network("x", None, None, activation="silu"),
            }
        },
        "/tasks/b/layer_name/0",
        "layer 'x' is invariants × 4, silu, but invariants × 4, tanh",
    ),
    "layer timesteps": (
        {"tasks": {"a": network(None, "x", None), "b": network(None, "x", None, resnet_dt=True)}},
        "/tasks/b/layer_name/1",
        "resnet_dt",
    ),
    "negative weight": (
        staged(task_weight=[{"pbe": -1}, None]),
        f"{OF}/task_weight/0/pbe",
        "must be ≥ 0, got -1",
    ),
    "true as weight": (
        staged(task_weight=[{"pbe": True}, None]),
        f"{OF}/task_weight/0/pbe",
        "must be a number, got true",
    ),
    "text as weight": (
        staged(task_weight=[{"pbe": "1"}, None]),
        f"{OF}/task_weight/0/pbe",
        'must be a number, got "1"',
    ),
    "no positive weight": (
        staged(task_weight=[{"pbe": 0, "mu": None}, None]),
        f"{OF}/task_weight/0",
        "no task takes part",
    ),
    "empty weights": (staged(task_weight=[{}, None]), f"{OF}/task_weight/0", "no task takes part"),
    "weight of nobody": (
        staged(task_weight=[{"pbee": 1, "pbe": 1, "mu": 1}, None]),
        f"{OF}/task_weight/0/pbee",
        "there is no task 'pbee'; did you mean 'pbe'?",
    ),
    "weights and epochs": (
        staged(task_weight=[{"pbe": 1, "mu": 1}] * 2, task_epochs=[None, {"pbe": 1, "mu": 1}]),
        f"{OF}/task_epochs/1",
        "has task_weight too",
    ),
    "epochs of full batches": (
        lbfgs(task_epochs=[None, {"pbe": 1, "mu": 1}]),
        f"{OF}/task_epochs/1",
        "takes all structures at once",
    ),
    "term of another type": (
        tasks(mu={"type": "dipole", "loss": {"energy_coeff": 1.0}}),
        "/tasks/mu/loss/energy_coeff",
        "a task of type dipole has dipole, atomic_dipole",
    ),
    "term of another type, in a stage": (
        staged(task_loss=[None, {"pbe": {"huber_delta": {"dipole": 1.0}}}]),
        f"{OF}/task_loss/1/pbe/huber_delta/dipole",
        "has energy, forces, stress",
    ),
    "loss of nobody": (
        staged(task_loss=[None, {"mew": {}}]),
        f"{OF}/task_loss/1/mew",
        "there is no task 'mew'",
    ),
    "stress twice": (
        tasks(pbe={"loss": {"prefactors": {"stress": [1, 1], "virial": [1, 1]}}})
        | {"multistage_config": LISTS},
        "/tasks/pbe/loss/prefactors/virial",
        "one term",
    ),
    "prefactor and coefficient": (
        staged(TWO | {"pbe": {"loss": {"prefactors": {"virial": [1, 1]}, "stress_coeff": 1}}}),
        "/tasks/pbe/loss/stress_coeff",
        "stress has prefactors too",
    ),
    "prefactors without learning rate": (
        lbfgs(TWO | {"pbe": {"loss": {"prefactors": {"energy": [1, 1]}}}}),
        "/tasks/pbe/loss/prefactors",
        "stage2 is lbfgs, which has no learning rate",
    ),
    "learning rate of lbfgs": (
        lbfgs(task_loss=[None, {"pbe": {"lr": 0.1}}]),
        f"{OF}/task_loss/1/pbe/lr",
        "stage2 is lbfgs, which has no learning rate",
    ),
    "nothing to minimise": (
        staged(
            TWO | {"mu": {"type": "dipole", "loss": {"dipole_coeff": 0, "atomic_dipole_coeff": 0}}}
        ),
        "/tasks/mu/loss",
        "in stage1, stage2 all coefficients of mu are 0",
    ),
    "nothing to minimise in a stage": (
        staged(task_loss=[{"mu": {"dipole_coeff": 0, "atomic_dipole_coeff": 0}}, None]),
        f"{OF}/task_loss/0/mu",
        "in stage1 all coefficients of mu are 0",
    ),
    "coefficients of calibration": (
        staged(task_loss=[None, None, {"pbe": {"energy_coeff": 1.0}}]),
        f"{OF}/task_loss/2/pbe/energy_coeff",
        "calibration sets coefficients itself",
    ),
    "calibration of the idle": (
        staged(task_weight=[None, {"pbe": 1, "mu": 0}, {"pbe": 1, "mu": 1}]),
        f"{OF}/task_weight/2/mu",
        "calibration needs the log of stage2, where mu is idle",
    ),
    "calibration by another huber": (
        staged(task_loss=[None, None, {"pbe": {"loss_func": "huber"}}]),
        f"{OF}/task_loss/2/pbe",
        "with the same loss and huber_delta",
    ),
    "lstsq with huber": (
        staged(
            TWO | {"pbe": {"loss": {"loss_func": "huber"}}},
            optimizer=["adam", "lstsq", "adam"],
        ),
        f"{OF}/optimizer/1",
        "the loss of pbe in stage2 is huber",
    ),
    "nobody moves": (
        staged(trainable=[["pbee"], None]),
        f"{OF}/trainable/0/0",
        "there is nothing named 'pbee'; did you mean 'pbe'?",
    ),
    "the idle move": (
        staged(trainable=[["mu.readout"], None], task_weight=[{"pbe": 1, "mu": 0}, None]),
        f"{OF}/trainable/0",
        "nothing moves: mu is idle in stage1",
    ),
    "embedding that is not there": (
        staged(trainable=[["type_embedding"], None]),
        f"{OF}/trainable/0/0",
        "there is no type embedding",
    ),
    "target of nobody": (
        staged(calibration_target={"pbee": {"energy": 1}}),
        f"{OF}/calibration_target/pbee",
        "there is no task 'pbee'",
    ),
    "target of another type": (
        staged(calibration_target={"mu": {"energy": 1}}),
        f"{OF}/calibration_target/mu/energy",
        "the task has dipole, atomic_dipole",
    ),
    "no target": (
        staged(calibration_target={"mu": {"dipole": 0, "atomic_dipole": 0}}),
        f"{OF}/calibration_target/mu",
        "are all 0",
    ),
    "target without share": (
        staged(task_target={"pbe": 1}),
        f"{OF}/task_target",
        "task mu has no share",
    ),
    "files of several": (
        {"tasks": TWO, "data_config": {"files": ["control.json"]}},
        "/data_config/files",
        "those of a single task",
    ),
    "no such file": (
        tasks(mu={"type": "dipole", "data": {"files": ["gone.xyz"]}}),
        "/tasks/mu/data/files/0",
        "no such file 'gone.xyz'",
    ),
    "no element in a task": (
        tasks(pbe={"data": {"e0": {"Xy": 1.0}}}),
        "/tasks/pbe/data/e0/Xy",
        "no element",
    ),
}


def refused(folder: Path, content: dict[str, Any], **options: Any) -> list[str]:
    """The lines without the name of the file."""
    path = folder / "control.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput) as error:
        resolve(read_control(path), **{"need_data": False} | options)
    return [line.removeprefix(f"{path}:") for line in error.value.lines]


@pytest.mark.parametrize("name", BAD)
def test_one_line_says_what_is_wrong(tmp_path: Path, name: str) -> None:
    content, place, message = BAD[name]
    (line,) = refused(tmp_path, content)
    assert line.startswith(f"{place}: ")
    assert message in line
    assert "; " in line


def test_every_task_of_several_needs_data_of_its_own(tmp_path: Path) -> None:
    lines = refused(tmp_path, tasks(), need_data=True, data=["control.json"])
    assert [line.split(": ")[0] for line in lines] == [
        "--data",
        "/tasks/pbe/data/files",
        "/tasks/mu/data/files",
    ]


def test_warnings_about_tasks(tmp_path: Path) -> None:
    content = tasks() | {"run_config": {"task_draw": "random"}}
    content["stage_options"] = {"task_target": {"pbe": 1, "mu": 1}}
    content["multistage_config"] = {"use_calib_stage": False}
    assert refused(tmp_path, content, strict=True) == [
        "/stage_options/task_target: there is no calibration stage; remove it",
        "/run_config/task_draw: has no effect: no stage is adam, and the others take all "
        "structures at once; remove it",
    ]


def test_steps_that_move_nothing_are_a_warning(tmp_path: Path) -> None:
    content = staged(trainable=[["mu"], None])
    (line,) = refused(tmp_path, content, strict=True)
    assert "/trainable/0: task pbe takes part in stage1, where nothing of it moves" in line
    assert "; " in line
