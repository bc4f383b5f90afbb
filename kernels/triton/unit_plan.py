"""How the convolution units are cut into programs: pure functions of sizes and types.

The reasoning, for GPUs of about MULTIPROCESSORS multiprocessors. Sums of a product take 64 registers a thread or fewer;
the tiles that are being loaded fit a multiprocessor twice. A program's tiles are halved until there is one program for
each multiprocessor, or the least that the tensor cores multiply.

A depthwise convolution costs about five instructions a tap, a channel and a pixel (load, norm, relu, mask, sum), more
than the tensor cores need for all products that follow. It must not be repeated for each tile of output channels: one
kernel does both where a program can hold all output channels of its pixels, or where pixels are so few that the
multiprocessors would be idle and a launch costs more than the repetition. Elsewhere two kernels are better: the first makes
several rows at once, which takes half the instructions, and what it writes the second finds in the cache. A bottleneck
is always two kernels: its k x k convolution reads the middle map of neighbouring pixels, which other programs make.
"""

from __future__ import annotations

from typing import NamedTuple

from pyhar.kernels.triton.plan import MULTIPROCESSORS, power_of_two

LEAST_SIDE = 16  # of a product that the tensor cores take
OUTS = (128, 64, 32, LEAST_SIDE)
STAGE_BYTES = 72 * 1024  # of the tiles being loaded, so that two programs fit the smallest shared memory, 163 KiB
STAGES = 3
FUSED_PIXELS = 32  # most pixels of a program that holds all output channels
FUSED_SUMS = 16 * 640  # most sums of such a program: 80 registers a thread
DEPTHWISE_VALUES = 1024  # a program's values of one row: 8 a thread, what 16 bytes hold
DEPTHWISE_ROWS = 4


class ProductTile(NamedTuple):
    """Pixels, output channels and input channels of a program's products."""

    pixels: int
    out: int
    depth: int
    warps: int
    stages: int


class SeparableTile(NamedTuple):
    """Pixels of a program of the separable unit in one kernel, its output channels (`tiles` times `out`), and the
    input channels that it takes at a time."""

    pixels: int
    out: int
    tiles: int
    depth: int
    warps: int


class DepthwiseTile(NamedTuple):
    """Rows, columns and channels of a program of the depthwise convolution."""

    rows: int
    columns: int
    channels: int
    warps: int


def out_tile(out_channels: int) -> int:
    """Return the tile of output channels: least padding, but reading the pixels once more costs as 16 channels do."""
    return min(OUTS, key=lambda size: (-(-out_channels // size) * (size + LEAST_SIDE), -size))


def plan_product(pixels: int, out_channels: int, item_bytes: int) -> ProductTile:
    """Return the tile of a product with `pixels` rows (over all pictures) and `out_channels` columns."""
    out = out_tile(out_channels)
    rows = 128 if item_bytes == 2 else 64

    def programs() -> int:
        return -(-pixels // rows) * -(-out_channels // out)

    while rows > LEAST_SIDE and programs() < MULTIPROCESSORS:
        rows //= 2
    while out > 2 * LEAST_SIDE and programs() < MULTIPROCESSORS:
        out //= 2
    depth = 64 if item_bytes == 2 else 32
    while STAGES * (rows + out) * depth * item_bytes > STAGE_BYTES:
        depth //= 2
    return ProductTile(rows, out, depth, 8 if rows * out > 4096 else 4, STAGES)


def plan_separable(pixels: int, channels: int, out_channels: int, kernel: int, item_bytes: int) -> SeparableTile | None:
    """Return the tile of the separable unit in one kernel; None where two are better.

    Args:
        pixels: over all pictures.
        channels, out_channels: of input and output.
        kernel: side of the depthwise kernel.
        item_bytes: of a stored value.
    """
    rows = LEAST_SIDE if -(-pixels // FUSED_PIXELS) < MULTIPROCESSORS else FUSED_PIXELS
    programs = -(-pixels // rows)
    out = out_tile(out_channels)
    total = -(-out_channels // out)
    tiles = -(-total // max(1, min(total, MULTIPROCESSORS // programs)))
    if programs > 2 * MULTIPROCESSORS or rows * out * tiles > FUSED_SUMS:
        return None
    depth = min(32, max(LEAST_SIDE, power_of_two(channels)))
    return SeparableTile(rows, out, tiles, depth, 4 if rows * out * tiles <= 8192 else 8)


def plan_depthwise(batch: int, channels: int, rows: int, columns: int) -> DepthwiseTile:
    """Return the tile of the depthwise convolution of `batch` maps."""
    across = min(16, power_of_two(columns))
    return DepthwiseTile(min(DEPTHWISE_ROWS, rows), across, DEPTHWISE_VALUES // across, 4)
