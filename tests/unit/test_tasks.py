"""The order of batches: every frame once a pass, seeded, and shared between tasks by weight."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from stages.loss import label_counts
from stages.tasks import Sampler, chunks, deal, everything, shares
from tests.training import stage, structures, task, task_data, unlabelled

WEIGHTED = {"a": task(weight=1.0), "b": task(weight=3.0)}


def indices(draws, name="default"):
    return np.concatenate([draw.indices for draw in draws if draw.task == name])


@pytest.mark.parametrize(("frames", "size", "steps"), [(10, 4, 3), (8, 4, 2), (3, 128, 1)])
def test_an_epoch_of_one_task_sees_every_frame_once(frames, size, steps):
    sampler = Sampler(stage(), {"default": frames}, size, 0, 0)
    epochs = [sampler.epoch(epoch) for epoch in (1, 2)]
    for draws in epochs:
        assert len(draws) == steps
        assert sorted(indices(draws)) == list(range(frames))
        assert all(len(draw.indices) == size for draw in draws[:-1])
    assert list(indices(epochs[0])) != list(indices(epochs[1]))


def test_the_order_depends_on_seed_and_stage_and_nothing_else():
    def order(seed, number):
        sampler = Sampler(stage(), {"default": 20}, 4, seed, number)
        return list(indices(sampler.epoch(3)))

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, number)) for seed in (1, 2) for number in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, {"a": 1, "b": 1}, {"a": 5, "b": 5}),
        (10, {"a": 2, "b": 1}, {"a": 7, "b": 3}),
        (4, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}),
        (3, {"a": 100, "b": 1}, {"a": 3, "b": 0}),
    ],
)
def test_steps_are_dealt_by_largest_remainder(total, weights, expected):
    assert deal(total, weights) == expected


def test_two_tasks_share_the_steps_and_go_on_through_their_own_shuffles():
    """Over epochs each task sees its frames equally often, whatever its share of steps."""
    frames = {"a": 12, "b": 4}
    sampler = Sampler(stage(WEIGHTED), frames, 4, 0, 0)
    assert sampler.steps == 4
    epochs = [sampler.epoch(epoch) for epoch in range(1, 7)]
    assert all([d.task for d in draws].count("b") == 3 for draws in epochs)
    assert len({tuple(d.task for d in draws) for draws in epochs}) > 1
    draws = [draw for epoch in epochs for draw in epoch]
    for name, count in frames.items():
        seen = indices(draws, name)
        assert sorted(seen) == sorted(list(range(count)) * (len(seen) // count))
        first = list(islice(seen, count))
        assert sorted(first) == list(range(count))


def test_shares_default_to_batches_and_zero_is_idle():
    tasks = {"a": task(), "b": task(weight=2.0), "c": task(weight=0.0)}
    assert shares(stage(tasks), {"a": 3, "b": 3, "c": 3}) == {"a": 3.0, "b": 2.0}


def test_everything_is_everything_once(rng):
    frames = structures(rng, 5)
    data = {"a": task_data(frames, []), "b": task_data(frames[:3], []), "idle": task_data([], [])}
    most = len(frames[0]) + len(frames[1])
    draws = everything(data, ["a", "b"], most)
    for name, count in (("a", 5), ("b", 3)):
        parts = [draw.indices for draw in draws if draw.task == name]
        assert np.concatenate(parts).tolist() == list(range(count))
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            held = sum(len(frames[i]) for i in part)
            assert held <= most or len(part) == 1
            assert len(following) == 0 or held + len(frames[following[0]]) > most


def test_a_frame_larger_than_a_chunk_is_one():
    assert [list(c) for c in chunks(np.array([9, 2, 3, 9, 1]), 5)] == [[0], [1, 2], [3], [4]]
    assert list(chunks(np.array([], int), 5)) == []


def test_label_counts_of_a_task_equal_those_of_its_batches(rng):
    frames = structures(rng, 6)
    frames[0] = unlabelled(frames[0], "energy")
    frames[1] = unlabelled(frames[1], "forces")
    frames[2] = unlabelled(frames[2], "stress")
    data = task_data(frames, frames[:1])
    batch = data.train.batch()
    assert data.counts.tolist() == label_counts(batch, batch.labels).tolist()
    weights = [frame.weight for frame in frames]
    assert float(data.weights[0]) == pytest.approx(sum(weights[1:]))
    assert data.labelled == {"energy": True, "forces": True, "stress": True}
