"""From the numbers of a .mtp file to a potential on our own basis of the same level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from mtp.basis.graphs import STANDARD_COSTS, MomentSpec, graphs
from mtp.errors import InvalidInput
from mtp.mlip_file import MLIP_SUFFIXES, MlipPotential, read_mtp
from mtp.model_file import load_model
from mtp.potential import Potential, PotentialSpec

LEVELS = range(2, 30, 2)  # of the files that come with MLIP
NEIGHBOURS = 25
TOLERANCE = 1e-8  # of the invariants that our basis must reproduce, relative


def load_potential(path: str | Path, species: Sequence[int] | None = None) -> Potential:
    """The potential in a model file, or in one of MLIP's, told apart by their suffix.

    species: see `load_mtp`. Raises InvalidInput as `load_model` and `load_mtp` do.
    """
    return load_mtp(path, species) if Path(path).suffix in MLIP_SUFFIXES else load_model(path)


def load_mtp(path: str | Path, species: Sequence[int] | None = None) -> Potential:
    """The potential of a .mtp or .almtp file, equal to it at all distances above min_dist.

    The file's contractions may differ from ours; both span the same invariants, and the linear
    coefficients are carried over. species: atomic numbers of its types 0, 1, …, for files that do
    not say them. Raises InvalidInput where the elements are not known, for a basis that is none of
    ours and for templates, which `load_template` reads.
    """
    numbers = read_mtp(path)
    if not numbers.trained:
        raise InvalidInput(
            f"{path}: an untrained template; train it: name it as reload_model in a control file"
        )
    known = _species(path, numbers, species)
    order = np.argsort(known)
    potential = Potential(_spec(path, numbers, tuple(int(known[k]) for k in order)))
    head = potential.heads["default"]
    with torch.no_grad():
        radial = numbers.scaling * numbers.radial[np.ix_(order, order)]
        potential.radial.copy_(torch.from_numpy(radial))
        head.shifts.copy_(torch.from_numpy(numbers.shifts[order]))
        head.last.weight[0] = torch.from_numpy(_weights(path, numbers, potential))
    return potential


def load_template(path: str | Path, species: Sequence[int]) -> PotentialSpec:
    """What a .mtp file, trained or not, says of the form of a potential for these elements.

    Raises InvalidInput for a basis that is none of ours.
    """
    return _spec(path, read_mtp(path), tuple(sorted(set(species))))


def _spec(path: str | Path, numbers: MlipPotential, species: tuple[int, ...]) -> PotentialSpec:
    """The form of the potential: its basis with its own level or MLIP's."""
    moments = _level(path, numbers)
    return PotentialSpec(
        species,
        cutoff=numbers.max_dist,
        min_dist=numbers.min_dist,
        n_q=numbers.radial.shape[3],
        levmax=moments.levmax,
        moment_init_cost=moments.init_cost,
        moment_mu_cost=moments.mu_cost,
        moment_nu_cost=moments.nu_cost,
    )


def _species(
    path: str | Path, numbers: MlipPotential, given: Sequence[int] | None
) -> tuple[int, ...]:
    """Atomic numbers of the file's types: its own, or else those given."""
    if numbers.species is not None:
        return numbers.species
    count = len(numbers.shifts)
    if given is None:
        raise InvalidInput(
            f"{path}: the file does not say its elements; name those of its {count} types with "
            "--type-map or type_map, or write their atomic numbers into it as in 'potential_tag = "
            "atomic_numbers 8 14'"
        )
    if len(given) != count or len(set(given)) != count:
        raise InvalidInput(
            f"{path}: a potential of {count} types needs {count} different elements, got "
            f"{', '.join(chemical_symbols[z] for z in given) or 'none'}"
        )
    return tuple(given)


def _level(path: str | Path, numbers: MlipPotential) -> MomentSpec:
    """The level and costs whose basic moments and number of invariants are the file's."""
    basic = {tuple(row) for row in numbers.basic.tolist()}
    for spec in _candidates(numbers):
        found = graphs(spec)
        factors = {factor for graph in found for factor in graph.factors}
        if len(found) == len(numbers.scalars) and factors == {(m, sum(abc)) for m, *abc in basic}:
            return spec
    raise InvalidInput(
        f"{path}: {len(basic)} basic moments and {len(numbers.scalars)} invariants are those of no "
        f"level from {LEVELS[0]} to {LEVELS[-1]} of MLIP; others are read only if mtp-train wrote "
        "the file"
    )


def _candidates(numbers: MlipPotential) -> Iterator[MomentSpec]:
    if numbers.level is not None:
        yield MomentSpec(*numbers.level)
    for level in LEVELS:
        spec = MomentSpec(level, *STANDARD_COSTS)
        yield spec
        if len(graphs(spec)) > len(numbers.scalars):
            return


def _weights(path: str | Path, numbers: MlipPotential, potential: Potential) -> np.ndarray:
    """Linear coefficients on our invariants that give the file's energies."""
    table = potential.table
    same = (
        np.array_equal(table.basic, numbers.basic)
        and np.array_equal(table.products, numbers.products)
        and np.array_equal(table.scalars, numbers.scalars)
    )
    if same:
        return numbers.moment_coeffs
    samples = 2 * len(table.scalars) + 20
    ours = _invariants(samples, table.basic, table.products, table.scalars, table.n_moments)
    theirs = _invariants(
        samples, numbers.basic, numbers.products, numbers.scalars, numbers.n_moments
    )
    scale = np.abs(ours).max(0)
    # One column per invariant of the file: their sizes differ by orders of magnitude.
    change, *_ = np.linalg.lstsq(ours / scale, theirs / np.abs(theirs).max(0), rcond=1e-13)
    error = np.abs(ours / scale @ change - theirs / np.abs(theirs).max(0)).max()
    if error > TOLERANCE:
        raise InvalidInput(f"{path}: its invariants are not those of an MTP basis of its level")
    return (change @ (numbers.moment_coeffs * np.abs(theirs).max(0))) / scale


def _invariants(
    samples: int, basic: np.ndarray, products: np.ndarray, scalars: np.ndarray, n_moments: int
) -> np.ndarray:
    """(samples, n_scalars) of random environments; the same ones for every table."""
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((samples, NEIGHBOURS, 3))
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    radial = rng.uniform(-1, 1, (samples, NEIGHBOURS, 1 + basic[:, 0].max())) / NEIGHBOURS**0.5
    moments = np.zeros((samples, n_moments))
    for row, (mu, *powers) in enumerate(basic):
        moments[:, row] = (radial[:, :, mu] * (unit**powers).prod(2)).sum(1)
    for left, right, factor, target in products:
        moments[:, target] += factor * moments[:, left] * moments[:, right]
    return moments[:, scalars]
