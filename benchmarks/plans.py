"""Plans of stages compared: the same data, model and number of epochs.

    python -m benchmarks.plans [--quick]

Where the default plan (stages/control/defaults.py) comes from, and what LightPFP's own lists, the
stages and the calibration contribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.accuracy import ONE_STAGE, finished, lists, one_run, same
from benchmarks.common import ROOT, arguments, record

FIRST, LATER = (1.0, 1.0, 1.0), (100.0, 1.0, 100.0)
LIGHT_PFP = [(1e-5, 10.0, 1e-5), (1.0, 0.1, 10.0)]
PLANS: dict[str, dict[str, Any]] = {
    "default": {},
    "LightPFP's example, Adam": lists([80, 160], LIGHT_PFP, ["adam", "adam"], 80),
    "LightPFP's example, L-BFGS": lists([80, 160], LIGHT_PFP, ["lbfgs", "lbfgs"], 80),
    "Adam, then L-BFGS": lists([80, 160], [FIRST, LATER], ["adam", "lbfgs"], 80),
    "without calibration": lists([80, 240], [FIRST, LATER], ["lbfgs", "lbfgs"], 0),
    "one stage": ONE_STAGE,
}
NETWORK = {
    "networks from the first stage on": {
        "stage_options": {"trainable": [["descriptor", "readout", "shifts"]] * 2, "pull": [0, 0]}
    },
    "no pull": {"stage_options": {"pull": [0, 0]}},
}
"""Further plans for networks."""
CASES = {
    ("Si", "12", "linear"): list(PLANS),
    ("Si", "SMALL", "NN"): [*PLANS, *NETWORK],
    ("ethanol", "SMALL", "linear"): list(PLANS),
    ("ethanol", "SMALL", "NN"): ["default", *NETWORK],
}
"""Set, size and readout → plans."""
FEWER: dict[str, tuple[int | None, ...]] = {
    "ethanol": (10, 30, 100, 300),
    "acac 300 K": (10, 30, 100, 300),
    "LiTi2O4": (10, 30, 100),
    "Si": (10, 30, 100),
    "methane": (None,),
    "CuPd": (None,),
    "AlCuNi": (None,),
}
"""Sets → numbers of frames (None: all) with which networks of both plans below are trained."""
LATER_OR_FIRST = ("default", "networks from the first stage on")


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    results = [] if options.again else finished("plans", options.quick)
    for entry in entries(options.quick):
        if any(same(entry, row) for row in results):
            continue
        results.append(one_run(entry, options, (PLANS | NETWORK)[entry["plan"]]))
        record("plans", results, options.quick)


def entries(quick: bool) -> Iterator[dict[str, Any]]:
    """Every case with its plans, then networks on fewer frames and more sets."""
    keys = ("set", "size", "readout")
    for case in list(CASES)[:1] if quick else CASES:
        for name in CASES[case]:
            yield dict(zip(keys, case, strict=True)) | {"plan": name}
    for name, numbers in {} if quick else FEWER.items():
        for frames, plan in product(numbers, LATER_OR_FIRST):
            yield dict(zip(keys, (name, "SMALL", "NN"), strict=True)) | {
                "plan": plan,
                **({"frames": frames} if frames else {}),
            }


if __name__ == "__main__":
    main()
