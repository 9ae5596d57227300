"""What joins in when a stage begins: heads that were idle, networks that were silent."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from mtp.data import Dataset
from mtp.initialise import join_network
from mtp.potential import Potential
from stages.plan import Plan
from stages.run.start import (
    START_ATOMS,
    batch_of,
    goes_on,
    layers_of,
    sample,
    sample_of_all,
    silent_at_first,
    start_heads,
)
from stages.say import say
from stages.trainer import moves_network

Data = dict[str, Dataset]


def join(
    plan: Plan, index: int, potential: Potential, datasets: Data, origin: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Start what joins in at a stage, on the descriptor that the stages before have trained.

    Returns the origin of `pull`: with a network, it and all parameters that come from no file get
    the values with which it joins in (docs/theory.md, "Networks").
    """
    stage = plan.stages[index]
    loaded = origin if goes_on(plan) else {}
    late = _late_heads(plan, index, loaded)
    if late:
        silent = silent_at_first(plan)
        _changed(potential, plan, lambda copy, rng: start_heads(copy, datasets, late, silent, rng))
    heads = potential.heads
    moved = [n for n in stage.active() if moves_network(stage, n) and heads[n].untrained]
    lasts = {heads[n].last for n in moved}  # those who share one join together
    networks = [n for n in datasets if heads[n].untrained and heads[n].last in lasts]
    if not networks and not late:
        return origin
    if networks:
        _changed(potential, plan, lambda copy, rng: _start_networks(copy, datasets, networks, rng))
        whose = "" if len(heads) == 1 else f" of {', '.join(networks)}"
        say(f"{stage.name}: the network{whose} joins the linear readout")
    new = tuple(f"heads.{name}." for name in late)
    here = {
        name: parameter.detach().clone()
        for name, parameter in potential.named_parameters()
        if not name.endswith(".shifts") and (networks or name.startswith(new))
    }
    joined = tuple(f"heads.{name}." for name in networks)
    return origin | here | {n: v for n, v in loaded.items() if not n.startswith(joined)}


def _late_heads(plan: Plan, index: int, loaded: dict[str, Tensor]) -> set[str]:
    """The new heads that are trained in this stage, and in none before it.

    What was measured at the start of the run, scales and first weights, no longer fits.
    """
    before = {task for stage in plan.stages[:index] for task in stage.active()}
    names = set(plan.stages[index].active()) - before if index else set()
    return {name for name in names if not any(n.startswith(f"heads.{name}.") for n in loaded)}


def _changed(
    potential: Potential, plan: Plan, change: Callable[[Potential, torch.Generator], None]
) -> None:
    """Change the potential in float64 on the CPU."""
    copy = deepcopy(potential).cast(torch.float64).to("cpu")
    change(copy, torch.Generator().manual_seed(plan.run.seed))
    potential.load_state_dict(copy.state_dict())


def _start_networks(
    potential: Potential, datasets: Data, names: list[str], generator: torch.Generator
) -> None:
    b = potential.invariants(batch_of(potential, sample_of_all(datasets, generator)))
    keep = layers_of([head for name, head in potential.heads.items() if name not in names])
    for name in names:
        start = batch_of(potential, sample(datasets[name].train, START_ATOMS, generator), name)
        join_network(potential, name, b, start, generator, keep)
        keep |= set(potential.heads[name].modules())
