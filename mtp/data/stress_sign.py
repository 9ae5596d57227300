"""Does the sign of the stress agree with the energies? stress = (1 / V) dE / dε.

Two kinds of evidence, both from the data alone:

- near pairs: two frames of the same atoms whose cells and positions differ a little. The
  trapezoid of the work of stress and forces must be the difference of their energies,
  E_b - E_a = ½ (V_a σ_a + V_b σ_b) : ε - ½ (F_a + F_b) · Δr + third order.
- volumes: over frames of one composition, σ must follow the slope of energy over volume.

The work and the difference are correlated: near +1 for the right sign, near -1 for the wrong one.
Thermal noise and changes of phase pull the correlation to zero, and then nothing is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mtp.data.labels import tensor
from mtp.structure import Structure

STRAIN = 0.06  # largest component of the strain between near pairs
MOVE = 0.08  # Å, largest movement of an atom beyond the strain
GROUP = 40  # frames of one group that are compared with each other
TRIES = 20000  # pairs looked at
ENOUGH = 5  # pieces of evidence below which nothing is said
CLEAR = {"pairs": 0.7, "volumes": 0.85}  # correlation that shows a wrong sign
CLEAR_UNIT = 0.9  # correlation that shows a wrong unit
VOLUMES = 12  # frames of one composition needed to see a slope
SPREAD = 0.05  # relative spread of volumes needed to see a slope
LARGE = 1.0  # eV/Å³, 160 GPa: half of all frames are hardly ever under such a stress
UNIT = "it must be in eV/Å³ (1 GPa = 0.00624151 eV/Å³)"
FOLLOWS = 0.8  # part of the energies' variance that the volume must explain


@dataclass(frozen=True)
class Evidence:
    """Correlation of work and energy, the factor that maps work to energy, and their number."""

    correlation: float
    factor: float
    count: int


def check_stress(structures: Sequence[Structure]) -> list[str]:
    """A warning in words when the evidence against the sign or unit is clear, else nothing."""
    usable = [item for item in structures if item.energy is not None and item.stress is not None]
    pairs = evidence_of(list(near_pairs(usable)))
    volumes = evidence_of(list(volume_slopes(usable)))
    for kind, words, evidence in (
        ("pairs", "pairs of slightly strained frames", pairs),
        ("volumes", "slope of energy over volume", volumes),
    ):
        if evidence is not None and abs(evidence.correlation) > CLEAR[kind]:
            seen = f"({words}: {evidence.count}, correlation {evidence.correlation:+.2f})"
            return _verdict(evidence, seen)
    return _too_large([item.stress for item in structures if item.stress is not None])


def _verdict(evidence: Evidence, seen: str) -> list[str]:
    size = abs(evidence.factor)
    wrong_unit = abs(evidence.correlation) > CLEAR_UNIT and not 1 / 5 < size < 5
    if evidence.factor < 0:
        unit = f" and wrong by a factor, {size:.3g}: {UNIT}" if wrong_unit else ""
        return [
            "stress looks sign-flipped: energies rise where the stress says that they fall "
            f"{seen}; positive stress must mean tension{unit}"
        ]
    if wrong_unit:
        return [
            f"stress looks wrong by a factor: times {size:.3g} it would fit the energies {seen}; "
            f"{UNIT}"
        ]
    return []


def _too_large(stresses: Sequence[np.ndarray]) -> list[str]:
    """What the size of the stresses says where energies say nothing."""
    largest = [float(np.abs(stress).max()) for stress in stresses]
    typical = float(np.median(largest)) if largest else 0.0
    if typical < LARGE:
        return []
    return [f"stress looks wrong by a factor: its median size is {typical:.3g}; {UNIT}"]


def evidence_of(points: Sequence[tuple[float, float]]) -> Evidence | None:
    """From (what the stress says, what the energies say); None when there is too little."""
    if len(points) < ENOUGH:
        return None
    said, seen = np.array(points).T
    norm = np.sqrt(np.sum(said**2) * np.sum(seen**2))
    if norm == 0:
        return None
    product = float(np.sum(said * seen))
    return Evidence(product / norm, product / float(np.sum(said**2)), len(points))


def near_pairs(structures: Sequence[Structure]) -> Iterator[tuple[float, float]]:
    """(work of the stress, energy difference less work of the forces) in eV/atom of near pairs."""
    for a, b in islice(_candidates(structures), TRIES):
        point = _work(a, b)
        if point is not None:
            yield point


def _candidates(structures: Sequence[Structure]) -> Iterator[tuple[Structure, Structure]]:
    """Pairs of the same atoms whose cells differ by a small strain."""
    groups: dict[tuple[str, bytes], list[Structure]] = defaultdict(list)
    for item in structures:
        groups[item.source, item.numbers.tobytes()].append(item)
    for items in groups.values():
        # spread over the group for different cells, and from its start for neighbours in time
        step = -(-len(items) // GROUP)
        yield from _similar_cells(items[::step])
        if step > 1:
            yield from _similar_cells(items[:GROUP])


def _similar_cells(items: list[Structure]) -> Iterator[tuple[Structure, Structure]]:
    cells = np.array([item.cell for item in items])
    inverse = np.linalg.inv(cells)
    for a in range(len(items) - 1):
        change = np.abs(inverse[a] @ cells[a + 1 :] - np.eye(3)).max(axis=(1, 2))
        for b in np.flatnonzero((change > 1e-5) & (change < STRAIN)):
            yield items[a], items[a + 1 + b]


def _work(a: Structure, b: Structure) -> tuple[float, float] | None:
    """The two sides for a pair, or None when atoms moved too far."""
    inverse = np.linalg.inv(a.cell)
    gradient = inverse @ b.cell  # cell_b = cell_a · gradient
    shift = b.positions @ np.linalg.inv(b.cell) - a.positions @ inverse  # fractional
    shift -= np.round(shift)
    shift -= shift.mean(axis=0)
    moved = shift @ (0.5 * (a.cell + b.cell))
    if np.abs(moved).max() > MOVE:
        return None
    forces = 0.0
    if a.forces is not None and b.forces is not None:
        forces = -0.5 * float(np.sum((a.forces + b.forces) * moved))
    elif np.abs(moved).max() > 1e-3:
        return None
    # Cayley's form: exact for rotations (no strain), second order for the rest
    turn = 2 * (gradient - np.eye(3)) @ np.linalg.inv(gradient + np.eye(3))
    strain = 0.5 * (turn + turn.T)
    stress = 0.5 * (a.volume * tensor(a.stress) + b.volume * tensor(b.stress))
    work = float(np.sum(stress * strain))
    return work / len(a), (b.energy - a.energy - forces) / len(a)


def volume_slopes(structures: Sequence[Structure]) -> Iterator[tuple[float, float]]:
    """(mean normal stress, slope of energy over volume) in eV/Å³, per composition."""
    groups: dict[tuple, list[Structure]] = defaultdict(list)
    for item in structures:
        kinds, counts = np.unique(item.numbers, return_counts=True)
        counts = counts // np.gcd.reduce(counts)
        groups[item.source, item.config_type, tuple(kinds), tuple(counts)].append(item)
    for items in groups.values():
        if len(items) < VOLUMES:
            continue
        volume = np.array([item.volume / len(item) for item in items])
        energy = np.array([item.energy / len(item) for item in items])
        if np.ptp(volume) < SPREAD * volume.mean():
            continue
        centred = volume - volume.mean()
        curve = np.polynomial.Polynomial.fit(centred, energy, 2)
        left = np.var(energy - curve(centred))
        if left > (1 - FOLLOWS) * np.var(energy):
            continue
        slope = curve.deriv()(centred)
        pressure = np.array([item.stress[:3].mean() for item in items])
        yield from zip(pressure.tolist(), slope.tolist(), strict=True)
