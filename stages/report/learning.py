"""The page of `mtp learn`: errors by round, how far the dynamics got, grade against true error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from stages.evaluate import three_digits
from stages.report.lines import MODEL, OTHER, REFERENCE, Line, lines_plot
from stages.report.plots import Image
from stages.report.sections import Card, Part, write_page
from stages.report.tables import Table

SETS = {"test": "the hold-out", "valid": "validation frames", "train": "training frames"}
FORCES, ENERGY = "forces_rmse_meV_per_A", "energy_rmse_meV_per_atom"


def write_learning(output: Path, facts: Sequence[tuple[str, str]] = ()) -> Path:
    """Write OUTPUT/report.html from the rounds that are finished."""
    rounds = read_rounds(output)
    parts = [_progress(rounds), _exploration(rounds), _uncertainty(rounds)]
    state = f"{len(rounds)} trainings, {labels_by_round(rounds)[-1] if rounds else 0} structures"
    return write_page(output / "report.html", "Active learning", parts, facts, state)


def read_rounds(output: Path) -> list[dict[str, Any]]:
    """round.json of every finished round, in order."""
    paths = sorted(output.glob("round_*/round.json"))
    return [json.loads(path.read_text()) for path in paths]


def labels_by_round(rounds: Sequence[dict[str, Any]]) -> list[int]:
    """Labelled structures that each training had."""
    return [
        sum(one["train"][name]["frames"] for name in ("train", "valid") if name in one["train"])
        for one in rounds
    ]


def correlation(rounds: Sequence[dict[str, Any]]) -> float | None:
    """Spearman's rank correlation of grade and largest force error of labelled structures."""
    grade, force = _judged(rounds, "grade"), _judged(rounds, "force")
    return float(spearmanr(grade, force)[0]) if len(grade) > 2 else None


def _judged(rounds: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    found = [one["judged"][name] for one in rounds if one.get("judged")]
    return np.concatenate(found) if found else np.zeros(0)


def _set_of(rounds: Sequence[dict[str, Any]]) -> str:
    return "test" if all("test" in one["train"] for one in rounds) else "valid"


def _progress(rounds: list[dict[str, Any]]) -> Part:
    if not rounds:
        return Part("Progress", notes=["No round is finished yet."])
    name = _set_of(rounds)
    labels = labels_by_round(rounds)
    rows = [
        [
            str(k),
            labels[k],
            one["train"][name].get(ENERGY),
            one["train"][name].get(FORCES),
            one["train"][name].get("stress_rmse_GPa"),
            one.get("candidates"),
            one.get("labelled"),
            one.get("added"),
        ]
        for k, one in enumerate(rounds)
    ]
    head = (
        *("round", "structures", "energy, meV/atom", "forces, meV/Å", "stress, GPa"),
        *("candidates", "labelled", "added"),
    )
    notes = []
    if name == "valid":
        notes.append(
            "There are no test_files: these are validation frames of growing data, whose errors "
            "are not comparable from round to round."
        )
    images = [
        lines_plot(
            [Line("", np.array(labels), _errors(rounds, name, key), MODEL, marks="both")],
            "labelled structures",
            f"{what} RMSE ({unit})",
            f"{what} error over the number of labelled structures",
            log="y",
        )
        for key, what, unit in ((FORCES, "force", "meV/Å"), (ENERGY, "energy", "meV/atom"))
    ]
    last = rounds[-1]["train"][name]
    cards = [
        Card("Labelled structures", str(labels[-1]), ""),
        Card("Force RMSE", three_digits(last[FORCES]), "meV/Å", SETS[name]),
        Card("Energy RMSE", three_digits(last[ENERGY]), "meV/atom", SETS[name]),
    ]
    lead = f"Root mean square errors of {SETS[name]} after each training."
    return Part("Progress", lead, cards, [Table.of(head, rows)], images, notes=notes)


def _errors(rounds: Sequence[dict[str, Any]], name: str, key: str) -> np.ndarray:
    return np.array([one["train"][name].get(key, np.nan) for one in rounds])


def _exploration(rounds: list[dict[str, Any]]) -> Part:
    rows = [
        [
            str(k),
            one["ended"],
            f"{one['temperature']:g}",
            one["start"],
            one["steps"],
            float(one["grade"]),
            one["candidates"],
        ]
        for k, record in enumerate(rounds)
        for one in record.get("journeys", ())
    ]
    head = ("round", "ended", "K", "start", "steps", "largest grade", "candidates")
    lead = "Runs of molecular dynamics with the student of the round."
    return Part("Exploration", lead, tables=[Table.of(head, rows, text_columns=2)] if rows else [])


def _uncertainty(rounds: list[dict[str, Any]]) -> Part:
    if len(_judged(rounds, "grade")) < 3:
        return Part("Grade and error", "Too few structures were labelled.")
    lead = (
        "Each point is a labelled structure before it was added: the largest grade of its atoms "
        f"and the largest error of a force. Spearman's rank correlation: {correlation(rounds):.2f}."
    )
    return Part("Grade and error", lead, images=[grade_plot(rounds)])


def grade_plot(rounds: Sequence[dict[str, Any]]) -> Image:
    """Error over grade, rounds told apart by lightness."""
    with_labels = [(k, one["judged"]) for k, one in enumerate(rounds) if one.get("judged")]
    colours = [OTHER, REFERENCE, MODEL]
    lines = []
    for n, (k, judged) in enumerate(with_labels):
        last = n == len(with_labels) - 1
        colour = colours[0] if n == 0 and not last else colours[2] if last else colours[1]
        label = f"round {k}" if n == 0 or last else ""
        lines.append(
            Line(
                label, np.array(judged["grade"]), np.array(judged["force"]), colour, marks="points"
            )
        )
    return lines_plot(
        lines,
        "largest grade",
        "largest force error (eV/Å)",
        "largest force error of a structure over its largest extrapolation grade",
        log="xy",
    )
