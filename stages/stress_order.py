"""Stress labels whose shear components stand in another order than yz xz xy.

Programs and converters disagree about the order, and no check of a single frame can tell. A trained
potential can: energies and forces fix its stress, so labels that fit it far better with components
exchanged are wrong. Groups of frames are looked at apart, because often only some are affected.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from ase.units import GPa

from stages.predictions import Predictions

SHEAR = {3: "yz", 4: "xz", 5: "xy"}
FRAMES = 5  # a group with fewer labelled frames is no evidence
BETTER = 0.6  # the other order must lower the error to this share


def permuted_stress(predictions: Predictions) -> list[str]:
    """One warning per file and config_type whose shear stresses fit better in another order.

    None for a head that predicts no stress.
    """
    if "stress" not in predictions.predicted:
        return []
    labels, predicted = predictions.labels["stress"], predictions.predicted["stress"]
    labelled = ~np.isnan(labels).any(1)
    groups = np.char.add(np.char.add(predictions.source, "\n"), predictions.config_type)
    found = []
    for group in np.unique(groups[labelled]):
        chosen = labelled & (groups == group)
        if chosen.sum() < FRAMES:
            continue
        label = labels[chosen][:, 3:]
        errors = {
            order: float(np.sqrt(np.mean((predicted[chosen][:, order] - label) ** 2)))
            for order in permutations(SHEAR)
        }
        best = min(errors, key=errors.__getitem__)
        if errors[best] < BETTER * errors[tuple(SHEAR)]:
            found.append(_warning(group, best, errors[best], errors[tuple(SHEAR)]))
    return found


def _warning(group: str, order: tuple[int, ...], other: float, given: float) -> str:
    source, config_type = group.split("\n")
    name = source + (f", config_type {config_type}" if config_type else "")
    return (
        f"{name}: the last three stress labels look like {' '.join(SHEAR[k] for k in order)}, not "
        f"yz xz xy (they differ from the potential's by {other / GPa:.2f} instead of "
        f"{given / GPa:.2f} GPa rms); check the order of components in the file"
    )
