"""What a control file means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtp.errors import InvalidInput
from stages.control.defaults import LISTS, default_stages
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.control.sequence import share_epochs
from stages.plan import GROUPS, DataFile, Plan, coefficients
from stages.plan_text import describe_plan

ROOT = Path(__file__).parents[2]
LISTS_OF_ONE = {name: values[:1] for name, values in LISTS.items()}


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    """Function: content of a control file → its plan, without data."""

    def make(content: dict[str, Any], **options: Any) -> Plan:
        path = tmp_path / "control.json"
        path.write_text(json.dumps(content))
        return resolve(read_control(path), **{"need_data": False} | options)

    return make


def epochs(plan: Plan) -> list[int]:
    return [stage.epochs for stage in plan.stages]


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (320, (0.25, 0.5, 0.25), [80, 160, 80]),
        (10, (0.25, 0.5, 0.25), [3, 5, 2]),
        (3, (0.25, 0.5, 0.25), [1, 1, 1]),
        (7, (1, 1), [4, 3]),
        (4, (1, 1000, 1), [1, 2, 1]),
        (100, (1, 2), [33, 67]),
    ],
)
def test_epochs_are_shared_by_largest_remainder(
    total: int, weights: tuple[float, ...], expected: list[int]
) -> None:
    assert share_epochs(total, weights) == expected


def test_shares_add_up_and_leave_no_stage_out(rng: Any) -> None:
    for _ in range(200):
        weights = rng.uniform(0.01, 10, rng.integers(1, 6)).tolist()
        total = int(rng.integers(len(weights), 200))
        shares = share_epochs(total, weights)
        assert sum(shares) == total
        assert min(shares) >= 1
    with pytest.raises(ValueError, match="2 epochs"):
        share_epochs(2, (1, 1, 1))


def test_the_example_of_the_format(plan: Any) -> None:
    content = json.loads((ROOT / "configs" / "light_pfp_example.json").read_text())
    content["mtp_config"]["pretrained_model"] = ""
    one, two, calibration = plan(content).stages
    assert (one.name, one.epochs, one.lr, one.optimizer) == ("stage1", 80, 0.1, "adam")
    assert one.tasks["default"].coefficients == coefficients(1e-5, 10.0, 1e-5)
    assert (two.epochs, two.lr, two.trainable) == (160, 0.01, GROUPS)
    assert (calibration.name, calibration.epochs, calibration.lr) == ("calibration", 80, 0.01)
    assert calibration.tasks["default"].coefficients is None
    assert [stage.schedule.kind for stage in (one, two)] == ["linear_warmup"] * 2
    assert [stage.schedule.step_size for stage in (one, two, calibration)] == [3, 6, 3]


def test_without_lists_the_default_plan_applies(plan: Any) -> None:
    assert plan({}).stages[0].tasks == default_stages()[0].tasks
    assert epochs(plan({"common_config": {"total_epoch": 40}})) == [10, 20, 10]
    off = {"multistage_config": {"use_calib_stage": False}, "common_config": {"total_epoch": 30}}
    assert epochs(plan(off)) == [10, 20]


def test_missing_lists_take_their_defaults_when_the_length_fits(plan: Any) -> None:
    stages = plan({"multistage_config": {"loss_func_list": ["l1", "l1"]}}).stages
    assert [stage.lr for stage in stages[:2]] == LISTS["lr_list"]
    assert all(stage.tasks["default"].loss == "l1" for stage in stages)
    with pytest.raises(InvalidInput, match=r"missing epoch_list, energy_loss.* have 2 entries"):
        plan({"multistage_config": {"lr_list": [0.1]}})


def test_total_epoch_is_shared_like_the_lists_when_there_are_not_two_stages(plan: Any) -> None:
    one = {"multistage_config": LISTS_OF_ONE | {"epoch_list": [30], "calibration_epoch": 10}}
    found = plan(one | {"common_config": {"total_epoch": 8}})
    assert epochs(found) == [6, 2]
    (warning,) = found.warnings
    assert "replaces epoch_list and calibration_epoch: the stages have [6, 2] epochs" in warning


def test_calibration_takes_the_last_loss_and_its_own_numbers(plan: Any) -> None:
    section = {"loss_func_list": ["mse", "l1"], "calibration_lr": 0.5, "calibration_epoch": 7}
    calibration = plan({"multistage_config": section}).stages[-1]
    assert (calibration.tasks["default"].loss, calibration.lr, calibration.epochs) == ("l1", 0.5, 7)
    assert calibration.calibration_target == {"default": coefficients(1.0, 1.0, 1.0)}


def test_options_of_stages(plan: Any) -> None:
    options = {
        "optimizer": ["adam", "lstsq", "lbfgs"],
        "trainable": [["descriptor"], None, None],
        "energy_weighting": ["total", "per_atom", None],
        "ema": [0.9, None, None],
        "ridge": [None, 1e-6, None],
        "calibration_target": {"energy": 2},
    }
    one, two, calibration = plan({"multistage_config": LISTS, "stage_options": options}).stages
    assert (one.optimizer, one.trainable, one.ema) == ("adam", ("descriptor",), 0.9)
    assert (two.optimizer, two.trainable, two.ridge) == ("lstsq", ("readout", "shifts"), 1e-6)
    assert (calibration.optimizer, calibration.trainable) == ("lbfgs", GROUPS)
    weightings = [s.tasks["default"].energy_weighting for s in (one, two, calibration)]
    assert weightings == ["total", "per_atom", "per_atom_squared"]
    assert calibration.calibration_target == {"default": coefficients(2.0, 1.0, 1.0)}


def test_calibration_repeats_the_last_entry(plan: Any) -> None:
    options = {"optimizer": ["adam", "lbfgs"]}
    stages = plan({"multistage_config": LISTS, "stage_options": options}).stages
    assert [stage.optimizer for stage in stages] == ["adam", "lbfgs", "lbfgs"]


def test_schedule(plan: Any) -> None:
    content = {
        "common_config": {"lr_scheduling": "step", "scheduler_step_size": 5},
        "run_config": {"scheduler_gamma": 0.5},
    }
    schedule = plan(content).stages[0].schedule
    assert (schedule.kind, schedule.step_size, schedule.gamma) == ("step", 5, 0.5)
    assert plan({"common_config": {"lr_scheduling": None}}).stages[0].schedule.kind == "none"


def test_files_are_beside_the_control_file(plan: Any, tmp_path: Path) -> None:
    for name in ("a.xyz", "b.xyz", "c.xyz"):
        (tmp_path / name).touch()
    section = {"files": ["a.xyz", {"path": "b.xyz", "weight": 2}], "test_files": ["c.xyz"]}
    data = plan({"data_config": section}, need_data=True).data["default"]
    a, b, c = (str(tmp_path / name) for name in ("a.xyz", "b.xyz", "c.xyz"))
    assert data.files == (DataFile(a), DataFile(b, 2.0))
    assert data.test_files == (DataFile(c),)
    replaced = plan({"data_config": section}, data=[c], test=[a])
    assert replaced.data["default"].files == (DataFile(c),)
    assert [line.rsplit(": ")[-1] for line in replaced.warnings] == [
        "--data replaces these 2 files; give one of the two",
        "--test replaces this file; give one of the two",
    ]


def test_warnings_are_errors_when_strict(plan: Any) -> None:
    content = {"common_config": {"total_epoch": 9}, "multistage_config": {"calibration_epoch": 3}}
    (warning,) = plan(content).warnings
    with pytest.raises(InvalidInput) as refused:
        plan(content, strict=True)
    assert refused.value.lines == (warning,)
    assert plan({}, strict=True).run.strict


def test_the_example_of_the_format_is_no_warning(plan: Any) -> None:
    """Null is not given, and an empty name is none."""
    content = {
        "common_config": {"total_epoch": None, "reload_model": ""},
        "mtp_config": {"pretrained_model": "", "rc": 5.0},
    }
    assert plan(content).warnings == ()


def test_a_plan_survives_json(plan: Any) -> None:
    content = {
        "mtp_config": {"nn_dim_list": [4]},
        "data_config": {"e0": {"Si": -1}, "config_type_weights": {"a": 0.5}},
        "stage_options": {"optimizer": ["lbfgs", "lstsq"]},
    }
    made = plan(content)
    assert Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made


RATES = {
    "common_config": {"lr_scheduling": "step", "scheduler_step_size": 2, "batch_size": 8},
    "multistage_config": {"lr_list": [0.1, 0.01], "calibration_lr": 0.1},
    "run_config": {"scheduler_gamma": 0.5, "lr_min_ratio": 0.1},
}


def test_learning_rates_that_no_stage_has_are_a_warning(plan: Any) -> None:
    optimizer = {"stage_options": {"optimizer": ["lbfgs", "lstsq"]}}
    warnings = plan(RATES | optimizer).warnings
    assert [line.split(":")[1].rsplit("/")[-1] for line in warnings] == [
        "lr_scheduling",
        "scheduler_step_size",
        "lr_list",
        "calibration_lr",
        "scheduler_gamma",
        "lr_min_ratio",
    ]
    assert "every stage is lbfgs/lstsq" in warnings[0]
    assert plan(RATES).warnings == ()  # given lists mean adam
    assert plan(RATES | {"stage_options": {"optimizer": ["lbfgs", "adam"]}}).warnings == ()
    assert plan(optimizer).warnings == ()


def test_a_list_of_rates_that_says_how_many_stages_there_are_is_no_warning(plan: Any) -> None:
    content = {"multistage_config": LISTS_OF_ONE, "stage_options": {"optimizer": ["lbfgs"]}}
    assert plan(content).warnings == ()


def test_plan_shows_no_learning_rate_where_there_is_none(plan: Any) -> None:
    text = describe_plan(plan({}))
    assert "warm" not in text
    assert "up in" not in text
    assert "full batches" in text
    mixed = describe_plan(plan({"stage_options": {"optimizer": ["adam", "lbfgs"]}}))
    assert "batches of 128 structures" in mixed


def test_type_map_reaches_the_plan(plan: Any) -> None:
    found = plan({"data_config": {"type_map": ["Si", "O"]}})
    assert found.data["default"].type_map == ("Si", "O")
    assert Plan.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    with pytest.raises(InvalidInput, match="/data_config/type_map/1: 'Xx' is no element"):
        plan({"data_config": {"type_map": ["Si", "Xx"]}})
