"""`mtp train`: train a potential as a control file says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtp.errors import InvalidInput
from stages.commands.common import command, print_errors
from stages.say import warn


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "train", _train, "Train a potential as a control file says.")
    parser.set_defaults(interrupted="interrupted; the same command with --restart goes on")
    parser.add_argument("control", nargs="?", type=Path, metavar="CONTROL", help="JSON or YAML")
    for name, what in (("data", "train"), ("test", "test")):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            action="extend",
            default=[],
            metavar="FILE",
            help=f"files to {what} on instead of those of the control file",
        )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="run directory (default: runs/ and the name)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--restart", action="store_true", help="go on with the run in --output")
    parser.add_argument("--check", action="store_true", help="print the plan and stop")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema and stop")


def _train(options: argparse.Namespace) -> None:
    if options.schema:
        from stages.control.reference import json_schema

        print(json_schema(), end="")
        return
    if options.control is None:
        raise InvalidInput("mtp-train: no control file; name it before --data, or see --help")
    from stages.control.reader import read_control
    from stages.control.resolve import resolve

    reading = read_control(options.control)
    several = len(reading.control.tasks.named) > 1  # their files can stand nowhere else
    plan = resolve(
        reading,
        data=options.data,
        test=options.test,
        strict=options.strict,
        need_data=several or not options.check,
    )
    for line in plan.warnings:
        warn(line)
    if options.check:
        from stages.plan_text import describe_plan

        print(describe_plan(plan))
        return
    from stages.distributed import is_root
    from stages.run.train import train

    output = options.output or Path("runs") / options.control.stem
    result = train(plan, output, device=options.device, restart=options.restart)
    if not is_root():
        return
    print_errors(result)
    report = output / "report.html"
    if report.exists():
        print(f"\nreport: {report}")
