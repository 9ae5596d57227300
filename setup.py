"""Compile the C++ kernel, mtp/kernels/src, to the shared library mtp/kernels/libmtp.

The library has a plain C ABI and is loaded with ctypes, so it knows nothing of the Python or torch
it is used with. Everything else about the package stands in pyproject.toml.

Environment: CXX names the compiler, CXXFLAGS adds flags (sanitizers, for example).
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCE = Path("mtp/kernels/src")
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
# Only the C interface leaves the library: its instances of templates of std, compiled for a newer
# processor perhaps, must not serve other libraries of a process.
EXPORTS = "{ global: mtp_*; local: *; };\n"
# -ffast-math is left out on purpose: a NaN must stay a NaN.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
NO_KERNEL = """
*** mtp-train: the C++ kernel was not built: {reason}
*** The package is installed without it. Install a C++17 compiler (GCC 11, Clang 12 or newer) and
*** reinstall, or ask for the slow kernel in plain torch by MTP_KERNEL=reference.
"""


def instruction_sets() -> dict[str, tuple[str, ...]]:
    """Name of each compiled instruction set and its flags; the best one is chosen at load time."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {name: (f"-march=x86-64-{name}",) for name in ("v2", "v3", "v4")}
    return {"plain": ()}


def compiler() -> list[str]:
    """The C++ compiler as a command line."""
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise CCompilerError("no C++ compiler found (tried c++, g++, clang++; CXX names another)")


def run(command: list[str]) -> None:
    """Run one command; its own messages become the error."""
    print(shlex.join(command), flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise CCompilerError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise CCompilerError(f"{shlex.join(command)}\n{done.stderr.strip()}")


def openmp(cxx: list[str], folder: Path) -> tuple[str, ...]:
    """The flag for OpenMP where a program with it compiles and links, else nothing."""
    probe = folder / "probe.cpp"
    probe.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
    try:
        run([*cxx, "-fopenmp", str(probe), "-o", str(folder / "probe")])
    except CCompilerError:
        print("OpenMP is not usable with this compiler: the kernel runs on one thread")
        return ()
    return ("-fopenmp",)


class BuildKernel(build_ext):
    """Build the shared library in place of a Python extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + SUFFIX

    def build_extension(self, ext: Extension) -> None:
        try:
            self.compile_library(ext)
        except CCompilerError as error:
            print(NO_KERNEL.format(reason=error), file=sys.stderr, flush=True)
            # A library of older sources must not stand in for the one that failed.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            if not Path(self.build_lib, self.get_ext_filename(ext.name)).exists():
                Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    def compile_library(self, ext: Extension) -> None:
        """Objects in the build folder, the library where setuptools wants the extension."""
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)

        cxx = compiler()
        threads = openmp(cxx, folder)
        flags = [*FLAGS, *threads, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        jobs = {path.stem: [str(path)] for path in sorted(SOURCE.glob("*.cpp"))}
        del jobs["kernel"]
        for name, march in instruction_sets().items():
            jobs[f"kernel_{name}"] = [*march, f"-DMTP_ISA={name}", str(SOURCE / "kernel.cpp")]
        # The order matters: several objects hold the same instances of templates of std, and a
        # linker takes the first. So those for every processor come first, then v2, v3 and v4: code
        # never meets an instance for a newer processor than its own object was compiled for.
        objects = {name: str(folder / f"{name}.o") for name in jobs}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [[*cxx, *flags, *jobs[k], "-c", "-o", objects[k]] for k in jobs]
            list(pool.map(run, commands))
        link = ["-shared", *objects.values(), "-o", str(target)]
        if sys.platform == "linux":
            exports = folder / "exports.map"
            exports.write_text(EXPORTS)
            link.append(f"-Wl,--version-script={exports}")
        run([*cxx, *flags, *link])


class Wheel(bdist_wheel):
    """Tag the wheel for the platform only: the library serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, machine = super().get_tag()
        return (python, abi, machine) if self.root_is_pure else ("py3", "none", machine)


sources = sorted(str(path) for path in SOURCE.glob("*.cpp"))
kernel = [Extension("mtp.kernels.libmtp", sources, optional=True)] if sources else []
setup(ext_modules=kernel, cmdclass={"build_ext": BuildKernel, "bdist_wheel": Wheel})
