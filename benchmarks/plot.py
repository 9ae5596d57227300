"""Draw docs/benchmarks.svg, the picture of the README, from benchmarks/results.

    python -m benchmarks.plot [--quick]

With --quick from results/quick, as .png into that folder. A panel without results stays out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import peer
from benchmarks.common import RESULTS, ROOT, arguments, say
from benchmarks.tables import cpu, load, number

OURS, SINGLE, MOTEP, MLIP3 = "#0b6e99", "#7cc0de", "#c8553d", "#e6a15c"
INK, PALE = "#222222", "#8a8a8a"
ABOVE = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
BOLD = {**ABOVE, "fontweight": "bold"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "mtp-train",
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    folder = RESULTS / "quick" if options.quick else ROOT / "docs"
    panels = [(draw, load(name, options.quick)) for name, draw in PANELS.items()]
    panels = [(draw, content) for draw, content in panels if content is not None]
    if not panels:
        raise SystemExit("nothing is measured yet: docs/benchmarks.md says how")
    name = "benchmarks.png" if options.quick else "benchmarks.svg"
    say(f"written: {draw_all(panels, folder / name)}")


def draw_all(panels: list[tuple[Callable, dict[str, Any]]], path: Path) -> Path:
    """All panels, two in a row, and the machine below."""
    rows = -(-len(panels) // 2)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, min(2, len(panels)), figsize=(10.4, 3.75 * rows + 0.3), squeeze=False
        )
        for axis, (draw, content) in zip(axes.flat, panels, strict=False):
            draw(axis, content)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        content = panels[0][1]
        figure.text(0.01, 0.01, footnote(content), fontsize=7.5, color=PALE, linespacing=1.4)
        figure.tight_layout(rect=(0, 0.045, 1, 1), h_pad=2.2, w_pad=2.5)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
    return path


def footnote(content: dict[str, Any]) -> str:
    """The machine, and what the star means."""
    return (
        f"{content['processor'].split(',')[0]}, one thread unless stated. Silicon, cutoff 5 Å, "
        "8 polynomials; calculator with 1000 atoms. Coloured: how many times slower than mtp-train "
        f"in float64.\nMOTEP {content['versions']['motep']} with its C engine, "
        f"{content['date'][:10]}. * Measured once elsewhere: µs carried over by MOTEP's time there "
        "and here, s are CPU time there."
    )


# --- speed ----------------------------------------------------------------------------------------


def training(axis: Axes, content: dict[str, Any]) -> None:
    """Bars of loss and gradient."""
    rows = content["results"]
    groups = {
        "mtp-train, float32": ([_cpu(row, "float32") for row in rows], SINGLE),
        "mtp-train, float64": ([_cpu(row, "float64") for row in rows], OURS),
        "MLIP-3*": ([_cpu(row, "mlip3") for row in rows], MLIP3),
        "MOTEP": ([_cpu(row, "motep") for row in rows], MOTEP),
    }
    names = [f"level {row['level']}" for row in rows]
    bars(axis, names, groups, _ratios(rows))
    axis.set_title("Training: loss and full gradient, µs per atom")


def calculator(axis: Axes, content: dict[str, Any]) -> None:
    """Bars of the calculator for one species."""
    rows = [row for row in content["results"] if row["species"] == 1]
    rows = [row for row in rows if row["size"] != "SMALL"]
    groups = {
        "mtp-train, float32": ([_cpu(row, "float32") for row in rows], SINGLE),
        "mtp-train, float64": ([_cpu(row, "float64") for row in rows], OURS),
        "MLIP-3*": ([_cpu(row, "mlip3") for row in rows], MLIP3),
        "MOTEP": ([_cpu(row, "motep") for row in rows], MOTEP),
    }
    names = [f"level {row['size']}" for row in rows]
    bars(axis, names, groups, _ratios(rows))
    axis.set_title("ASE calculator: energy, forces, stress, µs per atom")


def _ratios(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    keys = {"MLIP-3*": "mlip3/float64", "MOTEP": "motep/float64"}
    return {name: [row["ratios"][key] for row in rows] for name, key in keys.items()}


def bars(
    axis: Axes,
    names: list[str],
    groups: dict[str, tuple[list[float], str]],
    ratios: dict[str, list[float]],
) -> None:
    """Grouped bars on a log scale with their values; above a peer's, how many times slower."""
    width = 0.9 / len(groups)
    everything = [value for values, _ in groups.values() for value in values]
    for k, (label, (values, colour)) in enumerate(groups.items()):
        x = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * width
        axis.bar(x, values, 0.92 * width, color=colour, label=label)
        for i, (at, value) in enumerate(zip(x, values, strict=True)):
            axis.annotate(_short(value), (at, value), (0, 2), fontsize=6.2, **ABOVE)
            if label in ratios:
                text = f"{ratios[label][i]:.0f}×"
                axis.annotate(text, (at, value), (0, 9), fontsize=6.8, color=colour, **BOLD)
    axis.set_yscale("log")
    axis.set_ylim(min(everything) / 2.2, max(everything) * 12)
    axis.set_xticks(range(len(names)), names)
    _plain_log(axis)
    axis.legend(loc="upper left", ncols=len(groups), columnspacing=1.1, handlelength=1.0,
                handletextpad=0.5, borderaxespad=0.0)  # fmt: skip


def scaling(axis: Axes, content: dict[str, Any]) -> None:
    """Time per atom over the number of atoms."""
    colours = {"SMALL": SINGLE, "16": OURS}
    for (size, threads), rows in _by(content["results"], "size", "threads").items():
        rows = sorted(rows, key=lambda row: row["atoms"])
        atoms, times = zip(*((r["atoms"], r["wall_us_per_atom"]) for r in rows), strict=True)
        name = size if size == "SMALL" else f"level {size}"
        axis.plot(
            *(atoms, times),
            marker="o" if threads == 1 else "s",
            markersize=4.5,
            linestyle="-" if threads == 1 else (0, (3, 2)),
            color=colours.get(size, PALE),
            markerfacecolor=colours.get(size, PALE) if threads == 1 else "white",
            label=f"{name}, {threads} thread{'s' if threads > 1 else ''}",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("atoms")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    _plain_log(axis, (1.0, 2.0, 5.0))
    low, high = axis.get_ylim()
    axis.set_ylim(low / 1.3, high * 1.3)
    axis.legend(loc="upper right")
    axis.set_title("Scaling: energy, forces, stress, µs per atom")


def _by(rows: list[dict[str, Any]], *keys: str) -> dict[tuple, list[dict[str, Any]]]:
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


# --- accuracy -------------------------------------------------------------------------------------


def accuracy(axis: Axes, content: dict[str, Any]) -> None:
    """Force error on the silicon test set over the training time, beside MLIP-3."""
    shades = {"12": (SINGLE, MLIP3), "16": (OURS, MOTEP)}
    for (size, plan), rows in _by(content["results"], "size", "plan").items():
        points = sorted((cpu(row), row["test"]["forces_mae"]) for row in rows)
        axis.plot(
            *zip(*points, strict=True),
            marker="o" if plan == "default" else "s",
            markersize=4.5,
            linestyle="-" if plan == "default" else (0, (3, 2)),
            color=shades[size][0],
            label=f"level {size}" + (f", {plan}" if plan != "default" else ""),
        )
    for size, (_, theirs) in shades.items():
        known = peer.MLIP3_SILICON[int(size)]
        axis.plot(
            [point["seconds"] for point in known],
            [point["forces"][0] for point in known],
            marker="D",
            markersize=5,
            linestyle=":",
            color=theirs,
            label=f"MLIP-3*, level {size}",
        )
    axis.set_xscale("log")
    axis.set_xlabel("training time, CPU seconds")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    low, _ = axis.get_ylim()
    worst = max(point["forces"][0] for rows in peer.MLIP3_SILICON.values() for point in rows)
    axis.set_ylim(max(0, low), max(1.4 * worst, 1.3 * low))  # the first steps do not matter
    axis.legend(loc="upper right")
    axis.set_title("Silicon: test error of the forces (MAE), meV/Å")


def _cpu(row: dict[str, Any], name: str) -> float:
    return row["times"][name]["cpu_us_per_atom"]


def _short(value: float) -> str:
    return number(value) if value >= 10 else f"{value:.1f}"


def _plain_log(axis: Axes, ticks: tuple[float, ...] = (1.0,)) -> None:
    """Ticks at these times 1, 10, 100 without powers of ten, none between."""
    axis.yaxis.set_major_locator(LogLocator(10, subs=ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


PANELS: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "training_speed": training,
    "calculator_speed": calculator,
    "scaling": scaling,
    "silicon_curve": accuracy,
}
"""Result file → panel."""

if __name__ == "__main__":
    main()
