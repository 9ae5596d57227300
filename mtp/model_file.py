"""Model files: a potential as safetensors with a JSON header.

The tensors are the potential's state and its moment tables, so that the C++ kernel reads a file
without enumerating a basis: table.basic, .products, .scalars of the invariants, and the same under
tables.NAME of each dipole and polarizability head; where the file has them also the active sets for
extrapolation grades (grade.mean, .inverse_std, .neighbourhood, .configuration). Everything else
stands in the header under the one key "mtp": format number, spec, heads, n_moments, head_moments
(NAME → n_moments), provenance. Bytes depend on the potential alone: no times, no folders. Reading a
file never executes anything from it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mtp
from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.mlip_file import MLIP_SUFFIXES
from mtp.short_names import short_names

if TYPE_CHECKING:
    from torch import Tensor

    from mtp.potential import Potential, PotentialSpec

FORMAT = 2
KEY = "mtp"
TABLE = "table."
TABLES = "tables."  # then the name of a tensor head
EMBEDDED = "embedding.radial"  # radial coefficients between components of the type embedding
SPECIES_BIAS = ".species_bias"
GRADE = "grade."
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit


def save_model(
    path: str | Path, potential: Potential, provenance: dict[str, Any] | None = None
) -> None:
    """Write a potential; the file is complete or not there at all, also after a crash.

    provenance: plain JSON data (plan, hashes of the data, …); absolute paths lose their folders,
        except those that tell files of one name apart.
    """
    from safetensors.torch import save

    header = {
        "format": FORMAT,
        "program": "mtp-train",
        "version": mtp.__version__,
        "spec": asdict(potential.spec),
        **_moments(potential),
        "provenance": _without_folders(provenance or {}),
    }
    tensors = {name: tensor.contiguous() for name, tensor in _tensors(potential).items()}
    tensors |= _tables(potential)
    if potential.grading is not None:
        tensors |= potential.grading.tensors()
    # One key only: safetensors does not promise an order of several.
    metadata = {KEY: json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)}
    write_atomically(Path(path), save(tensors, metadata))


def load_model(path: str | Path) -> Potential:
    """The potential in a model file, on the CPU.

    Raises InvalidInput for files that are missing, foreign, damaged or of a newer format.
    """
    from pydantic import TypeAdapter, ValidationError
    from safetensors import SafetensorError
    from safetensors.torch import load

    from mtp.grade import Grading
    from mtp.potential import Potential, PotentialSpec

    content, header = _open(Path(path))
    try:
        spec = TypeAdapter(PotentialSpec).validate_python(header["spec"])
        potential = Potential(spec)
        tensors = load(content)
        tables = [name for name in tensors if name.startswith((TABLE, TABLES))]
        stored = {name: tensors.pop(name) for name in tables}
        size = len(spec.species), len(potential.table.scalars)
        potential.grading = Grading.take(tensors, *size)
        potential.load_state_dict(_state(spec, tensors))
    except (SafetensorError, ValidationError, RuntimeError, KeyError) as error:
        raise InvalidInput(f"{path}: damaged model file: {_one_line(error)}") from error
    _check_table(path, header, stored, potential)
    return potential


def _tensors(potential: Potential) -> dict[str, Tensor]:
    """The potential's state as the file has it.

    A potential with a type embedding is there twice: as it is, and as the table of radial
    coefficients and the biases of species that follow from it, which other programs read.
    """
    import torch

    # Shared layers are one tensor under several names, which safetensors refuses: hence clone.
    tensors = {name: t.detach().cpu().clone() for name, t in potential.state_dict().items()}
    if potential.embedding is not None:
        tensors[EMBEDDED] = tensors["radial"]
        with torch.no_grad():
            tensors["radial"] = (potential.coefficients / potential.radial_scale).cpu()
            for name, head in potential.heads.items():
                if (bias := getattr(head, "species_bias", None)) is not None:
                    tensors[f"heads.{name}{SPECIES_BIAS}"] = bias.cpu()
    return tensors


def _state(spec: PotentialSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The potential's state from the tensors of a file."""
    if spec.embedding is None:
        return tensors
    state = {name: t for name, t in tensors.items() if not name.endswith(SPECIES_BIAS)}
    state["radial"] = state.pop(EMBEDDED)
    return state


def _tensor_heads(potential: Potential) -> list[str]:
    """Heads with a moment table of their own."""
    return [name for name, table in potential.tables.items() if table is not potential.table]


def _moments(potential: Potential) -> dict[str, Any]:
    """Sizes of the moment tables, as the header has them."""
    own = {name: potential.tables[name].n_moments for name in _tensor_heads(potential)}
    found: dict[str, Any] = {"n_moments": potential.table.n_moments}
    return found | ({"head_moments": own} if own else {})


def _tables(potential: Potential) -> dict[str, Tensor]:
    """The moment tables as int32 tensors, by their names in the file."""
    import torch

    tables = {TABLE: potential.table}
    tables |= {f"{TABLES}{name}.": potential.tables[name] for name in _tensor_heads(potential)}
    found = {}
    for prefix, table in tables.items():
        for name in ("basic", "products", "scalars"):
            array = getattr(table, name)
            assert abs(array).max(initial=0) < 2**31  # numpy would wrap around without a word
            found[prefix + name] = torch.from_numpy(array.astype("i4"))
    return found


def _check_table(
    path: str | Path, header: dict[str, Any], stored: dict[str, Tensor], potential: Potential
) -> None:
    """Weights belong to outputs by their order: the file's tables must be those made here."""
    import torch

    made = _tables(potential)
    same = stored.keys() == made.keys() and all(torch.equal(stored[k], made[k]) for k in made)
    if not same or any(header.get(k) != value for k, value in _moments(potential).items()):
        raise InvalidInput(
            f"{path}: its moment table is not that of mtp-train {mtp.__version__} for the same "
            f"basis; install the version that wrote it ({header.get('version', '?')})"
        )


def describe(path: str | Path) -> dict[str, Any]:
    """What is inside a model file, as plain data that JSON can hold; needs no torch."""
    from ase.data import chemical_symbols

    content, header = _open(Path(path))
    tensors = {
        name: {"dtype": entry["dtype"], "shape": entry["shape"]}
        for name, entry in sorted(_safetensors_header(Path(path), content).items())
        if name != "__metadata__"
    }
    try:
        spec = header["spec"]
        return {
            **header,
            "elements": [chemical_symbols[number] for number in spec["species"]],
            "basis": _basis(tensors),
            "tensors": tensors,
        }
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidInput(f"{path}: damaged model file: {_one_line(error)}") from error


def _basis(tensors: dict[str, Any]) -> dict[str, int]:
    """Sizes of the basis and the number of parameters, from the shapes of the tensors."""
    fixed = ("radial_scale", ".mean", ".std", ".size", ".scale", ".step")
    return {
        "invariants": tensors[f"{TABLE}scalars"]["shape"][0],
        "radial_functions": tensors["radial"]["shape"][2],
        "parameters": sum(
            math.prod(entry["shape"])
            for name, entry in tensors.items()
            if not (name.endswith(fixed) or name.startswith((TABLE, TABLES, GRADE)))
        ),
    }


def _open(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and our header in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    metadata = _safetensors_header(path, content).get("__metadata__", {})
    if KEY not in metadata:
        raise InvalidInput(
            f"{path}: a safetensors file, but not a model of mtp-train (its header has no '{KEY}')"
        )
    try:
        header = json.loads(metadata[KEY])
        number = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: damaged model file: {_one_line(error)}") from error
    if number != FORMAT:
        raise InvalidInput(
            f"{path}: model format {number} of mtp-train {header.get('version', '?')}, but this "
            f"mtp-train {mtp.__version__} reads format {FORMAT}; install the version that wrote it"
        )
    return content, header


def _safetensors_header(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON that every safetensors file begins with, after its length in 8 bytes."""
    hint = "expected safetensors, as best.mtp.safetensors"
    if path.suffix in MLIP_SUFFIXES:
        hint = f"MLIP's are brought over by `mtp convert {path} {path.stem}.mtp.safetensors`"
    problem = InvalidInput(f"{path}: not a model file of mtp-train ({hint})")
    if len(content) < 8:
        raise problem
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(len(content) - 8, _MAX_HEADER):
        raise problem
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError as error:
        raise problem from error
    if not isinstance(header, dict):
        raise problem
    return header


def _without_folders(value: Any) -> Any:
    """The same data with every absolute path cut to what tells it from the others."""
    names = short_names(path for path in _texts(value) if os.path.isabs(path))

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(cut(k)): cut(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [cut(v) for v in value]
        return names.get(str(value), str(value)) if isinstance(value, str | Path) else value

    return cut(value)


def _texts(value: Any) -> Iterator[str]:
    """Every text and path in plain data, keys included."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
