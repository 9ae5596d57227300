"""Steps as graphs: what is copied and shared, with graphs that run on the processor; and that
nothing within a step makes the host wait, with tensors that have no data."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtp.kernels import choose
from stages import recorded
from stages.objective import Objective
from stages.recorded import Recorded
from stages.tasks import Draw
from tests.training import potential, stage, structures, task, task_data


class Replayed:
    """A graph that runs its function again, on the memory of the first run."""

    made = 0

    def __init__(self, pool) -> None:
        type(self).made += 1

    def record(self, function):
        self.function, self.first = function, function()
        self.kept = tree_leaves([self.first[0], *vars(self.first[1]).values(), self._gradients()])
        return self.first

    def replay(self) -> None:
        loss, sums = self.function()
        new = tree_leaves([loss, *vars(sums).values(), self._gradients()])
        for own, value in zip(self.kept, new, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(value)

    def _gradients(self):
        return [p.grad for p in MODEL.parameters()]


MODEL = potential(hidden=(3,))


def test_recorded_steps_are_the_steps(rng, monkeypatch) -> None:
    monkeypatch.setattr(recorded, "Graph", Replayed)
    Replayed.made = 0
    data, own = task_data(structures(rng, 12), []), Recorded(MODEL)
    # Frames of 1, 2 and 4 atoms take turns: the same number of atoms comes in several orders.
    batches = [
        np.array(k) for k in ([0, 1], [3, 4], [4, 6], [6, 7], [9, 10], [0, 1], [2], [5], [8])
    ]
    for k, indices in enumerate(batches):
        weight = {"energy": 1.0 + k, "forces": 0.1, "stress": 10.0}
        setting = stage(replace(task(), coefficients=weight))
        given = (MODEL, setting, {"default": data}, [Draw("default", indices)], {"default": 1.0})
        wanted = Objective(*given).gradient()
        slopes = [p.grad.clone() for p in MODEL.parameters()]
        found = Objective(*given, recorded=own).gradient()
        assert found.value == pytest.approx(wanted.value, rel=1e-14)
        torch.testing.assert_close(
            found.sums["default"].minimised, wanted.sums["default"].minimised
        )
        for parameter, slope in zip(MODEL.parameters(), slopes, strict=True):
            torch.testing.assert_close(parameter.grad, slope, rtol=1e-13, atol=1e-15)
    assert Replayed.made == 2  # two frames with 3 atoms, one of 4


class Watch(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: numbers read, copies from and to it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        given = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        places = {x.device.type for x in given}, {x.device.type for x in made}
        if (all(places) and places[0] != places[1]) or "_local_scalar" in str(function):
            self.waits[str(function)] += 1
        return result


def without_data(value):
    """The same on the device `meta`, where every number that is read is an error."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: without_data(one) for key, one in value.items()}
    if is_dataclass(value):
        return replace(
            value, **{f.name: without_data(getattr(value, f.name)) for f in fields(value)}
        )
    return value


@pytest.mark.parametrize("hidden", [(), (4, 4)], ids=["linear", "network"])
def test_nothing_in_a_step_waits(rng, hidden, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: mtp-train[test-triton]")
    monkeypatch.setattr(choose, "_KERNELS", {})
    monkeypatch.setattr(choose, "kernel_name", lambda device: "cuda")
    data, model = task_data(structures(rng, 4), []), potential(hidden=hidden)
    batch = without_data(data.train.batch())
    model = model.to("meta")
    work = Objective(model, stage(), {"default": data}, [Draw("default", None)], {"default": 1.0})
    with Watch() as watch:
        loss, sums = work._part("default", True, batch, task().coefficients)
    assert loss.is_meta
    assert sums.minimised.is_meta
    assert all(p.grad is not None for p in model.parameters())
    assert set(watch.waits) <= {"aten._to_copy.default"}  # the mean weights, once a run
    assert watch.waits.total() <= 1
