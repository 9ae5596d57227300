"""The examples of the README do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtp.mlip_import import load_mtp
from mtp.model_file import save_model

ROOT = Path(__file__).parents[2]


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    model = tmp_path / re.search(r'MTPCalculator\("([^"]+)"', example)[1]
    model.parent.mkdir(parents=True)
    save_model(model, load_mtp(ROOT / "tests" / "reference" / "silicon.mtp"))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(unit in printed for unit in (" eV\n", " eV/Å\n", " eV/Å³\n"))
    assert "nan" not in printed
