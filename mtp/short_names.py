"""Names of files without their folders, except those it takes to tell the files apart."""

from __future__ import annotations

from collections.abc import Iterable


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Each path's last part, with as many folders before it as it takes to tell them apart."""
    paths = list(dict.fromkeys(paths))
    parts = {path: path.rstrip("/").split("/") for path in paths}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {path: "/".join(pieces[-depth:]).lstrip("/") for path, pieces in parts.items()}
        if len(set(names.values())) == len(paths):
            return names
    return {path: path for path in paths}
