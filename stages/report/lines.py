"""Plots of curves over a number: properties, distributions, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from stages.report.plots import STYLE, Image, embed, log_axis, panel

REFERENCE, MODEL, OTHER = "#8fb3d1", "#12355b", "#e08a00"


@dataclass(frozen=True, eq=False)
class Line:
    """y over x; `marks` draws points instead of a line, "both" points on a line."""

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: str = MODEL
    dashed: bool = False
    marks: str = ""
    width: float = 1.6


def lines_plot(
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    alt: str,
    *,
    log: str = "",
    size: tuple[float, float] = (5.4, 3.3),
    ticks: tuple[Sequence[float], Sequence[str]] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Image:
    """Curves in one panel.

    log: axes with a log scale, "x", "y" or "xy". ticks: places and names on the x axis, with lines
    across. marks: places on the x axis with a dotted line and its name.
    """
    with rc_context(STYLE):
        figure, axes = panel(*size)
        for order, line in enumerate(lines):
            axes.plot(
                *(line.x, line.y),
                linestyle="none" if line.marks == "points" else "--" if line.dashed else "-",
                marker="o" if line.marks else None,
                markersize=3.5,
                markeredgewidth=0,
                color=line.colour,
                label=line.label or None,
                linewidth=line.width,
                zorder=2 + order,
                rasterized=line.marks == "points" and np.size(line.x) > 2000,
            )
        for axis in ("x", "y"):
            if axis in log:
                log_axis(getattr(axes, f"{axis}axis"))
            elif not (axis == "x" and ticks):
                whole = axis == "x" and all(np.asarray(one.x).dtype.kind in "iu" for one in lines)
                getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(6, integer=whole))
        if ticks:
            axes.set_xticks(*ticks)
            axes.set_xlim(ticks[0][0], ticks[0][-1])
        for place, name in marks:
            axes.axvline(place, color="#5b6875", lw=1.0, ls=":")
            axes.annotate(
                name, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -3),
                textcoords="offset points", va="top", fontsize=8, color="#5b6875",
            )  # fmt: skip
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if any(line.label for line in lines):
            axes.legend(loc="best")
        return embed(figure, alt)
