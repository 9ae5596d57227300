"""Every format: what is written is read again, and files by others mean what they say."""

from __future__ import annotations

import gzip
import sys
import weakref
from dataclasses import replace

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from data_systems import crystal, molecule
from numpy.testing import assert_allclose, assert_array_equal

from mtp.data import DataError, LabelKeys, Stream, iread, read, write
from mtp.data.formats import deepmd
from mtp.data.labels import tensor
from mtp.structure import Structure
from mtp.terms import TERMS

PATHS = ["a.xyz", "a.extxyz.gz", "a.cfg", "a.cfg.gz", "a.h5", "a.db", "folder"]


def assert_same(a: Structure, b: Structure, rtol: float = 0.0) -> None:
    for name in ("numbers", "positions", "cell", "pbc", *TERMS):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert_allclose(np.asarray(one, float), np.asarray(other, float), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", PATHS)
def test_written_structures_are_read_again(tmp_path, rng, name) -> None:
    # V * (stress / V) rounds in the formats that hold virials; everything else is exact
    rtol = 1e-14 if name.startswith(("a.cfg", "folder")) else 0.0
    items = [crystal(rng), replace(crystal(rng), stress=None), molecule(rng)]
    items.append(replace(molecule(rng), forces=None))
    write(tmp_path / name, items)
    found = read(tmp_path / name)
    assert len(found) == len(items)
    for one, other in zip(found, items, strict=True):
        assert_same(one, other, rtol)
        assert one.source == str(tmp_path / name)
    assert [item.index for item in found] == [0, 1, 2, 3]
    if name != "folder":  # which names its systems after folders
        assert [item.config_type for item in found] == ["bulk", "bulk", "gas", "gas"]


@pytest.mark.parametrize("name", PATHS)
def test_written_tensors_are_read_again(tmp_path, rng, name) -> None:
    dipole, polarizability = rng.normal(size=3), rng.normal(size=6)
    items = [molecule(rng, dipole=dipole), crystal(rng, polarizability=polarizability)]
    if "cfg" not in name:
        atomic = {"atomic_dipole": rng.normal(size=(3, 3)),
                  "atomic_polarizability": rng.normal(size=(3, 6))}  # fmt: skip
        items.append(molecule(rng, **atomic))
    write(tmp_path / name, items)
    rtol = 1e-14 if name.startswith(("a.cfg", "folder")) else 0.0
    for one, other in zip(read(tmp_path / name), items, strict=True):
        assert_same(one, other, rtol)


def test_cfg_has_no_place_for_atomic_tensors(tmp_path, rng) -> None:
    with pytest.raises(DataError, match=r"no place for atomic_dipole; write \.xyz"):
        write(tmp_path / "a.cfg", [molecule(rng, atomic_dipole=np.zeros((3, 3)))])


def test_dipole_of_ase(tmp_path) -> None:
    atoms = Atoms("HF", [[0, 0, 0], [0, 0, 0.9]])
    atoms.calc = SinglePointCalculator(atoms, dipole=np.array([0.0, 0.0, 0.38]))
    ase.io.write(tmp_path / "a.traj", atoms)
    assert_allclose(read(tmp_path / "a.traj")[0].dipole, [0, 0, 0.38])


def test_deepmd_rows_of_some_types_only(tmp_path, rng) -> None:
    """atomic_dipole.npy of water as DeePMD has it: rows for oxygen alone."""
    items = [molecule(rng, (1, 8, 1, 8)) for _ in range(2)]
    write(tmp_path / "a", items)
    rows = rng.normal(size=(2, 2, 3))
    np.save(tmp_path / "a" / "set.000" / "atomic_dipole.npy", rows.reshape(2, -1))
    with pytest.raises(DataError, match=r"'atomic_dipole' must have 12 numbers.*need sel_type"):
        read(tmp_path / "a")
    found = list(iread(tmp_path / "a", LabelKeys(selected=(8,))))
    for item, row in zip(found, rows, strict=True):
        assert_allclose(item.atomic_dipole, [np.zeros(3), row[0], np.zeros(3), row[1]])
    np.save(tmp_path / "a" / "set.000" / "atomic_dipole.npy", np.zeros((2, 5)))
    with pytest.raises(DataError, match=r"expected shape \(2, 3 numbers per atom\), got \(2, 5\)"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", ["a.xyz", "a.cfg", "a.h5", "a.db"])
def test_weights_are_read_when_asked_for(tmp_path, rng, name) -> None:
    write(tmp_path / name, [crystal(rng, weight=0.25), crystal(rng)])
    assert [item.weight for item in read(tmp_path / name, weight_key="weight")] == [0.25, 1.0]
    assert [item.weight for item in read(tmp_path / name)] == [1.0, 1.0]


def test_xyz_is_what_ase_reads(tmp_path, rng) -> None:
    item = crystal(rng)
    write(tmp_path / "a.xyz", [item])
    atoms = ase.io.read(tmp_path / "a.xyz")
    assert_array_equal(atoms.positions, item.positions)
    assert_array_equal(atoms.get_stress(), item.stress)
    assert_array_equal(atoms.get_forces(), item.forces)
    assert atoms.get_potential_energy() == item.energy


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.json", "a.db"])
def test_files_by_ase(tmp_path, rng, name) -> None:
    images = []
    for pbc in (True, (True, True, False), False):
        atoms = Atoms("SiGe", rng.normal(size=(2, 3)), cell=5 * np.eye(3), pbc=pbc)
        labels = {"energy": -1.5, "forces": rng.normal(size=(2, 3)), "stress": rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    if name == "a.db":
        with ase.db.connect(tmp_path / name) as database:
            for atoms in images:
                database.write(atoms, config_type="wire")
    else:
        ase.io.write(tmp_path / name, images)
    with pytest.warns(UserWarning, match="fewer than three directions"):
        found = read(tmp_path / name)
    assert [item.pbc.tolist() for item in found] == [[True] * 3, [True, True, False], [False] * 3]
    for item, atoms in zip(found, images, strict=True):
        assert item.energy == -1.5
        assert_allclose(item.forces, atoms.get_forces(), atol=1e-8)  # ASE's xyz has 8 digits
    assert_allclose(found[0].stress, images[0].get_stress(), atol=1e-8)
    assert found[1].stress is None
    assert found[2].stress is None
    if name == "a.db":
        assert found[0].config_type == "wire"


XYZ = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:f:R:3 E=-1.5 {extra}
Si 0 0 0 1 2 3
si 2 2 2 -1 -2 -3

"""


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('stress="1 2 3 4 5 6"', [1, 2, 3, 4, 5, 6]),
        ('stress="1 6 5 6 2 4 5 4 3"', [1, 2, 3, 4, 5, 6]),
        ("stress={1 6 5 6 2 4 5 4 3}", [1, 2, 3, 4, 5, 6]),
        ("stress=[[1,6,5],[6,2,4],[5,4,3]]", [1, 2, 3, 4, 5, 6]),
        ('virial="-64 0 0 0 64 0 0 0 128"', [1, -1, -2, 0, 0, 0]),
        ('bare note="a=\\"b\\" c" stress=\'1 2 3 4 5 6\'', [1, 2, 3, 4, 5, 6]),
    ],
)
def test_xyz_dialects(tmp_path, extra, expected) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(XYZ.format(extra=extra))
    (item,) = read(path, energy_key="E", forces_key="f")
    assert_allclose(item.stress, expected)
    assert_allclose(item.forces, [[1, 2, 3], [-1, -2, -3]])
    assert item.numbers.tolist() == [14, 14]
    assert item.pbc.all()


def test_plain_xyz(tmp_path) -> None:
    path = tmp_path / "a.xyz.gz"
    with gzip.open(path, "wt") as file:
        file.write("1\n\nHe 0 0 0\n1\na comment\nHe 1 1 1\n")
    first, second = read(path)
    assert not first.pbc.any()
    assert second.energy is None
    assert_array_equal(second.positions, [[1, 1, 1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two\n", r":1: expected the number of atoms, got 'two'"),
        ("2\n\nHe 0 0 0\n", r":1: broken frame of 2 atoms: atom 1 has 0 columns.*ends early"),
        ("1\n\nHe 0 0\n", "atom 0 has 3 columns, Properties name 4"),
        ("1\n\nQq 0 0 0\n", "'Qq' is not an element symbol"),
        ("1\n\nHe 0 0 x\n", "could not convert"),
        ('1\npbc="T F"\nHe 0 0 0\n', "pbc must be three of T and F"),
        ('1\npbc="T T T"\nHe 0 0 0\n', "lattice vectors of the periodic directions"),
        ("1\nProperties=pos:R:3\n0 0 0\n", "must name one of species"),
        ("1\nProperties=species:S\nHe\n", "triples"),
        ("0\n\n", "the frame has no atoms"),
        ("", "there is no structure"),
    ],
)
def test_broken_xyz(tmp_path, text, message) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(path)


CFG = """BEGIN_CFG
 Size
    2
 Supercell
    4 0 0
    0 5 0
    0 0 6
 AtomData:  id type cartes_x cartes_y cartes_z fx fy fz
    1 0  0 0 0  0.1 0.2 0.3
    2 1  2 2 2  -0.1 -0.2 -0.3
 Energy
    -7.25
 PlusStress:  xx yy zz yz xz xy
    12 24 36 48 60 72
 Feature   EFS_by       VASP
END_CFG
"""


def test_cfg_by_mlip(tmp_path) -> None:
    """PlusStress is -V times the stress, V = 120 Å³."""
    path = tmp_path / "a.cfg"
    path.write_text(CFG + "\n" + CFG)
    first, second = read(path, type_map=["Cu", "Pd"])
    assert first.numbers.tolist() == [29, 46]
    assert_allclose(first.stress, -np.array([12, 24, 36, 48, 60, 72]) / 120)
    assert first.energy == -7.25
    assert_allclose(second.forces[1], [-0.1, -0.2, -0.3])


def test_cfg_is_what_motep_reads_and_writes(tmp_path, rng) -> None:
    motep = pytest.importorskip("motep.io.mlip.cfg", reason="MOTEP is not installed")
    items = [crystal(rng), crystal(rng, stress=1e-7 * rng.normal(size=6))]
    write(tmp_path / "ours.cfg", items)
    images = motep.read_cfg(tmp_path / "ours.cfg", index=":", species=[29, 46])
    for atoms, item in zip(images, items, strict=True):
        assert_array_equal(atoms.numbers, item.numbers)
        assert_allclose(atoms.positions, item.positions, rtol=1e-14)
        assert_allclose(atoms.get_stress(), item.stress, rtol=1e-12)
        assert_allclose(atoms.get_forces(), item.forces, rtol=1e-14)
    motep.write_cfg(tmp_path / "theirs.cfg", images)
    found = read(tmp_path / "theirs.cfg", type_map=["Cu", "Pd"])
    for item, other in zip(found, items, strict=True):  # they write 5 or 6 decimals
        assert_allclose(item.stress, other.stress, atol=1e-5 / item.volume)
        assert_allclose(item.forces, other.forces, atol=1e-6)


def test_cfg_in_fractions_or_without_a_cell(tmp_path) -> None:
    path = tmp_path / "a.cfg"
    text = CFG.replace("cartes", "direct").replace("0 0 0  0.1", "0.5 0.5 0.5  0.1")
    path.write_text(text)
    assert_allclose(read(path, type_map=["Cu", "Pd"])[0].positions[0], [2, 2.5, 3])
    lines = [line for line in CFG.splitlines() if not line.startswith(("    4", "    0 "))]
    path.write_text("\n".join(line for line in lines if "Supercell" not in line))
    with pytest.warns(UserWarning, match="stress left out"):
        (item,) = read(path, type_map=["Cu", "Pd"])
    assert not item.pbc.any()


@pytest.mark.parametrize(
    ("change", "type_map", "message"),
    [
        (("", ""), None, r"type ids \[0, 1\] and no elements; give type_map"),
        (("", ""), ["Cu"], r"type ids must be in 0…0"),
        (("", ""), ["Cu", "Xx"], "'Xx' is not an element"),
        (("END_CFG", ""), ["Cu", "Pd"], "BEGIN_CFG without END_CFG"),
        (("Energy", "Enrgy"), ["Cu", "Pd"], "unknown entry 'Enrgy'"),
        (("2 1  2 2 2", "2 1  2 2"), ["Cu", "Pd"], "broken block"),
        (("-7.25", "x"), ["Cu", "Pd"], "could not convert"),
    ],
)
def test_broken_cfg(tmp_path, change, type_map, message) -> None:
    path = tmp_path / "a.cfg"
    path.write_text(CFG.replace(*change))
    with pytest.raises(DataError, match=message):
        read(path, type_map=type_map)


def test_lightpfp_by_its_schema(tmp_path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for i in (10, 9, 1000000):  # keys may outgrow their six digits
            group = file.create_group(f"{i:06d}")
            group["cell"], group["pbc"] = 4 * np.eye(3), np.ones(3, dtype=bool)
            group["numbers"], group["positions"] = [14], np.full((1, 3), 0.5)
            group["forces"] = np.zeros((1, 3), dtype=np.float32)
            group["potential_energy"] = float(i)
            group["stress"], group["calc_mode"] = np.arange(6.0), "CRYSTAL"
    found = read(path)
    assert [item.energy for item in found] == [9.0, 10.0, 1000000.0]
    assert_array_equal(found[0].stress, np.arange(6.0))
    path.write_bytes(b"no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        read(path)


def test_deepmd_virial_is_minus_volume_times_stress(tmp_path, rng) -> None:
    item = crystal(rng)
    write(tmp_path / "system", [item])
    virial = np.load(tmp_path / "system" / "set.000" / "virial.npy")[0].reshape(3, 3)
    assert_allclose(virial, -item.volume * tensor(item.stress))


def test_deepmd_needs_elements_and_shapes(tmp_path, rng) -> None:
    folder = tmp_path / "system"
    write(folder, [crystal(rng), crystal(rng)])
    (folder / "type_map.raw").unlink()
    with pytest.raises(DataError, match=r"add type_map\.raw"):
        read(folder)
    assert read(folder, type_map=["Si", "Ge"])[0].numbers.tolist() == [14, 32, 14]
    np.save(folder / "set.000" / "energy.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"energy.npy: expected shape \(2, 1\), got \(3,\)"):
        read(folder, type_map=["Si", "Ge"])
    with pytest.raises(DataError, match=r"has no type\.raw"):
        read(folder / "set.000")


def test_mixed_methods_of_a_teacher_are_noticed(tmp_path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i, mode in enumerate(["CRYSTAL", "CRYSTAL", "MOLECULE"]):
            group = file.create_group(f"{i:06d}")
            group["numbers"], group["positions"] = [14], np.zeros((1, 3))
            group["model_version"], group["calc_mode"] = "v5", mode
    with pytest.warns(UserWarning, match="several methods: v5 CRYSTAL, v5 MOLECULE"):
        read(tmp_path / "a.h5")


def test_a_deepmd_folder_is_not_written_twice(tmp_path, rng) -> None:
    write(tmp_path / "folder", [crystal(rng)])
    with pytest.raises(DataError, match="is not empty"):
        write(tmp_path / "folder", [crystal(rng, stress=None)])


def test_paths_that_do_not_work(tmp_path, rng) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.xyz")
    (tmp_path / "a.dat").write_text("?")
    with pytest.raises(DataError, match="ASE cannot read it"):
        read(tmp_path / "a.dat")
    (tmp_path / "a.xyz.gz").write_text("not compressed")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "a.xyz.gz")
    with pytest.raises(DataError, match=r"cannot write '\.pdf'"):
        write(tmp_path / "a.pdf", [crystal(rng)])
    slab = crystal(rng, pbc=np.array([True, False, True]), stress=None)
    with pytest.raises(DataError, match="periodic directions first"):
        write(tmp_path / "a.cfg", [slab])
    with pytest.raises(DataError, match="three directions or none"):
        write(tmp_path / "folder", [slab])


@pytest.mark.parametrize("name", PATHS)
def test_structures_are_taken_one_by_one(tmp_path, rng, name, monkeypatch) -> None:
    """Files larger than memory: few structures are alive at a time, also where they are read."""
    monkeypatch.setattr(deepmd, "HELD", 300)  # six or so of these crystals
    alive, most = weakref.WeakSet(), 0
    write(tmp_path / "source.xyz", [crystal(rng) for _ in range(30)])

    class Watched(Stream):
        def __iter__(self):
            nonlocal most
            for item in super().__iter__():
                alive.add(item)
                most = max(most, len(alive))
                yield item

    write(tmp_path / name, Watched(tmp_path / "source.xyz"))
    found = Watched(tmp_path / name)
    for one, other in zip(found, Stream(tmp_path / "source.xyz"), strict=True):
        assert_same(one, other, 1e-14)
    assert most < 15


def test_deepmd_in_several_sets(tmp_path, rng, monkeypatch) -> None:
    """Two systems by turns; every set holds some frames, in their order."""
    monkeypatch.setattr(deepmd, "HELD", 150)
    items = [make(rng) for _ in range(6) for make in (crystal, molecule)]
    write(tmp_path / "a", items)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"0000", "0001"}
    assert len(list((tmp_path / "a" / "0000").glob("set.*"))) > 1
    for one, other in zip(read(tmp_path / "a"), items[::2] + items[1::2], strict=True):
        assert_same(one, other, 1e-14)


@pytest.mark.parametrize("name", PATHS)
def test_a_broken_source_leaves_the_target_alone(tmp_path, rng, name) -> None:
    write(tmp_path / "kept.xyz", [crystal(rng)])
    before = (tmp_path / "kept.xyz").read_bytes()

    def broken():
        yield crystal(rng)
        raise DataError("damaged")

    for target in ("kept.xyz", name):
        with pytest.raises(DataError, match="damaged"):
            write(tmp_path / target, broken())
    assert (tmp_path / "kept.xyz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.xyz"]


def test_files_by_dpdata(tmp_path, rng) -> None:
    """Geometry, labels and the sign of the virial, through dpdata's own reader of DeePMD's."""
    pytest.importorskip("dpdata", reason="dpdata is not installed (extra: dpdata)")
    items = [crystal(rng) for _ in range(3)]
    write(tmp_path / "a", items)
    for one, other in zip(Stream(tmp_path / "a", form="dpdata:deepmd/npy"), items, strict=True):
        assert_same(one, other, 1e-6)  # dpdata turns cells and keeps float32
    with pytest.raises(DataError, match="dpdata cannot read it as no/such"):
        list(Stream(tmp_path / "a", form="dpdata:no/such"))


def test_dpdata_is_an_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dpdata", None)
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match=r"needs the package dpdata; pip install .*\[dpdata\]"):
        list(Stream(tmp_path / "a", form="dpdata:cp2k/output"))


def test_format_by_name(tmp_path, rng) -> None:
    """A file whose name says nothing."""
    atoms = Atoms("Cu", cell=[2, 3, 4], pbc=True)
    ase.io.write(tmp_path / "a.in", atoms, format="vasp")
    assert next(iter(Stream(tmp_path / "a.in", form="vasp"))).numbers.tolist() == [29]
    with pytest.raises(DataError, match=r"must be dpdata:NAME or a name of ASE's, got 'x:y'"):
        list(Stream(tmp_path / "a.in", form="x:y"))
