"""Molecules from SMILES by RDKit's conformers, and clusters packed of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from mtp.errors import InvalidInput
from pretrained.samplers.growth import direction, numbers_of, tagged

# Atoms of different molecules stay this far apart beyond the sum of their covalent radii (Å).
CONTACT = 0.7


def conformers(smiles: str, count: int, seed: int) -> Iterator[Atoms]:
    """Up to ``count`` conformers of a molecule (ETKDG distance geometry); hydrogens included."""
    chem, embed = _rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InvalidInput(f"{smiles!r} is not a SMILES that RDKit can read")
    molecule = chem.AddHs(molecule)
    for number in embed(molecule, numConfs=count, randomSeed=seed + 1):
        positions = molecule.GetConformer(number).GetPositions()
        symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
        atoms = tagged(Atoms(symbols, positions), "conformer")
        atoms.info["smiles"] = smiles
        yield atoms


def packed(
    molecules: Sequence[Atoms], count: int, seed: int, size: tuple[int, int] = (2, 4)
) -> Iterator[Atoms]:
    """Clusters of ``size[0]`` to ``size[1]`` molecules, of one or two kinds, in contact."""
    for i in range(count):
        random = numbers_of(seed, i)
        kinds = random.choice(len(molecules), size=1 if random.random() < 0.5 else 2)
        cluster: Atoms | None = None
        for kind in random.choice(kinds, size=random.integers(size[0], size[1] + 1)):
            cluster = _attach(cluster, molecules[kind], random)
        yield tagged(cluster, "packed")


def _attach(cluster: Atoms | None, molecule: Atoms, random: np.random.Generator) -> Atoms:
    """The cluster with the molecule, turned at random, pushed against it from a random side."""
    new = molecule.copy()
    new.positions -= new.positions.mean(axis=0)
    new.positions = Rotation.random(random_state=random).apply(new.positions)
    if cluster is None:
        return new
    towards = direction(random)
    centre = cluster.positions[random.integers(len(cluster))]
    gap = CONTACT + random.uniform(-0.2, 0.8)
    limit = gap + covalent_radii[cluster.numbers][:, None] + covalent_radii[new.numbers][None]
    for distance in np.arange(0.0, 60.0, 0.1):
        placed = new.positions + centre + distance * towards
        if np.all(cdist(cluster.positions, placed) > limit):
            new.positions = placed
            return cluster + new
    raise AssertionError("molecules of finite size leave room within 60 Å")


def _rdkit():
    """RDKit's chemistry module and its embedding, or words how to install it."""
    try:
        from rdkit import Chem
        from rdkit.Chem.AllChem import EmbedMultipleConfs
    except ImportError as error:
        raise InvalidInput(
            'conformers need RDKit: pip install -c constraints.txt ".[pretraining]"'
        ) from error
    return Chem, EmbedMultipleConfs
