"""The crop of a picture by one affine map, and which part of a picture a crop shows.

A crop interpolates once. Where it shows the picture smaller, whole blocks of n x n pixels are first averaged, n about
the number of picture pixels that one of the crop's covers, so that none is passed over: INTER_AREA's filter, which
OpenCV's warps do not offer, on the picture's own grid, where it costs little. The map takes the blocks' centres into
account. Only the part that the crop shows is averaged.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import Matrix

Picture = npt.NDArray[np.uint8]

# Blocks are as large as a crop's pixel, rounded down but for a little: interpolation alone bears 1.6 to 1.
_ROUNDING = 0.4


def warp(picture: Picture, to_pixels: Matrix, size: int, *, bgr: bool = False, out: Picture | None = None) -> Picture:
    """The crop, RGB (size, size, 3), of a picture (H, W, 3), RGB or BGR, by the map `to_pixels` (3, 3) of pixel
    indices; black outside. It is written into `out` if that is given."""
    if out is None:
        out = np.empty((size, size, 3), np.uint8)
    height, width = picture.shape[:2]
    block = block_size(to_pixels)
    left, top, right, bottom = shown_part(to_pixels, size, width, height, block)
    if right <= left or bottom <= top:
        out[:] = 0
        return out
    # With a fourth channel, OpenCV's warp takes half the time.
    part = cv2.cvtColor(picture[top:bottom, left:right], cv2.COLOR_BGR2RGBA if bgr else cv2.COLOR_RGB2RGBA)
    if block > 1:
        rows, columns = -(-part.shape[0] // block), -(-part.shape[1] // block)
        missing = rows * block - part.shape[0], columns * block - part.shape[1]
        if any(missing):  # at the picture's edge
            part = cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        part = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    warped = cv2.warpAffine(part, of_blocks(to_pixels, left, top, block), (size, size), flags=cv2.INTER_LINEAR)
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)
    return out


def shrinking(to_pixels: Matrix) -> float:
    """Picture pixels along the side of one of the crop's."""
    (a, b), (c, d) = to_pixels[:2, :2].tolist()
    return float(abs(a * d - b * c) ** -0.5)


def block_size(to_pixels: Matrix) -> int:
    """How many picture pixels across are averaged into one before a crop interpolates."""
    return max(int(shrinking(to_pixels) + _ROUNDING), 1)


def of_blocks(to_pixels: Matrix, left: int, top: int, block: int) -> Matrix:
    """The map (2, 3) to the crop's pixels from the indices of blocks, which begin at a picture's pixel (left, top)."""
    matrix: Matrix = to_pixels[:2].copy()
    # Block i averages picture pixels left + block * i to left + block * i + block - 1.
    matrix[:, 2] += matrix[:, 0] * (left + 0.5 * (block - 1)) + matrix[:, 1] * (top + 0.5 * (block - 1))
    matrix[:, :2] *= block
    return matrix


def shown_part(to_pixels: Matrix, size: int, width: int, height: int, multiple: int) -> tuple[int, int, int, int]:
    """The part of a picture that a crop shows: left, top, right, bottom, the latter two excluded, and its sides
    multiples of `multiple` but where the picture ends. Empty where the crop shows nothing of it."""
    (a, b, x), (c, d, y) = to_pixels[:2].tolist()
    area = a * d - b * c
    corners = [(u - x, v - y) for u in (-0.5, size - 0.5) for v in (-0.5, size - 0.5)]
    across = [(d * u - b * v) / area for u, v in corners]
    down = [(a * v - c * u) / area for u, v in corners]
    # Interpolation reaches for the next block.
    reach = 1 + multiple

    def span(values: list[float], limit: int) -> tuple[int, int]:
        first = min(max(math.floor(min(values)) - reach, 0), limit)
        last = math.ceil(max(values)) + reach + 1
        return first, min(first + -(-(last - first) // multiple) * multiple, limit)

    (left, right), (top, bottom) = span(across, width), span(down, height)
    return left, top, right, bottom
