"""A control file from disk to `ControlFile`, every mistake of its own collected as one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtp.errors import InvalidInput
from stages.control.document import Place, pointer, read_document
from stages.control.schema import ControlFile
from stages.control.sections.look import field_at, keys_at

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "string_too_short": "a path that is not empty",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Reading:
    """What could be read: wrong values are left out of ``control`` and named in ``mistakes``.

    broken: "section" or "section.key" of every value left out, so that nothing is concluded from
    its absence.  mistakes: finished lines.
    """

    path: Path
    control: ControlFile
    broken: frozenset[str] = frozenset()
    mistakes: tuple[str, ...] = ()

    def sound(self, *names: str) -> bool:
        """Whether all these "section.key", or whole sections, were written without a mistake."""
        whole = {place.split(".")[0] for place in self.broken}
        return not any(
            name in self.broken or name.split(".")[0] in self.broken or name in whole
            for name in names
        )

    def line(self, where: str, message: str) -> str:
        """A message about a place: a JSON pointer, or an option of the command line."""
        return f"{where if where.startswith('--') else f'{self.path}:{where}'}: {message}"


def read_control(path: Path) -> Reading:
    """Read a control file, JSON or YAML.

    Raises InvalidInput only when the text itself cannot be understood; other mistakes are in the
    result, so that those of stages/control/conflicts.py can join them.
    """
    text = read_document(path)
    if not isinstance(text.data, dict):
        message = f"must be an object with sections, got {shown(text.data)}; see --schema"
        raise InvalidInput(f"{path}:/: {message}")
    data = _without_comments(text.data)
    found = _mistakes(data) | text.mistakes
    broken = {place[:2] for place in found}
    for place in sorted(broken, key=len, reverse=True):
        _remove(data, place)
    return Reading(
        path,
        ControlFile.model_validate(data),
        frozenset(".".join(map(str, place)) for place in broken),
        tuple(f"{path}:{pointer(*place)}: {message}" for place, message in found.items()),
    )


def beside(control: Path, path: str) -> Path:
    """A path that stands in a control file, where relative means beside it."""
    return (control.absolute().parent / path).resolve()


def shown(value: Any) -> str:
    """A value of the file as it stands there, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _without_comments(value: Any) -> Any:
    """The value without the keys that begin with an underscore."""
    if isinstance(value, dict):
        return {k: _without_comments(v) for k, v in value.items() if not k.startswith("_")}
    if isinstance(value, list):
        return [_without_comments(item) for item in value]
    return value


def _remove(document: dict[str, Any], place: Place) -> None:
    """Take a section or key out of the document."""
    *sections, name = place
    for section in sections:
        document = document.get(section)  # type: ignore[assignment]
    if isinstance(document, dict):
        document.pop(name, None)  # type: ignore[call-overload]


def _mistakes(data: dict[str, Any]) -> dict[Place, str]:
    """Every wrong value and unknown key, by place."""
    try:
        ControlFile.model_validate(data)
    except ValidationError as error:
        return {p: _message(p, errors) for p, errors in _by_place(error, data).items()}
    return {}


def _by_place(error: ValidationError, document: dict[str, Any]) -> dict[Place, list[Any]]:
    """Errors by the place they are about; within alternatives the deepest place counts."""
    grouped: dict[Place, list[Any]] = {}
    for entry in error.errors(include_url=False):
        grouped.setdefault(_place(entry, document), []).append(entry)
    return {
        place: errors
        for place, errors in grouped.items()
        if not any(other[: len(place)] == place and other != place for other in grouped)
    }


def _place(entry: Any, document: Any) -> Place:
    """Where in the document an error is: its location without the names of alternatives."""
    place: list[str | int] = []
    for part in entry["loc"]:
        if (isinstance(document, dict) and part in document) or (
            isinstance(document, list) and isinstance(part, int)
        ):
            place.append(part)
            document = document[part]
    if entry["type"] == "missing":
        place.append(entry["loc"][-1])
    return tuple(place)


def _message(place: Place, errors: list[Any]) -> str:
    """What is wrong at a place and what to do, for all alternatives that failed there."""
    first = errors[0]
    if any(entry["type"] == "extra_forbidden" for entry in errors):
        return _unknown_key(place)
    if first["type"] == "missing":
        return f'is missing; add "{place[-1]}": …'
    expected = " or ".join(dict.fromkeys(_expected(entry) for entry in errors))
    return f"must be {expected}, got {shown(first['input'])}; {_remedy(place, errors)}"


def _expected(entry: Any) -> str:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "literal_error":
        return context["expected"]
    for name, sign in _LIMITS.items():
        if name in context:
            return f"{sign} {context[name]:g}"
    if "actual_length" in context:
        return "of length " + " and ".join(
            f"{sign} {context[limit]}"
            for limit, sign in (("min_length", "≥"), ("max_length", "≤"))
            if limit in context
        )
    return _EXPECTED.get(kind, entry["msg"])


def _remedy(place: Place, errors: list[Any]) -> str:
    choices = [
        word.strip("'")
        for entry in errors
        if entry["type"] == "literal_error"
        for word in entry["ctx"]["expected"].replace(" or ", ", ").split(", ")
    ]
    near = get_close_matches(str(errors[0]["input"]).lower(), choices, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    found = field_at(place)
    if found is None:
        return "correct it"
    name, field = found
    return f'for example "{name}": {json.dumps(field.examples[0], ensure_ascii=False)}'


def _unknown_key(place: Place) -> str:
    """Name a key of the same section that looks like this one, or the section it belongs to."""
    name = str(place[-1])
    kind = "section" if len(place) == 1 else "key"
    known = keys_at(place[:-1])
    near = get_close_matches(name, known, n=1)
    if near:
        return f"unknown {kind} '{name}' — did you mean '{near[0]}'?; rename it or remove it"
    homes = [section for section in ControlFile.model_fields if name in keys_at((section,))]
    if homes:
        return f"unknown {kind} '{name}' — it belongs to {homes[0]}; move it there"
    instead = f", or use one of {', '.join(known)}" if known else ""
    return f"unknown {kind} '{name}'; remove it{instead}"
