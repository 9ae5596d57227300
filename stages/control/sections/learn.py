"""The section of active learning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.control.sections.keys import Positive, Section, key


class Learn(Section):
    """Active learning by `mtp learn`; training alone ignores it.

    Each round trains a student, runs molecular dynamics with it from every structure of `start` at
    every temperature, picks structures, has them labelled and adds them to the data. The thresholds
    have the names and defaults of LightPFP's autogen.
    """

    teacher: str | None = key(
        None,
        "What labels structures: `emt`, `tblite:GFN2-xTB`, `lammps:COMMANDS`, `mtp:MODEL`, "
        "`mtp:MODEL@HEAD` or `python.module:factory`.",
        example="lammps:pair_style sw; pair_coeff * * Si.sw Si",
        otherwise="the structures are written out, and the next call goes on with their labels",
    )
    start: list[Annotated[str, Field(min_length=1)]] = key(
        [],
        "Files of structures in which the dynamics begin; they need no labels.",
        example=["crystal.xyz", "surface.xyz"],
    )
    initial_samples: int = key(
        20,
        "Structures that the teacher labels before the first round, where data_config has no "
        "files: those of `start`, strained by up to 5 % and rattled by up to 0.15 Å.",
        example=50,
        ge=4,
    )
    rounds: int = key(
        5, "Rounds of dynamics and labels; training follows the last.", example=8, ge=0
    )
    selection: Literal["grade", "error", "random"] = key(
        "grade",
        "How structures are picked. `grade`: atoms with an extrapolation grade above grade_select "
        "that would enlarge the active set. `error`: the student's error of the teacher's labels "
        "lies between the thresholds. `random`: any, for comparison.",
        example="error",
    )
    temperatures: list[Positive] = key(
        [300.0], "Temperatures of the dynamics.", example=[300.0, 1000.0, 2000.0], unit="K"
    )
    pressure: float | None = key(
        None, "Pressure of the dynamics.", example=0.0, unit="GPa", otherwise="the cell is fixed"
    )
    steps: int = key(2000, "Steps of each run of dynamics.", example=10000, ge=1)
    timestep: float = key(1.0, "Time step.", example=2.0, unit="fs", gt=0)
    interval: int = key(20, "Steps between structures that may be picked.", example=50, ge=1)
    max_samples: int = key(50, "Structures picked in a round at most.", example=20, ge=1)
    grade_select: float | None = key(
        None,
        "Grade above which a structure may be picked.",
        example=1.5,
        otherwise="2; with a neural network 1.2",
        gt=0,
    )
    grade_break: float | None = key(
        None,
        "Grade above which the dynamics stop; the structure that it stopped at may be picked.",
        example=4.0,
        otherwise="10; with a neural network 5",
        gt=0,
    )
    min_distance: float | None = key(
        None,
        "The dynamics stop when two atoms are closer.",
        example=1.5,
        unit="Å",
        otherwise="0.7 times the shortest distance of the data",
        gt=0,
    )
    dE_min_coef: float = key(
        3.0, "Smallest energy error per atom, in units of its mean in training.", example=2.0, ge=0
    )
    dE_max_coef: float = key(
        20.0, "Largest energy error per atom, in units of its mean in training.", example=50.0, gt=0
    )
    dF_min: float = key(1.0, "Smallest error of a force.", example=0.3, unit="eV/Å", ge=0)
    dF_max: float = key(
        50.0,
        "Largest error of a force; also the largest force of a structure that is added.",
        example=20.0,
        unit="eV/Å",
        gt=0,
    )
    dS_min_coef: float = key(
        3.0, "Smallest stress error, in units of its mean in training.", example=2.0, ge=0
    )
    dS_max_coef: float = key(
        20.0, "Largest stress error, in units of its mean in training.", example=50.0, gt=0
    )
    fine_tune: float | None = key(
        None,
        "From the second training on, go on from the last model with this share of the epochs. "
        "Where the new data have closer atoms, training begins anew.",
        example=0.25,
        otherwise="every training begins anew",
        gt=0,
        le=1,
    )
    workers: int = key(1, "Processes of the teacher.", example=8, ge=1)
