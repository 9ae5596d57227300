"""Tensor heads at the start of a run: scales from data, least squares that finds the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtp.geometry import Geometry
from mtp.initialise import initialise
from mtp.potential import HeadSpec, Potential
from mtp.structure import Structure
from mtp.terms import PREDICTED
from stages.objective import Objective
from stages.optimisers.least_squares import LeastSquares
from stages.plan import TaskStage
from stages.tasks import Draw, TaskData
from tests.potentials import random_potential
from tests.training import stage

HEADS = [
    HeadSpec("t", "dipole"),
    HeadSpec("t", "dipole", (3,)),
    HeadSpec("t", "polarizability"),
    HeadSpec("t", "polarizability", (3,), species=(8,)),
]


def frames(rng: np.random.Generator, count: int) -> list[Structure]:
    """Clusters of one to six atoms of H and O."""
    found = []
    for index in range(count):
        n = 1 + index % 6
        positions = 1.6 * np.arange(n)[:, None] * [1, 0, 0] + 0.4 * rng.normal(size=(n, 3))
        found.append(Structure(rng.choice([1, 8], n), positions, source="random", index=index))
    return found


def geometry(potential: Potential, structures: list[Structure]) -> Geometry:
    terms = PREDICTED[potential.spec.head("t").kind]
    return Geometry(structures, potential.spec.species, potential.spec.cutoff, terms=terms)


def labelled(potential: Potential, structures: list[Structure], *which: int) -> list[Structure]:
    """Structures with the head's own predictions as labels: 0 of structures, 1 of atoms."""
    terms = PREDICTED[potential.spec.head("t").kind]
    found = []
    for structure in structures:
        values = potential.predict(geometry(potential, [structure]).batch(), "t").values
        labels = {terms[i]: values[terms[i]].numpy() for i in which}
        if terms[0] in labels:
            labels[terms[0]] = labels[terms[0]][0]
        found.append(replace(structure, **labels))
    return found


def teacher(head: HeadSpec) -> Potential:
    return random_potential((1, 8), cutoff=4.0, min_dist=0.8, n_q=3, heads=(head,))


@pytest.mark.parametrize("head", HEADS, ids=lambda h: f"{h.kind}{h.hidden}")
def test_scales_follow_the_labels(head: HeadSpec, rng) -> None:
    truth = teacher(head)
    data = labelled(truth, frames(rng, 60), 0)
    student = Potential(truth.spec)
    if head.kind == "polarizability":
        student.heads["t"].shifts.data.copy_(truth.heads["t"].shifts)
    batch = geometry(student, data).batch()
    initialise(student, batch, torch.Generator().manual_seed(0))
    predicted, label = student.predict(batch, "t").values[head.kind], batch.labels[head.kind]
    if head.kind == "polarizability":
        apart = [s for s in data if len(s) == 1 and s.numbers[0] == 8]
        np.testing.assert_allclose(
            apart[0].polarizability[:3], truth.heads["t"].shifts.detach()[1].item()
        )
    weights = student.heads["t"].last.weight
    kept, weights.data = weights.data, torch.zeros_like(weights)
    shifts = student.predict(batch, "t").values[head.kind]
    weights.data = kept
    ratio = (predicted - shifts).square().mean() / (label - shifts).square().mean()
    assert float(ratio) == pytest.approx(1.0)


def test_covariants_get_unit_size(rng) -> None:
    student = teacher(HEADS[0])
    batch = geometry(student, labelled(student, frames(rng, 60), 0, 1)).batch()
    initialise(student, batch, torch.Generator().manual_seed(0))
    head = student.heads["t"]
    columns = student.linear_rows(batch, "t")["atomic_dipole"] / (head.scale * head.step)
    torch.testing.assert_close(columns.square().mean((0, 1)), torch.ones_like(head.size))


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["whole", "atoms", "both"])
@pytest.mark.parametrize("head", HEADS, ids=lambda h: f"{h.kind}{h.hidden}")
def test_least_squares_finds_the_truth(head: HeadSpec, which: tuple[int, ...], rng) -> None:
    truth = teacher(head)
    data = labelled(truth, frames(rng, 120), *which)
    without = [replace(s, **dict.fromkeys(PREDICTED[head.kind])) for s in data[:7]]
    student = Potential(truth.spec)
    student.load_state_dict(truth.state_dict())
    module = student.heads["t"]
    with torch.no_grad():
        module.last.weight.mul_(0.3)
        if module.shifts is not None:
            module.shifts.add_(2.0)
    everything = geometry(student, [*data, *without])
    wanted = TaskStage("mse", dict.fromkeys(PREDICTED[head.kind], 1.0))
    plan = stage({"t": wanted}, optimizer="lstsq", trainable=("readout", "shifts"), ridge=0.0)
    task = TaskData.of(everything, geometry(student, []), PREDICTED[head.kind])
    draws = [Draw("t", indices) for indices in np.array_split(np.arange(len(everything)), 4)]
    objective = Objective(student, plan, {"t": task}, draws, {"t": 1.0})
    solved = LeastSquares({"shifts": [module.shifts]}, plan).step(objective, 1.0)
    first = PREDICTED[head.kind][which[0]]
    size = sum(np.square(frame.label(first)).mean() for frame in data)
    assert solved.value < 1e-12 * size
    for one, two in zip(labelled(student, data, *which), data, strict=True):
        for i in which:
            term = PREDICTED[head.kind][i]
            # normal equations square the condition: half the digits of the largest label are left
            near = 2e-6 * max(np.abs(frame.label(term)).max() for frame in data)
            np.testing.assert_allclose(one.label(term), two.label(term), rtol=0, atol=near)
