"""Structures with every kind of label and periodicity for the tests of data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mtp.structure import Structure


def crystal(
    rng: np.random.Generator, numbers: tuple[int, ...] = (29, 46, 29), **changes: Any
) -> Structure:
    """A triclinic, left-handed cell with all labels."""
    n = len(numbers)
    cell = np.diag([4.0, 4.5, -5.0]) + 0.2 * rng.normal(size=(3, 3))
    fractions = (np.arange(n)[:, None] + 0.1 * rng.random((n, 3))) / n
    labels = {
        "energy": float(rng.normal()) - 3.0 * n,
        "forces": rng.normal(size=(n, 3)),
        "stress": 0.01 * rng.normal(size=6),
    }
    made = Structure(
        numbers=np.array(numbers),
        positions=fractions @ cell,
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        config_type="bulk",
        source="made",
        **labels,
    )
    return replace(made, **changes)


def molecule(
    rng: np.random.Generator, numbers: tuple[int, ...] = (8, 1, 1), **changes: Any
) -> Structure:
    """Atoms without a cell; energy and forces."""
    n = len(numbers)
    positions = np.arange(n)[:, None] * np.array([0.8, 0.3, 0.1]) + 0.05 * rng.normal(size=(n, 3))
    labels = {"energy": -10.0 * n + float(rng.normal()), "forces": rng.normal(size=(n, 3))}
    made = Structure(np.array(numbers), positions, config_type="gas", source="made", **labels)
    return replace(made, **changes)


@dataclass
class Options:
    """The data section of a plan with its defaults."""

    files: list[SimpleNamespace]
    test_files: list[SimpleNamespace] = field(default_factory=list)
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    dipole_key: str | None = None
    polarizability_key: str | None = None
    atomic_dipole_key: str | None = None
    atomic_polarizability_key: str | None = None
    config_type_key: str = "config_type"
    config_type_weights: dict[str, float] = field(default_factory=dict)
    weight_key: str | None = None
    valid_fraction: float = 0.1
    max_energy: float = 1e38
    max_energy_reference: str = "raw"
    max_forces: float = 1e38
    e0: str | dict[str, float] = "lstsq"
    drop_duplicates: bool = True


def file(path: Path | str, weight: float = 1.0) -> SimpleNamespace:
    """One data file of a plan."""
    return SimpleNamespace(path=str(path), weight=weight)
