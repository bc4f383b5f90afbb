"""Calls of the convolution units to compile the kernels of, at sizes that reach every kernel and plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar.kernels.triton.launch import Launch
from pyhar.kernels.triton.units import (
    bottleneck_launches,
    convolution_launches,
    pooling_launches,
    separable_launches,
)


class UnitCase(NamedTuple):
    """Sizes of a call of each unit; the shortcut is there where the channels change."""

    name: str
    batch: int
    channels: int
    out_channels: int
    side: int
    kernel: int
    dtype: torch.dtype
    norm: bool = True
    skips: int = 1
    step: int = 1
    """Every so many pixels of a larger map: pixels that do not follow each other at one stride."""


UNIT_CASES = (
    UnitCase("unit-bfloat16-32x32", 128, 384, 288, 32, 5, torch.bfloat16, skips=2),
    UnitCase("unit-bfloat16-16x16", 8, 384, 384, 16, 5, torch.bfloat16),
    UnitCase("unit-float16-4x4", 8, 480, 576, 4, 5, torch.float16),
    UnitCase("unit-float16-odd", 8, 84, 17, 17, 3, torch.float16, norm=False, skips=0, step=2),
    UnitCase("unit-float32-16x16", 8, 288, 384, 16, 5, torch.float32),
    UnitCase("unit-float32-128x128", 8, 64, 96, 128, 3, torch.float32),
)


def unit_launches(case: UnitCase) -> Iterator[Launch]:
    """Yield the launches of all units for a case."""
    C, M, K = case.channels, max(case.out_channels // 2, 1), case.kernel

    def maps(channels: int) -> Tensor:
        side = case.side * case.step
        shape = (case.batch, channels, side, side)
        whole = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=torch.channels_last)
        return whole[..., :: case.step, :: case.step]

    def weight(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=case.dtype, device="meta")

    x, out = maps(C), maps(case.out_channels)
    vector = torch.empty(C, device="meta") if case.norm else None
    pointwise = weight(case.out_channels, C, 1, 1)
    shortcut = pointwise if case.out_channels != C else None
    skips = (out,) * case.skips
    yield from separable_launches(x, vector, vector, weight(C, 1, K, K), pointwise, shortcut, skips, out)
    bias, expand = torch.empty(M, device="meta"), weight(case.out_channels, M, 3, 3)
    yield from bottleneck_launches(x, vector, vector, weight(M, C, 1, 1), bias, expand, shortcut, skips, out)
    yield from convolution_launches(x, vector, vector, pointwise, skips, out)
    yield from convolution_launches(x, vector, vector, weight(case.out_channels, C, 3, 3), skips, out)
    yield from pooling_launches(x, 2, (2, 2), F.max_pool2d(x, 2, ceil_mode=True))
