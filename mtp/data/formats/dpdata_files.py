"""Outputs of programs that the package dpdata reads (an extra): CP2K, ABACUS, SIESTA and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtp.data.frame import DataError, Frame, atomic_number

LABELS = {"energies": "energy", "virials": "virial"}
"""dpdata's names → ours. Its virials are −V · stress in eV, as DeePMD's."""


def read(path: Path, type_map: Sequence[str] | None = None, *, form: str) -> Iterator[Frame]:
    """Frames that ``dpdata.LabeledSystem(path, fmt=form)`` finds; DataError in its words."""
    try:
        import dpdata
    except ImportError:
        raise DataError(
            f"{path}: format dpdata:{form} needs the package dpdata; pip install "
            '"mtp-train[dpdata]"'
        ) from None
    try:
        data = dpdata.LabeledSystem(str(path), fmt=form).data
    except Exception as error:  # its readers raise anything at all
        words = str(error) or type(error).__name__
        raise DataError(f"{path}: dpdata cannot read it as {form}: {words}") from error
    yield from _frames(data, f"{path} (dpdata:{form})")


def _frames(data: dict, where: str) -> Iterator[Frame]:
    names = np.array([atomic_number(name, where) for name in data["atom_names"]], dtype=int)
    numbers, periodic = names[np.asarray(data["atom_types"], int)], not data.get("nopbc", False)
    for i, positions in enumerate(data["coords"]):
        yield Frame(
            numbers=numbers,
            positions=positions + data.get("orig", np.zeros(3)),
            cell=data["cells"][i] if periodic else np.zeros((3, 3)),
            pbc=np.full(3, periodic),
            info={ours: data[theirs][i] for theirs, ours in LABELS.items() if theirs in data},
            arrays={"forces": data["forces"][i]} if "forces" in data else {},
        )
