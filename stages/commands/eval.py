"""`mtp eval`: errors of a model on labelled data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtp.terms import TERMS
from stages.commands.common import add_type_map, command, print_errors, print_json


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "eval", _eval, "Errors of a model on labelled data.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("files", metavar="FILE", nargs="+")
    parser.add_argument("--head", metavar="NAME", help="which head, where there are several")
    parser.add_argument(
        "--predictions", metavar="OUT.xyz", type=Path, help="also write the frames with predictions"
    )
    parser.add_argument(
        "--key",
        dest="names",
        action="append",
        default=[],
        type=_key,
        metavar="LABEL=NAME",
        help=f"name of a label in the files ({', '.join(TERMS)}); may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_type_map(parser)


def _key(text: str) -> tuple[str, str]:
    """LABEL=NAME as a pair."""
    label, sign, name = text.partition("=")
    if label not in TERMS or not sign or not name:
        allowed = ", ".join(TERMS)
        raise argparse.ArgumentTypeError(
            f"must be LABEL=NAME, LABEL one of {allowed}, got {text!r}"
        )
    return label, name


def _eval(options: argparse.Namespace) -> None:
    from stages.evaluate import evaluate_files

    result = evaluate_files(
        options.model,
        options.files,
        head=options.head,
        predictions=options.predictions,
        type_map=options.type_map,
        names=dict(options.names),
    )
    print_json(result) if options.json else print_errors(result)
