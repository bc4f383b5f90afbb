"""What the convolution units of `pyhar.ops.units` compute when their weights are int8.

Weights are whole numbers from -127 to 127 times a scale for each output channel. Pixels are rounded on their way into
a product, with scales found there and then: what is rectified to 0..255 times its scale, the rest to -127..127. A scale
is that of one pixel, so that its largest magnitude is the last number; where a k x k kernel runs over the maps, k > 1,
and before the last convolution of a bottleneck, it is that of one row of pixels. Products are exact, depthwise
convolutions and everything else are computed as ever. So no calibration is needed, and a picture's result depends on
that picture alone. Where a pixel (row) holds NaN or an infinity, all that is computed from it is NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar.ops.dispatch import register
from pyhar.ops.units import Skips, activated, repeated

Scales = tuple[Tensor, ...]

_TINY = 1e-30  # pixels whose largest magnitude is less become 0


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a convolution's weight as the units take it.

    Args:
        weight: (O, C, k, k), finite, of any floating type.

    Returns:
        int8 (O, C, k, k), and scales (O,), float32, such that their product is the weight as well as 255 steps between
        an output's largest magnitudes allow. Neither requires grad.

    Raises:
        TypeError: the weight is not floating-point.
        ValueError: it has another number of dimensions, or none of one but the outputs, or holds NaN or an infinity.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a tensor, got {type(weight).__name__}")
    if not weight.is_floating_point():
        raise TypeError(f"weight: expected a floating type, got {weight.dtype}")
    if weight.ndim != 4 or 0 in weight.shape[1:]:
        raise ValueError(f"weight: expected shape (O, C, k, k), got {tuple(weight.shape)}")
    if not bool(weight.isfinite().all()):
        raise ValueError("weight: holds NaN or an infinity, which int8 has no number for; mend the weights first")
    wide = weight.detach().double()
    scale = (wide.abs().amax(dim=(1, 2, 3)) / 127).float()
    step = torch.where(scale > 0, scale, 1.0).double()[:, None, None, None]
    return (wide / step).round().clamp(-127, 127).to(torch.int8), scale


def _rounded(maps: Tensor, *, rectified: bool, row: bool) -> Tensor:
    """float64 maps with each pixel, or row of pixels, rounded."""
    most = 255 if rectified else 127
    largest = maps.abs().amax(dim=(1, 3) if row else 1, keepdim=True)
    scale = torch.where(largest < _TINY, 0.0, largest / most)
    steps = (maps * (most / largest.clamp_min(_TINY))).round()
    return torch.where(largest.isfinite(), steps * scale, torch.nan)


def _product(maps: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return F.conv2d(maps, weight.double() * scale.double()[:, None, None, None], padding="same")


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.double() for tensor in tensors]


def _summed(
    y: Tensor, a: Tensor, rectified: bool, shortcut: Tensor | None, scales: Scales, skips: Skips, dtype: torch.dtype
) -> Tensor:
    if shortcut is not None:
        y = y + _product(_rounded(a, rectified=rectified, row=False), shortcut, scales[-1])
    for skip in skips:
        y = y + skip
    return y.to(dtype)


def _eager_separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    scales: Scales,
    skips: Skips,
) -> Tensor:
    a = activated(x.double(), *_wide(scale, shift))
    spatial = F.conv2d(a, depthwise.double(), padding="same", groups=x.shape[1])
    y = _product(_rounded(spatial, rectified=False, row=False), pointwise, scales[0])
    return _summed(y, a, scale is not None, shortcut, scales, skips, x.dtype)


def _eager_upscaling_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    beside: Tensor,
    scales: Scales,
    skips: Skips,
) -> Tensor:
    unit = (scale, shift, depthwise, pointwise, None, scales)
    return _eager_separable_unit(repeated(x), *unit, (repeated(beside), *skips))


def _eager_bottleneck_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    shortcut: Tensor | None,
    scales: Scales,
    skips: Skips,
) -> Tensor:
    a = activated(x.double(), *_wide(scale, shift))
    reduced = _product(_rounded(a, rectified=scale is not None, row=False), reduce, scales[0])
    middle = torch.relu(reduced + bias.double()[:, None, None])
    y = _product(_rounded(middle, rectified=True, row=True), expand, scales[1])
    return _summed(y, a, scale is not None, shortcut, scales, skips, x.dtype)


def _eager_convolution_unit(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, scales: Scales, skips: Skips
) -> Tensor:
    a = activated(x.double(), *_wide(scale, shift))
    y = _product(_rounded(a, rectified=scale is not None, row=weight.shape[-1] > 1), weight, scales[0])
    return _summed(y, a, False, None, scales, skips, x.dtype)


register("int8_separable_unit", "eager", _eager_separable_unit)
register("int8_upscaling_unit", "eager", _eager_upscaling_unit)
register("int8_bottleneck_unit", "eager", _eager_bottleneck_unit)
register("int8_convolution_unit", "eager", _eager_convolution_unit)
