"""The registry: names, cards, one's own folders, and words for what is not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtp.errors import InvalidInput
from mtp.model_file import load_model, save_model
from mtp.potential import Potential, PotentialSpec
from pretrained import registry
from stages.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a model, and no others."""
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "none")
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path))
    potential = Potential(PotentialSpec(species=(6, 8), cutoff=5.0, min_dist=0.9, levmax=6))
    save_model(tmp_path / f"MINE_SMALL_5{registry.SUFFIX}", potential)
    return tmp_path


def test_a_bare_file_is_a_model(folder: Path) -> None:
    assert registry.names() == ("MINE_SMALL_5",)
    card = registry.card("MINE_SMALL_5")
    assert card.elements == ("C", "O")
    assert card.default_head == "default"
    assert card.basis["cutoff"] == 5.0
    assert load_model(registry.verified("MINE_SMALL_5")).spec.species == (6, 8)


def test_card_is_read_back(folder: Path) -> None:
    card = replace(
        registry.card("MINE_SMALL_5"), heads={"default": "PBE"}, summary="Ours.", licence="MIT"
    )
    registry.write_card(card)
    found = registry.card("MINE_SMALL_5")
    assert found == replace(card, sha256=registry.sha256(card.file))
    assert str(folder) not in (folder / "MINE_SMALL_5.json").read_text()


def test_a_changed_file_is_refused(folder: Path) -> None:
    registry.write_card(registry.card("MINE_SMALL_5"))
    file = folder / f"MINE_SMALL_5{registry.SUFFIX}"
    potential = load_model(file)
    torch.nn.init.ones_(potential.radial)
    save_model(file, potential)
    with pytest.raises(InvalidInput, match="SHA-256"):
        registry.verified("MINE_SMALL_5")


@pytest.mark.parametrize("name", ["MINE_SMALL_6", "mine_small_5", "MINE_SMAL_5"])
def test_near_names_are_suggested(folder: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'MINE_SMALL_5'"):
        registry.card(name)


def test_far_names_list_what_is_there(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'X' is not installed; installed: MINE_SMALL_5"):
        registry.card("X")


def test_own_folders_come_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other"
    other.mkdir()
    file = f"MINE_SMALL_5{registry.SUFFIX}"
    (other / file).write_bytes((folder / file).read_bytes())
    monkeypatch.setenv(registry.VARIABLE, f"{other}:{folder}")
    assert registry.card("MINE_SMALL_5").file == other / file


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.VARIABLE, "/nowhere")
    with pytest.raises(InvalidInput, match="MTP_MODELS"):
        registry.names()


def test_damaged_cards_are_refused(folder: Path) -> None:
    (folder / "MINE_SMALL_5.json").write_text("{")
    with pytest.raises(InvalidInput, match="not a model card"):
        registry.card("MINE_SMALL_5")


def test_command(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["models"]) == 0
    assert "MINE_SMALL_5" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == ["MINE_SMALL_5"]
    assert main(["models", "MINE_SMALL_5"]) == 0
    assert "elements: C O" in capsys.readouterr().out
    assert main(["models", "NOTHING"]) == 2


def test_installed_models_are_what_their_cards_say() -> None:
    for name in registry.names():
        card = registry.card(name)
        assert card.sha256
        assert card.file.stat().st_size < 3_200_000
        assert registry.from_file(registry.verified(name)).elements == card.elements
        assert card.default_head in load_model(card.file).spec.head_names
