"""`mtp convert`: convert a model, data or an input of DeePMD-kit, by suffix."""

from __future__ import annotations

import argparse
from typing import Any

from stages.commands.common import add_type_map, command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(
        commands,
        "convert",
        _convert,
        "Convert by suffix: a model, data, or an input of DeePMD-kit to a control file.",
    )
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
    add_type_map(parser)
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="format of the data IN: a name of ASE's, or dpdata:NAME (extra dpdata)",
    )
    parser.add_argument("--head", metavar="NAME", help="which head of several to write as .mtp")
    parser.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        default=(),
        help="training structures for the active set of an .almtp",
    )


def _convert(options: argparse.Namespace) -> None:
    from stages.convert import convert

    given = {"type_map": options.type_map, "head": options.head, "data": options.data}
    print(convert(options.source, options.target, form=options.format, **given))
