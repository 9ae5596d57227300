"""Runs on a GPU: what only a real one can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.run.train import train
from tests.training import tiny_plan

pytestmark = pytest.mark.cuda


def losses(run: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return np.array([row["train"]["default"]["loss"] for row in rows])


def test_a_run_on_a_gpu_is_that_of_a_processor(tmp_path: Path) -> None:
    """The stage of Adam in float64, steps recorded; L-BFGS may decide otherwise from rounding."""
    for device in ("cuda", "cpu"):
        train(tiny_plan(tmp_path), tmp_path / device, device=device)
    one, two = losses(tmp_path / "cuda"), losses(tmp_path / "cpu")
    assert one.shape == two.shape
    np.testing.assert_allclose(one[:4], two[:4], rtol=1e-8)


def test_a_run_on_a_gpu_is_the_same_twice(tmp_path: Path) -> None:
    for name in ("first", "second"):
        train(tiny_plan(tmp_path), tmp_path / name, device="cuda")
    assert (losses(tmp_path / "first") == losses(tmp_path / "second")).all()
