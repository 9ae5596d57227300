"""Learning rates within a stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stages.control.defaults import stage
from stages.plan import Schedule, Stage, coefficients
from stages.schedule import learning_rate


def with_schedule(epochs: int, kind: str, size: int, **more: float) -> Stage:
    made = stage("stage1", epochs, 0.1, coefficients(1.0, 1.0, 1.0))
    return replace(made, schedule=Schedule(kind, size, **more))


def rates(made: Stage, steps: int) -> list[float]:
    return [
        learning_rate(made, epoch, step, steps)
        for epoch in range(1, made.epochs + 1)
        for step in range(steps)
    ]


def test_constant() -> None:
    assert set(rates(with_schedule(4, "none", 1), 3)) == {0.1}


def test_step_falls_after_every_step_size_epochs() -> None:
    found = rates(with_schedule(5, "step", 2, gamma=0.5), 2)
    assert found == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 2)


def test_warm_up_rises_and_falls_in_straight_lines() -> None:
    found = rates(with_schedule(5, "linear_warmup", 2), 2)
    assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert found[4:] == pytest.approx([0.1 * k / 7 for k in (6, 5, 4, 3, 2, 1)])


def test_warm_up_ends_at_the_smallest_ratio() -> None:
    made = with_schedule(1000, "linear_warmup", 1, min_ratio=0.2)
    found = rates(made, 1)
    assert found[0] == 0.1
    assert found[-1] == pytest.approx(0.02, rel=0.01)
    assert min(found) > 0.02


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_short_stages_never_have_a_rate_of_zero(epochs: int) -> None:
    found = rates(with_schedule(epochs, "linear_warmup", 5), 1)
    assert min(found) > 0
    assert max(found) == 0.1
