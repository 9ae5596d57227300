"""Where a run took place: versions, kernel, processor; for environment.json and the report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mtp

PACKAGES = ("torch", "numpy", "scipy", "ase", "vesin", "safetensors")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Plain data: {"versions": {name: version}, "kernel", "processor", "threads", …}."""
    import torch

    from mtp.kernels.choose import kernel_name

    where = {"processor": f"{_processor()}, {os.cpu_count()} cores"}
    if device.startswith("cuda"):
        where["GPU"] = torch.cuda.get_device_name(device)
    return {
        "versions": versions(),
        "kernel": kernel_name(device),
        **where,
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Version of this package, of Python and of the packages that numbers depend on."""
    found = {"mtp-train": mtp.__version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
