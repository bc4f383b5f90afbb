"""The pooling unit."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import INTERPRETED, device_function
from pyhar.kernels.triton.launch import Launch, tiles
from pyhar.kernels.triton.unit_blocks import maps_arguments, pixel_offsets, places, store_maps
from pyhar.kernels.triton.unit_plan import plan_pooling


@device_function
def largest(best, value):
    """Return the larger value, NaN where either is."""
    return tl.maximum(best, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["rows", "columns", "out_rows", "out_columns", "pixels"])
def unit_pooling_kernel(
    maps, out, channels, rows, columns, out_rows, out_columns, pixels,
    maps_image, maps_row, maps_pixel, out_image, out_row, out_pixel,
    KERNEL: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """PIXELS pixels of the output, over all pictures, by CHANNELS channels."""
    strips = (channels + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    c = (program % strips) * CHANNELS + tl.arange(0, CHANNELS)
    p = (program // strips) * PIXELS + tl.arange(0, PIXELS)
    n, y, x = places(p, out_rows, out_columns)
    here = p < pixels
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    for j in tl.static_range(KERNEL):
        for i in tl.static_range(KERNEL):
            row, column = DOWN * y + j, ACROSS * x + i
            known = here & (row < rows) & (column < columns)
            offsets = pixel_offsets(p, n, row, column, maps_image, maps_row, maps_pixel, False)
            known = known[:, None] & (c < channels)[None, :]
            value = tl.load(maps + offsets[:, None] + c[None, :], mask=known, other=float("-inf"))
            best = largest(best, value)
    store_maps(out, pixel_offsets(p, n, y, x, out_image, out_row, out_pixel, False), here, c, channels, best)


def unit_pooling_launch(x: Tensor, kernel: int, stride: tuple[int, int], out: Tensor) -> Launch:
    """Return the launch that writes `out`."""
    batch, channels, out_rows, out_columns = out.shape
    pixels = batch * out_rows * out_columns
    tile = plan_pooling(pixels, channels, interpreted=INTERPRETED.value)
    arguments, _ = maps_arguments(out_columns, maps=x, out=out)
    arguments |= {"channels": channels, "rows": x.shape[2], "columns": x.shape[3]}
    arguments |= {"out_rows": out_rows, "out_columns": out_columns, "pixels": pixels}
    constants = {"KERNEL": kernel, "DOWN": stride[0], "ACROSS": stride[1]}
    constants |= {"PIXELS": tile.pixels, "CHANNELS": tile.channels}
    programs = tiles(pixels, tile.pixels) * tiles(channels, tile.channels)
    return Launch(unit_pooling_kernel, programs, arguments, constants, tile.warps)
