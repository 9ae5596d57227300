"""The report on tasks: each one's share of steps, of gradient and of the loss, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.report.history import History, Span
from stages.report.tables import Cell, Table, words

COLOURS = 6
"""Tasks that have a colour of their own (template.html: k0, k1, …); more begin again."""


def colour(task: int) -> str:
    """The class of the colour of the task at this place."""
    return f"k{task % COLOURS}"


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
            (task, colour(i), 100 * value / total) for i, (task, value) in enumerate(values.items())
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
        rows += [
            [stage["name"], name, moves(plan, stage, name), *_percentages(name, wanted, found)]
            for name in names
        ]
        bars = [Stack.of(what, values) for what, values in found.items()]
        stages.append((stage["name"], [bar for bar in bars if bar is not None]))
    head = ["stage", "task", "moves", "share planned", "steps", "gradient", "loss at the end"]
    return TasksSection(
        [(name, colour(i)) for i, name in enumerate(names)],
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
    active = [name for name in names if wanted.get(name, 0.0) > 0]
    if len(active) == 1:  # then no shares are logged
        measures = {what: dict.fromkeys(active, 1.0) for what in ("steps", "gradient")}
    for label, key in (("steps", "steps"), ("gradient", "gradient")):
        shares = {name: history.share(name, key)[rows] for name in names}
        if any(np.isfinite(values).any() for values in shares.values()):
            measures[label] = {name: float(np.nanmean(v)) for name, v in shares.items()}
    losses = {name: history.term(name, "train", "loss")[span.end - 1] for name in names}
    measures["loss"] = {
        name: wanted.get(name, 0.0) * loss for name, loss in losses.items() if np.isfinite(loss)
    }
    return measures


def _percentages(
    name: str, wanted: dict[str, float], found: dict[str, dict[str, float]]
) -> list[Cell]:
    measured = (found.get(what, {}) for what in ("steps", "gradient", "loss"))
    return [_percent(values, name) for values in (wanted, *measured)]


def _percent(values: dict[str, float], name: str) -> Cell:
    total = sum(values.values())
    if name not in values or not total:
        return Cell("–")
    part = values[name] / total
    return Cell(f"{100 * part:.3g} %", bar=part)


def moves(plan: dict[str, Any], stage: dict[str, Any], task: str) -> str:
    """The groups that a task's batches move in a stage, of those that there are."""
    if task not in stage["tasks"] or stage["tasks"][task]["weight"] == 0:
        return "idle"
    kinds = {head["name"]: head["kind"] for head in plan["model"]["heads"]}
    absent = {"shifts"} if kinds.get(task) == "dipole" else set()
    absent |= {"type_embedding"} if plan["model"].get("embedding") is None else set()
    tasks, found = set(stage["tasks"]), []
    for name in stage["trainable"]:
        head, dot, group = name.partition(".")
        if name == task:
            found.append("its head")
        elif dot and head == task:
            found.append(group)
        elif not dot and name not in tasks:
            found.append(name)
    return ", ".join(words(name) for name in found if name not in absent) or "nothing"


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
