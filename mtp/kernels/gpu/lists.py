"""Neighbour lists on the GPU: find pairs in a grid of bins, match opposites, form displacements.

A list is a table of K places for each atom: `neighbour` (atoms·K) and `image` (atoms·K), how many
cells away the neighbour is, three numbers of 10 bits. Every program owns the places it fills, so
lists are the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ("n", *(f"{name}_{axis}" for name in ("n", "reach", "loop") for axis in "xyz"))
"""Arguments of which no value is compiled on its own: another cell needs no compilation."""


@triton.jit(do_not_specialize=SIZES)
def find(
    x, order, bin_of, bin_start, cell, neighbour, image, found, n, limit_squared,
    n_x, n_y, n_z, reach_x, reach_y, reach_z, loop_x, loop_y, loop_z,
    PLACES: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Neighbours of A atoms, which stand in the order of their bins.

    x: (atoms, 3) in that order and inside the cell.  loop: 1 where a direction is periodic.
    found: (atoms,) how many there are, also where there are more than places.
    """
    at = tl.program_id(0) * A + tl.arange(0, A)
    there = at < n
    x_own = tl.load(x + 3 * at, mask=there, other=0.0)
    y_own = tl.load(x + 3 * at + 1, mask=there, other=0.0)
    z_own = tl.load(x + 3 * at + 2, mask=there, other=0.0)
    atom = tl.load(order + at, mask=there, other=0)
    own = tl.load(bin_of + at, mask=there, other=0)
    limit = tl.load(limit_squared)
    total = tl.zeros((A,), dtype=tl.int32)
    for k_z in range(-reach_z, reach_z + 1):
        for k_y in range(-reach_y, reach_y + 1):
            for k_x in range(-reach_x, reach_x + 1):
                b_x, s_x = around(own % n_x + k_x, n_x, reach_x)
                b_y, s_y = around(own // n_x % n_y + k_y, n_y, reach_y)
                b_z, s_z = around(own // (n_x * n_y) + k_z, n_z, reach_z)
                inside = (s_x == 0) | (loop_x == 1)
                inside = inside & ((s_y == 0) | (loop_y == 1))
                inside = there & inside & ((s_z == 0) | (loop_z == 1))
                other = (b_z * n_y + b_y) * n_x + b_x
                first = tl.load(bin_start + other, mask=inside, other=0)
                last = tl.load(bin_start + other + 1, mask=inside, other=0)
                shift_x = s_x * tl.load(cell) + s_y * tl.load(cell + 3) + s_z * tl.load(cell + 6)
                shift_y = (
                    s_x * tl.load(cell + 1) + s_y * tl.load(cell + 4) + s_z * tl.load(cell + 7)
                )
                shift_z = (
                    s_x * tl.load(cell + 2) + s_y * tl.load(cell + 5) + s_z * tl.load(cell + 8)
                )
                code = ((s_x + 512) << 20) | ((s_y + 512) << 10) | (s_z + 512)
                for step in range(0, tl.max(last - first, axis=0)):
                    q = first + step
                    some = q < last
                    d_x = tl.load(x + 3 * q, mask=some, other=0.0) + shift_x - x_own
                    d_y = tl.load(x + 3 * q + 1, mask=some, other=0.0) + shift_y - y_own
                    d_z = tl.load(x + 3 * q + 2, mask=some, other=0.0) + shift_z - z_own
                    itself = (q == at) & (s_x == 0) & (s_y == 0) & (s_z == 0)
                    near = d_x * d_x + d_y * d_y + d_z * d_z < limit
                    near = some & near & (itself == 0)
                    place = atom * PLACES + total
                    write = near & (total < PLACES)
                    tl.store(neighbour + place, tl.load(order + q, mask=write), mask=write)
                    tl.store(image + place, code, mask=write)
                    total += near.to(tl.int32)
    tl.store(found + atom, total, mask=there)


@triton.jit
def around(b, n, reach):
    """A bin's number inside the cell, and the cell it lies in."""
    up = b + reach * n  # not negative: reach counts bins
    return up % n, up // n - reach


@triton.jit(do_not_specialize=SIZES)
def opposites(neighbour, image, count, opposite, n, PLACES: tl.constexpr, A: tl.constexpr):
    """For every pair the place of the same pair seen from its other end; −1 where it is not."""
    row = tl.program_id(0).to(tl.int64) * A + tl.arange(0, A)
    atom = row // PLACES
    there = atom < n
    there = there & (row % PLACES < tl.load(count + atom, mask=there, other=0))
    j = tl.load(neighbour + row, mask=there, other=0).to(tl.int64)
    back = (1024 << 20) + (1024 << 10) + 1024 - tl.load(image + row, mask=there, other=0)
    total = tl.load(count + j, mask=there, other=0)
    found = tl.zeros((A,), dtype=tl.int64) - 1
    for step in range(0, tl.max(total, axis=0)):
        place = j * PLACES + step
        some = there & (step < total)
        same = tl.load(neighbour + place, mask=some, other=-1) == atom
        same = some & same & (tl.load(image + place, mask=some, other=0) == back)
        found = tl.where(same, place, found)
    tl.store(opposite + row, found, mask=there)


@triton.jit(do_not_specialize=SIZES)
def displacements(x, cell, neighbour, image, count, d, n, PLACES: tl.constexpr, A: tl.constexpr):
    """d = x_j + image·cell − x_i of every pair, in the precision of d."""
    row = tl.program_id(0).to(tl.int64) * A + tl.arange(0, A)
    atom = row // PLACES
    there = atom < n
    there = there & (row % PLACES < tl.load(count + atom, mask=there, other=0))
    j = tl.load(neighbour + row, mask=there, other=0).to(tl.int64)
    code = tl.load(image + row, mask=there, other=0)
    s_x = (code >> 20) - 512
    s_y = ((code >> 10) & 1023) - 512
    s_z = (code & 1023) - 512
    for axis in tl.static_range(3):
        shift = s_x * tl.load(cell + axis)
        shift += s_y * tl.load(cell + 3 + axis)
        shift += s_z * tl.load(cell + 6 + axis)
        away = tl.load(x + 3 * j + axis, mask=there, other=0.0)
        away = away + shift - tl.load(x + 3 * atom + axis, mask=there, other=0.0)
        tl.store(d + 3 * row + axis, away.to(d.dtype.element_ty), mask=there)
