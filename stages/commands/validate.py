"""`mtp validate`: properties of a crystal by a potential beside a teacher's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.commands.common import command, print_json

HELP = "Properties of a crystal: equation of state, elasticity, phonons, vacancy, structure."


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "validate", _validate, HELP)
    parser.set_defaults(interrupted="interrupted; the same command goes on")
    parser.add_argument("model", metavar="MODEL", help="model file or a teacher's name")
    parser.add_argument("structure", metavar="STRUCTURE", type=Path, help="a crystal's cell")
    parser.add_argument(
        "--against",
        metavar="TEACHER",
        help="what to compare with: a teacher's name, a model file, or a properties.json",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True)
    parser.add_argument(
        "--properties",
        nargs="+",
        choices=("eos", "elastic", "phonons", "vacancy", "rdf"),
        default=["eos", "elastic", "phonons", "vacancy", "rdf"],
    )
    parser.add_argument(
        "--supercell", type=float, default=10.0, metavar="Å", help="least width (10)"
    )
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="of rdf")
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="of rdf")
    parser.add_argument("--timestep", type=float, default=2.0, metavar="FS", help="of rdf")
    parser.add_argument("--head", metavar="NAME", help="which head, where there are several")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def _validate(options: argparse.Namespace) -> None:
    from stages.inputs import calculator_for, read_last
    from stages.report.validation import failures, write_validation
    from stages.say import warn
    from stages.validate import Options, compare, read_values, validate

    atoms = read_last(options.structure)
    wanted = Options(
        *(tuple(options.properties), options.supercell, options.temperature),
        *(options.steps, options.timestep),
    )
    calculators: dict[str, Any] = {
        "model": lambda: calculator_for(options.model, head=options.head),
    }
    given = {"model_name": options.model, "structure": str(options.structure)}
    against = options.against
    if against is not None:
        given["reference_name"] = against
        if against.endswith(".json"):
            calculators["reference"] = read_values(Path(against))
        else:
            calculators["reference"] = lambda: calculator_for(against)
    values = validate(atoms, calculators, wanted, options.output, given)
    for line in failures(values):
        warn(line)
    facts = [("model", Path(options.model).name), ("reference", against or "none")]
    page = write_validation(options.output / "report.html", values, facts)
    if options.json:
        print_json(values)
        return
    from stages.messages import table

    rows = [
        (quantity, unit, *("–" if number != number else f"{number:.5g}" for number in pair))
        for quantity, unit, *pair in compare(values)
    ]
    print(table(("quantity", "unit", "model", "reference"), *rows))
    print(f"\nreport: {page}")
