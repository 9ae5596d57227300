"""The peer program: MOTEP (PyPI) with its C engine, by its own interfaces, and known figures."""

from __future__ import annotations

import gzip
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np

from benchmarks.common import ROOT
from mtp.mlip_file import write_mtp
from mtp.potential import Potential

if TYPE_CHECKING:
    from motep.calculator import MTP
    from motep.loss import LossFunction

logging.getLogger("motep").setLevel(logging.ERROR)  # a line for every pair below min_dist

# Measured once on an AMD EPYC with AVX-512, one thread: MLIP-3 (serial, g++ 12 -O3) and MOTEP 0.2.0
# on mlearn's silicon training set and a 1000-atom thermal silicon cell, µs per atom of CPU time,
# r_c = 5 Å, 8 polynomials. Carried over to another machine by the calculator of MOTEP.
MLIP3_GRADIENT = {8: 34.0, 12: 112.0, 16: 346.0, 20: 860.0}
MLIP3_LOSS = {8: 12.0, 12: 26.0, 16: 76.0, 20: 188.0}
MLIP3_CALCULATOR = {8: 7.4, 12: 26.7, 16: 73.9, 20: 185.0}
MOTEP_CALCULATOR = {8: 10.7, 12: 22.5, 16: 49.8, 20: 119.0}

# The same program trained with BFGS on that set with its default weights (energy 1, force 0.01,
# stress 0.001): CPU seconds, test MAE and RMSE of energy (meV/atom), forces (meV/Å), stress (GPa).
MLIP3_SILICON = {
    12: [
        {"seconds": 815, "energy": (4.86, 5.90), "forces": (95.1, 137.8), "stress": (0.239, 0.363)},
        {
            "seconds": 1486,
            "energy": (4.74, 6.08),
            "forces": (93.3, 135.1),
            "stress": (0.230, 0.341),
        },
    ],
    16: [
        {"seconds": 165, "energy": (6.78, 11.3), "forces": (99.8, 151.0), "stress": (0.488, 0.749)},
        {"seconds": 549, "energy": (2.86, 3.59), "forces": (77.4, 116.7), "stress": (0.293, 0.471)},
    ],
}


def machine_scale(level: int, motep_here: float) -> float:
    """This machine's time over that of the figures, by MOTEP's calculator (µs per atom here)."""
    return motep_here / MOTEP_CALCULATOR[level]


def calculator(potential: Potential) -> MTP:
    """MOTEP's calculator for the exported potential."""
    from motep.calculator import MTP

    return MTP(_exported(potential), engine="cext")


def loss_function(potential: Potential, stride: int) -> LossFunction:
    """MOTEP's loss of every `stride`-th silicon structure, default weights."""
    from motep.loss import LossFunction, LossSetting

    with gzip.open(ROOT / "configs" / "demo" / "train.xyz.gz", "rt") as file:
        images = ase.io.read(file, f"::{stride}", format="extxyz")
    return LossFunction(images, _exported(potential), LossSetting(), engine="cext")


def evaluate(loss: LossFunction) -> np.ndarray:
    """One evaluation of loss and full gradient, as its optimisers do it."""
    parameters = loss.mtp_data.parameters
    loss(parameters)
    return loss.jac(parameters)


def _exported(potential: Potential) -> Any:
    from motep.io.mlip.mtp import read_mtp

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that below min_dist programs differ
        path = Path(folder) / "potential.mtp"
        write_mtp(path, potential)
        data = read_mtp(path)
    data.species = potential.spec.species
    return data
