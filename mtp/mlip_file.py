"""The text format .mtp of MLIP, which LAMMPS and MOTEP read too: linear potentials only.

Untrained templates are read as well. An .almtp goes on with an active set: mtp/mlip_selection.py.
"""

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

MLIP_SUFFIXES = (".mtp", ".almtp")
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
)
TRAINED = ("radial_coeffs", "species_coeffs", "moment_coeffs")
OTHER_NAMES = {
    "min": "min_dist",
    "max": "max_dist",
    "size": "radial_basis_size",
    "min_val": "min_dist",
    "max_val": "max_dist",
    "basis_size": "radial_basis_size",
}
"""How newer programs call the lines about the radial basis."""


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
    trained: bool = True  # False: a template, whose radial, shifts and moment_coeffs are zero

    @property
    def n_coefficients(self) -> int:
        """Of all kinds."""
        return self.radial.size + self.shifts.size + self.moment_coeffs.size


def write_mtp(path: str | Path, potential: Potential, head: str | None = None) -> None:
    """Write one linear head as .mtp, species in ascending atomic number.

    Raises InvalidInput for what the format cannot express. Warns once: the file does not say what
    happens below min_dist, so programs that read it extrapolate there.
    """
    numbers = mlip_numbers(potential, head)
    warn_below_min_dist(path, potential)
    write_lines(path, numbers)


def warn_below_min_dist(path: str | Path, potential: Potential) -> None:
    """Say once what a file of this format leaves out."""
    warnings.warn(
        f"{path}: below min_dist = {potential.spec.min_dist:.4g} Å programs that read this file "
        "extrapolate the polynomials; what mtp-train does there is not part of the format",
        stacklevel=3,
    )


def write_lines(path: str | Path, numbers: MlipPotential) -> None:
    """Write the numbers as they are."""
    write_atomically(Path(path), mtp_text(numbers).encode())


def mtp_text(numbers: MlipPotential) -> str:
    """The numbers as the text of a .mtp file."""
    return "\n".join(_lines(numbers)) + "\n"


def mlip_numbers(potential: Potential, head: str | None = None) -> MlipPotential:
    """The numbers of one linear head, normalisations folded in, a type embedding as a table.

    Raises InvalidInput for other heads.
    """
    spec, table = potential.spec, potential.table
    readout = potential.heads[_head(potential, head)]
    weights = readout.last.weight[0] * (readout.scale * readout.step / readout.std)
    order = np.argsort(spec.species)
    return MlipPotential(
        species=tuple(int(spec.species[k]) for k in order),
        min_dist=spec.min_dist,
        max_dist=spec.cutoff,
        scaling=1.0,
        radial=_array(potential.coefficients_for(table))[np.ix_(order, order)],
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


def _head(potential: Potential, name: str | None) -> str:
    """The head of this name, or the only one; the format must be able to express it."""
    known = potential.spec.head_names
    if name is None and len(known) > 1:
        raise InvalidInput(f".mtp holds one head: name one of {', '.join(known)} (--head)")
    name = name or known[0]
    if name not in known:
        raise InvalidInput(f"head must be one of {', '.join(known)} of this potential, got {name}")
    kind = potential.spec.head(name).kind
    if kind != "energy":
        raise InvalidInput(
            f".mtp holds energies, and head {name} is a {kind}: use the model file itself"
        )
    if not potential.heads[name].linear:
        raise InvalidInput(
            ".mtp cannot express a neural readout: use the model file (MTPCalculator, pair_style "
            "mtp/light), or train with an empty nn_dim_list"
        )
    return name


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
    """The numbers of a .mtp file or of the text in an .almtp, trained or not.

    Raises InvalidInput when the file is not one, is damaged, or uses another basis.
    """
    try:
        # .almtp goes on in binary behind the text.
        text = Path(path).read_bytes().split(b"#", 1)[0].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as .mtp: {error}") from error
    values, labels, radial = _parse(text)
    if radial:
        values["radial_coeffs"] = " ".join(radial)
    _check(path, text, values)
    try:
        return _numbers(values, labels)
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged .mtp file: {error}") from error


def _numbers(values: dict[str, str], labels: list[str]) -> MlipPotential:
    """The values as numbers; ValueError where they do not fit together."""
    count, n_radial, size = (
        int(values[key]) for key in ("species_count", "radial_funcs_count", "radial_basis_size")
    )
    scalars = _integers(values["alpha_moment_mapping"])

    def trained(name: str, *shape: int) -> np.ndarray:
        return _reals(values[name]).reshape(shape) if name in values else np.zeros(shape)

    return MlipPotential(
        species=_species(values.get("potential_tag", ""), labels, count),
        min_dist=float(values["min_dist"]),
        max_dist=float(values["max_dist"]),
        scaling=float(values.get("scaling", 1.0)),
        radial=trained("radial_coeffs", count, count, n_radial, size),
        basic=_integers(values["alpha_index_basic"]).reshape(-1, 4),
        products=_integers(values["alpha_index_times"]).reshape(-1, 4),
        scalars=scalars,
        n_moments=int(values["alpha_moments_count"]),
        shifts=trained("species_coeffs", count),
        moment_coeffs=trained("moment_coeffs", len(scalars)),
        level=_level(values.get("potential_name", "")),
        trained=TRAINED[0] in values,
    )


def _parse(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """All `key = value` lines; labels and rows of the radial coefficients in their order."""
    values: dict[str, str] = {}
    labels: list[str] = []
    radial: list[str] = []
    for line in map(str.strip, text.splitlines()):
        key, equals, value = map(str.strip, line.partition("="))
        if equals:
            key = OTHER_NAMES.get(key, key)
            if key == "scaling" and key in values:  # of the radial basis: both count
                value = str(float(values[key]) * float(value))
            values[key] = value
        elif line.startswith("{"):
            radial.append(line)
        elif re.fullmatch(r"\d+-\d+", line):
            labels.append(line)
    return values, labels, radial


def _check(path: str | Path, text: str, values: dict[str, str]) -> None:
    """Refuse in one line what is not an RBChebyshev potential of this version."""
    if not text.startswith("MTP"):
        raise InvalidInput(f"{path}: not an .mtp file (its first line must be MTP)")
    if values.get("version") != VERSION:
        raise InvalidInput(f"{path}: .mtp version {VERSION} is read, got {values.get('version')}")
    if "magnetic_basis_type" in values:
        raise InvalidInput(f"{path}: a magnetic potential; only potentials without spins are read")
    if values.get("radial_basis_type") != BASIS:
        raise InvalidInput(
            f"{path}: only {BASIS} potentials are read, got {values.get('radial_basis_type')}"
        )
    there = [key for key in TRAINED if key in values]
    needed = (*REQUIRED, *TRAINED) if there else REQUIRED
    missing = [key for key in needed if key not in values]
    if missing:
        raise InvalidInput(f"{path}: a damaged .mtp file: {', '.join(missing)} missing")


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
