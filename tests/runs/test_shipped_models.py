"""The shipped pretrained models, and the control file of LightPFP's manual that starts from one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.geometry import Geometry
from mtp.model_file import load_model
from mtp.structure import Structure
from pretrained import registry
from pretrained.corpus import ALL, ORGANIC
from pretrained.recipe import MODELS
from stages.cli import main, train_main

ROOT = Path(__file__).parents[2]
MOST_BYTES = 3e6


@pytest.fixture(autouse=True)
def no_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)


def test_what_the_recipe_makes_is_there() -> None:
    assert set(registry.names()) == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_file_and_card_agree(name: str) -> None:
    card, file = registry.card(name), registry.verified(name)
    assert file.stat().st_size < MOST_BYTES
    potential = load_model(file)
    assert potential.spec.species == (ALL if name.startswith("ALL") else ORGANIC)
    assert tuple(card.heads) == potential.spec.head_names
    assert card.default_head in card.heads
    assert set(card.heads) == set(card.data) == set(card.errors["validation"])
    assert card.basis["cutoff"] == 6.0
    assert all((card.summary, card.licence, card.fallback, *card.heads.values()))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_element_has_finite_energies_and_forces(name: str) -> None:
    potential = load_model(registry.verified(name))
    species = potential.spec.species
    places = [(2.5 * (i % 5), 2.5 * (i // 5 % 5), 2.5 * (i // 25)) for i in range(len(species))]
    structure = Structure(np.array(species), np.array(places))
    batch = Geometry([structure], species, potential.spec.cutoff).batch()
    for head in potential.spec.head_names:
        found = potential.predict(batch, head)
        assert torch.isfinite(found.energy).all()
        assert torch.isfinite(found.forces).all()
        assert (found.forces.abs().amax(1) > 0).all()


def test_the_control_file_of_the_manual_runs_as_it_is(tmp_path: Path) -> None:
    control = ROOT / "configs" / "light_pfp_example.json"
    data = ROOT / "configs" / "multitask" / "ethanol_b3lyp.xyz.gz"
    run = tmp_path / "run"
    assert train_main([str(control), "--data", str(data), "--output", str(run)]) == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    forces = [line["valid"]["default"]["forces_mse"] for line in lines]
    assert [line["epoch"] for line in lines[:2]] == [0, 1]
    assert len(lines) > 80 + 160 + 80
    assert min(forces) < 0.2 * forces[0]


def test_the_card_in_words_has_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ORGANIC_SMALL_NN_6"]) == 0
    found = registry.card("ORGANIC_SMALL_NN_6").errors["validation"]["b3lyp"]
    told = " ".join(capsys.readouterr().out.split())
    assert f"of b3lyp (validation): {found['energy_mae_meV_per_atom']:.3g} meV/atom" in told
