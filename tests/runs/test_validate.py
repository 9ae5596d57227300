"""`mtp validate`: its table, its page, references from files, going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from stages import cli
from stages.validate import repeats

FAST = ("--supercell", "4", "--steps", "40")


@pytest.fixture
def cell(tmp_path: Path) -> str:
    write(tmp_path / "cu.xyz", bulk("Cu", a=3.7))
    return str(tmp_path / "cu.xyz")


def run(*arguments: str) -> int:
    return cli.main(["validate", *arguments])


def test_a_teacher_against_itself(cell: str, tmp_path: Path, capsys) -> None:
    """No difference anywhere; then its own properties.json as the reference."""
    first = tmp_path / "first"
    assert run("emt", cell, "--against", "emt", "--output", str(first), *FAST) == cli.DONE
    rows = {line[:31].strip(): line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    for name in ("C11", "vacancy energy", "highest frequency at Γ"):
        if name in rows:
            assert rows[name][0] == rows[name][1]
    page = (first / "report.html").read_text()
    assert page.count("<img") == 4
    assert "equation of state" not in page  # nothing failed
    assert str(tmp_path) not in page
    second = tmp_path / "second"
    reference = str(first / "properties.json")
    arguments = ("emt", cell, "--against", reference, "--output", str(second), "--json", *FAST)
    assert run(*arguments) == cli.DONE
    values = json.loads(capsys.readouterr().out)
    assert values["model"] == values["reference"]
    assert values["model"]["elastic"]["means_GPa"]["C11"] == pytest.approx(172.6, abs=1)


def test_going_on(cell: str, tmp_path: Path, capsys) -> None:
    """What is in properties.json is not computed again."""
    output = tmp_path / "out"
    arguments = ("emt", cell, "--output", str(output), "--properties", "eos", *FAST)
    assert run(*arguments) == cli.DONE
    content = json.loads((output / "properties.json").read_text())
    content["model"]["eos"]["bulk_modulus_GPa"] = 123.25
    (output / "properties.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert run(*arguments) == cli.DONE
    assert "123.25" in capsys.readouterr().out
    assert run("lj", *arguments[1:]) == cli.INVALID
    assert "other options" in capsys.readouterr().err


def test_what_fails_is_said(tmp_path: Path, capsys) -> None:
    """The page and a warning name what could not be computed; the rest is there."""
    output = tmp_path / "out"
    write(tmp_path / "w.xyz", bulk("W"))
    assert run("emt", str(tmp_path / "w.xyz"), "--output", str(output), *FAST) == cli.DONE
    assert "lattice by the model: No EMT-potential for W" in capsys.readouterr().err
    assert "there is no relaxed crystal" in (output / "report.html").read_text()


def test_refusals(tmp_path: Path, cell: str, capsys) -> None:
    write(tmp_path / "free.xyz", bulk("Cu") * (1, 1, 1), format="xyz")
    assert run("emt", str(tmp_path / "free.xyz"), "--output", str(tmp_path / "o")) == cli.INVALID
    assert "three periodic directions" in capsys.readouterr().err
    assert run("emt", str(tmp_path / "none.xyz"), "--output", str(tmp_path / "o")) == cli.INVALID
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("[")
    assert (
        run("emt", cell, "--against", str(tmp_path / "x.json"), "--output", str(tmp_path / "o"))
        == cli.INVALID
    )
    assert "cannot be read as a reference" in capsys.readouterr().err


def test_repeats() -> None:
    assert repeats(bulk("Cu", cubic=True, a=3.6), 10.0) == (3, 3, 3)
    assert repeats(bulk("Cu", a=3.6), 10.0) == (5, 5, 5)
