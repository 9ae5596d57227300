"""The C++ kernel under odd use: threads, instruction sets, indices and shapes that are wrong."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.kernels import cpu
from mtp.kernels.cpu import CpuKernel, NativeBasis, instruction_set
from tests.systems import SPECS, SYSTEMS, Case, case, rattled

ORDER = ["v2", "v3", "v4"]


def all_results(at: Case) -> list[torch.Tensor]:
    """Everything that the kernel computes, from the same numbers every time."""
    torch.manual_seed(1)
    own, pairs, n = CpuKernel(at.table, at.radial), at.pairs, len(at.pairs)
    b_bar, b_dot_bar = at.randn(n, at.n_scalars), at.randn(n, at.n_scalars)
    c_dot, d_dot = at.randn(*at.c.shape), at.randn(*pairs.displacement.shape)
    v, strain = at.randn(n, 3), at.randn(n, 6)
    return [
        own.invariants(at.c, pairs),
        *own.gradient(b_bar, at.c, pairs),
        *own.second(b_bar, b_dot_bar, at.c, c_dot, d_dot, pairs),
        *own.forces(b_bar, at.c, pairs),
        *own.tangent(at.c, v, strain, pairs),
        own.tangent_backward(b_bar, b_dot_bar, at.c, v, strain, pairs),
    ]


def assert_all_near(actual: list, expected: list, relative: float) -> None:
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=relative * float(two.abs().max()))


@pytest.fixture
def with_threads():
    """Runs a function with a number of threads and puts the old number back."""
    before = torch.get_num_threads()

    def run(threads: int, function):
        torch.set_num_threads(threads)
        return function()

    yield run
    torch.set_num_threads(before)


@pytest.mark.parametrize("elements", [[14], [8, 14, 29]])
def test_threads_change_nothing_beyond_rounding(with_threads, elements: list[int]) -> None:
    at = case(rattled(elements, repeat=2))
    alone = with_threads(1, lambda: all_results(at))
    for threads in (2, 3, 50):
        together = with_threads(threads, lambda: all_results(at))
        assert_all_near(together, alone, 1e-12)
        again = with_threads(threads, lambda: all_results(at))
        assert all(torch.equal(one, two) for one, two in zip(again, together, strict=True))


_IN_A_PROCESS = """
import sys
import numpy as np
import torch
from tests.kernels.test_robustness import all_results
from tests.systems import SPECS, case, rattled
from mtp.kernels.cpu import instruction_set

torch.manual_seed(0)
at = case(rattled([8, 14], repeat=1), SPECS["level 12"], dtype=getattr(torch, sys.argv[2]))
torch.set_num_threads(2)
np.savez(sys.argv[1], isa=instruction_set(), **{str(i): x for i, x in enumerate(all_results(at))})
"""


def in_a_process(path, dtype: str = "float64", **environment: str) -> tuple[str, list]:
    """Instruction set and results of a fresh process with these environment variables."""
    command = [sys.executable, "-c", _IN_A_PROCESS, str(path), dtype]
    root = str(path.parents[0])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    with np.load(path) as stored:
        numbers = [torch.from_numpy(stored[str(i)]) for i in range(len(stored.files) - 1)]
        return str(stored["isa"]), numbers


@pytest.mark.parametrize("isa", ORDER)
@pytest.mark.parametrize(("dtype", "relative"), [("float64", 1e-11), ("float32", 5e-5)])
def test_instruction_sets_agree(isa: str, dtype: str, relative: float, tmp_path) -> None:
    best = instruction_set()
    if best not in ORDER or ORDER.index(isa) > ORDER.index(best):
        pytest.skip(f"this processor runs {best} at most")
    used, actual = in_a_process(tmp_path / "results.npz", dtype, MTP_ISA=isa)
    assert used == isa
    torch.manual_seed(0)
    at = case(rattled([8, 14], repeat=1), SPECS["level 12"], dtype=getattr(torch, dtype))
    assert_all_near(actual, all_results(at), relative)


def test_an_unknown_instruction_set_is_refused(tmp_path) -> None:
    """In one line, and before any pass: the library's own error would come only with the first."""
    said = r"errors\.InvalidInput: MTP_ISA must be [^\n]*; got 'avx2'; unset it\n"
    with pytest.raises(AssertionError, match=said):
        in_a_process(tmp_path / "results.npz", MTP_ISA="avx2")


def test_code_for_newer_processors_stays_in_its_namespace() -> None:
    """Instances of templates of std are merged by the linker; none may be one of AVX or AVX-512."""
    objdump, library = shutil.which("objdump"), Path(cpu.__file__).with_name("libmtp.so")
    if objdump is None or instruction_set() not in ORDER or not library.exists():
        pytest.skip("needs objdump and an x86-64 library in ELF")
    command = [objdump, "-d", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    newer = {}  # function → whether it has instructions with a VEX or EVEX prefix
    for block in listing.split("\n\n"):
        name = re.match(r"\n?[0-9a-f]+ <(.+)>:", block)
        if name:
            newer[name[1]] = bool(re.search(r"\tv\w+ +[^\n]*%[xyz]mm", block))
    own = {name for name in newer if "mtp2v3" in name or "mtp2v4" in name}
    assert sum(newer[name] for name in own) >= 8  # four passes of each set
    assert [name for name in newer if newer[name] and name not in own] == []


def test_a_smaller_team_than_asked_for_loses_no_atoms(tmp_path) -> None:
    """OpenMP may give fewer threads than torch's number."""
    _, actual = in_a_process(tmp_path / "results.npz", OMP_THREAD_LIMIT="1")
    torch.manual_seed(0)
    at = case(rattled([8, 14], repeat=1), SPECS["level 12"])
    assert_all_near(actual, all_results(at), 1e-12)


def with_entry(at: Case, name: str, position: int, value: int) -> Case:
    """The case with one entry of one array of its pairs replaced."""
    array = getattr(at.pairs, name).clone()
    array[position] = value
    return replace(at, batch=replace(at.batch, pairs=replace(at.pairs, **{name: array})))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("neighbour", 8, "out of bounds"),
        ("neighbour", 2**31 - 1, "out of bounds"),
        ("neighbour", -1, "out of bounds"),
        ("start", 10**6, "out of bounds"),
        ("start", 2**63 - 1, "out of bounds"),
        ("start", -1, "out of bounds"),
        ("count", -1, "out of bounds"),
        ("count", 2**31 - 1, "out of bounds"),
        ("base", 8, "out of bounds"),
        ("base", -(2**31), "out of bounds"),
        ("species", 2, "species index is out of range"),
        ("species", -1, "species index is out of range"),
    ],
)
def test_wrong_indices_are_refused(with_threads, name: str, value: int, said: str) -> None:
    at = with_entry(case(rattled([8, 14])), name, 3, value)
    for threads in (1, 2):
        with pytest.raises(RuntimeError, match=said):
            with_threads(threads, lambda: all_results(at))


@pytest.mark.parametrize(
    "wrong",
    [
        {"c": torch.zeros(1, 1, 2, 4)},
        {"c": torch.zeros(2, 2, 2, 3)},
        {"b_bar": torch.zeros(8, 8)},
        {"b_bar": torch.zeros(7, 9)},
        {"v": torch.zeros(8, 2)},
        {"strain": torch.zeros(8, 3, 3)},
    ],
    ids=str,
)
def test_wrong_shapes_are_refused(wrong: dict[str, torch.Tensor]) -> None:
    at = case(rattled([8, 14]))
    own = CpuKernel(at.table, at.radial)
    right = {"c": at.c, "b_bar": at.randn(8, 9), "v": at.randn(8, 3), "strain": at.randn(8, 6)}
    assert own.tangent_backward(b_dot_bar=right["b_bar"], pairs=at.pairs, **right).any()
    given = right | {name: array.double() for name, array in wrong.items()}
    with pytest.raises((ValueError, RuntimeError), match=r"must have shape|out of range"):
        own.tangent_backward(b_dot_bar=right["b_bar"], pairs=at.pairs, **given)


def test_mixed_precision_is_refused() -> None:
    at = case(rattled([14]))
    with pytest.raises(TypeError, match="float32"):
        CpuKernel(at.table, at.radial).invariants(at.c.float(), at.pairs)
    with pytest.raises(TypeError, match="int64"):
        CpuKernel(at.table, at.radial).invariants(at.c.long(), at.pairs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scalars": [99]}, "scalar index out of range"),
        ({"basic": [[-1, 0, 0, 0]]}, "moment index out of range"),
        ({"products": [[0, 5, 1, 1]]}, "product index out of range"),
        ({"products": [[0, 0, 1, 0]]}, "writes to a basic moment"),
        ({"products": [[1, 0, 1, 1]]}, "not complete yet"),
        ({"products": [[0, 0, 1, 1], [1, 1, 1, 2], [0, 0, 1, 1]]}, "not complete yet"),
        ({"scalars": np.zeros(0)}, "table is empty"),
    ],
    ids=str,
)
def test_wrong_tables_are_refused(changes: dict, said: str) -> None:
    at = case(rattled([14]), SPECS["level 2"])
    right = {"basic": [[0, 0, 0, 0]], "products": [[0, 0, 1, 1]], "scalars": [0, 1], "n_moments": 3}
    table = type(at.table)
    assert NativeBasis(table(**_arrays(right)), at.radial)
    with pytest.raises(RuntimeError, match=said):
        NativeBasis(table(**_arrays(right | changes)), at.radial)


def _arrays(table: dict) -> dict:
    return {k: v if k == "n_moments" else np.array(v, np.int64) for k, v in table.items()}


def job_of(at: Case, **given: torch.Tensor | int | None) -> None:
    """Run the library's pass with exactly these pointers, past the checks in Python."""
    pairs = at.pairs
    arrays = {name: getattr(pairs, name) for name in ("displacement", "start")}
    arrays |= {name: getattr(pairs, name).int() for name in ("species", "count", "base")}
    arrays |= {"neighbour": pairs.neighbour.int(), "c": at.c}
    sizes = {"n_atoms": len(pairs), "n_species": len(at.c), "n_rows": len(pairs.displacement)}
    fields = {"n_threads": 1, **sizes, **arrays, **given}
    pointers = {k: x.data_ptr() if isinstance(x, torch.Tensor) else x for k, x in fields.items()}
    job, basis = cpu.Job(**pointers), NativeBasis(at.table, at.radial)
    cpu.call(cpu.library().mtp_run, basis.pointer, ctypes.byref(job))


X = torch.zeros(1000, dtype=torch.float64)
"""Stands for any array: enough numbers for each of them."""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"b_dot_bar": X, "c_bar": X}, "b_dot_bar needs a tangent direction"),
        ({"b_bar": X, "b_dot_bar": X, "c_bar": X}, "b_dot_bar needs a tangent direction"),
        ({"b_dot": X}, "b_dot needs a tangent direction"),
        ({"c_bar": X}, "without a seed"),
        ({"d_bar": X}, "without a seed"),
        ({"forces": X}, "without a seed"),
        ({"v": X, "strain": X, "c_bar": X}, "without a seed"),
        ({"virial": X, "b_bar": X}, "the virial goes with forces"),
        ({"energies": X}, "energies need a readout"),
        ({"weights_bar": X, "b_bar": X}, "weights_bar needs a dual pass"),
        ({"v": X, "b": X}, "v and strain go together"),
        ({"c_dot": X, "b": X}, "c_dot goes with d_dot"),
        ({"c": None, "b": X}, "an array of the atoms is missing"),
        ({"species": None, "b": X}, "an array of the atoms is missing"),
        ({"displacement": None, "b": X}, "an array of the pairs is missing"),
        ({"n_atoms": -1}, "a negative number"),
        ({"n_species": 0}, "no species"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_incomplete_jobs_are_refused(given: dict, said: str) -> None:
    at = case(SYSTEMS["dimer"])
    with pytest.raises(RuntimeError, match=f"^mtp kernel: .*{said}"):
        job_of(at, **given)


def test_a_dual_pass_needs_only_one_seed() -> None:
    at = case(SYSTEMS["dimer"])
    seed, v, strain = at.randn(2, at.n_scalars), at.randn(2, 3), at.randn(2, 6)
    for names in (["b_bar"], ["b_dot_bar"]):
        found, zero = torch.zeros_like(at.c), torch.zeros_like(seed)
        job_of(at, v=v, strain=strain, c_bar=found, **dict.fromkeys(names, seed))
        seeds = {"b_bar": zero, "b_dot_bar": zero} | dict.fromkeys(names, seed)
        own = CpuKernel(at.table, at.radial)
        wanted = own.tangent_backward(**seeds, c=at.c, v=v, strain=strain, pairs=at.pairs)
        assert torch.equal(found, wanted)
        assert found.any()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_thread_throws_becomes_an_error(threads: int) -> None:
    """Arrays of absurd size: more than there is memory, and more than a vector can count."""
    at = case(rattled([14]))  # c_bar has 8 numbers for each pair of species
    given = {"n_threads": threads, "b_bar": torch.zeros(72, dtype=torch.float64), "c_bar": X}
    with pytest.raises(MemoryError, match="mtp kernel: out of memory"):
        job_of(at, n_species=2**28, **given)
    with pytest.raises(RuntimeError, match=r"mtp kernel: .*vector"):
        job_of(at, n_species=2**29, **given)


@pytest.mark.parametrize("radial", [(1.0, 1.0, 4), (-0.1, 4.0, 4), (1.0, 4.0, 0)], ids=str)
def test_a_wrong_radial_basis_is_refused(radial: tuple) -> None:
    at = case(rattled([14]))
    with pytest.raises(RuntimeError, match="radial basis is not valid"):
        NativeBasis(at.table, type(at.radial)(*radial))
