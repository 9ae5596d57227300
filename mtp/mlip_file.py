"""The text format .mtp of MLIP, which LAMMPS reads too: linear potentials only."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from mtp.potential import Potential

VERSION = "1.1.0"
BASIS = "RBChebyshev"
TAG = "atomic_numbers"
NAME = "mtp-train"
REQUIRED = (
    "species_count",
    "min_dist",
    "max_dist",
    "radial_basis_size",
    "radial_funcs_count",
    "alpha_moments_count",
    "alpha_index_basic",
    "alpha_index_times",
    "alpha_moment_mapping",
    "species_coeffs",
    "moment_coeffs",
)


@dataclass(frozen=True, eq=False)
class MlipPotential:
    """The numbers of a .mtp file; species 0…n−1, energies in eV, distances in Å.

    E = Σ_i shifts[z_i] + Σ_α moment_coeffs[α]·m[scalars[α]]. The moments m begin with the basic
    ones, (μ, powers of x, y, z); then m[target] += factor·m[left]·m[right] product by product.
    f_μ(r) = scaling·Σ_n radial[z_i, z_j, μ, n]·T_n(ξ)·(max_dist − r)².
    """

    species: tuple[int, ...] | None  # atomic numbers; None where the file does not say
    min_dist: float
    max_dist: float
    scaling: float
    radial: np.ndarray  # (species, species, μ, n), central species first
    basic: np.ndarray  # (n_basic, 4)
    products: np.ndarray  # (n, 4) left, right, factor, target
    scalars: np.ndarray  # (n_scalars,)
    n_moments: int
    shifts: np.ndarray  # (species,) eV
    moment_coeffs: np.ndarray  # (n_scalars,)
    level: tuple[int, int, int, int] | None  # levmax, init, mu, nu costs; None in foreign files


def write_mtp(path: str | Path, potential: Potential, head: str | None = None) -> None:
    """Write one linear head as .mtp, species in ascending atomic number.

    Raises InvalidInput for what the format cannot express. Warns once: the file does not say what
    happens below min_dist, so programs that read it extrapolate there.
    """
    numbers = mlip_numbers(potential, head)
    warnings.warn(
        f"{path}: below min_dist = {numbers.min_dist:.4g} Å programs that read this file "
        "extrapolate the polynomials; what mtp-train does there is not part of the format",
        stacklevel=2,
    )
    write_lines(path, numbers)


def write_lines(path: str | Path, numbers: MlipPotential) -> None:
    """Write the numbers as they are."""
    write_atomically(Path(path), ("\n".join(_lines(numbers)) + "\n").encode())


def mlip_numbers(potential: Potential, head: str | None = None) -> MlipPotential:
    """The numbers of one linear head, normalisations folded in. Raises InvalidInput for others."""
    spec, table = potential.spec, potential.table
    if head is None and len(spec.heads) > 1:
        raise InvalidInput(f".mtp holds one head: name one of {', '.join(spec.head_names)}")
    readout = potential.heads[head or spec.head_names[0]]
    if not readout.linear:
        raise InvalidInput(
            ".mtp cannot express a neural readout: use the model file with MTPCalculator, or train "
            "with an empty nn_dim_list"
        )
    weights = readout.last.weight[0] * (readout.scale * readout.step / readout.std)
    order = np.argsort(spec.species)
    return MlipPotential(
        species=tuple(int(spec.species[k]) for k in order),
        min_dist=spec.min_dist,
        max_dist=spec.cutoff,
        scaling=1.0,
        radial=_array(potential.coefficients)[np.ix_(order, order)],
        basic=table.basic,
        products=table.products,
        scalars=table.scalars,
        n_moments=table.n_moments,
        shifts=_array(readout.shifts)[order],
        moment_coeffs=_array(weights),
        level=(
            spec.levmax,
            spec.moment_init_cost,
            spec.moment_mu_cost,
            spec.moment_nu_cost,
        ),
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _lines(p: MlipPotential) -> Iterator[str]:
    """The file line by line; readers rely on the order and on the tabs."""
    yield "MTP"
    yield f"version = {VERSION}"
    name = NAME if p.level is None else "-".join(map(str, (NAME, *p.level)))
    yield f"potential_name = {name}"  # one word: some readers take no more
    yield f"scaling = {_real(p.scaling)}"
    yield f"species_count = {len(p.shifts)}"
    tag = "" if p.species is None else " ".join(map(str, (TAG, *p.species)))
    yield f"potential_tag = {tag}"
    yield f"radial_basis_type = {BASIS}"
    yield f"\tmin_dist = {_real(p.min_dist)}"
    yield f"\tmax_dist = {_real(p.max_dist)}"
    yield f"\tradial_basis_size = {p.radial.shape[3]}"
    yield f"\tradial_funcs_count = {p.radial.shape[2]}"
    yield "\tradial_coeffs"
    for central, outer in np.ndindex(p.radial.shape[:2]):
        yield f"\t\t{central}-{outer}"
        for row in p.radial[central, outer]:
            yield f"\t\t\t{_set(map(_real, row))}"
    yield f"alpha_moments_count = {p.n_moments}"
    yield f"alpha_index_basic_count = {len(p.basic)}"
    yield f"alpha_index_basic = {_set(_set(map(str, row)) for row in p.basic)}"
    yield f"alpha_index_times_count = {len(p.products)}"
    yield f"alpha_index_times = {_set(_set(map(str, row)) for row in p.products)}"
    yield f"alpha_scalar_moments = {len(p.scalars)}"
    yield f"alpha_moment_mapping = {_set(map(str, p.scalars))}"
    yield f"species_coeffs = {_set(map(_real, p.shifts))}"
    yield f"moment_coeffs = {_set(map(_real, p.moment_coeffs))}"


def _real(value: float) -> str:
    """17 significant digits: reading gives back the same number."""
    return f"{value:.16e}"


def _set(items) -> str:
    return "{" + ", ".join(items) + "}"


def read_mtp(path: str | Path) -> MlipPotential:
    """The numbers of a trained .mtp file (an .almtp's active set is left out).

    Raises InvalidInput when the file is not one, is an untrained template, or uses another basis.
    """
    try:
        # .almtp goes on in binary behind the text.
        text = Path(path).read_bytes().split(b"#", 1)[0].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as .mtp: {error}") from error
    values, labels, radial = _parse(text)
    _check(path, text, values)
    count = int(values["species_count"])
    n_radial, size = int(values["radial_funcs_count"]), int(values["radial_basis_size"])
    try:
        return MlipPotential(
            species=_species(values.get("potential_tag", ""), labels, count),
            min_dist=float(values["min_dist"]),
            max_dist=float(values["max_dist"]),
            scaling=float(values.get("scaling", 1.0)),
            radial=_reals(" ".join(radial)).reshape(count, count, n_radial, size),
            basic=_integers(values["alpha_index_basic"]).reshape(-1, 4),
            products=_integers(values["alpha_index_times"]).reshape(-1, 4),
            scalars=_integers(values["alpha_moment_mapping"]),
            n_moments=int(values["alpha_moments_count"]),
            shifts=_reals(values["species_coeffs"]),
            moment_coeffs=_reals(values["moment_coeffs"]),
            level=_level(values.get("potential_name", "")),
        )
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged .mtp file: {error}") from error


def _parse(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """All `key = value` lines; labels and rows of the radial coefficients in their order."""
    values: dict[str, str] = {}
    labels: list[str] = []
    radial: list[str] = []
    for line in map(str.strip, text.splitlines()):
        key, equals, value = line.partition("=")
        if equals:
            values[key.strip()] = value.strip()
        elif line.startswith("{"):
            radial.append(line)
        elif re.fullmatch(r"\d+-\d+", line):
            labels.append(line)
    return values, labels, radial


def _check(path: str | Path, text: str, values: dict[str, str]) -> None:
    """Refuse in one line what is not a trained RBChebyshev potential of this version."""
    if not text.startswith("MTP"):
        raise InvalidInput(f"{path}: not an .mtp file (its first line must be MTP)")
    if values.get("version") != VERSION:
        raise InvalidInput(f"{path}: .mtp version {VERSION} is read, got {values.get('version')}")
    if values.get("radial_basis_type") != BASIS or "magnetic_basis_type" in values:
        raise InvalidInput(
            f"{path}: only {BASIS} potentials are read, got {values.get('radial_basis_type')}"
        )
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise InvalidInput(f"{path}: an untrained or damaged .mtp: {', '.join(missing)} missing")


def _species(tag: str, labels: list[str], count: int) -> tuple[int, ...] | None:
    """Atomic numbers: from potential_tag, where our own files keep them, or from the labels."""
    words = tag.split()
    if len(words) == count + 1 and words[0] == TAG:
        return tuple(map(int, words[1:]))
    labelled = tuple(int(label.split("-")[1]) for label in labels[:count])
    return labelled if labelled != tuple(range(count)) else None


def _level(name: str) -> tuple[int, int, int, int] | None:
    """Level and costs, which our own files keep in potential_name."""
    match = re.fullmatch(NAME + r"-(\d+)-(\d+)-(\d+)-(\d+)", name)
    return None if match is None else tuple(map(int, match.groups()))


def _reals(text: str) -> np.ndarray:
    return np.array(re.findall(r"[^\s{},]+", text), dtype=np.float64)


def _integers(text: str) -> np.ndarray:
    return np.array(re.findall(r"-?\d+", text), dtype=np.int64)
