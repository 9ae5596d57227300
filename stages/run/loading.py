"""The potential of a run that starts from a model file: which head comes from where.

A head of the run inherits the head of the file that is named, or the one of its own name, or the
only (or default) one; otherwise it is new. Heads of the file that no task asks for are left out.
Species shifts of an inherited head are moved by what it leaves over of the new data's energies,
unless the run just goes on with a head of the same name; those of a new head are fitted to the
data. Semantics: DeePMD-kit's init-frz-model and finetune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ase.data import atomic_numbers, chemical_symbols

from mtp.baseline import fit_shifts, isotropic_shifts
from mtp.data import Dataset
from mtp.errors import InvalidInput
from mtp.mlip_file import MLIP_SUFFIXES
from mtp.mlip_import import load_mtp
from mtp.model_file import load_model
from mtp.potential import HeadSpec, Potential
from mtp.rebuild import rebuilt
from pretrained.registry import card, verified
from stages.control.loaded import several_heads
from stages.evaluate import check_elements, predict_structures
from stages.plan import HeadPlan, ModelPlan, Plan
from stages.say import say

NEW = "RANDOM"  # DeePMD-kit's word for a head that inherits nothing


@dataclass(frozen=True)
class Source:
    """A loaded file. default: its head for a run that names none, where it has one."""

    name: str
    potential: Potential
    default: str | None
    slices: bool  # whether species that the data do not have are left out


def read_source(model: ModelPlan, type_map: Sequence[str] | None = None) -> Source:
    """The potential that the plan starts from. Raises InvalidInput for files that do not fit.

    type_map: elements of the types 0, 1, … of an .mtp file that does not say them.
    """
    if model.pretrained_model is not None:
        found = card(model.pretrained_model)
        potential = load_model(verified(found.name))
        return Source(found.name, potential.cast(torch.float64), found.default_head, True)
    path = Path(model.reload_model)
    if path.suffix in MLIP_SUFFIXES:
        potential = load_mtp(path, type_map and [atomic_numbers[symbol] for symbol in type_map])
    else:
        potential = load_model(path).cast(torch.float64)
    heads = potential.spec.head_names
    return Source(path.name, potential, heads[0] if len(heads) == 1 else None, False)


def origins(heads: tuple[HeadPlan, ...], source: Source) -> dict[str, str]:
    """Head of the run → head of the file; new heads are absent. Raises InvalidInput."""
    known, found = source.potential.spec.head_names, {}
    for head in heads:
        if head.source == NEW:
            continue
        if head.source is not None:
            name = head.source
        elif head.name in known:
            name = head.name
        elif len(heads) == 1 and source.default is not None:
            name = source.default
        elif len(heads) == 1:
            raise InvalidInput(several_heads(source.name, list(known), head.name))
        else:
            continue
        if name not in known:
            raise InvalidInput(
                f"tasks/{head.name}/finetune_head: {source.name} has no head {name!r}; choose one "
                f'of {", ".join(known)} or "{NEW}"'
            )
        kind = source.potential.spec.head(name).kind
        if kind != head.kind:
            raise InvalidInput(
                f"tasks/{head.name}: head {name} of {source.name} predicts {kind}, this task is "
                f'{head.kind}; give another finetune_head, or "{NEW}"'
            )
        found[head.name] = name
    return found


def load_start(
    plan: Plan, datasets: dict[str, Dataset], new: dict[str, HeadSpec]
) -> tuple[Potential, Source, dict[str, str]]:
    """The potential before new heads are started, its source and the origins of its heads.

    new: specs of the heads as the plan has them, for those that do not come from the file.
    """
    type_maps = [data.type_map for data in plan.data.values() if data.type_map]
    source = read_source(plan.model, type_maps[0] if type_maps else None)
    old = source.potential.spec
    for dataset in datasets.values():
        frames = [*dataset.train, *dataset.valid, *dataset.test]
        check_elements(source.potential, frames)
    species = old.species
    if source.slices:
        species = tuple(sorted({z for d in datasets.values() for z in d.species}))
    origin = origins(plan.model.heads, source)
    heads = tuple(
        replace(old.head(origin[h.name]), name=h.name) if h.name in origin else new[h.name]
        for h in plan.model.heads
    )
    potential = rebuilt(source.potential, replace(old, species=species, heads=heads), origin)
    return potential, source, origin


def adjust_shifts(potential: Potential, head: str, dataset: Dataset) -> float:
    """Move the shifts of a head by what it leaves over of its labels; returns the largest move."""
    kind = potential.spec.head(head).kind
    if kind not in ("energy", "polarizability"):
        return 0.0
    frames = [frame for frame in dataset.train if frame.label(kind) is not None]
    totals = predict_structures(potential, frames, head).predicted[kind]
    rest = [
        replace(frame, **{kind: frame.label(kind) - predicted}, atomic_polarizability=None)
        for frame, predicted in zip(frames, totals, strict=True)
    ]
    fit = fit_shifts if kind == "energy" else isotropic_shifts
    moved = fit(rest, dataset.species)
    found = dict(zip(moved.species, moved.values, strict=True))
    values = [found.get(number, 0.0) for number in potential.spec.species]
    with torch.no_grad():
        potential.heads[head].shifts += torch.tensor(values, dtype=torch.float64)
    return max(map(abs, values))


def tell(source: Source, potential: Potential, rows: list[tuple[str, str, str]]) -> None:
    """Print what every head starts from. rows: head, what it starts from, its shifts."""
    spec = potential.spec
    kept = " ".join(chemical_symbols[z] for z in spec.species)
    say(f"starts from {source.name}: descriptor of {kept}, cutoff {spec.cutoff:g} Å")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  " + "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip())
    used = {name for _, name, _ in rows}
    left = [name for name in source.potential.spec.head_names if f"head {name}" not in used]
    if left:
        say(f"  left out: {', '.join(left)}")
