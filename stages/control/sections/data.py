"""The section of the data, which tasks can change key by key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.control.sections.keys import NotNegative, Section, key


class FileEntry(Section):
    """A data file with a weight."""

    path: str = Field(description="Path of the file.", examples=["bulk.xyz"], min_length=1)
    weight: float = key(1.0, "Factor on the weight of its structures.", example=2.0, gt=0)


File = Annotated[str, Field(min_length=1)] | FileEntry


class DataConfig(Section):
    """Where the structures come from. Relative paths are relative to the control file."""

    files: list[File] = key(
        [],
        'Files to train on: paths, or objects {"path": …, "weight": …}. `--data` on the command '
        "line replaces them.",
        example=["bulk.xyz", {"path": "surfaces.xyz", "weight": 2.0}],
    )
    test_files: list[File] = key(
        [],
        "Files to test on at the end; they never influence the training. `--test` replaces them.",
        example=["test.xyz"],
    )
    energy_key: str | None = key(
        None,
        "Name of the energy in the files.",
        example="REF_energy",
        otherwise="found by the usual names",
    )
    forces_key: str | None = key(
        None,
        "Name of the forces in the files.",
        example="REF_forces",
        otherwise="found by the usual names",
    )
    stress_key: str | None = key(
        None,
        "Name of the stress in the files.",
        example="REF_stress",
        otherwise="found by the usual names",
    )
    dipole_key: str | None = key(
        None,
        "Name of the dipole of a structure in the files.",
        example="REF_dipole",
        otherwise="found by the usual names",
    )
    polarizability_key: str | None = key(
        None,
        "Name of the polarizability of a structure in the files.",
        example="REF_polarizability",
        otherwise="found by the usual names",
    )
    atomic_dipole_key: str | None = key(
        None,
        "Name of the dipoles of atoms in the files.",
        example="REF_atomic_dipole",
        otherwise="found by the usual names",
    )
    atomic_polarizability_key: str | None = key(
        None,
        "Name of the polarizabilities of atoms in the files.",
        example="REF_atomic_polarizability",
        otherwise="found by the usual names",
    )
    type_map: list[str] | None = key(
        None,
        "Element symbols in the order of the type numbers, for files without elements (.cfg, "
        "DeePMD).",
        example=["Si", "O"],
        otherwise="the files name their elements",
        min_length=1,
    )
    config_type_key: str = key(
        "config_type", "Name of the word that groups the frames.", example="group"
    )
    config_type_weights: dict[str, NotNegative] = key(
        {}, "Factors on the weight of the frames of each group.", example={"surface": 2.0}
    )
    weight_key: str | None = key(
        None, "Name of a weight that frames carry.", example="weight", otherwise="every frame has 1"
    )
    valid_fraction: float = key(
        0.1,
        "Share of each file's frames that is kept for validation, at least one of two frames. "
        "They choose the best epoch and move no parameter, but e0 and the smallest distance, where "
        "the radial functions begin, are taken from training and validation frames together.",
        example=0.2,
        gt=0,
        lt=1,
    )
    max_energy_reference: Literal["raw", "e0"] = key(
        "raw",
        "What max_energy is compared with: the energy as it stands in the file (`raw`) or less the "
        "species shifts (`e0`).",
        example="e0",
    )
    e0: Literal["lstsq", "isolated"] | dict[str, float] = key(
        "lstsq",
        "Energies of single atoms of each species that the model starts from: fitted to the "
        "training and validation frames (`lstsq`), those of the frames with one atom (`isolated`), "
        "or given by symbol.",
        example={"Si": -0.8},
        unit="eV",
    )
    drop_duplicates: bool = key(
        True, "Leave out frames that stand in the data twice.", example=True
    )
