"""Tasks that start from a loaded model: what is completed from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtp.errors import InvalidInput
from mtp.model_file import save_model
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from stages.control.loaded import Loaded
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.control.schema import ControlFile
from stages.control.sequence import stage_sequence
from stages.plan import GROUPS, LINEAR, DataFile, DataPlan, HeadPlan, ModelPlan, Plan, RunPlan
from stages.plan_text import describe_plan

ENER = HeadSpec("water_ener", hidden=(4, 4), activation="silu", timestep=True)
DIPOLE = HeadSpec("water_dipole", "dipole", level=4, species=(8,))


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """Function: tasks → plan of a run that starts from a file with two heads."""
    spec = PotentialSpec((1, 8), 4.0, 0.9, 4, 4, heads=(ENER, DIPOLE))
    save(tmp_path / "water.mtp.safetensors", spec)

    def make(tasks: dict[str, Any], **options: Any) -> Plan:
        content = {"common_config": {"reload_model": "water.mtp.safetensors"}, "tasks": tasks}
        path = tmp_path / "control.json"
        path.write_text(json.dumps(content))
        return resolve(read_control(path), **{"need_data": False} | options)

    return make


def save(path: Path, spec: PotentialSpec) -> None:
    """A model file that says which data its heads were trained on."""
    data = {
        "water_ener": DataPlan((DataFile("/somewhere/ener.xyz", 2.0),), energy_key="E"),
        "water_dipole": DataPlan((DataFile("/somewhere/dipole.xyz"),), type_map=("O", "H")),
    }
    plan = Plan(ModelPlan(4.0, 4, 4, 2, 4, 1), data, (), RunPlan())
    save_model(path, Potential(spec), {"plan": plan.as_dict()})


def test_heads_are_completed_from_the_file(loaded: Any) -> None:
    heads = loaded({"descriptor": {}, "water_dipole": {}, "water_ener": {}}).model.heads
    assert heads == (
        HeadPlan(
            "water_dipole",
            "dipole",
            level=4,
            species=("O",),
            source="water_dipole",
        ),
        HeadPlan(
            "water_ener",
            hidden=(4, 4),
            activation="silu",
            timestep=True,
            source="water_ener",
        ),
    )


def test_heads_inherit_by_name_by_wish_or_not(loaded: Any) -> None:
    tasks = {
        "water_ener": {"finetune_head": "RANDOM", "readout": {"neuron": [2]}},
        "water_ener_2": {"readout": {"neuron": [8]}},
        "other": {"finetune_head": "water_ener"},
        "water_dipole": {"adjust_shifts": False},
    }
    plan = loaded(tasks)
    heads = {head.name: head for head in plan.model.heads}
    found = {name: (head.source, head.hidden, head.adjust) for name, head in heads.items()}
    assert found == {
        "water_ener": ("RANDOM", (2,), True),
        "water_ener_2": ("RANDOM", (8,), True),
        "other": ("water_ener", (4, 4), True),
        "water_dipole": ("water_dipole", (), False),
    }
    stage = plan.stages[0]
    assert set(stage.tasks["water_dipole"].coefficients) == {"dipole", "atomic_dipole"}
    text = describe_plan(plan)
    assert "head water_ener, shifts adjusted" in text
    assert "new" in text


def test_a_single_task_takes_the_only_head(tmp_path: Path, loaded: Any) -> None:
    with pytest.raises(InvalidInput, match=r"has the heads water_ener, water_dipole, not 'mine'"):
        loaded({"mine": {}})
    save(tmp_path / "water.mtp.safetensors", PotentialSpec((1, 8), 4.0, 0.9, 4, 4, heads=(ENER,)))
    (head,) = loaded({"mine": {}}).model.heads
    assert (head.source, head.hidden, head.adjust) == ("water_ener", (4, 4), True)


def test_data_is_inherited_where_the_files_are_found(tmp_path: Path, loaded: Any) -> None:
    tasks = {"water_ener": {"data": {"energy_key": "F"}}, "water_dipole": {}}
    with pytest.raises(InvalidInput) as refused:
        loaded(tasks, need_data=True)
    assert [line.split(":/")[1].split(": ")[0] for line in refused.value.lines] == [
        "tasks/water_ener/data/files",
        "tasks/water_dipole/data/files",
    ]
    assert "was trained on ener.xyz, which is beside neither" in refused.value.lines[0]
    for name in ("ener.xyz", "dipole.xyz"):
        (tmp_path / name).touch()
    data = loaded(tasks, need_data=True).data
    assert data["water_ener"].files == (DataFile(str(tmp_path / "ener.xyz"), 2.0),)
    assert data["water_ener"].energy_key == "F"
    assert data["water_dipole"].type_map == ("O", "H")


def test_data_files_may_be_named_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    model, control = tmp_path / "run" / "m.safetensors", tmp_path / "new" / "control.json"
    loaded = Loaded(model, {}, None, {}, False)
    assert loaded.find(control, f"{tmp_path.name}/x.xyz") is None
    (tmp_path / "x.xyz").touch()
    assert loaded.find(control, "x.xyz") is None, "in neither folder"
    (tmp_path / "run" / "x.xyz").touch()
    assert loaded.find(control, "x.xyz") == str(tmp_path / "run" / "x.xyz")
    assert loaded.find(control, "run/x.xyz") == str(tmp_path / "run" / "x.xyz")


def test_new_heads_and_heads_of_other_names_bring_their_data(tmp_path: Path, loaded: Any) -> None:
    (tmp_path / "ener.xyz").touch()
    tasks = {"water_ener": {}, "new": {}, "copy": {"finetune_head": "water_ener"}}
    with pytest.raises(InvalidInput) as refused:
        loaded(tasks, need_data=True)
    assert [line.split(": ")[1] for line in refused.value.lines] == [
        "no data of new; name files here",
        "no data of copy; name files here",
    ]


@pytest.mark.parametrize(
    ("tasks", "place", "message"),
    [
        (
            {"a": {"finetune_head": "water_enr"}},
            "/tasks/a/finetune_head",
            "has no head 'water_enr'; did you mean 'water_ener'?",
        ),
        (
            {"water_ener": {"readout": {"neuron": [4, 4]}}, "b": {}},
            "/tasks/water_ener/readout",
            "is not that of head 'water_ener' of water.mtp.safetensors",
        ),
        ({"water_dipole": {"type": "ener"}, "b": {}}, "/tasks/water_dipole/type", "is not that"),
        (
            {"water_dipole": {"sel_type": ["H"]}, "b": {}},
            "/tasks/water_dipole/sel_type",
            "is not that",
        ),
        (
            {"water_ener": {"layer_name": ["a", None, None]}, "b": {}},
            "/tasks/water_ener/layer_name",
            "is not that",
        ),
        (
            {"a": {"adjust_shifts": False}, "b": {}},
            "/tasks/a/adjust_shifts",
            "shifts of a new head are fitted",
        ),
        (
            {"type_embedding": {}, "a": {}, "b": {}},
            "/tasks/type_embedding",
            "has no type embedding",
        ),
    ],
)
def test_what_a_task_says_of_a_loaded_head_is_true(
    loaded: Any, tasks: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        loaded(tasks)
    (line,) = refused.value.lines
    assert f"control.json:{place}: " in line
    assert message in line


def test_a_readout_that_is_that_of_the_file_may_be_written(loaded: Any) -> None:
    readout = {"neuron": [4, 4], "activation": "silu", "resnet_dt": True}
    (head,) = loaded({"water_ener": {"readout": readout, "layer_name": [None] * 3}}).model.heads
    assert head.source == "water_ener"


def test_the_embedding_of_the_file_holds(tmp_path: Path, loaded: Any) -> None:
    spec = PotentialSpec((1, 8), 4.0, 0.9, 4, 4, heads=(ENER,), embedding=EmbeddingSpec((2,)))
    save(tmp_path / "water.mtp.safetensors", spec)
    plan = loaded({"type_embedding": {}, "water_ener": {}})
    assert plan.model.embedding is None
    assert plan.warnings == ()
    (warning,) = loaded({"type_embedding": {"neuron": [3]}, "water_ener": {}}).warnings
    assert "that of the loaded model holds" in warning


def test_a_file_that_is_no_model(tmp_path: Path, loaded: Any) -> None:
    (tmp_path / "water.mtp.safetensors").write_text("no")
    with pytest.raises(InvalidInput, match=r"/common_config/reload_model: .*not a model file"):
        loaded({"water_ener": {}})


@pytest.mark.parametrize(
    ("file", "says"),
    [("data.xyz", "not a model file"), ("water.mtp.safetensors", "has the heads water_ener, ")],
)
def test_a_model_that_a_single_task_cannot_start_from(
    tmp_path: Path, loaded: Any, file: str, says: str
) -> None:
    (tmp_path / "data.xyz").write_text("2\n\nH 0 0 0\nH 0 0 1\n")
    path = tmp_path / "control.json"
    path.write_text(json.dumps({"common_config": {"reload_model": file}}))
    with pytest.raises(InvalidInput, match=f"/common_config/reload_model: .*{says}"):
        resolve(read_control(path), need_data=False)


@pytest.mark.parametrize(
    ("start", "pull"),
    [
        ({}, 0.03),
        ({"reload_model": "m"}, 30.0),
        ({"pretrained_model": "ALL_ELEMENTS_SMALL_NN_6"}, 0.1),
        ({"pretrained_model": "ALL_ELEMENTS_SMALL_6"}, 0.003),
    ],
)
def test_the_default_plan_is_drawn_to_a_loaded_model(start: dict[str, str], pull: float) -> None:
    control = ControlFile()
    common = control.common_config.model_copy(update={"reload_model": start.get("reload_model")})
    mtp = control.mtp_config.model_copy(update={"pretrained_model": start.get("pretrained_model")})
    control = control.model_copy(update={"common_config": common, "mtp_config": mtp})
    known = Loaded(Path("m"), {}, None, {}, False) if start else None
    stages = stage_sequence(control, known)
    assert [stage.pull for stage in stages] == [pull] * 3
    assert all(stage.trainable == GROUPS for stage in stages)


def test_a_new_network_joins_in_the_second_stage_of_the_default_plan() -> None:
    control = ControlFile()
    network = control.mtp_config.model_copy(update={"nn_dim_list": [4]})
    first, *later = stage_sequence(control.model_copy(update={"mtp_config": network}), None)
    assert LINEAR in first.trainable
    assert all(stage.trainable == GROUPS for stage in later)
    assert all(stage.pull > first.pull for stage in later)


def test_e0_of_a_loaded_head_is_warned_of(tmp_path: Path, loaded: Any) -> None:
    given = {"data": {"e0": {"H": -1.0, "O": -2.0}}}
    (warning,) = loaded({"water_ener": given, "b": given}).warnings
    assert "/tasks/water_ener/data/e0: has no effect on water_ener" in warning
    used = {"data": given["data"] | {"max_energy_reference": "e0"}}
    assert loaded({"water_ener": used}).warnings == ()
    save_model(tmp_path / "one.mtp.safetensors", Potential(PotentialSpec((1, 8), 4.0, 0.9, 4, 4)))
    content = {
        "common_config": {"reload_model": "one.mtp.safetensors"},
        "data_config": used["data"],
    }
    path = tmp_path / "alone.json"
    for reference, warnings in (("e0", 0), ("raw", 1)):
        content["data_config"]["max_energy_reference"] = reference
        path.write_text(json.dumps(content))
        assert len(resolve(read_control(path), need_data=False).warnings) == warnings
