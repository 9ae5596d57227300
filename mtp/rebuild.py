"""A potential made of another: fewer species, other heads, the same descriptor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtp.potential import Potential, PotentialSpec

BY_SPECIES = ("shifts",)  # tensors of a head with a row for each species


@torch.no_grad()
def rebuilt(source: Potential, spec: PotentialSpec, origin: Mapping[str, str]) -> Potential:
    """A potential of this spec with all that ``source`` knows of its species and heads.

    spec: species among those of the source; the descriptor must be the source's.  origin: head of
    the new potential → head of the source that it takes its parameters from; the two are alike.
    Other heads have the source's normalisation of invariants and otherwise start from nothing.
    """
    potential = Potential(spec).cast(source.dtype)
    if spec.species == source.spec.species:
        potential.grading = source.grading  # the invariants are the same
    chosen = [source.spec.species.index(number) for number in spec.species]
    _copy_descriptor(source, potential, chosen)
    first = next(iter(source.heads.values()))
    for name, head in potential.heads.items():
        if name in origin:
            _copy_head(source.heads[origin[name]].state_dict(), head, chosen)
        elif head.mean.shape == first.mean.shape:
            head.mean.copy_(first.mean)
            head.std.copy_(first.std)
    return potential


def _copy_descriptor(source: Potential, potential: Potential, chosen: list[int]) -> None:
    potential.radial_scale.copy_(source.radial_scale)
    radial = source.radial if source.embedding is not None else source.radial[chosen][:, chosen]
    n = min(radial.shape[2], potential.radial.shape[2])
    potential.radial[:, :, :n] = radial[:, :, :n]
    _start_more(radial, potential.radial[:, :, n:], n)
    if source.embedding is None:
        return
    state = source.embedding.state_dict()
    state["layers.0.weight"] = state["layers.0.weight"][:, chosen]
    potential.embedding.load_state_dict(state)


def _start_more(radial: Tensor, more: Tensor, n: int) -> None:
    """Radial functions that only new heads have: polynomials as large as the source's functions.

    From zero neither they nor the weights of what contains them would ever move.
    """
    size = radial.square().sum(-1).mean(-1).sqrt()
    for k in range(more.shape[2]):
        more[:, :, k, (n + k) % more.shape[3]] = size


def _copy_head(state: dict[str, Tensor], head: torch.nn.Module, chosen: list[int]) -> None:
    kept = {name: t[chosen] if name in BY_SPECIES else t for name, t in state.items()}
    head.load_state_dict(kept)
