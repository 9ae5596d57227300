"""Tasks: the data of each head, and the order in which a stage draws batches from them.

Which frames a step sees is a pure function of (seed, stage, epoch, step), so a sampler has no state
to save: restarting at a step gives the batches an uninterrupted run would have had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.plan import TERMS, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mtp.geometry import Geometry
    from mtp.structure import Structure


@dataclass(frozen=True)
class TaskData:
    """What one head is trained and validated on.

    train, valid: structures with their pairs; ``valid`` may be empty.
    counts, weights: (3,) labelled numbers of the training set, plain and weighted.
    """

    train: Geometry
    valid: Geometry
    counts: Tensor
    weights: Tensor

    @classmethod
    def of(cls, train: Geometry, valid: Geometry) -> TaskData:
        numbers = torch.tensor([_labelled_numbers(s) for s in train.structures]).reshape(-1, 3)
        weight = torch.tensor([s.weight for s in train.structures], dtype=torch.float64)
        return cls(train, valid, numbers.sum(0).double(), weight @ numbers.double())

    @property
    def labelled(self) -> dict[str, bool]:
        """Term → is there any label with a weight."""
        return {term: bool(self.weights[i] > 0) for i, term in enumerate(TERMS)}

    def normaliser(self, counts: Tensor) -> Tensor:
        """(3,) what sums over a batch with ``counts`` labelled numbers are divided by.

        The mean weight is that of the whole training set, so that a structure's weight counts also
        against the structures of other batches.
        """
        mean = torch.where(self.counts > 0, self.weights / self.counts, 1.0)
        return counts * mean.to(counts.device)


@dataclass(frozen=True)
class Draw:
    """One batch: some training frames of one task."""

    task: str
    indices: np.ndarray


def _labelled_numbers(frame: Structure) -> tuple[int, int, int]:
    """How many numbers of each term a frame carries."""
    stress = frame.stress is not None and bool(frame.pbc.all())
    return int(frame.energy is not None), 3 * len(frame) * (frame.forces is not None), 6 * stress


def chunks(frames: int, size: int) -> Iterator[np.ndarray]:
    """All frames in order, at most ``size`` at a time."""
    for start in range(0, frames, size):
        yield np.arange(start, min(start + size, frames))


def deal(total: int, weights: dict[str, float]) -> dict[str, int]:
    """``total`` steps shared out in proportion to the weights, by largest remainder."""
    whole = sum(weights.values())
    exact = {task: total * weight / whole for task, weight in weights.items()}
    steps = {task: int(share) for task, share in exact.items()}
    by_remainder = sorted(exact, key=lambda task: steps[task] - exact[task])
    for task in by_remainder[: total - sum(steps.values())]:
        steps[task] += 1
    return steps


@dataclass(frozen=True)
class Sampler:
    """The order of batches of one stage.

    frames: task → frames of its training set.  shares: task → weight (`shares`).
    """

    frames: dict[str, int]
    shares: dict[str, float]
    batch_size: int
    seed: int
    stage: int

    def batches(self, task: str) -> int:
        """Batches of one pass through the task's frames; the last one may be smaller."""
        return -(-self.frames[task] // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of an epoch: the batches of one pass of every task."""
        return sum(self.batches(task) for task in self.shares)

    def epoch(self, epoch: int) -> list[Draw]:
        """The batches of an epoch (from 1) in order.

        Each task goes on where its previous epoch ended, through a new shuffle at every pass.
        """
        dealt = deal(self.steps, self.shares)
        order = np.repeat(np.arange(len(dealt)), list(dealt.values()))
        self._generator(epoch, 0).shuffle(order)
        position = {task: (epoch - 1) * steps for task, steps in dealt.items()}
        draws = []
        for which in order:
            task = list(dealt)[which]
            draws.append(Draw(task, self._batch(task, position[task])))
            position[task] += 1
        return draws

    def everything(self) -> list[Draw]:
        """Every training frame of every task once, in order."""
        return [
            Draw(task, indices)
            for task in self.shares
            for indices in chunks(self.frames[task], self.batch_size)
        ]

    def _batch(self, task: str, position: int) -> np.ndarray:
        passes, batch = divmod(position, self.batches(task))
        which = 1 + list(self.shares).index(task)
        order = self._generator(passes, which).permutation(self.frames[task])
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.stage, *key])


def shares(stage: Stage, frames: dict[str, int], batch_size: int) -> dict[str, float]:
    """Task → weight of the tasks active in a stage; unset, a task's own number of batches."""
    weights = {
        name: -(-frames[name] // batch_size) if task.weight is None else task.weight
        for name, task in stage.tasks.items()
    }
    return {name: float(weight) for name, weight in weights.items() if weight}
