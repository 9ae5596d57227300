"""Label structures with a calculator: in parallel, resumable, with a record of what failed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator
from tqdm import tqdm

import mtp.data
from mtp.atomic_file import write_atomically
from mtp.data.formats import format_to_write
from mtp.data.formats.ase_files import atoms_of
from mtp.data.scan import largest_force
from mtp.errors import InvalidInput
from mtp.structure import Structure
from mtp.teachers import describe, teacher

CHUNK = 50  # structures per unit of work; a kill loses at most this many per worker
FLAG = 50.0  # eV/Å: longer forces are reported


@dataclass(frozen=True)
class Labelled:
    """What came of a labelling run.

    failed: reasons with their counts.  flagged: indices of structures in which the force on an atom
    exceeds the limit; they are written, and `common_config.max_forces` can leave them out.
    """

    calculator: str
    source: str
    structures: int
    written: int
    failed: dict[str, int]
    flagged: tuple[int, ...]
    max_forces: float


def label(
    calculator: str,
    source: Path,
    target: Path,
    *,
    workers: int = 1,
    max_forces: float = FLAG,
) -> Labelled:
    """Write the structures of ``source`` with energies, forces and stresses of a teacher.

    calculator: a name that `mtp.teachers.teacher` knows.  Stress only of cells that are periodic in
    three directions.  Structures that the calculator fails on are left out and counted.  Finished
    parts stand in ``target`` with `.parts` until all is done: the same call goes on after a kill.
    ``target`` with `.json` then holds the returned record.  InvalidInput where a folder of parts
    belongs to another job, where ``target`` has no known format, and where every structure failed.
    """
    teacher(calculator)  # refuses unknown names before anything is read
    format_to_write(target)
    structures = mtp.data.read(source)
    parts = target.with_name(target.name + ".parts")
    _claim(parts, calculator, structures)
    work = [(n, structures[n : n + CHUNK]) for n in range(0, len(structures), CHUNK)]
    left = [(n, chunk) for n, chunk in work if not _record(parts, n).exists()]
    with tqdm(total=len(structures), unit="structure", disable=None) as progress:
        progress.update(len(structures) - sum(len(chunk) for _, chunk in left))
        for done in _computed(left, partial(_label_chunk, calculator, str(parts)), workers):
            progress.update(done)
    return _collect(calculator, source, target, parts, [n for n, _ in work], max_forces)


def _computed(work: list, compute, workers: int) -> Iterator[int]:
    if workers == 1:
        yield from map(compute, work)
        return
    # spawn: a forked child would inherit locked threads of numerical libraries
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compute, work)


def _label_chunk(calculator: str, parts: str, work: tuple[int, Sequence[Structure]]) -> int:
    """Label one part and write it with its record; the record comes last."""
    first, structures = work
    labelled, failed = [], {}
    for i, item in enumerate(structures, first):
        try:
            labelled.append((i, _labels(item, _calculator(calculator))))
        except InvalidInput:  # the user's mistake, not this structure's
            raise
        except Exception as error:  # calculators raise anything at all
            failed[str(i)] = " ".join((str(error) or type(error).__name__).split())[:200]
            _calculator.cache_clear()  # its state may be broken
    mtp.data.write(_part(Path(parts), first), [item for _, item in labelled])
    record = {
        "failed": failed,
        "forces": {i: largest_force(item) for i, item in labelled},
    }
    write_atomically(_record(Path(parts), first), json.dumps(record).encode())
    return len(structures)


@cache
def _calculator(name: str) -> Calculator:
    """One calculator per process: many keep what they set up."""
    return teacher(name)


def _labels(item: Structure, calculator: Calculator) -> Structure:
    """The structure with the calculator's labels; ValueError where one is not finite."""
    atoms = atoms_of(item)
    atoms.calc = calculator
    forces = atoms.get_forces()
    energy = float(atoms.get_potential_energy())
    stress = atoms.get_stress() if item.pbc.all() else None
    for name, values in (("energy", energy), ("forces", forces), ("stress", stress)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")
    return replace(item, energy=energy, forces=np.array(forces), stress=stress)


def _claim(parts: Path, calculator: str, structures: Sequence[Structure]) -> None:
    """Make the folder of parts, or check that it belongs to this job."""
    digest = hashlib.sha256(mtp.data.fingerprint(structures).encode())
    job = {"calculator": calculator, "structures": digest.hexdigest(), "chunk": CHUNK}
    file = parts / "job.json"
    if file.exists():
        if json.loads(file.read_text()) != job:
            raise InvalidInput(
                f"{parts}: holds labels of other structures or another calculator; "
                "remove it or choose another output"
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(job, indent=2).encode())


def _part(parts: Path, first: int) -> Path:
    return parts / f"{first:08d}.xyz"


def _record(parts: Path, first: int) -> Path:
    return parts / f"{first:08d}.json"


def _collect(
    calculator: str, source: Path, target: Path, parts: Path, firsts: list[int], limit: float
) -> Labelled:
    """All parts in one file, then the record, then the parts are removed."""
    records = [json.loads(_record(parts, n).read_text()) for n in firsts]
    forces = {int(i): f for record in records for i, f in record["forces"].items()}
    reasons = Counter(reason for record in records for reason in record["failed"].values())
    if not forces:
        first = reasons.most_common(1)[0][0]
        raise InvalidInput(f"{source}: {calculator} failed on every structure: {first}")
    partial_file = target.with_name(f".partial-{target.name}")
    files = (_part(parts, n) for n in firsts)
    mtp.data.write(
        partial_file, (s for file in files if file.stat().st_size for s in mtp.data.iread(file))
    )
    partial_file.replace(target)
    result = Labelled(
        calculator=describe(calculator),
        source=source.name,
        structures=len(forces) + reasons.total(),
        written=len(forces),
        failed=dict(reasons.most_common()),
        flagged=tuple(sorted(i for i, force in forces.items() if force > limit)),
        max_forces=limit,
    )
    content = json.dumps(asdict(result), indent=2).encode()
    write_atomically(target.with_name(target.name + ".json"), content)
    shutil.rmtree(parts)
    return result
