"""From structures to neighbour pairs, once, and from pairs to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase.geometry import complete_cell
from torch import Tensor
from vesin import NeighborList

from mtp.errors import InvalidInput
from mtp.structure import Structure
from mtp.terms import PREDICTED, TERMS

VESIN_CELLS = 1e5


@dataclass(frozen=True, eq=False)
class Pairs:
    """The kernels' view of a batch: for every atom, where its pairs are.

    species: (atoms,) index into the potential's species.  start, count: (atoms,) the atom's pairs
    are rows start … start + count of the pair arrays.  base: (atoms,) the batch's index of the
    first atom of its structure.  neighbour: (rows,) index of the other atom within its structure.
    displacement: (rows, 3) from the atom to its neighbour in Å. The pair arrays may hold more
    structures than the batch has.  incoming: (rows,) or None: the rows of the pairs that end at an
    atom, standing where the atom's own pairs stand (each pair is there in both directions).
    """

    species: Tensor
    start: Tensor
    count: Tensor
    base: Tensor
    neighbour: Tensor
    displacement: Tensor
    incoming: Tensor | None = None

    def __len__(self) -> int:
        return len(self.species)

    def explicit(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row in the pair arrays, centre and neighbour of every pair of the batch."""
        count = self.count.long()
        centre = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        first = torch.cumsum(count, 0) - count
        rows = torch.arange(len(centre), device=count.device) + (self.start - first)[centre]
        return rows, centre, (self.neighbour[rows] + self.base[centre]).long()


@dataclass(frozen=True, eq=False)
class Batch:
    """Some structures as flat arrays, with their labels.

    labels: term → (S,), (S, components) or (atoms, components), float64, 0 where absent; units of
    mtp/terms.py.  present: term → (S,) bool.  contributes: (atoms,) bool, which atoms labels of
    atoms are about; None for all.
    """

    pairs: Pairs
    structure: Tensor  # (atoms,) index of the atom's structure in the batch
    atoms_per_structure: Tensor  # (S,) float
    volume: Tensor  # (S,) Å³; 0 where not periodic in three directions
    weight: Tensor  # (S,)
    indices: np.ndarray  # (S,) which structures of the geometry these are
    labels: dict[str, Tensor]
    present: dict[str, Tensor]
    contributes: Tensor | None = None

    @property
    def species(self) -> Tensor:
        return self.pairs.species

    @property
    def n_structures(self) -> int:
        return len(self.volume)

    @property
    def n_atoms(self) -> int:
        return len(self.structure)

    def labelled_rows(self, term: str) -> Tensor:
        """(S,) or (atoms,) bool, which rows of a term have a label."""
        if TERMS[term].rows == "structure":
            return self.present[term]
        rows = self.present[term][self.structure]
        return rows if self.contributes is None else rows & self.contributes


def search_cutoff(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> float:
    """The cutoff, or a larger one where vesin would divide by zero and end the process.

    Its cell list (0.6.2 and before) has at most VESIN_CELLS cells. In a structure that is wide and
    flat, scaling their number down leaves less than one across. Raises InvalidInput where no
    reasonable cutoff helps.
    """
    spread = np.ptp(positions, axis=0) if len(positions) else np.zeros(3)
    heights = 1 / np.linalg.norm(np.linalg.pinv(complete_cell(cell)), axis=0)
    free_width = np.linalg.norm(spread) if pbc.any() else spread  # not smaller than vesin's own
    widths = np.where(pbc, np.linalg.norm(cell, axis=1), free_width)
    narrow = np.where(pbc, heights, spread)
    for search in cutoff * 1.25 ** np.arange(8):
        fewest = max(1.0, np.floor(narrow.min() / search))
        if fewest * np.cbrt(VESIN_CELLS / np.prod(np.ceil(widths / search) + 1)) >= 1:
            return float(search)
    raise InvalidInput(
        f"atoms or cell extend over {widths.max():.3g} Å and are flat or thin: too far for the "
        "neighbour search; has an atom flown off?"
    )


def pairs_within(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    quantities: str,
    full: bool = True,
) -> list[np.ndarray]:
    """Pairs within the cutoff by vesin, in no order; the one place where vesin is called.

    quantities: what to return, letters of vesin: i, j, S (cell shifts), d (distances), D (vectors).
    full: every pair in both directions. Raises InvalidInput as `search_cutoff` does.
    """
    given = (np.asarray(positions, float), np.asarray(cell, float), np.asarray(pbc, bool))
    search = search_cutoff(*given, cutoff)
    *found, distances = NeighborList(cutoff=search, full_list=full).compute(
        *given, f"{quantities}d"
    )
    if search > cutoff:
        near = distances < cutoff
        found = [array[near] for array in found]
    return found


def neighbour_pairs(structure: Structure, cutoff: float) -> tuple[np.ndarray, ...]:
    """All directed pairs within the cutoff, sorted by centre.

    Returns count (atoms,), neighbour (pairs,), displacement (pairs, 3)
    = r_j − r_i + shift·cell in Å.
    """
    positions, cell = structure.positions, structure.cell
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise InvalidInput(f"{structure.where}: a position or the cell is not a finite number")
    i, j, vectors = pairs_within(positions, cell, structure.pbc, cutoff, "ijD")
    order = np.lexsort((j, i))
    count = np.bincount(i.astype(np.int64), minlength=len(structure))
    return count.astype(np.int32), j[order].astype(np.int32), vectors[order]


def incoming_rows(counts: Sequence[np.ndarray], neighbour: np.ndarray) -> np.ndarray | None:
    """Rows of the pairs that end at each atom, for structures in a row (`Pairs.incoming`).

    counts: pairs of each atom, by structure. None where a pair lacks its opposite.
    """
    count = np.concatenate(counts) if len(counts) else np.zeros(0, np.int32)
    pairs = [int(c.sum()) for c in counts]
    first = np.cumsum([0, *(len(c) for c in counts)])[:-1]
    ends = neighbour.astype(np.int64) + np.repeat(first, pairs)
    if not np.array_equal(np.bincount(ends, minlength=len(count)), count):
        return None
    return np.argsort(ends, kind="stable")


class Geometry:
    """Neighbour pairs and labels of a list of structures, ready to be cut into batches.

    Pairs are kept when they fit into the memory limit, else found again for every batch.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        species: Sequence[int],
        cutoff: float,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        memory_limit: float = 4.0,
        terms: Sequence[str] = PREDICTED["energy"],
        selected: Sequence[int] = (),
    ) -> None:
        """Find the pairs.

        species: atomic numbers of the potential, ascending.  memory_limit: GiB for the pairs.
        terms: labels that batches have.  selected: atomic numbers of the atoms that labels of
        atoms are about, () for all.
        """
        self.structures = list(structures)
        self.cutoff = cutoff
        self.dtype = dtype
        self.device = torch.device(device)
        self.n_atoms = np.array([len(s) for s in self.structures], dtype=np.int64)
        self._atom_start = np.concatenate([[0], np.cumsum(self.n_atoms)])
        self._species = _species_index(self.structures, species)
        self.selected = tuple(selected)
        self._labels(terms)
        self._pairs: tuple | None = None
        self._keep(memory_limit * 2**30)

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def cached(self) -> bool:
        """Whether the pairs of all structures are in memory."""
        return self._pairs is not None

    @property
    def resident(self) -> bool:
        """Whether batches are parts of arrays that stay on a GPU: none of them makes it wait."""
        return self._pairs is not None and self._pairs[-1] is not None

    @property
    def n_pairs(self) -> int | None:
        """Directed pairs of all structures, when they are in memory."""
        return None if self._pairs is None else len(self._pairs[2])

    @cached_property
    def costs(self) -> np.ndarray:
        """(structures,) how much work each is: its pairs, or its atoms where they are not kept."""
        if self._pairs is None:
            return self.n_atoms.astype(np.float64)
        pairs = np.concatenate([[0], np.cumsum(self._pairs[0], dtype=np.int64)])[self._atom_start]
        return np.diff(pairs).astype(np.float64) + self.n_atoms

    def batch(self, indices: Sequence[int] | np.ndarray | None = None) -> Batch:
        """The structures with these indices, in this order (all when None)."""
        everything = np.arange(len(self))
        indices = everything if indices is None else np.asarray(indices, dtype=np.int64)
        sizes = self.n_atoms[indices]
        base = np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms = np.arange(sizes.sum()) + np.repeat(self._atom_start[indices], sizes) - base
        count, start, *arrays = self._pairs_of(indices, atoms)
        chosen, rows = self._send(indices), self._send(atoms)
        return Batch(
            Pairs(
                self._species[rows],
                *(self._send(x) for x in (start, count, base.astype(np.int32))),
                *arrays,
            ),
            structure=self._send(np.repeat(np.arange(len(indices)), sizes)),
            indices=indices,
            labels={
                name: values[rows if TERMS[name].rows == "atom" else chosen]
                for name, values in self._values.items()
            },
            present={name: mask[chosen] for name, mask in self._present.items()},
            contributes=None if self._contributes is None else self._contributes[rows],
            **{name: values[chosen] for name, values in self._per_structure.items()},
        )

    def _send(self, values: np.ndarray) -> Tensor:
        """The values on the device; the host does not wait until a GPU has them."""
        tensor = torch.from_numpy(values)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _pairs_of(self, indices: np.ndarray, atoms: np.ndarray) -> tuple:
        """Count and start for each atom; then the pair arrays on the device."""
        if self._pairs is not None:
            count, start, *arrays = self._pairs
            return count[atoms], start[atoms], *arrays
        return self._there([neighbour_pairs(self.structures[i], self.cutoff) for i in indices])

    def _there(self, found: Sequence[tuple[np.ndarray, ...]]) -> tuple:
        """The pairs of structures in a row, as `_pairs_of` returns them."""
        count = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int32)
        neighbour = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.int32)
        vectors = np.concatenate([f[2] for f in found]) if found else np.zeros((0, 3))
        incoming = None
        if self.device.type == "cuda":  # its kernel gathers forces
            rows = incoming_rows([f[0] for f in found], neighbour)
            incoming = None if rows is None else torch.from_numpy(rows).to(self.device)
        return (
            count,
            np.cumsum(count, dtype=np.int64) - count,
            torch.from_numpy(neighbour).to(self.device),
            torch.from_numpy(vectors).to(self.device, self.dtype),
            incoming,
        )

    def _keep(self, limit: float) -> None:
        """Find and keep the pairs of all structures unless they would exceed the limit (bytes)."""
        per_pair = 4 + 3 * self.dtype.itemsize + 8 * (self.device.type == "cuda")
        chunks, used = [], 0
        for structure in self.structures:
            chunks.append(neighbour_pairs(structure, self.cutoff))
            used += len(chunks[-1][1]) * (4 + 24)
            if used / 28 * per_pair > limit:
                return
        if chunks:
            self._pairs = self._there(chunks)

    def _labels(self, terms: Sequence[str]) -> None:
        structures = self.structures

        def tensor(values, dtype=np.float64) -> Tensor:
            return torch.from_numpy(np.asarray(values, dtype=dtype)).to(self.device)

        found = {name: [s.label(name) for s in structures] for name in terms}
        self._values = {
            name: tensor(_filled(name, labels, structures)) for name, labels in found.items()
        }
        self._present = {
            name: tensor([label is not None for label in labels], bool)
            for name, labels in found.items()
        }
        self._contributes = None
        if self.selected:
            masks = [np.isin(s.numbers, self.selected) for s in structures]
            self._contributes = tensor(np.concatenate([np.zeros(0, bool), *masks]), bool)
        self._per_structure = {
            "atoms_per_structure": tensor(self.n_atoms),
            "volume": tensor([s.volume if s.pbc.all() else 0.0 for s in structures]),
            "weight": tensor([s.weight for s in structures]),
        }
        self._species = self._species.to(self.device)


def _filled(name: str, labels: Sequence, structures: Sequence[Structure]) -> np.ndarray:
    """A term's labels of all structures as one array, 0 where absent."""
    term = TERMS[name]
    rows = [
        np.zeros(term.shape(len(s))) if label is None else label
        for label, s in zip(labels, structures, strict=True)
    ]
    shape = (-1,) if term.components == 1 else (-1, term.components)
    joined = np.concatenate if term.rows == "atom" else np.stack
    return (joined(rows) if rows else np.zeros(0)).astype(float).reshape(shape)


def _species_index(structures: Sequence[Structure], species: Sequence[int]) -> Tensor:
    """(all atoms,) index of each atom's element in `species`; InvalidInput if one is not."""
    lookup = np.full(120, -1, dtype=np.int32)
    lookup[list(species)] = np.arange(len(species))
    numbers = [lookup[s.numbers] for s in structures]
    for structure, index in zip(structures, numbers, strict=True):
        if (index < 0).any():
            from ase.data import chemical_symbols

            missing = sorted({chemical_symbols[z] for z in structure.numbers[index < 0]})
            known = ", ".join(chemical_symbols[z] for z in species)
            raise InvalidInput(
                f"{structure.where}: element {', '.join(missing)} is not in the potential "
                f"({known}); leave the frame out or train with it"
            )
    return torch.from_numpy(np.concatenate(numbers) if numbers else np.zeros(0, np.int32))
