"""Inference without torch: a head of a potential in the C++ kernel, with reused buffers."""

from __future__ import annotations

import ctypes
import os
import weakref
from ctypes import POINTER, c_char_p, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtp.errors import InvalidInput
from mtp.kernels.cpu import NativeBasis, NativeReadout, call, library
from mtp.neighbours import Neighbours

if TYPE_CHECKING:
    from ase.atoms import Atoms

    from mtp.grade import Grading
    from mtp.potential import Potential


@cache
def _library() -> ctypes.CDLL:
    """The kernel's library with the types of its functions for models."""
    lib = library()
    message = (c_char_p, c_int64)
    lib.mtp_model_new.argtypes = [
        *(c_void_p, c_void_p, c_int64, c_void_p, c_void_p),
        *(POINTER(c_void_p), *message),
    ]
    lib.mtp_model_load.argtypes = [c_char_p, c_char_p, POINTER(c_void_p), *message]
    lib.mtp_model_free.argtypes = [c_void_p]
    lib.mtp_model_free.restype = None
    lib.mtp_model_cutoff.argtypes = [c_void_p]
    lib.mtp_model_cutoff.restype = c_double
    lib.mtp_model_species.argtypes = [c_void_p, c_void_p, c_int64]
    lib.mtp_model_species.restype = c_int64
    lib.mtp_model_compute.argtypes = [c_void_p, *[c_int64] * 4, *[c_void_p] * 10, *message]
    lib.mtp_model_compute_graded.argtypes = [c_void_p, *[c_int64] * 4, *[c_void_p] * 11, *message]
    lib.mtp_model_set_grading.argtypes = [c_void_p, c_int64, *[c_void_p] * 3, *message]
    lib.mtp_model_has_grading.argtypes = [c_void_p]
    lib.mtp_model_components.argtypes = [c_void_p]
    lib.mtp_model_components.restype = c_int64
    lib.mtp_model_tensor.argtypes = [c_void_p, *[c_int64] * 4, *[c_void_p] * 7, *message]
    lib.mtp_neighbours_new.argtypes = [
        *(c_int64, c_void_p, c_void_p, c_void_p, c_double, c_int64),
        *(POINTER(c_void_p), *message),
    ]
    lib.mtp_neighbours_free.argtypes = [c_void_p]
    lib.mtp_neighbours_free.restype = None
    lib.mtp_neighbours_size.argtypes = [c_void_p, POINTER(c_int64), POINTER(c_int64)]
    lib.mtp_neighbours_size.restype = None
    lib.mtp_neighbours_get.argtypes = [c_void_p] * 6
    lib.mtp_neighbours_get.restype = None
    lib.mtp_ghosts_place.argtypes = [c_int64, *[c_void_p] * 4]
    lib.mtp_ghosts_place.restype = None
    lib.mtp_ghosts_fold.argtypes = [c_int64, c_int64, c_void_p, c_void_p]
    lib.mtp_ghosts_fold.restype = None
    return lib


def find_neighbours(atoms: Atoms, cutoff: float) -> Neighbours:
    """All pairs within the cutoff (Å), by the library. Raises InvalidInput for impossible cells."""
    positions, cell = (
        np.ascontiguousarray(array, np.float64) for array in (atoms.positions, atoms.cell.array)
    )
    pbc, pointer, lib = atoms.pbc.astype(np.int32), c_void_p(), _library()
    arrays = (positions.ctypes.data, cell.ctypes.data, pbc.ctypes.data)
    given = (len(atoms), *arrays, cutoff, torch.get_num_threads(), ctypes.byref(pointer))
    call(lib.mtp_neighbours_new, *given, refused=InvalidInput)
    try:
        n_all, n_pairs = c_int64(), c_int64()
        lib.mtp_neighbours_size(pointer, ctypes.byref(n_all), ctypes.byref(n_pairs))
        start, count = np.empty(len(atoms), np.int64), np.empty(len(atoms), np.int32)
        neighbour, owner = np.empty(n_pairs.value, np.int32), np.empty(n_all.value, np.int32)
        image = np.empty((n_all.value, 3), np.int32)
        filled = (start, count, neighbour, owner, image)
        lib.mtp_neighbours_get(pointer, *(array.ctypes.data for array in filled))
    finally:
        lib.mtp_neighbours_free(pointer)
    return Neighbours(*filled, shift=image @ cell)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """energy: eV. energies: (atoms,). forces: (atoms, 3) in eV/Å. virial: (6,) Σ d ⊗ ∂E/∂d.

    grades: (atoms,) extrapolation grades, where they were asked for.
    """

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    grades: np.ndarray | None = None


class NativeModel:
    """One head of a potential inside the kernel's library, float64 or float32 in one.

    An energy head, or one for dipoles or polarizabilities, which come from model files only.
    """

    def __init__(self, pointer: c_void_p) -> None:
        self._pointer = pointer
        self._buffers: _Buffers | None = None
        weakref.finalize(self, _library().mtp_model_free, pointer)

    @classmethod
    def of(cls, potential: Potential, head: str) -> NativeModel:
        """A copy of a head and of the descriptor as they are now."""
        basis = NativeBasis(potential.table, potential.spec.radial)
        readout = NativeReadout(potential.heads[head].readout())
        c, shifts = (
            np.ascontiguousarray(tensor.detach().numpy(), np.float64)
            for tensor in (
                potential.coefficients_for(potential.table),
                potential.heads[head].shifts,
            )
        )
        pointer = c_void_p()
        arrays = (c.ctypes.data, shifts.ctypes.data, ctypes.byref(pointer))
        call(_library().mtp_model_new, basis.pointer, readout.pointer, len(c), *arrays)
        model = cls(pointer)
        if potential.grading is not None:
            model._set_grading(potential.grading)
        return model

    @classmethod
    def load(cls, path: str | Path, head: str | None = None) -> NativeModel:
        """A head of a model file, read by the library. Raises InvalidInput."""
        pointer, name = c_void_p(), None if head is None else head.encode()
        given = (os.fsencode(path), name, ctypes.byref(pointer))
        call(_library().mtp_model_load, *given, refused=InvalidInput)
        return cls(pointer)

    def _set_grading(self, grading: Grading) -> None:
        parts = (grading.mean, grading.inverse_std, grading.neighbourhood)
        arrays = [np.ascontiguousarray(part, np.float64) for part in parts]
        addresses = (array.ctypes.data for array in arrays)
        call(_library().mtp_model_set_grading, self._pointer, arrays[0].shape[1], *addresses)

    @property
    def graded(self) -> bool:
        """Whether it has active sets to compute extrapolation grades from."""
        return bool(_library().mtp_model_has_grading(self._pointer))

    @property
    def cutoff(self) -> float:
        """In Å."""
        return _library().mtp_model_cutoff(self._pointer)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers of a model from a file."""
        numbers = np.zeros(_library().mtp_model_species(self._pointer, None, 0), np.int64)
        _library().mtp_model_species(self._pointer, numbers.ctypes.data, len(numbers))
        return tuple(numbers.tolist())

    def compute(
        self,
        neighbours: Neighbours,
        species: np.ndarray,
        positions: np.ndarray,
        single: bool,
        grades: bool = False,
    ) -> Evaluation:
        """Everything for atoms at `positions` (atoms, 3) in Å, whose list is `neighbours`.

        species: (atoms,) int32 index into the potential's species. single: compute in float32.
        grades: extrapolation grades as well, of a model that has active sets.
        torch.get_num_threads() says how many threads. Raises InvalidInput when the energy is not
        finite.
        """
        return self._kept(neighbours, species).compute(self._pointer, positions, single, grades)

    @property
    def components(self) -> int:
        """Of the tensor that the head predicts: 3 of a dipole, 6 of a polarizability, or 0."""
        return _library().mtp_model_components(self._pointer)

    def tensor(
        self, neighbours: Neighbours, species: np.ndarray, positions: np.ndarray, single: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tensor (components,) and the atoms' shares (atoms, components), e·Å or Å³.

        Arguments and errors as those of `compute`.
        """
        buffers = self._kept(neighbours, species)
        return buffers.tensor(self._pointer, positions, single, self.components)

    def _kept(self, neighbours: Neighbours, species: np.ndarray) -> _Buffers:
        if self._buffers is None or not self._buffers.are_for(neighbours, species):
            self._buffers = _Buffers(neighbours, species)
        return self._buffers


class _Buffers:
    """The arrays of a call, kept as long as a neighbour list is."""

    def __init__(self, neighbours: Neighbours, species: np.ndarray) -> None:
        n, n_all = len(neighbours.count), len(neighbours.owner)
        self.neighbours, self.species = neighbours, species
        self.sizes = n, n_all
        self.positions, self.forces = np.empty((n_all, 3)), np.empty((n_all, 3))
        self.energy, self.virial = np.empty(1), np.empty(6)
        self.all_species = np.ascontiguousarray(species[neighbours.owner], np.int32)
        self.shifts = self._addresses(neighbours.owner, neighbours.shift)
        self.fold = self._addresses(neighbours.owner, self.forces)
        lists = neighbours.start, neighbours.count, neighbours.neighbour
        self.given = self._addresses(self.all_species, self.positions, *lists)
        self.results = self._addresses(self.forces, self.virial)

    def are_for(self, neighbours: Neighbours, species: np.ndarray) -> bool:
        return self.neighbours is neighbours and self.species is species

    def _addresses(self, *arrays: np.ndarray) -> list[int]:
        assert all(array.flags.c_contiguous for array in arrays)
        return [array.ctypes.data for array in arrays]

    def compute(
        self, model: c_void_p, positions: np.ndarray, single: bool, grades: bool
    ) -> Evaluation:
        lib, (n, n_all) = _library(), self.sizes
        given = self._given(model, positions, single)
        energies = np.empty(n)
        found = np.empty(n) if grades else None
        graded = None if found is None else found.ctypes.data
        results = (self.energy.ctypes.data, energies.ctypes.data, *self.results, None, graded)
        call(lib.mtp_model_compute_graded, *given, *results, refused=InvalidInput)
        lib.mtp_ghosts_fold(n, n_all, *self.fold)
        return Evaluation(
            float(self.energy[0]), energies, self.forces[:n].copy(), self.virial.copy(), found
        )

    def tensor(
        self, model: c_void_p, positions: np.ndarray, single: bool, components: int
    ) -> tuple[np.ndarray, np.ndarray]:
        found = np.empty(components), np.empty((self.sizes[0], components))
        given = self._given(model, positions, single)
        results = (array.ctypes.data for array in found)
        call(_library().mtp_model_tensor, *given, *results, refused=InvalidInput)
        return found

    def _given(self, model: c_void_p, positions: np.ndarray, single: bool) -> tuple:
        """Arguments of a call, with the ghosts where these positions take them."""
        place, (n, n_all) = _library().mtp_ghosts_place, self.sizes
        positions = np.ascontiguousarray(positions, np.float64)
        place(n_all, *self.shifts, positions.ctypes.data, self.positions.ctypes.data)
        return (model, int(single), torch.get_num_threads(), n, n_all, *self.given)
