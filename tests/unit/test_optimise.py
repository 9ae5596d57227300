"""Optimisers on problems with a known answer, and that their states continue them bit by bit."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stages.objective import Evaluation, NotFinite, Objective
from stages.optimisers.adam import OPTIMISERS, Average
from stages.optimisers.curvature import Preconditioner
from stages.optimisers.division import Division
from stages.optimisers.least_squares import ridge_solve
from stages.plan import coefficients
from stages.tasks import Draw
from tests.training import groups, potential, stage, structures, task, task_data


@dataclass
class Rosenbrock:
    """(1 − x)² + 100 (y − x²)², minimum 0 at (1, 1); counts its evaluations."""

    x: torch.nn.Parameter
    evaluations: int = 0

    def value(self) -> Evaluation:
        return self.gradient()

    def division(self, parameters) -> Division:
        return Division.whole(parameters)

    def preconditioner(self, division, seed, damping) -> Preconditioner:
        return Preconditioner(
            torch.ones(2).double(), torch.zeros(0, 2).double(), torch.zeros(0).double()
        )

    def gradient(self) -> Evaluation:
        self.evaluations += 1
        self.x.grad = None
        value = (1 - self.x[0]) ** 2 + 100 * (self.x[1] - self.x[0] ** 2) ** 2
        value.backward()
        return Evaluation(value.item(), {})


@dataclass
class Lasso:
    """|x − 1| + |10 (y + 2)| + x²/4: kinks at the minimum (1, −2)."""

    x: torch.nn.Parameter

    def value(self) -> Evaluation:
        return self.gradient()

    def division(self, parameters) -> Division:
        return Division.whole(parameters)

    def preconditioner(self, division, seed, damping) -> Preconditioner:
        return Preconditioner(
            torch.ones(2).double(), torch.zeros(0, 2).double(), torch.zeros(0).double()
        )

    def gradient(self) -> Evaluation:
        self.x.grad = None
        value = (self.x[0] - 1).abs() + (10 * (self.x[1] + 2)).abs() + self.x[0] ** 2 / 4
        value.backward()
        return Evaluation(value.item(), {})


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([-1.2, 1.0]).double())


def test_lbfgs_finds_the_minimum_of_rosenbrock():
    problem = Rosenbrock(start())
    optimiser = OPTIMISERS["lbfgs"]({"readout": [problem.x]}, stage())
    values = [optimiser.step(problem, 0.1).value for _ in range(60)]
    assert all(b <= a for a, b in pairwise(values))
    assert_close(problem.x.data, torch.ones(2).double(), rtol=0, atol=1e-8)
    assert problem.evaluations < 100


def test_lbfgs_never_goes_up_on_an_l1_loss():
    problem = Lasso(start())
    optimiser = OPTIMISERS["lbfgs"]({"readout": [problem.x]}, stage())
    values = [optimiser.step(problem, 0.1).value for _ in range(40)]
    assert all(b <= a for a, b in pairwise(values))
    assert values[-1] < 0.6 * values[0]


def test_lbfgs_stays_when_converged_and_says_so_once(capsys):
    x = torch.nn.Parameter(torch.ones(2).double())
    problem = Rosenbrock(x)
    optimiser = OPTIMISERS["lbfgs"]({"readout": [x]}, stage())
    assert [optimiser.step(problem, 0.1).value for _ in range(3)] == [0, 0, 0]
    assert_close(x.data, torch.ones(2).double(), rtol=0, atol=0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("stage1: converged after 0 iterations") == 1
    again = OPTIMISERS["lbfgs"]({"readout": [x]}, stage())
    again.load_state_dict(optimiser.state_dict())
    again.step(problem, 0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("gain", "converged"), [(2e-4, False), (5e-5, True)])
def test_lbfgs_stops_where_ten_iterations_win_next_to_nothing(gain, converged, capsys):
    optimiser = OPTIMISERS["lbfgs"]({"readout": [start()]}, stage())
    for k in range(10):
        optimiser._watch(1 - gain * k)
        assert not optimiser.converged
    optimiser._watch(1 - 10 * gain)
    assert optimiser.converged == converged
    assert ("less than 0.1 %" in capsys.readouterr().err) == converged


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_state_continues_bit_by_bit(name):
    settings = stage(weight_decay=0.01, gradient_clip=1.0)

    def steps(problem, optimiser, count):
        for _ in range(count):
            optimiser.step(problem, 0.1)

    whole = Rosenbrock(start())
    optimiser = OPTIMISERS[name]({"readout": [whole.x]}, settings)
    steps(whole, optimiser, 5)
    x, state = whole.x.detach().clone(), copy.deepcopy(optimiser.state_dict())
    steps(whole, optimiser, 5)

    again = Rosenbrock(torch.nn.Parameter(x))
    fresh = OPTIMISERS[name]({"readout": [again.x]}, settings)
    fresh.load_state_dict(state)
    steps(again, fresh, 5)
    assert torch.equal(again.x, whole.x)


def test_adam_clips_the_global_norm_and_takes_the_rate_of_the_step():
    """The first step of Adam has the length of the rate, whatever the gradient."""
    problem = Rosenbrock(start())
    optimiser = OPTIMISERS["adam"]({"readout": [problem.x]}, stage(gradient_clip=0.5))
    before = problem.x.detach().clone()
    optimiser.step(problem, 0.01)
    assert float(problem.x.grad.norm()) == pytest.approx(0.5, rel=1e-5)
    assert_close((problem.x - before).abs(), torch.full((2,), 0.01).double(), rtol=1e-4, atol=0)


def test_weight_decay_leaves_the_shifts_alone():
    class Flat:
        def gradient(self):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            return Evaluation(0.0, {})

    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = {"readout": parameters[:1], "shifts": parameters[1:]}
    optimiser = OPTIMISERS["adam"](groups, stage(weight_decay=0.1))
    optimiser.step(Flat(), 0.5)
    assert float(parameters[0]) == pytest.approx(0.95)
    assert float(parameters[1]) == 1.0


def test_average_follows_its_definition_and_gives_the_parameters_back():
    x = torch.nn.Parameter(torch.zeros(1).double())
    average = Average([x], 0.9)
    for value in (1.0, 2.0):
        x.data.fill_(value)
        average.update()
    with average.applied():
        assert float(x) == pytest.approx(0.9 * 0.1 + 0.1 * 2)
    assert float(x) == 2.0
    average.adopt()
    assert float(x) == pytest.approx(0.29)


def objective(rng, settings, model) -> Objective:
    """Full-batch objective on random labels."""
    frames = structures(rng, 12)
    data = {"default": task_data(frames, frames[:1])}
    draws = [Draw("default", np.arange(5)), Draw("default", np.arange(5, 12))]
    return Objective(model, settings, data, draws, {"default": 1.0})


def test_full_batch_gradient_is_that_of_the_loss(rng):
    """Against finite differences of the loss itself, over two draws and two elements."""
    model = potential()
    one = objective(rng, stage(), model)
    value = one.gradient().value
    assert value == pytest.approx(one.gradient().sums["default"].loss(task().coefficients))
    for parameter in model.parameters():
        gradient = parameter.grad.clone().reshape(-1)
        k = int(gradient.abs().argmax())
        flat, h = parameter.data.view(-1), 1e-5
        values = []
        for sign in (1, -1):
            flat[k] += sign * h
            values.append(one.gradient().value)
            flat[k] -= sign * h
        assert float(gradient[k]) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("hidden", [(), (4,)])
@pytest.mark.parametrize("weighting", ["per_atom_squared", "total"])
def test_least_squares_ends_where_the_gradient_vanishes(rng, hidden, weighting):
    settings = stage(task(energy_weighting=weighting), trainable=("readout", "shifts"), ridge=1e-15)
    model = potential(hidden)
    one = objective(rng, settings, model)
    moved = groups(model, *settings.trainable)
    optimiser = OPTIMISERS["lstsq"](moved, settings)
    before = one.gradient().value
    after = optimiser.step(one, 0.0).value
    assert after < before
    assert one.gradient().value == after
    head = model.heads["default"]
    for parameter in (head.last.weight, head.shifts):
        assert float(parameter.grad.abs().max()) < 1e-8 * before
    assert optimiser.step(one, 0.0).value == pytest.approx(after, rel=1e-10)


def test_least_squares_without_shifts_leaves_them(rng):
    settings = stage(trainable=("readout",))
    model = potential()
    shifts = model.heads["default"].shifts.detach().clone()
    OPTIMISERS["lstsq"](groups(model, "readout"), settings).step(
        objective(rng, settings, model), 0.0
    )
    assert torch.equal(model.heads["default"].shifts, shifts)


def test_ridge_solve_handles_dependent_columns(rng):
    """Of all solutions, the one whose scaled coefficients have no part in the null space."""
    x = torch.from_numpy(rng.normal(size=(20, 3)))
    x = torch.cat([x, x[:, :1], torch.zeros(20, 1).double()], 1)  # a copy and an empty column
    truth = torch.tensor([1.0, -2.0, 3.0, 1.0, 0.0]).double()
    solution = ridge_solve(x.T @ x, x.T @ (x @ truth), 1e-12)
    assert_close(solution, truth, rtol=0, atol=1e-8)


def test_loss_that_is_not_finite_names_the_frame(rng):
    settings = stage()
    model = potential()
    one = objective(rng, settings, model)
    frame = one.data["default"].train.structures[7]
    start = int(sum(len(s) for s in one.data["default"].train.structures[:7]))
    one.data["default"].train._values["forces"][start, 1] = math.nan
    for name in ("adam", "lbfgs"):
        optimiser = OPTIMISERS[name](groups(model), settings)
        with pytest.raises(NotFinite, match=frame.where):
            optimiser.step(one, 0.1)


def test_coefficient_zero_takes_no_part_in_the_solve(rng):
    settings = stage(task(coefficients=coefficients(0.0, 1.0, 0.0)), trainable=("readout",))
    model = potential()
    one = objective(rng, settings, model)
    OPTIMISERS["lstsq"](groups(model, "readout"), settings).step(one, 0.0)
    assert one.gradient().sums["default"].means()["forces_mse"] < 1.1
