"""Structures from molecular dynamics with a calculator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin

from pretrained.samplers.growth import tagged


def dynamics(
    atoms: Atoms,
    calculator: Calculator,
    temperature: float,
    count: int,
    seed: int,
    every: int = 10,
    timestep: float = 1.0,
    equilibration: int = 50,
) -> Iterator[Atoms]:
    """Snapshots of a Langevin run at ``temperature`` K, one every ``every`` steps (fs).

    What the calculator raises ends the run; the caller decides what to do then.
    """
    random = np.random.default_rng(seed)
    moving = atoms.copy()
    moving.calc = calculator
    width = np.sqrt(units.kB * temperature * moving.get_masses())[:, None]
    moving.set_momenta(random.normal(size=moving.positions.shape) * width)
    run = Langevin(
        moving,
        timestep * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=random,
    )
    run.run(equilibration)
    for _ in range(count):
        run.run(every)
        yield tagged(moving.copy(), f"md_{temperature:.0f}K")
