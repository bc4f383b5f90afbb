"""Device functions that the kernels share.

Names in all kernels: a program works on planes (b, j), j in a tile, and walks over pixels p = y*X + x. To have one rule
for both signs of beta, the maps are turned over where it is negative: u = sign(beta)*H, so that e = exp(|beta|*(u - m))
with m the largest u. -inf marks a masked pixel in u, whatever the sign.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

# Triton's interpreter cuts float32 to bfloat16 where a GPU rounds, and takes products of the bits of bfloat16.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")

NO_CONFIDENCE = tl.constexpr(0)
MAX = tl.constexpr(1)
WINDOW = tl.constexpr(2)


def device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that kernels call. The interpreter takes it as it is: its own calls cost a millisecond each."""
    return function if INTERPRETED.value else triton.jit(function)


@device_function
def split_program(program, joints, TILE: tl.constexpr):
    """Return the image and the joints of a program that holds TILE joints."""
    count = (joints + TILE - 1) // TILE
    b = program // count
    return b.to(tl.int64), (program - b * count) * TILE + tl.arange(0, TILE)


@device_function
def lines(b, j, image, channel):
    """Return the offsets of the planes (b, j)."""
    return b * image + j.to(tl.int64) * channel


@device_function
def rows_and_columns(p, columns):
    """Return y and x of pixels p."""
    y = (p.to(tl.uint32) // columns.to(tl.uint32)).to(tl.int32)
    return y, p - y * columns


@device_function
def plane_offsets(p, y, x, row, pixel, LINE: tl.constexpr, WIDE: tl.constexpr):
    """Return the offsets of pixels inside a plane."""
    if WIDE:
        p, y, x = p.to(tl.int64), y.to(tl.int64), x.to(tl.int64)
    return p * pixel if LINE else y * row + x * pixel


@device_function
def load_tile(maps, plane, offsets, inside, fill, T: tl.constexpr):
    """Return a tile in the computing type, `fill` outside."""
    return tl.load(maps + plane[:, None] + offsets[None, :], mask=inside, other=fill).to(T)


@device_function
def to_storage(value, TYPE: tl.constexpr):
    """Round to a stored type, to nearest."""
    if tl.bfloat16 == TYPE:
        value = value.to(tl.float32)
        if INTERPRETED:
            bits = value.to(tl.uint32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            value = tl.where(value == value, bits.to(tl.uint32).to(tl.float32, bitcast=True), value)
    return value.to(TYPE)


@device_function
def store_tile(maps, plane, offsets, inside, value):
    """Write a tile in the type of the maps."""
    tl.store(maps + plane[:, None] + offsets[None, :], to_storage(value, maps.dtype.element_ty), mask=inside)


@device_function
def temperature(beta, scale, b, j, joints, beta_image, beta_joint, T: tl.constexpr):
    """Return beta of planes (b, j)."""
    if beta is None:
        inverse = tl.full(j.shape, scale, T)
    else:
        inverse = tl.load(beta + lines(b, j, beta_image, beta_joint), mask=j < joints, other=1.0).to(T)
    return inverse


@device_function
def turned(logits, negative):
    """Return u: the logits, turned over where beta is negative; masks stay -inf."""
    return tl.where(negative[:, None] & (logits != float("-inf")), -logits, logits)


@device_function
def weights(u, m, size):
    """Return e = exp(size*(u - m)), 0 for masked pixels and for those so far below that u - m overflows."""
    t = u - m[:, None]
    return tl.where((u == float("-inf")) | (t == float("-inf")), 0.0, tl.exp(size[:, None] * t))


@device_function
def next_largest(m, u):
    """Return the largest u so far; NaN is left out, it reaches the result through e."""
    return tl.maximum(m, tl.max(tl.where(u == u, u, float("-inf")), 1))


@device_function
def rescaling(m, higher, size):
    """Return what turns sums relative to m into sums relative to `higher`; 0 where they are of masked pixels."""
    t = m - higher
    return tl.where((m == float("-inf")) | (t == float("-inf")), 0.0, tl.exp(size * t))


@device_function
def coordinate(i, unit, first, T: tl.constexpr):
    """Return the grid coordinates of columns or rows i."""
    return i.to(T) / tl.full((1,), unit, T) + tl.full((1,), first, T)


@device_function
def sigmoid(d):
    """Return 1 / (1 + exp(-d))."""
    return 1.0 / (1.0 + tl.exp(-d))


@device_function
def weights_at(
    logits, plane, here, y, x, m, size, negative, rows, columns, row, pixel,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return e (h without softmax) of pixels (y, x), 0 for those outside the plane."""
    inside = here & ((y >= 0) & (y < rows) & (x >= 0) & (x < columns))[None, :]
    offsets = plane_offsets(y * columns + x, y, x, row, pixel, LINE, WIDE)
    if SOFTMAX:
        e = weights(turned(load_tile(logits, plane, offsets, inside, float("-inf"), T), negative), m, size)
    else:
        e = load_tile(logits, plane, offsets, inside, 0.0, T)
    return e


@device_function
def window_exists(y, x, rows, columns):
    """Tell whether the window whose first pixel is (y, x) lies in the plane."""
    return (
        (y >= 0)
        & ((y < rows - 1) | ((y == 0) & (rows == 1)))
        & (x >= 0)
        & ((x < columns - 1) | ((x == 0) & (columns == 1)))
    )


@device_function
def window_sums(e, below, right, across):
    """Return the sum of a window; one order everywhere, for ties to be seen."""
    return (e + below) + (right + across)


@device_function
def windows_from(
    logits, plane, here, y, x, e, m, size, negative, rows, columns, row, pixel,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the sums of the windows that pixels (y, x) of weights e start; -inf for windows not in the plane."""
    below = weights_at(
        logits, plane, here, y + 1, x, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    right = weights_at(
        logits, plane, here, y, x + 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    across = weights_at(
        logits, plane, here, y + 1, x + 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    exists = here & window_exists(y, x, rows, columns)[None, :]
    return tl.where(exists, window_sums(e, below, right, across), float("-inf"))


@device_function
def product(a, b, sums):
    """Return sums + a @ b, in the type of `sums`."""
    if INTERPRETED:
        a, b = a.to(sums.dtype), b.to(sums.dtype)
    return tl.dot(a, b, sums, input_precision="ieee", out_dtype=sums.dtype)


@device_function
def weighted_product(e, b, sums, SPLIT: tl.constexpr):
    """Return sums + e @ b, where e is in the computing type and b in that of the product.

    With SPLIT, b is half precision and e is taken as the sum of two such numbers, so that its rounding does not show.
    """
    high = to_storage(e, b.dtype)
    sums = product(high, b, sums)
    if SPLIT:
        sums = product(to_storage(e - high.to(e.dtype), b.dtype), b, sums)
    return sums
