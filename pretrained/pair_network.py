"""The first descriptor of all elements: radial coefficients by a network of chemical features.

A table of coefficients has 86² pairs of elements, most of which no data set holds. Here they are
functions of both elements, c_ij = c₀ + net(x_i, x_j, x_i x_j), x an embedding that starts from
period, group, covalent radius and whether the element is of the p block; so pairs learn from their
neighbours in the periodic table. What comes out is an ordinary potential with a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor, nn
from tqdm import tqdm

from mtp.baseline import fit_shifts
from mtp.geometry import Batch, Geometry
from mtp.initialise import start_descriptor, start_head
from mtp.potential import Potential, PotentialSpec
from mtp.structure import Structure

NOBLE = (0, 2, 10, 18, 36, 54, 86)
FEATURES = 4
WIDTH = 16  # of the embedding
HIDDEN = 64
BATCH = 64
RATE, WARM_UP = 5e-3, 0.03
SLOWER = 0.4  # the network's rate over that of the readout
LIMITS = {"energy": 0.5, "forces": 1.0, "stress": 0.05}  # errors beyond count linearly
COEFFICIENTS = {"energy": 1.0, "forces": 1.0, "stress": 100.0}
START_ATOMS = 3000  # of every task


class PairNetwork(nn.Module):
    """Radial coefficients (S, S, n_radial, n_q) of all ordered pairs of elements."""

    def __init__(self, species: Sequence[int], base: Tensor) -> None:
        """base: (n_radial, n_q), what all pairs start from."""
        super().__init__()
        self.register_buffer("base", base)
        known = torch.tensor([features(number) for number in species])
        rest = 0.3 * torch.randn(len(species), WIDTH - FEATURES)
        self.embedding = nn.Parameter(torch.cat([known, rest], 1).float())
        self.net = nn.Sequential(
            nn.Linear(3 * WIDTH, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, base.numel()),
        )
        nn.init.normal_(self.net[-1].weight, std=0.02)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self) -> Tensor:
        count = len(self.embedding)
        i = self.embedding[:, None].expand(-1, count, -1)
        j = self.embedding[None].expand(count, -1, -1)
        made = self.net(torch.cat([i, j, i * j], -1))
        return self.base + made.reshape(count, count, *self.base.shape)


def features(number: int) -> tuple[float, ...]:
    """Period, place in it, covalent radius, p block, each around 0."""
    period = sum(number > noble for noble in NOBLE)
    place = (number - NOBLE[period - 1]) / (NOBLE[period] - NOBLE[period - 1])
    last = float(NOBLE[period] - number < 8)
    return period / 3 - 1, 2 * place - 1, float(covalent_radii[number]) - 1.3, last


def first_descriptor(
    tasks: Mapping[str, list[Structure]],
    weights: Mapping[str, float],
    spec: PotentialSpec,
    steps: int,
    seed: int = 0,
) -> Potential:
    """A potential with a head for each task, trained with Adam on huber errors.

    tasks: head → its structures.  weights: head → share of the steps, each of which sees one batch
    of one task. The learning rate falls to 0.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    potential = _started(tasks, spec, torch.Generator().manual_seed(seed)).cast(torch.float32)
    network = PairNetwork(spec.species, potential.radial.detach().mean((0, 1)))
    rest = [p for name, p in potential.named_parameters() if name != "radial"]
    groups = [{"params": network.parameters()}, {"params": rest}]
    optimiser = torch.optim.Adam(groups, lr=RATE)
    data = {
        task: Geometry(structures, spec.species, spec.cutoff, potential.dtype)
        for task, structures in tasks.items()
    }
    batches = {task: _batches(len(geometry), random) for task, geometry in data.items()}
    share = np.array([weights[task] for task in data]) / sum(weights[task] for task in data)
    for step in tqdm(range(steps), unit="step", disable=None):
        task = random.choice(list(data), p=share)
        part = step / steps
        rate = RATE * min(1.0, part / WARM_UP + 0.01) * (1 - part)
        for group, factor in zip(optimiser.param_groups, (SLOWER, 1.0), strict=True):
            group["lr"] = factor * rate
        table = network()
        potential.radial.data = table.detach()
        potential.zero_grad()
        network.zero_grad()
        _backward(potential, task, data[task].batch(next(batches[task])))
        table.backward(potential.radial.grad)
        nn.utils.clip_grad_norm_(list(chain(network.parameters(), rest)), 10.0)
        optimiser.step()
    potential.radial.data = network().detach()
    return potential.cast(torch.float64)


def _started(
    tasks: Mapping[str, list[Structure]], spec: PotentialSpec, generator: torch.Generator
) -> Potential:
    """Scales of a sample of every task, shifts of all its structures, a weak readout."""
    potential = Potential(spec)
    samples = {task: _sample(found, START_ATOMS, generator) for task, found in tasks.items()}
    every = [item for sample in samples.values() for item in sample]
    start_descriptor(potential, _batch(every, spec), generator)
    b = potential.invariants(_batch(every, spec))
    for task, structures in tasks.items():
        start_head(potential, task, b, _batch(samples[task], spec), generator)
        shifts = fit_shifts(structures, spec.species).array
        with torch.no_grad():
            potential.heads[task].shifts.copy_(torch.from_numpy(shifts))
            potential.heads[task].last.weight.mul_(0.1)
    return potential


def _sample(
    structures: list[Structure], enough: int, generator: torch.Generator
) -> list[Structure]:
    """Structures in random order until there are enough atoms."""
    chosen, atoms = [], 0
    for i in torch.randperm(len(structures), generator=generator).tolist():
        chosen.append(structures[i])
        atoms += len(structures[i])
        if atoms > enough:
            break
    return chosen


def _batch(structures: list[Structure], spec: PotentialSpec) -> Batch:
    return Geometry(structures, spec.species, spec.cutoff).batch()


def _batches(count: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless shuffled passes; what is left of a pass and is no batch is dropped."""
    size = min(BATCH, count)
    while True:
        order = random.permutation(count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def _backward(potential: Potential, head: str, batch: Batch) -> None:
    """Gradient of huber losses: means over energies per atom, force and stress components."""
    predicted = potential.predict(batch, head)
    cotangents = {}
    for term, coefficient in COEFFICIENTS.items():
        present = batch.present[term]
        rows = present[batch.structure] if term == "forces" else present
        error = predicted.values[term] - batch.labels[term]
        error = torch.where(rows if error.dim() == 1 else rows[:, None], error, 0.0)
        atoms = batch.atoms_per_structure if term == "energy" else torch.ones(1)
        slope = (error / atoms).clamp(-LIMITS[term], LIMITS[term])
        count = max(1, int(rows.sum())) * (error[0].numel() if error.dim() > 1 else 1)
        cotangents[term] = 2 * coefficient * slope / atoms / count
    potential.backward(batch, head, cotangents)
