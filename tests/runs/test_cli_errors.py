"""Bad input through the command: exit code 2, one line per mistake on stderr, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtp.model_file import save_model
from mtp.potential import Potential, PotentialSpec
from stages.cli import main, train_main
from stages.control.defaults import LISTS
from stages.control.reference import json_schema

ROOT = Path(__file__).parents[2]


def multistage(**changed: Any) -> dict[str, Any]:
    return {"multistage_config": LISTS | changed}


def mtp(**changed: Any) -> dict[str, Any]:
    return {"mtp_config": changed}


def common(**changed: Any) -> dict[str, Any]:
    return {"common_config": changed}


# name: content, place, part of the message
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "C02 unknown section": ({"comon_config": {}}, "/comon_config", "did you mean 'common_config'?"),
    "C02 unknown key": (common(batchsize=1), "/common_config/batchsize", "mean 'batch_size'?"),
    "C03 bool for integer": (
        common(batch_size=True),
        "/common_config/batch_size",
        "must be an integer, got true",
    ),
    "C03 string for integer": (
        common(batch_size="128"),
        "/common_config/batch_size",
        'must be an integer, got "128"',
    ),
    "C03 section": ({"run_config": 1}, "/run_config", "must be an object, got 1"),
    "C04 batch_size": (common(batch_size=0), "/common_config/batch_size", "must be ≥ 1, got 0"),
    "C04 step size": (
        common(scheduler_step_size=0),
        "/common_config/scheduler_step_size",
        "must be ≥ 1",
    ),
    "C04 n_q": (mtp(n_q=0), "/mtp_config/n_q", "must be ≥ 1"),
    "C04 levmax": (mtp(levmax=-1), "/mtp_config/levmax", "must be ≥ 1"),
    "C04 epochs": (multistage(epoch_list=[80, 0]), "/multistage_config/epoch_list/1", "≥ 1"),
    "C05 lengths": (
        multistage(lr_list=[0.1]),
        "/multistage_config",
        "got lr_list 1, epoch_list 2, energy_loss_coeff_list 2, forces_loss_coeff_list 2, "
        "stress_loss_coeff_list 2, loss_func_list 2",
    ),
    "C05 missing": (
        {"multistage_config": {"lr_list": [1e-3]}},
        "/multistage_config",
        "missing epoch_list,",
    ),
    "C06 empty": (
        {"multistage_config": {name: [] for name in LISTS}},
        "/multistage_config",
        "calibration needs the log of a previous stage",
    ),
    "C06 empty, no calibration": (
        {"multistage_config": {name: [] for name in LISTS} | {"use_calib_stage": False}},
        "/multistage_config",
        "nothing to train",
    ),
    "C07 lr": (multistage(lr_list=[0.1, 0.0]), "/multistage_config/lr_list/1", "must be > 0"),
    "C07 coefficient": (
        multistage(forces_loss_coeff_list=[-1, 1]),
        "/multistage_config/forces_loss_coeff_list/0",
        "must be ≥ 0",
    ),
    "C07 all zero": (
        multistage(**{name: [1, 0] for name in LISTS if "coeff" in name}),
        "/multistage_config",
        "coefficients of stage 2 are all 0",
    ),
    "C08 loss": (
        multistage(loss_func_list=["mse", "mae"]),
        "/multistage_config/loss_func_list/1",
        "must be 'mse', 'l1' or 'huber', got \"mae\"; did you mean 'mse'?",
    ),
    "C09 lr_scheduling": (
        common(lr_scheduling="cosine"),
        "/common_config/lr_scheduling",
        "must be 'step', 'linear_warmup', 'None'",
    ),
    "C10 version": (mtp(model_version="v2"), "/mtp_config/model_version", "must be 'v1.0'"),
    "C11 pretrained": (
        mtp(pretrained_model="ALL_ELEMENTS_SMALL_8"),
        "/mtp_config/pretrained_model",
        "'ALL_ELEMENTS_SMALL_8' is not installed",
    ),
    "C12 two starts": (
        mtp(pretrained_model="X") | common(reload_model="control.json"),
        "/mtp_config/pretrained_model",
        "choose one",
    ),
    "C14 rc": (mtp(rc=0), "/mtp_config/rc", "must be > 0"),
    "C14 empty basis": (
        mtp(levmax=2, moment_init_cost=3),
        "/mtp_config/levmax",
        "must be at least moment_init_cost, 3, got 2: the basis would be empty",
    ),
    "C14 infinite basis": (mtp(moment_mu_cost=0), "/mtp_config/moment_mu_cost", "infinite"),
    "D05 huge basis": (mtp(levmax=60), "/mtp_config/levmax", "more than 5000 invariants"),
    "C14 nn width": (mtp(nn_dim_list=[16, 0]), "/mtp_config/nn_dim_list/1", "must be ≥ 1"),
    "C15 total_epoch": (common(total_epoch=2), "/common_config/total_epoch", "stages, 3, got 2"),
    "C17 calibration_lr": (
        multistage(calibration_lr=0),
        "/multistage_config/calibration_lr",
        "must be > 0",
    ),
    "C17 calibration_epoch": (
        multistage(calibration_epoch=0),
        "/multistage_config/calibration_epoch",
        "must be ≥ 1",
    ),
    "lstsq with l1": (
        multistage(loss_func_list=["mse", "l1"])
        | {"stage_options": {"optimizer": ["adam", "lstsq"]}},
        "/stage_options/optimizer/1",
        "lstsq minimises squares",
    ),
    "lstsq of the descriptor": (
        {"stage_options": {"optimizer": ["lstsq", "adam"], "trainable": [["descriptor"], None]}},
        "/stage_options/trainable/0",
        "lstsq moves readout",
    ),
    "nothing moves": (
        {"stage_options": {"trainable": [[], None]}},
        "/stage_options/trainable/0",
        "null means all",
    ),
    "option lengths": (
        {"stage_options": {"optimizer": ["adam"] * 2, "ema": [0.9] * 3}},
        "/stage_options",
        "got optimizer 2, ema 3",
    ),
    "option length": (
        multistage() | {"stage_options": {"ema": [0.9]}},
        "/stage_options",
        "must have 2 or 3 (with calibration) entries, got 1",
    ),
    "option without effect": (
        multistage() | {"stage_options": {"optimizer": ["lbfgs", "adam"], "ema": [0.9, 0.9]}},
        "/stage_options/ema/0",
        "no effect with lbfgs",
    ),
    "weighting of calibration": (
        multistage() | {"stage_options": {"energy_weighting": [None, None, "total"]}},
        "/stage_options/energy_weighting/2",
        "write null",
    ),
    "no target": (
        {"stage_options": {"calibration_target": dict.fromkeys(("energy", "forces", "stress"), 0)}},
        "/stage_options/calibration_target",
        "make one positive",
    ),
    "no such element": ({"data_config": {"e0": {"Sx": 1}}}, "/data_config/e0/Sx", "no element"),
    "no such reload model": (
        common(reload_model="gone.safetensors"),
        "/common_config/reload_model",
        "no such file 'gone.safetensors'",
    ),
    "no such data": (
        {"data_config": {"test_files": ["gone.xyz"]}},
        "/data_config/test_files/0",
        "no such file 'gone.xyz'",
    ),
    "teacher": (
        {"learn": {"teacher": "vasp"}},
        "/learn/teacher",
        "'vasp': unknown; write emt, lj",
    ),
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Function: text of a control file and more arguments → lines on stderr; checks exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.xyz").write_text("not read before the control file is right")

    def run(text: str, *arguments: str, name: str = "control.json") -> list[str]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert main(["train", name, *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert not (tmp_path / "runs").exists()
        return err.splitlines()

    return run


@pytest.mark.parametrize("name", BAD)
def test_bad_control_file(refused: Any, name: str) -> None:
    content, place, message = BAD[name]
    lines = refused(json.dumps(content), "--data", "data.xyz")
    here = [line for line in lines if line.startswith(f"control.json:{place}: ")]
    assert len(here) == (2 if name.startswith("C12") else 1), lines
    assert message in here[0]
    assert "; " in here[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n "b" 2}', "control.json:2:6: not valid JSON"),
        (
            '{"run_config": {"seed": 1,\n "seed": 2}}',
            "control.json:/run_config/seed: key 'seed' stands twice, again at line 2, column 2",
        ),
        (
            '{"multistage_config": {"lr_list": [NaN]}}',
            "control.json:/multistage_config/lr_list/0: NaN at line 1, column 36",
        ),
        ("[]", "control.json:/: must be an object with sections, got []"),
    ],
)
def test_c01_bad_text(refused: Any, text: str, expected: str) -> None:
    (line,) = refused(text, "--data", "data.xyz")
    assert expected in line


def test_yaml_has_the_same_messages(refused: Any) -> None:
    text = "multistage_config:\n  loss_func_list: [mse, mae]\n"
    (line,) = refused(text, "--data", "data.xyz", name="control.yaml")
    assert line.startswith("control.yaml:/multistage_config/loss_func_list/1: must be 'mse'")


def test_one_slip_gives_one_line(refused: Any) -> None:
    """A list with a bad entry is not also a missing list or one of another length."""
    content = multistage(lr_list=[0.1, -1, 1]) | {"stage_options": {"ema": [0.9]}}
    assert len(refused(json.dumps(content), "--data", "data.xyz")) == 1


def test_mistakes_of_all_kinds_come_at_once(refused: Any) -> None:
    content = common(batch_size=0, total_epoch=1) | mtp(pretrained_model="X") | {"x": 1}
    lines = refused(json.dumps(content), "--data", "gone.xyz")
    assert [line.split(": ")[0] for line in lines] == [
        "control.json:/common_config/batch_size",
        "control.json:/x",
        "control.json:/common_config/total_epoch",
        "control.json:/mtp_config/pretrained_model",
        "--data",
    ]


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        (
            "C16",
            common(total_epoch=8) | multistage(),
            "/common_config/total_epoch",
            "replaces epoch_list: the stages have [2, 4, 2] epochs",
        ),
        (
            "C13",
            common(reload_model="model.safetensors") | mtp(rc=5.0, n_q=8),
            "/mtp_config",
            "reload_model is given: rc, n_q ignored",
        ),
    ],
)
def test_warnings_become_errors_with_strict(
    tmp_path: Path,
    refused: Any,
    capsys: Any,
    name: str,
    content: dict[str, Any],
    place: str,
    message: str,
) -> None:
    save_model(tmp_path / "model.safetensors", Potential(PotentialSpec((1, 8), 4.0, 0.9, 4, 4)))
    (line,) = refused(json.dumps(content), "--check", "--strict")
    assert line.startswith(f"control.json:{place}: ")
    assert message in line
    assert main(["train", "control.json", "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == f"warning: {line}\n"
    assert "stage" in out


def test_no_data(refused: Any) -> None:
    (line,) = refused("{}")
    assert line == "control.json:/data_config/files: no data; name files here or with --data"


def test_a_file_counts_once(refused: Any) -> None:
    (line,) = refused("{}", "--data", "data.xyz", "--test", "./data.xyz")
    assert line == "--test: './data.xyz' is also at --data; name it once"


def test_files_that_are_not_there(tmp_path: Path, capsys: Any) -> None:
    for arguments in (
        ["train", "gone.json"],
        ["show", "gone.safetensors"],
        ["convert", "gone.xyz", "x.cfg"],
        ["train"],
    ):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_conversions_that_do_not_exist(tmp_path: Path, capsys: Any) -> None:
    model = tmp_path / "model.safetensors"
    model.touch()
    assert main(["convert", str(model), "x.xyz"]) == 2
    assert "a model goes from .safetensors to .mtp" in capsys.readouterr().err


def test_check_of_several_tasks_wants_their_data(refused: Any) -> None:
    """Those of a single task may come from the command line."""
    (a, b) = refused(json.dumps({"tasks": {"a": {}, "b": {}}}), "--check")
    assert "/tasks/a/data/files: no data of a" in a
    assert "/tasks/b/data/files: no data of b" in b


def test_check_prints_the_plan(capsys: Any) -> None:
    assert train_main([str(ROOT / "configs" / "minimal.json"), "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith(("stage", "calib"))]
    assert rows == [["stage", "epochs"], ["stage1", "2"], ["stage2", "4"], ["calibration", "2"]]
    assert "level 4" in out


def test_schema_is_all_of_stdout(capsys: Any) -> None:
    assert train_main(["--schema"]) == 0
    assert capsys.readouterr().out == json_schema()


def test_the_command_refuses_before_it_loads_torch(tmp_path: Path) -> None:
    """Through a process of its own, as a user sees it."""
    (tmp_path / "control.json").write_text('{"common_config": {"batch_size": 0}}')
    code = (
        "import sys; from stages.cli import train_main; code = train_main(['control.json']);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2  # and there is no data
