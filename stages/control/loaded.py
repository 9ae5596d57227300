"""What a control file takes over from the model that it loads; reads the file's header only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtp.mlip_file import MLIP_SUFFIXES, read_mtp
from pretrained.registry import card, names
from stages.control.defaults import TASK
from stages.control.reader import Reading, beside
from stages.control.sections.tasks import RANDOM
from stages.plan import HeadPlan

LINEAR = asdict(HeadPlan(TASK))
"""The head of an MLIP-3 file."""


@dataclass(frozen=True)
class Loaded:
    """The model file that a run starts from.

    heads: name → HeadSpec as plain data, its species as symbols.  default: the head for a single
    task of another name, where there is one.  data: name → DataPlan as plain data, paths without
    folders.  embedding: whether there is a type embedding.
    """

    path: Path
    heads: dict[str, dict[str, Any]]
    default: str | None
    data: dict[str, dict[str, Any]]
    embedding: bool

    def find(self, control: Path, file: str) -> str | None:
        """Where a data file is that the model was trained on: beside the control file or model.

        The name may begin with the names of the folders that these stand in.
        """
        for folder in (control.absolute().parent, self.path.parent):
            for above in (folder, *folder.parents)[: len(Path(file).parts)]:
                path = (above / file).resolve()
                if path.exists():
                    return str(path)
        return None


def load(reading: Reading) -> Loaded | None:
    """What is known of the file; None where no model is loaded, or one without parameters.

    Raises InvalidInput for a file that is no model.
    """
    control, default = reading.control, None
    reload, name = control.common_config.reload_model, control.mtp_config.pretrained_model
    if reload:
        path = beside(reading.path, reload)
    elif name and name in names():
        found = card(name)
        path, default = found.file, found.default_head
    else:
        return None
    if not path.is_file():
        return None
    if path.suffix in MLIP_SUFFIXES:
        return Loaded(path, {TASK: LINEAR}, TASK, {}, False) if read_mtp(path).trained else None
    return _read(path, default)


def _read(path: Path, default: str | None) -> Loaded:
    from ase.data import chemical_symbols  # only here: it takes time to load

    from mtp.model_file import describe

    content = describe(path)
    spec = content["spec"]
    heads = {
        head["name"]: LINEAR
        | head
        | {"species": [chemical_symbols[z] for z in head.get("species", ())]}
        for head in spec["heads"]
    }
    if default is None and len(heads) == 1:
        default = next(iter(heads))
    data = content.get("provenance", {}).get("plan", {}).get("data", {})
    return Loaded(path, heads, default, data, spec.get("embedding") is not None)


def several_heads(file: str, heads: list[str], task: str) -> str:
    """What is wrong with a single task that does not say from which head it starts."""
    return (
        f"{file} has the heads {', '.join(heads)}; say which one to start from: "
        f'"tasks": {{"{task}": {{"finetune_head": "{heads[0]}"}}}} (or "{RANDOM}")'
    )
