"""What the command line says: tables and what is inside a model file, as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stages.plan import WITH_RATE


def table(*rows: Iterable[str]) -> str:
    """Rows of text in left-aligned columns."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def describe_head(head: dict[str, Any]) -> str:
    """Kind and readout of a head (HeadSpec as plain data)."""
    widths = " × ".join(map(str, head["hidden"]))
    parts = [head["kind"], f"neural network {widths}, {head['activation']}" if widths else "linear"]
    if widths and head["timestep"]:
        parts.append("timesteps")
    if head["embedded"]:
        parts.append("with type embedding")
    if head["level"] is not None:
        parts.append(f"tensors of level {head['level']}")
    if head["species"]:
        parts.append(f"atoms of {' '.join(_symbols(head['species']))}")
    shared = [name for name in head["shared"] if name]
    if shared:
        parts.append(f"shares {', '.join(shared)}")
    return ", ".join(parts)


def _symbols(species: Iterable[int | str]) -> list[str]:
    """Symbols of species, which may be atomic numbers."""
    from ase.data import chemical_symbols  # only here: it takes time to load

    return [chemical_symbols[one] if isinstance(one, int) else one for one in species]


def describe_model(content: dict[str, Any]) -> str:
    """What is inside a model file (mtp.model_file.describe), for the terminal."""
    spec, basis = content["spec"], content["basis"]
    costs = "/".join(str(spec[f"moment_{name}_cost"]) for name in ("init", "mu", "nu"))
    rows = [
        ("elements", " ".join(content["elements"])),
        ("basis", f"level {spec['levmax']}, costs {costs} (init/μ/ν), {_counts(basis)}"),
        ("distances", f"{spec['min_dist']:.4g} to {spec['cutoff']:g} Å"),
        *_embedding_rows(spec),
        *(("head", f"{head['name']}: {describe_head(head)}") for head in spec["heads"]),
        ("file", f"format {content['format']}, {content['program']} {content['version']}"),
        ("grades", "yes" if "grade.neighbourhood" in content["tensors"] else "no active sets"),
        *_provenance_rows(content["provenance"]),
    ]
    tensors = [
        (name, entry["dtype"], " × ".join(map(str, entry["shape"])) or "scalar")
        for name, entry in content["tensors"].items()
    ]
    return f"{table(*rows)}\n\n{table(('tensor', 'type', 'shape'), *tensors)}"


def _embedding_rows(spec: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if spec.get("embedding"):
        yield "species", f"type embedding {' → '.join(map(str, spec['embedding']['neuron']))}"


def _provenance_rows(provenance: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Where a model comes from, as far as its file says."""
    if "stage" in provenance:
        yield "from", f"{provenance['stage']}, epoch {provenance['epoch']}"
    for stage in provenance.get("plan", {}).get("stages", ()):
        rate = f", lr {stage['lr']:g}" if stage["optimizer"] in WITH_RATE else ""
        yield stage["name"], f"{stage['epochs']} epochs, {stage['optimizer']}{rate}"
    for name, digest in provenance.get("data", {}).items():
        yield "data", f"{digest[:12]} {name}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())
