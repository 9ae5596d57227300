"""Neighbour lists that stay on the GPU: kept with a skin, of fixed size, for molecular dynamics."""

from __future__ import annotations

import numpy as np
import torch
import triton
from torch import Tensor

from mtp.errors import InvalidInput
from mtp.geometry import Pairs
from mtp.kernels.gpu import lists
from mtp.kernels.gpu.launch import launch

BLOCK = 128  # atoms or pairs of a program
ROOM = 1.25  # places for neighbours, relative to the most that any atom had
FEW = 8  # places more
ROUND = 16  # places are multiples of it: their number is compiled into the passes
FAR = 511  # cells that two neighbours may be apart


class DeviceList:
    """Pairs of periodic or free atoms within cutoff + skin, as `Pairs` of fixed shape.

    species: (atoms,) int32 on the device.  cell: (3, 3) Å, any three vectors that span the space
    where a direction is free.  The list holds while no atom has moved by more than half the skin.
    """

    def __init__(
        self, species: Tensor, cell: np.ndarray, pbc: np.ndarray, cutoff: float, skin: float
    ) -> None:
        self.species, self.device = species, species.device
        self.pbc, self.reach = np.asarray(pbc, bool), cutoff + skin
        self.skin = skin
        self.cell_now = np.asarray(cell, float)
        self.cell = torch.from_numpy(self.cell_now).to(self.device).contiguous()
        self.inverse = torch.linalg.inv(self.cell)
        self.built_for = torch.zeros(len(species), 3, dtype=torch.float64, device=self.device)
        self.builds = 0
        self._limit = torch.tensor([self.reach**2], dtype=torch.float64, device=self.device)
        density = len(species) / abs(np.linalg.det(self.cell_now)) if self.pbc.all() else 0.01
        self._make_room(int(ROOM * density * 4.2 * self.reach**3) + FEW)

    def build(self, x: Tensor) -> None:
        """Find all pairs of positions x (atoms, 3), float64; the arrays stay where they are.

        They are made anew, larger, when some atom has more neighbours than there are places.
        """
        sorted_x, order, bins, bin_start, shape, reach = self._bins(x)
        while True:
            found = self._find(sorted_x, order, bins, bin_start, shape, reach)
            most = int(found.max()) if len(x) else 0
            if most <= self.places:
                break
            self._make_room(int(ROOM * most) + FEW)
        self.count.copy_(found)
        self.built_for.copy_(x)
        self._shift_images(x)
        rows = len(x) * self.places
        launch(
            *(lists.opposites, (max(1, triton.cdiv(rows, BLOCK)),)),
            *(self.neighbour, self.image, self.count, self.opposite, len(x)),
            **dict(PLACES=self.places, A=BLOCK),
        )
        self.builds += 1

    def pairs(self, x: Tensor, dtype: torch.dtype) -> Pairs:
        """The pairs for positions x, in a precision; no work on the host."""
        d = torch.empty(len(x) * self.places, 3, dtype=dtype, device=self.device)
        launch(
            *(lists.displacements, (max(1, triton.cdiv(len(d), BLOCK)),)),
            *(x, self.cell, self.neighbour, self.image, self.count, d, len(x)),
            **dict(PLACES=self.places, A=BLOCK),
        )
        return Pairs(
            *(self.species, self.start, self.count, self.base, self.neighbour, d, self.opposite)
        )

    def moved(self, x: Tensor) -> Tensor:
        """The largest distance in Å from where the list was built, a scalar on the device."""
        return (x - self.built_for).square().sum(1).max().sqrt()

    def _bins(self, x: Tensor) -> tuple:
        """Atoms sorted by bin: wrapped positions, indices, bins, first atom of each bin, shape."""
        fraction = x @ self.inverse
        periodic = torch.from_numpy(self.pbc).to(self.device)
        self._whole = torch.where(periodic, fraction.floor(), 0.0)
        inside = fraction - self._whole
        low = torch.where(periodic, 0.0, inside.amin(0))
        wide = torch.where(periodic, 1.0, inside.amax(0) - low).clamp_min(1e-9)
        widths = wide.cpu().numpy()
        heights = widths / np.linalg.norm(np.linalg.inv(self.cell_now), axis=0)
        shape = np.maximum(1, np.floor(heights / self.reach)).astype(int)
        while shape.prod() > max(64, 2 * len(x)):
            shape = np.maximum(1, shape // 2)
        reach = np.ceil(self.reach / (heights / shape) - 1e-12).astype(int)
        reach = np.where(self.pbc, reach, np.minimum(reach, shape - 1))
        n = torch.from_numpy(shape).to(self.device)
        place = ((inside - low) / wide * n).long().clamp_min(0).minimum(n - 1)
        bins = (place[:, 2] * n[1] + place[:, 1]) * n[0] + place[:, 0]
        bins, order = torch.sort(bins, stable=True)
        edges = torch.arange(int(shape.prod()) + 1, device=self.device)
        bin_start = torch.searchsorted(bins, edges).int()
        wrapped = (inside @ self.cell)[order].contiguous()
        return wrapped, order.int(), bins.int(), bin_start, shape.tolist(), reach.tolist()

    def _find(
        self, x: Tensor, order: Tensor, bins: Tensor, bin_start: Tensor, shape: list, reach: list
    ) -> Tensor:
        found = torch.zeros(len(x), dtype=torch.int32, device=self.device)
        launch(
            *(lists.find, (max(1, triton.cdiv(len(x), BLOCK)),)),
            *(x, order, bins, bin_start, self.cell, self.neighbour, self.image, found),
            *(len(x), self._limit, *shape, *reach, *self.pbc.astype(int).tolist()),
            **dict(PLACES=self.places, A=BLOCK),
        )
        return found

    def _make_room(self, places: int) -> None:
        self.places, n = -(-places // ROUND) * ROUND, len(self.species)
        if n * self.places >= 2**31:
            raise InvalidInput(f"{n} atoms with {self.places} neighbours: too many for one list")
        whole = {"dtype": torch.int32, "device": self.device}
        self.neighbour = torch.zeros(n * self.places, **whole)
        self.image = torch.zeros(n * self.places, **whole)
        self.count = torch.zeros(n, **whole)
        self.base = torch.zeros(n, **whole)
        self.start = torch.arange(n, device=self.device) * self.places
        self.opposite = torch.full((n * self.places,), -1, dtype=torch.int64, device=self.device)

    def _shift_images(self, x: Tensor) -> None:
        """Cells counted from where atoms are instead of from where they are when wrapped."""
        whole = self._whole
        if not bool(whole.any()):
            return
        slots = torch.arange(len(self.neighbour), device=self.device) % self.places
        there = slots < self.count.repeat_interleave(self.places)
        away = whole.repeat_interleave(self.places, 0) - whole[self.neighbour.long()]
        packed = (self.image >> 20, (self.image >> 10) & 1023, self.image & 1023)
        images = torch.stack(packed, 1) - (FAR + 1) + away.int()
        images = torch.where(there[:, None], images, 0)
        if bool((images.abs() > FAR).any()):
            raise InvalidInput("atoms lie too many cells away from each other; wrap the positions")
        images += FAR + 1
        self.image.copy_((images[:, 0] << 20) | (images[:, 1] << 10) | images[:, 2])
