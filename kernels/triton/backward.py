"""Gradients of each plane: of logits, depth logits and beta, for the softmax and for a decode."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.appearance_backward import appearance_backward_launches
from pyhar.kernels.triton.blocks import (
    MAX,
    WINDOW,
    coordinate,
    device_function,
    lines,
    load_tile,
    plane_offsets,
    rows_and_columns,
    sigmoid,
    split_program,
    store_tile,
    temperature,
    turned,
    weights,
    weights_at,
    window_exists,
    window_sums,
    windows_from,
)
from pyhar.kernels.triton.decode import confidence_kind
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
from pyhar.kernels.triton.plan import STREAMED, plan_planes


@device_function
def weights_and_distance(
    logits, source, offsets, inside, m, size, negative, T: tl.constexpr, SOFTMAX: tl.constexpr
):  # fmt: skip
    """Return e (h without softmax) and u - m (0 where it does not matter)."""
    if SOFTMAX:
        u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
        t = u - m[:, None]
        e = weights(u, m, size)
        t = tl.where(inside & (t != float("-inf")), t, 0.0)
    else:
        e = load_tile(logits, source, offsets, inside, 0.0, T)
        t = e
    return e, t


@device_function
def windows_over(
    logits, source, here, y, x, e, own, peak, m, size, negative, rows, columns, row, pixel,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return how many of the windows with the sum `peak` lie over each pixel; `own` is the sum of the one it starts."""
    above = weights_at(
        logits, source, here, y - 1, x, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    above_right = weights_at(
        logits, source, here, y - 1, x + 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    right = weights_at(
        logits, source, here, y, x + 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    exists = window_exists(y - 1, x, rows, columns)[None, :]
    count = (own == peak[:, None]).to(T)
    count += (exists & (window_sums(above, e, above_right, right) == peak[:, None])).to(T)
    left = weights_at(
        logits, source, here, y, x - 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    above_left = weights_at(
        logits, source, here, y - 1, x - 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    exists = window_exists(y - 1, x - 1, rows, columns)[None, :]
    count += (exists & (window_sums(above_left, left, above, e) == peak[:, None])).to(T)
    below = weights_at(
        logits, source, here, y + 1, x, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    below_left = weights_at(
        logits, source, here, y + 1, x - 1, m, size, negative, rows, columns, row, pixel, T, SOFTMAX, LINE, WIDE
    )
    exists = window_exists(y, x - 1, rows, columns)[None, :]
    count += (exists & (window_sums(left, below_left, e, below) == peak[:, None])).to(T)
    return count


@device_function
def weights_and_slope(
    logits, depth, slopes, source, target, upstream, start, known, m, size, negative, peak, count,
    g_x, g_y, g_z, g_peak, unit_x, first_x, unit_y, first_y, rows, columns, pixels,
    logits_row, logits_pixel, depth_row, depth_pixel, slopes_row, slopes_pixel,
    T: tl.constexpr, SOFTMAX: tl.constexpr, CONFIDENCE: tl.constexpr, WANT_XY: tl.constexpr, WANT_Z: tl.constexpr,
    LINE: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Return e, u - m, s, p, y, x and what is inside; s lacks the share of "max" after softmax, counted later."""
    p = start + tl.arange(0, PIXELS)
    here = known[:, None] & (p >= 0)[None, :]
    inside = here & (p < pixels)[None, :]
    y, x = rows_and_columns(p, columns)
    offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
    e, t = weights_and_distance(logits, source, offsets, inside, m, size, negative, T, SOFTMAX)
    s = tl.zeros(inside.shape, T)
    if slopes is not None:
        offsets = plane_offsets(p, y, x, slopes_row, slopes_pixel, LINE, WIDE)
        s += load_tile(slopes, upstream, offsets, inside, 0.0, T)
    if WANT_XY:
        s += g_x[:, None] * coordinate(x, unit_x, first_x, T)[None, :]
        s += g_y[:, None] * coordinate(y, unit_y, first_y, T)[None, :]
    if WANT_Z:
        offsets = plane_offsets(p, y, x, depth_row, depth_pixel, LINE, WIDE)
        s += g_z[:, None] * sigmoid(load_tile(depth, target, offsets, inside, 0.0, T))
    if CONFIDENCE == WINDOW:
        own = windows_from(
            logits, source, here, y, x, e, m, size, negative, rows, columns, logits_row, logits_pixel,
            T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
        over = windows_over(
            logits, source, here, y, x, e, own, peak, m, size, negative, rows, columns, logits_row, logits_pixel,
            T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
        s += over * (g_peak / count)[:, None]
    if CONFIDENCE == MAX and not SOFTMAX:
        s += tl.where(e == peak[:, None], (g_peak / count)[:, None], 0.0)
    return e, t, s, p, y, x, inside


@triton.jit(do_not_specialize=["joints", "rows", "columns"])
def plane_backward_kernel(
    logits, depth, slopes, beta, stats, g_xy, g_z, g_confidence, d_logits, d_depth, d_beta,
    scale: tl.float64, unit_x: tl.float64, first_x: tl.float64, unit_y: tl.float64, first_y: tl.float64,
    joints, rows, columns, pixels,
    logits_image, logits_channel, logits_row, logits_pixel, depth_image, depth_channel, depth_row, depth_pixel,
    slopes_image, slopes_channel, slopes_row, slopes_pixel,
    d_logits_image, d_logits_channel, d_logits_row, d_logits_pixel,
    d_depth_image, d_depth_channel, d_depth_row, d_depth_pixel, beta_image, beta_joint,
    T: tl.constexpr, SOFTMAX: tl.constexpr, CONFIDENCE: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
    STREAM: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """d_logits = beta*h*(s - mean), mean = sum h*s; `slopes` is the part of s that is given.

    s is taken relative to its mean over the largest weights: with a plane that is all but one pixel the differences are
    far smaller than s, and its rounding would be all that is left. Streaming, each reduction is one reading of the
    plane; else the tile stays in registers.
    """
    b, j = split_program(tl.program_id(0), joints, PLANES)
    known = j < joints
    inverse = temperature(beta, scale, b, j, joints, beta_image, beta_joint, T)
    negative, size = inverse < 0, tl.abs(inverse)
    source, target = lines(b, j, logits_image, logits_channel), lines(b, j, depth_image, depth_channel)
    upstream = lines(b, j, slopes_image, slopes_channel)
    n = b * joints + j
    m, r = tl.zeros((PLANES,), T), tl.full((PLANES,), 1.0, T)
    if SOFTMAX:
        m = tl.load(stats + n * 2, mask=known, other=0.0)
        m, r = tl.where(negative, -m, m), tl.load(stats + n * 2 + 1, mask=known, other=0.0)
    zero = tl.zeros((PLANES,), T)
    g_x, g_y, g_depth, g_peak = zero, zero, zero, zero
    if g_xy is not None:
        g_x, g_y = tl.load(g_xy + n * 2, mask=known, other=0.0), tl.load(g_xy + n * 2 + 1, mask=known, other=0.0)
    if g_z is not None:
        g_depth = tl.load(g_z + n, mask=known, other=0.0)
    if CONFIDENCE != 0:
        g_peak = tl.load(g_confidence + n, mask=known, other=0.0)

    # The largest weight or window, and how many there are.
    peak, count = tl.full((PLANES,), 1.0, T), zero
    if (d_logits is not None or d_beta is not None) and (CONFIDENCE == WINDOW or (CONFIDENCE == MAX and not SOFTMAX)):
        peak = tl.full((PLANES,), float("-inf"), T)
        for start in range(0, pixels, PIXELS):
            p = start + tl.arange(0, PIXELS)
            here = known[:, None] & (p >= 0)[None, :]
            inside = here & (p < pixels)[None, :]
            y, x = rows_and_columns(p, columns)
            offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
            e, t = weights_and_distance(logits, source, offsets, inside, m, size, negative, T, SOFTMAX)
            own = tl.where(inside, e, float("-inf"))
            if CONFIDENCE == WINDOW:
                own = windows_from(
                    logits, source, here, y, x, e, m, size, negative, rows, columns, logits_row, logits_pixel,
                    T, SOFTMAX, LINE, WIDE,
                )  # fmt: skip
            largest = tl.max(own, 1)
            again = tl.where(largest > peak, 0.0, count)
            peak = tl.maximum(peak, largest)
            count = again + tl.sum((own == peak[:, None]).to(T), 1)

    middle, mean, slant = zero, zero, zero
    if SOFTMAX and STREAM and (d_logits is not None or d_beta is not None):
        ones = zero
        for start in range(0, pixels, PIXELS):
            e, t, s, p, y, x, inside = weights_and_slope(
                logits, depth, slopes, source, target, upstream, start, known, m, size, negative, peak, count,
                g_x, g_y, g_depth, g_peak, unit_x, first_x, unit_y, first_y, rows, columns, pixels,
                logits_row, logits_pixel, depth_row, depth_pixel, slopes_row, slopes_pixel,
                T, SOFTMAX, CONFIDENCE, g_xy is not None, g_z is not None, LINE, WIDE, PIXELS,
            )  # fmt: skip
            ones += tl.sum((e == 1.0).to(T), 1)
            middle += tl.sum(tl.where(e == 1.0, s, 0.0), 1)
        middle = middle / ones
        if CONFIDENCE == MAX:
            count = ones
            middle += g_peak / count
        for start in range(0, pixels, PIXELS):
            e, t, s, p, y, x, inside = weights_and_slope(
                logits, depth, slopes, source, target, upstream, start, known, m, size, negative, peak, count,
                g_x, g_y, g_depth, g_peak, unit_x, first_x, unit_y, first_y, rows, columns, pixels,
                logits_row, logits_pixel, depth_row, depth_pixel, slopes_row, slopes_pixel,
                T, SOFTMAX, CONFIDENCE, g_xy is not None, g_z is not None, LINE, WIDE, PIXELS,
            )  # fmt: skip
            if CONFIDENCE == MAX:
                s += tl.where(e == 1.0, (g_peak / count)[:, None], 0.0)
            mean += tl.sum(tl.where(inside, e * r[:, None] * (s - middle[:, None]), 0.0), 1)

    for start in range(0, pixels, PIXELS):
        e, t, s, p, y, x, inside = weights_and_slope(
            logits, depth, slopes, source, target, upstream, start, known, m, size, negative, peak, count,
            g_x, g_y, g_depth, g_peak, unit_x, first_x, unit_y, first_y, rows, columns, pixels,
            logits_row, logits_pixel, depth_row, depth_pixel, slopes_row, slopes_pixel,
            T, SOFTMAX, CONFIDENCE, g_xy is not None, g_z is not None, LINE, WIDE, PIXELS,
        )  # fmt: skip
        h = e * r[:, None]
        if d_depth is not None:
            d_slope = tl.zeros(inside.shape, T)
            if depth is not None:
                offsets = plane_offsets(p, y, x, depth_row, depth_pixel, LINE, WIDE)
                d = sigmoid(load_tile(depth, target, offsets, inside, 0.0, T))
                d_slope = g_depth[:, None] * h * d * (1.0 - d)
            offsets = plane_offsets(p, y, x, d_depth_row, d_depth_pixel, LINE, WIDE)
            store_tile(d_depth, lines(b, j, d_depth_image, d_depth_channel), offsets, inside, d_slope)
        if d_logits is not None or d_beta is not None:
            if SOFTMAX:
                if not STREAM:
                    ones = tl.sum((e == 1.0).to(T), 1)
                    if CONFIDENCE == MAX:
                        count = ones
                if CONFIDENCE == MAX:
                    s += tl.where(e == 1.0, (g_peak / count)[:, None], 0.0)
                if not STREAM:
                    middle = tl.sum(tl.where(e == 1.0, s, 0.0), 1) / ones
                    mean = tl.sum(tl.where(inside, h * (s - middle[:, None]), 0.0), 1)
                q = h * ((s - middle[:, None]) - mean[:, None])
                slant += tl.sum(tl.where(inside, t * q, 0.0), 1)
                s = inverse[:, None] * q
            if d_logits is not None:
                offsets = plane_offsets(p, y, x, d_logits_row, d_logits_pixel, LINE, WIDE)
                store_tile(d_logits, lines(b, j, d_logits_image, d_logits_channel), offsets, inside, s)
    if d_beta is not None:
        tl.store(d_beta + n, tl.where(negative, -slant, slant), mask=known)


def plane_backward_launch(
    logits: Tensor,
    depth_logits: Tensor | None,
    slopes: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    g_xy: Tensor | None,
    g_z: Tensor | None,
    g_confidence: Tensor | None,
    d_logits: Tensor | None,
    d_depth_logits: Tensor | None,
    d_beta: Tensor | None,
    T: torch.dtype,
) -> Launch:
    """Return the launch that writes the gradients of planes; `slopes` is a part of dL/dh, or None."""
    batch, joints, rows, columns = logits.shape
    confidence = confidence_kind(g_confidence, window)
    depth = depth_logits if g_z is not None else None
    arguments, constants = maps_arguments(
        logits=logits, depth=depth, slopes=slopes, d_logits=d_logits, d_depth=d_depth_logits
    )
    tile = plan_planes(
        joints,
        rows * columns,
        joints_innermost=Layout.of(logits).joints_innermost(),
        item_bytes=logits.element_size(),
        double=T.itemsize == 8,
        neighbours=confidence == WINDOW.value,
        scattered=not constants["LINE"],
    )
    arguments |= beta_arguments(beta, scale) | grid_arguments(grid) | size_arguments(logits)
    arguments |= {"stats": stats, "g_xy": g_xy, "g_z": g_z, "g_confidence": g_confidence, "d_beta": d_beta}
    constants |= {"T": TYPES[T], "SOFTMAX": stats is not None, "CONFIDENCE": confidence}
    constants |= {"STREAM": tile.path == STREAMED, "PLANES": tile.planes, "PIXELS": tile.pixels}
    return Launch(plane_backward_kernel, batch * tiles(joints, tile.planes), arguments, constants, tile.warps)


def softmax_backward_launch(
    logits: Tensor,
    beta: Tensor | None,
    scale: float,
    stats: Tensor,
    g_probs: Tensor,
    d_logits: Tensor | None,
    d_beta: Tensor | None,
) -> Launch:
    """Return the launch that writes the gradients of the softmax: `g_probs` is all of dL/dh."""
    return plane_backward_launch(
        logits, None, g_probs, beta, scale, (1.0, 0.0, 1.0, 0.0), False, stats, None, None, None,
        d_logits, None, d_beta, computing_type(logits),
    )  # fmt: skip


def decode_backward_launches(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    g_xy: Tensor | None,
    g_z: Tensor | None,
    g_confidence: Tensor | None,
    g_appearance: Tensor | None,
    d_logits: Tensor | None,
    d_features: Tensor | None,
    d_depth_logits: Tensor | None,
    d_beta: Tensor | None,
) -> list[Launch]:
    """Return the launches that write the gradients of a decode, in the order in which they must run."""
    T = computing_type(logits, features, depth_logits)
    launches = []
    slopes = None
    if features is not None and g_appearance is not None:
        if d_logits is not None or d_beta is not None:
            slopes = torch.empty(logits.shape, dtype=T, device=logits.device)
        launches += appearance_backward_launches(
            logits, features, depth_logits, beta, scale, stats, g_appearance, slopes, d_features
        )
    if d_logits is not None or d_depth_logits is not None or d_beta is not None:
        launch = plane_backward_launch(
            logits, depth_logits, slopes, beta, scale, grid, window, stats, g_xy, g_z, g_confidence,
            d_logits, d_depth_logits, d_beta, T,
        )  # fmt: skip
        launches.append(launch)
    return launches
