"""The CUDA kernel on a GPU: molecular dynamics, training, its passes against the machine's peaks.

    python -m benchmarks.gpu                 on a GPU; ten minutes, the most important first
    python -m benchmarks.gpu --quick         tiny sizes; without a GPU through Triton's interpreter

Float32, cutoff 5 Å, 8 polynomials, silicon. Times are wall times between two moments at which the
GPU has done everything, compilation apart. What is compared runs on the same machine: the C++
kernel with all threads, MOTEP with one. The file of results is written after every entry; what did
not fit, or failed, is named in it. --sizes and --minutes choose less or more.
"""

from __future__ import annotations

import os
import sys

if "--quick" in sys.argv:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import gpu_cases as cases
from benchmarks.common import ROOT, arguments, record, say
from mtp.kernels import choose

Entry = tuple[str, Callable[..., dict[str, Any]], tuple]
"""Group of the results, what measures it, what of."""


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        minutes={"type": float, "default": 9.5},
        sizes={"nargs": "+", "default": list(cases.SIZES), "choices": cases.SIZES},
        compile_only={"action": "store_true"},
    )
    there = torch.cuda.is_available()
    if not there and not options.quick:
        sys.exit("torch sees no CUDA device; --quick runs everything on tiny sizes without one")
    device = torch.device("cuda" if there else "cpu")
    if not there:
        choose.kernel_name = lambda device: "cuda"
    if options.compile_only:
        for size in options.sizes:
            cases.compile_all(size, device, options.quick)
        return
    begun = time.perf_counter()
    sizes = ["SMALL"] if options.quick else options.sizes
    results: dict[str, Any] = {"compiling": {"seconds": compiled(sizes) if there else None}}
    name = torch.cuda.get_device_name() if there else "none: Triton's interpreter"
    for group, measure, given in entries(sizes, options.quick):
        late = time.perf_counter() - begun > 60 * options.minutes
        results.setdefault(group, []).append(
            {"of": list(map(str, given)), "error": "no time left"}
            if late
            else attempt(measure, given, device, options.quick)
        )
        path = record("gpu", results, options.quick, GPU=name)
    say(f"written: {path}")
    if options.quick and any("error" in row for rows in results.values() for row in rows):
        sys.exit("some entries failed")


def entries(sizes: list[str], quick: bool) -> list[Entry]:
    """All that is measured, the most important first."""
    cells, frames = cases.cells(quick), cases.frames(quick)
    order: list[Entry] = [("peaks", cases.peaks, ())]
    main = [size for size in ("SMALL", "16") if size in sizes]
    middle = cells[2:4] or cells
    order += [("md", cases.md, (size, cell)) for size in main for cell in middle]
    order += [("training", cases.training, (size, n)) for size in main[::-1] for n in frames[-2:-1]]
    order += [("short_run", cases.short_run, (batch,)) for batch in cases.batches(quick)]
    order += [("passes", cases.passes, (size,)) for size in main]
    order += [("compared", cases.compared, (size,)) for size in sizes]
    order += [("training", cases.training, (size, n)) for n in frames for size in sizes]
    order += [("md", cases.md, (size, cell)) for cell in cells for size in sizes]
    order += [("passes", cases.passes, (size,)) for size in sizes]
    return list(
        {(group, given): (group, measure, given) for group, measure, given in order}.values()
    )


def attempt(
    measure: Callable[..., dict[str, Any]], given: tuple, device: torch.device, quick: bool
) -> dict[str, Any]:
    """What is measured, or why it is not: too little memory on a smaller GPU is no surprise."""
    of = list(map(str, given))
    try:
        return {"of": of, **measure(*given, device=device, quick=quick)}
    except Exception as error:  # the others go on
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        say(f"{measure.__name__} {' '.join(of)}: {line}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return {"of": of, "error": line}


def compiled(sizes: list[str]) -> float:
    """Seconds in which processes side by side compile all passes into Triton's cache."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu", "--compile-only", "--sizes"]
    started = [subprocess.Popen([*command, size], cwd=ROOT) for size in sizes]
    for process in started:
        process.wait()
    say(f"compiled in {time.perf_counter() - begun:.0f} s")
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
