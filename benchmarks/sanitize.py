"""Run the kernel's tests with AddressSanitizer and UBSan, and its passes under valgrind.

    python -m benchmarks.sanitize [asan] [valgrind] [-- PYTEST_ARGUMENTS]

Needs GCC's sanitizer libraries and valgrind. The package is copied to a temporary folder and its
kernel built there: nothing that is installed changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
COPIED = ("mtp", "stages", "pretrained", "tests", "configs")
ASAN = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
CASES = ("dimer", "no pairs", "two species", "three species", "pair below min_dist", "slab")


def main() -> int:
    """0 when nothing was found."""
    tools, rest = _split(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        found = [TOOLS[name](Path(folder), rest) for name in tools or TOOLS]
    print("sanitizers:", "something was found" if any(found) else "nothing was found")
    return int(any(found))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    where = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:where], arguments[where + 1 :]


def asan(folder: Path, pytest_arguments: list[str]) -> int:
    """The tests of tests/kernels and tests/unit/test_potential.py with a sanitized kernel."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=folder, env={**os.environ, "CXXFLAGS": ASAN}, check=True)
    preload = " ".join(_library(f"lib{name}.so") for name in ("asan", "ubsan"))
    environment = {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    tests = ["tests/kernels", "tests/unit/test_potential.py"]
    # -s: what a sanitizer says before it ends the process must not be lost
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests]
    # A sanitizer ends the process where `new` would throw.
    robust = "tests/kernels/test_robustness.py"
    command += ["--deselect", f"{robust}::test_what_a_thread_throws_becomes_an_error"]
    command += pytest_arguments
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}).returncode


def _library(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip()


def valgrind(folder: Path, _: list[str]) -> int:
    """benchmarks/sanitize.cpp on a few cases of the tests, looking for uninitialised numbers."""
    program = folder / "driver"
    source = ROOT / "mtp/kernels/src"
    flags = ["-std=c++17", "-O1", "-g", "-march=x86-64-v3", f"-I{source}"]
    objects = []
    for isa in ("v2", "v3", "v4"):
        march = "v3" if isa == "v4" else isa  # valgrind knows no AVX-512
        objects.append(str(folder / f"{isa}.o"))
        kernel = [f"-DMTP_ISA={isa}", f"-march=x86-64-{march}", str(source / "kernel.cpp")]
        subprocess.run(["g++", *flags, *kernel, "-c", "-o", objects[-1]], check=True)
    sources = [ROOT / "benchmarks/sanitize.cpp", *sorted(set(source.glob("*.cpp")))]
    sources = [str(path) for path in sources if path.name != "kernel.cpp"]
    subprocess.run(["g++", *flags, *sources, *objects, "-o", str(program)], check=True)
    cases = [str(write_case(name, folder)) for name in CASES]
    tool = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--track-origins=yes"]
    codes = []
    for isa in ("v2", "v3"):
        done = subprocess.run([*tool, str(program), *cases], env={**os.environ, "MTP_ISA": isa})
        codes.append(done.returncode)
    return max(codes)


def write_case(name: str, folder: Path) -> Path:
    """One case of tests/systems.py as the numbers that benchmarks/sanitize.cpp reads."""
    sys.path.insert(0, str(ROOT))
    from tests.systems import SYSTEMS, case

    at = case(SYSTEMS[name])
    table, radial, pairs = at.table, at.radial, at.pairs
    path = folder / f"{name.replace(' ', '-')}.bin"
    integers = [
        table.basic,
        table.products,
        table.scalars,
        [table.n_moments, radial.size, len(at.c)],
    ]
    integers += [x.numpy() for x in (pairs.species, pairs.start, pairs.count, pairs.neighbour)]
    reals = [[radial.r_min, radial.r_max], at.c.numpy(), pairs.displacement.numpy()]
    with path.open("wb") as file:
        for arrays, dtype in ((integers, np.int64), (reals, np.float64)):
            for array in arrays:
                flat = np.ascontiguousarray(array, dtype).ravel()
                file.write(np.int64(len(flat)).tobytes() + flat.tobytes())
    return path


TOOLS = {"asan": asan, "valgrind": valgrind}

if __name__ == "__main__":
    sys.exit(main())
