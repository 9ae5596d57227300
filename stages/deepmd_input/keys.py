"""Reading an input so that nothing in it is passed over in silence."""

from __future__ import annotations

import json
from typing import Any

SILENT = {
    "disp_file",
    "disp_freq",
    "disp_training",
    "disp_avg",
    "numb_test",
    "save_freq",
    "save_ckpt",
    "max_ckpt_keep",
    "profiling",
    "profiling_file",
    "tensorboard",
    "tensorboard_freq",
    "tensorboard_log_dir",
    "time_training",
}
"""Keys about printing and saving, which no result depends on."""


class Notes(list[str]):
    """Lines about what has no counterpart or another meaning."""

    def add(self, place: str, message: str) -> None:
        line = f"{place}: {message}"
        if line not in self:
            self.append(line)


class Keys:
    """An object of an input: keys are taken out one by one, `close` notes those that are left."""

    def __init__(self, data: Any, place: str, notes: Notes) -> None:
        self.data = dict(data) if isinstance(data, dict) else {}
        self.place, self.notes = place, notes
        if data is not None and not isinstance(data, dict):
            notes.add(place, f"an object is expected, got {json.dumps(data)}; left out")

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def take(self, *names: str, default: Any = None) -> Any:
        """The value of the first of these names (aliases) that is there."""
        found = [self.data.pop(name) for name in names if name in self.data]
        return found[0] if found and found[0] is not None else default

    def section(self, name: str) -> Keys:
        """The object at a key."""
        return Keys(self.data.pop(name, None), self.at(name), self.notes)

    def at(self, name: str) -> str:
        return "/".join(part for part in (self.place, name) if part)

    def note(self, name: str, message: str) -> None:
        """Say something about a key."""
        self.notes.add(self.at(name), message)

    def close(self, reasons: dict[str, str] | None = None) -> None:
        """Note every key that was not taken. reasons: key → what to say of it."""
        for name, value in self.data.items():
            if name.startswith("_") or name in SILENT or value in (None, False, "", [], {}):
                continue
            reason = (reasons or {}).get(name, "has no counterpart")
            self.note(name, f"{reason} ({_shown(value)})")
        self.data = {}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 50 else text[:47] + "…"
