"""Gradient of the appearance: to the features, and the part of dL/dh that the features make.

Both are matrix products over one reading of the features. Where one program can hold all joints of an image, one launch
makes both; where not, each has its own.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.appearance import product_type
from pyhar.kernels.triton.blocks import (
    INTERPRETED,
    device_function,
    lines,
    load_tile,
    plane_offsets,
    product,
    rows_and_columns,
    store_tile,
    temperature,
    to_storage,
    turned,
    weights,
)
from pyhar.kernels.triton.launch import (
    TYPES,
    Launch,
    beta_arguments,
    computing_type,
    maps_arguments,
    size_arguments,
    tiles,
)
from pyhar.kernels.triton.plan import ONE_PASS, plan_features_gradient


@device_function
def probabilities(
    logits, beta, scale, stats, b, j, p, y, x, joints, pixels, logits_image, logits_channel, logits_row, logits_pixel,
    beta_image, beta_joint, T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return h of planes (b, j) and pixels p, 0 outside."""
    source = lines(b, j, logits_image, logits_channel)
    inside = (j < joints)[:, None] & (p < pixels)[None, :]
    offsets = plane_offsets(p, y, x, logits_row, logits_pixel, LINE, WIDE)
    if SOFTMAX:
        inverse = temperature(beta, scale, b, j, joints, beta_image, beta_joint, T)
        negative = inverse < 0
        n = (b * joints + j) * 2
        m = tl.load(stats + n, mask=j < joints, other=0.0)
        r = tl.load(stats + n + 1, mask=j < joints, other=0.0)
        u = turned(load_tile(logits, source, offsets, inside, float("-inf"), T), negative)
        h = weights(u, tl.where(negative, -m, m), tl.abs(inverse)) * r[:, None]
        h = tl.where(inside, h, 0.0)  # of a wholly masked plane h is not a number, outside it has to be 0
    else:
        h = load_tile(logits, source, offsets, inside, 0.0, T)
    return h


@triton.jit(do_not_specialize=["joints", "channels", "rows", "columns"])
def features_pass_kernel(
    logits, features, beta, stats, g_appearance, slopes, d_features, scale: tl.float64,
    joints, channels, rows, columns, pixels,
    logits_image, logits_channel, logits_row, logits_pixel,
    features_image, features_channel, features_row, features_pixel,
    d_features_image, d_features_channel, d_features_row, d_features_pixel, beta_image, beta_joint,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
    PRODUCT: tl.constexpr, SPLIT: tl.constexpr, SCALE: tl.constexpr,
    JOINTS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """slopes[j,p] = sum_c g_appearance[j,c]*F[c,p]; where all joints are here, d_features too."""
    strips = (pixels + PIXELS - 1) // PIXELS
    program = tl.program_id(0)
    p = (program % strips) * PIXELS + tl.arange(0, PIXELS)
    groups = (joints + JOINTS - 1) // JOINTS
    b = (program // strips // groups).to(tl.int64)
    j = (program // strips % groups) * JOINTS + tl.arange(0, JOINTS)
    y, x = rows_and_columns(p, columns)
    offsets = plane_offsets(p, y, x, features_row, features_pixel, LINE, WIDE)
    if d_features is not None:
        h = SCALE * probabilities(
            logits, beta, scale, stats, b, j, p, y, x, joints, pixels, logits_image, logits_channel, logits_row,
            logits_pixel, beta_image, beta_joint, T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
        d_offsets = plane_offsets(p, y, x, d_features_row, d_features_pixel, LINE, WIDE)
    s = tl.zeros((JOINTS, PIXELS), T)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        known = (c < channels)[:, None] & (p < pixels)[None, :]
        places = g_appearance + (b * joints + j)[:, None] * channels + c[None, :]
        g = tl.load(places, mask=(j < joints)[:, None] & (c < channels)[None, :], other=0.0).to(PRODUCT)
        if slopes is not None:
            pooled = lines(b, c, features_image, features_channel)
            s = product(g, load_tile(features, pooled, offsets, known, 0.0, PRODUCT), s)
        if d_features is not None:
            d = transposed_product(g, h, tl.zeros((CHANNELS, PIXELS), T), SPLIT)
            store_tile(d_features, lines(b, c, d_features_image, d_features_channel), d_offsets, known, d / SCALE)
    if slopes is not None:
        places = slopes + (b * joints + j)[:, None] * pixels + p[None, :]
        tl.store(places, s, mask=(j < joints)[:, None] & (p < pixels)[None, :])


@device_function
def transposed_product(g, h, sums, SPLIT: tl.constexpr):
    """Return sums + g^T @ h, where h is in the computing type and g in that of the product; see `weighted_product`."""
    high = to_storage(h, g.dtype)
    sums = product(tl.trans(g), high, sums)
    if SPLIT:
        sums = product(tl.trans(g), to_storage(h - high.to(h.dtype), g.dtype), sums)
    return sums


@triton.jit(do_not_specialize=["joints", "channels", "rows", "columns"])
def d_features_kernel(
    logits, beta, stats, g_appearance, d_features, scale: tl.float64,
    joints, channels, rows, columns, pixels, logits_image, logits_channel, logits_row, logits_pixel,
    d_features_image, d_features_channel, d_features_row, d_features_pixel, beta_image, beta_joint,
    T: tl.constexpr, SOFTMAX: tl.constexpr, LINE: tl.constexpr, WIDE: tl.constexpr,
    PRODUCT: tl.constexpr, SPLIT: tl.constexpr, SCALE: tl.constexpr,
    JOINTS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """d_features[c,p] = sum_j g_appearance[j,c]*h[j,p], for any number of joints."""
    strips = (pixels + PIXELS - 1) // PIXELS
    program = tl.program_id(0)
    p = (program % strips) * PIXELS + tl.arange(0, PIXELS)
    groups = (channels + CHANNELS - 1) // CHANNELS
    b = (program // strips // groups).to(tl.int64)
    c = (program // strips % groups) * CHANNELS + tl.arange(0, CHANNELS)
    y, x = rows_and_columns(p, columns)
    d = tl.zeros((CHANNELS, PIXELS), T)
    for first in range(0, joints, JOINTS):
        j = first + tl.arange(0, JOINTS)
        h = SCALE * probabilities(
            logits, beta, scale, stats, b, j, p, y, x, joints, pixels, logits_image, logits_channel, logits_row,
            logits_pixel, beta_image, beta_joint, T, SOFTMAX, LINE, WIDE,
        )  # fmt: skip
        places = g_appearance + (b * joints + j)[:, None] * channels + c[None, :]
        g = tl.load(places, mask=(j < joints)[:, None] & (c < channels)[None, :], other=0.0).to(PRODUCT)
        d = transposed_product(g, h, d, SPLIT)
    offsets = plane_offsets(p, y, x, d_features_row, d_features_pixel, LINE, WIDE)
    known = (c < channels)[:, None] & (p < pixels)[None, :]
    store_tile(d_features, lines(b, c, d_features_image, d_features_channel), offsets, known, d / SCALE)


def appearance_backward_launches(
    logits: Tensor,
    features: Tensor,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    stats: Tensor | None,
    g_appearance: Tensor,
    slopes: Tensor | None,
    d_features: Tensor | None,
) -> list[Launch]:
    """Return the launches that write `slopes` (B, J, Y, X), contiguous in the computing type, and `d_features`.

    Either may be None where not needed.
    """
    T = computing_type(logits, features, depth_logits)
    batch, joints, rows, columns = logits.shape
    channels = features.shape[1]
    kind, split, factor = product_type(T, logits, features, stats is not None)
    tile = plan_features_gradient(
        joints,
        channels,
        rows * columns,
        half=kind.itemsize == 2,
        double=kind.itemsize == 8,
        interpreted=INTERPRETED.value,
    )
    shared = beta_arguments(beta, scale) | size_arguments(logits)
    shared |= {"channels": channels, "stats": stats, "g_appearance": g_appearance}
    types = {"T": TYPES[T], "SOFTMAX": stats is not None, "PRODUCT": TYPES[kind], "SPLIT": split, "SCALE": factor}
    types |= {"JOINTS": tile.joints, "CHANNELS": tile.channels, "PIXELS": tile.pixels}
    strips = batch * tiles(rows * columns, tile.pixels)
    launches = []
    together = tile.path == ONE_PASS
    if slopes is not None or (together and d_features is not None):
        arguments, constants = maps_arguments(
            logits=logits, features=features, d_features=d_features if together else None
        )
        arguments |= shared | {"slopes": slopes}
        programs = strips * tiles(joints, tile.joints)
        launches.append(Launch(features_pass_kernel, programs, arguments, constants | types, tile.warps))
    if d_features is not None and not together:
        arguments, constants = maps_arguments(logits=logits, d_features=d_features)
        programs = strips * tiles(channels, tile.channels)
        launches.append(Launch(d_features_kernel, programs, arguments | shared, constants | types, tile.warps))
    return launches
