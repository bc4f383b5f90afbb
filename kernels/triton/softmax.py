"""Softmax of each plane, forward."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import (
    lines,
    load_tile,
    next_largest,
    plane_offsets,
    rescaling,
    rows_and_columns,
    split_program,
    store_tile,
    temperature,
    turned,
    weights,
)
from pyhar.kernels.triton.launch import (
    TYPES,
    Launch,
    Layout,
    beta_arguments,
    computing_type,
    maps_arguments,
    size_arguments,
    tiles,
)
from pyhar.kernels.triton.plan import STREAMED, plan_planes


@triton.jit(do_not_specialize=["joints", "rows", "columns"])
def softmax_forward_kernel(
    logits, probs, beta, stats, scale: tl.float64, joints, rows, columns, pixels,
    logits_image, logits_channel, logits_row, logits_pixel, probs_image, probs_channel, probs_row, probs_pixel,
    beta_image, beta_joint,
    T: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr, PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):  # fmt: skip
    b, j = split_program(tl.program_id(0), joints, PLANES)
    inverse = temperature(beta, scale, b, j, joints, beta_image, beta_joint, T)
    negative, size = inverse < 0, tl.abs(inverse)
    source, target = lines(b, j, logits_image, logits_channel), lines(b, j, probs_image, probs_channel)
    m, total = tl.full((PLANES,), float("-inf"), T), tl.zeros((PLANES,), T)
    if STREAM:
        for start in range(0, pixels, PIXELS):
            p = start + tl.arange(0, PIXELS)
            inside = (j < joints)[:, None] & (p < pixels)[None, :]
            y, x = rows_and_columns(p, columns)
            offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
            u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
            higher = next_largest(m, u)
            total = total * rescaling(m, higher, size) + tl.sum(weights(u, higher, size), 1)
            m = higher
        r = 1.0 / total
        for start in range(0, pixels, PIXELS):
            p = start + tl.arange(0, PIXELS)
            inside = (j < joints)[:, None] & (p < pixels)[None, :]
            y, x = rows_and_columns(p, columns)
            offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
            u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
            offsets = plane_offsets(p, y, x, probs_row, probs_pixel, LINE, WIDE)
            store_tile(probs, target, offsets, inside, weights(u, m, size) * r[:, None])
    else:
        p = tl.arange(0, PIXELS)
        inside = (j < joints)[:, None] & (p < pixels)[None, :]
        y, x = rows_and_columns(p, columns)
        offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
        u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
        m = next_largest(m, u)
        e = weights(u, m, size)
        r = 1.0 / tl.sum(e, 1)
        offsets = plane_offsets(p, y, x, probs_row, probs_pixel, LINE, WIDE)
        store_tile(probs, target, offsets, inside, e * r[:, None])
    n = (b * joints + j) * 2
    tl.store(stats + n, tl.where(negative, -m, m), mask=j < joints)
    tl.store(stats + n + 1, r, mask=j < joints)


def softmax_forward_launch(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> Launch:
    """Return the launch that writes `stats` and `probs`."""
    T = computing_type(logits)
    batch, joints, rows, columns = logits.shape
    tile = plan_planes(
        joints,
        rows * columns,
        joints_innermost=Layout.of(logits).joints_innermost(),
        item_bytes=logits.element_size(),
        double=T.itemsize == 8,
    )
    arguments, constants = maps_arguments(logits=logits, probs=probs)
    arguments |= beta_arguments(beta, scale) | size_arguments(logits) | {"stats": stats}
    constants |= {"T": TYPES[T], "STREAM": tile.path == STREAMED, "PLANES": tile.planes, "PIXELS": tile.pixels}
    return Launch(softmax_forward_kernel, batch * tiles(joints, tile.planes), arguments, constants, tile.warps)
