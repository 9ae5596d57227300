"""Fill the tables of docs/benchmarks.md from benchmarks/results; no number there is typed by hand.

    python -m benchmarks.tables [--quick]

A table stands between the lines `<!-- table NAME -->` and `<!-- end -->`. With --quick the tables
of results/quick are printed instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks import peer, speed_tables, task_tables
from benchmarks.cells import number, pairs, rows_of, size_name
from benchmarks.common import RESULTS, ROOT, arguments

PAGE = ROOT / "docs" / "benchmarks.md"
BLOCK = re.compile(r"<!-- table (\w+) -->\n.*?<!-- end -->", re.DOTALL)
LABELS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
TERMS = tuple(LABELS)
UNITS = {"dipole": "eA", "polarizability": "A3"}
PROPERTIES = {
    "lattice parameter a": "a, Å",
    "C11": "C11, GPa",
    "C12": "C12, GPa",
    "C44": "C44, GPa",
    "vacancy energy": "vacancy, eV",
    "difference of frequencies, rms": "phonons, rms THz",
    "difference of g(r), mean": "g(r), mean difference",
}
"""Quantities of `mtp validate` that the table of students shows → its heading."""


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    if options.quick:
        for name in TABLES:
            print(f"## {name}\n\n{render(name, True)}")
        return
    text = BLOCK.sub(lambda match: block(match[1]), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


def block(name: str) -> str:
    """A table between its markers."""
    return f"<!-- table {name} -->\n\n{render(name)}\n<!-- end -->"


def render(name: str, quick: bool = False) -> str:
    """The table of a name, with where it was measured."""
    source, table = TABLES[name]
    content = load(source, quick)
    if content is None:
        command = source.replace("silicon_", "accuracy --")
        return f"Not measured yet: `python -m benchmarks.{command}`.\n"
    case = name.removeprefix("tasks_") if source == "tasks" else None
    return f"{table(content)}\n{where(content, case)}\n"


def load(name: str, quick: bool = False) -> dict[str, Any] | None:
    """The content of a result file, None where there is none."""
    path = (RESULTS / "quick" if quick else RESULTS) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def where(content: dict[str, Any], case: str | None = None) -> str:
    """One line of provenance. case: of a file with several, the one that is shown."""
    versions, changed = content["versions"], " with changes" if content["modified"] else ""
    command, when = content["command"], f"{content['date'][:10]}, revision `{content['revision']}`"
    results = content["results"]
    rows = [row for row in results if "revision" in row] if isinstance(results, list) else []
    if rows:  # filled over several calls
        rows = [row for row in rows if case is None or row["case"] == case]
        days = sorted({row["date"][:10] for row in rows})
        revisions = list(dict.fromkeys(row["revision"] for row in rows))
        when = " to ".join(dict.fromkeys((days[0], days[-1]))) + ", "
        when += "revisions " if len(revisions) > 1 else "revision "
        when += ", ".join(f"`{revision}`" for revision in revisions)
        command, changed = re.sub(r" --(?!curve|seeds).*", "", command), ""
    return (
        f"{content['processor']}, {content['instruction_set']} kernel, torch {versions['torch']}, "
        f"MOTEP {versions['motep']}; {when}{changed}; `{command}`.\n"
    )


def accuracy(content: dict[str, Any]) -> str:
    """Test MAE / RMSE of every set."""
    heading = (
        *("set", "model", "readout", "frames", "energy, meV/atom", "forces, meV/Å", "stress, GPa"),
        "CPU seconds",
    )
    order = list(dict.fromkeys(row["set"] for row in content["results"]))
    results = sorted(content["results"], key=lambda row: order.index(row["set"]))
    rows = [_accuracy_row(row) for row in results]
    for i in reversed(range(1, len(rows))):  # a set's name stands in its first row only
        if results[i]["set"] == results[i - 1]["set"]:
            rows[i] = ("", *rows[i][1:])
    return rows_of(heading, rows)


def _accuracy_row(row: dict[str, Any]) -> tuple[str, ...]:
    name = row["set"] + (f" ({row['note']})" if row["note"] else "")
    model = (name, size_name(row["size"]), row["readout"])
    if "failed" in row:
        return (*model, "failed", "–", "–", "–", "–")
    test = row["test"]
    cells = [f"{number(test.get(f'{t}_mae'))} / {number(test.get(f'{t}_rmse'))}" for t in TERMS]
    cells = ["–" if cell == "– / –" else cell for cell in cells]
    return (*model, str(row["train_frames"]), *cells, number(cpu(row)))


def cpu(row: dict[str, Any], seconds: float | None = None) -> float:
    """CPU seconds of a part of a run, all its epochs unless told, from its wall seconds.

    The run has one thread; its share of the processor was the same throughout.
    """
    wall = row["training_seconds"] if seconds is None else seconds
    return wall * row["cpu_seconds"] / row["wall_seconds"]


def stages(content: dict[str, Any]) -> str:
    """Validation errors before and after every stage."""
    heading = (
        "set",
        "model",
        "stage",
        "CPU seconds",
        "energy, meV/atom",
        "forces, meV/Å",
        "stress, GPa",
    )
    rows = []
    for row in content["results"]:
        if row["set"] not in ("Si", "Cu", "ethanol") or row["readout"] != "linear":
            continue
        for one in row.get("stages", ()):
            cells = [
                f"{number(one['before'].get(t))} → {number(one['after'].get(t))}"
                if t in one["after"]
                else "–"
                for t in TERMS
            ]
            rows.append(
                (
                    *(row["set"], size_name(row["size"]), one["name"]),
                    *(number(cpu(row, one["seconds"])), *cells),
                )
            )
    return rows_of(heading, rows)


def curve(content: dict[str, Any]) -> str:
    """Silicon: errors against time, and MLIP-3's."""
    heading = ("level", "plan", "epochs", "CPU seconds", *(f"{t}, {u}" for t, u in LABELS.items()))
    rows = []
    for size in dict.fromkeys(row["size"] for row in content["results"]):
        mine = [row for row in content["results"] if row["size"] == size]
        for row in sorted(mine, key=lambda row: (row["plan"], row["epochs"])):
            errors = [(row["test"][f"{t}_mae"], row["test"][f"{t}_rmse"]) for t in TERMS]
            first = (size, row["plan"], str(row["epochs"]), number(cpu(row)))
            rows.append((*first, *pairs(errors)))
        for known in peer.MLIP3_SILICON.get(int(size), []) if size.isdigit() else []:
            errors = [known[t] for t in TERMS]
            rows.append((size, "MLIP-3", "–", number(known["seconds"]), *pairs(errors)))
    return rows_of(heading, rows)


def seeds(content: dict[str, Any]) -> str:
    """Silicon: smallest, median and largest test MAE over the seeds."""
    heading = ("level", "plan", "epochs", "seeds", *(f"{t}, {u}" for t, u in LABELS.items()))
    rows = []
    cases = [(row["size"], row["plan"], row["total_epoch"]) for row in content["results"]]
    for case in dict.fromkeys(cases):
        mine = [row for row, its in zip(content["results"], cases, strict=True) if its == case]
        columns = [[row["test"][f"{term}_mae"] for row in mine] for term in TERMS]
        columns.append([cpu(row) for row in mine])
        spans = [
            f"{number(median(column))} ({number(min(column))} to {number(max(column))})"
            for column in columns
        ]
        rows.append((*map(str, case), str(len(mine)), *spans))
    return rows_of((*heading, "CPU seconds"), rows)


def plans(content: dict[str, Any]) -> str:
    """Test MAE of every plan, one row per plan and case."""
    heading = ("set", "frames", "model", "readout", "plan", "energy, meV/atom", "forces, meV/Å")
    rows = [
        (
            *(row["set"], str(row["train_frames"]), size_name(row["size"]), row["readout"]),
            *(row["plan"], *(number(row["test"].get(f"{t}_mae")) for t in TERMS)),
            number(cpu(row)),
        )
        for row in content["results"]
        if "failed" not in row
    ]
    return rows_of((*heading, "stress, GPa", "CPU seconds"), rows)


def trained_by_peers(content: dict[str, Any]) -> str:
    """MOTEP's training of silicon beside ours at the same levels."""
    ours = [
        row
        for row in (load("accuracy") or {"results": []})["results"]
        if row["set"] == "Si" and row["readout"] == "linear" and "test" in row
    ]
    rows = []
    for row in content["results"]:
        mine = [("mtp-train", cpu(r), r["test"]) for r in ours if r["size"] == row["level"]]
        for name, seconds, test in [("MOTEP", row["cpu_seconds"], row["test"]), *mine]:
            errors = [(test[f"{t}_mae"], test[f"{t}_rmse"]) for t in TERMS]
            rows.append((row["level"], name, number(seconds), *pairs(errors)))
    units = (f"{t}, {u}" for t, u in LABELS.items())
    return rows_of(("level", "program", "CPU seconds", *units), rows)


def tensors(content: dict[str, Any]) -> str:
    """Test errors of tensors by level and readout."""
    heading = ("set", "of", "level", "readout", "parameters", "MAE / RMSE, 10⁻³ per atom")
    rows = []
    for row in content["results"]:
        if "failed" in row:
            continue
        kind, unit = row["kind"], UNITS[row["kind"]]
        errors = [row["heads_errors"][kind][f"{kind}_{e}_{unit}_per_atom"] for e in ("mae", "rmse")]
        rows.append(
            (
                *(row["set"], kind, str(row["level"])),
                "gated, " + " × ".join(map(str, row["hidden"])) if row["hidden"] else "linear",
                str(row["parameters"]),
                *pairs([(1e3 * errors[0], 1e3 * errors[1])]),
                f"{number(100 * errors[1] / row['spread_per_atom'])} %",
                number(row["cpu_seconds"]),
            )
        )
    return rows_of((*heading, "RMSE / spread", "CPU seconds"), rows)


def tasks(case: str) -> Callable[[dict[str, Any]], str]:
    """Table of one case of the benchmark of tasks."""

    def table(content: dict[str, Any]) -> str:
        results = [row for row in content["results"] if row["case"] == case]
        if not results:
            return "Not measured yet."
        heading, rows = task_tables.CASES[case](results)
        return rows_of(heading, [[_words(cell) for cell in row] for row in rows])

    return table


def finetuning(content: dict[str, Any]) -> str:
    """Fine-tuned models against scratch."""
    heading, rows = task_tables.finetuning(content["comparison"])
    return rows_of(heading, [[_words(cell) for cell in row] for row in rows])


def distillation(content: dict[str, Any]) -> str:
    """Students of a classical potential: test errors and properties beside the teacher's."""
    rows = []
    for row in content["results"]:
        test, found = row["test"], {one["quantity"]: one for one in row["properties"]}
        errors = [test["energy_mae_meV_per_atom"], test["forces_mae_meV_per_A"]]
        shown = [number(found[name]["student"]) if name in found else "–" for name in PROPERTIES]
        name = row["model"] if row["start"] == "pretrained" else f"{row['model']}'s form, scratch"
        rows.append((name, str(row["frames"]), *map(number, errors), *shown))
    teacher = {one["quantity"]: one["teacher"] for one in content["results"][-1]["properties"]}
    last = [number(teacher[name]) if teacher.get(name) else "–" for name in PROPERTIES]
    heading = ("student", "frames", "energy, meV/atom", "forces, meV/Å", *PROPERTIES.values())
    return rows_of(heading, [*rows, ("the teacher", "–", "–", "–", *last)])


def _words(cell: task_tables.Cell) -> str:
    if isinstance(cell, str):
        return cell
    values = cell if isinstance(cell, list) else [cell]
    return " / ".join(map(number, values))


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "training_speed": ("training_speed", speed_tables.training),
    "calculator_speed": ("calculator_speed", speed_tables.calculators),
    "kernel_peak": ("kernel_peak", speed_tables.peak),
    "scaling": ("scaling", speed_tables.scaling),
    "lammps_speed": ("lammps_speed", speed_tables.lammps),
    "lammps_peer": ("lammps_peer", speed_tables.lammps_peer),
    "agreement": ("agreement", speed_tables.agreement),
    "silicon_curve": ("silicon_curve", curve),
    "silicon_seeds": ("silicon_seeds", seeds),
    "peer_training": ("peer_training", trained_by_peers),
    "plans": ("plans", plans),
    "tensors": ("tensors", tensors),
    "stages": ("accuracy", stages),
    "accuracy": ("accuracy", accuracy),
    "finetuning": ("finetuning", finetuning),
    "distillation": ("distillation", distillation),
    **{f"tasks_{case}": ("tasks", tasks(case)) for case in task_tables.CASES},
}
"""Name in the page → (result file, how it is drawn)."""

if __name__ == "__main__":
    main()
