"""The differentiable operator: coefficients and displacements → invariants, and its derivatives.

Two ways in. For autograd users `invariants` is an operator whose backward is an operator whose
backward is an operator; a third derivative is refused in words. Training does not nest: `forces`
gives forces and virials without a graph (phase 1), and `tangent` gives B and its derivative along
one displacement field, differentiable once with respect to the coefficients (phase 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtp.geometry import Pairs
from mtp.kernels.choose import Basis, basis_of, kernel_for

_SCHEMA = "Tensor species, Tensor start, Tensor count, Tensor base, Tensor neighbour, int basis"


def invariants(c: Tensor, pairs: Pairs, basis: Basis) -> Tensor:
    """B (atoms, n_scalars). c: (S, S, n_radial, size), central species first.

    Differentiable twice with respect to c and pairs.displacement.
    """
    return torch.ops.mtp.invariants(c, pairs.displacement, *_flat(pairs), basis.handle)


def forces(b_bar: Tensor, c: Tensor, pairs: Pairs, basis: Basis) -> tuple[Tensor, Tensor]:
    """Forces −∂E/∂r (atoms, 3), virials Σ_j d ⊗ ∂E/∂d (atoms, 6) of each atom; ∂E/∂B = b_bar."""
    flat = (*_flat(pairs), basis.handle, pairs.incoming)
    return torch.ops.mtp.forces(b_bar, c, pairs.displacement, *flat)


def tangent(
    c: Tensor, v: Tensor, strain: Tensor, pairs: Pairs, basis: Basis
) -> tuple[Tensor, Tensor]:
    """B and Ḃ, its derivative along ḋ_ij = −(v_j − v_i) + strain_i·d_ij.

    v: (atoms, 3).  strain: (atoms, 6) symmetric, Voigt order. Differentiable once, by c.
    """
    return torch.ops.mtp.tangent(c, v, strain, pairs.displacement, *_flat(pairs), basis.handle)


def columns(c: Tensor, pairs: Pairs, basis: Basis) -> tuple[Tensor, Tensor, Tensor]:
    """B (atoms, n); forces (atoms, 3, n) and virials (atoms, 6, n) of every invariant by itself.

    No graph.
    """
    kernel = kernel_for(basis.handle, c.device)
    if hasattr(kernel, "columns"):
        return kernel.columns(c, pairs)
    b = kernel.invariants(c, pairs)
    one = torch.eye(b.shape[1], dtype=b.dtype, device=b.device)
    found = [kernel.forces(row.expand_as(b).contiguous(), c, pairs) for row in one]
    forces, virials = (torch.stack(parts, -1) for parts in zip(*found, strict=True))
    return b, forces, virials


def _flat(pairs: Pairs) -> tuple[Tensor, ...]:
    return pairs.species, pairs.start, pairs.count, pairs.base, pairs.neighbour


def _pairs(flat: tuple, d: Tensor) -> Pairs:
    return Pairs(*flat, d)


# --- nested derivatives ---------------------------------------------------------------------------


@torch.library.custom_op(
    "mtp::invariants", mutates_args=(), schema=f"(Tensor c, Tensor d, {_SCHEMA}) -> Tensor"
)
def _invariants(c, d, *flat):
    return kernel_for(flat[-1], c.device).invariants(c, _pairs(flat[:-1], d))


@torch.library.custom_op(
    "mtp::invariants_backward",
    mutates_args=(),
    schema=f"(Tensor b_bar, Tensor c, Tensor d, {_SCHEMA}) -> (Tensor, Tensor)",
)
def _invariants_backward(b_bar, c, d, *flat):
    return kernel_for(flat[-1], c.device).gradient(b_bar, c, _pairs(flat[:-1], d))


@torch.library.custom_op(
    "mtp::invariants_double_backward",
    mutates_args=(),
    schema=f"(Tensor c_dot, Tensor d_dot, Tensor b_bar, Tensor c, Tensor d, {_SCHEMA})"
    " -> (Tensor, Tensor, Tensor)",
)
def _invariants_double_backward(c_dot, d_dot, b_bar, c, d, *flat):
    zero = torch.zeros_like(b_bar)
    kernel = kernel_for(flat[-1], c.device)
    return kernel.second(zero, b_bar, c, c_dot, d_dot, _pairs(flat[:-1], d))


def _save(ctx, inputs, output):
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.basis = inputs[-1]


def _none(ctx) -> tuple[None, ...]:
    return (None,) * 6  # the pair indices and the basis


def _backward_of_invariants(ctx, b_bar):
    c, d, *flat = ctx.saved_tensors
    return *torch.ops.mtp.invariants_backward(b_bar, c, d, *flat, ctx.basis), *_none(ctx)


def _backward_of_backward(ctx, c_dot, d_dot):
    b_bar, c, d, *flat = ctx.saved_tensors
    c_dot = torch.zeros_like(c) if c_dot is None else c_dot
    d_dot = torch.zeros_like(d) if d_dot is None else d_dot
    grads = torch.ops.mtp.invariants_double_backward(c_dot, d_dot, b_bar, c, d, *flat, ctx.basis)
    return *grads, *_none(ctx)


def _refuse(ctx, *grads):
    raise NotImplementedError(
        "third derivatives of the invariants are not available in this kernel; "
        "use MTP_KERNEL=reference with mtp.kernels.reference for higher orders"
    )


_invariants.register_autograd(_backward_of_invariants, setup_context=_save)
_invariants_backward.register_autograd(_backward_of_backward, setup_context=_save)
_invariants_double_backward.register_autograd(_refuse, setup_context=_save)


@_invariants.register_fake
def _(c, d, species, start, count, base, neighbour, basis):
    return c.new_empty(species.shape[0], basis_of(basis).n_scalars)


@_invariants_backward.register_fake
def _(b_bar, c, d, *flat):
    return torch.empty_like(c), torch.empty_like(d)


@_invariants_double_backward.register_fake
def _(c_dot, d_dot, b_bar, c, d, *flat):
    return torch.empty_like(b_bar), torch.empty_like(c), torch.empty_like(d)


# --- training in two phases -----------------------------------------------------------------------


@torch.library.custom_op(
    "mtp::forces",
    mutates_args=(),
    schema=f"(Tensor b_bar, Tensor c, Tensor d, {_SCHEMA}, Tensor? incoming=None)"
    " -> (Tensor, Tensor)",
)
def _forces(b_bar, c, d, species, start, count, base, neighbour, basis, incoming=None):
    pairs = Pairs(species, start, count, base, neighbour, d, incoming)
    return kernel_for(basis, c.device).forces(b_bar, c, pairs)


@torch.library.custom_op(
    "mtp::tangent",
    mutates_args=(),
    schema=f"(Tensor c, Tensor v, Tensor strain, Tensor d, {_SCHEMA}) -> (Tensor, Tensor)",
)
def _tangent(c, v, strain, d, *flat):
    return kernel_for(flat[-1], c.device).tangent(c, v, strain, _pairs(flat[:-1], d))


@torch.library.custom_op(
    "mtp::tangent_backward",
    mutates_args=(),
    schema="(Tensor b_bar, Tensor b_dot_bar, Tensor c, Tensor v, Tensor strain, Tensor d, "
    f"{_SCHEMA}) -> Tensor",
)
def _tangent_backward(b_bar, b_dot_bar, c, v, strain, d, *flat):
    kernel = kernel_for(flat[-1], c.device)
    return kernel.tangent_backward(b_bar, b_dot_bar, c, v, strain, _pairs(flat[:-1], d))


def _backward_of_tangent(ctx, b_bar, b_dot_bar):
    c, v, strain, d, *flat = ctx.saved_tensors
    c_bar = torch.ops.mtp.tangent_backward(b_bar, b_dot_bar, c, v, strain, d, *flat, ctx.basis)
    return c_bar, None, None, None, *_none(ctx)


_tangent.register_autograd(_backward_of_tangent, setup_context=_save)


@_forces.register_fake
def _(b_bar, c, d, species, *flat):
    n = species.shape[0]
    return c.new_empty(n, 3), c.new_empty(n, 6)


@_tangent.register_fake
def _(c, v, strain, d, species, start, count, base, neighbour, basis):
    shape = (species.shape[0], basis_of(basis).n_scalars)
    return c.new_empty(shape), c.new_empty(shape)


@_tangent_backward.register_fake
def _(b_bar, b_dot_bar, c, *rest):
    return torch.empty_like(c)
