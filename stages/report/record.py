"""What a run directory holds, read back for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtp.errors import InvalidInput
from mtp.model_file import describe
from mtp.short_names import short_names
from stages.predictions import Predictions, read_predictions
from stages.report.data import shortened
from stages.report.history import History


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
    environment: dict[str, Any] | None = None

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
            environment=_json(folder / "environment.json"),
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


def _model(folder: Path) -> dict[str, Any] | None:
    for name in ("best.mtp.safetensors", "model.mtp.safetensors"):
        if (folder / name).exists():
            return describe(folder / name)
    return None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); delete it or train again") from error
