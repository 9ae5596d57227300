"""Training that starts from files of MLIP: trained ones go on, templates give the basis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.mlip_file import write_mtp
from mtp.model_file import load_model
from mtp.potential import Potential
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.plan import HeadPlan, Plan
from stages.run.joining import join
from stages.run.start import starting_point
from stages.run.train import read_data, train
from stages.trainer import move_only
from tests.potentials import random_potential
from tests.training import SPECIES, structures, tiny_plan


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Potential]:
    """A trained file and its potential."""
    potential = random_potential(SPECIES, (6, 2, 4, 1), cutoff=4.0, n_q=3)
    write_mtp(tmp_path / "start.mtp", potential)
    return tmp_path / "start.mtp", potential


def template(path: Path) -> Path:
    """The file as MLIP ships it: without names, elements and coefficients."""
    trained = ("potential_", "\tradial_coeffs", "\t\t", "species_coeffs", "moment_coeffs")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(trained)))
    return path


def plan_from(folder: Path, file: Path) -> Plan:
    plan = tiny_plan(folder)
    return replace(plan, model=replace(plan.model, reload_model=str(file)))


def start(plan: Plan) -> Potential:
    return starting_point(plan, {"default": read_data(plan, "default")})[0]


def forces(potential: Potential) -> torch.Tensor:
    frames = structures(np.random.default_rng(0), 4)
    spec = potential.spec
    return potential.predict(Geometry(frames, spec.species, spec.cutoff).batch()).forces


def test_a_trained_file_goes_on(tmp_path: Path, written: tuple[Path, Potential]) -> None:
    """Nothing is lost on the way in; a run then changes it."""
    path, potential = written
    plan = plan_from(tmp_path, path)
    begun = start(plan)
    assert begun.spec == potential.spec
    torch.testing.assert_close(forces(begun), forces(potential), rtol=1e-10, atol=1e-10)
    train(plan, tmp_path / "out", device="cpu")
    assert load_model(tmp_path / "out" / "best.mtp.safetensors").spec == potential.spec


def test_elements_of_its_types_come_from_the_control_file(
    tmp_path: Path, written: tuple[Path, Potential]
) -> None:
    path, potential = written
    path.write_text(path.read_text().replace("atomic_numbers 13 29", ""))
    plan = plan_from(tmp_path, path)
    with pytest.raises(InvalidInput, match="does not say its elements"):
        start(plan)
    data = {"default": replace(plan.data["default"], type_map=("Al", "Cu"))}
    begun = start(replace(plan, data=data))
    torch.testing.assert_close(forces(begun), forces(potential), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_a_template_gives_the_basis(
    tmp_path: Path, written: tuple[Path, Potential], hidden: tuple[int, ...]
) -> None:
    """Its level, distances and polynomials; elements from the data, the readout from the plan."""
    plan = plan_from(tmp_path, template(written[0]))
    plan = replace(plan, model=replace(plan.model, heads=(HeadPlan(hidden=hidden),)))
    train(plan, tmp_path / "out", device="cpu")
    trained = load_model(tmp_path / "out" / "best.mtp.safetensors")
    spec = trained.spec
    assert (spec.species, spec.levmax, spec.n_q, spec.cutoff) == (SPECIES, 6, 3, 4.0)
    assert spec.heads[0].hidden == hidden
    assert spec.min_dist <= written[1].spec.min_dist
    assert forces(trained).abs().max() > 0


def test_a_template_starts_from_scratch(tmp_path: Path, written: tuple[Path, Potential]) -> None:
    """Its plan is that of a new potential: networks join in, nothing is held where it began."""
    content = {"mtp_config": {"nn_dim_list": [4]}, "common_config": {}}
    control = tmp_path / "control.json"
    control.write_text(json.dumps(content))
    new = resolve(read_control(control), need_data=False)
    content["common_config"]["reload_model"] = str(template(written[0]))
    control.write_text(json.dumps(content))
    plan = resolve(read_control(control), need_data=False)
    assert plan.stages == new.stages
    assert plan.warnings == ()
    plan = replace(plan_from(tmp_path, written[0]), stages=plan.stages)
    plan = replace(plan, model=replace(plan.model, heads=(HeadPlan(hidden=(4,)),)))
    datasets = {"default": read_data(plan, "default")}
    potential, names = starting_point(plan, datasets)
    move_only(potential, plan.stages[0])
    origin = {name: torch.full((), torch.nan) for name in names}
    origin = join(plan, 1, potential, datasets, origin)
    for name, parameter in potential.named_parameters():
        if not name.endswith(".shifts"):
            torch.testing.assert_close(origin[name], parameter.detach())
