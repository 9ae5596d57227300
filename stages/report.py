"""report.html: everything a run directory holds, on one page that opens offline."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import mtp
from mtp.errors import InvalidInput
from stages import report_figures as figures
from stages import report_tables as tables
from stages.evaluate import COLUMNS, three_digits
from stages.history import TERMS, History
from stages.metrics import Predictions, read_predictions
from stages.metrics import metrics as measure
from stages.report_data import data_section, short_names, shortened

PACKAGES = ("torch", "numpy", "scipy", "ase", "vesin", "safetensors")


@dataclass(frozen=True)
class Run:
    """What a run directory holds; None or empty for what is not there (yet)."""

    folder: Path
    plan: dict[str, Any] | None
    scan: dict[str, Any] | None
    calibration: dict[str, Any] | None
    history: History
    predictions: dict[str, dict[str, Predictions]] = field(default_factory=dict)
    model: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run directory; raises InvalidInput where there is no run."""
        plan = _json(folder / "plan.json")
        history = History.read(folder / "log.jsonl")
        if plan is None and not history.rows:
            raise InvalidInput(
                f"{folder}: holds no run (expected plan.json or log.jsonl); "
                "give the directory that mtp-train wrote to"
            )
        npz = folder / "predictions.npz"
        predictions = read_predictions(npz) if npz.exists() else {}
        scan = _json(folder / "scan.json")
        names = short_names(_paths(scan, predictions))
        return cls(
            folder=folder,
            plan=shortened(plan, names),
            scan=shortened(scan, names),
            calibration=_json(folder / "calibration.json"),
            history=history,
            predictions=_renamed(predictions, names),
            model=_model(folder),
        )

    @cached_property
    def heads(self) -> list[str]:
        """Every head that anything is known about."""
        names = [*(self.plan or {}).get("data", {}), *self.history.heads(), *self.predictions]
        return list(dict.fromkeys(names))

    @property
    def epochs_planned(self) -> int | None:
        return sum(s["epochs"] for s in self.plan["stages"]) if self.plan else None

    @property
    def epochs_done(self) -> int:
        return sum(span.end - span.start for span in self.history.spans)

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history.rows)


def write_report(run_dir: str | Path) -> Path:
    """Build RUN_DIR/report.html from what the run left there, finished or not.

    Uses plan.json, scan.json, log.jsonl, calibration.json, predictions.npz and the header of
    best.mtp.safetensors; the page says which of them are absent.
    Returns the page's path. Raises InvalidInput when the directory holds no run.
    """
    run = Run.read(Path(run_dir))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report_template.html").render(_content(run))
    path = run.folder / "report.html"
    partial = path.with_name(".report.html.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def _content(run: Run) -> dict[str, Any]:
    return {
        "title": _title(run),
        "folder": run.folder.resolve().name,
        "state": _state(run),
        "absent": _absent(run),
        "facts": _facts(run),
        "plan": tables.plan_table(run.plan, run.history) if run.plan else None,
        "warnings": list((run.plan or {}).get("warnings", ())),
        "learning_rate": figures.learning_rate(run.history) if run.history.rows else None,
        "heads": [_head(run, name) for name in run.heads],
        "several": len(run.heads) > 1,
        "provenance": _provenance(run),
        "sections": _sections(run),
        "terms": TERMS,
    }


def _head(run: Run, name: str) -> dict[str, Any]:
    """Everything about one head."""
    sets = run.predictions.get(name, {})
    history = run.history
    part = "valid" if any((row.get("valid") or {}).get(name) for row in history.rows) else "train"
    content: dict[str, Any] = {
        "name": name,
        "curves": figures.learning_curves(history, name) if history.rows else [],
        "part": part,
        "effect": tables.effect_table(history, name, part),
        "shares": (shares := _shares(run, name)),
        "share_table": tables.share_table(shares) if shares else None,
        "target": _target(run),
        "calibration_notes": [],
        "data": data_section(scan) if (scan := _scan_of(run, name)) else None,
        "sets": None,
    }
    if sets:
        content |= _results(sets)
    return content


def _scan_of(run: Run, head: str) -> dict[str, Any] | None:
    """scan.json holds one scan per head."""
    return (run.scan or {}).get(head)


def _results(sets: dict[str, Predictions]) -> dict[str, Any]:
    chosen = figures.headline_set(list(sets))
    numbers = measure({"": sets})[""]
    return {
        "sets": list(sets),
        "headline_set": chosen,
        "cards": _cards(numbers[chosen]),
        "headline": tables.headline(numbers),
        "parity": figures.parity_plots(sets),
        "shifted": figures.energies_are_shifted(sets),
        "distributions": figures.distributions(sets),
        "elements": tables.element_table(sets, chosen),
        "files": tables.group_table(sets, "file"),
        "config_types": tables.group_table(sets, "config_type"),
        "worst": {t: table for t in TERMS if (table := tables.worst_table(sets, t))},
    }


def _cards(numbers: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "term": term,
            "unit": unit,
            "mae": three_digits(numbers[mae]) if mae in numbers else "–",
            "rmse": three_digits(numbers[rmse]) if rmse in numbers else "",
        }
        for term, unit, mae, rmse in COLUMNS
    ]


def _shares(run: Run, head: str) -> list[tables.Share]:
    """Loss contributions around the calibration stage; empty where there was none."""
    history = run.history
    spans = history.spans
    if len(spans) < 2 or spans[-1].name != "calibration":
        return []
    before, after = spans[-2], spans[-1]
    loss = _loss_of(run, after.name, head)
    window = history.window(before)
    old = history.coefficients(head, before.end - 1)
    new = history.coefficients(head, after.start)
    if old is None or new is None:
        return []
    moments = [
        (f"end of {before.name}, its coefficients", window, old),
        ("the same errors, calibrated coefficients", window, new),
        ("end of calibration", history.window(after), new),
    ]
    return [
        tables.Share.of(label, history.contributions(head, rows, coefficients, loss), coefficients)
        for label, rows, coefficients in moments
    ]


def _loss_of(run: Run, stage: str, head: str) -> str:
    for one in (run.plan or {}).get("stages", ()):
        if one["name"] == stage and head in one["tasks"]:
            return one["tasks"][head]["loss"]
    return "mse"


def _paths(
    scan: dict[str, Any] | None, predictions: dict[str, dict[str, Predictions]]
) -> list[str]:
    """Every data file that is named anywhere."""
    found = [
        row["file"]
        for one in (scan or {}).values()
        for row in [*one["files"], *one.get("test_files", ())]
    ]
    sets = [one for sets in predictions.values() for one in sets.values()]
    return found + [str(path) for one in sets for path in np.unique(one.source)]


def _renamed(
    predictions: dict[str, dict[str, Predictions]], names: dict[str, str]
) -> dict[str, dict[str, Predictions]]:
    def rename(one: Predictions) -> Predictions:
        return replace(one, source=np.array([names[str(path)] for path in one.source]))

    return {
        head: {name: rename(one) for name, one in sets.items()}
        for head, sets in predictions.items()
    }


def _title(run: Run) -> str:
    spec = (run.model or {}).get("spec")
    elements = " ".join(_symbols(spec["species"])) + " " if spec else ""
    return f"{elements}moment tensor potential"


def _state(run: Run) -> dict[str, str]:
    done, planned = run.epochs_done, run.epochs_planned
    text = f"{done} epochs in {tables.duration(run.seconds)}"
    if planned is not None and done < planned:
        last = run.history.spans[-1].name if run.history.spans else "none"
        return {
            "kind": "unfinished",
            "text": f"Unfinished: {done} of {planned} epochs, last stage {last}",
        }
    return {"kind": "finished", "text": f"Finished: {text}"}


def _absent(run: Run) -> list[str]:
    """What cannot be shown, and why."""
    notes = []
    if run.plan is None:
        notes.append("plan.json is absent: no plan table.")
    if run.scan is None:
        notes.append("scan.json is absent: no data scan.")
    if not run.history.rows:
        notes.append("log.jsonl is absent or empty: no learning curves.")
    if run.model is None:
        notes.append("best.mtp.safetensors is absent: no description of the model.")
    if not run.predictions:
        notes.append("predictions.npz is absent: no errors, parity plots or worst frames.")
    if run.plan is not None and run.plan["stages"][-1]["name"] != "calibration":
        notes.append("The plan has no calibration stage.")
    for head, sets in run.predictions.items():
        if "test" not in sets:
            chosen = figures.headline_set(list(sets))
            of = "" if head == "default" else f" for {head}"
            notes.append(
                f"No test files were given{of}: the headline errors are of {chosen}, which "
                + ("chose the best epoch." if chosen == "valid" else "was trained on.")
            )
        for term in TERMS:
            if all(f"{term}_" not in " ".join(one) for one in measure({"": sets})[""].values()):
                notes.append(f"No {term} labels{'' if head == 'default' else ' for ' + head}.")
    return notes


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the model is."""
    if run.model is None:
        return []
    spec = run.model["spec"]
    facts = [
        ("elements", " ".join(_symbols(spec["species"]))),
        ("cutoff", f"{spec['cutoff']:g} Å"),
        ("level", str(spec["levmax"])),
    ]
    hidden = spec.get("hidden") or ()
    facts.append(("readout", "NN " + "–".join(map(str, hidden)) if hidden else "linear"))
    return facts


def _target(run: Run) -> str:
    """What calibration wants the shares to be, as the end of a sentence."""
    target = (run.plan or {"stages": [{}]})["stages"][-1].get("calibration_target")
    if not target or len({round(value, 6) for value in target.values()}) == 1:
        return "become equal"
    return "become " + " : ".join(f"{target[term]:g}" for term in TERMS) + f" ({', '.join(TERMS)})"


def _sections(run: Run) -> list[tuple[str, str]]:
    """(anchor, name) of the sections of the page."""
    results = [("predictions", "Predictions"), ("worst", "Worst frames")] if run.predictions else []
    return [
        ("errors", "Errors"),
        ("plan", "Plan"),
        ("data", "Data"),
        ("learning", "Learning"),
        ("calibration", "Calibration"),
        *results,
        ("provenance", "Provenance"),
    ]


def _provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, entries) of where everything comes from."""
    settings = [(name, str(value)) for name, value in (run.plan or {}).get("run", {}).items()]
    return [
        ("Model", _facts(run)),
        ("Run", [("time", tables.duration(run.seconds)), *settings]),
        ("Versions", _versions()),
    ]


def _versions() -> list[tuple[str, str]]:
    """Versions of what made this page."""
    found = [("mtp-train", mtp.__version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _symbols(species: list[int]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in species]


def _model(folder: Path) -> dict[str, Any] | None:
    from mtp.model_file import describe

    for name in ("best.mtp.safetensors", "model.mtp.safetensors"):
        if (folder / name).exists():
            return describe(folder / name)
    return None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); delete it or train again") from error
