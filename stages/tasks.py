"""Tasks: the data of each head, and the order in which a stage draws batches from them.

Which frames a step sees is a pure function of (seed, stage, epoch, step), so a sampler has no state
to save: restarting at a step gives the batches an uninterrupted run would have had.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtp.terms import PREDICTED, TERMS
from stages.plan import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mtp.geometry import Geometry
    from mtp.structure import Structure

ATOMS = 16_384
"""Atoms that are evaluated at once where the order does not matter: with fewer, the work that does
not depend on their number shows."""


@dataclass(frozen=True, eq=False)
class TaskData:
    """What one head is trained and validated on.

    train, valid: structures with their pairs; ``valid`` may be empty.  terms: what the head
    predicts.  counts, weights: (terms,) labelled numbers of the training set, plain and weighted.
    """

    train: Geometry
    valid: Geometry
    terms: tuple[str, ...]
    counts: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls, train: Geometry, valid: Geometry, terms: tuple[str, ...] = PREDICTED["energy"]
    ) -> TaskData:
        numbers = [_labelled_numbers(s, terms, train.selected) for s in train.structures]
        numbers = torch.tensor(numbers, dtype=torch.float64).reshape(-1, len(terms))
        weight = torch.tensor([s.weight for s in train.structures], dtype=torch.float64)
        return cls(train, valid, terms, numbers.sum(0), weight @ numbers)

    @property
    def labelled(self) -> dict[str, bool]:
        """Term → is there any label with a weight."""
        return {term: bool(self.weights[i] > 0) for i, term in enumerate(self.terms)}

    def normaliser(self, counts: Tensor) -> Tensor:
        """(terms,) what sums over a batch with ``counts`` labelled numbers are divided by.

        The mean weight is that of the whole training set, so that a structure's weight counts also
        against the structures of other batches.
        """
        return counts * self._on(counts.device)[1]

    def counts_on(self, device: torch.device) -> Tensor:
        """``counts`` on a device."""
        return self._on(device)[0]

    @cache  # noqa: B019 - as few as there are tasks, and they live as long as the run
    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Counts and mean weights: sent to a device once, for it waits meanwhile."""
        mean = torch.where(self.counts > 0, self.weights / self.counts, 1.0)
        return self.counts.to(device), mean.to(device)


@dataclass(frozen=True)
class Draw:
    """One batch: some training frames of one task."""

    task: str
    indices: np.ndarray


def _labelled_numbers(
    frame: Structure, terms: tuple[str, ...], selected: tuple[int, ...]
) -> list[int]:
    """How many numbers of each term a frame carries; of terms of atoms those of `selected`."""
    atoms = int(np.isin(frame.numbers, selected).sum()) if selected else len(frame)
    return [
        0 if frame.label(term) is None else math.prod(TERMS[term].shape(atoms)) for term in terms
    ]


def chunks(atoms: np.ndarray, most: float = ATOMS) -> Iterator[np.ndarray]:
    """All frames in order, together at most so many atoms at a time, or one frame.

    atoms: (frames,) of each.
    """
    ends = np.cumsum(atoms)
    start = 0
    while start < len(atoms):
        fits = np.searchsorted(ends, ends[start] - atoms[start] + most, side="right")
        stop = max(start + 1, int(fits))
        yield np.arange(start, stop)
        start = stop


def everything(data: Mapping[str, TaskData], tasks: Iterable[str], most: int = ATOMS) -> list[Draw]:
    """Every training frame of the tasks once, in order."""
    return [
        Draw(task, indices) for task in tasks for indices in chunks(data[task].train.n_atoms, most)
    ]


def deal(total: int, weights: dict[str, float]) -> dict[str, int]:
    """``total`` steps shared out in proportion to the weights, by largest remainder."""
    whole = sum(weights.values())
    exact = {task: total * weight / whole for task, weight in weights.items()}
    steps = {task: int(share) for task, share in exact.items()}
    by_remainder = sorted(exact, key=lambda task: steps[task] - exact[task])
    for task in by_remainder[: total - sum(steps.values())]:
        steps[task] += 1
    return steps


class Sampler:
    """The order of batches of one stage.

    frames: task → frames of its training set.  random: every step draws its task by the shares
    instead of being dealt one.
    """

    def __init__(
        self,
        stage: Stage,
        frames: dict[str, int],
        batch_size: int,
        seed: int,
        index: int,
        random: bool = False,
    ) -> None:
        """index: position of the stage in the plan."""
        self.frames, self.batch_size, self.random = frames, batch_size, random
        self.key = (seed, index)
        self.shares = shares(stage, {task: self.batches(task) for task in stage.tasks})
        self.steps = steps(stage, {task: self.batches(task) for task in self.shares})
        self._done: list[dict[str, int]] = [dict.fromkeys(self.shares, 0)]  # before each epoch

    def batches(self, task: str) -> int:
        """Batches of one pass through the task's frames; the last one may be smaller."""
        return -(-self.frames[task] // self.batch_size)

    def epoch(self, epoch: int) -> list[Draw]:
        """The batches of an epoch (from 1) in order.

        Each task goes on where its previous epoch ended, through a new shuffle at every pass.
        """
        position, draws = dict(self._before(epoch)), []
        for task in self._tasks(epoch):
            draws.append(Draw(task, self._batch(task, position[task])))
            position[task] += 1
        return draws

    def _tasks(self, epoch: int) -> list[str]:
        """The task of every step of an epoch."""
        names, generator = list(self.shares), self._generator(epoch, 0)
        if self.random:
            weights = np.array(list(self.shares.values()))
            order = generator.choice(len(names), size=self.steps, p=weights / weights.sum())
        else:
            dealt = deal(self.steps, self.shares)
            order = np.repeat(np.arange(len(dealt)), list(dealt.values()))
            generator.shuffle(order)
        return [names[which] for which in order]

    def _before(self, epoch: int) -> dict[str, int]:
        """How often each task was drawn in the epochs before."""
        while len(self._done) < epoch:
            drawn = Counter(self._tasks(len(self._done)))
            self._done.append({task: n + drawn[task] for task, n in self._done[-1].items()})
        return self._done[epoch - 1]

    def _batch(self, task: str, position: int) -> np.ndarray:
        passes, batch = divmod(position, self.batches(task))
        which = 1 + list(self.shares).index(task)
        order = self._generator(passes, which).permutation(self.frames[task])
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([*self.key, *key])


def shares(stage: Stage, batches: dict[str, int]) -> dict[str, float]:
    """Task → weight of the tasks active in a stage.

    Unset, a task's number of batches, times its own epochs where they are given.
    """
    return {
        name: float(batches[name] * (task.epochs or 1) if task.weight is None else task.weight)
        for name, task in stage.active().items()
    }


def steps(stage: Stage, batches: dict[str, int]) -> int:
    """Steps of an epoch: the batches of one pass of every task, or what its own epochs come to."""
    whole = sum(
        n * (1 if (own := stage.tasks[task].epochs) is None else own / stage.epochs)
        for task, n in batches.items()
    )
    return max(1, round(whole))
