"""What commands that compute take: a model or a teacher, structures to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from mtp.errors import InvalidInput
from mtp.mlip_file import MLIP_SUFFIXES

MODELS = (".safetensors", *MLIP_SUFFIXES)


def calculator_for(name: str, **options: Any) -> Calculator:
    """A model file's calculator (options of MTPCalculator), or a teacher's (mtp/teachers.py).

    Raises InvalidInput where the name means neither, and for a grade asked of a teacher.
    """
    from mtp.calculator import MTPCalculator
    from mtp.teachers import teacher

    if name.endswith(MODELS) or Path(name).is_file():
        return MTPCalculator(name, **options)
    if options.get("grade"):
        raise InvalidInput(f"{name}: extrapolation grades are of trained models only")
    return teacher(name)


def read_structures(path: str | Path) -> list[Atoms]:
    """All frames of a file that ASE reads, with their velocities. Raises InvalidInput."""
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    try:
        frames = read(path, ":")
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except (UnknownFileTypeError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise InvalidInput(
            f"{path}: cannot be read ({' '.join(str(error).split()) or type(error).__name__}); "
            "expected a structure file that ASE reads, such as .xyz, .cif, POSCAR or .traj"
        ) from error
    if not frames:
        raise InvalidInput(f"{path}: holds no structure")
    return frames


def read_last(path: str | Path) -> Atoms:
    """The last frame of a file, without its labels."""
    atoms = read_structures(path)[-1]
    atoms.calc = None
    return atoms
