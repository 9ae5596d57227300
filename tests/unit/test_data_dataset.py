"""From a plan's data section to train, valid and test."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from data_systems import Options, crystal, file, molecule

from mtp.data import DataError, fingerprint, prepare, split, write


def frames(rng, source: str, count: int):
    return [crystal(rng, source=source, index=i) for i in range(count)]


def test_split_is_stratified_seeded_and_keeps_the_order(rng) -> None:
    items = frames(rng, "a", 60) + frames(rng, "b", 30) + frames(rng, "c", 10)
    train, valid = split(items, 0.1, seed=3)
    assert Counter(item.source for item in valid) == {"a": 6, "b": 3, "c": 1}
    assert [id(item) for item in items if item in train] == [id(item) for item in train]
    assert {id(item) for item in train} | {id(item) for item in valid} == {id(i) for i in items}
    assert [i.where for i in split(items, 0.1, seed=3)[1]] == [i.where for i in valid]
    assert [i.where for i in split(items, 0.1, seed=4)[1]] != [i.where for i in valid]


def test_split_is_the_same_on_every_platform(rng) -> None:
    _, valid = split(frames(rng, "a", 30), 0.1, seed=0)
    assert [item.index for item in valid] == [2, 11, 26]


@pytest.mark.parametrize(
    ("count", "fraction", "valid"),
    [(1, 0.1, 0), (2, 0.1, 1), (5, 0.1, 1), (20, 0.1, 2), (3, 0.9, 2), (10, 0.0, 1)],
)
def test_size_of_the_split(rng, count, fraction, valid) -> None:
    train, chosen = split(frames(rng, "a", count), fraction, seed=0)
    assert (len(train), len(chosen)) == (count - valid, valid)


def test_isolated_atoms_stay_in_train(rng) -> None:
    atoms = [molecule(rng, (z,)) for z in (1, 6, 7, 8)]
    train, valid = split([*atoms, crystal(rng), crystal(rng)], 0.5, seed=0)
    assert all(len(item) > 1 for item in valid)
    assert len(train) == 5
    train, valid = split(atoms, 0.1, seed=0)
    assert (len(train), len(valid)) == (3, 1)


def test_split_refuses_a_fraction_of_one() -> None:
    with pytest.raises(DataError, match=r"valid_fraction must be in \[0, 1\), got 1"):
        split([], 1)


def test_fingerprint_changes_with_every_number_and_no_name(rng) -> None:
    item = crystal(rng)
    prints = {fingerprint([item])}
    for name in ("positions", "cell", "energy", "forces", "stress", "weight"):
        prints.add(fingerprint([replace(item, **{name: getattr(item, name) * (1 + 1e-15)})]))
        if name in ("energy", "forces", "stress"):
            prints.add(fingerprint([replace(item, **{name: None})]))
    prints.add(fingerprint([replace(item, pbc=np.array([True, True, False]))]))
    prints.add(fingerprint([replace(item, numbers=item.numbers + 1)]))
    prints.add(fingerprint([item, item]))
    prints.add(fingerprint([]))
    assert len(prints) == 14
    assert fingerprint([replace(item, source="b", index=3, config_type="c")]) in prints


def test_weights_of_file_config_type_and_frame_multiply(tmp_path, rng) -> None:
    items = [crystal(rng, weight=w, config_type=c) for w, c in ((2, "a"), (3, "b"), (1, "b"))]
    write(tmp_path / "one.xyz", items)
    write(tmp_path / "two.xyz", [crystal(rng), crystal(rng)])
    options = Options([file(tmp_path / "one.xyz", 10.0), file(tmp_path / "two.xyz", 0.5)])
    options.weight_key, options.config_type_weights = "weight", {"b": 7.0, "none": 1.0}
    data = prepare(options)
    everything = sorted(data.train + data.valid, key=lambda item: (item.source, item.index))
    assert [item.weight for item in everything] == [20.0, 210.0, 70.0, 0.5, 0.5]
    assert any("no frame has config_type 'none'" in text for text in data.scan["warnings"])


def test_prepare(tmp_path, rng) -> None:
    items = [crystal(rng) for _ in range(20)]
    write(tmp_path / "train.xyz", [*items, items[0], crystal(rng, energy=np.nan)])
    test = [crystal(rng, forces=None), items[3], crystal(rng, energy=np.inf)]
    write(tmp_path / "test.cfg", test)
    options = Options([file(tmp_path / "train.xyz")], [file(tmp_path / "test.cfg")])
    data = prepare(options, seed=1)
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 2)
    assert data.species == data.shifts.species == (29, 46)
    scan = json.loads(json.dumps(data.scan))
    (row,) = scan["files"]
    assert (row["read"], row["duplicate"], row["nonfinite"]) == (22, 1, 1)
    assert (row["train"], row["valid"]) == (18, 2)
    assert scan["sets"] == {"train": 18, "valid": 2, "test": 2}
    assert scan["test_files"][0]["nonfinite"] == 1
    assert scan["fingerprint"]["train"] == fingerprint(data.train)
    assert any("1 of 2 test frames also stand in" in text for text in scan["warnings"])
    assert prepare(options, seed=1).scan == data.scan


def test_one_frame_has_none_to_validate_on(tmp_path, rng) -> None:
    for count in (1, 2):
        write(tmp_path / "a.xyz", frames(rng, "", count))
        dataset = prepare(Options([file(tmp_path / "a.xyz")]))
        warned = any("none for validation" in line for line in dataset.scan["warnings"])
        assert (len(dataset.valid) == 0) == warned == (count == 1)


def test_filter_above_the_shifts(tmp_path, rng) -> None:
    """The frame far off pulls the first fit up so much that the one at +60 eV would pass."""
    energies = [-3000.0] * 20 + [-2940.0, 9e5]
    write(tmp_path / "a.xyz", [crystal(rng, energy=energy) for energy in energies])
    options = Options([file(tmp_path / "a.xyz")], max_energy=10.0, max_energy_reference="e0")
    data = prepare(options)
    assert data.scan["files"][0]["energy"] == 2
    assert data.scan["frames"] == 20


def test_keys_may_be_absent_from_one_file_but_not_from_all(tmp_path, rng) -> None:
    write(tmp_path / "a.xyz", [crystal(rng)])
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "b.xyz").write_text(text.replace("energy=", "mine="))
    files = [file(tmp_path / "a.xyz"), file(tmp_path / "b.xyz")]
    data = prepare(Options(files, energy_key="mine", drop_duplicates=False))
    assert data.scan["coverage"][0]["energy"] == 0
    assert data.scan["coverage"][1]["energy"] == 1
    with pytest.raises(DataError, match="energy_key 'other' is in no frame"):
        prepare(Options(files, energy_key="other"))


def test_elements_that_the_model_does_not_know(tmp_path, rng) -> None:
    write(tmp_path / "a.xyz", [crystal(rng), molecule(rng)])
    with pytest.raises(DataError, match=r"H is not among the model's elements Cu O Pd; 1 frames"):
        prepare(Options([file(tmp_path / "a.xyz")]), species=(29, 8, 46))
    write(tmp_path / "b.xyz", [crystal(rng)])
    with pytest.raises(DataError, match=r"a\.xyz: O is not among"):
        prepare(Options([file(tmp_path / "b.xyz")], [file(tmp_path / "a.xyz")]))


def test_elements_only_in_dropped_frames_are_no_species(tmp_path, rng) -> None:
    write(tmp_path / "a.xyz", [crystal(rng), crystal(rng), molecule(rng, forces=np.eye(3) * 99)])
    options = Options([file(tmp_path / "a.xyz")], max_forces=50, max_energy_reference="e0")
    assert prepare(options).species == (29, 46)


def dipoles(rng, tmp_path, **options) -> Options:
    """Ten molecules with a dipole, two of them without an energy, and four with an energy only."""
    items = [molecule(rng, dipole=rng.normal(size=3)) for _ in range(10)]
    items[:2] = [replace(item, energy=None, forces=None) for item in items[:2]]
    write(tmp_path / "a.xyz", [*items, *(molecule(rng) for _ in range(4))])
    return Options([file(tmp_path / "a.xyz")], **options)


def test_a_dipole_task_needs_no_energy(tmp_path, rng) -> None:
    data = prepare(dipoles(rng, tmp_path), kind="dipole")
    assert len(data.train) + len(data.valid) == 10
    assert all(item.energy is None and item.dipole is not None for item in data.train)
    assert data.shifts.values == (0.0, 0.0)
    (row,) = data.scan["coverage"]
    assert (row["dipole"], row["atomic_dipole"], "energy" in row) == (10, 0, False)
    assert data.scan["files"][0]["unlabelled"] == 4
    assert not any("energy" in text for text in data.scan["warnings"])
    assert (
        "4 of 14 frames have no label of dipole or atomic_dipole: left out" in data.scan["warnings"]
    )


def test_filters_of_a_dipole_task_still_look_at_energies(tmp_path, rng) -> None:
    for most, dropped in ((0.0, 0), (-20.0, 8)):
        data = prepare(dipoles(rng, tmp_path, max_energy=most), kind="dipole")
        assert data.scan["files"][0]["energy"] == dropped


def test_labels_of_the_task_must_be_there(tmp_path, rng) -> None:
    options = dipoles(rng, tmp_path)
    with pytest.raises(DataError, match="no frame has a label of polarizability or atomic_pol"):
        prepare(options, kind="polarizability")
    options.dipole_key = "mu"
    with pytest.raises(DataError, match="dipole_key 'mu' is in no frame"):
        prepare(options, kind="dipole")


def test_test_frames_without_labels_are_left_out(tmp_path, rng) -> None:
    options = dipoles(rng, tmp_path)
    write(tmp_path / "test.xyz", [molecule(rng, dipole=np.ones(3)), molecule(rng)])
    options.test_files = [file(tmp_path / "test.xyz")]
    data = prepare(options, kind="dipole")
    assert len(data.test) == 1
    assert data.scan["test_files"][0]["unlabelled"] == 1
    write(tmp_path / "test.xyz", [molecule(rng)])
    data = prepare(options, kind="dipole")
    assert data.test == []
    assert any("no test frame has a label of dipole" in text for text in data.scan["warnings"])


def test_isotropic_shifts_for_a_polarizability_task(tmp_path, rng) -> None:
    alpha = np.array([1.0, 1.0, 1.0, 0, 0, 0])
    items = [molecule(rng, (8,) * n, polarizability=0.9 * n * alpha) for n in (1, 2, 3)]
    write(tmp_path / "a.xyz", items)
    data = prepare(Options([file(tmp_path / "a.xyz")]), kind="polarizability")
    assert data.shifts.values == (pytest.approx(0.9),)
    assert json.loads(json.dumps(data.scan))["shifts"]["unit"] == "Å³"


def test_fingerprints_of_tensors(rng) -> None:
    item = molecule(rng)
    prints = {fingerprint([item])}
    for term, shape in (("dipole", 3), ("atomic_dipole", (3, 3)), ("polarizability", 6)):
        prints.add(fingerprint([replace(item, **{term: np.ones(shape)})]))
    assert len(prints) == 4
