"""A run that is killed at any moment and restarted ends bit by bit as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mtp import atomic_file
from mtp.data import read, write
from mtp.errors import InvalidInput
from stages.optimisers.adam import Adam
from stages.plan import DataFile
from stages.run import folder as run_folder
from stages.run import train as run
from stages.run.log import Log
from stages.run.train import train
from tests.training import tiny_plan

ROOT = Path(__file__).parents[2]
MODELS = ("model.mtp.safetensors", "best.mtp.safetensors")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at every epoch, and no pictures."""
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run, "write_report", lambda folder: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data are."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that nobody disturbed."""
    train(tiny_plan(folder), folder / "whole", device="cpu")
    return folder / "whole"


def lines(folder: Path) -> list[dict]:
    """The log without the seconds."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(again: Path, whole: Path) -> None:
    for name in MODELS:
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert lines(again) == lines(whole)
    assert (again / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def killed(work: Callable[[], object]) -> None:
    """Do the work in a child process, which must end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)  # whatever happened, never go on with the parent's tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die_at_call(place: object, name: str, call: int, after: bool = False) -> None:
    """From now on the given call of a function kills the process, before or after its work."""
    original, calls = getattr(place, name), 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, wrapper)


MOMENTS = {
    "in the first epoch": (Adam, "step", 2, False),
    "in the second epoch": (Adam, "step", 5, False),
    "before a line of the log": (Log, "append", 3, False),
    "after a line of the log": (Log, "append", 3, True),
    "before the first checkpoint": (run_folder, "save_checkpoint", 1, False),
    "after a checkpoint": (run_folder, "save_checkpoint", 2, True),
    "while a file is written": (atomic_file.Path, "replace", 8, False),
    "before the best model": (run_folder, "save_model", 4, False),
    "between models and checkpoint": (run_folder, "save_checkpoint", 5, False),
    "in the stage of L-BFGS": (Log, "append", 6, True),
    "after the solve": (Log, "append", 7, True),
    "in calibration": (Log, "append", 9, True),
    "after training": (run_folder.RunFolder, "mark_finished", 1, False),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment(folder: Path, whole: Path, tmp_path: Path, moment: str) -> None:
    def work() -> None:
        die_at_call(*MOMENTS[moment])
        train(tiny_plan(folder), tmp_path / "run", device="cpu")

    killed(work)
    train(tiny_plan(folder), tmp_path / "run", device="cpu", restart=True)
    assert_same(tmp_path / "run", whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_killed_again_and_again(
    folder: Path, whole: Path, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when checkpoints are rare: then more is done again."""
    monkeypatch.setattr(run_folder, "SAVE_EVERY", seconds)

    def work() -> None:
        die_at_call(Log, "append", 4)
        train(tiny_plan(folder), tmp_path / "run", device="cpu", restart=True)

    for _ in range(2):
        killed(work)
    train(tiny_plan(folder), tmp_path / "run", device="cpu", restart=True)
    assert_same(tmp_path / "run", whole)


SCRIPT = """
import sys
from pathlib import Path
from stages.run import folder as run_folder
from stages.run import train as run
from stages.run.train import train
from tests.training import tiny_plan
run_folder.SAVE_EVERY = 0.0
folder, output = map(Path, sys.argv[1:])
train(tiny_plan(folder), output, device="cpu", restart=True)
"""


def start(folder: Path, output: Path) -> subprocess.Popen:
    """Train in a process of its own until its log has two lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(output)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = output / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    return process


def test_killed_from_outside(folder: Path, whole: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path / "run")
    process.kill()
    process.communicate()
    train(tiny_plan(folder), tmp_path / "run", device="cpu", restart=True)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step(
    folder: Path, whole: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with KeyboardInterrupt in the middle of an epoch and goes on from there."""
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 1e6)
    step, calls = Adam.step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:  # the second of the second epoch's three steps
            signal.raise_signal(number)
        return step(*args)

    before = signal.getsignal(number)
    monkeypatch.setattr(Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_plan(folder), tmp_path / "run", device="cpu")
    assert signal.getsignal(number) is before
    position = run_folder.load_checkpoint(tmp_path / "run" / "checkpoint" / "state.pt").position
    assert (position.stage, position.epoch, position.step) == (0, 1, 2)
    train(tiny_plan(folder), tmp_path / "run", device="cpu", restart=True)
    assert len(calls) == 5 + 4 + 9  # what was left of stage 1, and calibration
    assert_same(tmp_path / "run", whole)


def test_restart_of_a_finished_run_changes_nothing(folder: Path, whole: Path) -> None:
    def state() -> dict:
        files = [path for path in whole.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    result = train(tiny_plan(folder), whole, device="cpu", restart=True)
    assert state() == before
    assert result == json.loads((whole / "metrics.json").read_text())


def test_a_run_is_not_overwritten(folder: Path, whole: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds a run already.*--restart"):
        train(tiny_plan(folder), whole, device="cpu")


def test_restart_names_what_changed_in_the_control_file(folder: Path, whole: Path) -> None:
    plan = tiny_plan(folder)
    stages = (replace(plan.stages[0], lr=0.5), *plan.stages[1:])
    with pytest.raises(
        InvalidInput, match=r"control file changed: .*lr_list of stage1: was 0.01,"
    ) as error:
        train(replace(plan, stages=stages), whole, device="cpu", restart=True)
    assert len(error.value.lines) == 1


def test_restart_by_another_path_to_the_same_data(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(folder)
    data = replace(plan.data["default"], files=(DataFile("data.xyz"),))
    monkeypatch.chdir(folder)
    train(replace(plan, data={"default": data}), whole, device="cpu", restart=True)


def test_restart_names_what_changed_in_the_data(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    train(plan, tmp_path / "run", device="cpu")
    frames = read(tmp_path / "data.xyz")
    write(tmp_path / "data.xyz", [replace(frames[0], energy=0.0), *frames[1:]])
    with pytest.raises(InvalidInput, match=r"data.xyz \(.* frames of default\): changed"):
        train(plan, tmp_path / "run", device="cpu", restart=True)


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint" / "state.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(InvalidInput, match=r"state.pt: not a checkpoint"):
        train(tiny_plan(folder), tmp_path, device="cpu", restart=True)
