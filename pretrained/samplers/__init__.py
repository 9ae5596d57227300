"""Samplers: structures to label, each reproducible by its seed.

A sampler is a generator of ``ase.Atoms``. Structure number i of a seed does not depend on how many
are asked for (except in a molecular-dynamics run), and ``info["config_type"]`` names the sampler.
"""

from pretrained.samplers.clusters import clusters, dimers
from pretrained.samplers.composition import random_composition, substitution
from pretrained.samplers.defects import surface, vacancy
from pretrained.samplers.distortion import compress, displace, rattle, strain
from pretrained.samplers.dynamics import dynamics
from pretrained.samplers.molecules import conformers, packed
from pretrained.samplers.random_structure import random_structure

__all__ = [
    "clusters",
    "compress",
    "conformers",
    "dimers",
    "displace",
    "dynamics",
    "packed",
    "random_composition",
    "random_structure",
    "rattle",
    "strain",
    "substitution",
    "surface",
    "vacancy",
]
