"""The kernel alone: time per atom, and its share of the multiply-adds that the core can do.

    python -m benchmarks.kernel_peak

The silicon training set (27 pairs per atom), one thread. The peak is measured in turn with the
kernel by benchmarks/peak.cpp; multiply-adds are those that the passes need by `NativeBasis.costs`
(a product of dual numbers is three), so square roots, divisions, loads, stores, padding of the
SIMD lanes and what is computed twice are not counted as work.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import MICRO, arguments, per_atom, record, say, side_by_side
from benchmarks.systems import SIZES, potential_for, silicon_set
from mtp.geometry import Geometry
from mtp.kernels.cpu import instruction_set
from mtp.potential import Potential
from mtp.structure import Structure

MARCH = {"v4": "x86-64-v4", "v3": "x86-64-v3", "v2": "x86-64-v2", "plain": "native"}
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
PER_PAIR = {"energy+forces": ("moments", "forces"), "gradient": ("dual_moments", "coefficients")}
DUAL = {"energy+forces": 1, "gradient": 3}
MIN_DIST = 2.0


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    structures = silicon_set()[:: 16 if options.quick else 1]
    sizes = ["12"] if options.quick else list(SIZES)
    with tempfile.TemporaryDirectory() as folder:
        peak = Peak(Path(folder), 0.1 if options.quick else 0.3)
        results = [one_size(size, structures, peak, options.quick) for size in sizes]
        more = {"peak": peak.median()}
    say(f"written: {record('kernel_peak', results, options.quick, **more)}")


class Peak:
    """The peak program; every call measures again. Rates in multiply-adds per second."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.program, self.seconds = folder / "peak", seconds
        self.found: dict[str, list[float]] = {name: [] for name in PRECISIONS}
        source = Path(__file__).with_name("peak.cpp")
        flags = ["-O3", "-std=c++17", f"-march={MARCH[instruction_set()]}", "-ffp-contract=fast"]
        command = ["c++", *flags, str(source), "-o", str(self.program)]
        subprocess.run(command, check=True)

    def __call__(self) -> None:
        command = [str(self.program), str(self.seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for name, rate in zip(self.found, done.stdout.split(), strict=True):
            self.found[name].append(float(rate))

    def median(self) -> dict[str, float]:
        """Precision → rate."""
        return {name: median(rates) for name, rates in self.found.items()}


def one_size(size: str, structures: list[Structure], peak: Peak, quick: bool) -> dict[str, Any]:
    """Times and shares of both passes in both precisions."""
    potential = potential_for(size, structures, MIN_DIST)
    passes = {f"{task} {name}": function
              for name in PRECISIONS
              for task, function in kernel_passes(potential, structures, name).items()}  # fmt: skip
    times = side_by_side({"peak": peak, **passes}, rounds=3 if quick else 7)
    atoms = sum(map(len, structures))
    pairs = Geometry(structures, potential.spec.species, potential.spec.cutoff).n_pairs
    costs = potential.kernel.basis.costs()
    work = {task: multiply_adds(costs, task, pairs, atoms) for task in PER_PAIR}
    rows = {}
    for name in passes:
        task, precision = name.split()
        rate = work[task] / times[name]["cpu"]
        share = rate / peak.median()[precision]
        rows[name] = per_atom(times[name], atoms) | {"rate": rate, "share_of_peak": share}
        say(
            f"{size} {name}: {MICRO * times[name]['cpu'] / atoms:.2f} µs/atom, "
            f"{rate / 1e9:.1f} G multiply-adds/s, {100 * share:.0f} % of the peak"
        )
    return {"size": size, "atoms": atoms, "pairs": pairs, "costs": costs, "passes": rows}


def multiply_adds(costs: dict[str, int], task: str, pairs: int, atoms: int) -> int:
    """What a pass needs."""
    per_pair = sum(costs[name] for name in PER_PAIR[task])
    return pairs * per_pair + atoms * DUAL[task] * (costs["products"] + costs["reverse"])


def kernel_passes(potential: Potential, structures: list[Structure], precision: str) -> dict:
    """The two calls of the kernel in a training step; "gradient" is the second alone."""
    copy = Potential(potential.spec)
    copy.load_state_dict(potential.state_dict())
    dtype = PRECISIONS[precision]
    copy.cast(dtype)
    batch = Geometry(structures, copy.spec.species, copy.spec.cutoff, dtype).batch()
    kernel, c = copy.kernel, copy.coefficients.detach()
    readout = copy.heads["default"].readout()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(batch.n_atoms, dtype=torch.float64, generator=generator)
    v = torch.randn(batch.n_atoms, 3, dtype=dtype, generator=generator)
    strain = torch.randn(batch.n_atoms, 6, dtype=dtype, generator=generator)
    return {
        "energy+forces": lambda: kernel.predict(c, readout, batch.pairs),
        "gradient": lambda: kernel.loss_gradient(c, readout, weight, v, strain, batch.pairs),
    }


if __name__ == "__main__":
    main()
