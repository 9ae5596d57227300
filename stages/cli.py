"""The commands `mtp` and `mtp-train`: arguments in, exit codes out.

Exit codes: 0 done, 2 invalid input, 1 failed, 130 interrupted. Results go to stdout, everything
else to stderr. Each command imports what it needs, so that help and refusals come at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mtp
from mtp.errors import InvalidInput

DONE, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
KERNEL = "mtp kernel:"  # how messages of the C++ kernel begin; they are meant for the user


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `mtp`."""
    parser = argparse.ArgumentParser(prog="mtp", description="Moment tensor potentials.")
    parser.add_argument("--version", action="version", version=mtp.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_train, _add_eval, _add_show, _add_report, _add_convert):
        add(commands)
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
    print(*lines, sep="\n", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=run, interrupted="interrupted")
    return parser


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", _train, "Train a potential as a control file says.")
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
        from stages.control_reference import json_schema

        print(json_schema(), end="")
        return
    if options.control is None:
        raise InvalidInput("mtp-train: no control file; name it before --data, or see --help")
    from stages.control_reader import read_control
    from stages.resolve import resolve

    plan = resolve(
        read_control(options.control),
        data=options.data,
        test=options.test,
        strict=options.strict,
        need_data=not options.check,
    )
    for line in plan.warnings:
        print(f"warning: {line}", file=sys.stderr)
    if options.check:
        from stages.messages import describe_plan

        print(describe_plan(plan))
        return
    from stages.run import train

    output = options.output or Path("runs") / options.control.stem
    result = train(plan, output, device=options.device, restart=options.restart)
    _print_errors(result)
    report = output / "report.html"
    if report.exists():
        print(f"\nreport: {report}")


def _add_eval(commands: Any) -> None:
    parser = _command(commands, "eval", _eval, "Errors of a model on labelled data.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("files", metavar="FILE", nargs="+")
    parser.add_argument("--head", metavar="NAME", help="which head, where there are several")
    parser.add_argument(
        "--predictions", metavar="OUT.xyz", type=Path, help="also write the frames with predictions"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    _add_type_map(parser)


def _eval(options: argparse.Namespace) -> None:
    from stages.evaluate import evaluate_files

    result = evaluate_files(
        options.model,
        options.files,
        head=options.head,
        predictions=options.predictions,
        type_map=options.type_map,
    )
    _print_json(result) if options.json else _print_errors(result)


def _add_show(commands: Any) -> None:
    parser = _command(commands, "show", _show, "What is inside a model file.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def _show(options: argparse.Namespace) -> None:
    from mtp.model_file import describe

    content = describe(options.model)
    if options.json:
        _print_json(content)
    else:
        from stages.messages import describe_model

        print(describe_model(content))


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", _report, "Rebuild the report of a run.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path)


def _report(options: argparse.Namespace) -> None:
    from stages.report import write_report

    print(write_report(options.run))


def _add_convert(commands: Any) -> None:
    parser = _command(commands, "convert", _convert, "Convert a model or data, by suffix.")
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
    _add_type_map(parser)


def _convert(options: argparse.Namespace) -> None:
    from stages.convert import convert

    print(convert(options.source, options.target, type_map=options.type_map))


def _add_type_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type-map",
        type=lambda text: [symbol.strip() for symbol in text.split(",")],
        metavar="Si,O,…",
        help="elements of type 0, 1, … in data without elements (.cfg, DeePMD)",
    )


def _print_errors(result: dict[str, Any]) -> None:
    from stages.evaluate import format_table

    print(format_table(result))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
