"""`mtp show`: what is inside a model file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command, print_json


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "show", _show, "What is inside a model file.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def _show(options: argparse.Namespace) -> None:
    from mtp.model_file import describe

    content = describe(options.model)
    if options.json:
        print_json(content)
    else:
        from stages.messages import describe_model

        print(describe_model(content))
