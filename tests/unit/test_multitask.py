"""Stages × tasks: who is drawn, what moves, whose coefficients and rates hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from stages.calibration import calibrated_stage
from stages.objective import Objective
from stages.optimisers.lbfgs import LBFGS
from stages.plan import Prefactors, Schedule, Stage, coefficients
from stages.run.checkpoint import Position
from stages.schedule import decay, with_prefactors
from stages.tasks import Sampler, everything
from stages.trainer import Setting, _StageRun, move_only, run_stage
from tests.training import potential, stage, structures, task, task_data, tiny_plan


class Recorder:
    """Keeps lines and, at every step, where the run could go on."""

    def __init__(self) -> None:
        self.lines, self.positions = [], []

    def begin(self, loss):
        pass

    def epoch(self, line, loss) -> None:
        self.lines.append(line | {"judged": loss})

    def save(self, position, final=False) -> None:
        self.positions.append(position())

    def step(self, position) -> None:
        self.positions.append(position())


def two_tasks(rng, frames: tuple[int, int] = (10, 4)):
    made = structures(rng, sum(frames) + 2)
    moved = [replace(f, energy=f.energy + 5 * len(f)) for f in made]
    first, second = made[: frames[0]], moved[frames[0] : sum(frames)]
    return {"a": task_data(first, made[-2:]), "b": task_data(second, moved[-1:])}


def train(rng, settings: Stage, random: bool = False, origin=None, **more):
    model, recorder = potential(heads=("a", "b"), **more), Recorder()
    origin = origin(model) if origin else {}
    setting = Setting(model, two_tasks(rng), 4, 0, random, origin)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run_stage(setting, settings, 0, Position(), recorder)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    return model, recorder, moved


# --- drawing --------------------------------------------------------------------------------------


def test_random_draws_follow_the_weights_and_the_seed() -> None:
    tasks = {"a": task(weight=3.0), "b": task(weight=1.0)}

    def order(seed: int) -> list[str]:
        sampler = Sampler(stage(tasks), {"a": 40, "b": 40}, 4, seed, 0, random=True)
        return [draw.task for epoch in range(1, 51) for draw in sampler.epoch(epoch)]

    drawn = Counter(order(0))
    assert drawn.total() == 50 * 20
    assert drawn["a"] / drawn.total() == pytest.approx(0.75, abs=0.04)
    assert order(0) == order(0) != order(1)


def test_random_draws_do_not_depend_on_where_a_run_goes_on() -> None:
    tasks = {"a": task(), "b": task()}
    whole, late = (Sampler(stage(tasks), {"a": 9, "b": 7}, 2, 0, 0, True) for _ in range(2))
    epochs = [whole.epoch(epoch) for epoch in range(1, 8)]
    for one, two in zip(epochs[-1], late.epoch(7), strict=True):
        assert one.task == two.task
        assert list(one.indices) == list(two.indices)


def test_epochs_of_tasks_are_passes_through_their_own_frames() -> None:
    """10 batches twice and 2 batches 30 times, spread over the 20 epochs of the stage."""
    tasks = {"a": task(epochs=2.0), "b": task(epochs=30.0)}
    sampler = Sampler(stage(tasks, epochs=20), {"a": 40, "b": 8}, 4, 0, 0)
    drawn = Counter(draw.task for epoch in range(1, 21) for draw in sampler.epoch(epoch))
    assert drawn == {"a": 20, "b": 60}


# --- what moves -----------------------------------------------------------------------------------


def test_a_head_that_is_not_drawn_is_neither_updated_nor_decayed(rng) -> None:
    """The weight of b is too small for a single step."""
    tasks = {"a": task(weight=1000.0), "b": task(weight=1.0)}
    _, recorder, moved = train(rng, stage(tasks, weight_decay=0.1, epochs=2))
    assert moved == {"radial", "heads.a.last.weight", "heads.a.shifts"}
    assert set(recorder.lines[-1]["share"]) == {"a"}


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "lstsq"])
def test_an_idle_task_keeps_its_head(rng, optimizer: str) -> None:
    tasks = {"a": task(), "b": task(weight=0.0)}
    _, recorder, moved = train(rng, stage(tasks, optimizer=optimizer, epochs=2))
    assert not any("heads.b" in name for name in moved)
    assert any("heads.a" in name for name in moved)
    assert set(recorder.lines[-1]["train"]) == {"a"}


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (("b",), {"heads.b.last.weight", "heads.b.shifts"}),
        (("a.readout", "b.shifts"), {"heads.a.last.weight", "heads.b.shifts"}),
        (("descriptor", "a.shifts"), {"radial", "heads.a.shifts"}),
    ],
)
def test_groups_of_single_heads(rng, trainable, expected) -> None:
    tasks = {"a": task(), "b": task()}
    assert train(rng, stage(tasks, trainable=trainable, optimizer="lbfgs"))[2] == expected


def test_shares_of_steps_and_gradients_are_logged(rng) -> None:
    tasks = {"a": task(weight=1.0), "b": task(weight=3.0, coefficients=coefficients(0, 1e-6, 0))}
    _, recorder, _ = train(rng, stage(tasks))
    for line in recorder.lines[1:]:
        assert line["share"]["a"]["steps"] == pytest.approx(1 / 4)
        assert line["share"]["a"]["gradient"] > 0.99
        assert sum(one["gradient"] for one in line["share"].values()) == pytest.approx(1)


def test_shares_of_gradients_of_full_batches(rng) -> None:
    tasks = {"a": task(weight=1.0), "b": task(weight=3.0, coefficients=coefficients(0, 1e-6, 0))}
    _, recorder, _ = train(rng, stage(tasks, optimizer="lbfgs"))
    assert recorder.lines[1]["share"]["a"]["gradient"] > 0.99


# --- coefficients and rates -----------------------------------------------------------------------


def test_prefactors_follow_the_learning_rate() -> None:
    wanted = {"energy": Prefactors(0.02, 1.0), "forces": Prefactors(1000.0, 1.0)}
    one = stage(task(prefactors=wanted), epochs=10, lr=0.1, schedule=Schedule("step", 2, 0.5))
    for epoch, ratio in ((1, 1.0), (2, 1.0), (3, 0.5), (9, 0.5**4)):
        assert decay(one, epoch, 0, 7) == ratio
        found = with_prefactors(one, ratio).tasks["default"].coefficients
        assert found == pytest.approx(
            {"energy": 0.02 * ratio + (1 - ratio), "forces": 1000 * ratio + (1 - ratio)}
        )


def test_prefactors_do_not_follow_the_warm_up() -> None:
    one = stage(epochs=10, lr=0.1, schedule=Schedule("linear_warmup", 3))
    assert [decay(one, epoch, step, 2) for epoch in (1, 2, 3) for step in (0, 1)] == [1.0] * 6
    assert 0 < decay(one, 10, 1, 2) < decay(one, 4, 0, 2) < 1


def test_the_log_has_the_coefficients_of_the_moment_and_judges_by_the_last(rng) -> None:
    wanted = {"energy": Prefactors(4.0, 1.0), "forces": Prefactors(8.0, 2.0)}
    tasks = {"a": task(prefactors=wanted), "b": task()}
    settings = stage(tasks, epochs=2, schedule=Schedule("step", 1, 0.5))
    _, recorder, _ = train(rng, settings)
    logged = [line["coeff"]["a"] for line in recorder.lines]
    assert logged[1:] == [{"energy": 4.0, "forces": 8.0}, {"energy": 2.5, "forces": 5.0}]
    line = recorder.lines[-1]["valid"]
    a = line["a"]["energy_mse"] + 2 * line["a"]["forces_mse"]
    share = 3 / 4  # batches: 3 of a, 1 of b
    expected = share * a + (1 - share) * line["b"]["loss"]
    assert recorder.lines[-1]["judged"] == pytest.approx(expected)


def test_a_task_has_its_own_rate(rng) -> None:
    """With rates 0 (almost) for one task only the other's steps move anything."""
    tasks = {"a": task(lr=1e-30), "b": task()}
    _, _, moved = train(rng, stage(tasks))
    assert "heads.b.last.weight" in moved
    assert "heads.a.last.weight" not in moved


def test_the_virial_is_the_stress_times_the_volume(rng) -> None:
    """With the weight of the volume squared both losses are the same where volumes are."""
    frames = [replace(f, cell=f.cell) for f in structures(rng, 6, atoms=(2,))]
    volume = frames[0].volume
    frames = [
        replace(f, cell=f.cell * (volume / f.volume) ** (1 / 3), positions=f.positions)
        for f in frames
    ]
    data = {"default": task_data(frames, frames[:1])}
    values = []
    for wanted in (
        task(coefficients={"stress": 1.0}, virial=True, energy_weighting="total"),
        task(coefficients={"stress": volume**2}),
    ):
        recorder = Recorder()
        setting = Setting(potential(), data, 8, 0)
        run_stage(setting, stage(wanted, epochs=1, lr=1e-30), 0, Position(), recorder)
        values.append(recorder.lines[0]["train"]["default"]["loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-12)


# --- pull -----------------------------------------------------------------------------------------


def start_of(model):
    return {
        name: p.detach().clone() for name, p in model.named_parameters() if "shifts" not in name
    }


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_pull_holds_the_parameters_where_they_started(rng, optimizer: str) -> None:
    tasks, far = {"a": task(), "b": task()}, []
    for pull in (0.0, 1e6):
        settings = stage(tasks, optimizer=optimizer, epochs=20, pull=pull, lr=0.003)
        model, _, _ = train(rng, settings, origin=start_of)
        start = start_of(potential(heads=("a", "b")))
        named = dict(model.named_parameters())
        far.append(sum(float((named[n].detach() - v).norm()) for n, v in start.items()))
    assert far[1] < 0.1 * far[0]


def test_a_pull_counts_against_every_label(rng) -> None:
    """Twice the labels halve its weight in their mean: it is a prior."""
    settings, frames = stage(task(), pull=0.3), structures(rng, 4)
    pulls = []
    for found in (frames, [*frames, *frames]):
        data = {"default": task_data(found, [])}
        pulls.append(Objective(potential(), settings, data, [], {"default": 1.0}).pull)
    labels = sum(1 + 3 * len(frame) + 6 for frame in frames)
    assert pulls == pytest.approx([0.3 / labels, 0.15 / labels])


class Lines:
    """A recorder that keeps the lines of the log."""

    def __init__(self) -> None:
        self.losses = []

    def epoch(self, line, loss) -> None:
        self.losses.append(loss)

    def save(self, position) -> None:
        pass

    step = save


def test_a_pull_is_measured_by_the_last_validation_loss(rng) -> None:
    frames, model = structures(rng, 6), potential()
    data = {"default": task_data(frames[:4], frames[4:])}
    setting = Setting(model, data, batch_size=4, seed=0, origin=start_of(model))
    run = _StageRun(setting, stage(task(), pull=2.0), 0, Position())
    before = run._loss(run._evaluate("valid"))
    labels = sum(1 + 3 * len(frame) + 6 for frame in frames[:4])
    assert run.everything.pull == pytest.approx(2.0 * before / labels)
    with torch.no_grad():
        model.radial.mul_(2.0)  # another loss, which a run that goes on must not look at
    again = _StageRun(setting, stage(task(), pull=2.0), 0, run._position(1))
    assert again.everything.pull == run.everything.pull
    lines = Lines()
    for epoch in range(4):
        again.epoch(epoch, lines)
    assert lines.losses[-1] != pytest.approx(before, rel=1e-3)
    assert again._objective_of(None).pull == pytest.approx(2.0 * lines.losses[-1] / labels)


def test_lbfgs_keeps_the_noise_of_its_matrix(rng) -> None:
    """Between two estimates the loss stays the same one, afterwards it has the noise of then."""
    settings = stage(task(), optimizer="lbfgs", pull=50.0)
    model, frames = potential(), structures(rng, 4)
    data = {"default": task_data(frames, [])}
    optimiser = LBFGS(move_only(model, settings), settings)
    objective = Objective(
        model, settings, data, everything(data, ["default"]), {"default": 1.0}, start_of(model)
    )
    used = []
    for iteration in range(11):
        noise = 1.0 / (1 + iteration) if iteration < 10 else 0.17
        optimiser.step(replace(objective, noise=noise), 0.1)
        used.append(optimiser.noise)
        here = replace(objective, noise=optimiser.noise).gradient().value
        assert optimiser.here.value == pytest.approx(float(here), rel=1e-9)
    assert used == [1.0] * 5 + [1 / 6] * 6  # 0.17 is the same, almost


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_gives_the_tasks_their_shares(tmp_path) -> None:
    plan = tiny_plan(tmp_path)
    both = {"a": task(coefficients=None), "b": task(coefficients=None)}
    last = stage(both, name="calibration", task_target={"a": 1.0, "b": 3.0})
    before = stage({"a": task(), "b": task()}, name="stage1")
    plan = replace(plan, stages=(before, last))
    terms = {
        "a": {"energy_mse": 1e-3, "forces_mse": 1e-1},
        "b": {"energy_mse": 1e-4, "forces_mse": 2.0},
    }
    log = [
        {"name": "stage1", "epoch": 1, "train": terms}
        | {"coeff": {head: coefficients(1.0, 0.1, 10.0) for head in terms}}
    ]
    shares = {"a": 0.75, "b": 0.25}
    found, tables = calibrated_stage(plan, last, log, shares)
    losses = {
        head: shares[head]
        * sum(
            found.tasks[head].coefficients[term] * terms[head][f"{term}_mse"]
            for term in ("energy", "forces")
        )
        for head in terms
    }
    assert losses["b"] / losses["a"] == pytest.approx(3.0)
    assert sum(losses.values()) == pytest.approx(0.75 * (1e-3 + 1e-2) + 0.25 * (1e-4 + 0.2))
    assert set(tables) == {"a", "b"}
