"""`mtp grade`: extrapolation grades of structures, or active sets for a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import add_type_map, command, print_json


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "grade", _grade, "Extrapolation grades of structures.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("files", metavar="FILE", nargs="+")
    parser.add_argument(
        "--build",
        action="store_true",
        help="put the active sets of FILE …, the training set, into the model instead",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_type_map(parser)


def _grade(options: argparse.Namespace) -> None:
    from mtp.data.reading import read
    from stages.grade import add_grading, grade_structures, summary

    frames = {path: read(path, type_map=options.type_map) for path in options.files}
    if options.build:
        add_grading(options.model, [frame for one in frames.values() for frame in one])
        print(options.model)
        return
    found = {path: summary(grade_structures(options.model, one)) for path, one in frames.items()}
    if options.json:
        print_json(found)
        return
    from stages.messages import table

    names = list(next(iter(found.values())))
    rows = [(path, *(f"{row[name]:.4g}" for name in names)) for path, row in found.items()]
    print(table(("file", *(name.replace("_", " ") for name in names)), *rows))
