"""report.html: everything a run directory holds, on one page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mtp.atomic_file import write_atomically
from mtp.terms import PREDICTED
from stages.evaluate import columns_of, three_digits
from stages.messages import describe_head
from stages.metrics import atomic_term
from stages.metrics import metrics as measure
from stages.plan import WITH_RATE
from stages.predictions import Predictions
from stages.report import figures, tables
from stages.report.calibration import CalibrationSection, calibration_section
from stages.report.data import data_section
from stages.report.record import Run
from stages.report.tasks import Stack, across_tasks, colour, tasks_section
from stages.run.environment import versions


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
    page = environment.get_template("template.html").render(_content(run))
    path = run.folder / "report.html"
    write_atomically(path, page.encode())
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
        "learning_rate": figures.learning_rate(run.history, _without_rate(run)),
        "heads": [_head(run, name) for name in run.heads],
        "several": len(run.heads) > 1,
        "terms": _terms(run),
        "tasks": tasks_section(run.plan, run.scan, run.history),
        "across": _across(run),
        "provenance": _provenance(run),
        "sections": _sections(run),
    }


def _without_rate(run: Run) -> list[str]:
    """Stages whose optimiser has no learning rate."""
    stages = (run.plan or {}).get("stages", ())
    return [stage["name"] for stage in stages if stage["optimizer"] not in WITH_RATE]


def _head(run: Run, name: str) -> dict[str, Any]:
    """Everything about one head."""
    sets = run.predictions.get(name, {})
    history = run.history
    part = "valid" if any((row.get("valid") or {}).get(name) for row in history.rows) else "train"
    content: dict[str, Any] = {
        "name": name,
        "colour": colour(run.heads.index(name)),
        "curves": figures.learning_curves(history, name, _best(run)) if history.rows else [],
        "part": part,
        "effect": tables.effect_table(history, name, part),
        "calibration": _calibration(run, name),
        "data": data_section(scan) if (scan := _scan_of(run, name)) else None,
        "sets": None,
    }
    if sets:
        content |= _results(sets)
    return content


def _terms(run: Run) -> str:
    """What the losses are made of, in words."""
    kinds = {head["kind"] for head in (run.plan or {}).get("model", {}).get("heads", ())}
    terms = [term for kind in PREDICTED if kind in kinds for term in PREDICTED[kind]]
    words = [tables.LOSS_WORDS[term] for term in terms]
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _across(run: Run) -> list[Stack]:
    """Shares of the tasks in the loss around calibration."""
    if run.plan is None or run.calibration is None or len(run.calibration) < 2:
        return []
    return across_tasks(run.plan, run.scan, run.calibration, run.history)


def _calibration(run: Run, head: str) -> CalibrationSection | None:
    table = (run.calibration or {}).get(head)
    return calibration_section(table, run.history, head) if table else None


def _scan_of(run: Run, head: str) -> dict[str, Any] | None:
    """scan.json holds one scan per head."""
    return (run.scan or {}).get(head)


def _results(sets: dict[str, Predictions]) -> dict[str, Any]:
    chosen = figures.headline_set(list(sets))
    numbers = measure({"": sets})[""]
    term = atomic_term(sets[chosen]) or ""
    return {
        "sets": list(sets),
        "headline_set": {"valid": "validation"}.get(chosen, chosen),
        "cards": _cards(numbers[chosen]),
        "headline": tables.headline(numbers),
        "parity": figures.parity_plots(sets),
        "shifted": figures.energies_are_shifted(sets),
        "distributions": figures.distributions(sets),
        "elements": tables.element_table(sets, chosen),
        "elements_of": {"forces": "force"}.get(term, tables.words(term)),
        "files": tables.group_table(sets, "file"),
        "config_types": tables.group_table(sets, "config_type"),
        "worst": {
            tables.words(term): table
            for term in sets[chosen].predicted
            if (table := tables.worst_table(sets, term))
        },
    }


def _cards(numbers: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "term": tables.words(c.term),
            "unit": c.unit,
            "mae": three_digits(numbers[c.mae]) if c.mae in numbers else "–",
            "rmse": three_digits(numbers[c.rmse]) if c.rmse in numbers else "",
        }
        for c in columns_of([numbers])
    ]


def _title(run: Run) -> str:
    spec = (run.model or {}).get("spec")
    elements = " ".join(_symbols(spec["species"])) if spec else ""
    return f"{elements} moment tensor potential" if elements else "Moment tensor potential"


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
    elif run.calibration is None:
        notes.append("calibration.json is absent: calibration has not begun.")
    for head, sets in run.predictions.items():
        if "test" not in sets:
            chosen = figures.headline_set(list(sets))
            of = "" if head == "default" else f" for {head}"
            notes.append(
                f"No test files were given{of}: the headline errors are of {chosen}, which "
                + ("chose the best epoch." if chosen == "valid" else "was trained on.")
            )
        for term in PREDICTED["energy"]:
            labels = [one.labels[term] for one in sets.values() if term in one.labels]
            if labels and not any(np.isfinite(one).any() for one in labels):
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
    colon = ":" if len(spec["heads"]) > 1 else ""
    facts += [(f"head {head['name']}{colon}", describe_head(head)) for head in spec["heads"]]
    return facts


def _details(run: Run) -> list[tuple[str, str]]:
    """The model in full."""
    if run.model is None:
        return []
    spec, made = run.model["spec"], run.model.get("provenance", {})
    costs = [spec[f"moment_{name}_cost"] for name in ("init", "mu", "nu")]
    numbers = sum(int(np.prod(one["shape"])) for one in run.model["tensors"].values())
    facts = [
        *_facts(run),
        ("moment costs", "init {}, μ {}, ν {}".format(*costs)),
        ("radial functions", f"{spec['n_q']} Chebyshev polynomials"),
        ("min_dist", f"{spec['min_dist']:.3f} Å"),
        ("numbers in the file", f"{numbers:,}"),
    ]
    if "epoch" in made:
        facts.append(("best epoch", f"{made['stage']}, epoch {made['epoch']}"))
    return facts


def _sections(run: Run) -> list[tuple[str, str]]:
    """(anchor, name) of the sections of the page."""
    results = []
    for i, head in enumerate(head for head in run.heads if run.predictions.get(head)):
        of = f": {head}" if len(run.heads) > 1 else ""
        results += [(f"predictions{i or ''}", f"Predictions{of}")]
        results += [(f"worst{i or ''}", "Worst frames")] if not of else []
    several = run.plan is not None and len(run.plan["data"]) > 1
    return [
        ("errors", "Errors"),
        ("plan", "Plan"),
        *([("tasks", "Tasks")] if several else []),
        ("data", "Data"),
        ("learning", "Learning"),
        ("calibration", "Calibration"),
        *results,
        ("provenance", "Provenance"),
    ]


def _provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, entries) of where everything comes from."""
    settings = [
        (name, f"{value:g} GiB for neighbour pairs" if name == "memory" else str(value))
        for name, value in (run.plan or {}).get("run", {}).items()
        if value is not None and value is not False
    ]
    return [
        ("Model", _details(run)),
        ("Run", [("time", tables.duration(run.seconds)), *settings]),
        (f"Versions {'in training' if run.environment else 'of this report'}", _versions(run)),
        ("Data (SHA-256 of structures and labels)", _fingerprints(run)),
    ]


def _versions(run: Run) -> list[tuple[str, str]]:
    """What trained the potential; without environment.json, what makes this page."""
    found = run.environment or {"versions": versions()}
    machine = [(key, str(value)) for key, value in found.items() if key != "versions"]
    return [*found["versions"].items(), *machine]


def _best(run: Run) -> int | None:
    """Row of the log at which the best model was kept."""
    made = (run.model or {}).get("provenance", {})
    for row, line in enumerate(run.history.rows):
        if (line["name"], line["epoch"]) == (made.get("stage"), made.get("epoch")):
            return row
    return None


def _fingerprints(run: Run) -> list[tuple[str, str]]:
    return [
        (name if len(run.heads) == 1 else f"{head}: {name}", digest)
        for head, scan in (run.scan or {}).items()
        for name, digest in scan.get("fingerprint", {}).items()
    ]


def _symbols(species: list[int]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in species]
