"""JSON and YAML text to data."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtp.errors import InvalidInput
from stages.control.document import Document, read_document


def document(folder: Path, text: str, suffix: str) -> Document:
    path = folder / f"file{suffix}"
    path.write_text(text, encoding="utf-8")
    return read_document(path)


JSON = '{"a": {"b": [1, 2.5, "x, {y"], "c": null}, "d": true, "e\\"f": 1e-5}'
YAML = """
a:  # a comment
  b: [1, 2.5, 'x, {y']
  c:
d: true
e"f: 1e-5
"""


@pytest.mark.parametrize(("text", "suffix"), [(JSON, ".json"), (YAML, ".yaml"), (JSON, ".YML")])
def test_json_and_yaml_mean_the_same(tmp_path: Path, text: str, suffix: str) -> None:
    found = document(tmp_path, text, suffix)
    assert found.data == {"a": {"b": [1, 2.5, "x, {y"], "c": None}, "d": True, 'e"f': 1e-5}
    assert not found.mistakes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("no", "no"),
        ("No", "No"),
        ("None", "None"),
        ("~", None),
        ("True", True),
        ("'1'", "1"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
    ],
)
def test_yaml_scalars_follow_the_core_schema(tmp_path: Path, text: str, value: object) -> None:
    found = document(tmp_path, f"key: {text}", ".yaml").data["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('{"a": {"b": 1,\n "c": [{"d": 1}, {"d": 2}],\n "b": 2}}', ".json"),
        ("a:\n  b: 1\n  b: 2\n", ".yaml"),
    ],
)
def test_duplicate_key_is_named_with_its_line(tmp_path: Path, text: str, suffix: str) -> None:
    mistakes = document(tmp_path, text, suffix).mistakes
    assert list(mistakes) == [("a", "b")]
    assert "line 3, column" in mistakes["a", "b"]


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('{"a": [0, NaN, -Infinity, 1e999]}', ".json"),
        ("a: [0, .nan, -.inf, 1e999]", ".yaml"),
    ],
)
def test_numbers_that_are_not_finite(tmp_path: Path, text: str, suffix: str) -> None:
    assert list(document(tmp_path, text, suffix).mistakes) == [("a", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize(
    ("text", "suffix", "expected"),
    [
        ('{\n"a": 1,\n}', ".json", "file.json:3:1: not valid JSON"),
        ("", ".json", "file.json:1:1: not valid JSON"),
        ("a: [1, 2", ".yaml", "file.yaml:1:9: not valid YAML"),
        ("a: &x 1\nb: *x", ".yaml", "file.yaml: YAML aliases"),
        ("[" * 100_000, ".json", "file.json: nested too deeply"),
    ],
)
def test_syntax_errors(tmp_path: Path, text: str, suffix: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        document(tmp_path, text, suffix)
    assert len(refused.value.lines) == 1
    assert expected in refused.value.lines[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"a": "Å"}'.encode("latin-1"))
    for path, expected in (("latin.json", "UTF-8"), ("none.json", "No such file"), (".", "Is a")):
        with pytest.raises(InvalidInput, match=expected):
            read_document(tmp_path / path)


def test_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_document(tmp_path / "bom.json").data == {"a": 1}
