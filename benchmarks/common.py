"""What the benchmarks share: arguments, timing side by side, and the record of where they ran."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mtp.kernels.cpu import instruction_set
from stages.run.environment import environment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LEVELS = (8, 12, 16, 20)
MICRO = 1e6


def arguments(what: str, **more: dict[str, Any]) -> argparse.Namespace:
    """The command line: --quick and the options given as keywords of add_argument."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help="a short check that everything runs")
    for name, option in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
    torch.set_num_threads(1)
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, at once."""
    print(text, file=sys.stderr, flush=True)


# --- timing ---------------------------------------------------------------------------------------


def seconds(function: Callable[[], Any], repeats: int = 1) -> tuple[float, float]:
    """Wall and CPU seconds (all threads) of one call, the mean of several in a row."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def side_by_side(
    functions: dict[str, Callable[[], Any]], rounds: int, shortest: float = 0.2
) -> dict[str, dict[str, Any]]:
    """Time functions in turn, round after round, so that a noisy machine is fair to all.

    Every function is called once before, unmeasured; a quick one is called in each round until
    `shortest` seconds have passed. Returns name → {"wall", "cpu": medians in seconds, "walls",
    "cpus": one for each round}.
    """
    first = {name: seconds(function)[0] for name, function in functions.items()}
    again = {name: min(seconds(f)[0], first[name]) if first[name] < shortest else first[name]
             for name, f in functions.items()}  # fmt: skip
    repeats = {name: max(1, round(shortest / max(t, 1e-9))) for name, t in again.items()}
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, repeats[name]))
    return {name: _summary(found) for name, found in times.items()}


def _summary(times: list[tuple[float, float]]) -> dict[str, Any]:
    walls, cpus = (list(column) for column in zip(*times, strict=True))
    return {"wall": median(walls), "cpu": median(cpus), "walls": walls, "cpus": cpus}


def ratio(slow: dict[str, Any], fast: dict[str, Any], slow_size: int, fast_size: int) -> float:
    """How many times less CPU time per atom: the median over the rounds measured side by side."""
    pairs = zip(slow["cpus"], fast["cpus"], strict=True)
    return median((s / slow_size) / (f / fast_size) for s, f in pairs)


def per_atom(time: dict[str, Any], atoms: int) -> dict[str, float]:
    """Medians in microseconds per atom, and the spread over the rounds."""
    return {
        "wall_us_per_atom": MICRO * time["wall"] / atoms,
        "cpu_us_per_atom": MICRO * time["cpu"] / atoms,
        "cpu_us_per_atom_rounds": [MICRO * t / atoms for t in time["cpus"]],
    }


# --- records --------------------------------------------------------------------------------------


def record(name: str, results: Any, quick: bool, **more: Any) -> Path:
    """Write results/NAME.json (results/quick/NAME.json) with where and how they were measured."""
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"benchmark": name, "quick": quick, **provenance(), **more, "results": results}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def stamp() -> dict[str, str]:
    """When and by which revision an entry of a file that several calls fill was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _git("rev-parse", "--short=12", "HEAD"),
    }


def provenance() -> dict[str, Any]:
    """Command, date, revision, processor and versions."""
    found = environment()
    found["versions"]["motep"] = _motep_version()
    module = f"benchmarks.{Path(sys.argv[0]).stem}"
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        **stamp(),
        "modified": bool(_git("status", "--porcelain", "--", "mtp", "stages", "benchmarks/*.py")),
        "instruction_set": instruction_set(),
        "load_average": os.getloadavg()[0],
        **found,
    }


def _motep_version() -> str:
    try:
        return version("motep")
    except PackageNotFoundError:
        return "not installed"


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()
