"""Whether a run that started from a model says so when it ends worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtp.geometry import Geometry
from stages.evaluate import predict_structures
from stages.objective import evaluate
from stages.plan import TaskStage
from stages.run.verdict import squared_errors, worse_than_start
from tests.potentials import random_potential
from tests.systems import elements
from tests.training import structures


def line(name: str, epoch: int, **forces: float) -> dict:
    """A log line with mean squared force errors by task."""
    coefficients = {task: {"energy": 0.0, "forces": 2.0} for task in forces}
    coefficients = coefficients if len(forces) > 1 else next(iter(coefficients.values()))
    valid = {task: {"energy_mse": 9.0, "forces_mse": value} for task, value in forces.items()}
    return {"name": name, "epoch": epoch, "coeff": coefficients, "valid": valid}


def test_tasks_that_were_trained_or_idle_at_the_end() -> None:
    log = [line("one", 0, a=1.0, b=1.0), line("one", 1, a=1.0, b=0.5), line("two", 1, a=0.5)]
    (said,) = worse_than_start(log, "two", 1, {"a": {}, "b": {"forces_mse": 3.0}})
    assert said.startswith("b: the validation loss is 3 times that before the first step")
    assert "idle in two" in said
    assert worse_than_start(log, "two", 1, {"a": {}, "b": {"forces_mse": 0.9}}) == []
    log[-1] = line("two", 1, a=1.5)
    (said,) = worse_than_start(log, "two", 1, {"a": {}, "b": {"forces_mse": 0.9}})
    assert said.startswith("a: the validation loss is 1.5 times")
    assert "smaller rate" in said


def test_errors_are_those_of_the_log() -> None:
    rng = np.random.default_rng(3)
    frames = [
        replace(s, weight=w) for s, w in zip(structures(rng, 3), (1.0, 2.0, 5.0), strict=True)
    ]
    frames[0] = replace(frames[0], forces=None)
    potential = random_potential(elements(*frames))
    geometry = Geometry(frames, potential.spec.species, potential.spec.cutoff)
    logged = evaluate(potential, "default", geometry, TaskStage("mse", {})).means()
    found = squared_errors(predict_structures(potential, frames, "default"), frames)
    assert found == pytest.approx({term: logged[term] for term in found}, rel=1e-9)
    assert set(found) == {"energy_mse", "forces_mse", "stress_mse"}
