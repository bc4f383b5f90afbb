"""The crop of a picture by one affine map, and which part of a picture a crop shows.

A crop interpolates once. Where it shows the picture smaller, whole blocks of n x n pixels are first averaged, n about
the number of picture pixels that one of the crop's covers, so that none is passed over: INTER_AREA's filter, which
OpenCV's warps do not offer, on the picture's own grid, where it costs little. n is a power of two: of all sizes OpenCV
is quick at 2 x 2 alone. The map takes the blocks' centres into account. Only the part that the crop shows is averaged.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import Matrix

Picture = npt.NDArray[np.uint8]

# What interpolation alone bears: so many blocks to a pixel of the crop.
_MOST = 1.6


class View:
    """The crop that one map makes of pictures of one size: what it shows of them, and how it is taken."""

    def __init__(self, to_pixels: Matrix, size: int, width: int, height: int, grid: int = 1) -> None:
        """to_pixels: (2 or 3, 3), from the picture's pixel indices to those of the crop, `size` pixels wide and high.
        grid: the part that is shown begins at multiples of so many pixels, and ends there or where the picture does."""
        # In plain numbers: of single points, NumPy's operations cost as much as those of a thousand.
        (a, b, x), (c, d, y) = to_pixels[:2].tolist()
        area = a * d - b * c
        self.size = size
        # No more than there are: a block is filled up at the picture's edge.
        self.block = block = min(block_size(to_pixels), 1 << max(width, height).bit_length() - 1)
        """How many picture pixels across are averaged into one before the crop interpolates."""
        corners = [(u - x, v - y) for u in (-0.5, size - 0.5) for v in (-0.5, size - 0.5)]
        multiple = grid * block
        self.left, self.right = _span([(d * u - b * v) / area for u, v in corners], width, grid, multiple)
        self.top, self.bottom = _span([(a * v - c * u) / area for u, v in corners], height, grid, multiple)
        """The part of the picture that is shown, the latter two excluded, its sides multiples of blocks but where the
        picture ends."""
        self.of_blocks = of_blocks(to_pixels, block, self.left, self.top)
        """The map (2, 3) to the crop's pixels from the indices of that part's blocks."""

    @property
    def empty(self) -> bool:
        """The crop shows nothing of the picture."""
        return self.right <= self.left or self.bottom <= self.top

    def write(self, picture: Picture, out: Picture, *, bgr: bool = False) -> None:
        """Write the crop of a picture (H, W, 3), RGB or BGR, into `out` (size, size, 3), RGB; black outside."""
        if self.empty:
            out[:] = 0
        else:
            self.write_part(picture[self.top : self.bottom, self.left : self.right], out, bgr=bgr)

    def write_part(self, part: Any, out: Picture, *, bgr: bool = False) -> None:
        """As `write`, given the shown part of the picture."""
        if self.block > 1:
            below, beside = -part.shape[0] % self.block, -part.shape[1] % self.block
            if below or beside:  # at the picture's edge
                part = cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            part = averaged(part, self.block)
        # With a fourth channel, OpenCV's warp takes half the time.
        part = cv2.cvtColor(part, cv2.COLOR_BGR2RGBA if bgr else cv2.COLOR_RGB2RGBA)
        warped = cv2.warpAffine(part, self.of_blocks, (self.size, self.size), flags=cv2.INTER_LINEAR)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)


def block_size(to_pixels: Matrix) -> int:
    """How many picture pixels across, by the map `to_pixels`, are averaged into one before the crop interpolates."""
    (a, b), (c, d) = to_pixels[:2, :2].tolist()
    block = 1
    while abs(a * d - b * c) ** -0.5 >= _MOST * block:
        block *= 2
    return block


def averaged(part: Any, block: int) -> Any:
    """Every `block` x `block` pixels of a picture (H, W) or (H, W, C) as one, H and W being multiples of that."""
    while block > 1:
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
        block //= 2
    return part


def of_blocks(to_pixels: Matrix, block: int, left: int = 0, top: int = 0) -> Matrix:
    """The map (2, 3) to the crop's pixels from the indices of blocks, which begin at a picture's pixel (left, top)."""
    (a, b, x), (c, d, y) = to_pixels[:2].tolist()
    # Block i averages picture pixels left + block * i to left + block * i + block - 1.
    u, v = left + 0.5 * (block - 1), top + 0.5 * (block - 1)
    return np.array([[a * block, b * block, x + a * u + b * v], [c * block, d * block, y + c * u + d * v]])


def _span(values: list[float], limit: int, grid: int, multiple: int) -> tuple[int, int]:
    """Where the part begins and ends that shows places from the least to the largest of `values`."""
    # Interpolation reaches for the next block.
    reach = 1 + multiple
    first = min(max(math.floor(min(values)) - reach, 0), limit) // grid * grid
    last = max(math.ceil(max(values)) + reach + 1, 0)
    return first, min(first + -(-(last - first) // multiple) * multiple, limit)
