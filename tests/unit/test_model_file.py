"""Model files: what was saved is what is loaded, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mtp.errors import InvalidInput
from mtp.model_file import describe, load_model, save_model
from mtp.potential import Potential
from tests.potentials import random_potential

SPECIES = (8, 14)


@pytest.fixture
def potential() -> Potential:
    return random_potential(SPECIES, hidden=(5, 5))


def test_round_trip_is_exact(tmp_path: Path, potential: Potential) -> None:
    save_model(tmp_path / "model", potential)
    loaded = load_model(tmp_path / "model")
    assert loaded.spec == potential.spec
    state, again = potential.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_bytes_depend_on_the_potential_alone(tmp_path: Path, potential: Potential) -> None:
    plan = {"data": {"b": "/home/somebody/train.xyz", "a": [1, 0.5]}, "hash": "12ab"}
    save_model(tmp_path / "one", potential, plan)
    (tmp_path / "elsewhere").mkdir()
    save_model(tmp_path / "elsewhere" / "two", load_model(tmp_path / "one"), plan)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "elsewhere" / "two").read_bytes()
    assert b"somebody" not in content
    assert describe(tmp_path / "one")["provenance"]["data"] == {"a": [1, 0.5], "b": "train.xyz"}


def test_files_of_one_name_keep_what_tells_them_apart(tmp_path: Path, potential: Potential) -> None:
    data = {"/home/a/x.xyz": "1", "/home/b/x.xyz": "2", "/home/y.xyz": "3"}
    save_model(tmp_path / "model", potential, {"data": data, "files": list(data)})
    found = describe(tmp_path / "model")["provenance"]
    assert found["data"] == {"a/x.xyz": "1", "b/x.xyz": "2", "home/y.xyz": "3"}
    assert sorted(found["files"]) == sorted(found["data"])


def test_nothing_is_left_beside_the_file(tmp_path: Path, potential: Potential) -> None:
    save_model(tmp_path / "model", potential)
    save_model(tmp_path / "model", potential)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", potential)
    before = (tmp_path / "model").read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(tmp_path / "model", potential, {"changed": True})
    assert (tmp_path / "model").read_bytes() == before


def test_describe(tmp_path: Path, potential: Potential) -> None:
    save_model(tmp_path / "model", potential)
    found = describe(tmp_path / "model")
    assert found["format"] == 2
    assert tuple(found["spec"]["species"]) == SPECIES
    assert [head["name"] for head in found["spec"]["heads"]] == ["default"]
    assert found["tensors"]["radial"] == {"dtype": "F64", "shape": list(potential.radial.shape)}
    assert found["elements"] == ["O", "Si"]
    parameters = sum(p.numel() for p in potential.parameters())
    assert found["basis"] == {"invariants": 9, "radial_functions": 2, "parameters": parameters}
    assert json.loads(json.dumps(found)) == found


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing: cannot be read: No such file"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]", b"\x05" + b"\0" * 7 + b"{nope"],
    ids=["empty", "short", "no header", "list", "no JSON"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    for read in (load_model, describe):
        with pytest.raises(InvalidInput, match="not a model file of mtp-train"):
            read(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model")
    with pytest.raises(InvalidInput, match="a safetensors file, but not a model"):
        load_model(tmp_path / "model")


def test_newer_format_is_refused(
    tmp_path: Path, potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("mtp.model_file.FORMAT", 3)
        save_model(tmp_path / "model", potential)
    with pytest.raises(InvalidInput, match=r"format 3 .* reads format 2; install the version"):
        load_model(tmp_path / "model")


def test_truncated_file_is_refused(tmp_path: Path, potential: Potential) -> None:
    path = tmp_path / "model"
    save_model(path, potential)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidInput, match="damaged model file"):
        load_model(path)


def test_tensors_must_fit_the_spec(tmp_path: Path, potential: Potential) -> None:
    path = tmp_path / "model"
    save_model(path, potential)
    content = path.read_bytes()
    assert content.count(b'\\"levmax\\": 8') == 1
    path.write_bytes(content.replace(b'\\"levmax\\": 8', b'\\"levmax\\": 6'))
    with pytest.raises(InvalidInput, match=r"damaged model file: .*size mismatch"):
        load_model(path)
