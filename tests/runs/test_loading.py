"""Runs that start from a model file: which head comes from where, and its species shifts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.data import write
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.model_file import load_model, save_model
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from stages.cli import main
from stages.plan import DataFile, DataPlan, HeadPlan, Plan
from stages.run.loading import origins, read_source
from stages.run.start import starting_point
from stages.run.train import read_data
from tests.training import structures, tiny_plan

SPECIES = (8, 13, 29)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model of three species with two heads that share a layer."""
    return model_file(tmp_path)


def model_file(folder: Path, embedding: EmbeddingSpec | None = None) -> Path:
    heads = (
        HeadSpec("low", hidden=(4,), shared=("first", None)),
        HeadSpec("high", hidden=(4,), shared=("first", None)),
    )
    spec = PotentialSpec(SPECIES, 4.0, 1.0, n_q=3, levmax=4, heads=heads, embedding=embedding)
    potential = Potential(spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_model(folder / "source.mtp.safetensors", potential)
    return folder / "source.mtp.safetensors"


def plan_from(folder: Path, source: Path, *heads: HeadPlan) -> Plan:
    plan = tiny_plan(folder)
    data = {head.name: plan.data["default"] for head in heads}
    model = replace(plan.model, heads=heads, reload_model=str(source))
    return replace(plan, model=model, data=data)


def start(plan: Plan) -> Potential:
    return starting_point(plan, {task: read_data(plan, task) for task in plan.data})[0]


def test_heads_are_inherited_new_or_left_out(tmp_path: Path, file: Path, capsys) -> None:
    plan = plan_from(
        tmp_path, file, HeadPlan("low"), HeadPlan("other", source="high"), HeadPlan("fresh")
    )
    potential = start(plan)
    source = read_source(plan.model).potential
    assert potential.spec.head_names == ("low", "other", "fresh")
    assert torch.equal(potential.radial, source.radial)
    for name, origin in (("low", "low"), ("other", "high")):
        mine, theirs = potential.heads[name], source.heads[origin]
        assert torch.equal(mine.last.weight, theirs.last.weight)
    assert potential.heads["low"].layers[0] is potential.heads["other"].layers[0]
    assert not torch.equal(potential.heads["other"].shifts, source.heads["high"].shifts)
    assert potential.heads["fresh"].linear
    told = capsys.readouterr().err
    for words in ("low    head low   shifts adjusted", "other  head high", "fresh  new"):
        assert words in told


def test_adjusted_shifts_leave_no_mean_error(tmp_path: Path, file: Path) -> None:
    """With a shift for every species the mean residual per atom vanishes."""
    plan = plan_from(tmp_path, file, HeadPlan("default", source="low"))
    dataset = read_data(plan, "default")
    potential, _ = starting_point(plan, {"default": dataset})
    frames = [frame for frame in dataset.train if frame.energy is not None]
    batch = Geometry(frames, SPECIES, 4.0).batch()
    error = potential.predict(batch).energy - batch.labels["energy"]
    per_atom = error / batch.atoms_per_structure
    weight = torch.tensor([frame.weight for frame in frames])
    assert abs(float((weight * per_atom).sum() / weight.sum())) < 1e-9


@pytest.mark.parametrize("embedding", [None, EmbeddingSpec((3, 3), True)])
def test_species_of_a_pretrained_model_are_sliced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedding
) -> None:
    """Fewer species, the same energies."""
    path = model_file(tmp_path, embedding)
    path.rename(tmp_path / "MINE.mtp.safetensors")
    monkeypatch.setenv("MTP_MODELS", str(tmp_path))
    plan = plan_from(tmp_path, path, HeadPlan("high", adjust=False))
    model = replace(plan.model, reload_model=None, pretrained_model="MINE")
    plan = replace(plan, model=model)
    potential, source = start(plan), read_source(model).potential
    assert potential.spec.species == (13, 29)
    frames = structures(np.random.default_rng(0), 4)
    found, expected = (
        p.predict(Geometry(frames, p.spec.species, 4.0).batch(), "high")
        for p in (potential, source)
    )
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-12, atol=1e-12)


def test_a_single_task_names_its_head_where_there_are_several(tmp_path: Path, file: Path) -> None:
    plan = plan_from(tmp_path, file, HeadPlan("default"))
    with pytest.raises(InvalidInput, match=r'has the heads low, high; .*"finetune_head": "low"'):
        start(plan)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (HeadPlan("a", source="middle"), "has no head 'middle'; choose one of low, high"),
        (HeadPlan("low", kind="dipole"), "predicts energy, this task is dipole"),
    ],
)
def test_heads_that_do_not_fit(tmp_path: Path, file: Path, head: HeadPlan, said: str) -> None:
    source = read_source(plan_from(tmp_path, file, head).model)
    with pytest.raises(InvalidInput, match=said):
        origins((head,), source)


def test_random_heads_start_anew(tmp_path: Path, file: Path) -> None:
    plan = plan_from(tmp_path, file, HeadPlan("low", source="RANDOM"))
    source = read_source(plan.model)
    assert origins(plan.model.heads, source) == {}
    head = start(plan).heads["low"]
    assert not torch.equal(head.last.weight, torch.zeros_like(head.last.weight))


def test_elements_that_the_model_does_not_know(tmp_path: Path, file: Path) -> None:
    other = [
        replace(f, numbers=np.full(len(f), 14)) for f in structures(np.random.default_rng(1), 4)
    ]
    write(tmp_path / "si.xyz", other)
    plan = plan_from(tmp_path, file, HeadPlan("low"))
    data = {"low": DataPlan(files=(DataFile(str(tmp_path / "si.xyz")),))}
    with pytest.raises(InvalidInput, match=r"Si is not in the model \(it knows O Al Cu\)"):
        start(replace(plan, data=data))


def test_freeze_takes_one_head_out(tmp_path: Path, file: Path, capsys) -> None:
    assert main(["freeze", str(file), str(tmp_path / "one"), "--head", "high"]) == 0
    frozen, whole = load_model(tmp_path / "one"), load_model(file)
    assert frozen.spec.head_names == ("high",)
    frames = structures(np.random.default_rng(0), 4)
    batch = Geometry(frames, SPECIES, 4.0).batch()
    found, expected = (p.predict(batch, "high") for p in (frozen, whole))
    assert torch.equal(found.energy, expected.energy)
    assert main(["freeze", str(file), str(tmp_path / "none")]) == 2
    assert "--head must be one of low, high; none was given" in capsys.readouterr().err
    assert main(["freeze", str(file), str(tmp_path / "one.mtp"), "--head", "high"]) == 2
    assert "name it one.mtp.safetensors" in capsys.readouterr().err
