"""Conversion by suffix: models, data, inputs of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.errors import InvalidInput

if TYPE_CHECKING:
    from mtp.potential import Potential
    from mtp.structure import Structure

MODEL, MLIP, GRADED = ".safetensors", ".mtp", ".almtp"
NOT_DATA = (MODEL, MLIP, GRADED)
TEXT = (".json", ".yaml", ".yml")


def convert(
    source: str | Path,
    target: str | Path,
    type_map: Sequence[str] | None = None,
    head: str | None = None,
    data: Sequence[str | Path] = (),
    form: str | None = None,
) -> str:
    """Convert a file, by the suffixes of both; returns a sentence about what was written.

    ``.safetensors`` → ``.mtp``: a linear head for MLIP-3 and programs that read its files.
    ``.safetensors`` → ``.almtp``: the same with an active set for extrapolation grades, made of the
    structures in `data`.
    ``.mtp``, ``.almtp`` → ``.safetensors``: the reverse.
    ``.json`` → ``.json`` or ``.yaml``: an input of DeePMD-kit to a control file; what has no
    counterpart is said on stderr.
    Data → data: every format that can be read and written (mtp/data).
    type_map: element symbols of types 0, 1, … of a source without elements.  form: the format of
    source data that its name does not say (mtp/data/formats).
    Raises InvalidInput for every other pair.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise InvalidInput(f"{source}: no such file; correct the path")
    if source.suffix == MODEL and target.suffix in (MLIP, GRADED):
        return _export_model(source, target, head, data)
    if source.suffix in (MLIP, GRADED) and target.suffix == MODEL:
        return _import_model(source, target, type_map)
    if source.suffix.lower() in TEXT and target.suffix.lower() in TEXT:
        return _convert_input(source, target)
    if source.suffix in NOT_DATA or target.suffix in NOT_DATA:
        raise InvalidInput(
            f"{source} → {target}: a model goes from {MODEL} to {MLIP} or {GRADED} or back, data "
            "to a data format; change a suffix"
        )
    return _write_data(source, target, type_map, form)


def _convert_input(source: Path, target: Path) -> str:
    from stages.deepmd_input import convert_input
    from stages.say import say

    notes = convert_input(source, target)
    for line in notes:
        say(line)
    return f"{target}: a control file; {len(notes)} lines say what is not as in {source}"


def _export_model(source: Path, target: Path, head: str | None, data: Sequence[str | Path]) -> str:
    from mtp.data.reading import read
    from mtp.mlip_file import warn_below_min_dist, write_mtp
    from mtp.mlip_selection import select_rows, write_almtp
    from mtp.model_file import load_model

    potential = load_model(source)
    if target.suffix == MLIP:
        write_mtp(target, potential, head)
        return f"{target}: {_types(potential)}"
    if not data:
        raise InvalidInput(
            f"{target}: {GRADED} holds an active set; name the files with the training structures "
            f"by --data, or write {MLIP}"
        )
    structures = [structure for path in data for structure in read(path)]
    warn_below_min_dist(target, potential)
    write_almtp(target, potential, select_rows(potential, structures, head), head)
    return f"{target}: {_types(potential)}; active set of {len(structures)} structures"


def _import_model(source: Path, target: Path, type_map: Sequence[str] | None) -> str:
    from mtp.data.frame import atomic_number
    from mtp.mlip_import import load_mtp
    from mtp.model_file import save_model

    given = type_map and [atomic_number(symbol, "--type-map") for symbol in type_map]
    potential = load_mtp(source, given)
    save_model(target, potential)
    return f"{target}: {_types(potential)}"


def _types(potential: Potential) -> str:
    from ase.data import chemical_symbols

    species = enumerate(sorted(potential.spec.species))
    return f"species {', '.join(f'{i} = {chemical_symbols[z]}' for i, z in species)}"


def _write_data(
    source: Path, target: Path, type_map: Sequence[str] | None, form: str | None
) -> str:
    """Frame by frame, so that files may be larger than memory."""
    from mtp.data.reading import Stream, write

    counted = _Counted(Stream(source, type_map=type_map, form=form))
    write(target, counted)
    return f"{target}: {counted.count} structures"


class _Counted:
    """Structures with a bar that counts them, from 0 in every loop."""

    def __init__(self, structures: Iterable[Structure]) -> None:
        self.structures, self.count = structures, 0

    def __iter__(self) -> Iterator[Structure]:
        from tqdm import tqdm

        self.count = 0
        for structure in tqdm(self.structures, unit=" frames", disable=None, leave=False):
            self.count += 1
            yield structure
