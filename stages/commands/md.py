"""`mtp md`: molecular dynamics with a potential."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command

HELP = "Molecular dynamics with a potential: trajectory, thermo log, restart."


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "md", _md, HELP)
    parser.set_defaults(interrupted="interrupted; the same command with --restart goes on")
    parser.add_argument("model", metavar="MODEL", help="model file or a teacher's name, as emt")
    parser.add_argument("structure", metavar="STRUCTURE", type=Path, help="last frame of a file")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True)
    parser.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nvt")
    parser.add_argument(
        "--temperature",
        nargs="+",
        type=float,
        default=[300.0],
        metavar="K",
        help="one, or first and last of a ramp",
    )
    numbers = (
        ("pressure", 0.0, "GPA", "of npt"),
        ("timestep", 1.0, "FS", "time step"),
        ("damping", 100.0, "FS", "time constant of the thermostat"),
        ("barostat", 1000.0, "FS", "time constant of the barostat"),
    )
    for name, default, unit, text in numbers:
        parser.add_argument(
            f"--{name}", type=float, default=default, metavar=unit, help=f"{text} ({default:g})"
        )
    parser.add_argument("--steps", type=int, default=1000, metavar="N")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="steps between frames")
    parser.add_argument("--repeat", nargs=3, type=int, metavar="N", help="supercell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-grade", type=float, metavar="G", help="stop above this extrapolation grade"
    )
    parser.add_argument(
        "--min-distance", type=float, metavar="Å", help="stop when two atoms are closer"
    )
    parser.add_argument("--head", metavar="NAME", help="which head, where there are several")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--trajectory", choices=("xyz", "traj"), default="xyz")
    parser.add_argument("--restart", action="store_true", help="go on with the run in --output")


def _md(options: argparse.Namespace) -> None:
    from mtp.errors import InvalidInput
    from mtp.md import Settings
    from stages.inputs import calculator_for, read_last
    from stages.md import run_md

    if len(options.temperature) > 2:
        raise InvalidInput("--temperature takes one or two numbers")
    names = ("ensemble", "pressure", "timestep", "damping", "barostat", "steps", "every", "seed")
    settings = Settings(
        **{name: getattr(options, name) for name in (*names, "max_grade", "min_distance")},
        temperature=options.temperature[0],
        until=options.temperature[1] if len(options.temperature) == 2 else None,
    )
    atoms = read_last(options.structure)
    if options.repeat:
        atoms *= options.repeat
    atoms.calc = calculator_for(
        options.model,
        head=options.head,
        dtype=options.dtype,
        device=options.device,
        grade=options.max_grade is not None,
    )
    given = {"model": options.model, "structure": str(options.structure), "repeat": options.repeat}
    run_md(
        atoms,
        settings,
        options.output,
        given=given,
        kind=options.trajectory,
        restart=options.restart,
    )
    print(options.output / f"trajectory.{options.trajectory}")
