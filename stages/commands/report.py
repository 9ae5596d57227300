"""`mtp report`: rebuild the report of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "report", _report, "Rebuild the report of a run.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path)


def _report(options: argparse.Namespace) -> None:
    from stages.report.page import write_report

    print(write_report(options.run))
