"""Training with two processes under torchrun against one process, on CPUs over Gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.data import write
from stages import distributed
from stages.cli import train_main
from tests.runs import together
from tests.training import structures

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds


def torchrun(*arguments: str | Path) -> subprocess.Popen:
    """Two processes on this machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Minibatches of random tasks, full batches, the curvature and the normal equations."""
    process = torchrun(ROOT / "tests" / "runs" / "together.py", tmp_path / "two.pt")
    alone = together.results()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    both = torch.load(tmp_path / "two.pt", weights_only=True)
    assert both.keys() == alone.keys()
    assert sum("gradient" in name for name in alone) >= 10
    for name, value in alone.items():
        bound = 1e-8 if "after" in name else 1e-10
        size = max(float(value.abs().max()), 1e-3) if value.numel() else 0.0
        far = float((both[name] - value).abs().max()) if value.numel() else 0.0
        assert far <= bound * size, (name, far / size)


def control(folder: Path, epochs: int) -> Path:
    """A control file for a short run with calibration."""
    write(folder / "data.xyz", structures(np.random.default_rng(3), 14))
    content = {
        "common_config": {"batch_size": 4},
        "mtp_config": {"levmax": 4, "rc": 4.0, "n_q": 3},
        "multistage_config": {"epoch_list": [epochs, 2], "calibration_epoch": 3},
        # without a pull the few frames leave linear weights to rounding
        "stage_options": {"optimizer": ["adam", "lbfgs"], "pull": [0.0, 1.0]},
        "data_config": {"files": ["data.xyz"]},
        "run_config": {"threads": 1},
    }
    path = folder / "control.json"
    path.write_text(json.dumps(content))
    return path


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> np.ndarray:
    return np.array([row["train"]["default"]["loss"] for row in rows(run)])


def test_a_run_of_two_goes_on_with_one(tmp_path: Path) -> None:
    """Interrupted under torchrun, restarted alone: the same losses as undisturbed."""
    file, run = control(tmp_path, 150), tmp_path / "run"
    process = torchrun("-m", "mtp.train", file, "--output", run, "--device", "cpu")
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        if (run / "log.jsonl").exists() and len(rows(run)) > 5:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    done = len(rows(run))
    assert 5 < done < 150, errors
    assert errors.count("2 processes of 1 threads") == 1
    assert errors.count("interrupted; the same command with --restart goes on") == 2
    assert not (run / "metrics.json").exists()
    assert train_main([str(file), "--output", str(run), "--device", "cpu", "--restart"]) == 0
    assert train_main([str(file), "--output", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    np.testing.assert_allclose(losses(run), losses(tmp_path / "alone"), rtol=1e-8)


def test_frames_are_dealt_out_by_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = np.array([1.0, 9.0, 2.0, 4.0, 4.0, 1.0])
    indices = np.array([5, 4, 3, 1, 0])
    assert distributed.mine(indices, costs) is indices
    for name in distributed.LAUNCHED_WITH:
        monkeypatch.setenv(name, "2")
    dealt = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        dealt.append(distributed.mine(indices, costs).tolist())
    assert dealt == [[1, 0], [5, 4, 3]]


def test_one_process_needs_no_group() -> None:
    value = torch.ones(2)
    assert distributed.all_sum([value])[0] is value
    assert not distributed.any_rank(False)
    assert distributed.on_root(lambda: 3) == 3
    assert distributed.is_root()
