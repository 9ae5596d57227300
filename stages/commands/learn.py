"""`mtp learn`: active learning as a control file says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    text = "Active learning: train, explore, label, add, and again."
    parser = command(commands, "learn", _learn, text)
    parser.set_defaults(interrupted="interrupted; the same command goes on")
    parser.add_argument("control", metavar="CONTROL", type=Path, help="with a section `learn`")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _learn(options: argparse.Namespace) -> None:
    from stages.learn.loop import learn
    from stages.learn.setting import Setting
    from stages.report.learning import write_learning
    from stages.say import warn

    setting = Setting.read(options.control)
    for line in setting.plan.warnings:
        warn(line)
    if not setting.plan.data["default"].test_files:
        warn(
            "data_config has no test_files: without a fixed hold-out set the errors of the rounds "
            "are not comparable"
        )
    model = learn(setting, options.output, options.device)
    facts = [("teacher", setting.learn.teacher or "none"), ("by", setting.learn.selection)]
    page = write_learning(options.output, facts)
    if model is not None:
        print(model)
    print(f"report: {page}")
