"""The potential that a run starts from: from a file, from scratch or from its checkpoint."""

from __future__ import annotations

import torch

from mtp.data import Dataset
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.initialise import initialise
from mtp.model_file import load_model
from mtp.potential import Potential, PotentialSpec
from mtp.structure import Structure
from stages.checkpoint import Checkpoint
from stages.evaluate import check_elements
from stages.plan import Plan

START_ATOMS = 4096  # the scales of a new potential are measured on about so many atoms


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
        hidden=tuple(model.nn_dim_list),
        heads=tuple(plan.data),
    )


def _reloaded(plan: Plan, datasets: dict[str, Dataset]) -> Potential:
    potential = load_model(plan.model.reload_model)
    missing = [task for task in plan.data if task not in potential.spec.heads]
    if missing:
        raise InvalidInput(
            f"reload_model: {plan.model.reload_model} has the heads "
            f"{', '.join(potential.spec.heads)}, not {', '.join(missing)}"
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
    sample = _sample(frames, generator)
    initialise(potential, Geometry(sample, spec.species, spec.cutoff).batch(), generator)


def _sample(frames: list[Structure], generator: torch.Generator) -> list[Structure]:
    """Frames in random order until there are enough atoms."""
    chosen, atoms = [], 0
    for index in torch.randperm(len(frames), generator=generator).tolist():
        if chosen and atoms + len(frames[index]) > START_ATOMS:
            break
        chosen.append(frames[index])
        atoms += len(frames[index])
    return chosen
