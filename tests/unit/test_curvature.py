"""The Gauss-Newton matrix from random cotangents against the exact one of a linear readout."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import stages.optimisers.curvature as curvature
from stages.objective import Objective
from stages.optimisers.adam import OPTIMISERS
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
    head = objective.potential.heads["default"]
    total = torch.zeros(2, 2)
    exact = 2 * normal_equations(objective, "default", shifts=False)[0]
    total = torch.zeros_like(exact)
    for gradient, weight in curvature._gradients(objective, [head.last.weight], 10**6, 0):
        total.addr_(gradient, gradient, alpha=weight)
    # Some 10⁴ samples: each element is known to about one per cent of √(A_ii·A_jj).
    scale = exact.diagonal().sqrt()
    assert_close(total / scale / scale[:, None], exact / scale / scale[:, None], rtol=0, atol=0.1)


def test_samples_add_up_to_the_exact_matrix(objective, monkeypatch):
    monkeypatch.setattr(curvature, "PASSES", 3000)
    monkeypatch.setattr(curvature, "GROUP", 8)
    monkeypatch.setattr(curvature, "SAMPLES", 10**6)
    head = objective.potential.heads["default"]
    solved = [head.last.weight, head.shifts]
    exact = curvature.exact_matrix(objective, [objective.potential.radial], solved)
    (total,) = curvature._sampled(objective, [objective.potential.radial, *solved], 0)
    scale = exact.diagonal().sqrt().clamp_min(1e-12)
    assert_close(total / scale / scale[:, None], exact / scale / scale[:, None], rtol=0, atol=0.1)


def test_weights_that_follow_are_a_schur_complement():
    a = torch.randn(9, 9, dtype=torch.float64)
    matrix = a @ a.T
    reduced = curvature._reduced(matrix, curvature._scale(matrix.diagonal()), 4)
    assert_close(torch.linalg.inv(reduced), torch.linalg.inv(matrix)[:4, :4], rtol=1e-5, atol=0)


def test_eliminated_weights_are_at_their_minimum_and_lower_the_loss_faster(objective):
    model = objective.potential
    begin = {name: p.detach().clone() for name, p in model.named_parameters()}
    lowest = {}
    for name in ("lbfgs", "varpro"):
        model.load_state_dict(begin, strict=False)
        optimiser = OPTIMISERS[name](groups(model), objective.stage)
        values = [optimiser.step(objective, 1.0).value for _ in range(6)]
        assert all(b <= a for a, b in pairwise(values))
        lowest[name] = values[-1]
    assert lowest["varpro"] < 0.9 * lowest["lbfgs"]
    matrix, slope = normal_equations(objective, "default", shifts=True)
    gain = slope @ torch.linalg.pinv(matrix, hermitian=True) @ slope  # what a solve would win
    assert float(gain) < 1e-6 * lowest["varpro"]


def test_inverse_of_a_block_is_damped_and_symmetric():
    a = torch.randn(6, 6, dtype=torch.float64)
    matrix = a @ a.T
    inverse = curvature._inverse(matrix, matrix.diagonal().rsqrt(), 1e-3)
    assert_close(inverse, inverse.T)
    assert_close(inverse @ matrix, torch.eye(6).double(), rtol=0, atol=0.5)
    assert torch.linalg.eigvalsh(inverse)[0] > 0


def test_many_parameters_are_split_into_blocks(objective, monkeypatch):
    monkeypatch.setattr(curvature, "DENSE", 4)
    parameters = list(objective.potential.parameters())
    inverse = objective.preconditioner(parameters, 0, 1e-3)
    assert [len(block) for block in inverse.blocks] == [p.numel() for p in parameters]
    assert all((block.dim() == 2) == (len(block) <= 4) for block in inverse.blocks)
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    assert vector @ inverse(vector) > 0


def test_lbfgs_needs_few_iterations_for_a_linear_problem(objective):
    groups = {"readout": [objective.potential.heads["default"].last.weight]}
    optimiser = OPTIMISERS["lbfgs"](groups, objective.stage)
    values = [optimiser.step(objective, 1.0).value for _ in range(30)]
    OPTIMISERS["lstsq"]({}, objective.stage).step(objective, 1.0)
    exact = objective.value().value
    assert values[-1] == pytest.approx(exact, rel=1e-3)
