"""The CUDA kernel beyond what all kernels share (test_kernels.py): plan, sums, potentials.

On a GPU where there is one, else through Triton's interpreter; the compiled code is then only
compiled, not run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mtp.basis.graphs import MomentSpec
from mtp.basis.moment_table import MomentTable, components, moment_table
from mtp.geometry import incoming_rows
from mtp.kernels import choose
from mtp.kernels.gpu.plan import make_plan
from mtp.kernels.reference import ReferenceKernel
from tests.kernels.on_device import ON_GPU, OnDevice
from tests.potentials import random_potential
from tests.systems import CUTOFF, MIN_DIST, SPECS, SYSTEMS, case, elements, geometry

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("spec", SPECS)
def test_plan_makes_the_scalars_of_the_table(spec: str, rng: np.random.Generator) -> None:
    """Programs run in numpy on moments of random unit vectors."""
    table = moment_table(SPECS[spec])
    plan = make_plan(table)
    weight, unit = rng.normal(size=(table.n_radial, 9)), rng.normal(size=(9, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def moment(mu: int, *powers: int) -> float:
        return float((weight[mu] * np.prod(unit ** np.array(powers), axis=1)).sum())

    rows = np.zeros(plan.n_rows)
    rows[plan.ones] = 1.0
    for mu, nu, first in plan.tensors:
        rows[first : first + len(components(int(nu)))] = [
            moment(mu, *powers) for powers in components(int(nu))
        ]
    program = plan.forward
    for k, row in enumerate(program.row):
        terms = slice(program.begin[k], program.begin[k + 1])
        rows[row] = program.factor[terms] @ (rows[program.left[terms]] * rows[program.right[terms]])
    moments = np.zeros(table.n_moments)
    moments[: len(table.basic)] = [moment(*basic) for basic in table.basic]
    for left, right, factor, target in table.products:
        moments[target] += factor * moments[left] * moments[right]
    np.testing.assert_allclose(rows[plan.scalars], moments[table.scalars], rtol=1e-10, atol=1e-12)


def test_plan_sums_only_the_highest_ranks_over_pairs() -> None:
    plan = make_plan(moment_table(MomentSpec(16)))
    found = {(int(mu), int(nu)) for mu, nu, _ in plan.tensors}
    assert found == {(0, 6), (0, 5), (1, 4), (1, 3), (2, 2), (2, 1), (3, 0)}
    assert plan.ones == 84  # components


def test_rows_of_one_stage_do_not_need_each_other() -> None:
    plan = make_plan(moment_table(MomentSpec(12)))
    for program in (plan.forward, plan.reverse):
        for first, last in zip(program.stage[:-1], program.stage[1:], strict=True):
            written = set(program.row[first:last].tolist())
            terms = slice(program.begin[first], program.begin[last])
            used = program.factor[terms] != 0
            assert written.isdisjoint(program.left[terms][used].tolist())
            if program is plan.forward:
                assert written.isdisjoint(program.right[terms][used].tolist())


def test_tables_that_read_what_is_not_there_are_refused() -> None:
    basic = np.array([[0, 0, 0, 0]])
    for products, scalars in (([[1, 0, 1, 1]], [1]), ([[0, 0, 1, 0]], [0]), ([[0, 0, 1, 1]], [2])):
        with pytest.raises(ValueError, match="moment"):
            make_plan(MomentTable(basic, np.array(products), np.array(scalars), 3))


def test_wrong_shapes_and_types_are_refused() -> None:
    at = case(SYSTEMS["dimer"])
    own, b_bar = OnDevice(at.table, at.radial), at.randn(2, at.n_scalars)
    with pytest.raises(ValueError, match="b_bar must have shape"):
        own.forces(b_bar[:1], at.c, at.pairs)
    with pytest.raises(ValueError, match="c must have shape"):
        own.forces(b_bar, at.c[:, :, :1], at.pairs)
    with pytest.raises(TypeError, match="float32"):
        own.invariants(at.c.float(), at.pairs)


def test_forces_gather_what_ends_at_an_atom() -> None:
    """With the rows known beforehand, for part of a geometry, and found by sorting."""
    names = ["molecule", "tiny cell", "two species"]
    structures = [SYSTEMS[name] for name in names]
    at = case(structures)
    pairs = geometry(structures).batch([2, 1]).pairs
    whole = geometry(structures)
    counts = [whole.batch([k]).pairs.count.numpy() for k in range(3)]
    known = incoming_rows(counts, whole.batch().pairs.neighbour.numpy())
    own, b_bar = OnDevice(at.table, at.radial), at.randn(len(pairs), at.n_scalars)
    by_sorting = own.forces(b_bar, at.c, pairs)
    gathered = own.forces(b_bar, at.c, replace(pairs, incoming=torch.from_numpy(known)))
    for one, two in zip(gathered, by_sorting, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_a_list_without_opposites_has_no_incoming_rows() -> None:
    assert incoming_rows([np.array([1, 0])], np.array([1])) is None


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtp.kernels import cuda

    at = case(SYSTEMS["three species"], SPECS["level 6"])
    b_bar, v, strain = at.randn(8, at.n_scalars), at.randn(8, 3), at.randn(8, 6)

    def results() -> list[torch.Tensor]:
        own = OnDevice(at.table, at.radial)
        c_bar = own.tangent_backward(b_bar, 2 * b_bar, at.c, v, strain, at.pairs)
        return [*own.forces(b_bar, at.c, at.pairs), c_bar]

    whole = results()
    plan = make_plan(at.table)
    numbers = 2 * plan.n_rows + len(plan.tensors) * 3 * 4
    monkeypatch.setattr(cuda, "MEMORY", 3 * 8 * numbers)  # three atoms at once
    for one, two in zip(results(), whole, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_sums_by_structure() -> None:
    from mtp.kernels.cuda import by_structure

    sizes = torch.tensor([3, 0, 1500, 1])
    structure = torch.repeat_interleave(torch.arange(4), sizes)
    values = torch.randn(1504, 6, dtype=torch.float64)
    there = (lambda x: x.cuda()) if ON_GPU else (lambda x: x)
    found = by_structure(there(values), there(structure), 4).cpu()
    wanted = torch.zeros(4, 6, dtype=torch.float64).index_add(0, structure, values)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    assert by_structure(there(values[:, 0]), there(structure), 4).shape == (4,)


@pytest.mark.parametrize("hidden", [(), (5, 5)], ids=["linear", "network"])
def test_potentials_predict_and_train_with_it(hidden: tuple, monkeypatch) -> None:
    structures = [SYSTEMS["molecule"], SYSTEMS["triclinic"]]
    level = (6, 2, 4, 1)
    species = elements(*structures)
    made = random_potential(species, level, cutoff=CUTOFF, min_dist=MIN_DIST, hidden=hidden)
    batch = geometry(structures).batch()
    rng = torch.Generator().manual_seed(3)
    shapes = {"energy": (2,), "forces": (batch.n_atoms, 3), "stress": (2, 6)}
    cotangents = {
        term: torch.randn(shape, generator=rng, dtype=torch.float64)
        for term, shape in shapes.items()
    }

    def results(kernel) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(choose, "_KERNELS", {})
        monkeypatch.setattr(choose, "_load", lambda name: kernel)
        made.zero_grad()
        made.backward(batch, "default", cotangents)
        slopes = {name: p.grad.clone() for name, p in made.named_parameters()}
        return made.predict(batch).values | slopes

    wanted, found = results(ReferenceKernel), results(OnDevice)
    for name, value in wanted.items():
        size = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11 * max(size, 1.0))


def test_the_calculator_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtp import MTPCalculator, calculator
    from tests.potentials import disordered

    made, atoms = random_potential((8, 14), (6, 2, 4, 1), cutoff=3.5), disordered((8, 14))
    atoms.calc = MTPCalculator(made, device="cpu")
    wanted = atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    for module in (choose, calculator):
        if not ON_GPU:
            monkeypatch.setattr(module, "kernel_name", lambda device: "cuda")
    atoms.calc = MTPCalculator(made, device="cuda" if ON_GPU else "cpu")
    found = atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-11)


def test_a_processor_alone_never_imports_triton() -> None:
    program = (
        "import sys, mtp.potential, mtp.calculator, stages.cli\n"
        "from mtp.kernels.choose import device_for\n"
        "device_for('auto')\n"
        "assert 'triton' not in sys.modules\n"
    )
    if ON_GPU:
        pytest.skip("there is a GPU")
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has a CUDA of its own")
@pytest.mark.parametrize("parts", [["--quick"], pytest.param([], marks=pytest.mark.slow)])
def test_nothing_in_a_step_waits(parts: list[str]) -> None:
    """Steps on a GPU without numbers: all devices agree, and nothing is read or sent."""
    from tests.kernels import pretended

    done = subprocess.run(
        [sys.executable, pretended.__file__, *parts],
        capture_output=True,
        text=True,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 3
    assert all(line.endswith(": {}") for line in lines), lines


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
@pytest.mark.slow
def test_the_passes_compile_for_a_gpu(tmp_path) -> None:
    """To machine code of compute capability 9.0, without a GPU and without spilt registers."""
    from tests.kernels import compiled

    done = subprocess.run(
        [sys.executable, compiled.__file__],
        capture_output=True,
        text=True,
        env={**_environment(), "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(compiled.VARIANTS)
    assert all("local 0" in line for line in lines)


def _environment() -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return {**keep, "PYTHONPATH": os.pathsep.join(sys.path)}
