"""coefficients of the calibration stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtp.errors import InvalidInput
from stages.calibration import calibrate, calibrated_stage
from stages.control.reader import Reading
from stages.control.resolve import resolve
from stages.control.schema import ControlFile
from stages.plan import TaskStage, coefficients

BEFORE = {"energy": 1.0, "forces": 0.1, "stress": 10.0}


def line(epoch: int, name: str = "stage2", **terms: float) -> dict[str, Any]:
    return {"name": name, "epoch": epoch, "coeff": BEFORE, "train": {"default": terms}}


def log(epochs: int, **last: float) -> list[dict[str, Any]]:
    first = {key: 100.0 * value for key, value in last.items()}
    return [line(epoch, **(last if epoch == epochs else first)) for epoch in range(epochs + 1)]


MSE = {"energy_mse": 1e-5, "forces_mse": 1.1e-2, "stress_mse": 1.6e-6}


def test_contributions_become_equal_and_the_loss_stays() -> None:
    found = calibrate(log(10, **MSE), "stage2", "default", "mse")
    whole = 1e-5 + 0.1 * 1.1e-2 + 10 * 1.6e-6
    c = found.coefficients
    products = [c["energy"] * 1e-5, c["forces"] * 1.1e-2, c["stress"] * 1.6e-6]
    assert products == pytest.approx([whole / 3] * 3)
    table = found.table["terms"]["forces"]
    assert table["share_before"] == pytest.approx(1.1e-3 / whole)
    assert table["share_after"] == pytest.approx(1 / 3)
    assert (table["coefficient_before"], table["at_floor"]) == (0.1, False)
    assert found.table["epochs"] == [10]


def test_the_last_twentieth_of_the_epochs_is_averaged() -> None:
    rows = [line(epoch, **{k: v * epoch for k, v in MSE.items()}) for epoch in range(1, 61)]
    found = calibrate(rows, "stage2", "default", "mse")
    assert found.table["epochs"] == [58, 59, 60]
    assert found.table["terms"]["energy"]["loss"] == pytest.approx(59e-5)


def test_other_stages_and_the_evaluation_before_training_do_not_count() -> None:
    rows = [line(0, energy_mse=9.0), line(1, energy_mse=1.0), line(1, "stage1", energy_mse=5.0)]
    found = calibrate(rows, "stage2", "default", "mse")
    assert found.table["terms"]["energy"]["loss"] == 1.0


def test_terms_without_labels_get_nothing_and_the_target_fills_up() -> None:
    terms = {key: value for key, value in MSE.items() if "stress" not in key}
    target = coefficients(1.0, 3.0, 4.0)
    found = calibrate(log(1, **terms), "stage2", "default", "mse", target)
    assert found.coefficients["stress"] == 0.0
    shares = {name: row["share_after"] for name, row in found.table["terms"].items()}
    assert shares == pytest.approx({"energy": 0.25, "forces": 0.75})


def test_l1_uses_the_logged_l1_terms() -> None:
    terms = MSE | {"energy_l1": 2.0, "forces_l1": 4.0, "stress_l1": 8.0}
    c = calibrate(log(3, **terms), "stage2", "default", "l1").coefficients
    assert [c["energy"] * 2.0, c["forces"] * 4.0, c["stress"] * 8.0] == pytest.approx(
        [82.4 / 3] * 3
    )


@pytest.mark.parametrize(("loss", "expected"), [("mse", 1e-8), ("l1", 1e-4)])
def test_a_perfect_fit_counts_as_the_floor(loss: str, expected: float) -> None:
    terms = {f"energy_{loss}": 0.0, f"forces_{loss}": 1.0}
    found = calibrate(log(1, **terms), "stage2", "default", loss)
    assert found.table["terms"]["energy"]["at_floor"]
    assert found.coefficients["energy"] == pytest.approx((expected + 0.1) / 2 / expected)


def test_heads_are_calibrated_from_their_own_terms() -> None:
    row = {
        "name": "stage2",
        "epoch": 1,
        "coeff": {"a": BEFORE, "b": dict.fromkeys(BEFORE, 1.0)},
        "train": {"a": MSE, "b": {"energy_mse": 2.0, "forces_mse": 4.0}},
    }
    b = calibrate([row], "stage2", "b", "mse").coefficients
    assert b == pytest.approx(coefficients(1.5, 0.75, 0.0))


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(InvalidInput, match="no epoch of stage2"):
        calibrate([line(1, "stage1", **MSE)], "stage2", "default", "mse")
    only = coefficients(0.0, 0.0, 1.0)
    with pytest.raises(InvalidInput, match="positive target"):
        calibrate(log(1, energy_mse=1.0), "stage2", "default", "mse", only)
    rows = [line(1, **MSE) | {"coeff": dict.fromkeys(BEFORE, 0.0)}]
    with pytest.raises(InvalidInput, match="positive coefficient in stage2"):
        calibrate(rows, "stage2", "default", "mse")


def test_the_stage_of_a_plan_is_filled_in() -> None:
    plan = resolve(Reading(Path("control.json"), ControlFile()), need_data=False)
    last = plan.stages[-1]
    stage, tables = calibrated_stage(plan, last, log(4, **MSE), {"default": 1.0})
    expected = calibrate(
        log(4, **MSE), "stage2", "default", "mse", last.calibration_target["default"]
    )
    assert stage == replace(last, tasks={"default": TaskStage("mse", expected.coefficients)})
    assert tables == {"default": expected.table}
