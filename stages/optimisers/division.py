"""What a full-batch optimiser searches, and the linear weights that it solves for instead."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

if TYPE_CHECKING:
    from stages.objective import Objective

MOST_SOLVED = 1000  # linear weights of a readout: their normal equations take n³ operations
EXACT = 100  # numbers up to which it is worth while to differentiate by each


@dataclass(frozen=True)
class Division:
    """The numbers of some parameters: those that are searched, and linear weights that follow them.

    free, followers: positions in the parameters' flat vector.  solved: the tasks whose linear
    weights follow → whether their shifts do, too.
    """

    parameters: list[Parameter]
    free: Tensor
    followers: Tensor
    solved: dict[str, bool]

    @classmethod
    def whole(cls, parameters: list[Parameter]) -> Division:
        """All are searched."""
        n, device = sum(p.numel() for p in parameters), parameters[0].device
        return cls(parameters, torch.arange(n, device=device), torch.arange(0, device=device), {})

    @property
    def searched(self) -> list[Parameter]:
        """The parameters of which anything is searched."""
        free, start, found = set(self.free.tolist()), 0, []
        for p in self.parameters:
            if not free.isdisjoint(range(start, start + p.numel())):
                found.append(p)
            start += p.numel()
        return found

    @property
    def exact(self) -> bool:
        """Whether it is worth while to differentiate by each."""
        n = len(self.free)
        whole = n == sum(p.numel() for p in self.searched) if n <= EXACT else False
        return bool(self.solved) and whole


def divide(objective: Objective, parameters: list[Parameter]) -> Division:
    """Solved for are linear weights of energies with their shifts, and linear tensor readouts.

    They must have one minimum for every choice of the other parameters, and it must be cheap: one
    pass of the CPU kernel gives the forces of all invariants.
    """
    ends = np.cumsum([0, *(p.numel() for p in parameters)])
    place = {id(p): np.arange(*ends[i : i + 2]) for i, p in enumerate(parameters)}
    lasts = Counter(id(head.last) for head in objective.potential.heads.values())
    on_cpu = parameters[0].device.type == "cpu"
    solved, gone = {}, []
    for task in objective.shares if on_cpu else ():
        head = objective.potential.heads[task]
        weight, shifts = head.last.weight, getattr(head, "shifts", None)
        squares = objective.stage.tasks[task].loss == "mse"
        there = id(weight) in place and lasts[id(head.last)] == 1
        count = head.linear_weights.numel()
        corrects = head.linear or objective.potential.spec.head(task).kind == "energy"
        if squares and there and corrects and count <= MOST_SOLVED:
            solved[task] = id(shifts) in place
            mine = place[id(weight)]
            gone.append(mine[-count:])
            if solved[task]:
                gone.append(place[id(shifts)])
            if head.linear:  # of a silent network the rest does not move
                place[id(weight)] = mine[:0]
    followers = np.concatenate([[], *gone]).astype(int)
    free = np.setdiff1d(np.concatenate(list(place.values())), followers)
    if not len(free) or not len(followers):
        return Division.whole(parameters)
    return Division(parameters, torch.from_numpy(free), torch.from_numpy(followers), solved)
