"""Grid conventions: which coordinate the pixel of index i has along an axis of n pixels; `pyhar.ops` lists them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyhar.errors import unknown_name

# Every convention is the straight line i / unit + first; this gives (unit, first) for n pixels. An axis of one pixel
# lies at `first`.
GRIDS: dict[str, Callable[[int], tuple[float, float]]] = {
    "corners": lambda n: (n - 1 if n > 1 else 1, 0.0),  # i / (n-1)       first and last pixel centre at 0 and 1
    "unit": lambda n: (n, 0.0),  #                         i / n           Eq. 8
    "centers": lambda n: (n, 0.5 / n),  #                  (i + 0.5) / n   picture edges at 0 and 1
    "pixels": lambda n: (1, 0.0),  #                       i
    "ndc_corners": lambda n: ((n - 1) / 2 if n > 1 else 1, -1.0),  # 2i / (n-1) - 1
    "ndc_centers": lambda n: (n / 2, 1 / n - 1),  #        (2i + 1)/n - 1  picture edges at -1 and 1
}


def check_grid(grid: str) -> None:
    """Raise unless `grid` names a convention."""
    if not isinstance(grid, str):
        raise TypeError(f"grid: expected one of {', '.join(GRIDS)}, got {grid!r}")
    if grid not in GRIDS:
        raise unknown_name("grid", grid, GRIDS)


def line(grid: str, n: int) -> tuple[float, float]:
    """Return (unit, first): the pixel of index i on an axis of `n` pixels lies at i / unit + first."""
    return GRIDS[grid](n)


def axis(grid: str, n: int, like: Tensor) -> Tensor:
    """Return the coordinates (n,) of an axis of `n` pixels, in the type and on the device of `like`.

    Made anew at each call: a cached tensor would have to be kept apart for every device, stream capture, inference mode
    and function transform it might have been made under, for the sake of a few microseconds.
    """
    unit, first = line(grid, n)
    return torch.arange(n, dtype=like.dtype, device=like.device).div_(unit).add_(first)
