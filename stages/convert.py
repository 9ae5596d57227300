"""Conversion by suffix: models between our files and .mtp, data between formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtp.errors import InvalidInput

MODEL, MLIP = ".safetensors", ".mtp"
NOT_DATA = (MODEL, MLIP, ".almtp")


def convert(source: str | Path, target: str | Path, type_map: Sequence[str] | None = None) -> str:
    """Convert a file, by the suffixes of both; returns a sentence about what was written.

    ``.safetensors`` → ``.mtp``: a linear readout for MLIP-3 and programs that read its files.
    ``.mtp`` → ``.safetensors``: the reverse.
    Data → data: every format that can be read and written (mtp/data); type_map: element symbols of
    types 0, 1, … of a source without elements.
    Raises InvalidInput for every other pair.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise InvalidInput(f"{source}: no such file; correct the path")
    if (source.suffix, target.suffix) in ((MODEL, MLIP), (MLIP, MODEL)):
        return _write_model(source, target)
    if source.suffix in NOT_DATA or target.suffix in NOT_DATA:
        raise InvalidInput(
            f"{source} → {target}: a model goes from {MODEL} to {MLIP} or back, data to a data "
            "format; change a suffix"
        )
    return _write_data(source, target, type_map)


def _write_model(source: Path, target: Path) -> str:
    from ase.data import chemical_symbols

    from mtp.mlip_file import write_mtp
    from mtp.mlip_import import load_mtp
    from mtp.model_file import load_model, save_model

    if target.suffix == MODEL:
        potential = load_mtp(source)
        save_model(target, potential)
    else:
        potential = load_model(source)
        write_mtp(target, potential)
    species = enumerate(sorted(potential.spec.species))
    return f"{target}: species {', '.join(f'{i} = {chemical_symbols[z]}' for i, z in species)}"


def _write_data(source: Path, target: Path, type_map: Sequence[str] | None) -> str:
    from mtp.data.reading import read, write

    structures = read(source, type_map=type_map)
    write(target, structures)
    return f"{target}: {len(structures)} structures"
