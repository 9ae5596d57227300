"""What a restart would change about a run, in the words of the control file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

FREE = ("/warnings", "/run/strict", "/run/memory")  # parts of the plan that change no result
LISTS = {"lr": "lr_list", "epochs": "epoch_list", "loss": "loss_func_list"}
ELSEWHERE = {  # parts of the plan that stand in another section than their neighbours
    "/model/reload_model": "common_config.reload_model",
    "/run/batch_size": "common_config.batch_size",
    "kind": "common_config.lr_scheduling",
    "step_size": "common_config.scheduler_step_size",
    "gamma": "run_config.scheduler_gamma",
    "min_ratio": "run_config.lr_min_ratio",
}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for every value of a plan (plain data) that is not what it was.

    Paths of data files do not count: what is in the files does (`train.py`, `fingerprints`).
    """
    return [
        f"the control file changed: {_name(where, before)}: was {json.dumps(old)}, is now "
        f"{json.dumps(new)}; a restart cannot change it: put it back, or start in a new directory"
        for where, old, new in _different(before, now)
    ]


def _different(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Place, old and new value of what differs."""
    if where in FREE or where.endswith("/path"):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _different(before.get(key), now.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _different(old, new, f"{where}/{i}")
    elif where == "/stages":
        yield where, *([stage["name"] for stage in stages] for stages in (before, now))
    elif before != now:
        yield where, before, now


def _name(where: str, plan: dict[str, Any]) -> str:
    """The key of the control file that a place in the plan comes from."""
    _, part, *rest = where.split("/")
    last = rest[-1] if rest else ""
    if where in ELSEWHERE:
        return ELSEWHERE[where]
    if part == "stages":
        if not rest:
            return "multistage_config (stages)"
        return f"{_stage_key(rest, last)} of {plan['stages'][int(rest[0])]['name']}"
    if part == "data" and len(rest) > 1:
        section = "common_config" if rest[1] in ("max_energy", "max_forces") else "data_config"
        return ".".join([section, *rest[1:]])
    return ".".join([{"model": "mtp_config", "run": "run_config"}.get(part, part), *rest])


def _stage_key(rest: list[str], last: str) -> str:
    if "schedule" in rest:
        return ELSEWHERE[last]
    if "coefficients" in rest and last in ("energy", "forces", "stress"):
        return f"multistage_config.{last}_loss_coeff_list"
    if last in LISTS:
        return f"multistage_config.{LISTS[last]}"
    if "calibration_target" in rest:
        return "stage_options.calibration_target"
    return f"stage_options.{last}"
