"""Inputs of DeePMD-kit, all three forms, as control files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtp.errors import InvalidInput
from stages.cli import main
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.convert import convert
from stages.deepmd_input import convert_input
from stages.plan import EmbeddingPlan, HeadPlan, Plan, Prefactors

FRAMES = {"water/a": 20, "water/b": 30, "tensor": 10}
ATOMS = 12
RATE = {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-7, "decay_steps": 50}
ENER = {
    "type": "ener",
    **{"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
}


def data(*systems: str, size: Any = "auto") -> dict[str, Any]:
    return {"training_data": {"systems": list(systems), "batch_size": size}}


SINGLE: dict[str, Any] = {
    "model": {
        "type_map": ["O", "H"],
        "type_embedding": {"neuron": [2, 4], "resnet_dt": True, "seed": 1},
        "descriptor": {"type": "se_e2_a", "rcut": 3.0, "neuron": [4, 8], "axis_neuron": 4},
        "fitting_net": {"neuron": [12, 12], "atom_ener": [-1.0, -2.0], "precision": "float32"},
    },
    "learning_rate": RATE,
    "loss": {"start_pref_v": 0.1, "limit_pref_v": 1.0},
    "training": data("water/a", size=4)
    | {"validation_data": {"systems": ["water/b"], "numb_btch": 3}}
    | {"numb_steps": 100, "seed": 3, "disp_freq": 10},
}
V2: dict[str, Any] = {
    "model": {
        "type_map": ["O", "H"],
        "descriptor": {"type": "se_e2_a", "rcut": 3.5, "neuron": [25, 50, 100], "axis_neuron": 16},
        "fitting_net_dict": {
            "mu": {"type": "dipole", "sel_type": [0], "neuron": [8, 8], "resnet_dt": False},
            "ccsd": {"neuron": [6, 6, 6], "layer_name": ["l0", None, "l2", None]},
            "wb97m": {"neuron": [6, 6, 6], "layer_name": ["l0", None, "l2", None]},
            "later": {"neuron": [6]},
        },
    },
    "learning_rate": RATE,
    "loss_dict": {"mu": {"type": "tensor", "pref": 2.0, "pref_atomic": 0.5}, "ccsd": ENER},
    "training": {
        "data_dict": {"mu": data("tensor"), "ccsd": data("water/a"), "wb97m": data("water/b")},
        "fitting_weight": {"mu": 10, "ccsd": 20, "wb97m": -1},
        "numb_steps": 1000,
    },
}
V3: dict[str, Any] = {
    "model": {
        "shared_dict": {
            "types": ["O", "H"],
            "dpa": {"type": "dpa2", "repinit": {"tebd_dim": 6, "rcut": 3.6}, "repformer": {}},
            "fit": {"neuron": [5, 5], "activation_function": "gelu", "dim_case_embd": 2},
        },
        "model_dict": {
            "one": {"type_map": "types", "descriptor": "dpa", "fitting_net": "fit"},
            "t.wo": {"type_map": "types", "descriptor": "dpa:0", "fitting_net": "fit:0"},
        },
    },
    "learning_rate": RATE | {"type": "cosine"},
    "loss_dict": {
        "one": ENER | {"use_huber": True, "huber_delta": [0.01, 0.1, 0.02]},
        "t.wo": ENER | {"loss_func": "mae", "start_pref_pf": 1.0},
    },
    "optimizer": {"type": "AdamW", "weight_decay": 0.01},
    "training": {
        "data_dict": {"one": data("water/a", size=2), "t.wo": data("water/b", size="mixed:4")},
        "model_prob": {"one": 0.5, "t.wo": 1.5},
        "gradient_max_norm": 5.0,
        "numb_steps": 500,
    },
}


@pytest.fixture
def converted(tmp_path: Path, rng: Any) -> Any:
    """Function: an input → its plan and the notes; the systems are in a folder beside it."""
    for name, frames in FRAMES.items():
        folder = tmp_path / "in" / name / "set.000"
        folder.mkdir(parents=True)
        (folder.parent / "type.raw").write_text("0 1 1 " * 4)
        np.save(folder / "coord.npy", rng.normal(size=(frames, 3 * ATOMS)))

    def make(content: dict[str, Any], suffix: str = ".json") -> tuple[Plan, list[str]]:
        source, target = tmp_path / "in" / "input.json", tmp_path / "out" / f"control{suffix}"
        source.write_text(json.dumps(content))
        target.parent.mkdir(exist_ok=True)
        notes = convert_input(source, target)
        return resolve(read_control(target)), notes

    return make


def changed(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a place; None takes the key out."""
    found = copy.deepcopy(content)
    *path, last = place.split("/")
    inner = found
    for part in path:
        inner = inner[part]
    inner.pop(last, None) if value is None else inner.update({last: value})
    return found


def test_a_system_to_train_on_is_no_test_file(converted: Any) -> None:
    systems = SINGLE["training"]["training_data"]["systems"]
    plan, notes = converted(changed(SINGLE, "training/validation_data/systems", systems))
    assert plan.data["default"].test_files == ()
    assert any("trained on as well" in note for note in notes)


def test_a_single_task(converted: Any, tmp_path: Path) -> None:
    plan, notes = converted(SINGLE)
    readout = {"hidden": (12, 12), "timestep": True, "embedded": True}
    assert plan.model.heads == (HeadPlan(**readout),)
    assert (plan.model.rc, plan.model.levmax, plan.model.moment_mu_cost) == (3.0, 8, 1)
    assert plan.model.embedding == EmbeddingPlan((2, 4), True)
    given = plan.data["default"]
    assert [Path(file.path) for file in given.files] == [tmp_path / "in" / "water/a"]
    assert [Path(file.path) for file in given.test_files] == [tmp_path / "in" / "water/b"]
    assert (given.type_map, given.e0) == (("O", "H"), {"O": -1.0, "H": -2.0})
    (stage,) = plan.stages
    assert (stage.optimizer, stage.lr, stage.epochs) == ("adam", 1e-3, 20)  # 5 batches of 4
    task = stage.tasks["default"]
    assert task.prefactors == {
        "energy": Prefactors(0.02, 1.0),
        "forces": Prefactors(1000.0, 1.0),
        "stress": Prefactors(0.1, 1.0),
    }
    assert (task.virial, task.energy_weighting) == (True, "per_atom")
    assert (plan.run.seed, plan.run.batch_size, plan.run.task_draw) == (3, 4, "shares")
    assert not any("disp_freq" in note for note in notes)


def test_the_learning_rate_ends_where_it_did(converted: Any) -> None:
    (stage,) = converted(SINGLE)[0].stages
    schedule = stage.schedule
    assert schedule.kind == "step"
    steps = stage.epochs / schedule.step_size
    assert steps >= 10
    assert schedule.gamma**steps == pytest.approx(1e-4)
    given = changed(changed(SINGLE, "learning_rate/stop_lr", None), "learning_rate/decay_rate", 0.5)
    (stage,) = converted(given)[0].stages  # halved every 50 steps, of 100
    assert stage.schedule.gamma ** (stage.epochs / stage.schedule.step_size) == pytest.approx(0.25)


def test_version_2(converted: Any) -> None:
    plan, notes = converted(V2)
    mu, ccsd, wb97m = plan.model.heads
    assert mu == HeadPlan("mu", "dipole", (8, 8), level=8, species=("O",))
    assert ccsd.shared == wb97m.shared == ("l0", None, "l2", None)
    assert ccsd.timestep
    assert (plan.model.rc, plan.model.levmax, plan.model.moment_mu_cost) == (3.5, 16, 4)
    (stage,) = plan.stages
    assert [task.weight for task in stage.tasks.values()] == [10.0, 20.0, 0.0]
    assert stage.tasks["mu"].coefficients == {"dipole": 2.0, "atomic_dipole": 0.5}
    assert stage.tasks["wb97m"].prefactors["forces"] == Prefactors(1000.0, 1.0), "the default"
    assert plan.run.task_draw == "random"
    assert plan.run.batch_size == 3  # of 12 atoms: 32 or more atoms
    assert stage.epochs == round(1000 / (3 + 6 + 9))
    text = "\n".join(notes)
    assert "later/training_data: has no data: the task is left out" in text
    assert "training/fitting_weight/wb97m: -1: the task is idle" in text


def test_version_2_without_weights_draws_tasks_equally(converted: Any) -> None:
    plan, _ = converted(changed(V2, "training/fitting_weight", None))
    assert [task.weight for task in plan.stages[0].tasks.values()] == [1.0] * 3


def test_version_2_with_learning_rates_of_its_own(converted: Any) -> None:
    rates = {"mu": RATE, "ccsd": RATE | {"start_lr": 0.01, "stop_lr": 1e-6}, "wb97m": RATE}
    given = changed(changed(V2, "learning_rate", None), "learning_rate_dict", rates)
    (stage,) = converted(given)[0].stages
    assert stage.lr == 1e-3
    assert [task.lr for task in stage.tasks.values()] == [None, 0.01, None]


def test_version_3(converted: Any) -> None:
    plan, notes = converted(V3, ".yaml")
    one, two = plan.model.heads
    assert (one.name, two.name) == ("one", "t_wo")
    assert one.shared == two.shared == ("fit_0", "fit_1", "fit_2")
    assert (one.hidden, one.activation, one.embedded) == ((5, 5), "gelu", True)
    assert plan.model.embedding == EmbeddingPlan((6,))
    assert (plan.model.rc, plan.model.levmax) == (3.6, 16)
    (stage,) = plan.stages
    assert [task.weight for task in stage.tasks.values()] == [0.5, 1.5]
    huber, absolute = stage.tasks.values()
    assert (huber.loss, absolute.loss) == ("huber", "l1")
    assert huber.huber_delta == {"energy": 0.01, "forces": 0.1, "stress": 0.02}
    assert huber.energy_weighting == absolute.energy_weighting == "per_atom_squared"
    assert (stage.weight_decay, stage.gradient_clip) == (0.01, 5.0)
    assert stage.schedule.kind == "linear_warmup"
    assert stage.schedule.min_ratio == pytest.approx(1e-4)
    assert plan.run.batch_size == 2
    text = "\n".join(notes)
    for part in (
        "t.wo: is called t_wo here",
        "dim_case_embd: a shared readout",
        "start_pref_pf: this term has no counterpart",
        "differ (one 2, t_wo 4): the smallest",
        "'cosine' becomes linear_warmup",
        "dpa2 becomes an MTP of the same cutoff, 3.6 Å, level 16 (LARGE: it is dpa2",
    ):
        assert part in text


def test_version_3_with_epochs_of_tasks(converted: Any) -> None:
    given = changed(changed(V3, "training/model_prob", None), "training/numb_steps", None)
    plan, _ = converted(changed(given, "training/num_epoch_dict", {"one": 2.5, "t.wo": 1}))
    (stage,) = plan.stages
    assert [task.epochs for task in stage.tasks.values()] == [2.5, 1.0]
    assert stage.epochs == 3


def test_version_3_without_probabilities_counts_systems(converted: Any) -> None:
    given = changed(V3, "training/model_prob", None)
    given["training"]["data_dict"]["one"] = data("water/a", "water/b")
    plan, _ = converted(given)
    assert [task.weight for task in plan.stages[0].tasks.values()] == [2.0, 1.0]


def test_intensive_energies_are_divided_twice(converted: Any) -> None:
    plan, _ = converted(changed(SINGLE, "loss/intensive_ener_virial", True))
    assert plan.stages[0].tasks["default"].energy_weighting == "per_atom_squared"


def test_what_is_not_known_is_said(converted: Any) -> None:
    _, notes = converted(changed(SINGLE, "training/mixed_precision", {"compute": "float16"}))
    assert 'training/mixed_precision: has no counterpart ({"compute": "float16"})' in notes
    _, notes = converted(changed(SINGLE, "model/fitting_net/activation_function", "relu"))
    assert any("'relu' has no counterpart: tanh is taken" in note for note in notes)


def test_steps_cannot_be_counted_without_data(tmp_path: Path) -> None:
    source, target = tmp_path / "input.json", tmp_path / "control.json"
    source.write_text(json.dumps(SINGLE))
    notes = convert_input(source, target)
    assert any("are not there to count batches; 100 epochs are taken" in note for note in notes)
    assert json.loads(target.read_text())["multistage_config"]["epoch_list"] == [100]


def test_a_model_to_go_on_from(tmp_path: Path) -> None:
    """`"descriptor": {}` and `{}` for heads, completed from a model."""
    given = changed(V2, "model/descriptor", {})
    given["model"]["fitting_net_dict"] = {"ccsd": {}, "new": {"neuron": [4]}}
    given["training"]["data_dict"] = {"new": data("water/a")}
    given["loss_dict"] = {}
    source, target = tmp_path / "input.json", tmp_path / "control.json"
    source.write_text(json.dumps(given))
    notes = convert_input(source, target)
    control = json.loads(target.read_text())
    assert control["tasks"]["descriptor"] == {}
    assert control["tasks"]["ccsd"] == {}
    assert "mtp_config" not in control
    assert any("name it in common_config.reload_model" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, 'it needs "model" and "training"'),
        (changed(V2, "training/data_dict", {}), "has training data; add some"),
        (changed(V3, "model/shared_dict/fit", None), "model/shared_dict has no 'fit'; add it"),
        (changed(SINGLE, "learning_rate/start_lr", "x"), "not as DeePMD-kit's inputs are"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    source, target = tmp_path / "input.json", tmp_path / "control.json"
    source.write_text(json.dumps(content))
    with pytest.raises(InvalidInput) as refused:
        convert(source, target)
    (line,) = refused.value.lines
    assert line.startswith(f"{source}: ")
    assert message in line
    assert not target.exists()


def test_the_command(converted: Any, tmp_path: Path, capsys: Any) -> None:
    converted(V2)
    source, target = tmp_path / "in" / "input.json", tmp_path / "in" / "control.yaml"
    assert main(["convert", str(source), str(target)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{target}: a control file; {len(err.splitlines())} lines say what is not as " + (
        f"in {source}\n"
    )
    assert main(["train", str(target), "--check"]) == 0
    assert "33.3 %" in capsys.readouterr().out
