"""What a control file takes over from the model that it loads; reads the file's header only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.control.reader import Reading, beside


@dataclass(frozen=True)
class Loaded:
    """The model file that a run starts from.

    heads: name → HeadSpec as plain data, its species as symbols.  data: name → DataPlan as plain
    data, paths without folders.  embedding: whether there is a type embedding.
    """

    path: Path
    heads: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    embedding: bool

    def find(self, control: Path, file: str) -> str | None:
        """Where a data file is that the model was trained on: beside the control file or model."""
        for path in (beside(control, file), (self.path.parent / file).resolve()):
            if path.exists():
                return str(path)
        return None


def loaded_path(reading: Reading) -> Path | None:
    """The model file that reload_model or pretrained_model names, if it exists."""
    control = reading.control
    reload, name = control.common_config.reload_model, control.mtp_config.pretrained_model
    if reload:
        path = beside(reading.path, reload)
    elif name:
        from pretrained.registry import card, names

        if name not in names():
            return None
        path = card(name).file
    else:
        return None
    return path if path.is_file() else None


def load(reading: Reading) -> Loaded | None:
    """What is known of the file; None where no model is loaded.

    Raises InvalidInput for a file that is no model.
    """
    path = loaded_path(reading)
    if path is None:
        return None
    from ase.data import chemical_symbols

    from mtp.model_file import describe

    content = describe(path)
    spec = content["spec"]
    heads = {
        head["name"]: head | {"species": [chemical_symbols[z] for z in head.get("species", ())]}
        for head in spec["heads"]
    }
    data = content.get("provenance", {}).get("plan", {}).get("data", {})
    return Loaded(path, heads, data, spec.get("embedding") is not None)
