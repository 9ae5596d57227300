"""Moment tensor potentials: basis, kernels, model files and the ASE calculator.

The public names are loaded when they are first used, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "CommitteeCalculator": "mtp.committee",
    "MTPCalculator": "mtp.calculator",
    "Potential": "mtp.potential",
    "load_model": "mtp.model_file",
    "save_model": "mtp.model_file",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mtp' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
