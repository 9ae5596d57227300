"""`mtp freeze`: one head of a multi-task model as a model of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtp.errors import InvalidInput
from stages.commands.common import command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "freeze", _freeze, "One head of a model as a model of its own.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--head", metavar="NAME", help="which head, where there are several")


def _freeze(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from mtp.mlip_file import MLIP_SUFFIXES
    from mtp.model_file import describe, load_model, save_model
    from mtp.rebuild import rebuilt

    if options.out.suffix in MLIP_SUFFIXES:
        raise InvalidInput(
            f"{options.out}: a head is written as a model file; name it "
            f"{options.out.stem}.mtp.safetensors (mtp convert --head makes {options.out.suffix})"
        )
    potential = load_model(options.model)
    spec = potential.spec
    name = options.head or (spec.head_names[0] if len(spec.heads) == 1 else None)
    if name not in spec.head_names:
        came = "none was given" if name is None else f"{name!r} was given"
        raise InvalidInput(
            f"{options.model}: --head must be one of {', '.join(spec.head_names)}; {came}"
        )
    alone = replace(spec.head(name), shared=())
    frozen = rebuilt(potential, replace(spec, heads=(alone,)), {name: name})
    save_model(options.out, frozen, describe(options.model)["provenance"])
    print(f"{options.out}: head {name} of {options.model}")
