"""File formats: one module each, read → Frame, write ← Structure; found by the file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtp.data.formats import ase_files, deepmd, dpdata_files, lightpfp, mlip_cfg, xyz
from mtp.data.formats.text import suffix_of
from mtp.data.frame import DataError, Frame
from mtp.structure import Structure


@dataclass(frozen=True)
class Format:
    """How one format is read and, if it can be, written."""

    name: str
    read: Callable[[Path, Sequence[str] | None], Iterator[Frame]]
    write: Callable[[Path, Iterable[Structure]], None] | None


FORMATS = {
    "xyz": Format("extended xyz", xyz.read, xyz.write),
    "cfg": Format("MLIP cfg", mlip_cfg.read, mlip_cfg.write),
    "h5": Format("LightPFP HDF5", lightpfp.read, lightpfp.write),
    "deepmd": Format("DeePMD npy", deepmd.read, deepmd.write),
    "db": Format("ASE database", ase_files.read_database, ase_files.write_database),
    "ase": Format("ASE", ase_files.read, None),
}
SUFFIXES = {
    ".xyz": "xyz", ".extxyz": "xyz", ".cfg": "cfg", ".cfgs": "cfg", ".h5": "h5", ".hdf5": "h5",
    ".db": "db",
}  # fmt: skip


def format_to_read(path: Path, name: str | None = None) -> Format:
    """The format of an existing file or folder; anything unknown is left to ASE.

    name: what it is, where suffix and content do not say: ``dpdata:FORMAT`` of the package dpdata,
    or a format of ASE.
    """
    if name is not None:
        library, _, form = name.rpartition(":")
        if library not in ("", "ase", "dpdata") or not form:
            raise DataError(f"{path}: format must be dpdata:NAME or a name of ASE's, got {name!r}")
        reader = dpdata_files.read if library == "dpdata" else ase_files.read
        return Format(name, partial(reader, form=form), None)
    if path.is_dir():
        return FORMATS["deepmd"]
    name = SUFFIXES.get(suffix_of(path), "ase")
    if name == "cfg" and not mlip_cfg.is_mlip(path):
        name = "ase"  # AtomEye's .cfg
    return FORMATS[name]


def format_to_write(path: Path) -> Format:
    """The format a path asks for; a path without a suffix is a DeePMD folder."""
    suffix = suffix_of(path)
    if not suffix:
        return FORMATS["deepmd"]
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: cannot write {suffix!r}; use {', '.join(SUFFIXES)} or a folder (DeePMD npy)"
        )
    return FORMATS[SUFFIXES[suffix]]
