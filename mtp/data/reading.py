"""Files of any known format to structures, and back."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mtp.data.formats import format_to_read, format_to_write
from mtp.data.frame import DataError
from mtp.data.labels import LabelKeys, Seen, structure
from mtp.structure import Structure
from mtp.terms import TERMS


def iread(
    path: str | Path,
    keys: LabelKeys | None = None,
    *,
    type_map: Sequence[str] | None = None,
    seen: Seen | None = None,
    form: str | None = None,
) -> Iterator[Structure]:
    """Structures of a file one by one, as they are: numbers that are not finite included.

    ``seen`` collects the names met and remarks. ``form``: see `format_to_read`. DataError for
    anything that cannot be read.
    """
    source, path = str(path), Path(path)
    if not path.exists():
        raise DataError(f"{source}: no such file")
    keys, seen = keys or LabelKeys(), seen if seen is not None else Seen()
    try:
        for index, frame in enumerate(format_to_read(path, form).read(path, type_map)):
            yield structure(frame, keys, source, index, seen)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from None


def read(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    config_type_key: str = "config_type",
    weight_key: str | None = None,
    type_map: Sequence[str] | None = None,
    **tensor_keys: str | None,
) -> list[Structure]:
    """All structures of a file or DeePMD folder.

    Formats: extended xyz, MLIP cfg, LightPFP HDF5, DeePMD npy and whatever ASE reads, also
    compressed.  Keys that are None mean the usual names; a key that is in no frame is a DataError.
    A stress key with "virial" in its name is a virial in eV: stress = -virial / V.
    ``tensor_keys``: dipole_key, polarizability_key, atomic_dipole_key, atomic_polarizability_key.
    ``type_map``: element symbols of type ids 0, 1, … where a format has no elements.
    Frames with numbers that are not finite are left out with a warning.
    """
    more = {option.removesuffix("_key"): key for option, key in tensor_keys.items()}
    keys = LabelKeys(energy_key, forces_key, stress_key, config_type_key, weight_key, **more)
    return list(Stream(path, keys, type_map))


class Stream:
    """The finite structures of a file one by one, read anew by every loop over it.

    For files larger than memory. DataError at the end of a loop that found no structure, or no
    frame with a key that was given; then also warnings, once.
    """

    def __init__(
        self,
        path: str | Path,
        keys: LabelKeys | None = None,
        type_map: Sequence[str] | None = None,
        form: str | None = None,
    ) -> None:
        self.path, self.keys = path, keys or LabelKeys()
        self._options = {"type_map": type_map, "form": form}
        self._told = False

    def __iter__(self) -> Iterator[Structure]:
        seen, bad, empty = Seen(), [], True
        for item in iread(self.path, self.keys, seen=seen, **self._options):
            empty = False
            if is_finite(item):
                yield item
            else:
                bad.append(item.where)
        if empty:
            raise DataError(f"{self.path}: there is no structure in it")
        seen.check(self.keys, str(self.path))
        if not self._told:
            self._tell(seen, bad)
        self._told = True

    def _tell(self, seen: Seen, bad: list[str]) -> None:
        for line in seen.warnings():
            warnings.warn(line, stacklevel=4)
        if bad:
            where = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
            warnings.warn(f"left out {len(bad)} frames with NaN or infinity: {where}", stacklevel=4)


def is_finite(item: Structure) -> bool:
    """Whether geometry and labels hold no NaN and no infinity."""
    arrays = (item.positions, item.cell, *(getattr(item, term) for term in TERMS))
    return all(np.isfinite(array).all() for array in arrays if array is not None)


def write(path: str | Path, structures: Iterable[Structure]) -> None:
    """Structures with their labels; the format follows the suffix.

    ``.xyz``, ``.extxyz`` (also ``.gz``), ``.cfg``, ``.h5``, ``.db``; no suffix: DeePMD folder.
    They are taken one by one, by .cfg twice. The file is complete or not there at all.
    """
    path = Path(path)
    form = format_to_write(path)
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path} is not empty; old labels would mix with new ones, name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)
    try:
        form.write(partial, structures)
        if partial.is_dir() and path.is_dir():
            path.rmdir()
        partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
