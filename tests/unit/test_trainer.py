"""The loop of a stage: what it logs, what it moves, where it stops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mtp.potential import EmbeddingSpec
from stages.objective import NotFinite, evaluate
from stages.plan import GROUPS, coefficients
from stages.run.checkpoint import Position
from stages.trainer import Setting, run_stage
from tests.training import (
    SPECIES,
    groups,
    potential,
    stage,
    structures,
    task,
    task_data,
    unlabelled,
)


class Recorder:
    """Keeps what the trainer says."""

    def __init__(self):
        self.lines, self.losses, self.positions, self.steps = [], [], [], 0

    def begin(self, loss):
        pass

    def epoch(self, line, loss):
        self.lines.append(line)
        self.losses.append(loss)

    def step(self, position):
        self.steps += 1

    def save(self, position, final=False):
        self.positions.append(position())


def run(rng, settings=None, model=None, frames=None, valid=3, start=None, batch_size=4):
    frames = structures(rng, 13) if frames is None else frames
    model = potential() if model is None else model
    data = {"default": task_data(frames[valid:], frames[:valid])}
    recorder = Recorder()
    setting = Setting(model, data, batch_size, seed=0)
    run_stage(setting, settings or stage(), 0, start or Position(), recorder)
    return recorder, model, data["default"]


def test_epoch_0_is_the_evaluation_before_the_first_step(rng):
    model = potential()
    recorder, _, data = run(rng, model=model)
    untouched = potential()
    for which in ("train", "valid"):
        sums = evaluate(untouched, "default", getattr(data, which), task())
        logged = recorder.lines[0][which]["default"]
        assert logged == pytest.approx(sums.means() | {"loss": sums.loss(task().coefficients)})


def test_lines_have_the_documented_shape(rng):
    recorder, _, _ = run(rng)
    assert [line["epoch"] for line in recorder.lines] == [0, 1, 2, 3]
    line = recorder.lines[1]
    assert list(line) == ["stage", "name", "epoch", "lr", "coeff", "train", "valid", "seconds"]
    assert (line["stage"], line["name"], line["lr"]) == (1, "stage1", 0.01)
    assert line["coeff"] == {"energy": 1.0, "forces": 0.1, "stress": 10.0}
    terms = {f"{t}_{k}" for t in ("energy", "forces", "stress") for k in ("mse", "l1")}
    assert set(line["train"]["default"]) == set(line["valid"]["default"]) == terms | {"loss"}
    assert recorder.steps == 3 * 2  # of three steps the last one ends the epoch


def test_valid_terms_are_those_at_the_end_of_the_epoch(rng):
    recorder, model, data = run(rng)
    sums = evaluate(model, "default", data.valid, task())
    last = recorder.lines[-1]["valid"]["default"]
    assert {k: v for k, v in last.items() if k != "loss"} == pytest.approx(sums.means())
    assert recorder.losses[-1] == pytest.approx(sums.loss(task().coefficients))


def test_train_terms_with_rate_almost_zero_are_those_of_the_whole_set(rng):
    """The running average over batches of different sizes and weights is the weighted mean."""
    recorder, model, data = run(rng, stage(lr=1e-12, epochs=1))
    sums = evaluate(model, "default", data.train, task())
    logged = {k: v for k, v in recorder.lines[1]["train"]["default"].items() if k != "loss"}
    assert logged == pytest.approx(sums.means(), rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [("adam", "mse"), ("adam", "l1"), ("lbfgs", "mse"), ("lbfgs", "l1")],
)
@pytest.mark.parametrize("hidden", [(), (4, 4)])
def test_training_lowers_the_loss(rng, optimizer, loss, hidden):
    # l1 has no curvature of its own: L-BFGS needs some thirty steps through its kinks
    settings = stage(task(loss=loss), optimizer=optimizer, epochs=30)
    recorder, _, _ = run(rng, settings, potential(hidden))
    losses = [line["train"]["default"]["loss"] for line in recorder.lines]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [
        *((name, group) for name in ("adam", "lbfgs") for group in GROUPS),
        ("lstsq", "readout"),
    ],
)
def test_only_the_groups_of_the_stage_move(rng, optimizer, group):
    model = potential(embedding=EmbeddingSpec((2,)) if group == "type_embedding" else None)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(rng, stage(trainable=(group,), optimizer=optimizer), model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    mine = {id(p) for p in groups(model, group)[group]}
    assert moved == {name for name, p in model.named_parameters() if id(p) in mine}


def test_l1_does_not_see_an_outlier_as_mse_does(rng):
    """With one wrong energy the median is kept: the shift follows most of the frames."""
    frames = [unlabelled(f, "forces", "stress") for f in structures(rng, 12, atoms=(1,))]
    frames = [replace(f, numbers=frames[0].numbers, energy=-3.0, weight=1.0) for f in frames]
    frames[5] = replace(frames[5], energy=97.0)
    found = {}
    for loss in ("mse", "l1"):
        model = potential()
        torch.nn.init.zeros_(model.heads["default"].last.weight)
        run(
            rng,
            stage(
                task(loss=loss, coefficients=coefficients(1, 0, 0)),
                trainable=("shifts",),
                lr=0.3,
                epochs=60,
            ),
            model,
            frames,
            valid=1,
        )
        species = SPECIES.index(int(frames[0].numbers[0]))
        found[loss] = float(model.heads["default"].shifts.detach()[species])
    assert found["l1"] == pytest.approx(-3.0, abs=0.5)
    assert found["mse"] > 1.0


def test_without_validation_frames_the_training_loss_decides(rng):
    recorder, _, _ = run(rng, valid=0)
    assert recorder.lines[1]["valid"] == {}
    assert recorder.losses[1] == recorder.lines[1]["train"]["default"]["loss"]


def test_a_loss_that_is_not_finite_stops_with_the_place(rng):
    frames = structures(rng, 13)
    data = {"default": task_data(frames[3:], frames[:3])}
    start = sum(len(frame) for frame in frames[3:8])
    data["default"].train._values["forces"][start] = math.inf
    recorder = Recorder()
    where = frames[8].where
    with pytest.raises(NotFinite, match=rf"stage1, epoch 1: .*{where}"):
        run_stage(Setting(potential(), data, 4, 0), stage(), 0, Position(epoch=0), recorder)
    assert recorder.lines == []


def test_an_average_of_weights_is_validated_and_kept(rng):
    """With a decay near 1 the averaged weights hardly leave the start."""
    model = potential()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorder, _, _ = run(rng, stage(ema=1 - 1e-9, lr=0.1), model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=1e-6)
    assert recorder.losses[-1] == pytest.approx(recorder.losses[0], rel=1e-5)


def test_two_heads_learn_from_their_own_data(rng):
    """Two tasks with energies 100 eV apart: each head's shifts go their own way."""
    frames = [replace(f, weight=1.0) for f in structures(rng, 8)]
    moved = [replace(f, energy=f.energy + 100 * len(f)) for f in frames]
    data = {"a": task_data(frames, frames[:2]), "b": task_data(moved, moved[:2])}
    plan = stage(
        {
            "a": task(coefficients=coefficients(1, 0, 0)),
            "b": task(coefficients=coefficients(1, 0, 0)),
        },
        optimizer="lstsq",
        trainable=("readout", "shifts"),
        epochs=1,
    )
    model, recorder = potential(heads=("a", "b")), Recorder()
    run_stage(Setting(model, data, 4, 0), plan, 0, Position(), recorder)
    a, b = (model.heads[name].shifts.detach() for name in ("a", "b"))
    torch.testing.assert_close(b - a, torch.full((2,), 100.0).double(), rtol=0, atol=0.1)
    line = recorder.lines[-1]
    assert set(line["train"]) == set(line["valid"]) == set(line["coeff"]) == {"a", "b"}
