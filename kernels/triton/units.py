"""The launches of the convolution units, in the order in which they run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyhar.kernels.triton.blocks import INTERPRETED
from pyhar.kernels.triton.launch import Launch
from pyhar.kernels.triton.unit_plan import plan_separable
from pyhar.kernels.triton.unit_pool import unit_pooling_launch
from pyhar.kernels.triton.unit_product import unit_product_launch
from pyhar.kernels.triton.unit_separable import unit_depthwise_launch, unit_separable_launch

Skips = tuple[Tensor, ...]


def separable_launches(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
    out: Tensor,
) -> list[Launch]:
    """Return the launches that write `out`."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    sizes = (pixels, x.shape[1], pointwise.shape[0], x.dtype.itemsize)
    tile = plan_separable(*sizes, interpreted=INTERPRETED.value)
    if tile is not None:
        return [unit_separable_launch(x, scale, shift, depthwise, pointwise, shortcut, skips, out, tile)]
    spatial = _maps_like(x, x.shape[1])
    first = unit_depthwise_launch(x, scale, shift, depthwise, spatial)
    return [
        first,
        unit_product_launch(spatial, None, None, pointwise, out, skips=skips, **_side(x, scale, shift, shortcut)),
    ]


def bottleneck_launches(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
    out: Tensor,
) -> list[Launch]:
    """Return the launches that write `out`."""
    middle = _maps_like(x, reduce.shape[0])
    first = unit_product_launch(x, scale, shift, reduce, middle, bias=bias)
    return [
        first,
        unit_product_launch(middle, None, None, expand, out, skips=skips, **_side(x, scale, shift, shortcut)),
    ]


def convolution_launches(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, skips: Skips, out: Tensor
) -> list[Launch]:
    """Return the launches that write `out`."""
    return [unit_product_launch(x, scale, shift, weight, out, skips=skips)]


def pooling_launches(x: Tensor, kernel: int, stride: tuple[int, int], out: Tensor) -> list[Launch]:
    """Return the launches that write `out`."""
    return [unit_pooling_launch(x, kernel, stride, out)]


def _side(x: Tensor, scale: Tensor | None, shift: Tensor | None, shortcut: Tensor | None) -> dict[str, Any]:
    """Return the arguments that add the shortcut to a product."""
    if shortcut is None:
        return {}
    return {"side": x, "side_scale": scale, "side_shift": shift, "side_weight": shortcut}


def _maps_like(x: Tensor, channels: int) -> Tensor:
    """Return memory for what is handed from one kernel to the next."""
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
