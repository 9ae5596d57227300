"""What the commands share: how one is added, common options, printed results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """A new command; ``run`` is called with its options."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=run, interrupted="interrupted")
    return parser


def add_type_map(parser: argparse.ArgumentParser) -> None:
    """The option --type-map."""
    parser.add_argument(
        "--type-map",
        type=lambda text: [symbol.strip() for symbol in text.split(",")],
        metavar="Si,O,…",
        help="elements of type 0, 1, … in data without elements (.cfg, DeePMD)",
    )


def print_errors(result: dict[str, Any]) -> None:
    """A table of errors on stdout."""
    from stages.evaluate import format_table

    print(format_table(result))


def print_json(value: Any) -> None:
    """Indented JSON on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))
