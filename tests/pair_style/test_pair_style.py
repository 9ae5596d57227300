"""pair_style mtp/light in LAMMPS against the ASE calculator, and its dynamics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from numpy.testing import assert_allclose

from mtp import MTPCalculator
from mtp.geometry import Geometry
from mtp.grade import build_grading
from mtp.mlip_import import load_mtp
from mtp.model_file import save_model
from mtp.potential import EmbeddingSpec, HeadSpec, Potential
from mtp.structure import Structure
from tests.pair_style.run_lammps import Output, evaluate, lmp
from tests.potentials import SMALL, random_potential

REFERENCE = Path(__file__).parents[1] / "reference"
EXAMPLES = Path(__file__).parents[2] / "configs" / "lammps"
SPECIES, ELEMENTS = (8, 14), ("Si", "O")  # LAMMPS's types in another order than the model's
READOUTS = {"linear": (), "neural": (6, 6)}
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def saved(potential: Potential, folder: Path) -> Path:
    path = folder / "model.mtp.safetensors"
    save_model(path, potential)
    return path


def mild(potential: Potential) -> Potential:
    """The same with energies of a few eV, whose dynamics stays tame for a while."""
    with torch.no_grad():
        for head in potential.heads.values():
            head.scale.mul_(0.02 if head.linear else 0.002)
    return potential


def crystal(repeat: tuple[int, int, int] = (1, 1, 1), seed: int = 0) -> Atoms:
    """Silicon and oxygen on a rattled rocksalt lattice; smaller than the cutoff unless repeated."""
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=4.6, cubic=True) * repeat
    atoms.numbers = rng.permutation(np.resize(SPECIES, len(atoms)))
    atoms.positions += rng.uniform(-0.15, 0.15, atoms.positions.shape)
    return atoms


def structures() -> dict[str, Atoms]:
    """Cells of every kind that LAMMPS takes."""
    triclinic = crystal()
    cell = [[4.6, 0, 0], [1.1, 4.5, 0], [-0.7, 0.9, 4.7]]
    triclinic.set_cell(cell, scale_atoms=True)
    slab = crystal((2, 2, 1))
    slab.pbc = (True, True, False)
    molecule = Atoms("SiO2Si", [[0, 0, 0], [1.7, 0.1, 0], [-0.3, 1.8, 0.2], [0.4, 0.3, 2.2]])
    molecule.set_cell([4, 4, 4])
    return {
        "smaller than the cutoff": crystal(),
        "triclinic": triclinic,
        "slab": slab,
        "molecule": molecule,
    }


def expected(atoms: Atoms, model: Path, **options) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = MTPCalculator(model, **options)
    return atoms


def assert_equal(found: Output, atoms: Atoms, **tolerance: float) -> None:
    """LAMMPS's energy, energies, forces and stress are ASE's."""
    assert_allclose(found.energy, atoms.get_potential_energy(), **tolerance)
    assert_allclose(found.energies, atoms.get_potential_energies(), **tolerance)
    assert_allclose(found.forces, atoms.get_forces(), **tolerance)
    if atoms.pbc.all():
        assert_allclose(found.stress, atoms.get_stress(), **tolerance)
        virial = atoms.get_stress() * atoms.get_volume()
        assert_allclose(found.virials.sum(0), virial, **tolerance)


@pytest.mark.parametrize("atoms", structures().values(), ids=structures())
@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
def test_equal_to_the_calculator(hidden: tuple[int, ...], atoms: Atoms, tmp_path: Path) -> None:
    model = saved(random_potential(SPECIES, hidden=hidden), tmp_path)
    assert_equal(evaluate(tmp_path, atoms, model, ELEMENTS), expected(atoms, model), **EXACT)


@pytest.mark.parametrize("level", [SMALL, (16, 2, 4, 1)], ids=["small", "level 16"])
def test_other_levels(level: tuple[int, int, int, int], tmp_path: Path) -> None:
    model, atoms = saved(random_potential(SPECIES, level), tmp_path), crystal()
    assert_equal(evaluate(tmp_path, atoms, model, ELEMENTS), expected(atoms, model), **EXACT)


def test_type_embedding(tmp_path: Path) -> None:
    """Of the radial coefficients and of a network's biases."""
    spec = random_potential(SPECIES).spec
    heads = (HeadSpec("default", hidden=(6,), activation="silu", embedded=True),)
    potential = Potential(replace(spec, heads=heads, embedding=EmbeddingSpec((4,))))
    for k, parameter in enumerate(potential.parameters()):
        generator = torch.Generator().manual_seed(k)
        torch.nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    model, atoms = saved(potential, tmp_path), crystal()
    assert_equal(evaluate(tmp_path, atoms, model, ELEMENTS), expected(atoms, model), **EXACT)


def test_float32(tmp_path: Path) -> None:
    """The same numbers as the calculator's in float32, which is not those of float64."""
    model, atoms = saved(random_potential(SPECIES, hidden=(6,)), tmp_path), crystal()
    found = evaluate(tmp_path, atoms, model, ELEMENTS, "float32")
    single = expected(atoms, model, dtype="float32")
    scale = np.abs(single.get_forces()).max()
    assert_equal(found, single, rtol=1e-5, atol=1e-5 * scale)
    double = expected(atoms, model).get_forces()
    assert np.abs(found.forces - double).max() > 1e-9 * scale


def test_threads_change_nothing(tmp_path: Path) -> None:
    model, atoms = saved(random_potential(SPECIES), tmp_path), crystal((2, 2, 2))
    one, two = (evaluate(tmp_path, atoms, model, ELEMENTS, threads=n) for n in (1, 2))
    assert "using 2 OpenMP thread(s)" in two.text
    assert_allclose(two.forces, one.forces, **EXACT)


def test_virial_of_an_atom(tmp_path: Path) -> None:
    """It is the derivative of the atom's energy by the strain, here by central differences."""
    model, atoms = saved(random_potential(SPECIES), tmp_path), crystal()
    found, step = evaluate(tmp_path, atoms, model, ELEMENTS).virials, 1e-5
    for k, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            strained = expected(atoms, model)
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energies())
        derivative = (energies[0] - energies[1]) / (2 * step)
        assert_allclose(found[:, k], derivative, rtol=1e-6, atol=1e-6 * np.abs(found).max())


def test_units_of_kcal(tmp_path: Path) -> None:
    model, atoms = saved(random_potential(SPECIES), tmp_path), crystal()
    metal = evaluate(tmp_path, atoms, model, ELEMENTS)
    real = evaluate(tmp_path, atoms, model, ELEMENTS, units="real")
    kcal = 23.060549  # kcal/mol in an eV, as LAMMPS has it
    assert_allclose(real.energy, kcal * metal.energy, rtol=1e-8)
    assert_allclose(real.forces, kcal * metal.forces, rtol=1e-8)


def test_heads(tmp_path: Path) -> None:
    """Each head's own energies; a head must be named where there are two."""
    made, names = random_potential(SPECIES), ("pbe", "scan")
    heads = tuple(HeadSpec(name) for name in names)
    several = Potential(replace(made.spec, heads=heads))
    several.load_state_dict(several.state_dict() | {"radial": made.radial})
    for k, name in enumerate(names):
        several.heads[name].load_state_dict(made.heads["default"].state_dict())
        several.heads[name].last.weight.data *= k + 1
    model, atoms = saved(several, tmp_path), crystal()
    for name in names:
        found = evaluate(tmp_path, atoms, model, ELEMENTS, f"float64 head {name}")
        assert_equal(found, expected(atoms, model, head=name), **EXACT)
    with pytest.raises(AssertionError, match="must be one of pbe, scan of this potential: it has"):
        evaluate(tmp_path, atoms, model, ELEMENTS)


@pytest.mark.parametrize("ranks", [1, 2])
def test_grades(ranks: int, tmp_path: Path) -> None:
    """`fix pair` shows the grades of the calculator, at the steps at which it asks for them."""
    potential, atoms = random_potential(SPECIES, (6, 2, 4, 1)), crystal((2, 1, 1))
    seen = [crystal(seed=seed) for seed in range(1, 6)]
    frames = [Structure(a.numbers, a.positions, a.cell.array, a.pbc) for a in seen]
    potential.grading = build_grading(potential, Geometry(frames, SPECIES, potential.spec.cutoff))
    model = saved(potential, tmp_path)
    found = evaluate(
        *(tmp_path, atoms, model, ELEMENTS),
        after="fix g all pair 1 mtp/light grade 1\n"
        "compute largest all reduce max f_g\nvariable largest equal c_largest\n"
        "fix stop all halt 1 v_largest > 1e-9 error soft\n"
        "dump g all custom 1 grades.dump id f_g\ndump_modify g sort id format float %.17g",
        steps=3,
        ranks=ranks,
    )
    rows = (tmp_path / "grades.dump").read_text().split("ITEM: ATOMS id f_g\n")[-1]
    grades = np.array([line.split()[1] for line in rows.splitlines()], float)
    assert len(found.thermo) == 2
    graded = expected(atoms, model)
    assert_allclose(grades, graded.calc.get_property("grades", graded), rtol=1e-8)
    assert_equal(found, graded, **EXACT)
    assert "Fix halt condition for fix-id stop met on step 1 " in found.text


def test_grades_of_a_model_without_them(tmp_path: Path) -> None:
    model = saved(random_potential(SPECIES), tmp_path)
    with pytest.raises(AssertionError, match="the model has no active set to compute grades from"):
        evaluate(
            *(tmp_path, crystal(), model, ELEMENTS),
            after="fix g all pair 1 mtp/light grade 1",
        )


@pytest.fixture(scope="module")
def silicon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rough silicon potential that keeps its crystal together."""
    return saved(load_mtp(REFERENCE / "silicon.mtp"), tmp_path_factory.mktemp("silicon"))


MOVE = "velocity all create {temperature} 4928 loop geom\ntimestep {step}\nfix move all nve"


@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
def test_ranks_agree(hidden: tuple[int, ...], tmp_path: Path) -> None:
    """Forces of the first step, and where atoms are after a hundred that exchange them."""
    model = saved(mild(random_potential(SPECIES, hidden=hidden)), tmp_path)
    atoms = crystal((4, 2, 2))
    after = MOVE.format(temperature="1500", step=0.001) + "\nneigh_modify every 5 delay 0"
    runs = {}
    for n in (1, 2, 4):
        folder = tmp_path / str(n)
        folder.mkdir()
        given = {"after": after, "steps": 100, "every": 100, "ranks": n}
        runs[n] = (
            evaluate(folder, atoms, model, ELEMENTS, ranks=n),
            evaluate(folder, atoms, model, ELEMENTS, **given),
        )
        assert f"on {n} procs" in runs[n][1].text
    for n in (2, 4):
        assert_allclose(runs[n][0].forces, runs[1][0].forces, rtol=0, atol=1e-10)
        assert_allclose(runs[n][0].stress, runs[1][0].stress, rtol=0, atol=1e-10)
        assert_allclose(runs[n][1].positions, runs[1][1].positions, rtol=0, atol=1e-8)
    assert np.abs(runs[1][1].positions - runs[1][0].positions).max() > 0.1


def test_energy_is_conserved(silicon: Path, tmp_path: Path) -> None:
    """The error of the total energy falls with the square of the time step, and does not drift."""
    atoms, errors = bulk("Si", cubic=True) * 2, []
    for step, steps in ((0.002, 250), (0.001, 500)):
        after = MOVE.format(temperature=600, step=step)
        total = evaluate(
            tmp_path, atoms, silicon, ("Si",), after=after, steps=steps, every=5
        ).thermo
        errors.append(total[:, 2].std() / len(atoms))
        kinetic = (total[:, 2] - total[:, 1]) / len(atoms)
        assert kinetic.std() > 20 * errors[-1]
        slope = np.polyfit(total[:, 0] * step, total[:, 2] / len(atoms), 1)[0]
        assert abs(slope) < 2e-4  # eV/ps an atom
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


def test_with_another_pair_style(tmp_path: Path) -> None:
    """Under hybrid/overlay the other style's forces are added, the virial with them."""
    model, atoms = saved(random_potential(SPECIES), tmp_path), crystal()
    alone = evaluate(tmp_path, atoms, model, ELEMENTS)
    zbl = {"style": "zbl 3.0 4.0", "after": "pair_coeff 1 1 14 14\npair_coeff 2 2 8 8"}
    other = evaluate(tmp_path, atoms, model, ELEMENTS, coeff="1 2 14 8", **zbl)
    both = evaluate(
        *(tmp_path, atoms, model, ELEMENTS),
        style="hybrid/overlay mtp/light zbl 3.0 4.0",
        coeff=f"* * mtp/light {model} Si O",
        after="pair_coeff 1 1 zbl 14 14\npair_coeff 2 2 zbl 8 8\npair_coeff 1 2 zbl 14 8",
    )
    assert_allclose(both.energy, alone.energy + other.energy, **EXACT)
    assert_allclose(both.forces, alone.forces + other.forces, **EXACT)
    assert_allclose(both.stress, alone.stress + other.stress, **EXACT)


def test_types_of_another_pair_style(tmp_path: Path) -> None:
    """NULL leaves a type to others: its atoms are neither counted nor seen."""
    model, atoms = saved(random_potential((14,)), tmp_path), crystal()
    found = evaluate(
        *(tmp_path, atoms, model, ELEMENTS),
        style="hybrid mtp/light zero 5.0",
        coeff=f"* * mtp/light {model} Si NULL",
        after="pair_coeff * 2 zero",
    )
    alone = expected(atoms[atoms.numbers == 14], model)
    assert_allclose(found.energy, alone.get_potential_energy(), **EXACT)
    assert_allclose(found.forces[atoms.numbers == 14], alone.get_forces(), **EXACT)
    assert not found.forces[atoms.numbers == 8].any()


SCRIPT = """units {units}
newton {newton}
lattice diamond 5.43
region box block 0 1 0 1 0 1
create_box 1 box
create_atoms 1 box
mass 1 28
pair_style {style}
pair_coeff {coeff}
run 0
"""
MISTAKES = {
    "element": ({"coeff": "* * MODEL Ge"}, "element Ge is not in MODEL, which knows Si"),
    "no file": ({"coeff": "* * none.mtp.safetensors Si"}, "none.mtp.safetensors: cannot be read"),
    "too few elements": ({"coeff": "* * MODEL"}, "an element for each atom type"),
    "too many elements": ({"coeff": "* * MODEL Si O"}, "Number of element to type mappings"),
    "types": ({"coeff": "1 1 MODEL Si"}, "must start with"),
    "option": ({"style": "mtp/light float16"}, "float64, float32 and head NAME, got float16"),
    "head": (
        {"style": "mtp/light head pbe"},
        "head must be one of default of this potential: it has no 'pbe'",
    ),
    "only NULL": ({"coeff": "* * MODEL NULL"}, "incorrect args for pair coefficients"),
    "units": ({"units": "lj"}, "units must be metal or real, got lj"),
    "newton": ({"newton": "off"}, "needs newton pair on"),
    "another format": ({"coeff": "* * si.mtp Si"}, "mtp convert si.mtp si.mtp.safetensors"),
}


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(change: dict[str, str], message: str, silicon: Path, tmp_path: Path) -> None:
    """One line of LAMMPS says what is wrong and what is allowed."""
    usual = {"units": "metal", "newton": "on", "style": "mtp/light", "coeff": "* * MODEL Si"}
    script = SCRIPT.format_map(usual | change).replace("MODEL", str(silicon))
    done = lmp(tmp_path, script)
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert message.replace("MODEL", str(silicon)).lower() in said[0].lower()


def test_atoms_that_coincide(silicon: Path, tmp_path: Path) -> None:
    script = SCRIPT.format(units="metal", newton="on", style="mtp/light", coeff=f"* * {silicon} Si")
    script = script.replace("run 0", "set atom 1 x 0 y 0 z 0\nset atom 2 x 0 y 0 z 0\nrun 0")
    done = lmp(tmp_path, script)
    assert done.returncode != 0
    assert "not finite: atoms coincide" in done.stdout


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.in")), ids=lambda path: path.stem)
def test_examples(example: Path, silicon: Path, tmp_path: Path) -> None:
    """Every example input runs, for a few steps of a small cell."""
    options = {"model": str(silicon), "size": "2", "steps": "20"}
    words = [word for name, value in options.items() for word in ("-var", name, value)]
    done = lmp(tmp_path, example.read_text(), *words)
    assert done.returncode == 0, done.stdout
    assert "Total wall time" in done.stdout
    assert "nan" not in done.stdout
