"""How the convolution units are cut into programs: pure functions of sizes and types.

The reasoning, for GPUs of about MULTIPROCESSORS multiprocessors. The sums of a product take 64 registers a thread or
fewer, and the tiles that are being loaded fit a multiprocessor twice. Tiles are halved until there is a program for
each multiprocessor, or they are the least that the tensor cores take.

A depthwise convolution costs about five instructions a tap, a channel and a pixel (load, norm, relu, mask, sum), more
than all products that follow it cost the tensor cores: it should not be repeated for each tile of output channels. One
kernel does both for as many pixels as the multiprocessors hold at once. Its programs have few pixels and all output
channels, or as many as leave no multiprocessor idle: there a repetition costs no time. It saves a launch, which is what
small maps mostly cost. For more pixels two kernels are better: the first makes several rows at once, which takes half
the instructions, and what it writes the second finds in the cache, for larger tiles and with loads ahead of products.

A bottleneck is always two kernels: its k x k convolution reads the middle map of neighbouring pixels, which other
programs make.
"""

from __future__ import annotations

from typing import NamedTuple

from pyhar.kernels.triton.plan import MULTIPROCESSORS, power_of_two

LEAST_SIDE = 16  # of a product that the tensor cores take
OUTS = (128, 64, 32, LEAST_SIDE)
STAGES = 3
STAGE_BYTES = 48 * 1024  # of tiles being loaded: two programs, and what they hold besides, fit 163 KiB
FUSED_PROGRAMS = 2 * MULTIPROCESSORS  # most at once, of 16 pixels each, for the separable unit in one kernel
FUSED_OUTS = 640  # most output channels of such a program, half as many in float32: 40 and 20 registers a thread
DEPTHWISE_VALUES = 1024  # a program's values of one row: 8 a thread, in half precision what one load brings
DEPTHWISE_ROWS = 4
INTERPRETED_SIDE = 1024  # the interpreter's time is the number of tiles


class ProductTile(NamedTuple):
    """Pixels, output channels and input channels of a program's products."""

    pixels: int
    out: int
    depth: int
    warps: int
    stages: int


class SeparableTile(NamedTuple):
    """Pixels of a program of the separable unit in one kernel, its output channels (`tiles` times `out`), the input
    channels that it takes at a time, and the most registers of a thread."""

    pixels: int
    out: int
    tiles: int
    depth: int
    warps: int
    registers: int


class DepthwiseTile(NamedTuple):
    """Rows, columns and channels of a program of the depthwise convolution."""

    rows: int
    columns: int
    channels: int
    warps: int


class PoolingTile(NamedTuple):
    """Pixels of the output and channels of a program of the pooling unit."""

    pixels: int
    channels: int
    warps: int


def out_tile(out_channels: int) -> int:
    """Return the tile of output channels: least padding, but reading the pixels once more costs as 16 channels do."""
    return min(OUTS, key=lambda size: (-(-out_channels // size) * (size + LEAST_SIDE), -size))


def plan_product(
    pixels: int, channels: int, out_channels: int, item_bytes: int, *, interpreted: bool = False
) -> ProductTile:
    """Return the tile of a product with `pixels` rows (over all pictures), summed over `channels`."""
    if interpreted:
        return ProductTile(_side(pixels), _side(out_channels), _side(channels), 4, 1)
    rows, out = 128 if item_bytes == 2 else 64, out_tile(out_channels)

    def programs() -> int:
        return -(-pixels // rows) * -(-out_channels // out)

    while rows > LEAST_SIDE and programs() < MULTIPROCESSORS:
        rows //= 2
    while out > 2 * LEAST_SIDE and programs() < MULTIPROCESSORS:
        out //= 2
    depth = min(64 if item_bytes == 2 else 32, _side(channels))
    while STAGES * (rows + out) * depth * item_bytes > STAGE_BYTES:
        depth //= 2
    return ProductTile(rows, out, depth, 8 if rows * out > 4096 else 4, STAGES)


def plan_separable(
    pixels: int, channels: int, out_channels: int, item_bytes: int, *, interpreted: bool = False
) -> SeparableTile | None:
    """Return the tile of the separable unit in one kernel; None where two are better. `pixels`: over all pictures."""
    programs = -(-pixels // LEAST_SIDE)
    if programs > FUSED_PROGRAMS:
        return None
    if interpreted:
        return SeparableTile(_side(pixels), _side(out_channels), 1, _side(channels), 4, 168)
    out = out_tile(out_channels)
    total = -(-out_channels // out)
    shares = max(1, min(total, MULTIPROCESSORS // max(programs, 1)))
    tiles = min(-(-total // shares), FUSED_OUTS * 2 // item_bytes // out)
    few = out * tiles <= 192
    depth = (32 if few else 64) * 2 // item_bytes
    return SeparableTile(LEAST_SIDE, out, tiles, min(depth, _side(channels)), 4 if few else 8, 168 if few else 255)


def plan_depthwise(channels: int, rows: int, columns: int, *, interpreted: bool = False) -> DepthwiseTile:
    """Return the tile of the depthwise convolution of maps."""
    lines = min(DEPTHWISE_ROWS, rows)
    if interpreted:
        return DepthwiseTile(lines, _side(columns), _side(channels), 4)
    across = min(16, power_of_two(columns))
    return DepthwiseTile(lines, across, DEPTHWISE_VALUES // across, 4)


def plan_pooling(pixels: int, channels: int, *, interpreted: bool = False) -> PoolingTile:
    """Return the tile of the pooling unit with `pixels` pixels of output, over all pictures."""
    if interpreted:
        return PoolingTile(_side(pixels), _side(channels), 4)
    across = min(64, power_of_two(channels))
    return PoolingTile(DEPTHWISE_VALUES // across, across, 4)


def _side(size: int) -> int:
    return min(max(power_of_two(size), LEAST_SIDE), INTERPRETED_SIDE)
