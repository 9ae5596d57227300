"""Steps as graphs: what is copied and shared, with graphs that run on the processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages import recorded
from stages.objective import Objective
from stages.recorded import Recorded
from stages.tasks import Draw
from tests.tape import TapedGraph
from tests.training import potential, stage, structures, task, task_data

MODEL = potential(hidden=(3,))


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch) -> None:
    """Graphs are tapes, and all is torch's: what the C++ kernel does is on no tape."""
    monkeypatch.setattr(recorded, "Graph", TapedGraph)
    monkeypatch.setattr(TapedGraph, "made", 0)
    monkeypatch.setenv("MTP_KERNEL", "reference")


def assert_same(own: Recorded, *given, shares: dict[str, float]) -> None:
    """The loss, its sums and its gradient with and without graphs."""
    wanted = Objective(*given, shares).gradient()
    slopes = [p.grad.clone() for p in MODEL.parameters()]
    found = Objective(*given, shares, recorded=own).gradient()
    assert found.value == pytest.approx(wanted.value, rel=1e-14)
    torch.testing.assert_close(found.sums["default"].minimised, wanted.sums["default"].minimised)
    for parameter, slope in zip(MODEL.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-12, atol=1e-14)


def test_recorded_steps_are_the_steps(rng) -> None:
    data, own = task_data(structures(rng, 12), []), Recorded(MODEL)
    # Frames of 1, 2 and 4 atoms take turns: the same number of atoms comes in several orders.
    batches = [
        np.array(k) for k in ([0, 1], [3, 4], [4, 6], [6, 7], [9, 10], [0, 1], [2], [5], [8])
    ]
    for k, indices in enumerate(batches):
        weight = {"energy": 1.0 + k, "forces": 0.1, "stress": 10.0}
        setting = stage(replace(task(), coefficients=weight))
        given = (MODEL, setting, {"default": data}, [Draw("default", indices)])
        assert_same(own, *given, shares={"default": 1.0})
    assert TapedGraph.made == 2  # two frames with 3 atoms, one of 4


def test_all_frames_in_several_batches(rng) -> None:
    """As L-BFGS looks at them, again and again with other parameters."""
    data, own = task_data(structures(rng, 12), []), Recorded(MODEL)
    draws = [Draw("default", np.array(k)) for k in ([0, 1, 2], [3, 4, 5], [6, 7], [8])]
    for _ in range(4):
        assert_same(own, MODEL, stage(), {"default": data}, draws, shares={"default": 0.5})
        with torch.no_grad():
            for parameter in MODEL.parameters():
                parameter.mul_(1.01)
    assert TapedGraph.made == 3
