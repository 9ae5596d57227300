"""How a pass is run."""

from __future__ import annotations

from typing import Any

import torch


def launch(function: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a pass on the device of its first array; Triton itself takes the current device."""
    with torch.cuda.device_of(arguments[0]):
        function[grid](*arguments, **constants)
