"""Products of maps with weights: 1x1 and k x k convolutions (as implicit GEMM) with everything around them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import INTERPRETED, device_function
from pyhar.kernels.triton.launch import Launch, tiles
from pyhar.kernels.triton.unit_blocks import (
    activated,
    added,
    channel_values,
    contiguous,
    maps_arguments,
    multiply,
    pixel_offsets,
    places,
    relu,
    store_maps,
    weight_tile,
)
from pyhar.kernels.triton.unit_plan import ProductTile, plan_product


@device_function
def add_convolution(
    sums, maps, offsets, p, y, x, o, pixels, rows, columns, channels, out_channels, row, pixel, scale, shift, weight,
    KERNEL: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return sums plus a k x k convolution of activated maps."""
    blocks = (channels + DEPTH - 1) // DEPTH
    for step in range(KERNEL * KERNEL * blocks):
        tap = step // blocks
        c = (step - tap * blocks) * DEPTH + tl.arange(0, DEPTH)
        inside = p < pixels
        moved = offsets
        if KERNEL > 1:
            dy, dx = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
            inside &= (y + dy >= 0) & (y + dy < rows) & (x + dx >= 0) & (x + dx < columns)
            moved = offsets + (dy * row + dx * pixel)
        factor, term = scale, shift  # None stays None: Triton 3.6 has no functions that return it
        if scale is not None:
            factor, term = channel_values(scale, c, channels), channel_values(shift, c, channels)
        a = activated(maps, moved, inside, c, channels, factor, term)
        w = weight_tile(weight, o, out_channels, tap, KERNEL * KERNEL, c, channels)
        sums = multiply(a, w, sums)
    return sums


@triton.jit(do_not_specialize=["rows", "columns", "pixels"])
def unit_product_kernel(
    maps, scale, shift, weight, side, side_scale, side_shift, side_weight, bias, skip, other, out,
    channels, side_channels, out_channels, rows, columns, pixels,
    maps_image, maps_row, maps_pixel, side_image, side_row, side_pixel, skip_image, skip_row, skip_pixel,
    other_image, other_row, other_pixel, out_image, out_row, out_pixel,
    LINE: tl.constexpr, KERNEL: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Programs that share pixels follow each other, so that the maps come from the cache."""
    count = (out_channels + OUT - 1) // OUT
    program = tl.program_id(0)
    p = (program // count) * PIXELS + tl.arange(0, PIXELS)
    o = (program % count) * OUT + tl.arange(0, OUT)
    n, y, x = places(p, rows, columns)
    offsets = pixel_offsets(p, n, y, x, maps_image, maps_row, maps_pixel, LINE)
    sums = tl.zeros((PIXELS, OUT), tl.float32)
    sums = add_convolution(
        sums, maps, offsets, p, y, x, o, pixels, rows, columns, channels, out_channels, maps_row, maps_pixel,
        scale, shift, weight, KERNEL, DEPTH,
    )  # fmt: skip
    if side is not None:
        offsets = pixel_offsets(p, n, y, x, side_image, side_row, side_pixel, LINE)
        sums = add_convolution(
            sums, side, offsets, p, y, x, o, pixels, rows, columns, side_channels, out_channels, side_row, side_pixel,
            side_scale, side_shift, side_weight, 1, DEPTH,
        )  # fmt: skip
    if bias is not None:
        sums = relu(sums + channel_values(bias, o, out_channels)[None, :])
    inside = p < pixels
    offsets = pixel_offsets(p, n, y, x, skip_image, skip_row, skip_pixel, LINE)
    sums = added(sums, skip, offsets, inside, o, out_channels)
    offsets = pixel_offsets(p, n, y, x, other_image, other_row, other_pixel, LINE)
    sums = added(sums, other, offsets, inside, o, out_channels)
    offsets = pixel_offsets(p, n, y, x, out_image, out_row, out_pixel, LINE)
    store_maps(out, offsets, inside, o, out_channels, sums)


def unit_product_launch(
    maps: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    side: Tensor | None = None,
    side_scale: Tensor | None = None,
    side_shift: Tensor | None = None,
    side_weight: Tensor | None = None,
    skips: tuple[Tensor, ...] = (),
    tile: ProductTile | None = None,
) -> Launch:
    """Return the launch that writes `out`.

    out = weight(a) [+ side_weight(side)] with a and side activated, then relu(out + bias) where there is a bias, then
    plus skips. `tile` None takes that of the plan.
    """
    batch, channels, rows, columns = maps.shape
    out_channels, kernel = weight.shape[0], weight.shape[-1]
    pixels = batch * rows * columns
    if tile is None:
        tile = plan_product(pixels, channels, out_channels, maps.dtype.itemsize, interpreted=INTERPRETED.value)
    skip, other = (*skips, None, None)[:2]
    arguments, constants = maps_arguments(columns, maps=maps, side=side, skip=skip, other=other, out=out)
    arguments |= {"scale": contiguous(scale), "shift": contiguous(shift), "weight": taps_outside(weight)}
    arguments |= {"side_scale": contiguous(side_scale), "side_shift": contiguous(side_shift)}
    arguments |= {"side_weight": None if side_weight is None else taps_outside(side_weight), "bias": contiguous(bias)}
    arguments |= {"channels": channels, "side_channels": 0 if side is None else side.shape[1]}
    arguments |= {"out_channels": out_channels, "rows": rows, "columns": columns, "pixels": pixels}
    constants |= {"KERNEL": kernel, "PIXELS": tile.pixels, "OUT": tile.out, "DEPTH": tile.depth}
    programs = tiles(pixels, tile.pixels) * tiles(out_channels, tile.out)
    return Launch(unit_product_kernel, programs, arguments, constants, tile.warps, tile.stages)


def taps_outside(weight: Tensor) -> Tensor:
    """Return a convolution's weights in memory as (O, taps, C): as they are if channels_last or 1x1, else a copy."""
    return weight.contiguous(memory_format=torch.channels_last)
