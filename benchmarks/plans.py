"""Plans of stages compared: the same data, model and number of epochs.

    python -m benchmarks.plans [--quick]

Where the default plan (stages/control/defaults.py) comes from, and what LightPFP's own lists, the
stages and the calibration contribute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.accuracy import finished, one_run, same
from benchmarks.common import ROOT, arguments, record

CASES = (
    ("Si", "12", "linear"),
    ("Si", "SMALL", "NN"),
    ("ethanol", "SMALL", "linear"),
)


def lists(
    epochs: list[int],
    coefficients: list[tuple[float, float, float]],
    optimizers: list[str],
    calibration: int,
) -> dict[str, Any]:
    """Control-file sections of a plan; coefficients: energy, forces, stress of each stage."""
    n = len(epochs)
    energy, forces, stress = (list(column) for column in zip(*coefficients, strict=True))
    return {
        "multistage_config": {
            "lr_list": [0.1, 0.01][:n],
            "epoch_list": epochs,
            "energy_loss_coeff_list": energy,
            "forces_loss_coeff_list": forces,
            "stress_loss_coeff_list": stress,
            "loss_func_list": ["mse"] * n,
            "use_calib_stage": calibration > 0,
            **({"calibration_epoch": calibration} if calibration else {}),
        },
        "stage_options": {"optimizer": optimizers},
    }


FIRST, LATER = (1.0, 1.0, 1.0), (100.0, 1.0, 100.0)
LIGHT_PFP = [(1e-5, 10.0, 1e-5), (1.0, 0.1, 10.0)]
PLANS: dict[str, dict[str, Any]] = {
    "default": {},
    "LightPFP's example, Adam": lists([80, 160], LIGHT_PFP, ["adam", "adam"], 80),
    "LightPFP's example, L-BFGS": lists([80, 160], LIGHT_PFP, ["lbfgs", "lbfgs"], 80),
    "Adam, then L-BFGS": lists([80, 160], [FIRST, LATER], ["adam", "lbfgs"], 80),
    "without calibration": lists([80, 240], [FIRST, LATER], ["lbfgs", "lbfgs"], 0),
    "one stage": lists([320], [LATER], ["lbfgs"], 0),
}


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    results = [] if options.again else finished("plans", options.quick)
    for case in CASES[:1] if options.quick else CASES:
        for name, sections in PLANS.items():
            entry = dict(zip(("set", "size", "readout"), case, strict=True)) | {"plan": name}
            if any(same(entry, row) for row in results):
                continue
            results.append(one_run(entry, options, sections))
            record("plans", results, options.quick)


if __name__ == "__main__":
    main()
