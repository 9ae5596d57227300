"""Models in the C++ kernel: read from a file by a C program and from Python; the kept buffers."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mtp.errors import InvalidInput
from mtp.heads import ACTIVATIONS
from mtp.kernels import cpu
from mtp.kernels.inference import Evaluation, NativeModel
from mtp.model_file import save_model
from mtp.neighbours import Neighbours
from mtp.potential import HeadSpec, Potential, Prediction
from mtp.structure import Structure
from tests.potentials import SMALL, random_potential
from tests.systems import CUTOFF, MIN_DIST, SYSTEMS, geometry

HERE = Path(__file__).parent
LIBRARY = Path(cpu.__file__).parent
SPECIES = (1, 6, 8, 14, 29)
READOUTS = {"linear": (), "network": (7,), "skips": (6, 6, 4)}
WRAPPED = [name for name in SYSTEMS if name != "slab"]  # the program wants atoms near their cell


def potential(
    hidden: tuple[int, ...], heads: tuple[str, ...] = ("default",), **network
) -> Potential:
    """A random potential that knows every element of the systems; network: more of HeadSpec."""
    made = random_potential(SPECIES, cutoff=CUTOFF, min_dist=MIN_DIST, hidden=hidden, **network)
    if heads == ("default",):
        return made
    specs = tuple(HeadSpec(name, hidden=hidden) for name in heads)
    several = Potential(replace(made.spec, heads=specs))
    several.load_state_dict(several.state_dict() | {"radial": made.radial})
    for k, name in enumerate(heads):
        several.heads[name].load_state_dict(made.heads["default"].state_dict())
        several.heads[name].last.weight.data *= k + 1
    return several


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/kernels/inference_main.c, compiled against the library."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("program") / "inference_main"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{LIBRARY / 'src'}"]
    link = [f"-L{LIBRARY}", "-lmtp", f"-Wl,-rpath,{LIBRARY}", "-lm"]
    command = [compiler, *flags, str(HERE / "inference_main.c"), *link, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, model: Path, head: str, given: Path, kind: str = "double"):
    command = [str(program), str(model), head, str(given), kind]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def write(structure: Structure, path: Path) -> Path:
    """The program's input."""
    rows = [f"{len(structure)}", " ".join(f"{x:.17g}" for x in structure.cell.ravel())]
    rows.append(" ".join(str(int(p)) for p in structure.pbc))
    for number, place in zip(structure.numbers, structure.positions, strict=True):
        rows.append(f"{number} " + " ".join(f"{x:.17g}" for x in place))
    path.write_text("\n".join(rows) + "\n")
    return path


def printed(done) -> Evaluation:
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    atoms = np.array([line.split() for line in lines[2:]], dtype=float).reshape(-1, 4)
    virial = np.array(lines[1].split(), dtype=float)
    return Evaluation(float(lines[0]), atoms[:, 0], atoms[:, 1:], virial)


def predicted(made: Potential, structure: Structure, head: str = "default") -> Prediction:
    return made.predict(geometry([structure], SPECIES).batch(), head)


def assert_same(found: Evaluation, expected: Prediction, structure: Structure, relative: float):
    values = {
        "energies": (found.energies, expected.energies),
        "energy": (np.array([found.energy]), expected.energy),
        "forces": (found.forces, expected.forces),
    }
    if structure.pbc.all():
        values["stress"] = (found.virial / structure.volume, expected.stress[0])
    for actual, wanted in values.values():
        size = max(1.0, float(wanted.abs().max()))
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=relative * size)


@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
def test_a_program_reads_a_model_file(program: Path, hidden: tuple, tmp_path: Path) -> None:
    made = potential(hidden)
    save_model(tmp_path / "model", made, {"files": ['Å \U0001f600 "quoted" \\ \n'], "x": [1e-7]})
    for name in WRAPPED:
        given = write(SYSTEMS[name], tmp_path / "input")
        found = printed(run(program, tmp_path / "model", "-", given))
        assert_same(found, predicted(made, SYSTEMS[name]), SYSTEMS[name], 1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_of_a_model_file(activation: str, tmp_path: Path) -> None:
    network = {"activation": activation, "timestep": True, "embedded": True}
    made, structure = potential((6, 6), **network), SYSTEMS["five species"]
    save_model(tmp_path / "model", made)
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    for model in (NativeModel.of(made, "default"), NativeModel.load(tmp_path / "model")):
        found = evaluate(model, structure, species)
        assert_same(found, predicted(made, structure), structure, 1e-12)


def test_heads_of_different_networks(tmp_path: Path) -> None:
    heads = (
        HeadSpec("a", hidden=(5, 5), activation="gelu", timestep=True),
        HeadSpec("b"),
        HeadSpec("c", hidden=(4,), activation="silu", embedded=True),
    )
    made = random_potential(SPECIES, cutoff=CUTOFF, min_dist=MIN_DIST, heads=heads)
    save_model(tmp_path / "model", made)
    structure = SYSTEMS["five species"]
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    for head in "abc":
        found = evaluate(NativeModel.load(tmp_path / "model", head), structure, species)
        assert_same(found, predicted(made, structure, head), structure, 1e-12)


@pytest.mark.parametrize("kind", ["dipole", "polarizability"])
@pytest.mark.parametrize("hidden", [(), (5, 5)], ids=["linear", "gated"])
@pytest.mark.parametrize("more", [{}, {"species": (8, 1), "level": 6}], ids=["all", "selected"])
def test_tensor_heads(kind: str, hidden: tuple, more: dict, tmp_path: Path) -> None:
    head = HeadSpec("tensor", kind, hidden=hidden, activation="silu", timestep=True, **more)
    energy = HeadSpec("energy", hidden=(4,))
    made = random_potential(SPECIES, cutoff=CUTOFF, min_dist=MIN_DIST, heads=(head, energy))
    save_model(tmp_path / "model", made)
    model = NativeModel.load(tmp_path / "model", "tensor")
    assert model.components == {"dipole": 3, "polarizability": 6}[kind]
    for name in ("five species", "molecule", "no pairs", "slab"):
        structure = SYSTEMS[name]
        expected = predicted(made, structure, "tensor").values
        for single, relative in ((False, 1e-12), (True, 1e-4)):
            total, atomic = tensor(model, structure, single)
            for found, wanted in ((total, expected[kind][0]), (atomic, expected[f"atomic_{kind}"])):
                size = max(1.0, float(wanted.abs().max()))
                np.testing.assert_allclose(found, wanted, rtol=0, atol=relative * size)
        energies = NativeModel.load(tmp_path / "model", "energy")
        species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
        found = evaluate(energies, structure, species)
        assert_same(found, predicted(made, structure, "energy"), structure, 1e-12)


def tensor(model: NativeModel, structure: Structure, single: bool) -> tuple:
    from ase import Atoms

    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    neighbours = Neighbours.find(atoms, model.cutoff)
    return model.tensor(neighbours, species, atoms.positions, single)


def test_energies_and_tensors_are_not_confused(tmp_path: Path) -> None:
    heads = (HeadSpec("d", "dipole"), HeadSpec("e"))
    made = random_potential(SPECIES, cutoff=CUTOFF, min_dist=MIN_DIST, heads=heads)
    save_model(tmp_path / "model", made)
    dipole, energy = (NativeModel.load(tmp_path / "model", name) for name in "de")
    structure = SYSTEMS["molecule"]
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    with pytest.raises(InvalidInput, match="predicts a tensor, not energies"):
        evaluate(dipole, structure, species)
    with pytest.raises(InvalidInput, match="predicts energies, not a tensor"):
        tensor(energy, structure, False)


@pytest.mark.parametrize("hidden", [(), (6, 6)], ids=["linear", "network"])
def test_single_precision(program: Path, hidden: tuple, tmp_path: Path) -> None:
    """A file in float64 computed in float32, and a file in float32 computed in both."""
    made, structure = potential(hidden), SYSTEMS["five species"]
    expected = predicted(made, structure)
    given = write(structure, tmp_path / "input")
    save_model(tmp_path / "model", made)
    assert_same(
        printed(run(program, tmp_path / "model", "-", given, "single")), expected, structure, 2e-5
    )
    save_model(tmp_path / "model", made.cast(torch.float32))
    for kind in ("double", "single"):
        found = printed(run(program, tmp_path / "model", "-", given, kind))
        assert_same(found, expected, structure, 2e-5)


def test_heads(program: Path, tmp_path: Path) -> None:
    made, structure = potential((5,), ("pbe", "scan")), SYSTEMS["molecule"]
    save_model(tmp_path / "model", made)
    given = write(structure, tmp_path / "input")
    for head in ("pbe", "scan"):
        found = printed(run(program, tmp_path / "model", head, given))
        assert_same(found, predicted(made, structure, head), structure, 1e-12)
    for head, said in (("-", "several and none was named"), ("hse", "no 'hse'")):
        done = run(program, tmp_path / "model", head, given)
        assert done.returncode == 1
        assert f"head must be one of pbe, scan of this potential: it has {said}" in done.stderr


@pytest.mark.parametrize("name", ["é", "力", "\U0001f600", "\x7f\x80߿ࠀ\uffff"])
def test_escaped_names_of_heads(name: str, tmp_path: Path) -> None:
    """JSON may write any letter as escapes; a name is asked for in UTF-8."""
    made, structure = potential((), (name, "e")), SYSTEMS["molecule"]
    save_model(tmp_path / "model", made)
    rewritten(tmp_path / "model", lambda outer, inner: None)
    assert name.encode() not in (tmp_path / "model").read_bytes()
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    found = evaluate(NativeModel.load(tmp_path / "model", name), structure, species)
    assert_same(found, predicted(made, structure, name), structure, 1e-12)


@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
@pytest.mark.parametrize("single", [False, True])
def test_isolated_atoms_have_their_shift_to_the_last_bit(
    hidden: tuple, single: bool, tmp_path: Path
) -> None:
    made, structure = potential(hidden), SYSTEMS["no pairs"]
    save_model(tmp_path / "model", made)
    shifts = made.heads["default"].shifts.detach().numpy()
    for model in (NativeModel.of(made, "default"), NativeModel.load(tmp_path / "model")):
        species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
        found = evaluate(model, structure, species, single)
        np.testing.assert_array_equal(found.energies, shifts[species])
        assert not found.forces.any()


def evaluate(
    model: NativeModel, structure: Structure, species: np.ndarray, single: bool = False
) -> Evaluation:
    from ase import Atoms

    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    neighbours = Neighbours.find(atoms, model.cutoff)
    return model.compute(neighbours, species, atoms.positions, single)


def test_a_model_from_a_file_knows_its_species(tmp_path: Path) -> None:
    save_model(tmp_path / "model", potential(()))
    model = NativeModel.load(tmp_path / "model")
    assert model.species == SPECIES
    assert model.cutoff == CUTOFF


def test_results_are_not_overwritten_by_the_next_call() -> None:
    structure = SYSTEMS["bulk"]
    model = NativeModel.of(potential(()), "default")
    species = np.searchsorted(SPECIES, structure.numbers).astype(np.int32)
    first = evaluate(model, structure, species)
    kept = first.forces.copy(), first.energies.copy(), first.virial.copy()
    evaluate(model, replace(structure, positions=structure.positions * 1.01), species)
    for before, now in zip(kept, (first.forces, first.energies, first.virial), strict=True):
        np.testing.assert_array_equal(before, now)


# --- files that are wrong -----------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing: cannot be read: No such file or directory"):
        NativeModel.load(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match=f"{tmp_path.name}: cannot be read: Is a directory"):
        NativeModel.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678", b"\xff" * 99, b"\2" + b"\0" * 7])
def test_foreign_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"model: not a model file of mtp-train"):
        NativeModel.load(tmp_path / "model")


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model")
    with pytest.raises(InvalidInput, match="a safetensors file, but not a model"):
        NativeModel.load(tmp_path / "model")


def test_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtp.model_file.FORMAT", 99)
    save_model(tmp_path / "model", potential(()))
    with pytest.raises(InvalidInput, match="model format 99, but this library reads format 2"):
        NativeModel.load(tmp_path / "model")


def test_truncated_files(tmp_path: Path) -> None:
    save_model(tmp_path / "whole", potential((5,)))
    content = (tmp_path / "whole").read_bytes()
    for size in [*range(0, 64), *range(64, len(content), 97), len(content) - 1]:
        (tmp_path / "model").write_bytes(content[:size])
        with pytest.raises(InvalidInput, match=r"not a model file|damaged model file"):
            NativeModel.load(tmp_path / "model")


def test_flipped_bits_never_crash(tmp_path: Path, rng: np.random.Generator) -> None:
    """A flipped bit in a weight is no error, but most of the file is header and table."""
    save_model(tmp_path / "whole", random_potential((8, 14), SMALL, hidden=(3,)))
    content = (tmp_path / "whole").read_bytes()
    structure, refused = SYSTEMS["two species"], 0
    species = np.searchsorted((8, 14), structure.numbers).astype(np.int32)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "model").write_bytes(damaged)
        try:
            evaluate(NativeModel.load(tmp_path / "model"), structure, species)
        except InvalidInput:
            refused += 1
    assert refused > 50


def rewritten(path: Path, change) -> None:
    """The file with its headers changed: change(safetensors header, our header)."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["mtp"])
    change(outer, inner)
    outer["__metadata__"]["mtp"] = json.dumps(inner)
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o, i: i.pop("spec"), "no 'spec'"),
        (lambda o, i: i["spec"].pop("n_q"), "no 'n_q'"),
        (lambda o, i: i["spec"].update(n_q=7), "wrong shape"),
        (lambda o, i: i["spec"].update(n_q=1.5), "1.5 in place of an integer"),
        (lambda o, i: i["spec"].update(cutoff="5"), "lacks a number"),
        (lambda o, i: i["spec"].update(cutoff=1.0), "radial basis is not valid"),
        (lambda o, i: i["spec"]["heads"][0].update(hidden=[5, 5]), "layers.1.weight is missing"),
        (lambda o, i: i["spec"]["heads"][0].update(hidden=[10**17]), "width is not valid"),
        (lambda o, i: i["spec"]["heads"][0].update(hidden=[10**6] * 2), "wider layers"),
        (lambda o, i: i["spec"]["heads"][0].update(activation="relu"), "one of tanh, silu"),
        (lambda o, i: i["spec"]["heads"][0].update(timestep=1), "lacks a true or false"),
        (lambda o, i: i["spec"]["heads"][0].update(embedded=True), "species_bias is missing"),
        (lambda o, i: i["spec"].update(species=[]), "wrong shape"),
        (lambda o, i: i.update(n_moments=10**12), "n_moments"),
        (lambda o, i: i.update(n_moments=-1), "moment table is empty"),
        (lambda o, i: o.pop("table.products"), "table.products is missing"),
        (lambda o, i: o["radial"].update(dtype="F16"), "radial is F16, not F64 or F32"),
        (lambda o, i: o["radial"].update(data_offsets=[0, 10**15]), "beyond the end"),
        (lambda o, i: o["radial"].update(data_offsets=[8, 0]), "beyond the end"),
        (lambda o, i: o["radial"].update(data_offsets=[0, 8]), "wrong size"),
        (lambda o, i: o["table.scalars"].update(shape=[10**17]), "wrong shape"),
        (lambda o, i: o["table.scalars"].update(shape=[]), "is one number"),
    ],
)
def test_wrong_headers(change, said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model", potential((5,)))
    rewritten(tmp_path / "model", change)
    with pytest.raises(InvalidInput, match="model: damaged model file: ") as caught:
        NativeModel.load(tmp_path / "model")
    assert said in str(caught.value)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    made = potential(())
    made.radial.data[0, 0, 0, 0] = np.nan
    save_model(tmp_path / "model", made)
    with pytest.raises(InvalidInput, match="tensor radial is not finite"):
        NativeModel.load(tmp_path / "model")


NOT_JSON = (
    """{'a': 1}
{"a": 01}
{"a": +1}
{"a": .5}
{"a": 1, "a": 2}
{"a": 1,}
{"a"}
{"a": "\\x"}
{"a": "\\ud800"}
{"a": "\t"}
{"a": nul}
{"a": 1} x
"""
    + 5000 * "["
)


@pytest.mark.parametrize(
    "text", NOT_JSON.encode().split(b"\n"), ids=lambda text: text.decode()[:20]
)
def test_what_is_not_json(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InvalidInput, match="not a model file"):
        NativeModel.load(tmp_path / "model")


# --- the library itself -------------------------------------------------------------------------


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ABI", 99)
    with pytest.raises(InvalidInput, match=r"not of this version of mtp-train.* needed is 99"):
        cpu.library.__wrapped__()
    header = (LIBRARY / "src" / "mtp.h").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert f"#define MTP_ABI {cpu.ABI}\n" in header
