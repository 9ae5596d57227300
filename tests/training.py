"""A small potential and small labelled structures for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mtp.data import write
from mtp.geometry import Geometry
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from mtp.structure import Structure
from stages.plan import (
    DataFile,
    DataPlan,
    ModelPlan,
    Plan,
    RunPlan,
    Schedule,
    Stage,
    TaskStage,
    coefficients,
)
from stages.tasks import TaskData

SPECIES = (13, 29)


def structures(
    rng: np.random.Generator, count: int, *, atoms: tuple[int, ...] = (1, 2, 4)
) -> list[Structure]:
    """Random fcc-like cells of two elements; the labels are random numbers of a sensible size."""
    found = []
    for index in range(count):
        n = atoms[index % len(atoms)]
        cell = np.diag([3.0, 3.2, 3.1 * n]) + 0.1 * rng.normal(size=(3, 3))
        fractions = np.stack([rng.random(n), rng.random(n), np.arange(n) / n], 1)
        found.append(
            Structure(
                numbers=rng.choice(SPECIES, n),
                positions=fractions @ cell,
                cell=cell,
                pbc=np.ones(3, dtype=bool),
                energy=float(-3.0 * n + rng.normal()),
                forces=rng.normal(size=(n, 3)),
                stress=0.01 * rng.normal(size=6),
                weight=float(rng.choice([0.5, 1.0, 2.0])),
                source="random.xyz",
                index=index,
            )
        )
    return found


def unlabelled(structure: Structure, *terms: str) -> Structure:
    """The same structure without the labels of some terms."""
    return replace(structure, **dict.fromkeys(terms))


def potential(
    hidden: tuple[int, ...] = (),
    heads: tuple[str, ...] = ("default",),
    embedding: EmbeddingSpec | None = None,
) -> Potential:
    """A level 4 potential with random parameters."""
    model = Potential(
        PotentialSpec(
            species=SPECIES,
            cutoff=4.0,
            min_dist=1.0,
            n_q=3,
            levmax=6,
            heads=tuple(HeadSpec(name, hidden=hidden) for name in heads),
            embedding=embedding,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.02 if parameter.dim() == 4 else 0.3
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
        for head in model.heads.values():  # a network's linear part is small beside it
            if not head.linear:
                head.last.weight[:, head.hidden[-1] :] *= 0.01
    return model


def groups(model: Potential, *names: str) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters of all heads by group; all groups unless named."""
    found: dict[str, list[torch.nn.Parameter]] = {}
    for (_, name), parameters in model.groups().items():
        found.setdefault(name, []).extend(parameters)
    return {name: found[name] for name in names or found}


def geometry(frames: list[Structure]) -> Geometry:
    return Geometry(frames, SPECIES, 4.0)


def task_data(train: list[Structure], valid: list[Structure]) -> TaskData:
    return TaskData.of(geometry(train), geometry(valid))


def task(**changes) -> TaskStage:
    """Loss of a task: mse with coefficients 1, 0.1, 10 unless changed."""
    return TaskStage(**{"loss": "mse", "coefficients": coefficients(1.0, 0.1, 10.0)} | changes)


def stage(loss: TaskStage | dict[str, TaskStage] | None = None, **changes) -> Stage:
    """A short stage that moves everything."""
    tasks = loss if isinstance(loss, dict) else {"default": loss or task()}
    return Stage(
        **{
            "name": "stage1",
            "epochs": 3,
            "lr": 0.01,
            "optimizer": "adam",
            "schedule": Schedule("none", 1),
            "trainable": ("descriptor", "readout", "shifts"),
            "tasks": tasks,
        }
        | changes
    )


def tiny_plan(folder: Path, *, seed: int = 0, **changes) -> Plan:
    """A run of a second through every optimiser, with calibration; writes its data to `folder`."""
    data = folder / "data.xyz"
    if not data.exists():
        write(data, structures(np.random.default_rng(3), 14))
    stages = (
        stage(name="stage1", epochs=3, ema=0.9, gradient_clip=100.0),
        stage(name="stage2", epochs=2, optimizer="lbfgs"),
        stage(name="stage3", epochs=1, optimizer="lstsq", trainable=("readout", "shifts")),
        stage(
            task(coefficients=None),
            name="calibration",
            epochs=3,
            schedule=Schedule("linear_warmup", 1),
        ),
    )
    plan = Plan(
        model=ModelPlan(
            rc=4.0, levmax=4, n_q=3, moment_init_cost=2, moment_mu_cost=4, moment_nu_cost=1
        ),
        data={"default": DataPlan(files=(DataFile(str(data)),), valid_fraction=0.2)},
        stages=stages,
        run=RunPlan(seed=seed, threads=1, batch_size=4),
    )
    return replace(plan, **changes)
