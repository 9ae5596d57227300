"""What benchmarks/gpu.py measures on a GPU, one function an entry."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import MICRO, say
from benchmarks.systems import labelled, potential_for, silicon_set, thermal_cell
from mtp.calculator import MTPCalculator
from mtp.geometry import Geometry
from mtp.kernels.gpu.plan import Plan
from mtp.potential import Potential
from mtp.structure import Structure
from stages.control.defaults import TASK, stage
from stages.objective import Objective
from stages.plan import coefficients
from stages.recorded import Recorded
from stages.run.checkpoint import Position
from stages.tasks import Draw, TaskData
from stages.trainer import Setting, run_stage

SIZES = ("SMALL", "12", "16", "20")
CELLS = ((5, 5, 5), (10, 10, 13), (20, 25, 25), (50, 50, 50), (100, 100, 125))
"""1 thousand to 10 million atoms."""
FRAMES = (16, 128, 1024, 8192)  # of 64 atoms, in a batch
SHORT = 10_000  # steps of the run that a user waits for
BATCHES = (200, 20)  # frames of its batches: all that there are, and few
ENOUGH = 1.0  # seconds of measuring
WARM, MOST = 60, 100  # steps of dynamics before measuring, and between two looks at the clock


def frames(quick: bool) -> tuple[int, ...]:
    return (2, 3) if quick else FRAMES


def cells(quick: bool) -> tuple[tuple[int, int, int], ...]:
    return ((1, 1, 1),) if quick else CELLS


def batches(quick: bool) -> tuple[int, ...]:
    return (3,) if quick else BATCHES


def wait(device: torch.device) -> None:
    """Until the GPU has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any], device: torch.device, quick: bool = False) -> float:
    """Seconds of one call; it is called before, unmeasured, and then for about a second."""
    for _ in range(1 if quick else 4):
        function()
    wait(device)
    calls, begun = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        if quick or calls % 8 == 0:
            wait(device)
            spent = time.perf_counter() - begun
            if quick or spent >= ENOUGH:
                return spent / calls


def compile_all(size: str, device: torch.device, quick: bool) -> None:
    """Use all passes once, for every number of atoms that is dealt out in another way."""
    for cell in cells(quick)[:3]:
        atoms = labelled(thermal_cell(cell))
        potential = on(device, potential_for(size, [labelled(thermal_cell((2, 2, 2)))]))
        objective(potential, [atoms], device).gradient()
    wait(device)


def peaks(device: torch.device, quick: bool) -> dict[str, float]:
    """Float32 multiply-adds (without tensor cores) and bytes per second that the device reaches."""
    n = 64 if quick else 8192
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = False
    product = seconds(lambda: a @ b, device, quick)
    x = torch.zeros(1024 if quick else 2**29, device=device)
    y = torch.empty_like(x)
    copy = seconds(lambda: y.copy_(x), device, quick)
    return {"multiply_adds_per_s": n**3 / product, "bytes_per_s": 2 * 4 * len(x) / copy}


# --- passes ---------------------------------------------------------------------------------------


def passes(size: str, device: torch.device, quick: bool) -> dict[str, Any]:
    """Time of every pass for a thermal cell, and how much of it the device's peaks would take."""
    from mtp.kernels import cuda

    roof = peaks(device, quick)
    atoms = labelled(thermal_cell((1, 1, 1) if quick else (25, 25, 26)))
    potential = on(device, potential_for(size, [labelled(thermal_cell((2, 2, 2)))]))
    pairs = geometry([atoms], potential, device).batch().pairs
    own, c = potential.kernel, potential.coefficients.detach()
    n, k = len(pairs), len(own.table.scalars)
    seed = torch.randn(n, k, device=device)
    v, strain = torch.randn(n, 3, device=device), torch.randn(n, 6, device=device)
    d_bar, d_dot = torch.empty_like(pairs.displacement), cuda.direction(v, strain, pairs)
    plain, dual = (next(own._slabs(c, pairs, x)) for x in (None, d_dot))
    part = plain.atoms.stop
    plain.forward(), plain.reverse(seed[:part])
    dual.forward(), dual.reverse(seed[: dual.n], seed[: dual.n])
    calls = {
        "moments and products": plain.forward,
        "reverse products": lambda: plain.reverse(seed[:part]),
        "pull": lambda: plain.pull(d_bar),
        "collect": lambda: cuda.collect(d_bar, pairs),
        "direction": lambda: cuda.direction(v, strain, pairs),
        "dual moments and products": dual.forward,
        "dual reverse products": lambda: dual.reverse(seed[: dual.n], seed[: dual.n]),
        "coefficients": dual.coefficients,
    }
    work = costs(own.plan, own.radial.size, float(pairs.count.float().mean()), k)
    rows = {}
    for name, call in calls.items():
        done = dual.n if "dual" in name or name == "coefficients" else part
        done = n if name in ("collect", "direction") else done
        each = seconds(call, device, quick) / done
        arithmetic = work[name]["multiply_adds"] / roof["multiply_adds_per_s"] / each
        memory = work[name]["bytes"] / roof["bytes_per_s"] / each
        shares = {"share_of_arithmetic_peak": arithmetic, "share_of_memory_peak": memory}
        rows[name] = {"ns_per_atom": 1e9 * each, **work[name], **shares}
        roofs = f"{arithmetic:.1%} of the arithmetic, {memory:.1%} of the memory peak"
        say(f"{size:>5} {name:26} {1e9 * each:9.2f} ns/atom, {roofs}")
    return {"atoms": n, "atoms_at_once": [part, dual.n], "peaks": roof, "passes": rows}


def costs(plan: Plan, n_q: int, neighbours: float, scalars: int) -> dict[str, dict[str, float]]:
    """Multiply-adds and bytes from memory per atom that each pass needs at least (float32)."""
    components = plan.ones
    monomials = neighbours * (2 * components + len(plan.tensors) * n_q)
    pair, row = neighbours * 4 * (3 + 1), 4
    table = {
        "moments and products": (monomials + plan.forward.n_terms, pair + plan.n_rows * row),
        "reverse products": (plan.reverse.n_terms, 2 * plan.n_rows * row),
        "pull": (neighbours * 4 * components, pair + components * row + neighbours * 12),
        "collect": (neighbours * 9, neighbours * (12 + 12 + 12 + 8)),
        "direction": (neighbours * 12, neighbours * (12 + 12 + 12)),
    }
    dual = {
        "dual moments and products": [3 * x for x in table["moments and products"]],
        "dual reverse products": [3 * table["reverse products"][0], 4 * plan.n_rows * row],
        "coefficients": [3 * monomials, 2 * pair + 2 * components * row],
    }
    return {
        name: {"multiply_adds": float(adds), "bytes": float(size)}
        for name, (adds, size) in {**table, **dual}.items()
    }


# --- training -------------------------------------------------------------------------------------


def training(size: str, n: int, device: torch.device, quick: bool) -> dict[str, Any]:
    """Atoms per second of loss and full gradient for batches of n frames of 64 atoms."""
    given = crystal_frames(n, (1, 1, 1) if quick else (2, 2, 2))
    potential = on(device, potential_for(size, given[:2]))
    one = objective(potential, given, device, recorded=True)
    atoms = sum(map(len, given))
    row = {"frames": n, "atoms": atoms, "atoms_per_s": atoms / seconds(one.gradient, device, quick)}
    say(f"{size:>5} {n:5} frames: {row['atoms_per_s']:.3g} atoms/s of full gradient")
    return row


class Silent:
    """A recorder of stages/trainer.py that keeps nothing, and the time since the second epoch."""

    def __init__(self) -> None:
        self.epochs, self.begun = 0, 0.0

    def epoch(self, line: dict[str, Any], loss: float) -> None:
        self.epochs += 1
        if self.epochs == 5:  # evaluation, compilation and record are done
            self.begun = time.perf_counter()

    def save(self, position: Callable[[], Position], final: bool = False) -> None:
        pass

    step = save


def short_run(batch: int, device: torch.device, quick: bool) -> dict[str, Any]:
    """Ten thousand steps of Adam on 200 frames of silicon, as mtp-train does them, files apart."""
    given = crystal_frames(3, (1, 1, 1)) if quick else silicon_set()[:200]
    potential = on(device, potential_for("SMALL", given[:2], min_dist=1.6))
    data = {TASK: task_data(given, potential, device)}
    each = -(-len(given) // batch)  # steps of an epoch
    epochs = 5 if quick else max(10, SHORT // 5 // each)
    recorder = Silent()
    setting = stage("stage1", epochs, 0.01, coefficients(1.0, 0.1, 10.0))
    run_stage(Setting(potential, data, batch, 0), setting, 0, Position(), recorder)
    wait(device)
    spent = (time.perf_counter() - recorder.begun) / (recorder.epochs - 5) / each
    say(f"{SHORT} steps on {len(given)} frames, {batch} at once: {SHORT * spent:.1f} s")
    return {"frames": len(given), "steps": SHORT, "seconds": SHORT * spent}


def task_data(given: list[Structure], potential: Potential, device: torch.device) -> TaskData:
    train, valid = (geometry(some, potential, device) for some in (given, []))
    return TaskData.of(train, valid)


def objective(
    potential: Potential, frames: list[Structure], device: torch.device, recorded: bool = False
) -> Objective:
    """The loss over all frames as one batch, as a step of Adam sees it."""
    data = task_data(frames, potential, device)
    draw = Draw(TASK, np.arange(len(frames)))
    setting = stage("stage1", 1, 0.01, coefficients(1.0, 0.1, 10.0))
    graphs = Recorded(potential) if recorded and device.type == "cuda" else None
    return Objective(potential, setting, {TASK: data}, [draw], {TASK: 1.0}, {}, graphs)


def crystal_frames(n: int, repeats: tuple[int, int, int]) -> list[Structure]:
    """Thermal cells, all different."""
    rng, first = np.random.default_rng(5), thermal_cell(repeats)
    found = []
    for _ in range(n):
        atoms = first.copy()
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found.append(labelled(atoms))
    return found


def geometry(frames: list[Structure], potential: Potential, device: torch.device) -> Geometry:
    spec = potential.spec
    return Geometry(frames, spec.species, spec.cutoff, potential.dtype, device, 64.0)


def on(device: torch.device, potential: Potential) -> Potential:
    return potential.cast(torch.float32).to(device)


# --- molecular dynamics ---------------------------------------------------------------------------


def md(size: str, cell: tuple[int, int, int], device: torch.device, quick: bool) -> dict[str, Any]:
    """Microseconds per atom and step of velocity Verlet at 300 K, list rebuilds included."""
    from mtp.device_md import DeviceDynamics

    atoms = thermal_cell(cell)
    rng = np.random.default_rng(2)
    atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * 0.03)
    potential = on(device, potential_for(size, [labelled(thermal_cell((2, 2, 2)))]))
    own = DeviceDynamics(potential, atoms, timestep=1.0)
    own.run(1)  # compiles and records
    begun = time.perf_counter()
    own.run(1)
    wait(device)
    each = time.perf_counter() - begun
    if not quick:
        own.run(min(WARM, max(2, int(5 * ENOUGH / each))))  # finds how long a list lasts
    steps, builds = own.steps, own.list.builds
    wait(device)
    begun = time.perf_counter()
    while own.steps == steps or (not quick and time.perf_counter() - begun < 3 * ENOUGH):
        own.run(1 if quick else min(MOST, max(own.interval, int(ENOUGH / each))))
        wait(device)
    spent, done = time.perf_counter() - begun, own.steps - steps
    row = {
        "atoms": len(atoms),
        "us_per_atom_and_step": MICRO * spent / done / len(atoms),
        "steps": done,
        "steps_between_lists": done / max(1, own.list.builds - builds),
        "temperature_K": own.temperature,
    }
    if device.type == "cuda":
        row["memory_GiB"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    say(f"{size:>5} {len(atoms):9} atoms: {row['us_per_atom_and_step']:.4f} µs per atom and step")
    return row


# --- other programs on the same machine -----------------------------------------------------------


def compared(size: str, device: torch.device, quick: bool) -> dict[str, Any]:
    """Microseconds per atom of energy and forces, and of loss and gradient, by the processor."""
    small = [labelled(thermal_cell((2, 2, 2)))]
    here, potential = torch.device("cpu"), potential_for(size, small)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    row: dict[str, Any] = {"threads": torch.get_num_threads()}
    given = crystal_frames(3 if quick else 256, (1, 1, 1) if quick else (2, 2, 2))
    single = on(here, potential_for(size, small))
    one = objective(single, given, here)
    atoms = sum(map(len, given))
    row["cpu_gradient_us"] = MICRO * seconds(one.gradient, here, quick) / atoms
    cell = thermal_cell((1, 1, 1) if quick else (20, 25, 25))
    own = MTPCalculator(potential, device="cpu", dtype="float32")
    row["cpu_forces_us"] = MICRO * _calculated(own, cell, quick) / len(cell)
    own = MTPCalculator(potential, device=device.type, dtype="float32")
    row["calculator_us"] = MICRO * _calculated(own, cell, quick) / len(cell)
    torch.set_num_threads(threads)
    try:
        from benchmarks import peer
    except ImportError:
        return row
    cell = thermal_cell((1, 1, 1) if quick else (5, 5, 5))
    row["motep_forces_us"] = MICRO * _calculated(peer.calculator(potential), cell, quick)
    row["motep_forces_us"] /= len(cell)
    say(f"{size:>5} processor: {row}")
    return row


def _calculated(calculator: Any, atoms: Any, quick: bool) -> float:
    """Seconds of energy and forces through ASE of atoms that have moved a little."""
    atoms, rng = atoms.copy(), np.random.default_rng(3)
    atoms.calc = calculator

    def once() -> None:
        atoms.positions += rng.normal(scale=1e-5, size=atoms.positions.shape)
        atoms.get_forces()

    return seconds(once, torch.device("cpu"), quick)
