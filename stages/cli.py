"""The commands `mtp` and `mtp-train`: arguments in, exit codes out.

Exit codes: 0 done, 2 invalid input, 1 failed, 130 interrupted. Results go to stdout, everything
else to stderr.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import mtp
from mtp.errors import InvalidInput
from stages.commands import COMMANDS
from stages.distributed import is_root, rank

DONE, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
KERNEL = "mtp kernel:"  # how messages of the C++ kernel begin; they are meant for the user


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `mtp`."""
    parser = argparse.ArgumentParser(prog="mtp", description="Moment tensor potentials.")
    parser.add_argument("--version", action="version", version=mtp.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return _run(parser.parse_args(arguments))


def train_main(arguments: Sequence[str] | None = None) -> int:
    """The command `mtp-train`, the same as `mtp train`."""
    return main(["train", *(sys.argv[1:] if arguments is None else arguments)])


def _run(options: argparse.Namespace) -> int:
    """Run a command; what the user can correct becomes lines without a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.command(options)
            return DONE
        except InvalidInput as error:
            return _say(INVALID, *error.lines)
        except KeyboardInterrupt:
            return _say(INTERRUPTED, options.interrupted)
        except BrokenPipeError:  # the reader of our output went away
            sys.stdout = None
            return FAILED
        except (OSError, FloatingPointError, MemoryError) as error:
            return _say(FAILED, f"failed: {error or type(error).__name__}")
        except RuntimeError as error:
            if not str(error).startswith(KERNEL):
                raise
            return _say(FAILED, f"failed: {error}")


def _say(code: int, *lines: str) -> int:
    mark = "" if is_root() else f"process {rank()}: "
    print(*(mark + line for line in lines), sep="\n", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: Any) -> None:
    if is_root():
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
