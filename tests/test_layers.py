"""Imports point one way: mtp <- pretrained <- stages, and the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("mtp", "pretrained", "stages")
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    """First names of everything a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            own = path.relative_to(ROOT).parts[0]
            names.add(own if node.level else (node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = set(LAYERS[layer + 1 :]) | {"tests", "benchmarks"}
    assert not imported_packages(path) & above


def test_every_folder_with_modules_is_a_package() -> None:
    """Otherwise the wheel would leave it out."""
    assert all((path.parent / "__init__.py").exists() for path in MODULES)


@pytest.mark.parametrize("module", ["mtp", "stages", "stages.cli"])
def test_import_does_not_load_torch(module: str) -> None:
    """`mtp --help` and a refused control file answer at once."""
    if not (ROOT / module.replace(".", "/")).is_dir():
        pytest.importorskip(module, reason=f"{module} is not there")
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
