"""The Gauss-Newton matrix from random cotangents against the exact one of a linear readout."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import stages.optimisers.curvature as curvature
from stages.objective import Objective
from stages.optimisers.adam import OPTIMISERS
from stages.optimisers.division import Division
from stages.optimisers.least_squares import normal_equations
from stages.tasks import Draw, TaskData
from tests.training import geometry, groups, potential, stage, structures


@pytest.fixture
def objective():
    frames = structures(np.random.default_rng(3), 12)
    data = {"default": TaskData.of(geometry(frames), geometry([]))}
    draws = [Draw("default", np.arange(5)), Draw("default", np.arange(5, 12))]
    return Objective(potential(), stage(optimizer="lbfgs"), data, draws, {"default": 1.0})


def test_samples_add_up_to_the_normal_matrix(objective, monkeypatch):
    monkeypatch.setattr(curvature, "PASSES", 3000)
    monkeypatch.setattr(curvature, "GROUP", 8)
    monkeypatch.setattr(curvature, "SAMPLES", 10**6)
    monkeypatch.setattr(curvature, "MOST", 10**6)
    monkeypatch.setattr(curvature, "NUMBERS", 10**9)
    head = objective.potential.heads["default"]
    exact = 2 * normal_equations(objective, "default", shifts=False)[0]
    rows = curvature.samples(objective, [head.last.weight], 0)
    # Some 10⁴ samples: each element is known to about one per cent of √(A_ii·A_jj).
    scale = exact.diagonal().sqrt()
    found = rows.T @ rows
    assert_close(found / scale / scale[:, None], exact / scale / scale[:, None], rtol=0, atol=0.1)


def test_samples_add_up_to_the_exact_matrix(objective, monkeypatch):
    monkeypatch.setattr(curvature, "PASSES", 3000)
    monkeypatch.setattr(curvature, "GROUP", 8)
    monkeypatch.setattr(curvature, "SAMPLES", 10**6)
    monkeypatch.setattr(curvature, "MOST", 10**6)
    monkeypatch.setattr(curvature, "NUMBERS", 10**9)
    head = objective.potential.heads["default"]
    parameters = [objective.potential.radial, head.last.weight, head.shifts]
    division = objective.division(parameters)
    assert division.solved == {"default": True}
    assert len(division.free) == objective.potential.radial.numel()
    exact = curvature.exact_matrix(objective, division, 0)
    monkeypatch.setattr(curvature, "ENOUGH", 20)
    some = sum(curvature.exact_matrix(objective, division, seed) for seed in range(200)) / 200
    scale = exact.diagonal().sqrt()
    assert_close(some / scale / scale[:, None], exact / scale / scale[:, None], rtol=0, atol=0.1)
    rows = curvature.samples(objective, parameters, 0)
    total = rows.T @ rows
    scale = exact.diagonal().sqrt().clamp_min(1e-12)
    assert_close(total / scale / scale[:, None], exact / scale / scale[:, None], rtol=0, atol=0.1)


def test_weights_that_follow_are_a_schur_complement():
    a = torch.randn(9, 9, dtype=torch.float64)
    matrix = a @ a.T
    rows = curvature.reduced(curvature.roots(matrix), 4, exact=True)
    reduced = rows.T @ rows
    assert_close(torch.linalg.inv(reduced), torch.linalg.inv(matrix)[:4, :4], rtol=1e-5, atol=0)


def test_eliminated_weights_are_at_their_minimum_and_lower_the_loss_faster(objective, monkeypatch):
    model = objective.potential
    begin = {name: p.detach().clone() for name, p in model.named_parameters()}

    def lowest() -> float:
        model.load_state_dict(begin, strict=False)
        optimiser = OPTIMISERS["lbfgs"](groups(model), objective.stage)
        values = [optimiser.step(objective, 1.0).value for _ in range(6)]
        assert all(b <= a for a, b in pairwise(values))
        return values[-1]

    with monkeypatch.context() as patch:
        patch.setattr("stages.optimisers.division.MOST_SOLVED", 0)
        with_all = lowest()
    eliminated = lowest()
    assert eliminated < 0.9 * with_all
    matrix, slope = normal_equations(objective, "default", shifts=True)
    gain = slope @ torch.linalg.pinv(matrix, hermitian=True) @ slope  # what a solve would win
    assert float(gain) < 1e-6 * eliminated


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4)])
def test_spectrum_is_that_of_the_product_with_the_transpose(shape):
    rows = torch.randn(shape, dtype=torch.float64)
    values, vectors, parts = curvature.spectrum(rows)
    assert_close(vectors @ vectors.T, torch.eye(len(vectors)).double())
    assert_close(vectors.T @ (values[:, None] * vectors), rows.T @ rows)
    assert_close(parts @ vectors, rows)


def test_inverse_is_that_of_the_damped_samples(objective, monkeypatch):
    parameters = list(objective.potential.parameters())
    n = sum(p.numel() for p in parameters)
    monkeypatch.setattr(curvature, "MOST", n // 2)
    rows = curvature.samples(objective, parameters, 7)
    assert 0 < len(rows) < n
    diagonal = rows.square().sum(0).clamp_min(1e-12 * float(rows.square().sum(0).max()))
    scaled = rows * diagonal.rsqrt()
    damping = torch.full((n,), 1e-3 * float(curvature.spectrum(scaled)[0][-1])).double()
    whole = Division.whole(parameters)
    for block in curvature.blocks(objective, whole):
        values, _, parts = curvature.spectrum(scaled[:, block])
        damping[block] += curvature.balanced_damping(values, parts)
    inverse = objective.preconditioner(whole, 7, 1e-3)
    vector = torch.randn(n, dtype=torch.float64)
    there = rows.T @ (rows @ inverse(vector)) + damping * diagonal * inverse(vector)
    assert_close(there, vector, rtol=1e-6, atol=1e-6 * float(vector.abs().max()))


def test_few_samples_ask_for_damping_that_many_do_not_need():
    generator = torch.Generator().manual_seed(0)

    def damping(count: int) -> float:
        """For gradients of 40 parameters whose matrix is the unit matrix."""
        rows = torch.randn(count, 40, generator=generator, dtype=torch.float64) / count**0.5
        values, _, parts = curvature.spectrum(rows)
        return curvature.balanced_damping(values, parts)

    few, many = damping(10), damping(10_000)
    # Ten samples span a quarter: what is outside needs a damping of the order of the matrix, 1.
    assert 0.3 < few < 3
    assert many < 0.05


def test_every_task_has_enough_samples(objective):
    groups = curvature._groups(objective, "default", 1000, np.random.default_rng(0))
    assert len(groups) >= curvature.LEAST
    frames = sum(len(group.indices) * weight for group, weight in groups)
    assert frames == pytest.approx(12)


def test_lbfgs_needs_few_iterations_for_a_linear_problem(objective):
    groups = {"readout": [objective.potential.heads["default"].last.weight]}
    optimiser = OPTIMISERS["lbfgs"](groups, objective.stage)
    values = [optimiser.step(objective, 1.0).value for _ in range(30)]
    OPTIMISERS["lstsq"]({}, objective.stage).step(objective, 1.0)
    exact = objective.value().value
    assert values[-1] == pytest.approx(exact, rel=1e-3)


def test_every_head_asks_for_its_own_damping(objective):
    model = objective.potential
    parameters = list(model.parameters())
    blocks = curvature.blocks(objective, Division.whole(parameters))
    n = sum(p.numel() for p in parameters)
    assert sorted(torch.cat(blocks).tolist()) == list(range(n))
    assert sorted(map(len, blocks)) == sorted([model.radial.numel(), n - model.radial.numel()])


@pytest.mark.parametrize("hidden", [(), (4,)])
@pytest.mark.parametrize("pull", [0.0, 3.0])
def test_gradient_is_that_of_the_loss_with_the_weights_that_follow(objective, pull, hidden):
    """As a ridge towards zero does not give it: near the end no step would lower the loss.

    Beside a network the linear part follows.
    """
    objective = replace(objective, potential=potential(hidden))
    named = objective.potential.named_parameters()
    origin = {name: p.detach().clone() for name, p in named if not name.endswith("shifts")}
    objective = replace(objective, stage=replace(objective.stage, pull=pull), origin=origin)
    objective = replace(objective, shares={"default": 0.3})  # as beside another task
    optimiser = OPTIMISERS["lbfgs"](groups(objective.potential), objective.stage)
    for _ in range(3):
        optimiser.step(objective, 1.0)
    x, gradient, state = optimiser._get(), optimiser.here.gradient, optimiser._state()
    direction, h = gradient / gradient.norm(), 1e-5
    values = []
    for t in (h, -h):
        optimiser._restore(state)
        values.append(optimiser._evaluate(objective, x + t * direction, t, direction).value)
    change = (values[0] - values[1]) / (2 * h)
    assert change == pytest.approx(float(direction @ gradient), rel=2e-7)
