"""The CUDA kernel on a GPU: its passes against the machine's peaks, training, molecular dynamics.

    python -m benchmarks.gpu                 on a GPU
    python -m benchmarks.gpu --dry           without one: tiny sizes through Triton's interpreter

Float32, cutoff 5 Å, 8 polynomials, silicon. Times are wall times between two moments at which the
GPU has done everything, compilation apart; the CPU figures are the C++ kernel's with all threads.
A dry run shows only that everything runs: its times mean nothing and are not kept.
"""

from __future__ import annotations

import os
import sys

if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import MICRO, arguments, record, say
from benchmarks.systems import labelled, potential_for, silicon_set, thermal_cell
from mtp.geometry import Geometry
from mtp.kernels import choose
from mtp.kernels.gpu.plan import Plan
from mtp.potential import Potential
from mtp.structure import Structure
from stages.control.defaults import TASK, stage
from stages.objective import Objective
from stages.optimisers.adam import Adam
from stages.plan import coefficients
from stages.recorded import Recorded
from stages.tasks import Draw, TaskData
from stages.trainer import move_only

SIZES = ("SMALL", "12", "16", "20")
CELLS = ((5, 5, 5), (10, 10, 13), (20, 25, 25), (50, 50, 50), (100, 100, 125))
"""1 thousand to 10 million atoms."""
FRAMES = (16, 128, 1024, 8192)  # of 64 atoms, in a batch
SHORT = 10_000  # steps of the run that a user waits for
ENOUGH = 1.0  # seconds of measuring


def main() -> None:
    options = arguments(__doc__.splitlines()[0], dry={"action": "store_true"})
    if not options.dry and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --dry runs everything on tiny sizes without one")
    device = torch.device("cpu" if options.dry else "cuda")
    if options.dry:
        choose.kernel_name = lambda device: "cuda"
    tiny = options.dry
    sizes = ("SMALL",) if tiny else SIZES
    roof = peaks(device, tiny)
    results = {
        "peaks": roof,
        "passes": [passes(size, device, tiny, roof) for size in sizes],
        "training": [training(size, n, device, tiny) for size in sizes for n in frames(tiny)],
        "short_run": short_run(device, tiny),
        "md": [md(size, cell, device, tiny) for size in sizes for cell in cells(tiny)],
    }
    if tiny:
        say("everything ran; nothing was measured")
        return
    say(f"written: {record('cuda', results, options.quick, GPU=torch.cuda.get_device_name())}")


def frames(tiny: bool) -> tuple[int, ...]:
    return (3,) if tiny else FRAMES


def cells(tiny: bool) -> tuple[tuple[int, int, int], ...]:
    return ((1, 1, 1),) if tiny else CELLS


def wait(device: torch.device) -> None:
    """Until the GPU has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any], device: torch.device, enough: float) -> float:
    """Seconds of one call; it is called before, unmeasured, and then for so many seconds."""
    for _ in range(3 if enough else 1):
        function()
    wait(device)
    calls, begun = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        if calls % 8 == 0 or not enough:
            wait(device)
            spent = time.perf_counter() - begun
            if spent >= enough:
                return spent / calls


def peaks(device: torch.device, tiny: bool) -> dict[str, float]:
    """Float32 multiply-adds (without tensor cores) and bytes per second that the device reaches."""
    n = 64 if tiny else 8192
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = False
    product = seconds(lambda: a @ b, device, 0.0 if tiny else ENOUGH)
    x = torch.zeros(1024 if tiny else 2**29, device=device)
    y = torch.empty_like(x)
    copy = seconds(lambda: y.copy_(x), device, 0.0 if tiny else ENOUGH)
    return {"multiply_adds_per_s": n**3 / product, "bytes_per_s": 2 * 4 * len(x) / copy}


# --- passes ---------------------------------------------------------------------------------------


def passes(size: str, device: torch.device, tiny: bool, roof: dict[str, float]) -> dict[str, Any]:
    """Time of every pass for a thermal cell, and how much of it the device's peaks would take."""
    from mtp.kernels import cuda

    atoms = labelled(thermal_cell((1, 1, 1) if tiny else (25, 25, 26)))
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
        each = seconds(call, device, 0.0 if tiny else ENOUGH) / done
        arithmetic = work[name]["multiply_adds"] / roof["multiply_adds_per_s"] / each
        memory = work[name]["bytes"] / roof["bytes_per_s"] / each
        shares = {"share_of_arithmetic_peak": arithmetic, "share_of_memory_peak": memory}
        rows[name] = {"ns_per_atom": 1e9 * each, **work[name], **shares}
        roofs = f"{arithmetic:.1%} of the arithmetic, {memory:.1%} of the memory peak"
        say(f"{size:>5} {name:26} {1e9 * each:9.2f} ns/atom, {roofs}")
    return {"size": size, "atoms": n, "atoms_at_once": [part, dual.n], "passes": rows}


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


def training(size: str, n: int, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Atoms per second of loss and full gradient for batches of n frames of 64 atoms."""
    frames = crystal_frames(n, (1, 1, 1) if tiny else (2, 2, 2))
    potential = on(device, potential_for(size, frames[:3]))
    one = objective(potential, frames, device, recorded=True)
    time_each = seconds(one.gradient, device, 0.0 if tiny else ENOUGH)
    atoms = sum(map(len, frames))
    row = {"size": size, "frames": n, "atoms": atoms, "atoms_per_s": atoms / time_each}
    if n == 1024:
        torch.set_num_threads(os.cpu_count() or 1)
        here = objective(potential_for(size, frames[:3]), frames, torch.device("cpu"))
        row["cpu_atoms_per_s"] = atoms / seconds(here.gradient, torch.device("cpu"), ENOUGH)
    say(f"{size:>5} {n:5} frames: {row['atoms_per_s']:.3g} atoms/s of full gradient")
    return row


def short_run(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Ten thousand steps of Adam on 200 frames of the silicon set with the small potential."""
    frames = crystal_frames(3, (1, 1, 1)) if tiny else silicon_set()[:200]
    potential = on(device, potential_for("SMALL", frames[:3], min_dist=1.6))
    one = objective(potential, frames, device, recorded=True)
    adam = Adam(move_only(potential, one.stage), one.stage)
    each = seconds(lambda: adam.step(one, 1e-3), device, 0.0 if tiny else 5 * ENOUGH)
    say(f"{SHORT} steps on {len(frames)} frames: {SHORT * each:.1f} s")
    return {"frames": len(frames), "steps": SHORT, "seconds": SHORT * each}


def objective(
    potential: Potential, frames: list[Structure], device: torch.device, recorded: bool = False
) -> Objective:
    """The loss over all frames as one batch, as a step of Adam sees it."""
    train = geometry(frames, potential, device)
    data = TaskData.of(train, geometry([], potential, device))
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


def md(size: str, cell: tuple[int, int, int], device: torch.device, tiny: bool) -> dict[str, Any]:
    """Microseconds per atom and step of velocity Verlet at 300 K, list rebuilds included."""
    from mtp.device_md import DeviceDynamics

    atoms = thermal_cell(cell)
    rng = np.random.default_rng(2)
    atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * 0.03)
    potential = on(device, potential_for(size, [labelled(thermal_cell((2, 2, 2)))]))
    own = DeviceDynamics(potential, atoms, timestep=1.0)
    own.run(1 if tiny else 60)  # compiles, records, and finds how long a list lasts
    steps, builds = own.steps, own.list.builds
    wait(device)
    begun = time.perf_counter()
    while own.steps == steps or (not tiny and time.perf_counter() - begun < 3 * ENOUGH):
        own.run(1 if tiny else 100)
        wait(device)
    spent, done = time.perf_counter() - begun, own.steps - steps
    row = {
        "size": size,
        "atoms": len(atoms),
        "us_per_atom_and_step": MICRO * spent / done / len(atoms),
        "steps_between_lists": done / max(1, own.list.builds - builds),
        "temperature_K": own.temperature,
    }
    say(f"{size:>5} {len(atoms):9} atoms: {row['us_per_atom_and_step']:.4f} µs per atom and step")
    return row


if __name__ == "__main__":
    main()
