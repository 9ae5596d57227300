"""Extended xyz, streamed frame by frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from mtp.data.formats.text import open_text
from mtp.data.frame import DataError, Frame, atomic_number, symbols
from mtp.data.labels import floats, tensor
from mtp.structure import Structure
from mtp.terms import TERMS

# key=value, key="some text", key={1 2 3}, key=[[1, 2], [3, 4]], or a bare key.
ENTRY = re.compile(
    r"""("(?:\\.|[^"\\])*"|[^\s="]+)
        (?:\s*=\s*("(?:\\.|[^"\\])*"|'[^']*'|\{[^}]*\}|\[.*?\](?=\s|$)|[^\s"]+))?""",
    re.VERBOSE,
)
ELEMENT_COLUMNS = ("species", "symbols", "element", "Z", "numbers")
POSITION_COLUMNS = ("pos", "positions")
TRUE = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}


def read(path: Path, type_map: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames of a file. DataError with the line's number where the text is broken."""
    with open_text(path) as file:
        line = 0
        while header := file.readline():
            line += 1
            if not header.strip():
                continue  # blank lines between or after frames
            try:
                atoms = int(header)
            except ValueError:
                raise DataError(
                    f"{path}:{line}: expected the number of atoms, got {header.strip()!r:.40}"
                ) from None
            comment = file.readline()
            rows = [file.readline().split() for _ in range(atoms)]
            try:
                yield _frame(comment, rows)
            except (DataError, ValueError, IndexError) as error:
                raise DataError(f"{path}:{line}: broken frame of {atoms} atoms: {error}") from None
            line += atoms + 1


def _frame(comment: str, rows: list[list[str]]) -> Frame:
    info = dict(_entries(comment))
    lattice = info.pop("Lattice", None)
    cell = np.zeros((3, 3)) if lattice is None else floats(lattice).reshape(3, 3)
    pbc = info.pop("pbc", None)
    columns = _columns(info.pop("Properties", "species:S:1:pos:R:3"))
    arrays = _arrays(columns, rows)
    return Frame(
        numbers=_numbers(_take(arrays, ELEMENT_COLUMNS)),
        positions=_take(arrays, POSITION_COLUMNS).astype(float),
        cell=cell,
        pbc=np.full(3, lattice is not None) if pbc is None else _flags(pbc),
        info=info,
        arrays=arrays,
    )


def _entries(comment: str) -> Iterator[tuple[str, str]]:
    for key, value in ENTRY.findall(comment):
        yield _unquote(key), _unquote(value) if value else "T"


def _unquote(text: str) -> str:
    if text[0] in "\"'{" and len(text) > 1:
        text = text[1:-1]
    return re.sub(r"\\(.)", r"\1", text) if "\\" in text else text


def _columns(properties: str) -> list[tuple[str, str, int]]:
    """(name, type, number of columns) of a Properties entry."""
    parts = properties.split(":")
    if len(parts) % 3:
        raise DataError(f"Properties must be name:type:columns triples, got {properties!r}")
    return [(parts[i], parts[i + 1], int(parts[i + 2])) for i in range(0, len(parts), 3)]


def _arrays(columns: list[tuple[str, str, int]], rows: list[list[str]]) -> dict[str, np.ndarray]:
    """Text columns by name: (atoms,) or (atoms, columns)."""
    width = sum(size for _, _, size in columns)
    if any(len(row) < width for row in rows):
        short = next(i for i, row in enumerate(rows) if len(row) < width)
        raise DataError(
            f"atom {short} has {len(rows[short])} columns, Properties name {width}"
            + ("" if rows[short] else " (the file ends early?)")
        )
    table = np.array([row[:width] for row in rows]).reshape(len(rows), width)
    arrays, start = {}, 0
    for name, _, size in columns:
        arrays[name] = table[:, start] if size == 1 else table[:, start : start + size]
        start += size
    return arrays


def _take(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name in arrays:
            return arrays.pop(name)
    raise DataError(f"Properties must name one of {', '.join(names)}; it names {sorted(arrays)}")


def _numbers(column: np.ndarray) -> np.ndarray:
    table = {
        text: int(text) if text.isdigit() else atomic_number(text, "element column")
        for text in np.unique(column).tolist()
    }
    return np.array([table[text] for text in column.tolist()], dtype=int)


def _flags(text: str) -> np.ndarray:
    words = text.translate(str.maketrans("[],", "   ")).lower().split()
    if len(words) not in (1, 3) or any(word not in TRUE for word in words):
        raise DataError(f'pbc must be three of T and F, got "{text}"')
    return np.array([TRUE[word] for word in words] * (3 // len(words)))


def write(path: Path, structures: Iterable[Structure]) -> None:
    """Every label that is there, 17 significant digits (nothing is lost in float64)."""
    with open_text(path, "w") as file:
        for item in structures:
            _write_frame(file, item)


def _write_frame(file: TextIO, item: Structure) -> None:
    entries = []
    if item.pbc.any() or item.cell.any():
        entries.append(f'Lattice="{_text(item.cell)}"')
    columns, blocks = "species:S:1:pos:R:3", [item.positions]
    labels = {term: _written(term, getattr(item, term)) for term in TERMS}
    labels = {term: label for term, label in labels.items() if label is not None}
    for term, label in labels.items():
        if TERMS[term].rows == "atom":
            rows = label.reshape(len(item), -1)
            columns, blocks = columns + f":{term}:R:{rows.shape[1]}", [*blocks, rows]
    entries.append(f"Properties={columns}")
    for term, label in labels.items():
        if TERMS[term].rows == "structure":
            text = _text(label)
            entries.append(f"{term}={text}" if term == "energy" else f'{term}="{text}"')
    if item.config_type:
        entries.append(f'config_type="{_escape(item.config_type)}"')
    if item.weight != 1.0:
        entries.append(f"weight={item.weight!r}")
    flags = " ".join("T" if flag else "F" for flag in item.pbc)
    file.write(f'{len(item)}\n{" ".join(entries)} pbc="{flags}"\n')
    for symbol, row in zip(symbols(item.numbers), np.hstack(blocks), strict=True):
        file.write(f"{symbol:<2} {_text(row)}\n")


def _written(term: str, label: float | np.ndarray | None) -> float | np.ndarray | None:
    """Tensors stand as nine numbers, which nobody takes for another order of six."""
    return tensor(label) if label is not None and TERMS[term].components == 6 else label


def _text(values: np.ndarray) -> str:
    # repr of a Python float is the shortest text that reads back as the same number
    return " ".join(map(repr, np.ravel(values).tolist()))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
