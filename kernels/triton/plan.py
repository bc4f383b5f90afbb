"""How a call is cut into programs: pure functions of sizes and types, so that tests can ask what will run.

The sizes of tiles are powers of two, as Triton wants them. The rules aim at 8 to 16 values a thread, which hides the
latency of memory without spilling registers, and at programs that are few enough for small inputs to be cheap.
"""

from __future__ import annotations

from typing import NamedTuple

PLANE = "plane"  # a program holds one whole plane
PLANES = "planes"  # a program holds several whole planes
STREAMED = "streamed"  # a program walks over its planes, tile by tile
ONE_PASS = "one pass"  # a program holds all joints, and so makes every gradient from one reading of the features
TWO_PASSES = "two passes"  # one kernel for the maps' gradient, one for the features'

# Most values of a tile and of a warp; fewer where each takes more registers: float64, the nine neighbours of the
# window's gradient, pixels that are not neighbours in memory, planes with a mask and sums of their own.
TILE_VALUES = 4096
SMALL_TILE_VALUES = 1024
VALUES_A_WARP = 256
MOST_WARPS = 8
SECTOR_BYTES = 32  # what memory delivers at the least
INTERPRETED_PIXELS = 512
MULTIPROCESSORS = 132  # fewer programs than this leave some of a large GPU idle


class Tile(NamedTuple):
    """Planes and pixels that a program works on at a time."""

    path: str
    planes: int
    pixels: int
    warps: int


class Pooling(NamedTuple):
    """Joints, channels and pixels of a program's matrix products."""

    path: str
    joints: int
    channels: int
    pixels: int
    warps: int


def power_of_two(n: int) -> int:
    """Return the least power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def plan_planes(
    joints: int,
    pixels: int,
    *,
    joints_innermost: bool,
    item_bytes: int,
    double: bool,
    neighbours: bool = False,
    scattered: bool = False,
) -> Tile:
    """Return the tile of a kernel that reduces each plane.

    Args:
        joints, pixels: planes of an image, pixels of a plane.
        joints_innermost: the maps are channels_last: neighbouring joints, not pixels, are neighbours in memory.
        item_bytes: bytes of a stored logit.
        double: computed in float64.
        neighbours: each pixel needs some of its eight neighbours (the confidence "window").
        scattered: the pixels of a plane do not follow each other at one stride.
    """
    most = TILE_VALUES >> (double + neighbours + (neighbours or joints_innermost) + joints_innermost)
    most >>= neighbours and scattered
    if joints_innermost:
        planes = min(power_of_two(joints), SECTOR_BYTES // item_bytes)
    else:
        planes = max(1, min(power_of_two(joints), (SMALL_TILE_VALUES >> neighbours) // power_of_two(pixels)))
    columns = min(power_of_two(pixels), most // planes)
    path = STREAMED if pixels > columns else PLANE if planes == 1 else PLANES
    warps = planes * columns // (VALUES_A_WARP >> max(double, 2 * neighbours, planes > 1))
    return Tile(path, planes, columns, max(1, min(MOST_WARPS << neighbours, warps)))


def plan_pooling(
    batch: int,
    joints: int,
    channels: int,
    pixels: int,
    *,
    half: bool,
    double: bool,
    neighbours: bool = False,
    interpreted: bool = False,
) -> Pooling:
    """Return the tile of the kernel that pools appearance.

    `half`: by products of half-precision matrices. `neighbours`: each pixel needs three of its neighbours (the
    confidence "window"). The interpreter's time is the number of tiles, so it takes large ones.
    """
    rows = min(max(power_of_two(joints), 16), 16 if double else 32)
    most = 32 if double else 64
    columns = min(max(power_of_two(channels), 16), most)
    while columns > 32 and batch * -(-joints // rows) * -(-channels // columns) < MULTIPROCESSORS:
        columns //= 2
    depth = min(max(power_of_two(pixels), 16), max(16, _depth(half, double, interpreted) >> neighbours))
    return Pooling(STREAMED, rows, columns, depth, _product_warps(rows, columns, depth))


def plan_features_gradient(
    joints: int, channels: int, pixels: int, *, half: bool, double: bool, interpreted: bool = False
) -> Pooling:
    """Return the tile of the kernels that carry the gradient of the appearance to maps and features."""
    rows = min(max(power_of_two(joints), 16), 64 if half else 16 if double else 32)
    columns = min(max(power_of_two(channels), 16), 64 if half else 16 if double else 32)
    depth = min(max(power_of_two(pixels), 16), _depth(half, double, interpreted))
    path = ONE_PASS if joints <= rows else TWO_PASSES
    return Pooling(path, rows, columns, depth, _product_warps(rows, columns, depth))


def _depth(half: bool, double: bool, interpreted: bool) -> int:
    return INTERPRETED_PIXELS if interpreted else 64 if half else 16 if double else 32


def _product_warps(rows: int, columns: int, depth: int) -> int:
    return 8 if rows > 16 or columns * depth > 2048 else 4
