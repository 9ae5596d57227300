"""The C++ kernel on the CPU: its library by ctypes, with the reference kernel's methods."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import weakref
from ctypes import POINTER, c_char_p, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtp.basis.moment_table import MomentTable
from mtp.basis.radial import RadialSpec
from mtp.errors import InvalidInput
from mtp.geometry import Pairs
from mtp.heads import Readout

ABI = 5
"""MTP_ABI of mtp/kernels/src/mtp.h, the interface that is described here."""

MESSAGE_SIZE = 1024
OUT_OF_MEMORY = 2  # a status of the library
_SOMEWHERE = torch.zeros(1)
DOUBLES = ("c_bar", "forces", "virial", "energies", "energy_weight", "weights_bar")
DOUBLES += ("column_forces", "column_virial")


class Job(ctypes.Structure):
    """mtp_job of mtp/kernels/src/mtp.h."""

    _fields_ = [
        *((name, c_int64) for name in ("single", "n_threads", "n_atoms", "n_species", "n_rows")),
        *((name, c_void_p) for name in ("species", "start", "count", "base", "neighbour")),
        *((name, c_void_p) for name in ("displacement", "c", "c_dot", "d_dot", "v", "strain")),
        *((name, c_void_p) for name in ("b_bar", "b_dot_bar", "readout", "energy_weight")),
        *((name, c_void_p) for name in ("b", "b_dot", "c_bar", "d_bar")),
        *((name, c_void_p) for name in ("forces", "virial", "energies", "weights_bar")),
        *((name, c_void_p) for name in ("column_forces", "column_virial")),
    ]


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel; InvalidInput says what to do when it is not there or cannot run."""
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    path = Path(__file__).with_name("libmtp" + suffix)
    if not path.exists():
        raise InvalidInput(
            f"the C++ kernel {path.name} was not built; install a C++ compiler and reinstall the "
            "package, or set MTP_KERNEL=reference for the slow kernel in plain torch"
        )
    lib = ctypes.CDLL(str(path))
    _check_abi(lib, path)
    _check_instruction_set(lib)
    lib.mtp_basis_free.argtypes = [c_void_p]
    lib.mtp_basis_free.restype = None
    lib.mtp_basis_cost.argtypes = [c_void_p, c_void_p]
    lib.mtp_basis_cost.restype = None
    lib.mtp_run.argtypes = [c_void_p, POINTER(Job), c_char_p, c_int64]
    lib.mtp_basis_new.argtypes = [
        *(c_int64, c_void_p) * 3,
        *(c_int64, c_double, c_double, c_int64),
        *(POINTER(c_void_p), c_char_p, c_int64),
    ]
    lib.mtp_readout_new.argtypes = [
        *(c_int64, c_void_p, c_void_p, c_double, c_int64, c_void_p, c_char_p, c_int64, c_int64),
        *(c_void_p, POINTER(c_void_p), c_char_p, c_int64),
    ]
    lib.mtp_readout_free.argtypes = [c_void_p]
    lib.mtp_readout_free.restype = None
    return lib


def _check_abi(lib: ctypes.CDLL, path: Path) -> None:
    """A library of other sources would be called with wrong arguments."""
    try:
        lib.mtp_abi.restype = c_int64
        found = lib.mtp_abi()
    except AttributeError:
        found = "none"
    if found != ABI:
        raise InvalidInput(
            f"{path}: the C++ kernel is not of this version of mtp-train (its interface is number "
            f"{found}, needed is {ABI}); reinstall the package, or `make kernel` in a source tree"
        )


def _check_instruction_set(lib: ctypes.CDLL) -> None:
    """Nothing would run, and the library would say so only in the first pass."""
    lib.mtp_isa.restype = c_char_p
    if lib.mtp_isa() != b"none":
        return
    if "MTP_ISA" not in os.environ:
        raise InvalidInput(
            "the C++ kernel needs a processor with x86-64-v2 (SSE 4.2); set MTP_KERNEL=reference "
            "for the slow kernel in plain torch"
        )
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    allowed = "v2, v3 or v4, and no more than this processor has" if x86 else "plain"
    raise InvalidInput(f"MTP_ISA must be {allowed}; got {os.environ['MTP_ISA']!r}; unset it")


def call(function, *arguments, refused: type[Exception] = RuntimeError) -> None:
    """Call a function of the library that reports errors by status and message.

    Raises MemoryError, or else `refused`: InvalidInput where the library judges what a user gave,
    a file or a structure; RuntimeError where its arguments are the program's own.
    """
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    status = function(*arguments, message, MESSAGE_SIZE)
    if not status:
        return
    said = message.value.decode(errors="replace")
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"mtp kernel: {said}")
    raise refused(f"mtp kernel: {said}" if refused is RuntimeError else said)


def instruction_set() -> str:
    """The instruction set the library runs with: v4, v3, v2 or plain."""
    return library().mtp_isa().decode()


class NativeBasis:
    """A moment table and its radial basis inside the library."""

    def __init__(self, table: MomentTable, radial: RadialSpec) -> None:
        self.pointer = c_void_p()
        arrays = [
            np.ascontiguousarray(a, np.int64) for a in (table.basic, table.products, table.scalars)
        ]
        sized = [x for a in arrays for x in (len(a), a.ctypes.data)]
        call(
            library().mtp_basis_new,
            *sized,
            table.n_moments,
            radial.r_min,
            radial.r_max,
            radial.size,
            ctypes.byref(self.pointer),
        )
        weakref.finalize(self, library().mtp_basis_free, self.pointer)

    def costs(self) -> dict[str, int]:
        """Multiply-adds of each pass: the first four per pair, the last two per atom."""
        counts = (c_int64 * 6)()
        library().mtp_basis_cost(self.pointer, counts)
        names = ("moments", "forces", "dual_moments", "coefficients", "products", "reverse")
        return dict(zip(names, counts, strict=True))


class NativeReadout:
    """A readout inside the library; it holds copies of the weights."""

    def __init__(self, readout: Readout) -> None:
        self.pointer = c_void_p()
        arrays = [
            np.ascontiguousarray(a.detach().numpy(), np.float64)
            for a in (readout.mean, readout.inverse_std, readout.weights)
        ]
        widths = np.array(readout.hidden, np.int64)
        mean, inverse_std, weights = (a.ctypes.data for a in arrays)
        call(
            library().mtp_readout_new,
            *(len(arrays[0]), mean, inverse_std, readout.scale),
            *(len(widths), widths.ctypes.data, readout.activation.encode()),
            *(int(readout.timestep), readout.n_biases, weights, ctypes.byref(self.pointer)),
        )
        weakref.finalize(self, library().mtp_readout_free, self.pointer)


class CpuKernel:
    """Invariants of a moment table and their derivatives in C++, float64 or float32."""

    name = "cpu"
    reads_out = True  # evaluates energy readouts itself, in the same pass

    def __init__(self, table: MomentTable, radial: RadialSpec) -> None:
        self.table = table
        self.radial = radial
        self.basis = NativeBasis(table, radial)

    def invariants(self, c: Tensor, pairs: Pairs) -> Tensor:
        b = self._per_scalar(c, pairs)
        self._run(pairs, c, b=b)
        return b

    def gradient(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        c_bar, d_bar = self._like_c(c), c.new_zeros(pairs.displacement.shape)
        self._run(pairs, c, b_bar=b_bar, c_bar=c_bar, d_bar=d_bar)
        return c_bar.to(c.dtype), d_bar

    def second(
        self,
        b_bar: Tensor,
        b_dot_bar: Tensor,
        c: Tensor,
        c_dot: Tensor,
        d_dot: Tensor,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        b_dot = self._per_scalar(c, pairs)
        c_bar, d_bar = self._like_c(c), c.new_zeros(pairs.displacement.shape)
        self._run(
            *(pairs, c),
            **dict(c_dot=c_dot, d_dot=d_dot, b_bar=b_bar, b_dot_bar=b_dot_bar),
            **dict(b_dot=b_dot, c_bar=c_bar, d_bar=d_bar),
        )
        return b_dot, c_bar.to(c.dtype), d_bar

    def forces(self, b_bar: Tensor, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        forces = torch.empty(len(pairs), 3, dtype=torch.float64)
        virial = torch.empty(len(pairs), 6, dtype=torch.float64)
        self._run(pairs, c, b_bar=b_bar, forces=forces, virial=virial)
        return forces.to(c.dtype), virial.to(c.dtype)

    def columns(self, c: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """B (atoms, n), forces (atoms, 3, n) and virials (atoms, 6, n) of every invariant alone."""
        n, k = len(pairs), len(self.table.scalars)
        b = self._per_scalar(c, pairs)
        forces = torch.empty(n, 3, k, dtype=torch.float64)
        virial = torch.empty(n, 6, k, dtype=torch.float64)
        self._run(pairs, c, b=b, column_forces=forces, column_virial=virial)
        return b, forces, virial

    def tangent(self, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        b, b_dot = self._per_scalar(c, pairs), self._per_scalar(c, pairs)
        self._run(pairs, c, v=v, strain=strain, b=b, b_dot=b_dot)
        return b, b_dot

    def tangent_backward(
        self, b_bar: Tensor, b_dot_bar: Tensor, c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs
    ) -> Tensor:
        c_bar = self._like_c(c)
        self._run(pairs, c, v=v, strain=strain, b_bar=b_bar, b_dot_bar=b_dot_bar, c_bar=c_bar)
        return c_bar.to(c.dtype)

    def predict(self, c: Tensor, readout: Readout, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Energies (atoms,) without shifts, forces (atoms, 3), virials (atoms, 6); all float64."""
        energies = torch.empty(len(pairs), dtype=torch.float64)
        forces = torch.empty(len(pairs), 3, dtype=torch.float64)
        virial = torch.empty(len(pairs), 6, dtype=torch.float64)
        self._run(pairs, c, readout, energies=energies, forces=forces, virial=virial)
        return energies, forces, virial

    def loss_gradient(
        self,
        c: Tensor,
        readout: Readout,
        energy_weight: Tensor,
        v: Tensor,
        strain: Tensor,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor]:
        """Derivatives of Σ energy_weight·E + Ė by c and by the readout's weights, in one pass."""
        c_bar, weights_bar = self._like_c(c), torch.zeros(len(readout.weights), dtype=torch.float64)
        along = {"v": v, "strain": strain, "energy_weight": energy_weight}
        self._run(pairs, c, readout, **along, c_bar=c_bar, weights_bar=weights_bar)
        return c_bar.to(c.dtype), weights_bar

    def _per_scalar(self, c: Tensor, pairs: Pairs) -> Tensor:
        return c.new_empty(len(pairs), len(self.table.scalars))

    def _like_c(self, c: Tensor) -> Tensor:
        return torch.zeros(c.shape, dtype=torch.float64)

    def _run(
        self, pairs: Pairs, c: Tensor, readout: Readout | None = None, **arrays: Tensor
    ) -> None:
        """One pass over the batch, into the result arrays among `arrays`."""
        if c.dtype not in (torch.float32, torch.float64) or pairs.displacement.dtype != c.dtype:
            raise TypeError(f"coefficients {c.dtype} and displacements {pairs.displacement.dtype}")
        kept = {
            "c": c.contiguous(),
            "displacement": pairs.displacement.contiguous(),
            "species": pairs.species.int().contiguous(),
            "start": pairs.start.long().contiguous(),
            "count": pairs.count.int().contiguous(),
            "base": pairs.base.int().contiguous(),
            "neighbour": pairs.neighbour.int().contiguous(),
        }
        for name, array in arrays.items():
            real = torch.float64 if name in DOUBLES else c.dtype
            kept[name] = array.to(real).contiguous()
        self._check_shapes(kept)
        native = None if readout is None else NativeReadout(readout)
        job = Job(
            readout=native and native.pointer,
            single=int(c.dtype == torch.float32),
            n_threads=torch.get_num_threads(),
            n_atoms=len(pairs),
            n_species=len(c),
            n_rows=len(pairs.displacement),
            # An empty array has no address, but a null pointer would mean that it is not given.
            **{name: array.data_ptr() or _SOMEWHERE.data_ptr() for name, array in kept.items()},
        )
        call(library().mtp_run, self.basis.pointer, ctypes.byref(job))

    def _check_shapes(self, arrays: dict[str, Tensor]) -> None:
        """The library knows addresses only: a wrong shape would read beyond an array's end."""
        n, rows, k = len(arrays["species"]), len(arrays["displacement"]), len(self.table.scalars)
        species = len(arrays["c"])
        c = (species, species, self.table.n_radial, self.radial.size)
        shapes = {"c": c, "c_dot": c, "displacement": (rows, 3), "d_dot": (rows, 3)}
        shapes |= {name: (n,) for name in ("start", "count", "base", "energy_weight")}
        shapes |= {"neighbour": (rows,), "v": (n, 3), "strain": (n, 6)}
        shapes |= {"b_bar": (n, k), "b_dot_bar": (n, k)}
        for name, array in arrays.items():
            if tuple(array.shape) != shapes.get(name, array.shape) or array.device.type != "cpu":
                raise ValueError(
                    f"{name} must have shape {shapes.get(name)} on the CPU, "
                    f"got {tuple(array.shape)} on {array.device}"
                )
