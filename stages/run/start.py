"""The potential that a run starts from: from a file, from scratch or from its checkpoint."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from ase.data import atomic_numbers

from mtp.data import Dataset
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.initialise import initialise
from mtp.model_file import load_model
from mtp.potential import HeadSpec, Potential, PotentialSpec, per_structure
from mtp.structure import Structure
from stages.evaluate import check_elements
from stages.objective import Objective
from stages.optimisers.least_squares import LeastSquares
from stages.plan import HeadPlan, Plan, Schedule, Stage, TaskStage
from stages.run.checkpoint import Checkpoint
from stages.tasks import Draw, TaskData

START_ATOMS = 4096  # the scales of a new potential are measured on about so many atoms
FIT_ATOMS = 1024  # its first linear weights are solved for on about so many
FIT_RIDGE = 1e-6


def build_potential(
    plan: Plan, datasets: dict[str, Dataset], device: torch.device, saved: Checkpoint | None
) -> Potential:
    """The potential to train: from a file or from scratch, or as the checkpoint has it."""
    if plan.model.reload_model is not None:
        potential = _reloaded(plan, datasets)
    else:
        potential = Potential(_spec(plan, datasets))
        if saved is None:
            _start(plan, datasets, potential)
    potential = potential.cast(getattr(torch, plan.run.dtype))
    if saved is not None:
        potential.load_state_dict(saved.model)
    return potential.to(device)


def _spec(plan: Plan, datasets: dict[str, Dataset]) -> PotentialSpec:
    """Species and shortest distance come from the data, the rest from the plan."""
    model = plan.model
    found = [d.scan["min_dist"] for d in datasets.values() if d.scan["min_dist"] is not None]
    if not found:
        raise InvalidInput(
            f"rc {model.rc} Å: no two atoms of the data are closer than this; make rc larger"
        )
    return PotentialSpec(
        species=tuple(sorted({z for d in datasets.values() for z in d.species})),
        cutoff=model.rc,
        min_dist=min(found),
        n_q=model.n_q,
        levmax=model.levmax,
        moment_init_cost=model.moment_init_cost,
        moment_mu_cost=model.moment_mu_cost,
        moment_nu_cost=model.moment_nu_cost,
        heads=tuple(_head(head) for head in model.heads),
    )


def _head(plan: HeadPlan) -> HeadSpec:
    """The head as the potential knows it."""
    given = {f.name: getattr(plan, f.name) for f in fields(HeadSpec) if f.name != "species"}
    return HeadSpec(**given, species=tuple(atomic_numbers[s] for s in plan.species))


def _reloaded(plan: Plan, datasets: dict[str, Dataset]) -> Potential:
    potential = load_model(plan.model.reload_model)
    missing = [task for task in plan.data if task not in potential.spec.head_names]
    if missing:
        raise InvalidInput(
            f"reload_model: {plan.model.reload_model} has the heads "
            f"{', '.join(potential.spec.head_names)}, not {', '.join(missing)}"
        )
    for dataset in datasets.values():
        check_elements(potential, [*dataset.train, *dataset.valid, *dataset.test])
    return potential


def _start(plan: Plan, datasets: dict[str, Dataset], potential: Potential) -> None:
    """Random coefficients, scales from a sample of the training frames, shifts from the data."""
    generator = torch.Generator().manual_seed(plan.run.seed)
    spec = potential.spec
    for task, dataset in datasets.items():
        shifts = dict(zip(dataset.shifts.species, dataset.shifts.values, strict=True))
        with torch.no_grad():
            values = [shifts.get(number, 0.0) for number in spec.species]
            potential.heads[task].shifts.copy_(torch.tensor(values, dtype=torch.float64))
    frames = [frame for dataset in datasets.values() for frame in dataset.train]
    sample = _sample(frames, START_ATOMS, generator)
    initialise(potential, Geometry(sample, spec.species, spec.cutoff).batch(), generator)
    for task, dataset in datasets.items():
        _fit_linear(potential, task, _sample(dataset.train, FIT_ATOMS, generator))


def _fit_linear(potential: Potential, task: str, frames: list[Structure]) -> None:
    """Least-squares weights of a new head's last layer: random ones start far from any data.

    Each term counts in units of its own spread, so that no loss coefficient is needed.
    """
    geometry = Geometry(frames, potential.spec.species, potential.spec.cutoff)
    data = TaskData.of(geometry, Geometry([], potential.spec.species, potential.spec.cutoff))
    batch, shifts = geometry.batch(), potential.heads[task].shifts.detach()
    baseline = per_structure(shifts[batch.species.long()], batch)
    labels, there = batch.labels, batch.present
    spread = {
        "energy": ((labels["energy"] - baseline) / batch.atoms_per_structure)[there["energy"]],
        "forces": labels["forces"][there["forces"][batch.structure]],
        "stress": labels["stress"][there["stress"]],
    }
    squares = {name: float(x.square().mean()) if len(x) else 0.0 for name, x in spread.items()}
    weights = {name: 1 / x if x > 0 else 0.0 for name, x in squares.items()}
    if not any(weights.values()):
        return
    fit = Stage(
        name="start",
        epochs=1,
        lr=1.0,
        optimizer="lstsq",
        schedule=Schedule("none", 1),
        trainable=("readout",),
        tasks={task: TaskStage("mse", weights)},
        ridge=FIT_RIDGE,
    )
    draws = [Draw(task, np.arange(len(frames)))]
    objective = Objective(potential, fit, {task: data}, draws, {task: 1.0})
    LeastSquares({}, fit).step(objective, fit.lr)


def _sample(frames: list[Structure], enough: int, generator: torch.Generator) -> list[Structure]:
    """Frames in random order until there are enough atoms."""
    chosen, atoms = [], 0
    for index in torch.randperm(len(frames), generator=generator).tolist():
        if chosen and atoms + len(frames[index]) > enough:
            break
        chosen.append(frames[index])
        atoms += len(frames[index])
    return chosen
