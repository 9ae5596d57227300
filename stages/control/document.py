"""Text of a JSON or YAML file to plain data, every mistake with its line and column.

Stricter than the parsers it stands on: duplicate keys, NaN, Infinity and YAML aliases are
mistakes, and YAML follows its 1.2 core schema (``1e-5`` is a number, ``no`` is a word).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtp.errors import InvalidInput

YAML_SUFFIXES = (".yaml", ".yml")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|NaN|-?Infinity")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


Place = tuple[str | int, ...]


@dataclass
class Document:
    """Data of a file, and what is wrong with it by place: duplicate keys, numbers not finite."""

    data: Any
    mistakes: dict[Place, str] = field(default_factory=dict)

    def duplicate(self, place: Place, where: str) -> None:
        self.mistakes[place] = f"key '{place[-1]}' stands twice, again at {where}; keep one"

    def not_finite(self, place: Place, where: str, token: str) -> None:
        self.mistakes[place] = f"{token} at {where} is not a finite number; write one, e.g. 1e38"


def read_document(path: Path) -> Document:
    """Read a file; ``.yaml`` and ``.yml`` are YAML, every other suffix is JSON.

    Raises InvalidInput when the file cannot be read or has an error of syntax.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}; check the path") from None
    try:
        read = _read_yaml if path.suffix.lower() in YAML_SUFFIXES else _read_json
        return read(text, path)
    except RecursionError:
        raise InvalidInput(f"{path}: nested too deeply; no section goes deeper than 3") from None


def pointer(*parts: str | int) -> str:
    """JSON pointer of the value at a path."""
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _read_json(text: str, path: Path) -> Document:
    try:
        document = Document(json.loads(text))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise InvalidInput(f"{where}: not valid JSON: {error.msg}; correct this line") from None
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidInput(f"{path}: not valid JSON: {error}; shorten the number") from None
    _find_json_mistakes(text, document)
    return document


def _find_json_mistakes(text: str, document: Document) -> None:
    """Walk through the tokens of a text known to be JSON."""
    seen: list[set[str] | None] = []  # for each open bracket: keys of the object, None for a list
    place: list[str | int] = []
    tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
    following = [token for token, _ in tokens[1:]] + [""]
    for (token, start), after in zip(tokens, following, strict=True):
        if token in "{[":
            seen.append(set() if token == "{" else None)
            place.append("" if token == "{" else 0)
        elif token in "}]":
            seen.pop()
            place.pop()
        elif token == "," and isinstance(place[-1], int):
            place[-1] += 1
        elif after == ":" and token != ",":
            place[-1] = name = json.loads(token)
            if name in seen[-1]:
                document.duplicate(tuple(place), _line_column(text, start))
            seen[-1].add(name)
        elif token in ("NaN", "Infinity", "-Infinity") or _overflows(token):
            document.not_finite(tuple(place), _line_column(text, start), token)


def _read_yaml(text: str, path: Path) -> Document:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InvalidInput(f"{path}: YAML aliases are not supported; write the value out")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        message = f"{where}: not valid YAML: {error.problem}; correct this line"
        raise InvalidInput(message) from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: not valid YAML: {error}; correct it") from None
    document = Document(None)
    document.data = None if node is None else _from_node(node, (), document)
    return document


def _from_node(node: yaml.Node, place: Place, document: Document) -> Any:
    """Plain data of a YAML node; mistakes go to the document."""
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(item, (*place, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place, document)
    result: dict[str, Any] = {}
    for name, value in node.value:
        here = (*place, str(name.value) if isinstance(name, yaml.ScalarNode) else "?")
        if here[-1] in result:
            document.duplicate(here, _mark(name))
        else:
            result[here[-1]] = _from_node(value, here, document)
    return result


def _scalar(node: yaml.ScalarNode, place: Place, document: Document) -> Any:
    text = node.value
    if node.style is not None:  # quoted or a block: always text
        return text
    if text.lower() in _WORDS:  # but not None, a word of lr_scheduling
        return _WORDS[text.lower()]
    if _NOT_FINITE.fullmatch(text) or _overflows(text):
        document.not_finite(place, _mark(node), text)
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _overflows(token: str) -> bool:
    """Whether a number is too large for a float."""
    return bool(_NUMBER.fullmatch(token)) and not math.isfinite(float(token))


def _line_column(text: str, start: int) -> str:
    line = text.count("\n", 0, start) + 1
    return f"line {line}, column {start - text.rfind(chr(10), 0, start)}"


def _mark(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
