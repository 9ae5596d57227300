"""Which keys may stand where in a control file: for messages about a place, and the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from stages.control.document import Place
from stages.control.schema import ControlFile
from stages.control.sections.keys import Section


def keys_at(place: Place) -> list[str]:
    """Keys that may stand in the object at a place, as far as they are fixed."""
    found: list[str] = []
    for annotation in _at(place):
        if _is_section(annotation):
            found += annotation.model_fields
        elif get_origin(annotation) is dict and get_origin(get_args(annotation)[0]) is Literal:
            found += get_args(get_args(annotation)[0])
    return list(dict.fromkeys(found))


def field_at(place: Place) -> tuple[str, FieldInfo] | None:
    """Name of the innermost key with an example that a place lies in, and that key."""
    for end in range(len(place), 1, -1):
        name = str(place[end - 1])
        for section in _at(place[: end - 1]):
            field = section.model_fields.get(name) if _is_section(section) else None
            if field is not None and field.examples:
                return name, field
    return None


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a key can hold, also in lists and objects."""
    for one in _alternatives(annotation):
        if _is_section(one):
            yield one
        else:
            for inner in get_args(one):
                yield from sections_of(inner)


def _at(place: Place) -> list[Any]:
    """Types that the value at a place can have."""
    found: list[Any] = [ControlFile]
    for part in place:
        found = [
            one for outer in found for inner in _inside(outer, part) for one in _alternatives(inner)
        ]
    return found


def _inside(annotation: Any, part: str | int) -> Iterator[Any]:
    """Types of an item of a type."""
    if _is_section(annotation):
        if part in annotation.model_fields:
            yield annotation.model_fields[part].annotation
        elif annotation.model_config.get("extra") == "allow":
            yield get_args(get_type_hints(annotation)["__pydantic_extra__"])[1]
    elif get_origin(annotation) in (dict, list):
        yield get_args(annotation)[-1]


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, annotations stripped."""
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (dict, list, Literal) or not get_args(annotation):
        return [annotation]
    return [one for member in get_args(annotation) for one in _alternatives(member)]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
