"""Appearance of each joint together with what a decode returns, forward, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import (
    INTERPRETED,
    lines,
    load_tile,
    next_largest,
    plane_offsets,
    rescaling,
    rows_and_columns,
    split_program,
    temperature,
    to_storage,
    turned,
    weighted_product,
    weights,
)
from pyhar.kernels.triton.decode import add_moments, confidence_kind, store_moments
from pyhar.kernels.triton.launch import (
    TYPES,
    Launch,
    beta_arguments,
    computing_type,
    grid_arguments,
    maps_arguments,
    size_arguments,
    tiles,
)
from pyhar.kernels.triton.plan import plan_pooling

FLOAT16_SCALE = 16384.0  # keeps small probabilities out of the subnormal numbers of float16


def product_type(T: torch.dtype, logits: Tensor, features: Tensor, softmax: bool) -> tuple[torch.dtype, bool, float]:
    """Return the type of the matrix products, whether h is split in two such numbers, and what h is scaled by before.

    Half-precision features are multiplied by the tensor cores as they are. Maps that are probabilities already may hold
    anything; they go that way only if they have that very type.
    """
    if torch.float64 == T or features.dtype.itemsize != 2 or not (softmax or logits.dtype == features.dtype):
        return T, False, 1.0
    return features.dtype, softmax, FLOAT16_SCALE if softmax and features.dtype == torch.float16 else 1.0


@triton.jit(do_not_specialize=["joints", "channels", "rows", "columns"])
def appearance_forward_kernel(
    logits, features, depth, beta, stats, xy, z, confidence, appearance,
    scale: tl.float64, unit_x: tl.float64, first_x: tl.float64, unit_y: tl.float64, first_y: tl.float64,
    joints, channels, rows, columns, pixels,
    logits_image, logits_channel, logits_row, logits_pixel,
    features_image, features_channel, features_row, features_pixel,
    depth_image, depth_channel, depth_row, depth_pixel, beta_image, beta_joint,
    T: tl.constexpr, SOFTMAX: tl.constexpr, CONFIDENCE: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
    PRODUCT: tl.constexpr, SPLIT: tl.constexpr, SCALE: tl.constexpr,
    JOINTS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Every program reads its planes once. Those of the first channels also write what a decode returns."""
    strips = (channels + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    strip = program % strips
    b, j = split_program(program // strips, joints, JOINTS)
    c = strip * CHANNELS + tl.arange(0, CHANNELS)
    inverse = temperature(beta, scale, b, j, joints, beta_image, beta_joint, T)
    negative, size = inverse < 0, tl.abs(inverse)
    source, target = lines(b, j, logits_image, logits_channel), lines(b, j, depth_image, depth_channel)
    pooled = lines(b, c, features_image, features_channel)
    m, total = tl.full((JOINTS,), float("-inf"), T), tl.zeros((JOINTS,), T)
    sum_x, sum_y, sum_z, peak = total, total, total, total if SOFTMAX else m
    sums = tl.zeros((JOINTS, CHANNELS), T)
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
            peak, sums, m = peak * factor, sums * factor[:, None], higher
            e = weights(u, m, size)
        else:
            e = load_tile(logits, source, offsets, inside, 0.0, T)
        total += tl.sum(e, 1)
        if strip == 0:
            sum_x, sum_y, sum_z, peak = add_moments(
                sum_x, sum_y, sum_z, peak, logits, depth, e, m, size, negative, inside, here, source, target, p, y, x,
                unit_x, first_x, unit_y, first_y, rows, columns,
                logits_row, logits_pixel, depth_row, depth_pixel, xy is not None, CONFIDENCE, T, SOFTMAX, LINE, WIDE,
            )  # fmt: skip
        offsets = plane_offsets(p, y, x, features_row, features_pixel, LINE, WIDE)
        known = (c < channels)[:, None] & (p < pixels)[None, :]
        f = load_tile(features, pooled, offsets, known, 0.0, PRODUCT)
        sums = weighted_product(e * SCALE, tl.trans(f), sums, SPLIT)
    r = tl.full((JOINTS,), 1.0 / SCALE, T)
    if SOFTMAX:
        r = r / total
    places = appearance + (b * joints + j)[:, None] * channels + c[None, :]
    written = (j < joints)[:, None] & (c < channels)[None, :]
    tl.store(places, to_storage(sums * r[:, None], appearance.dtype.element_ty), mask=written)
    if strip == 0:
        store_moments(
            sum_x, sum_y, sum_z, peak, total, m, negative, b * joints + j, j < joints, stats, xy, z, confidence,
            T, SOFTMAX, CONFIDENCE,
        )  # fmt: skip


def appearance_forward_launch(
    logits: Tensor,
    features: Tensor,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    confidence: Tensor | None,
    appearance: Tensor,
) -> Launch:
    """Return the launch that writes `appearance`, and `stats`, `xy`, `z` and `confidence` where not None."""
    T = computing_type(logits, features, depth_logits)
    batch, joints, rows, columns = logits.shape
    channels = features.shape[1]
    product, split, factor = product_type(T, logits, features, stats is not None)
    tile = plan_pooling(
        batch,
        joints,
        channels,
        rows * columns,
        half=product.itemsize == 2,
        double=product.itemsize == 8,
        neighbours=window and confidence is not None,
        interpreted=INTERPRETED.value,
    )
    arguments, constants = maps_arguments(
        logits=logits, features=features, depth=depth_logits if z is not None else None
    )
    arguments |= beta_arguments(beta, scale) | grid_arguments(grid) | size_arguments(logits)
    arguments |= {"channels": channels, "stats": stats, "xy": xy, "z": z, "confidence": confidence}
    arguments |= {"appearance": appearance}
    constants |= {"T": TYPES[T], "SOFTMAX": stats is not None, "CONFIDENCE": confidence_kind(confidence, window)}
    constants |= {"PRODUCT": TYPES[product], "SPLIT": split, "SCALE": factor}
    constants |= {"JOINTS": tile.joints, "CHANNELS": tile.channels, "PIXELS": tile.pixels}
    programs = batch * tiles(joints, tile.joints) * tiles(channels, tile.channels)
    return Launch(appearance_forward_kernel, programs, arguments, constants, tile.warps)
