"""The build of the C++ kernel: without a compiler the installation goes on and says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_installation_goes_on_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed (extra: test)")
    command = ["build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=ROOT,
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the C++ kernel was not built: no-such-compiler: No such file" in done.stderr
    assert "MTP_KERNEL=reference" in done.stderr
    assert not list(tmp_path.rglob("libmtp*"))
