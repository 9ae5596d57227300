"""Figures of the report, each returned as a self-contained ``data:`` image.

Colours are told apart by people with every kind of colour vision and in grey print: sets differ in
lightness, measures in line style.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

SET_COLOURS = {"train": "#8fb3d1", "valid": "#e08a00", "test": "#12355b"}
"""Light blue, orange, navy: they stay apart in grey print too."""
MANY_POINTS = 10_000
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6b7785",
    "axes.labelcolor": "#2b3540",
    "xtick.color": "#4a5662",
    "ytick.color": "#4a5662",
    "axes.grid": True,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "savefig.dpi": 170,
    "svg.hashsalt": "mtp-train",  # the same run gives the same file
}


@dataclass(frozen=True)
class Image:
    """An image and the sentence that stands for it where it cannot be seen."""

    src: str
    alt: str


@dataclass(frozen=True)
class Curve:
    """One line of a learning-curve plot: y over epochs."""

    label: str
    y: np.ndarray
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """A stage on the epoch axis: (first, last] epoch."""

    label: str
    first: float
    last: float


def over_epochs(
    curves: Sequence[Curve],
    bands: Sequence[Band],
    x: np.ndarray,
    ylabel: str,
    alt: str,
    mark: float | None = None,
) -> Image:
    """Curves over the epochs `x` on a log scale, stages shaded, the best epoch marked."""
    with rc_context(STYLE):
        figure, axes = panel(5.4, 3.3)
        for curve in curves:
            marker = "o" if np.isfinite(curve.y).sum() <= 3 else None
            axes.plot(
                x,
                np.where(curve.y > 0, curve.y, np.nan),
                linestyle="--" if curve.dashed else "-",
                color=curve.colour,
                label=curve.label,
                marker=marker,
                markersize=3.5,
            )
        if any((curve.y > 0).any() for curve in curves):
            log_axis(axes.yaxis)
        _shade(axes, bands)
        if mark is not None:
            axes.axvline(mark, color=SET_COLOURS["test"], lw=1.0, ls=":")
        axes.set_xlabel("epoch")
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if any(curve.label for curve in curves):
            axes.legend(loc="best", ncols=2, handlelength=1.8, columnspacing=1.2)
        return embed(figure, alt)


def parity(
    sets: dict[str, tuple[np.ndarray, np.ndarray]], quantity: str, unit: str, alt: str
) -> Image:
    """Prediction over label for each set {name: (label, prediction)}; many points as a density."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.5))
        axes = figure.add_axes((0.235, 0.15, 0.71, 0.71 * 3.6 / 3.5))  # all three panels alike
        limits = _limits(np.concatenate([values for pair in sets.values() for values in pair]))
        axes.plot(limits, limits, color="#9aa5b1", linewidth=0.9, zorder=1)
        for order, (name, (label, predicted)) in enumerate(sets.items(), start=2):
            _points(axes, label, predicted, limits, SET_COLOURS[name], order)
            axes.scatter([], [], s=16, color=SET_COLOURS[name], label=f"{name} ({label.size:,})")
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"{quantity}, reference ({unit})")
        axes.set_ylabel(f"{quantity}, predicted ({unit})")
        axes.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.2)
        return embed(figure, alt)


def error_distribution(sets: dict[str, np.ndarray], quantity: str, unit: str, alt: str) -> Image:
    """Cumulative share of each set's values whose absolute error is below x."""
    with rc_context(STYLE):
        figure, axes = panel(3.6, 2.9)
        middle, high = np.inf, 0.0
        for name, errors in sets.items():
            size = np.sort(np.abs(errors))
            share = np.arange(1, size.size + 1) / size.size
            middle, high = min(middle, np.median(size)), max(high, size[-1])
            thin = _thin(size.size)
            axes.step(size[thin], share[thin], color=SET_COLOURS[name], label=name, where="post")
        if high > 0:
            # Errors that are zero by symmetry would stretch the axis over many empty decades.
            axes.set_xlim(max(0.01 * middle, 1e-6 * high), 1.15 * high)
            log_axis(axes.xaxis)
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(f"|error of {quantity}| ({unit})")
        axes.set_ylabel("share below")
        axes.legend(loc="upper left")
        return embed(figure, alt)


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def log_axis(axis) -> None:
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(10, numticks=6))
    low, high = axis.get_view_interval()
    decades = np.log10(high / max(low, 1e-300))
    if decades < 3:  # powers of ten alone would leave one or two numbers
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades < 1.7 else (1, 3)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda x, _: f"{x:g}" if 1e-4 <= x < 1e5 else f"{x:.0e}")
    axis.set_minor_formatter(NullFormatter())


def _shade(axes: Axes, bands: Sequence[Band]) -> None:
    """Alternate grounds for the stages, names above where there is room."""
    end = max((band.last for band in bands), default=1.0)
    axes.set_xlim(0, max(end, 1.0))
    last_label = -1.0
    for i, band in enumerate(bands):
        axes.axvspan(band.first, band.last, color=("#f4f6f8", "#e9edf2")[i % 2], zorder=0, lw=0)
        middle = 0.5 * (band.first + band.last) / max(end, 1.0)
        width = 0.022 * len(band.label)
        if middle - width / 2 > last_label and middle + width / 2 < 1.02:
            axes.text(
                middle, 1.015, band.label, transform=axes.transAxes, ha="center", va="bottom",
                fontsize=8, color="#4a5662",
            )  # fmt: skip
            last_label = middle + width / 2


def _points(axes: Axes, x, y, limits: tuple[float, float], colour: str, order: int) -> None:
    if x.size <= MANY_POINTS:
        area = float(np.clip(14 * (300 / max(x.size, 1)) ** 0.6, 2.5, 14))
        axes.scatter(x, y, s=area, color=colour, alpha=0.7, lw=0, zorder=order, rasterized=True)
        return
    shades = LinearSegmentedColormap.from_list("density", [_towards_white(colour, 0.55), colour])
    axes.hexbin(
        x, y, gridsize=90, bins="log", mincnt=1, cmap=shades, lw=0.1, zorder=order,
        extent=(*limits, *limits), rasterized=True,
    )  # fmt: skip


def _towards_white(colour: str, share: float) -> tuple[float, ...]:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return tuple(rgb + share * (1 - rgb))


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _thin(size: int, most: int = 600) -> np.ndarray:
    """Indices of at most `most` of `size` sorted points, the ends kept."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))


def embed(figure: Figure, alt: str) -> Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    content = base64.b64encode(buffer.getvalue()).decode()
    return Image(f"data:image/svg+xml;base64,{content}", alt)
