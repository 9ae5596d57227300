"""The potential that a run starts from: from a file, from scratch or from its checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from ase.data import atomic_numbers
from torch import Tensor

from mtp.data import Dataset
from mtp.errors import InvalidInput
from mtp.geometry import Batch, Geometry
from mtp.initialise import silence, start_descriptor, start_head
from mtp.mlip_file import MLIP_SUFFIXES, read_mtp
from mtp.mlip_import import load_template
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from mtp.structure import Structure
from mtp.terms import PREDICTED
from stages.objective import Objective, evaluate
from stages.optimisers.least_squares import LeastSquares
from stages.plan import HeadPlan, Plan, Schedule, Stage, TaskStage
from stages.run.checkpoint import Checkpoint
from stages.run.loading import adjust_shifts, load_start, tell
from stages.tasks import TaskData, everything
from stages.trainer import moves_network

START_ATOMS = 4096  # the scales of a new potential are measured on about so many atoms
FIT_ATOMS = {"energy": 1024, "dipole": 16384, "polarizability": 16384}
"""Its first linear weights are solved for on about so many; a tensor is one label per structure."""
FIT_RIDGE, FIT_RIDGE_FORCES = 1e-6, 1e-3
"""Forces alone leave sums of invariants undetermined that energies do not."""


def build_potential(
    plan: Plan, datasets: dict[str, Dataset], device: torch.device, saved: Checkpoint | None
) -> tuple[Potential, dict[str, Tensor]]:
    """The potential to train: from a file or from scratch, or as the checkpoint has it.

    Returns also where `pull` draws to, by name: what comes from the file, or all from scratch.
    """
    potential, inherited = starting_point(plan, datasets, started=saved is None)
    potential = potential.cast(getattr(torch, plan.run.dtype)).to(device)
    named = dict(potential.named_parameters())
    origin = {name: named[name].detach().clone() for name in inherited}
    if saved is not None:
        potential.load_state_dict(saved.model)
        origin = {name: tensor.to(device) for name, tensor in saved.origin.items()}
    return potential, origin


def starting_point(
    plan: Plan, datasets: dict[str, Dataset], started: bool = True
) -> tuple[Potential, list[str]]:
    """The potential before the first step, in float64, and the parameters that `pull` acts on.

    These are those from a model file, from scratch all but the shifts.
    started: with all parameters; for a run that goes on those from a file are enough.
    """
    generator = torch.Generator().manual_seed(plan.run.seed)
    heads = {head.name: _head(head) for head in plan.model.heads}
    spec = _new_spec(plan, datasets, tuple(heads.values()))
    if spec is not None:
        potential = Potential(spec)
        if started:
            frames = sample_of_all(datasets, generator)
            start_descriptor(potential, batch_of(potential, frames), generator)
            start_heads(potential, datasets, set(heads), silent_at_first(plan), generator)
        return potential, _pulled(potential)
    potential, source, origin = load_start(plan, datasets, heads)
    if started:
        new = heads.keys() - origin.keys()
        start_heads(potential, datasets, new, silent_at_first(plan), generator)
        tell(source, potential, _decisions(plan, datasets, potential, origin))
    new = tuple(f"heads.{name}." for name in heads.keys() - origin.keys())
    return potential, [name for name in _pulled(potential) if not name.startswith(new)]


def goes_on(plan: Plan) -> bool:
    """Whether the run starts from a trained model; an untrained .mtp file gives its form only."""
    reload = plan.model.reload_model
    if reload is None:
        return plan.model.pretrained_model is not None
    return Path(reload).suffix not in MLIP_SUFFIXES or read_mtp(reload).trained


def _pulled(potential: Potential) -> list[str]:
    return [name for name, _ in potential.named_parameters() if not name.endswith(".shifts")]


def _new_spec(
    plan: Plan, datasets: dict[str, Dataset], heads: tuple[HeadSpec, ...]
) -> PotentialSpec | None:
    """The form of a new potential, None where a trained one goes on.

    An untrained .mtp file as reload_model gives its basis and distances, the plan the rest.
    """
    if goes_on(plan):
        return None
    spec = _spec(plan, datasets, heads)
    if plan.model.reload_model is None:
        return spec
    template = load_template(plan.model.reload_model, spec.species)
    lowest = min(template.min_dist, spec.min_dist)
    return replace(template, min_dist=lowest, heads=heads, embedding=spec.embedding)


def _spec(plan: Plan, datasets: dict[str, Dataset], heads: tuple[HeadSpec, ...]) -> PotentialSpec:
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
        heads=heads,
        embedding=None if model.embedding is None else EmbeddingSpec(**asdict(model.embedding)),
    )


def _head(plan: HeadPlan) -> HeadSpec:
    """The head as the potential knows it."""
    given = {f.name: getattr(plan, f.name) for f in fields(HeadSpec) if f.name != "species"}
    return HeadSpec(**given, species=tuple(atomic_numbers[s] for s in plan.species))


def _decisions(
    plan: Plan, datasets: dict[str, Dataset], potential: Potential, origin: dict[str, str]
) -> list[tuple[str, str, str]]:
    """Adjust the shifts of inherited heads; one row for every head of what it starts from."""
    rows = []
    for head in plan.model.heads:
        if head.name not in origin:
            rows.append((head.name, "new", "shifts fitted to the data"))
            continue
        shifts = "shifts kept"
        if head.adjust and head.name in datasets:
            moved = adjust_shifts(potential, head.name, datasets[head.name])
            shifts = f"shifts adjusted, by at most {moved:.4g}"
        rows.append((head.name, f"head {origin[head.name]}", shifts))
    return rows


def silent_at_first(plan: Plan) -> set[str]:
    """The heads whose network does not move in the first stage that they take part in."""
    first = {name: stage for stage in reversed(plan.stages) for name in stage.active()}
    return {name for name, stage in first.items() if not moves_network(stage, name)}


def start_heads(
    potential: Potential,
    datasets: dict[str, Dataset],
    new: Collection[str],
    silent: Collection[str],
    generator: torch.Generator,
) -> None:
    """Start new heads: scales from a sample of the training frames, shifts from the data.

    silent: heads that start without their network (stages/run/joining.py).
    The first weights of their last layers are solved for; a head whose last layer is another's has
    its shifts adjusted to what that leaves over, unless they were given.
    """
    if not new:
        return
    old = [head for name, head in potential.heads.items() if name not in new]
    keep = layers_of(old)
    b = potential.invariants(batch_of(potential, sample_of_all(datasets, generator)))
    for name, dataset in datasets.items():
        if name not in new:
            continue
        _set_shifts(potential, name, dataset)
        start = batch_of(potential, sample(dataset.train, START_ATOMS, generator), name)
        start_head(potential, name, b, start, generator, keep)
        keep |= set(potential.heads[name].modules())
    for name in set(new) & set(silent):
        silence(potential.heads[name])
    solved = layers_of(old)
    for name, dataset in datasets.items():
        last = potential.heads[name].last
        if name in new and last not in solved:
            enough = FIT_ATOMS[potential.spec.head(name).kind]
            _fit_linear(potential, name, sample(dataset.train, enough, generator))
            solved.add(last)
        elif name in new and dataset.shifts.mode == "lstsq":
            adjust_shifts(potential, name, dataset)


def layers_of(heads: list[torch.nn.Module]) -> set[torch.nn.Module]:
    return {module for head in heads for module in head.modules()}


@torch.no_grad()
def _set_shifts(potential: Potential, name: str, dataset: Dataset) -> None:
    shifts = dict(zip(dataset.shifts.species, dataset.shifts.values, strict=True))
    values = [shifts.get(number, 0.0) for number in potential.spec.species]
    if potential.heads[name].shifts is not None:
        potential.heads[name].shifts.copy_(torch.tensor(values, dtype=torch.float64))


def sample_of_all(datasets: dict[str, Dataset], generator: torch.Generator) -> list[Structure]:
    frames = [frame for dataset in datasets.values() for frame in dataset.train]
    return sample(frames, START_ATOMS, generator)


def batch_of(potential: Potential, frames: list[Structure], head: str | None = None) -> Batch:
    """All frames, with the labels of a head."""
    spec = potential.spec
    terms = () if head is None else PREDICTED[spec.head(head).kind]
    return Geometry(frames, spec.species, spec.cutoff, terms=terms).batch()


def _fit_linear(potential: Potential, task: str, frames: list[Structure]) -> None:
    """Least-squares weights of a new head's last layer: random ones start far from any data.

    Each term counts in units of its own spread, so that no loss coefficient is needed.
    """
    spec = potential.spec
    terms = PREDICTED[spec.head(task).kind]
    geometry, empty = (Geometry(f, spec.species, spec.cutoff, terms=terms) for f in (frames, []))
    with torch.no_grad():
        potential.heads[task].last.weight.zero_()  # what is left to predict are the shifts
    means = evaluate(potential, task, geometry, TaskStage("mse", {})).means()
    squares = {term: means.get(f"{term}_mse", 0.0) for term in terms}
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
        ridge=FIT_RIDGE_FORCES if weights.get("energy") == 0 else FIT_RIDGE,
    )
    data = {task: TaskData.of(geometry, empty, terms)}
    objective = Objective(potential, fit, data, everything(data, [task]), {task: 1.0})
    LeastSquares({}, fit).step(objective, fit.lr)


def sample(frames: list[Structure], enough: int, generator: torch.Generator) -> list[Structure]:
    """Frames in random order until there are enough atoms."""
    chosen, atoms = [], 0
    for index in torch.randperm(len(frames), generator=generator).tolist():
        if chosen and atoms + len(frames[index]) > enough:
            break
        chosen.append(frames[index])
        atoms += len(frames[index])
    return chosen
