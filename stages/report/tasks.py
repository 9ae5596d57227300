"""The report on tasks: each one's share of steps, of gradient and of the loss, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.report.history import History, Span
from stages.report.tables import Cell, Table

COLOURS = 6
"""Tasks that have a colour of their own (template.html: k0, k1, …); more begin again."""


@dataclass(frozen=True)
class Stack:
    """One stacked bar of percentages: (task, class of its colour, percent)."""

    label: str
    parts: list[tuple[str, str, float]]

    @classmethod
    def of(cls, label: str, values: Mapping[str, float]) -> Stack | None:
        """The bar of values that need not add up to anything; None where there is nothing."""
        total = sum(values.values())
        if not np.isfinite(total) or total <= 0:
            return None
        parts = [
            (task, f"k{i % COLOURS}", 100 * value / total)
            for i, (task, value) in enumerate(values.items())
        ]
        return cls(label, parts)


@dataclass(frozen=True)
class TasksSection:
    """A table of stages and tasks, and the bars of each stage."""

    names: list[tuple[str, str]]  # task, class of its colour
    table: Table
    stages: list[tuple[str, list[Stack]]]


def tasks_section(
    plan: dict[str, Any] | None, scan: dict[str, Any] | None, history: History
) -> TasksSection | None:
    """The section of a run with several tasks; None for one task."""
    if plan is None or len(plan["data"]) < 2:
        return None
    names = list(plan["data"])
    spans = {span.name: span for span in history.spans}
    rows, stages = [], []
    for stage in plan["stages"]:
        wanted = portions(plan, scan, stage)
        span = spans.get(stage["name"])
        found = {} if span is None else _found(history, span, names, wanted)
        rows += _rows(stage, names, wanted, found)
        bars = [Stack.of(what, values) for what, values in found.items()]
        stages.append((stage["name"], [bar for bar in bars if bar is not None]))
    head = ["stage", "task", "moves", "share planned", "steps", "gradient", "loss at the end"]
    return TasksSection(
        [(name, f"k{i % COLOURS}") for i, name in enumerate(names)],
        Table.of(head, rows, text_columns=3),
        [(name, bars) for name, bars in stages if bars],
    )


def portions(
    plan: dict[str, Any], scan: dict[str, Any] | None, stage: dict[str, Any]
) -> dict[str, float]:
    """Task → its planned share of a stage; without a weight that of its batches, 0 where idle."""
    weights = {}
    for name, task in stage["tasks"].items():
        if task["weight"] is not None:
            weights[name] = float(task["weight"])
            continue
        sets = (scan or {}).get(name, {}).get("sets", {})
        batches = -(-sets.get("train", 0) // plan["run"]["batch_size"])
        weights[name] = float(batches * (task.get("epochs") or 1))
    whole = sum(weights.values()) or 1.0
    return {name: weight / whole for name, weight in weights.items()}


def _found(
    history: History, span: Span, names: list[str], wanted: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Measure → task → its value in a stage, as the log has it."""
    rows = slice(span.start, span.end)
    measures: dict[str, dict[str, float]] = {}
    for label, key in (("steps", "steps"), ("gradient", "gradient")):
        shares = {name: history.share(name, key)[rows] for name in names}
        if any(np.isfinite(values).any() for values in shares.values()):
            measures[label] = {name: float(np.nanmean(v)) for name, v in shares.items()}
    losses = {name: history.term(name, "train", "loss")[span.end - 1] for name in names}
    measures["loss"] = {
        name: wanted.get(name, 0.0) * loss for name, loss in losses.items() if np.isfinite(loss)
    }
    return measures


def _rows(
    stage: dict[str, Any],
    names: list[str],
    wanted: dict[str, float],
    found: dict[str, dict[str, float]],
) -> list[list[Any]]:
    rows = []
    for name in names:
        cells = [_percent(wanted, name)]
        cells += [_percent(found.get(what, {}), name) for what in ("steps", "gradient", "loss")]
        rows.append([stage["name"], name, moves(stage, name), *cells])
    return rows


def _percent(values: dict[str, float], name: str) -> Cell:
    total = sum(values.values())
    if name not in values or not total:
        return Cell("–")
    part = values[name] / total
    return Cell(f"{100 * part:.3g} %", bar=part)


def moves(stage: dict[str, Any], task: str) -> str:
    """The groups that a task's batches move in a stage."""
    if task not in stage["tasks"] or stage["tasks"][task]["weight"] == 0:
        return "idle"
    tasks, found = set(stage["tasks"]), []
    for name in stage["trainable"]:
        head, dot, group = name.partition(".")
        if name == task:
            found.append("its head")
        elif dot and head == task:
            found.append(group)
        elif not dot and name not in tasks:
            found.append(name)
    return ", ".join(found) or "nothing"


def across_tasks(
    plan: dict[str, Any], scan: dict[str, Any] | None, calibration: dict[str, Any], history: History
) -> list[Stack]:
    """What each task adds to the whole loss before calibration, after it and at its end."""
    stage = plan["stages"][-1]
    wanted = portions(plan, scan, stage)
    before = {t: wanted.get(t, 0.0) * one["weighted_loss"] for t, one in calibration.items()}
    after = {t: value * calibration[t].get("factor", 1.0) for t, value in before.items()}
    previous = next(iter(calibration.values()))["previous_stage"]
    bars = [Stack.of(f"End of {previous}", before), Stack.of("The same errors, calibrated", after)]
    span = next((s for s in history.spans if s.name == stage["name"]), None)
    if span is not None:
        moments = {"First epoch of calibration": span.start, "End of calibration": span.end - 1}
        for label, row in moments.items():
            losses = {t: history.term(t, "train", "loss")[row] for t in calibration}
            bars.append(Stack.of(label, {t: wanted.get(t, 0.0) * v for t, v in losses.items()}))
    return [bar for bar in bars if bar is not None]
