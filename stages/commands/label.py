"""`mtp label`: label structures with a teacher, in parallel and resumably."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "label", _label, "Label structures with a calculator (teacher).")
    parser.set_defaults(interrupted="interrupted; the same command goes on")
    parser.add_argument(
        "calculator",
        metavar="CALCULATOR",
        help="emt, tblite:GFN2-xTB, lammps:COMMANDS, mtp:MODEL[@HEAD], package.module:factory",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="structures in any known format")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write, e.g. out.xyz.gz")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes")
    parser.add_argument(
        "--max-forces",
        type=float,
        default=50.0,
        metavar="EV_PER_A",
        help="report structures with longer forces (default 50 eV/Å)",
    )


def _label(options: argparse.Namespace) -> None:
    from mtp.errors import InvalidInput
    from pretrained.labelling import label

    if options.workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {options.workers}")
    done = label(
        options.calculator,
        options.source,
        options.target,
        workers=options.workers,
        max_forces=options.max_forces,
    )
    print(f"{options.target}: {done.written} of {done.structures} structures by {done.calculator}")
    for reason, count in done.failed.items():
        print(f"failed {count}: {reason}")
    if done.flagged:
        print(f"{len(done.flagged)} have forces above {done.max_forces} eV/Å")
