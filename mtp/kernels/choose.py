"""Which kernel runs: decided by device and MTP_KERNEL, never a silent fallback."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

from mtp.basis.moment_table import MomentTable
from mtp.basis.radial import RadialSpec
from mtp.errors import InvalidInput

KERNELS = ("reference", "cpu", "cuda")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, eq=False)
class Basis:
    """A moment table with its radial basis; operators know it by a number."""

    table: MomentTable
    radial: RadialSpec
    handle: int

    @property
    def n_scalars(self) -> int:
        return len(self.table.scalars)

    def __reduce__(self):
        """For pickle: another process has other handles."""
        return register_basis, (self.table, self.radial)


_BASES: list[Basis] = []
_KERNELS: dict[tuple[int, str], object] = {}


def register_basis(table: MomentTable, radial: RadialSpec) -> Basis:
    """The basis with a handle; the same table and radial basis get the same handle."""
    for basis in _BASES:
        if basis.radial == radial and _same(basis.table, table):
            return basis
    _BASES.append(Basis(table, radial, len(_BASES)))
    return _BASES[-1]


def _same(one: MomentTable, two: MomentTable) -> bool:
    if one is two:
        return True
    names = ("basic", "products", "scalars")
    equal = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)
    return equal and one.n_moments == two.n_moments


def basis_of(handle: int) -> Basis:
    """The basis that an operator was called with."""
    return _BASES[handle]


def device_for(name: str) -> torch.device:
    """The device that is meant; "auto" is the GPU where there is one and a kernel for it.

    Raises InvalidInput for another name, and for "cuda" where it cannot be used.
    """
    if name not in DEVICES:
        raise InvalidInput(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and _can_triton() else "cpu")
    if name == "cuda":
        missing = None
        if not torch.cuda.is_available():
            missing = "torch sees no CUDA device"
        elif not _can_triton() and os.environ.get("MTP_KERNEL") != "reference":
            missing = "Triton, which comes with torch for CUDA on Linux, is not installed"
        if missing:
            raise InvalidInput(f"device cuda: {missing}; use cpu or auto (--device cpu)")
    return torch.device(name)


def _can_triton() -> bool:
    """Whether the kernel for CUDA can be imported; it is not, for this takes seconds."""
    return find_spec("triton") is not None


def kernel_name(device: torch.device | str) -> str:
    """Name of the kernel for a device: MTP_KERNEL if set, else the device's own."""
    kind = torch.device(device).type
    asked = os.environ.get("MTP_KERNEL")
    if asked is None:
        return kind
    if asked not in KERNELS:
        raise InvalidInput(f"MTP_KERNEL must be one of {', '.join(KERNELS)}, got {asked!r}")
    if asked != "reference" and asked != kind:
        raise InvalidInput(
            f"MTP_KERNEL={asked} cannot run on device {kind}; unset it or choose --device {asked}"
        )
    return asked


def kernel_for(handle: int, device: torch.device):
    """The kernel object of a basis on a device; made once."""
    name = kernel_name(device)
    if (handle, name) not in _KERNELS:
        _KERNELS[handle, name] = _load(name)(basis_of(handle).table, basis_of(handle).radial)
    return _KERNELS[handle, name]


def _load(name: str):
    if name == "cpu":
        from mtp.kernels.cpu import CpuKernel

        return CpuKernel
    if name == "reference":
        from mtp.kernels.reference import ReferenceKernel

        return ReferenceKernel
    from mtp.kernels.cuda import CudaKernel

    return CudaKernel
