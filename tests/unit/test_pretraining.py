"""What the recipe of the pretrained models is made of, on tiny sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from torch.testing import assert_close

import mtp.data
from mtp.geometry import Geometry
from mtp.model_file import save_model
from mtp.potential import HeadSpec, Potential, PotentialSpec
from mtp.structure import Structure
from pretrained import pair_network, recipe
from pretrained.datasets import DftSet, prepare
from pretrained.pair_network import features, first_descriptor
from stages.control.reader import read_control
from stages.control.resolve import resolve
from tests.training import structures

SPEC = PotentialSpec((13, 29), 4.0, 0.8, 4, 6, heads=(HeadSpec("a"), HeadSpec("b", hidden=(4,))))


def emt(rng, count: int) -> list[Structure]:
    """Rattled ordered cells of Cu and Al with labels of EMT."""
    found = []
    for _ in range(count):
        atoms = bulk("Cu", a=3.8, cubic=True)
        atoms.numbers[rng.integers(4)] = 13
        atoms.positions += 0.15 * rng.normal(size=(4, 3))
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        place = atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc
        found.append(Structure(*place, *labels))
    return found


def test_descriptor_of_the_network_serves_every_task(rng, monkeypatch) -> None:
    monkeypatch.setattr(pair_network, "START_ATOMS", 10)
    tasks = {"a": emt(rng, 8), "b": emt(rng, 8)}
    errors = []
    for steps in (1, 200):
        model = first_descriptor(tasks, {"a": 3.0, "b": 1.0}, SPEC, steps)
        for head, found in tasks.items():
            batch = Geometry(found, SPEC.species, SPEC.cutoff).batch()
            left = model.predict(batch, head).values["forces"] - batch.labels["forces"]
            errors.append(float(left.square().mean()))
    assert errors[2] < 0.3 * errors[0]
    assert errors[3] < 0.3 * errors[1]


def test_elements_of_one_group_are_near_each_other() -> None:
    known = {z: np.array(features(z)) for z in (3, 9, 11, 17, 19)}
    assert np.linalg.norm(known[11] - known[19]) < np.linalg.norm(known[11] - known[17])
    assert np.linalg.norm(known[9] - known[17]) < np.linalg.norm(known[9] - known[11])


def test_further_sets_give_forces_without_energies(rng, tmp_path: Path) -> None:
    first, more = structures(rng, 6), structures(rng, 5)
    mtp.data.write(tmp_path / "first.xyz", first)
    mtp.data.write(tmp_path / "more.xyz", more)
    one = DftSet("pbe", "PBE", ("first.xyz",), "random", "none", more=("more.xyz",))
    found = mtp.data.read(prepare(one, tmp_path, tmp_path / "out", (13, 29)))
    assert [frame.energy is None for frame in found] == [False] * 6 + [True] * 5
    assert all(frame.forces is not None and frame.stress is not None for frame in found)


def test_smaller_steps_leave_the_potential_as_it_is(rng) -> None:
    frames = structures(rng, 4)
    model = first_descriptor({"a": frames, "b": frames}, {"a": 1.0, "b": 1.0}, SPEC, 1)
    batch = Geometry(frames, SPEC.species, SPEC.cutoff).batch()
    before = {head: model.predict(batch, head).values["forces"] for head in ("a", "b")}
    radial = model.radial.detach().clone()
    recipe.smaller_steps(model, 0.5)
    assert_close(model.radial.detach(), 2 * radial)
    for head, forces in before.items():
        assert_close(model.predict(batch, head).values["forces"], forces)


def test_control_files_of_the_recipe_name_what_there_is() -> None:
    sets = {one.task for one in recipe.SETS} | {part.name for part in recipe.CORPUS}
    for name in recipe.MODELS:
        path = recipe.CONTROLS / f"{name.lower()}.json"
        control = json.loads(path.read_text())
        assert set(recipe._files(control)) <= sets
        (weights,) = control["stage_options"]["task_weight"]
        assert set(weights) == set(control["tasks"])


def test_default_plan_of_a_loaded_model_pulls_towards_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pulls = []
    for start in ({}, {"common_config": {"reload_model": "start.mtp.safetensors"}}):
        spec = replace(SPEC, heads=(HeadSpec("default"),))
        save_model(tmp_path / "start.mtp.safetensors", Potential(spec))
        path = tmp_path / "control.json"
        path.write_text(json.dumps(start))
        plan = resolve(read_control(path), need_data=False)
        pulls.append([one.pull for one in plan.stages])
    assert all(b > 10 * a for a, b in zip(*pulls, strict=True))
