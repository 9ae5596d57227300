"""What log.jsonl tells: terms over epochs, stages, contributions, seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtp.errors import InvalidInput
from mtp.terms import TERMS


@dataclass(frozen=True)
class Span:
    """A stage's log lines, ``rows[start:end]``, without the evaluation before its first step."""

    stage: int
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class History:
    """The lines of a training log, in the order they were written."""

    rows: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> History:
        """Read log.jsonl; a last line cut off by a killed process is left out.

        Raises InvalidInput for a damaged line.
        """
        if not path.exists():
            return cls(())
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[-1]:
            lines = lines[:-1]
        return cls(tuple(_parse(path, i, line) for i, line in enumerate(lines, 1) if line))

    @cached_property
    def epochs(self) -> np.ndarray:
        """(rows,) epochs since the start of the run; 0 is before the first step."""
        first = 0 if self.rows and self.rows[0]["epoch"] == 0 else 1
        return np.arange(first, first + len(self.rows))

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The stages in order."""
        spans: list[Span] = []
        for i, row in enumerate(self.rows):
            if row["epoch"] == 0:
                continue
            if spans and spans[-1].stage == row["stage"]:
                spans[-1] = Span(spans[-1].stage, spans[-1].name, spans[-1].start, i + 1)
            else:
                spans.append(Span(row["stage"], row["name"], i, i + 1))
        return tuple(spans)

    def heads(self) -> list[str]:
        """Heads in the order in which they appear."""
        return list(dict.fromkeys(head for row in self.rows for head in row["train"]))

    def terms(self, head: str) -> list[str]:
        """Terms that a head has any error of."""
        keys = {key for row in self.rows for key in row["train"].get(head, ())}
        return [term for term in TERMS if f"{term}_mse" in keys]

    def term(self, head: str, part: str, name: str) -> np.ndarray:
        """(rows,) an unweighted term, e.g. ("default", "valid", "forces_mse"); NaN where absent."""
        return np.array(
            [(row.get(part) or {}).get(head, {}).get(name, np.nan) for row in self.rows], float
        )

    def share(self, head: str, of: str) -> np.ndarray:
        """(rows,) a task's share of "steps" or "gradient"; NaN where no shares were logged."""
        shares = [row.get("share") for row in self.rows]
        return np.array([one[head][of] if one and head in one else 0.0 if one else np.nan
                         for one in shares], float)  # fmt: skip

    def coefficients(self, head: str, row: int) -> dict[str, float] | None:
        """Loss coefficients of a head in a row; None where the head was not trained."""
        line = self.rows[row]
        if head not in line["train"]:
            return None
        own = line["coeff"].get(head)  # with one head the coefficients stand there themselves
        return own if isinstance(own, dict) else line["coeff"]

    def window(self, span: Span) -> range:
        """Rows of the last 5 % of a stage's epochs (at least one): what calibration looks at."""
        length = max(1, (span.end - span.start) // 20)
        return range(span.end - length, span.end)

    def contributions(
        self, head: str, rows: range, coefficients: dict[str, float], loss: str
    ) -> dict[str, float]:
        """Coefficient times unweighted train term, averaged over rows; absent terms left out."""
        result = {}
        for term in TERMS:
            values = self.term(head, "train", f"{term}_{loss}")[list(rows)]
            if np.isfinite(values).any():
                result[term] = coefficients.get(term, 0.0) * float(np.nanmean(values))
        return result


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidInput(
            f"{path}:{number}: damaged log line ({error}); the log holds one JSON object per line"
        ) from error
