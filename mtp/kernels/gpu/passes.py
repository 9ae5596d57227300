"""The passes over pairs and over products; docs/theory.md has their formulas.

A block is A atoms times K of their neighbour slots; every program owns what it writes, so nothing
is added atomically and results are the same to the last bit every time. Arrays of moments are
(rows, atoms): the atoms of a block lie side by side. Components of a tensor of degree N are
ordered as in mtp.basis.moment_table.components: with n = N − a, number n(n + 1)/2 + c.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mtp.kernels.gpu.dual import (
    add,
    constant,
    inverse,
    load,
    multiply,
    powers,
    scale,
    shift,
    square_root,
    store,
    subtract,
    wanted,
)

SIZES = ("n", "stride", "n_species", "n_radial", "n_tensors", "n_columns")
SIZES += ("first", "last", "rows_each", "chunk")
"""Arguments of which no value is compiled on its own: another batch needs no compilation."""

# --- one tile of pairs ----------------------------------------------------------------------------


@triton.jit
def atoms_of(species, start, count, base, n, A: tl.constexpr):
    """The block's atoms: index, whether there is one, and where its pairs are."""
    at = tl.program_id(0) * A + tl.arange(0, A)
    there = at < n
    total = tl.load(count + at, mask=there, other=0)
    first = tl.load(start + at, mask=there, other=0)
    origin = tl.load(base + at, mask=there, other=0)
    own = tl.load(species + at, mask=there, other=0)
    return at, there, own, first, total, origin


@triton.jit
def rows_of(first, total, slot, K: tl.constexpr):
    """Rows of the pair arrays at these slots, and whether the atom has that many."""
    slots = slot + tl.arange(0, K)[None, :]
    return first[:, None] + slots, slots < total[:, None]


@triton.jit
def clamped(r, constants):
    """Below r_min the distance saturates smoothly (mtp/basis/radial.py); and its slope."""
    r_min = tl.load(constants)
    width = tl.load(constants + 4)
    below = r[0] < r_min
    depth = tl.where(below, r_min - r[0], 0.0) / width
    t = 1.0 - 2.0 / (tl.exp(depth + depth) + 1.0)
    k = 1.0 - t * t
    value = tl.where(below, r_min - width * t, r[0])
    if len(r) == 2:
        return (value, tl.where(below, k * r[1], r[1])), (k, 2.0 * t * k / width * r[1])
    else:
        return (value,), (k,)


@triton.jit
def geometry(d, d_dot, rows, mask, constants, DUAL: tl.constexpr):
    """Unit vector, distance and its inverse; masked slots lie at twice the cutoff."""
    r_max = tl.load(constants + 1)
    far = load(d, d_dot, 3 * rows, mask, DUAL)
    if DUAL:
        x = (tl.where(mask, far[0], 2 * r_max), far[1])
    else:
        x = (tl.where(mask, far[0], 2 * r_max),)
    y = load(d, d_dot, 3 * rows + 1, mask, DUAL)
    z = load(d, d_dot, 3 * rows + 2, mask, DUAL)
    r = square_root(add(add(multiply(x, x), multiply(y, y)), multiply(z, z)))
    i = inverse(r)
    return (multiply(x, i), multiply(y, i), multiply(z, i)), r, i


@triton.jit
def polynomials(r, constants, N_Q: tl.constexpr):
    """Q_n = T_n(ξ)·(r_max − r)² and dQ_n/dr, exactly 0 at and beyond the cutoff; NaN stays NaN."""
    r_max = tl.load(constants + 1)
    step = tl.load(constants + 2)
    r, slope = clamped(r, constants)
    xi = shift(scale(r, step), -tl.load(constants + 3))
    two_xi = add(xi, xi)
    beyond = r[0] >= r_max
    depth_value = tl.where(beyond, 0.0, r_max - r[0])
    if len(r) == 2:
        depth = (depth_value, tl.where(beyond, 0.0, -r[1]))
    else:
        depth = (depth_value,)
    square = multiply(depth, depth)
    q = (square,)
    s = (scale(depth, -2.0),)
    if N_Q > 1:
        q = q + (multiply(xi, square),)
        s = s + (add(scale(square, step), multiply(xi, s[0])),)
    for n in tl.static_range(2, N_Q):
        q = q + (subtract(multiply(two_xi, q[n - 1]), q[n - 2]),)
        steeper = add(scale(q[n - 1], 2.0 * step), multiply(two_xi, s[n - 1]))
        s = s + (subtract(steeper, s[n - 2]),)
    slopes = ()
    for n in tl.static_range(N_Q):
        slopes = slopes + (multiply(s[n], slope),)
    return q, slopes


@triton.jit
def radial_function(q, c, c_dot, offset, mask, N_Q: tl.constexpr, C_DOT: tl.constexpr):
    """f_μ = Σ_n c[z_i, z_j, μ, n]·Q_n; offset: of c[z_i, z_j, μ, 0]."""
    f = scale(q[0], tl.load(c + offset, mask=mask, other=0.0))
    for n in tl.static_range(1, N_Q):
        f = add(f, scale(q[n], tl.load(c + offset + n, mask=mask, other=0.0)))
    if C_DOT:
        extra = tl.load(c_dot + offset, mask=mask, other=0.0) * q[0][0]
        for n in tl.static_range(1, N_Q):
            extra += tl.load(c_dot + offset + n, mask=mask, other=0.0) * q[n][0]
        f = (f[0], f[1] + extra)
    return f


@triton.jit
def neighbour_species(neighbour, all_species, origin, rows, mask):
    j = tl.load(neighbour + rows, mask=mask, other=0) + origin[:, None]
    return tl.load(all_species + j, mask=mask, other=0)


# --- one tensor of degree N -----------------------------------------------------------------------


@triton.jit
def add_moments(acc, f, unit, N: tl.constexpr):
    """Each component plus f·x^a·y^b·z^c."""
    one = constant(tl.zeros_like(f[0]) + 1.0, len(f) == 2)
    x = powers(unit[0], one, N)
    y = powers(unit[1], one, N)
    z = powers(unit[2], one, N)
    out = ()
    for n in tl.static_range(N + 1):
        weight = multiply(f, x[N - n])
        for k in tl.static_range(n + 1):
            term = multiply(multiply(weight, y[n - k]), z[k])
            out = out + (add(acc[n * (n + 1) // 2 + k], term),)
    return out


@triton.jit
def projection(g, unit, N: tl.constexpr):
    """Σ g_abc·x^a·y^b·z^c."""
    one = constant(tl.zeros_like(unit[0][0]) + 1.0, len(unit[0]) == 2)
    x = powers(unit[0], one, N)
    y = powers(unit[1], one, N)
    z = powers(unit[2], one, N)
    total = scale(one, 0.0)
    for n in tl.static_range(N + 1):
        inner = multiply(g[n * (n + 1) // 2], y[n])
        for k in tl.static_range(1, n + 1):
            term = multiply(multiply(y[n - k], z[k]), g[n * (n + 1) // 2 + k])
            inner = add(inner, term)
        total = add(total, multiply(inner, x[N - n]))
    return total


@triton.jit
def add_pull(force, g, f, f_slope, inverse_r, unit, N: tl.constexpr):
    """Plus ∂/∂d of f·Σ g_abc·x^a·y^b·z^c: radial part along û, angular part across it.

    Components of degree N are reached from those of degree N − 1 by a factor x, y or z.
    """
    one = constant(tl.zeros_like(f[0]) + 1.0, len(f) == 2)
    if N == 0:
        outward = multiply(f_slope, multiply(g[0], one))
        across = (scale(one, 0.0), scale(one, 0.0), scale(one, 0.0))
    else:
        x = powers(unit[0], one, N - 1)
        y = powers(unit[1], one, N - 1)
        z = powers(unit[2], one, N - 1)
        by_x = scale(one, 0.0)
        by_y = scale(one, 0.0)
        by_z = scale(one, 0.0)
        for n in tl.static_range(N):
            for k in tl.static_range(n + 1):
                lower = multiply(multiply(x[N - 1 - n], y[n - k]), z[k])
                g_x = scale(g[n * (n + 1) // 2 + k], N - n)
                g_y = scale(g[(n + 1) * (n + 2) // 2 + k], n - k + 1)
                g_z = scale(g[(n + 1) * (n + 2) // 2 + k + 1], k + 1)
                by_x = add(by_x, multiply(g_x, lower))
                by_y = add(by_y, multiply(g_y, lower))
                by_z = add(by_z, multiply(g_z, lower))
        radial = multiply(unit[0], by_x)
        radial = add(radial, multiply(unit[1], by_y))
        radial = add(radial, multiply(unit[2], by_z))  # Euler: N times the polynomial
        weight = multiply(f, inverse_r)
        outward = subtract(scale(multiply(f_slope, radial), 1.0 / N), multiply(weight, radial))
        across = (multiply(weight, by_x), multiply(weight, by_y), multiply(weight, by_z))
    return (
        add(force[0], add(across[0], multiply(outward, unit[0]))),
        add(force[1], add(across[1], multiply(outward, unit[1]))),
        add(force[2], add(across[2], multiply(outward, unit[2]))),
    )


@triton.jit
def load_slopes(g, g_dot, row, at, there, stride, N: tl.constexpr, DUAL: tl.constexpr):
    """The tensor's slopes, each (A, 1)."""
    result = ()
    for k in tl.static_range((N + 1) * (N + 2) // 2):
        offsets = ((row + k) * stride + at)[:, None]
        result = result + (load(g, g_dot, offsets, there[:, None], DUAL),)
    return result


# --- passes over pairs ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def moments(
    species, start, count, base, neighbour, all_species, d, d_dot, c, c_dot, constants, tensors,
    m, m_dot, n, stride, n_species, n_radial,
    N_Q: tl.constexpr, MAX_RANK: tl.constexpr, DUAL: tl.constexpr, C_DOT: tl.constexpr,
    A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """M_{μν} of A atoms for the tensor program_id(1)."""
    at, there, own, first, total, origin = atoms_of(species, start, count, base, n, A)
    longest = tl.max(total, axis=0)
    mu = tl.load(tensors + 3 * tl.program_id(1))
    rank = tl.load(tensors + 3 * tl.program_id(1) + 1)
    row = tl.load(tensors + 3 * tl.program_id(1) + 2)
    for N in tl.static_range(MAX_RANK + 1):
        if rank == N:
            zero = constant(tl.zeros((A, K), dtype=d.dtype.element_ty), DUAL)
            acc = ()
            for _k in tl.static_range((N + 1) * (N + 2) // 2):
                acc = acc + (zero,)
            for slot in range(0, longest, K):
                rows, mask = rows_of(first, total, slot, K)
                other = neighbour_species(neighbour, all_species, origin, rows, mask)
                unit, r, _i = geometry(d, d_dot, rows, mask, constants, DUAL)
                q, _slopes = polynomials(r, constants, N_Q)
                offset = ((own[:, None] * n_species + other) * n_radial + mu) * N_Q
                f = radial_function(q, c, c_dot, offset, mask, N_Q, C_DOT)
                acc = add_moments(acc, f, unit, N)
            for k in tl.static_range((N + 1) * (N + 2) // 2):
                offsets = (row + k) * stride + at
                tl.store(m + offsets, tl.sum(acc[k][0], axis=1), mask=there)
                if DUAL:
                    tl.store(m_dot + offsets, tl.sum(acc[k][1], axis=1), mask=there)


@triton.jit(do_not_specialize=SIZES)
def pull(
    species, start, count, base, neighbour, all_species, d, d_dot, c, c_dot, constants, tensors,
    g, g_dot, d_bar, n, stride, n_species, n_radial, n_tensors,
    N_Q: tl.constexpr, MAX_RANK: tl.constexpr, DUAL: tl.constexpr, C_DOT: tl.constexpr,
    A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """∂/∂d of every pair of A atoms, or its derivative, from the slopes g of the moments."""
    at, there, own, first, total, origin = atoms_of(species, start, count, base, n, A)
    for slot in range(0, tl.max(total, axis=0), K):
        rows, mask = rows_of(first, total, slot, K)
        other = neighbour_species(neighbour, all_species, origin, rows, mask)
        unit, r, i = geometry(d, d_dot, rows, mask, constants, DUAL)
        q, slopes = polynomials(r, constants, N_Q)
        zero = constant(tl.zeros((A, K), dtype=d.dtype.element_ty), DUAL)
        force = (zero, zero, zero)
        for t in range(n_tensors):
            mu = tl.load(tensors + 3 * t)
            rank = tl.load(tensors + 3 * t + 1)
            row = tl.load(tensors + 3 * t + 2)
            offset = ((own[:, None] * n_species + other) * n_radial + mu) * N_Q
            f = radial_function(q, c, c_dot, offset, mask, N_Q, C_DOT)
            f_slope = radial_function(slopes, c, c_dot, offset, mask, N_Q, C_DOT)
            for N in tl.static_range(MAX_RANK + 1):
                if rank == N:
                    slope = load_slopes(g, g_dot, row, at, there, stride, N, DUAL)
                    force = add_pull(force, slope, f, f_slope, i, unit, N)
        for axis in tl.static_range(3):
            tl.store(d_bar + 3 * rows + axis, wanted(force[axis]), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def coefficients(
    species, start, count, base, neighbour, all_species, d, d_dot, constants, tensors,
    g, g_dot, partial, n, stride, n_species,
    N_Q: tl.constexpr, MAX_RANK: tl.constexpr, DUAL: tl.constexpr, GROUP: tl.constexpr,
    A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """For the tensor program_id(1): each atom's part of c_bar by the neighbours' species.

    partial: (tensors, n_species, N_Q, atoms). GROUP species are summed in one run over the pairs.
    """
    at, there, _own, first, total, origin = atoms_of(species, start, count, base, n, A)
    longest = tl.max(total, axis=0)
    t = tl.program_id(1)
    rank = tl.load(tensors + 3 * t + 1)
    row = tl.load(tensors + 3 * t + 2)
    for N in tl.static_range(MAX_RANK + 1):
        if rank == N:
            slope = load_slopes(g, g_dot, row, at, there, stride, N, DUAL)
            for z in range(0, n_species, GROUP):
                acc = ()
                for _k in tl.static_range(GROUP * N_Q):
                    acc = acc + (tl.zeros((A, K), dtype=d.dtype.element_ty),)
                for slot in range(0, longest, K):
                    rows, mask = rows_of(first, total, slot, K)
                    other = neighbour_species(neighbour, all_species, origin, rows, mask) - z
                    unit, r, _i = geometry(d, d_dot, rows, mask, constants, DUAL)
                    q, _slopes = polynomials(r, constants, N_Q)
                    by_radial = projection(slope, unit, N)
                    outer = ()
                    for k in tl.static_range(N_Q):
                        outer = outer + (wanted(multiply(by_radial, q[k])),)
                    sums = ()
                    for k in tl.static_range(GROUP * N_Q):
                        part = tl.where(mask & (other == k // N_Q), outer[k % N_Q], 0.0)
                        sums = sums + (acc[k] + part,)
                    acc = sums
                for k in tl.static_range(GROUP * N_Q):
                    offsets = ((t * n_species + z) * N_Q + k) * stride + at
                    known = z + k // N_Q < n_species
                    tl.store(partial + offsets, tl.sum(acc[k], axis=1), mask=there & known)


# --- passes over products -------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def contract(
    x, x_dot, y, y_dot, out, out_dot, row_of, begin, left, right, factor,
    first, last, rows_each, n, stride,
    ADD: tl.constexpr, DUAL: tl.constexpr, UNROLL: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """out[row] (+)= Σ factor·x[left]·y[right] for rows_each rows of one stage of a program."""
    at = tl.program_id(0) * A + tl.arange(0, A)
    there = at < n
    from_row = first + tl.program_id(1) * rows_each
    for r in range(from_row, tl.minimum(from_row + rows_each, last)):
        to = tl.load(row_of + r) * stride + at
        if ADD:
            total = load(out, out_dot, to, there, DUAL)
        else:
            total = constant(tl.zeros((A,), dtype=out.dtype.element_ty), DUAL)
        for k in range(tl.load(begin + r), tl.load(begin + r + 1), UNROLL):
            for u in tl.static_range(UNROLL):
                one = load(x, x_dot, tl.load(left + k + u) * stride + at, there, DUAL)
                two = load(y, y_dot, tl.load(right + k + u) * stride + at, there, DUAL)
                term = multiply(scale(one, tl.load(factor + k + u)), two)
                total = add(total, term)
        store(out, out_dot, to, total, there)


# --- sums -----------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def direction(
    start, count, base, neighbour, d, v, strain, d_dot, n, A: tl.constexpr, K: tl.constexpr
):
    """ḋ = v_i − v_j + strain_i·d of every pair of A atoms."""
    at, there, _own, first, total, origin = atoms_of(start, start, count, base, n, A)
    for slot in range(0, tl.max(total, axis=0), K):
        rows, mask = rows_of(first, total, slot, K)
        j = tl.load(neighbour + rows, mask=mask, other=0) + origin[:, None]
        x = tl.load(d + 3 * rows, mask=mask, other=0.0)
        y = tl.load(d + 3 * rows + 1, mask=mask, other=0.0)
        z = tl.load(d + 3 * rows + 2, mask=mask, other=0.0)
        for axis in tl.static_range(3):
            field = tl.load(v + 3 * at[:, None] + axis, mask=there[:, None], other=0.0)
            field = field - tl.load(v + 3 * j + axis, mask=mask, other=0.0)
            row = strain + 6 * at[:, None]  # Voigt: x: 0 5 4, y: 5 1 3, z: 4 3 2
            if axis == 0:
                field += tl.load(row, mask=there[:, None], other=0.0) * x
                field += tl.load(row + 5, mask=there[:, None], other=0.0) * y
                field += tl.load(row + 4, mask=there[:, None], other=0.0) * z
            elif axis == 1:
                field += tl.load(row + 5, mask=there[:, None], other=0.0) * x
                field += tl.load(row + 1, mask=there[:, None], other=0.0) * y
                field += tl.load(row + 3, mask=there[:, None], other=0.0) * z
            else:
                field += tl.load(row + 4, mask=there[:, None], other=0.0) * x
                field += tl.load(row + 3, mask=there[:, None], other=0.0) * y
                field += tl.load(row + 2, mask=there[:, None], other=0.0) * z
            tl.store(d_dot + 3 * rows + axis, field, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def collect(
    start, count, incoming, incoming_start, incoming_count, d, d_bar, forces, virial, n,
    A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Forces Σ_j d_bar_ij − Σ_j d_bar_ji and virials Σ_j d_ij ⊗ d_bar_ij of A atoms, in float64.

    incoming: rows of the pair arrays that end at an atom, or −1; the atom's own part of them.
    """
    at = tl.program_id(0) * A + tl.arange(0, A)
    there = at < n
    first = tl.load(start + at, mask=there, other=0)
    total = tl.load(count + at, mask=there, other=0)
    zero = tl.zeros((A, K), dtype=tl.float64)
    fx, fy, fz = zero, zero, zero
    xx, yy, zz, yz, xz, xy = zero, zero, zero, zero, zero, zero
    for slot in range(0, tl.max(total, axis=0), K):
        rows, mask = rows_of(first, total, slot, K)
        px = tl.load(d_bar + 3 * rows, mask=mask, other=0.0).to(tl.float64)
        py = tl.load(d_bar + 3 * rows + 1, mask=mask, other=0.0).to(tl.float64)
        pz = tl.load(d_bar + 3 * rows + 2, mask=mask, other=0.0).to(tl.float64)
        x = tl.load(d + 3 * rows, mask=mask, other=0.0).to(tl.float64)
        y = tl.load(d + 3 * rows + 1, mask=mask, other=0.0).to(tl.float64)
        z = tl.load(d + 3 * rows + 2, mask=mask, other=0.0).to(tl.float64)
        fx, fy, fz = fx + px, fy + py, fz + pz
        xx, yy, zz = xx + x * px, yy + y * py, zz + z * pz
        yz, xz, xy = yz + y * pz, xz + x * pz, xy + x * py
    first = tl.load(incoming_start + at, mask=there, other=0)
    total = tl.load(incoming_count + at, mask=there, other=0)
    for slot in range(0, tl.max(total, axis=0), K):
        places, mask = rows_of(first, total, slot, K)
        rows = tl.load(incoming + places, mask=mask, other=-1).to(tl.int64)
        mask = mask & (rows >= 0)
        fx -= tl.load(d_bar + 3 * rows, mask=mask, other=0.0).to(tl.float64)
        fy -= tl.load(d_bar + 3 * rows + 1, mask=mask, other=0.0).to(tl.float64)
        fz -= tl.load(d_bar + 3 * rows + 2, mask=mask, other=0.0).to(tl.float64)
    tl.store(forces + 3 * at, tl.sum(fx, axis=1), mask=there)
    tl.store(forces + 3 * at + 1, tl.sum(fy, axis=1), mask=there)
    tl.store(forces + 3 * at + 2, tl.sum(fz, axis=1), mask=there)
    tl.store(virial + 6 * at, tl.sum(xx, axis=1), mask=there)
    tl.store(virial + 6 * at + 1, tl.sum(yy, axis=1), mask=there)
    tl.store(virial + 6 * at + 2, tl.sum(zz, axis=1), mask=there)
    tl.store(virial + 6 * at + 3, tl.sum(yz, axis=1), mask=there)
    tl.store(virial + 6 * at + 4, tl.sum(xz, axis=1), mask=there)
    tl.store(virial + 6 * at + 5, tl.sum(xy, axis=1), mask=there)


@triton.jit(do_not_specialize=SIZES)
def by_species(partial, species, out, n, stride, n_species, chunk, B: tl.constexpr):
    """out (chunks, n_species, columns), float64: sums of partial (columns, atoms) by species."""
    column = tl.program_id(0)
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, n)
    for z in range(n_species):
        total = tl.zeros((B,), dtype=tl.float64)
        for first in range(begin, end, B):
            at = first + tl.arange(0, B)
            there = at < end
            own = tl.load(species + at, mask=there, other=-1)
            value = tl.load(partial + column * stride + at, mask=there, other=0.0)
            total += tl.where(own == z, value, 0.0).to(tl.float64)
        to = (tl.program_id(1) * n_species + z) * tl.num_programs(0) + column
        tl.store(out + to, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=SIZES)
def by_structure(values, begin, out, n, n_columns, chunk, B: tl.constexpr):
    """out (chunks, n structures, columns): sums of values (atoms, columns) over each structure.

    Atoms of structure s are begin[s] … begin[s + 1]; a program sums a chunk of one column of them.
    """
    s = tl.program_id(0) // n_columns
    column = tl.program_id(0) % n_columns
    first = tl.load(begin + s) + tl.program_id(1) * chunk
    last = tl.minimum(tl.load(begin + s + 1), first + chunk)
    total = tl.zeros((B,), dtype=tl.float64)
    for at in range(first, last, B):
        rows = at + tl.arange(0, B)
        total += tl.load(values + rows * n_columns + column, mask=rows < last, other=0.0)
    to = (tl.program_id(1).to(tl.int64) * n + s) * n_columns + column
    tl.store(out + to, tl.sum(total, axis=0))
