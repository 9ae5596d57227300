"""`mtp eval`: predictions of a model on files, their errors, and the files it writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import mtp.data
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.initialise import initialise
from mtp.mlip_file import write_mtp
from mtp.model_file import save_model
from mtp.potential import HeadSpec, Potential, PotentialSpec, Prediction
from mtp.structure import Structure
from stages import cli, evaluate
from stages.evaluate import evaluate_files, format_table, predict_structures

CELL = np.array([[5.2, 0, 0], [0.9, 4.8, 0], [0, -0.4, 5.0]])


def make_structures(rng, count=5) -> list[Structure]:
    """Small cells of Si and O, every second one a molecule."""
    return [
        Structure(
            numbers=rng.choice([8, 14], 3 + i),
            positions=rng.random((3 + i, 3)) @ CELL,
            cell=CELL,
            pbc=np.full(3, i % 2 == 0),
            source="made",
            index=i,
        )
        for i in range(count)
    ]


@pytest.fixture
def structures(rng):
    return make_structures(rng)


@pytest.fixture
def potential(structures):
    spec = PotentialSpec((8, 14), 4.0, 0.5, n_q=4, levmax=6)
    potential = Potential(spec)
    start = Geometry(structures, spec.species, spec.cutoff).batch()
    initialise(potential, start, torch.Generator().manual_seed(0))
    with torch.no_grad():  # a readout that is zero at the start would hide every mistake
        for parameter in potential.heads.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return potential


@pytest.fixture
def model(potential, tmp_path):
    path = tmp_path / "model.mtp.safetensors"
    save_model(path, potential)
    return path


def labelled_file(path, structures, predicted, energy=0.0, forces=0.0, stress=0.0):
    """An extended xyz whose labels are the predictions less known errors."""
    images, first = [], 0
    for i, s in enumerate(structures):
        image = Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
        labels = {
            "energy": predicted.predicted["energy"][i] - energy * len(s),
            "forces": predicted.predicted["forces"][first : first + len(s)] - forces,
        }
        if s.pbc.all():
            labels["stress"] = predicted.predicted["stress"][i] - stress
        image.calc = SinglePointCalculator(image, **labels)
        images.append(image)
        first += len(s)
    write(path, images, format="extxyz")
    return path


def test_batches_change_nothing(potential, structures, monkeypatch):
    together = predict_structures(potential, structures)
    monkeypatch.setattr(evaluate, "ATOMS_PER_BATCH", 8)
    apart = predict_structures(potential, structures)
    for term, values in together.predicted.items():
        np.testing.assert_allclose(apart.predicted[term], values, atol=1e-12)
    assert np.abs(together.predicted["forces"]).max() > 1e-3
    assert np.isnan(together.predicted["stress"][1::2]).all()  # molecules
    assert np.isfinite(together.predicted["stress"][::2]).all()


def test_no_structures(potential):
    assert len(predict_structures(potential, [])) == 0


def test_known_errors_come_back(model, potential, structures, tmp_path):
    predicted = predict_structures(potential, structures)
    path = labelled_file(tmp_path / "a.xyz", structures, predicted, 0.002, 0.05, 1e-3)
    result = evaluate_files(model, [path])
    row = result["default"][str(path)]
    assert row["frames"] == 5
    assert row["energy_mae_meV_per_atom"] == pytest.approx(2.0, abs=1e-3)
    # the file has eight digits of each force
    assert row["forces_rmse_meV_per_A"] == pytest.approx(50.0, abs=1e-3)
    assert row["stress_max_meV_per_A3"] == pytest.approx(1.0, abs=1e-3)
    table = format_table(result)
    assert "2.00" in table
    assert "50.0" in table


def test_predictions_file(model, potential, structures, tmp_path):
    predicted = predict_structures(potential, structures)
    path = labelled_file(tmp_path / "a.xyz", structures, predicted, energy=1.0)
    evaluate_files(model, [path], predictions=tmp_path / "new" / "out.xyz")
    back = read(tmp_path / "new" / "out.xyz", ":")
    assert len(back) == 5
    for i, image in enumerate(back):
        assert image.info["predicted_energy"] == pytest.approx(predicted.predicted["energy"][i])
        assert image.get_potential_energy() == pytest.approx(
            predicted.predicted["energy"][i] - len(image)
        )
        np.testing.assert_allclose(image.arrays["predicted_forces"], image.get_forces(), atol=1e-7)
        assert ("predicted_stress" in image.info) == bool(image.pbc.all())
        assert image.info["index"] == i


def test_element_that_the_model_does_not_know(potential, structures):
    strange = Structure(np.array([13, 8]), np.eye(3)[:2], source="b.xyz", index=3)
    with pytest.raises(InvalidInput, match=r"Al is not in the model \(it knows O Si\).*b\.xyz#3"):
        predict_structures(potential, [*structures, strange])


def test_head_that_is_not_there(model, potential, structures, tmp_path):
    path = labelled_file(tmp_path / "a.xyz", structures, predict_structures(potential, structures))
    with pytest.raises(InvalidInput, match="--head must be one of default; 'pbe' was given"):
        evaluate_files(model, [path], head="pbe")


def test_command_prints_nothing_but_json(model, potential, structures, tmp_path, capsys):
    path = labelled_file(tmp_path / "a.xyz", structures, predict_structures(potential, structures))
    assert cli.main(["eval", str(model), str(path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == evaluate_files(model, [path])
    assert cli.main(["eval", str(model), str(tmp_path / "none.xyz")]) == 2


def test_frames_without_labels_can_be_predicted_only(model, structures, tmp_path):
    mtp.data.write(tmp_path / "a.xyz", structures)
    with pytest.raises(InvalidInput, match="no frame has a label"):
        evaluate_files(model, [tmp_path / "a.xyz"])
    evaluate_files(model, [tmp_path / "a.xyz"], predictions=tmp_path / "out.xyz")
    assert "predicted_energy" in read(tmp_path / "out.xyz").info


def test_a_file_of_mlip(potential, structures, tmp_path, capsys):
    """Read as it is, elements from the file or the command; other commands say what to do."""
    predicted = predict_structures(potential, structures)
    path = labelled_file(tmp_path / "a.xyz", structures, predicted, 0.002, 0.05)
    mlip = tmp_path / "a.mtp"
    write_mtp(mlip, potential)
    named = evaluate_files(mlip, [path])["default"][str(path)]
    assert named["forces_rmse_meV_per_A"] == pytest.approx(50.0, abs=1e-3)
    mlip.write_text(re.sub(r"potential_tag = .*", "potential_tag = ", mlip.read_text()))
    assert evaluate_files(mlip, [path], type_map=["O", "Si"])["default"][str(path)] == named
    with pytest.raises(InvalidInput, match="name those of its 2 types with --type-map"):
        evaluate_files(mlip, [path])
    assert cli.main(["show", str(mlip)]) == 2
    assert f"`mtp convert {mlip} a.mtp.safetensors`" in capsys.readouterr().err


def test_a_dash_where_there_is_no_label():
    table = format_table({"default": {"train": {"frames": 3, "forces_mae_meV_per_A": 12.34}}})
    assert table.splitlines()[-1].split() == ["train", "3", "–", "–", "12.3", "–", "–", "–"]


class TensorHead(Potential):
    """Stands for a potential with heads of every kind: multiples of known tensors."""

    def predict(self, batch, head):
        kind = self.spec.head(head).kind
        if kind == "energy":
            return super().predict(batch, head)
        n = 3 if kind == "dipole" else 6
        atoms = torch.arange(n, dtype=torch.float64) * torch.ones(batch.n_atoms, 1)
        whole = torch.zeros(batch.n_structures, n, dtype=torch.float64)
        whole.index_add_(0, batch.structure, atoms)
        return Prediction({kind: whole, f"atomic_{kind}": atoms})


@pytest.fixture
def three_heads(structures, monkeypatch):
    heads = (
        HeadSpec("pes"),
        HeadSpec("mu", "dipole", species=(8,)),
        HeadSpec("a", "polarizability"),
    )
    spec = PotentialSpec((8, 14), 4.0, 0.5, n_q=4, levmax=6)
    potential = TensorHead(spec)
    object.__setattr__(potential.spec, "heads", heads)
    potential.heads["pes"] = potential.heads["default"]
    monkeypatch.setattr("mtp.mlip_import.load_model", lambda path: potential)
    return potential


def test_heads_of_every_kind(three_heads, structures):
    one = predict_structures(three_heads, structures, "mu")
    assert list(one.predicted) == ["dipole", "atomic_dipole"]
    oxygen = one.numbers == 8
    assert np.isfinite(one.predicted["atomic_dipole"][oxygen]).all()
    assert np.isnan(one.predicted["atomic_dipole"][~oxygen]).all()
    polarizability = predict_structures(three_heads, structures, "a").predicted["polarizability"]
    np.testing.assert_allclose(polarizability, [[k * len(s) for k in range(6)] for s in structures])


def test_eval_takes_all_heads_that_have_labels(three_heads, structures, tmp_path):
    path = tmp_path / "a.xyz"
    n = np.array([len(s) for s in structures])
    labels = [
        {"dipole": np.array([0.0, 1.0, 2.5]) * k, "polarizability": np.arange(6.0) * k} for k in n
    ]
    frames = [replace(s, **one) for s, one in zip(structures, labels, strict=True)]
    mtp.data.write(path, [replace(frames[0], energy=1.0), *frames[1:]])
    result = evaluate_files("model", [path])
    assert list(result) == ["pes", "mu", "a"]
    assert result["mu"][str(path)]["dipole_mae_eA_per_atom"] == pytest.approx(0.5 / 3)
    assert result["a"][str(path)]["polarizability_max_A3_per_atom"] == pytest.approx(0.0)
    table = format_table(result)
    assert table.count("set ") == 3
    assert "dipole (e·Å/atom)" in table
    assert "atomic_dipole" not in table
    mtp.data.write(path, frames)
    assert list(evaluate_files("model", [path])) == ["mu", "a"]
    mtp.data.write(path, structures)
    with pytest.raises(InvalidInput, match="no frame has a label that one of its heads predicts"):
        evaluate_files("model", [path])


def test_predictions_of_tensors_beside_their_labels(three_heads, structures, tmp_path):
    path, out = tmp_path / "a.xyz", tmp_path / "out.xyz"
    atomic = 1.0 * (structures[0].numbers == 8)[:, None] * np.ones(3)
    frame = replace(structures[0], dipole=np.ones(3), atomic_dipole=atomic, energy=0.5)
    mtp.data.write(path, [replace(frame, polarizability=np.arange(6.0))])
    evaluate_files("model", [path], predictions=out)
    (image,) = read(out, ":")
    np.testing.assert_allclose(image.info["predicted_dipole"], np.arange(3) * len(image))
    np.testing.assert_allclose(image.info["predicted_polarizability"], np.arange(6) * len(image))
    np.testing.assert_allclose(image.arrays["atomic_dipole"], atomic)
    np.testing.assert_allclose(image.info["polarizability"], np.arange(6))
    expected = np.arange(3) * (image.numbers == 8)[:, None]
    np.testing.assert_allclose(image.arrays["predicted_atomic_dipole"], expected)
    (again,) = mtp.data.read(out)
    np.testing.assert_allclose(again.dipole, 1.0)


def test_labels_by_name_and_for_some_elements(three_heads, structures, tmp_path):
    """A DeePMD folder whose atomic dipoles have rows for oxygen only; a dipole by its name."""
    water = replace(structures[0], numbers=np.array([8, 14, 8]), dipole=np.zeros(3))
    mtp.data.write(tmp_path / "folder", [water])
    np.save(tmp_path / "folder" / "set.000" / "atomic_dipole.npy", np.zeros((1, 6)))
    row = evaluate_files("model", [tmp_path / "folder"], head="mu")["mu"][str(tmp_path / "folder")]
    assert row["atomic_dipole_mae_eA"] == pytest.approx(1.0)  # of 0, 1, 2
    assert row["dipole_mae_eA_per_atom"] == pytest.approx(1.0)
    path = tmp_path / "a.xyz"
    mtp.data.write(path, [replace(structures[0], dipole=np.zeros(3))])
    path.write_text(path.read_text().replace("dipole=", "mine="))
    row = evaluate_files("model", [path], head="mu", names={"dipole": "mine"})["mu"][str(path)]
    assert row["dipole_mae_eA_per_atom"] == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match="dipole_key 'yours' is in no frame"):
        evaluate_files("model", [path], head="mu", names={"dipole": "yours"})
    assert cli.main(["eval", "model", str(path), "--head", "mu", "--key", "dipole=mine"]) == 0
    with pytest.raises(SystemExit):
        cli.main(["eval", "model", str(path), "--key", "charge=q"])


def test_frames_that_are_not_finite_are_left_out_for_all_heads(three_heads, structures, tmp_path):
    frames = [replace(s, energy=1.0, dipole=np.zeros(3)) for s in structures]
    frames[1] = replace(frames[1], dipole=np.full(3, np.nan))
    mtp.data.write(tmp_path / "a.xyz", frames)
    with pytest.warns(UserWarning, match="left out 1 frames"):
        result = evaluate_files("model", [tmp_path / "a.xyz"], predictions=tmp_path / "out.xyz")
    assert {next(iter(sets.values()))["frames"] for sets in result.values()} == {4}
    assert len(read(tmp_path / "out.xyz", ":")) == 4
