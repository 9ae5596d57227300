"""Where the loss is steep and where it is flat: the Gauss-Newton matrix from random cotangents.

For a sum of squared residuals r the Gauss-Newton matrix is Σ Jᵀ J with J = ∂r/∂θ. A cotangent ξ of
independent standard normal numbers gives a gradient g = Jᵀξ with E[g gᵀ] = Jᵀ J, so some hundred
gradients of small groups of frames estimate the whole matrix for the price of a few passes over the
data. Its inverse is where L-BFGS starts from; the pairs it collects do the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from stages.distributed import all_sum, rank, same, size
from stages.loss import Errors, curvature_weights
from stages.tasks import Draw

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.prediction import Prediction
    from stages.objective import Objective

DENSE = 2000  # parameters up to which the matrix is treated as a whole
SAMPLES = 4  # gradients per parameter
PASSES = 3  # over the data of a task at most
LEAST = 32  # gradients of each of several tasks: one with few frames must not steer blindly
GROUP = 128  # atoms of one gradient, about
EXACT = 100  # parameters up to which it is worth while to differentiate by each
NUGGET = 1e-10  # of weights that are solved for: the data may not determine them all
SEEDS = 1_000_003  # between the random numbers of two estimates


class Preconditioner:
    """An approximate inverse of the loss's second derivatives, block by block.

    Few parameters are one block; of many, every tensor is one, and a large tensor its diagonal.
    """

    def __init__(self, blocks: list[Tensor]) -> None:
        self.blocks = blocks  # (n, n) matrices or (n,) diagonals

    @classmethod
    def of(
        cls,
        objective: Objective,
        parameters: list[Parameter],
        seed: int,
        damping: float,
        solved: list[Parameter],
    ) -> Preconditioner:
        """Estimated where the parameters stand, from a seeded choice of frames and cotangents.

        damping: relative to the largest eigenvalue of the matrix scaled to a unit diagonal.
        solved: linear weights that are no variables but follow them (variable_projection.py).
        """
        n = sum(p.numel() for p in parameters)
        if solved and n <= EXACT:
            sums = [exact_matrix(objective, parameters, solved)]
        else:
            sums = _sampled(objective, [*parameters, *solved], seed)
        _add_pull(objective, [*parameters, *solved], sums)
        scales = [_scale(total.diagonal() if total.dim() == 2 else total) for total in sums]
        if solved and len(sums) == 1:
            sums, scales = [_reduced(sums[0], scales[0], n)], [scales[0][:n]]
        elif solved:
            sums, scales = sums[: len(parameters)], scales[: len(parameters)]
        blocks = [
            _inverse(total, scale, damping) for total, scale in zip(sums, scales, strict=True)
        ]
        same(blocks)
        return cls(blocks)

    def __call__(self, vector: Tensor) -> Tensor:
        parts = vector.split([len(block) for block in self.blocks])
        return torch.cat(
            [
                block @ part if block.dim() == 2 else block * part
                for block, part in zip(self.blocks, parts, strict=True)
            ]
        )


def _sampled(objective: Objective, parameters: list[Parameter], seed: int) -> list[Tensor]:
    """The matrix of all parameters, or where they are many a block or a diagonal for each."""
    sizes = [p.numel() for p in parameters]
    if sum(sizes) <= DENSE:
        sizes = [sum(sizes)]
    real = {"dtype": torch.float64, "device": parameters[0].device}
    sums = [torch.zeros((n, n) if n <= DENSE else n, **real) for n in sizes]
    samples = SAMPLES * min(sum(sizes), DENSE)
    for gradient, weight in _gradients(objective, parameters, samples, seed):
        for total, part in zip(sums, gradient.split(sizes), strict=True):
            if total.dim() == 2:
                total.addr_(part, part, alpha=weight)
            else:
                total.add_(part * part, alpha=weight)
    return all_sum(sums)


@torch.no_grad()
def exact_matrix(
    objective: Objective, parameters: list[Parameter], solved: list[Parameter]
) -> Tensor:
    """The Gauss-Newton matrix itself: columns by differences, those of linear weights by passes."""
    n = sum(p.numel() for p in parameters)
    place, size = {}, n
    for p in solved:
        place[id(p)] = slice(size, size + p.numel())
        size += p.numel()
    matrix = torch.zeros(size, size, dtype=torch.float64, device=parameters[0].device)
    for draw, batch in objective.batches():
        task, data = objective.stage.tasks[draw.task], objective.data[draw.task]
        head = objective.potential.heads[draw.task]
        here = objective.potential.predict(batch, draw.task)
        errors = Errors.of(here, batch)
        normaliser = data.normaliser(data.counts).to(errors.atoms.device)
        squares = curvature_weights(errors, task, normaliser)
        mine = [p for p in (head.last.weight, head.shifts) if id(p) in place]
        rows = objective.potential.linear_rows(batch, draw.task, shifts=len(mine) > 1)
        moved = _differences(objective, parameters, batch, draw.task, here)
        where = torch.cat([torch.arange(n), *(torch.arange(size)[place[id(p)]] for p in mine)])
        for term, weight in squares.items():
            joined = torch.cat([moved[term], rows[term].double()], -1).flatten(0, -2)
            scale = (objective.shares[draw.task] * weight).sqrt().flatten()
            joined = joined * scale[:, None]
            matrix[where[:, None], where] += joined.T @ joined
    (matrix,) = all_sum([matrix])
    return matrix


def _differences(
    objective: Objective, parameters: list[Parameter], batch: Batch, task: str, here: Prediction
) -> dict[str, Tensor]:
    """Term → (…, n) derivatives of the prediction by the parameters, by one-sided differences."""
    found = {term: [] for term in here.values}
    for parameter in parameters:
        flat = parameter.view(-1)
        for k in range(len(flat)):
            old = flat[k].clone()
            step = torch.finfo(flat.dtype).eps ** 0.4 * max(1.0, abs(float(old)))
            flat[k] += step
            there = objective.potential.predict(batch, task)
            for term, values in there.values.items():
                found[term].append((values - here.values[term]) / float(flat[k] - old))
            flat[k] = old
    return {term: torch.stack(columns, -1) for term, columns in found.items()}


def _reduced(matrix: Tensor, scale: Tensor, n: int) -> Tensor:
    """Schur complement: the curvature along the first n when the others follow them."""
    scaled = matrix * scale * scale[:, None]
    others = scaled[n:, n:] + NUGGET * torch.eye(len(scaled) - n).to(scaled)
    coupling = scaled[n:, :n]
    schur = scaled[:n, :n] - coupling.T @ torch.linalg.solve(others, coupling)
    return schur / scale[:n] / scale[:n, None]


def _scale(diagonal: Tensor) -> Tensor:
    """What brings a diagonal to one."""
    return diagonal.clamp_min(1e-12 * float(diagonal.max().clamp_min(1e-300))).rsqrt()


def _add_pull(objective: Objective, parameters: list[Parameter], sums: list[Tensor]) -> None:
    """Second derivatives of the pull towards the start: 2·pull for every parameter it acts on."""
    pulled = {id(parameter) for parameter, _ in objective.pulled()}
    if not pulled:
        return
    parts = [torch.full_like(p.detach().flatten(), id(p) in pulled) for p in parameters]
    diagonal = 2 * objective.stage.pull * torch.cat(parts).double()
    for total, part in zip(sums, diagonal.split([len(total) for total in sums]), strict=True):
        (total.diagonal() if total.dim() == 2 else total).add_(part)


def _inverse(matrix: Tensor, scale: Tensor, damping: float) -> Tensor:
    """Damped inverse of a positive semidefinite matrix or of a diagonal; scale: its units."""
    if matrix.dim() == 1:
        return scale * scale / (1 + damping)
    values, vectors = torch.linalg.eigh(matrix * scale * scale[:, None])
    inverse = 1 / (values.clamp_min(0) + damping * values[-1])
    return (vectors * inverse) @ vectors.T * scale * scale[:, None]


def _gradients(
    objective: Objective, parameters: list[Parameter], samples: int, seed: int
) -> Iterator[tuple[Tensor, float]]:
    """Gradients for random cotangents and the weight of each in the sum over all frames.

    Those of this process: each group has random numbers of its own, whoever does it.
    """
    rng = np.random.default_rng(seed)
    chosen = [
        (group, weight)
        for task in objective.shares
        for group, weight in _groups(objective, task, samples, rng)
    ]
    for k in range(rank(), len(chosen), size()):
        draw, weight = chosen[k]
        generator = torch.Generator().manual_seed(SEEDS * seed + k)
        task, data = objective.stage.tasks[draw.task], objective.data[draw.task]
        batch = data.train.batch(draw.indices)
        errors = Errors.of(objective.potential.predict(batch, draw.task), batch)
        normaliser = data.normaliser(data.counts_on(errors.atoms.device))
        squares = curvature_weights(errors, task, normaliser)
        slopes = {
            term: (objective.shares[draw.task] * w).sqrt()
            * torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.device)
            for term, w in squares.items()
        }
        objective.potential.zero_grad(set_to_none=True)
        objective.potential.backward(batch, draw.task, slopes)
        yield flat_gradient(parameters), weight


def _groups(
    objective: Objective, task: str, samples: int, rng: np.random.Generator
) -> list[tuple[Draw, float]]:
    """Frames of a task in random order, in groups of about GROUP atoms, and the weight of each.

    So many passes that there are enough groups, and no more than ``samples``.
    """
    frames = np.concatenate([d.indices for d in objective.draws if d.task == task])
    atoms, groups = objective.data[task].train.n_atoms, []
    enough = min(samples, LEAST) if len(objective.shares) > 1 else 0
    for done in itertools.count():
        if done >= PASSES and len(groups) >= enough:
            break
        order = rng.permutation(frames)
        ends = np.cumsum(atoms[order]) // GROUP
        cuts = np.flatnonzero(np.diff(ends)) + 1
        groups += [Draw(task, part) for part in np.split(order, cuts)]
    groups = groups[:samples]
    weight = len(frames) / sum(len(group.indices) for group in groups)
    return [(group, weight) for group in groups]


def flat_gradient(parameters: list[Parameter]) -> Tensor:
    """The parameters' gradients as one float64 vector; zero where there is none."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).double()
            for p in parameters
        ]
    )
