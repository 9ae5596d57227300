"""The registry of pretrained models: name → file and card.

A model is `NAME.mtp.safetensors`, beside it its card `NAME.json`. Models of the package stand in
pretrained/models; every folder of the environment variable MTP_MODELS (separated as in PATH) adds
its own, which come first. A model without a card is listed with what its file says.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mtp.errors import InvalidInput

FOLDER = Path(__file__).parent / "models"
VARIABLE = "MTP_MODELS"
SUFFIX = ".mtp.safetensors"


@dataclass(frozen=True)
class Card:
    """What is known of a model.

    sha256: of the file; "" is not checked.  heads: name of each head → its level of theory.
    default_head: the one whose readout a single-task run inherits.  basis: cutoff in Å, level,
    costs, radial polynomials, hidden widths.  data: what each head was trained on.  fallback: pairs
    of elements without data and what holds for them.  errors: sets that were not trained on, with
    the errors there.
    """

    name: str
    file: Path
    elements: tuple[str, ...]
    basis: dict[str, Any]
    heads: dict[str, str]
    default_head: str
    sha256: str = ""
    summary: str = ""
    data: dict[str, str] | None = None
    licence: str = ""
    fallback: str = ""
    errors: dict[str, Any] | None = None
    plan: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; of the file only its name."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        return content | {"file": self.file.name}


def names() -> tuple[str, ...]:
    """Names of the installed models, in alphabetical order."""
    return tuple(sorted(_files()))


def cards() -> tuple[Card, ...]:
    """Cards of the installed models, in alphabetical order."""
    return tuple(_card(_files()[name]) for name in names())


def card(name: str) -> Card:
    """The card of a model; InvalidInput with the nearest names where there is none."""
    found = _files().get(name)
    if found is None:
        raise InvalidInput(unknown(name))
    return _card(found)


def unknown(name: str) -> str:
    """What to say of a name that is not installed."""
    installed = names()
    if not installed:
        return f"{name!r} is not installed; no pretrained model is (see {VARIABLE})"
    near = get_close_matches(name.upper(), [other.upper() for other in installed], 1, 0.5)
    meant = next((other for other in installed if near and other.upper() == near[0]), None)
    guess = f"did you mean {meant!r}? " if meant else ""
    return f"{name!r} is not installed; {guess}installed: {', '.join(installed)}"


def verified(name: str) -> Path:
    """The model's file; InvalidInput where it is not the one that its card describes."""
    found = card(name)
    if found.sha256 and sha256(found.file) != found.sha256:
        raise InvalidInput(
            f"{found.file}: its SHA-256 is not that of its card; install the package again, or "
            "write a new card"
        )
    return found.file


def sha256(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_card(content: Card) -> Path:
    """Write a card beside its model, with the sum of the model's bytes."""
    from mtp.atomic_file import write_atomically

    plain = content.as_dict() | {"sha256": sha256(content.file)}
    path = content.file.with_name(content.name + ".json")
    text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())
    return path


def from_file(file: Path) -> Card:
    """A card with what the model's own file says."""
    from mtp.model_file import describe

    content = describe(file)
    spec = content["spec"]
    heads = [head["name"] for head in spec["heads"]]
    keys = ("cutoff", "n_q", "levmax", "moment_init_cost", "moment_mu_cost", "moment_nu_cost")
    return Card(
        name=file.name.removesuffix(SUFFIX),
        file=file,
        elements=tuple(content["elements"]),
        basis={key: spec[key] for key in keys}
        | {"nn_dim_list": list(spec["heads"][0]["hidden"])}
        | {key: content["basis"][key] for key in ("invariants", "radial_functions", "parameters")},
        heads=dict.fromkeys(heads, ""),
        default_head="default" if "default" in heads else heads[0],
    )


def _folders() -> Iterator[Path]:
    """Folders with models, the package's last."""
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        if not name:
            continue
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise InvalidInput(f"environment variable {VARIABLE}: {name!r} is not a folder")
        yield folder
    yield FOLDER


def _files() -> dict[str, Path]:
    """Name → file; of two models with one name the first folder's holds."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for file in sorted(folder.glob("*" + SUFFIX)):
            found.setdefault(file.name.removesuffix(SUFFIX), file)
    return found


def _card(file: Path) -> Card:
    path = file.with_name(file.name.removesuffix(SUFFIX) + ".json")
    if not path.exists():
        return from_file(file)
    known = {field.name for field in fields(Card)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key in known}
        return Card(**content | {"file": file, "elements": tuple(content["elements"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"{path}: not a model card: {error}; mend it or take it away") from error
