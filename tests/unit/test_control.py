"""The control file as written, its schema and its reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.control.reader import Reading, read_control
from stages.control.reference import json_schema, markdown
from stages.control.resolve import resolve
from stages.control.schema import ControlFile

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path
    for pattern in ("*.json", "*.yaml", "demo/*.json")
    for path in sorted((ROOT / "configs").glob(pattern))
    if path.name != "control.schema.json"
]


def reading(folder: Path, content: Any) -> Reading:
    path = folder / "control.json"
    path.write_text(json.dumps(content))
    return read_control(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_files_are_valid(path: Path) -> None:
    assert read_control(path).mistakes == ()


def test_committed_reference_is_that_of_the_code() -> None:
    advice = "run: python -m stages.control.reference"
    assert (ROOT / "docs" / "control.md").read_text(encoding="utf-8") == markdown(), advice
    schema = (ROOT / "configs" / "control.schema.json").read_text(encoding="utf-8")
    assert schema == json_schema(), advice


def test_the_example_with_tasks_is_right(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", markdown(), re.DOTALL)
    path = tmp_path / "control.yaml"
    path.write_text(example)
    for name in ("pbe.xyz", "ccsd.xyz", "dipoles.xyz"):
        (tmp_path / name).touch()
    plan = resolve(read_control(path), strict=True)
    assert [head.name for head in plan.model.heads] == ["dft", "ccsd", "mu"]


def keys() -> list[tuple[str, str, Any]]:
    return [
        (section, name, field)
        for section, part in ControlFile.model_fields.items()
        for name, field in part.annotation.model_fields.items()
    ]


@pytest.mark.parametrize(("section", "name", "field"), keys(), ids=lambda value: str(value)[:30])
def test_every_key_is_explained_and_its_example_is_valid(
    tmp_path: Path, section: str, name: str, field: Any
) -> None:
    assert field.description
    extra = field.json_schema_extra or {}
    assert field.default is not None or "otherwise" in extra
    found = reading(tmp_path, {section: {name: field.examples[0]}})
    assert found.mistakes == ()
    assert getattr(found.control, section).model_fields_set == {name}


def test_underscored_keys_are_comments_everywhere(tmp_path: Path) -> None:
    content = {
        "_why": [1],
        "run_config": {"_note": "x", "seed": 3},
        "data_config": {"files": [{"path": "a", "_from": "b"}]},
    }
    found = reading(tmp_path, content)
    assert found.mistakes == ()
    assert found.control.run_config.seed == 3


def test_all_mistakes_come_together_and_name_their_place(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        {
            "common_config": {"batch_size": 0, "total_epoch": True},
            "multistage_config": {"lr_list": [0.1, "x"], "epoch_list": [1, 2]},
            "data_config": {"files": ["a", {"pth": "b"}]},
            "tasks": {"a": {"type": "energy"}, "b": {"loss": {"huber_delta": {"force": 1}}}},
        },
    )
    places = [line.split(":")[1] for line in found.mistakes]
    assert places == [
        "/common_config/total_epoch",
        "/common_config/batch_size",
        "/multistage_config/lr_list/1",
        "/data_config/files/1/path",
        "/data_config/files/1/pth",
        "/tasks/a/type",
        "/tasks/b/loss/huber_delta/force",
    ]
    assert all("; " in line for line in found.mistakes), "every line says what to do"
    assert found.control.multistage_config.epoch_list == [1, 2], "what is right is kept"
    assert not found.sound("multistage_config.lr_list")
    assert not found.sound("tasks")
    assert found.sound("multistage_config.epoch_list")


def test_duplicates_and_infinities_join_the_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    path.write_text('{"run_config": {"seed": 1, "seed": -1, "memory": NaN}, "data_config": 3}')
    places = [line.removeprefix(f"{path}:").split(":")[0] for line in read_control(path).mistakes]
    assert sorted(places) == ["/data_config", "/run_config/memory", "/run_config/seed"]


@pytest.mark.parametrize("value", ["None", "none", None])
def test_constant_learning_rate_has_three_spellings(tmp_path: Path, value: str | None) -> None:
    assert reading(tmp_path, {"common_config": {"lr_scheduling": value}}).mistakes == ()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"common_confg": {}}, "did you mean 'common_config'?"),
        ({"common_config": {"seed": 1}}, "it belongs to run_config"),
        ({"run_config": {"zzz": 1}}, "use one of seed"),
        ({"multistage_config": {"loss_func_list": ["MSE"]}}, "did you mean 'mse'?"),
        ({"tasks": {"a": {"readout": {"nueron": [1]}}}}, "did you mean 'neuron'?"),
        ({"tasks": {"a": {"readout": {"neuron": [0]}}}}, 'for example "neuron": [32, 32]'),
        ({"tasks": {"descriptor": {"rc": 5.0}}}, "it belongs to mtp_config"),
        ({"tasks": {"a": {"loss": {"huber_delta": {"force": 1.0}}}}}, "did you mean 'forces'?"),
        ({"tasks": {"a": {"loss": {"prefactors": {"energy": [1.0]}}}}}, "of length ≥ 2"),
        ({"stage_options": {"task_loss": [{"a": {"lr": 0}}]}}, "must be > 0"),
    ],
)
def test_near_matches(tmp_path: Path, content: Any, hint: str) -> None:
    (line,) = reading(tmp_path, content).mistakes
    assert hint in line


def test_schema_knows_the_keys_and_allows_comments() -> None:
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(ControlFile.model_fields)
    assert schema["patternProperties"] == {"^_": {}}
    common = schema["$defs"]["CommonConfig"]
    assert common["additionalProperties"] is False
    assert common["properties"]["max_forces"]["unit"] == "eV/Å"
