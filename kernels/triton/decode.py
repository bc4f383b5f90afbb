"""Coordinates, depth and confidence of each plane, forward."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import (
    MAX,
    NO_CONFIDENCE,
    WINDOW,
    coordinate,
    device_function,
    lines,
    load_tile,
    next_largest,
    plane_offsets,
    rescaling,
    rows_and_columns,
    sigmoid,
    split_program,
    temperature,
    turned,
    weights,
    windows_from,
)
from pyhar.kernels.triton.launch import (
    TYPES,
    Launch,
    Layout,
    beta_arguments,
    computing_type,
    grid_arguments,
    maps_arguments,
    size_arguments,
    tiles,
)
from pyhar.kernels.triton.plan import plan_planes


@device_function
def add_moments(
    sum_x, sum_y, sum_z, peak, logits, depth, e, m, size, negative, inside, here, source, target, p, y, x,
    unit_x, first_x, unit_y, first_y, rows, columns,
    logits_row, logits_pixel, depth_row, depth_pixel, WANT_XY: tl.constexpr, CONFIDENCE: tl.constexpr,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the sums of h*gx, h*gy and h*sigmoid(D) and the peak so far, all up to 1/total, with one more tile."""
    if WANT_XY:
        sum_x += tl.sum(e * coordinate(x, unit_x, first_x, T)[None, :], 1)
        sum_y += tl.sum(e * coordinate(y, unit_y, first_y, T)[None, :], 1)
    if depth is not None:
        offsets = plane_offsets(p, y, x, depth_row, depth_pixel, LINE, WIDE)
        sum_z += tl.sum(e * sigmoid(load_tile(depth, target, offsets, inside, 0.0, T)), 1)
    if CONFIDENCE == WINDOW:
        sums = windows_from(
            logits, source, here, y, x, e, m, size, negative, rows, columns, logits_row, logits_pixel,
            T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
        peak = tl.maximum(peak, tl.max(sums, 1))
    if CONFIDENCE == MAX and not SOFTMAX:  # with softmax it is 1/total: the largest e is 1
        peak = tl.maximum(peak, tl.max(tl.where(inside, e, float("-inf")), 1))
    return sum_x, sum_y, sum_z, peak


@device_function
def store_moments(
    sum_x, sum_y, sum_z, peak, total, m, negative, n, known, stats, xy, z, confidence,
    T: tl.constexpr, SOFTMAX: tl.constexpr, CONFIDENCE: tl.constexpr,
):  # fmt: skip
    """Write what a decode returns, for planes number n."""
    r = tl.full(total.shape, 1.0, T)
    if SOFTMAX:
        r = 1.0 / total
        tl.store(stats + n * 2, tl.where(negative, -m, m), mask=known)
        tl.store(stats + n * 2 + 1, r, mask=known)
    if xy is not None:
        tl.store(xy + n * 2, sum_x * r, mask=known)
        tl.store(xy + n * 2 + 1, sum_y * r, mask=known)
    if z is not None:
        tl.store(z + n, sum_z * r, mask=known)
    if CONFIDENCE != NO_CONFIDENCE:
        if SOFTMAX:
            if CONFIDENCE == MAX:
                peak = tl.full(total.shape, 1.0, T)
            peak = tl.where(total > 0, peak, float("nan"))  # wholly masked, or NaN in the plane
        else:
            peak = tl.where(total == total, peak, float("nan"))
        tl.store(confidence + n, peak * r, mask=known)


@triton.jit(do_not_specialize=["joints", "rows", "columns"])
def decode_forward_kernel(
    logits, depth, beta, stats, xy, z, confidence,
    scale: tl.float64, unit_x: tl.float64, first_x: tl.float64, unit_y: tl.float64, first_y: tl.float64,
    joints, rows, columns, pixels,
    logits_image, logits_channel, logits_row, logits_pixel, depth_image, depth_channel, depth_row, depth_pixel,
    beta_image, beta_joint,
    T: tl.constexpr, SOFTMAX: tl.constexpr, CONFIDENCE: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """One reading of the planes: sums are relative to the largest logit so far, and rescaled when it grows."""
    b, j = split_program(tl.program_id(0), joints, PLANES)
    inverse = temperature(beta, scale, b, j, joints, beta_image, beta_joint, T)
    negative, size = inverse < 0, tl.abs(inverse)
    source, target = lines(b, j, logits_image, logits_channel), lines(b, j, depth_image, depth_channel)
    m, total = tl.full((PLANES,), float("-inf"), T), tl.zeros((PLANES,), T)
    sum_x, sum_y, sum_z, peak = total, total, total, total if SOFTMAX else m
    for start in range(0, pixels, PIXELS):
        p = start + tl.arange(0, PIXELS)
        here = (j < joints)[:, None] & (p >= 0)[None, :]
        inside = here & (p < pixels)[None, :]
        y, x = rows_and_columns(p, columns)
        offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
        if SOFTMAX:
            u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
            higher = next_largest(m, u)
            factor = rescaling(m, higher, size)
            total, sum_x, sum_y, sum_z = total * factor, sum_x * factor, sum_y * factor, sum_z * factor
            peak, m = peak * factor, higher
            e = weights(u, m, size)
        else:
            e = load_tile(logits, source, offsets, inside, 0.0, T)
        total += tl.sum(e, 1)
        sum_x, sum_y, sum_z, peak = add_moments(
            sum_x, sum_y, sum_z, peak, logits, depth, e, m, size, negative, inside, here, source, target, p, y, x,
            unit_x, first_x, unit_y, first_y, rows, columns,
            logits_row, logits_pixel, depth_row, depth_pixel, xy is not None, CONFIDENCE, T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
    store_moments(
        sum_x, sum_y, sum_z, peak, total, m, negative, b * joints + j, j < joints, stats, xy, z, confidence,
        T, SOFTMAX, CONFIDENCE,
    )  # fmt: skip


def confidence_kind(wanted: Tensor | None, window: bool) -> int:
    """Return the constant CONFIDENCE of the kernels."""
    kind = NO_CONFIDENCE if wanted is None else WINDOW if window else MAX
    return int(kind.value)


def decode_forward_launch(
    logits: Tensor,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    confidence: Tensor | None,
) -> Launch:
    """Return the launch that writes `stats`, `xy`, `z` and `confidence`, those that are not None."""
    T = computing_type(logits, depth_logits)
    batch, joints, rows, columns = logits.shape
    tile = plan_planes(
        joints,
        rows * columns,
        joints_innermost=Layout.of(logits).joints_innermost(),
        item_bytes=logits.element_size(),
        double=T.itemsize == 8,
        neighbours=window and confidence is not None,
    )
    arguments, constants = maps_arguments(logits=logits, depth=depth_logits if z is not None else None)
    arguments |= beta_arguments(beta, scale) | grid_arguments(grid) | size_arguments(logits)
    arguments |= {"stats": stats, "xy": xy, "z": z, "confidence": confidence}
    constants |= {"T": TYPES[T], "SOFTMAX": stats is not None, "CONFIDENCE": confidence_kind(confidence, window)}
    constants |= {"PLANES": tile.planes, "PIXELS": tile.pixels}
    return Launch(decode_forward_kernel, batch * tiles(joints, tile.planes), arguments, constants, tile.warps)
