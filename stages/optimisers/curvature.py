"""Where the loss is steep and where it is flat: the Gauss-Newton matrix from random cotangents.

For a sum of squared residuals r the Gauss-Newton matrix is Σ Jᵀ J with J = ∂r/∂θ. A cotangent ξ of
independent standard normal numbers gives a gradient g = Jᵀξ with E[g gᵀ] = Jᵀ J, so some hundred
gradients of small groups of frames estimate the whole matrix for the price of a few passes over the
data. Its inverse is where L-BFGS starts from; the pairs it collects do the rest.

There may be fewer samples than parameters: of a network, or of a task with few frames. Their span
is then all that is known of the matrix, and a damping that they ask for themselves stands for the
rest (`balanced_damping`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from stages.distributed import all_sum, mine, rank, same, size
from stages.loss import Errors, curvature_weights
from stages.tasks import Draw, chunks

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.prediction import Prediction
    from stages.objective import Objective
    from stages.optimisers.division import Division

SAMPLES = 4  # gradients per parameter at most
MOST = 1000  # gradients at most
NUMBERS = 16_000_000  # at most so many numbers in them
PASSES = 3  # over the data of a task, more only where they give fewer than LEAST gradients
LEAST = 100  # gradients of each task
GROUP = 128  # atoms of one gradient, about; fewer where the task has few
ENOUGH = 4096  # atoms of a task that determine the exact matrix of a few parameters
BISECTIONS = 60
NUGGET = 1e-10  # of weights that are solved for: the data may not determine them all
FLOOR = 1e-12  # of what is divided by, relative to the largest
TINY = 1e-200
SEEDS = 1_000_003  # between the random numbers of two estimates


@dataclass(frozen=True)
class Preconditioner:
    """An approximate inverse of the loss's second derivatives, of any number of parameters.

    That of a positive diagonal and the sampled gradients: with u = root · vector it gives
    root · (u − vectorsᵀ shrink · vectors u).

    root: (n,).  vectors: (r, n) orthonormal rows.  shrink: (r,) from 0 to 1.
    """

    root: Tensor
    vectors: Tensor
    shrink: Tensor

    @classmethod
    def of(
        cls, objective: Objective, division: Division, seed: int, damping: float
    ) -> Preconditioner:
        """Estimated where the parameters stand, from a seeded choice of frames and cotangents.

        damping: added to what the samples ask for themselves, relative to the largest eigenvalue of
        the matrix scaled to a unit diagonal.
        """
        free, parameters, exact = division.free, division.parameters, division.exact
        if exact:
            rows = roots(exact_matrix(objective, division, seed))
        else:
            rows = samples(objective, parameters, seed)
            rows = torch.cat([rows[:, free], rows[:, division.followers]], 1)
        if division.solved:
            rows = reduced(rows, len(free), exact)
        diagonal = rows.square().sum(0)
        diagonal.clamp_(min=FLOOR * max(float(diagonal.max()), TINY))
        scaled = rows * diagonal.rsqrt()
        largest = float(spectrum(scaled)[0][-1])
        asked = 0.0 if exact else _asked(scaled, blocks(objective, division))
        pull = _pull(objective, parameters)[free]
        root = ((asked + damping * largest) * diagonal + pull).rsqrt()
        values, vectors, _ = spectrum(rows * root)
        found = [root, vectors, values / (1 + values)]
        same(found)
        return cls(*found)

    def __call__(self, vector: Tensor) -> Tensor:
        u = self.root * vector
        return self.root * (u - self.vectors.T @ (self.shrink * (self.vectors @ u)))


def spectrum(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of rowsᵀ rows that may differ from zero.

    rows: (m, n).  Returns, with r = min(m, n), values (r,), vectors (r, n) and the components of
    the rows along them (m, r).
    """
    few = len(rows) <= rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    values = values.clamp_min(FLOOR * float(values[-1].clamp_min(TINY)))
    if few:
        return values, (vectors.T @ rows) / values.sqrt()[:, None], vectors * values.sqrt()
    return values, vectors.T, rows @ vectors


def balanced_damping(values: Tensor, parts: Tensor) -> float:
    """The damping of a sampled matrix with which the samples foretell each other.

    For gradients g with Σ E[g gᵀ] = A, Σ gᵀ A⁻¹ g is the number of parameters on average. Here A
    is summed from all samples but g: with the leverage h of g in all of them and the damping, the
    term of g is h / (1 − h). What few samples do not span asks for much damping; many samples ask
    for none.

    values, parts: of `spectrum`, the matrix scaled so that its trace is the number of parameters.
    """
    low, high, squares = 1e-12, 1e3, parts.square()
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        leverage = squares @ (1 / (values + middle))
        foretold = leverage / (1 - leverage).clamp_min(1e-12)
        low, high = (middle, high) if foretold.sum() > values.sum() else (low, middle)
    return high


def _asked(scaled: Tensor, columns: list[Tensor]) -> Tensor:
    """(n,) the damping that each block of columns asks for: a network must not slow the rest."""
    asked = torch.zeros_like(scaled[0])
    for block in columns:
        values, _, parts = spectrum(scaled[:, block])
        asked[block] = balanced_damping(values, parts)
    return asked


def blocks(objective: Objective, division: Division) -> list[Tensor]:
    """Of what is searched, the numbers of the descriptor and of each head."""
    of = {
        id(p): head
        for (head, _), group in reversed(objective.potential.groups().items())
        for p in group
    }
    heads = [of[id(p)] for p in division.parameters]
    kinds = {head: k for k, head in enumerate(dict.fromkeys(heads))}
    sizes = [p.numel() for p in division.parameters]
    kind = np.repeat([kinds[head] for head in heads], sizes)
    kind = torch.from_numpy(kind).to(division.free.device)[division.free]
    found = [(kind == k).nonzero()[:, 0] for k in kinds.values()]
    return [block for block in found if len(block)]


def reduced(rows: Tensor, n: int, exact: bool) -> Tensor:
    """(m, n) rows of the Schur complement: the curvature when the columns after n follow.

    What the other columns explain is taken off, as far as the samples are to be believed.
    """
    others = rows[:, n:]
    squares = others.square().sum(0)
    values, _, parts = spectrum(others * squares.clamp_min(FLOOR * float(squares.max())).rsqrt())
    damping = NUGGET * float(values[-1]) if exact else balanced_damping(values, parts)
    left = parts / values.sqrt()
    taken = 1 - (damping / (values + damping)).sqrt()
    return rows[:, :n] - left @ (taken[:, None] * (left.T @ rows[:, :n]))


def _pull(objective: Objective, parameters: list[Parameter]) -> Tensor:
    """Second derivatives of the pull towards the start, for every parameter it acts on."""
    pulled = {id(parameter) for parameter, _ in objective.pulled()}
    parts = [torch.full_like(p.detach().flatten(), id(p) in pulled) for p in parameters]
    return 2 * objective.pull * torch.cat(parts).double()


def roots(matrix: Tensor) -> Tensor:
    """(n, n) rows whose sum of squares is a positive semidefinite matrix."""
    scale = matrix.diagonal().clamp_min(TINY).sqrt()  # its columns may be of very different size
    values, vectors = torch.linalg.eigh(matrix / scale / scale[:, None])
    return values.clamp_min(0).sqrt()[:, None] * vectors.T * scale


@torch.no_grad()
def exact_matrix(objective: Objective, division: Division, seed: int) -> Tensor:
    """The Gauss-Newton matrix itself: columns by differences, those of linear weights by passes.

    First what is searched, then the weights and shifts of each task. Of large sets a seeded choice
    of frames stands for all.
    """
    n, size, place = len(division.free), len(division.free), {}
    for task, shifts in division.solved.items():
        head = objective.potential.heads[task]
        count = head.linear_weights.numel() + (head.shifts.numel() if shifts else 0)
        place[task] = torch.arange(size, size + count)
        size += count
    matrix = torch.zeros(size, size, dtype=torch.float64, device=division.free.device)
    for draw, share in _some(objective, seed):
        task, data = objective.stage.tasks[draw.task], objective.data[draw.task]
        batch = data.train.batch(mine(draw.indices, data.train.costs))
        here = objective.potential.predict(batch, draw.task)
        errors = Errors.of(here, batch)
        normaliser = data.normaliser(data.counts).to(errors.atoms.device)
        squares = curvature_weights(errors, task, normaliser)
        moved = _differences(objective, division.searched, batch, draw.task, here)
        where, columns = torch.arange(n), moved
        if draw.task in place:
            shifts = division.solved[draw.task]
            rows = objective.potential.linear_rows(batch, draw.task, shifts, network=False)
            where = torch.cat([where, place[draw.task]])
            columns = {k: torch.cat([moved[k], rows[k].double()], -1) for k in squares}
        for term, weight in squares.items():
            scale = (share * objective.shares[draw.task] * weight).sqrt().flatten()
            joined = columns[term].flatten(0, -2) * scale[:, None]
            matrix[where[:, None], where] += joined.T @ joined
    (matrix,) = all_sum([matrix])
    return matrix


def _some(objective: Objective, seed: int) -> Iterator[tuple[Draw, float]]:
    """Frames of every task, in parts, and how many frames each of them stands for."""
    rng = np.random.default_rng(seed)
    for task in objective.shares:
        frames = np.concatenate([d.indices for d in objective.draws if d.task == task])
        atoms = objective.data[task].train.n_atoms
        order = rng.permutation(frames)
        chosen = np.sort(order[: 1 + np.searchsorted(np.cumsum(atoms[order]), ENOUGH)])
        for part in chunks(atoms[chosen]):
            yield Draw(task, chosen[part]), len(frames) / len(chosen)


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


def samples(objective: Objective, parameters: list[Parameter], seed: int) -> Tensor:
    """(m, n) gradients for random cotangents; their sum of squares stands for all frames.

    Every process makes some of them: each group has random numbers of its own, whoever does it.
    """
    rng = np.random.default_rng(seed)
    n = sum(p.numel() for p in parameters)
    most = max(1, min(SAMPLES * n, MOST, NUMBERS // n) // len(objective.shares))
    chosen = [
        (group, weight)
        for task in objective.shares
        for group, weight in _groups(objective, task, most, rng)
    ]
    rows = torch.zeros((len(chosen), n), dtype=torch.float64, device=parameters[0].device)
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
        rows[k] = flat_gradient(parameters) * weight**0.5
    return all_sum([rows])[0]


def _groups(
    objective: Objective, task: str, most: int, rng: np.random.Generator
) -> list[tuple[Draw, float]]:
    """Frames of a task in random order, in groups of some atoms, and the weight of each group."""
    frames = np.concatenate([d.indices for d in objective.draws if d.task == task])
    atoms, groups = objective.data[task].train.n_atoms, []
    size = min(GROUP, max(1, PASSES * int(atoms[frames].sum()) // LEAST))
    for done in itertools.count():
        if done >= PASSES and len(groups) >= min(LEAST, most):
            break
        order = rng.permutation(frames)
        ends = np.cumsum(atoms[order]) // size
        cuts = np.flatnonzero(np.diff(ends)) + 1
        groups += [Draw(task, part) for part in np.split(order, cuts)]
    groups = groups[:most]
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
