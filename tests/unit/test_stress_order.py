"""Exchanged shear components are found, right ones and scarce ones are left alone."""

import numpy as np
import pytest

from mtp.structure import Structure
from stages.predictions import Predictions
from stages.stress_order import permuted_stress


def predictions(order: tuple[int, ...], frames: int, config_type: str = "") -> Predictions:
    """Labels in an order of the six components, predictions in the right one with some error."""
    rng = np.random.default_rng(0)
    stress = 0.01 * rng.normal(size=(frames, 6))
    structures = [
        Structure(
            numbers=np.array([14]),
            positions=np.zeros((1, 3)),
            cell=3 * np.eye(3),
            pbc=np.ones(3, bool),
            stress=row[list(order)],
            source="si.xyz",
            config_type=config_type,
        )
        for row in stress
    ]
    predicted = stress + 0.002 * rng.normal(size=stress.shape)
    return Predictions.collect(structures, {"stress": predicted})


@pytest.mark.parametrize(
    ("order", "said"), [((0, 1, 2, 4, 3, 5), "xz yz xy"), ((0, 1, 2, 5, 3, 4), "xy yz xz")]
)
def test_exchanged_components_are_named(order, said):
    (message,) = permuted_stress(predictions(order, 12, "melt"))
    assert message.startswith(
        f"si.xyz, config_type melt: the last three stress labels look like {said}"
    )


def test_right_labels_are_left_alone():
    assert permuted_stress(predictions((0, 1, 2, 3, 4, 5), 12)) == []


def test_few_frames_are_no_evidence():
    assert permuted_stress(predictions((0, 1, 2, 4, 3, 5), 4)) == []
