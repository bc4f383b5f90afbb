"""The separable unit: in one kernel, or its depthwise half alone, which `unit_product` follows."""

from __future__ import annotations

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
    store_maps,
    weight_tile,
)
from pyhar.kernels.triton.unit_plan import DepthwiseTile, SeparableTile, plan_depthwise

# Sums of several tiles are tuples. Without annotations, for mypy would take the empty one for the type of all.


@device_function
def zeros(COUNT, ROWS, COLUMNS):
    """Return COUNT tiles of zeros."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    return sums


@device_function
def add_products(sums, a, weight, first, out_channels, c, channels, OUT, TILES):
    """Return each of the sums plus the products with its tile of output channels."""
    following = ()
    for t in tl.static_range(TILES):
        w = weight_tile(weight, first + t * OUT + tl.arange(0, OUT), out_channels, 0, 1, c, channels)
        following = following + (multiply(a, w, sums[t]),)
    return following


@device_function
def add_line(sums, a, depthwise, line, i, c, channels, ROWS, KERNEL):
    """Return the sums of ROWS rows plus what column i of the kernel adds where input line `line` meets it."""
    following = ()
    for r in tl.static_range(ROWS):
        total = sums[r]
        if line - r >= 0 and line - r < KERNEL:
            w = tl.load(depthwise + ((line - r) * KERNEL + i) * channels + c, mask=c < channels, other=0.0)
            total += a * w.to(tl.float32)[None, :]
        following = following + (total,)
    return following


@triton.jit(do_not_specialize=["rows", "columns", "pixels"])
def unit_separable_kernel(
    maps, scale, shift, depthwise, weight, shortcut, skip, other, out,
    channels, out_channels, rows, columns, pixels,
    maps_image, maps_row, maps_pixel, skip_image, skip_row, skip_pixel, other_image, other_row, other_pixel,
    out_image, out_row, out_pixel,
    LINE: tl.constexpr, KERNEL: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, TILES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """For each block of channels: the depthwise sums, in registers, then their products with TILES tiles of outputs."""
    count = (out_channels + OUT * TILES - 1) // (OUT * TILES)
    program = tl.program_id(0)
    p = (program // count) * PIXELS + tl.arange(0, PIXELS)
    first = (program % count) * (OUT * TILES)
    n, y, x = places(p, rows, columns)
    here = p < pixels
    offsets = pixel_offsets(p, n, y, x, maps_image, maps_row, maps_pixel, LINE)
    sums = zeros(TILES, PIXELS, OUT)
    for start in range(0, channels, DEPTH):
        c = start + tl.arange(0, DEPTH)
        factor, term = scale, shift  # None stays None: Triton 3.6 has no functions that return it
        if scale is not None:
            factor, term = channel_values(scale, c, channels), channel_values(shift, c, channels)
        spatial = tl.zeros((PIXELS, DEPTH), tl.float32)
        for i in range(KERNEL):
            dx = i - KERNEL // 2
            across = here & (x + dx >= 0) & (x + dx < columns)
            moved = offsets + dx * maps_pixel
            for j in tl.static_range(KERNEL):
                dy = j - KERNEL // 2
                inside = across & (y + dy >= 0) & (y + dy < rows)
                a = activated(maps, moved + dy * maps_row, inside, c, channels, factor, term)
                w = tl.load(depthwise + (j * KERNEL + i) * channels + c, mask=c < channels, other=0.0)
                spatial += a.to(tl.float32) * w.to(tl.float32)[None, :]
        sums = add_products(sums, spatial, weight, first, out_channels, c, channels, OUT, TILES)
    if shortcut is not None:
        for start in range(0, channels, DEPTH):
            c = start + tl.arange(0, DEPTH)
            factor, term = scale, shift
            if scale is not None:
                factor, term = channel_values(scale, c, channels), channel_values(shift, c, channels)
            a = activated(maps, offsets, here, c, channels, factor, term)
            sums = add_products(sums, a, shortcut, first, out_channels, c, channels, OUT, TILES)
    for t in tl.static_range(TILES):
        o = first + t * OUT + tl.arange(0, OUT)
        places_in = pixel_offsets(p, n, y, x, skip_image, skip_row, skip_pixel, LINE)
        total = added(sums[t], skip, places_in, here, o, out_channels)
        places_in = pixel_offsets(p, n, y, x, other_image, other_row, other_pixel, LINE)
        total = added(total, other, places_in, here, o, out_channels)
        store_maps(out, pixel_offsets(p, n, y, x, out_image, out_row, out_pixel, LINE), here, o, out_channels, total)


@triton.jit(do_not_specialize=["rows", "columns"])
def unit_depthwise_kernel(
    maps, scale, shift, depthwise, out, channels, rows, columns,
    maps_image, maps_row, maps_pixel, out_image, out_row, out_pixel,
    LINE: tl.constexpr, KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of outputs at once: each activated input is made once for all outputs of its column that read it."""
    strips = (channels + CHANNELS - 1) // CHANNELS
    across = (columns + COLUMNS - 1) // COLUMNS
    down = (rows + ROWS - 1) // ROWS
    program = tl.program_id(0)
    c = (program % strips) * CHANNELS + tl.arange(0, CHANNELS)
    program = program // strips
    x = (program % across) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // across
    top = (program % down) * ROWS
    n = (program // down).to(tl.int64)
    factor, term = scale, shift
    if scale is not None:
        factor, term = channel_values(scale, c, channels), channel_values(shift, c, channels)
    sums = zeros(ROWS, COLUMNS, CHANNELS)
    for i in range(KERNEL):  # columns outside: of the weights, one column at a time is held
        moved = x + (i - KERNEL // 2)
        inside = (x < columns) & (moved >= 0) & (moved < columns)
        offsets = n * maps_image + moved * maps_pixel
        for line in tl.static_range(ROWS + KERNEL - 1):
            y = top + line - KERNEL // 2
            visible = inside & (y >= 0) & (y < rows)
            a = activated(maps, offsets + y * maps_row, visible, c, channels, factor, term).to(tl.float32)
            sums = add_line(sums, a, depthwise, line, i, c, channels, ROWS, KERNEL)
    for r in tl.static_range(ROWS):
        offsets = n * out_image + ((top + r) * out_row + x * out_pixel)
        store_maps(out, offsets, (x < columns) & (top + r < rows), c, channels, sums[r])


def unit_separable_launch(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: tuple[Tensor, ...],
    out: Tensor,
    tile: SeparableTile,
) -> Launch:
    """Return the launch that computes the whole unit."""
    batch, channels, rows, columns = x.shape
    out_channels, pixels = pointwise.shape[0], batch * rows * columns
    skip, other = (*skips, None, None)[:2]
    arguments, constants = maps_arguments(columns, maps=x, skip=skip, other=other, out=out)
    arguments |= {"scale": contiguous(scale), "shift": contiguous(shift), "depthwise": channels_inside(depthwise)}
    arguments |= {"weight": pointwise.contiguous(), "shortcut": contiguous(shortcut)}
    arguments |= {"channels": channels, "out_channels": out_channels, "rows": rows, "columns": columns}
    arguments |= {"pixels": pixels}
    constants |= {"KERNEL": depthwise.shape[-1], "PIXELS": tile.pixels, "OUT": tile.out, "TILES": tile.tiles}
    constants |= {"DEPTH": tile.depth}
    programs = tiles(pixels, tile.pixels) * tiles(out_channels, tile.out * tile.tiles)
    return Launch(unit_separable_kernel, programs, arguments, constants, tile.warps, 1, tile.registers)


def unit_depthwise_launch(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    out: Tensor,
    tile: DepthwiseTile | None = None,
) -> Launch:
    """Return the launch that writes depthwise(a); `tile` None takes that of the plan."""
    batch, channels, rows, columns = x.shape
    kernel = depthwise.shape[-1]
    if tile is None:
        tile = plan_depthwise(channels, rows, columns, interpreted=INTERPRETED.value)
    arguments, constants = maps_arguments(columns, maps=x, out=out)
    arguments |= {"scale": contiguous(scale), "shift": contiguous(shift), "depthwise": channels_inside(depthwise)}
    arguments |= {"channels": channels, "rows": rows, "columns": columns}
    constants |= {"KERNEL": kernel, "ROWS": tile.rows, "COLUMNS": tile.columns, "CHANNELS": tile.channels}
    programs = batch * tiles(rows, tile.rows) * tiles(columns, tile.columns) * tiles(channels, tile.channels)
    return Launch(unit_depthwise_kernel, programs, arguments, constants, tile.warps)


def channels_inside(depthwise: Tensor) -> Tensor:
    """Return depthwise weights (C, 1, k, k) as (taps, C): as they are if their channels are innermost, else a copy."""
    return depthwise.permute(2, 3, 1, 0).contiguous()
