"""Conversion by suffix: a model to .mtp, or data to another format."""

from __future__ import annotations

from pathlib import Path

from mtp.errors import InvalidInput

MODEL, MLIP = ".safetensors", (".mtp", ".almtp")


def convert(source: str | Path, target: str | Path) -> str:
    """Convert a file, by the suffixes of both; returns a sentence about what was written.

    ``.safetensors`` → ``.mtp``: a linear readout for MLIP-3 and programs that read its files.
    Data → data: every format that can be read and written (mtp/data).
    Raises InvalidInput for every other pair.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise InvalidInput(f"{source}: no such file; correct the path")
    if source.suffix == MODEL and target.suffix == ".mtp":
        return _write_mtp(source, target)
    if {source.suffix, target.suffix} & {MODEL, *MLIP}:
        raise InvalidInput(
            f"{source} → {target}: a model goes only from {MODEL} to .mtp; data go to a data format"
        )
    return _write_data(source, target)


def _write_mtp(source: Path, target: Path) -> str:
    from ase.data import chemical_symbols

    from mtp.mlip_file import write_mtp
    from mtp.model_file import load_model

    potential = load_model(source)
    write_mtp(target, potential)
    types = ", ".join(
        f"{i} = {chemical_symbols[number]}"
        for i, number in enumerate(sorted(potential.spec.species))
    )
    return f"{target}: species {types}"


def _write_data(source: Path, target: Path) -> str:
    from mtp.data.reading import read, write

    structures = read(source)
    write(target, structures)
    return f"{target}: {len(structures)} structures"
