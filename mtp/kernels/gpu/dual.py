"""Numbers of the GPU passes: (value,) or (value, derivative), so that each pass is written once.

A number is a tuple of blocks; the length is known when a pass is compiled, and a pass made for
dual numbers is the derivative of the plain one along the call's direction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add(a, b):
    if len(a) == 2:
        return (a[0] + b[0], a[1] + b[1])
    else:
        return (a[0] + b[0],)


@triton.jit
def subtract(a, b):
    if len(a) == 2:
        return (a[0] - b[0], a[1] - b[1])
    else:
        return (a[0] - b[0],)


@triton.jit
def multiply(a, b):
    if len(a) == 2:
        return (a[0] * b[0], a[0] * b[1] + a[1] * b[0])
    else:
        return (a[0] * b[0],)


@triton.jit
def scale(a, s):
    """a times a number without derivative."""
    if len(a) == 2:
        return (a[0] * s, a[1] * s)
    else:
        return (a[0] * s,)


@triton.jit
def shift(a, s):
    """a plus a number without derivative."""
    if len(a) == 2:
        return (a[0] + s, a[1])
    else:
        return (a[0] + s,)


@triton.jit
def square_root(a):
    root = tl.sqrt(a[0])
    if len(a) == 2:
        return (root, a[1] / (root + root))
    else:
        return (root,)


@triton.jit
def inverse(a):
    value = 1.0 / a[0]
    if len(a) == 2:
        return (value, -a[1] * value * value)
    else:
        return (value,)


@triton.jit
def wanted(a):
    """What a pass differentiates: the value, or of dual numbers the derivative."""
    return a[len(a) - 1]


@triton.jit
def load(value, derivative, offsets, mask, DUAL: tl.constexpr):
    """A number from two arrays of the same layout; 0 where masked."""
    if DUAL:
        return (
            tl.load(value + offsets, mask=mask, other=0.0),
            tl.load(derivative + offsets, mask=mask, other=0.0),
        )
    else:
        return (tl.load(value + offsets, mask=mask, other=0.0),)


@triton.jit
def store(value, derivative, offsets, number, mask):
    tl.store(value + offsets, number[0], mask=mask)
    if len(number) == 2:
        tl.store(derivative + offsets, number[1], mask=mask)


@triton.jit
def constant(block, DUAL: tl.constexpr):
    """A block of numbers whose derivative is 0."""
    if DUAL:
        return (block, tl.zeros_like(block))
    else:
        return (block,)


@triton.jit
def powers(x, one, N: tl.constexpr):
    """x^0 … x^N."""
    result = (one,)
    for k in tl.static_range(N):
        result = result + (multiply(result[k], x),)
    return result
