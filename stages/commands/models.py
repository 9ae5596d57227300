"""`mtp models`: the pretrained models that are installed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from stages.commands.common import command, print_json

if TYPE_CHECKING:
    from pretrained.registry import Card

WIDTH = 100


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = command(commands, "models", _models, "The pretrained models that are installed.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the card of this model")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def _models(options: argparse.Namespace) -> None:
    from pretrained.registry import card, cards

    if options.name:
        found = card(options.name)
        print_json(found.as_dict()) if options.json else print(_describe(found))
    elif options.json:
        print_json([found.as_dict() for found in cards()])
    else:
        print(_list(cards()))


def _list(cards: Iterable[Card]) -> str:
    """One row for each model."""
    from stages.messages import table

    rows = [
        (
            one.name,
            _elements(one),
            f"{one.basis['cutoff']:g} Å",
            f"level {one.basis['levmax']}",
            str(one.basis["nn_dim_list"]) if one.basis["nn_dim_list"] else "linear",
            one.heads[one.default_head] or one.default_head,
        )
        for one in cards
    ]
    if not rows:
        return "no pretrained model is installed"
    return table(("model", "elements", "cutoff", "basis", "readout", "default head"), *rows)


def _elements(one: Card) -> str:
    """Few elements by name, many by their number."""
    if len(one.elements) <= 12:
        return " ".join(one.elements)
    return f"{len(one.elements)}: {one.elements[0]} … {one.elements[-1]}"


def _errors(one: Card) -> list[str]:
    """Mean absolute errors of each head on each set that the card has."""
    units = {"energy_mae_meV_per_atom": "meV/atom", "forces_mae_meV_per_A": "meV/Å"}
    return [
        f"mean absolute errors of {head} ({name}): "
        + ", ".join(f"{found[key]:.3g} {unit}" for key, unit in units.items() if key in found)
        for name, heads in (one.errors or {}).items()
        for head, found in heads.items()
    ]


def _describe(one: Card) -> str:
    """A card as paragraphs."""
    heads = [
        f"head {name}{' (default)' if name == one.default_head else ''}: {level}"
        for name, level in one.heads.items()
    ]
    data = [f"data of {name}: {text}" for name, text in (one.data or {}).items()]
    basis = ", ".join(f"{key} {value}" for key, value in one.basis.items())
    parts = [one.name, one.summary, f"elements: {' '.join(one.elements)}", f"basis: {basis}"]
    parts += [*heads, *data, *_errors(one)]
    named = (("pairs without data", one.fallback), ("trained by", one.plan))
    parts += [f"{name}: {text}" for name, text in named if text]
    parts += [f"licence: {one.licence}"] if one.licence else []
    lines = [line for part in parts if part for line in wrap(part, WIDTH, subsequent_indent="  ")]
    return "\n".join(lines)
