"""The network's convolution units in inference form: batch norm as scale and shift, everything up to the sums in one.

a = relu(scale * x + shift) is the unit's prologue (a = x without scale and shift), `skips` are up to two maps that are
added to its output (the input itself, a lateral connection). No operator has a bias beyond what is named; every
convolution is padded "same" with an odd kernel.

- `separable_unit`: y = pointwise(depthwise(a)) [+ shortcut(a)] + skips
- `upscaling_unit`: y = pointwise(depthwise(up(a))) + up(beside) + skips, where up repeats each pixel as 2 x 2
- `bottleneck_unit`: y = expand(relu(reduce(a) + bias)) [+ shortcut(a)] + skips; the middle norm is folded into `reduce`
- `convolution_unit`: y = weight(a) + skips, of any odd kernel, 1x1 included
- `pooling_unit`: y = the largest value of each window; it has no prologue and nothing is added
- `extremes_unit`: y = the largest value of each window plus the smallest; likewise
- `upsampling_unit`: y = every pixel four times; likewise
- `stem_unit`: y = weight(frames) with a stride; likewise

Maps are (N, C, Y, X), float16, bfloat16 or float32 (float64 too where plain PyTorch serves), N may be 0; weights have
the shape and layout of `torch.nn.Conv2d`'s and the type of the maps; scale, shift and bias are float32 (C,) tensors
(float64 for float64 maps). Sums are taken in float32; what a kernel keeps between the steps may be rounded to the type
of the maps. All weights but those of depthwise convolutions and stems may be int8 instead, with `weight_scales`:
`pyhar.ops.int8` says what is computed then. Compiled backends want channels_last maps and give channels_last out. They
have no derivatives: where a gradient is wanted plain PyTorch serves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar.ops.dispatch import register, run
from pyhar.ops.validation import check_maps

Skips = tuple[Tensor, ...]
Scales = tuple[Tensor, ...]


def separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    *,
    shortcut: Tensor | None = None,
    weight_scales: Scales = (),
    skips: Skips = (),
    backend: str | None = None,
) -> Tensor:
    """Return pointwise(depthwise(a)) [+ shortcut(a)] + skips, a = relu(scale * x + shift).

    Args:
        x: maps (N, C, Y, X).
        scale, shift: (C,), or both None for a = x.
        depthwise: (C, 1, k, k), k odd.
        pointwise, shortcut: (O, C, 1, 1); shortcut None leaves it out.
        weight_scales: float32 (O,) for `pointwise` and, if given, `shortcut`, which are int8 then.
        skips: up to two maps (N, O, Y, X).
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (N, O, Y, X) in the type of `x`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or device.
        UserError: the backend asked for cannot serve the call.
    """
    channels = _check_prologue(x, scale, shift)
    kernel, outputs = _shape("depthwise", depthwise)[-1], _shape("pointwise", pointwise)[0]
    _check_weight("depthwise", depthwise, x, (channels, 1, kernel, kernel))
    products = {"pointwise": (pointwise, (outputs, channels, 1, 1)), **_shortcut(shortcut, outputs, channels)}
    _check_products(products, weight_scales, x)
    _check_skips(x, outputs, skips)
    return _run("separable_unit", backend, weight_scales, skips, x, scale, shift, depthwise, pointwise, shortcut)


def upscaling_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    beside: Tensor,
    *,
    weight_scales: Scales = (),
    skips: Skips = (),
    backend: str | None = None,
) -> Tensor:
    """Return pointwise(depthwise(up(a))) + up(beside) + skips, a = relu(scale * x + shift), up: each pixel as 2 x 2.

    Args:
        beside: maps (N, O, Y, X): a product before the repetition is a quarter of the work of one behind it.
        weight_scales: float32 (O,) for `pointwise`, which is int8 then.
        skips: at most one, maps (N, O, 2 Y, 2 X).
        The others: as for `separable_unit`.

    Returns:
        Maps (N, O, 2 Y, 2 X) in the type of `x`.

    Raises: as `separable_unit`.
    """
    channels = _check_prologue(x, scale, shift)
    kernel, outputs = _shape("depthwise", depthwise)[-1], _shape("pointwise", pointwise)[0]
    _check_weight("depthwise", depthwise, x, (channels, 1, kernel, kernel))
    _check_products({"pointwise": (pointwise, (outputs, channels, 1, 1))}, weight_scales, x)
    _check_maps_like(x, "beside", beside, (x.shape[0], outputs, *x.shape[2:]))
    _check_skips(x, outputs, skips, most=1, sides=2)
    return _run("upscaling_unit", backend, weight_scales, skips, x, scale, shift, depthwise, pointwise, beside)


def bottleneck_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    *,
    shortcut: Tensor | None = None,
    weight_scales: Scales = (),
    skips: Skips = (),
    backend: str | None = None,
) -> Tensor:
    """Return expand(relu(reduce(a) + bias)) [+ shortcut(a)] + skips, a = relu(scale * x + shift).

    Args:
        reduce: (M, C, 1, 1); bias: (M,); expand: (O, M, k, k), k odd; the others, Returns, Raises: as for
            `separable_unit`.
        weight_scales: float32 (M,), (O,) and, with a shortcut, (O,) for `reduce`, `expand`, `shortcut`, int8 then.
    """
    channels, middle = _check_prologue(x, scale, shift), _shape("reduce", reduce)[0]
    outputs, _, _, kernel = _shape("expand", expand)
    products = {
        "reduce": (reduce, (middle, channels, 1, 1)),
        "expand": (expand, (outputs, middle, kernel, kernel)),
        **_shortcut(shortcut, outputs, channels),
    }
    _check_products(products, weight_scales, x)
    _check_vector("bias", bias, x, middle)
    _check_skips(x, outputs, skips)
    return _run("bottleneck_unit", backend, weight_scales, skips, x, scale, shift, reduce, bias, expand, shortcut)


def convolution_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    *,
    weight_scales: Scales = (),
    skips: Skips = (),
    backend: str | None = None,
) -> Tensor:
    """Return weight(a) + skips, a = relu(scale * x + shift).

    Args:
        weight: (O, C, k, k), k odd; the others, Returns, Raises: as for `separable_unit`.
        weight_scales: float32 (O,) for `weight`, which is int8 then.
    """
    channels = _check_prologue(x, scale, shift)
    outputs, _, _, kernel = _shape("weight", weight)
    _check_products({"weight": (weight, (outputs, channels, kernel, kernel))}, weight_scales, x)
    _check_skips(x, outputs, skips)
    return _run("convolution_unit", backend, weight_scales, skips, x, scale, shift, weight)


def pooling_unit(x: Tensor, kernel: int, stride: tuple[int, int] = (2, 2), *, backend: str | None = None) -> Tensor:
    """Return the largest value of each k x k window; windows begin at every stride-th pixel and are cut at the edge.

    This is "same" padding for k = 2, and for k = 3 with stride 2 on even sides. NaN of NaN.

    Args:
        x: maps (N, C, Y, X).
        kernel: k, 1 or more.
        stride: rows and columns from one window to the next, 1 or more.
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (N, C, ceil(Y / stride[0]), ceil(X / stride[1])) in the type of `x`.

    Raises:
        TypeError, ValueError: x is no maps, kernel or stride is not whole or less than 1.
        UserError: the backend asked for cannot serve the call.
    """
    _check_windows(x, kernel, stride)
    return run("pooling_unit", backend, x, kernel, stride)


def extremes_unit(x: Tensor, kernel: int, stride: tuple[int, int] = (2, 2), *, backend: str | None = None) -> Tensor:
    """Return the largest value of each k x k window plus the smallest: max-min pooling (Sec. 3.3), where what is
    subtracted is the largest of the negated values.

    Windows, arguments, result and errors are those of `pooling_unit`.
    """
    _check_windows(x, kernel, stride)
    return run("extremes_unit", backend, x, kernel, stride)


def upsampling_unit(x: Tensor, *, backend: str | None = None) -> Tensor:
    """Return maps of twice the sides, every pixel repeated.

    Args:
        x: maps (N, C, Y, X).
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (N, C, 2 Y, 2 X) in the type of `x`.

    Raises:
        TypeError, ValueError: x is no maps.
        UserError: the backend asked for cannot serve the call.
    """
    check_maps("x", x, "C")
    return run("upsampling_unit", backend, x)


def stem_unit(
    frames: Tensor, weight: Tensor, stride: tuple[int, int] = (2, 2), *, backend: str | None = None
) -> Tensor:
    """Return the convolution of pictures that begins a network, with a stride and "same" padding.

    Padding is the least with which ceil(Y / stride) windows fit, the larger half of it behind (as TensorFlow has it).

    Args:
        frames: pictures (N, C, Y, X), contiguous best, of any of the types of maps.
        weight: (O, C, k, k), k odd.
        stride: rows and columns from one window to the next, 1 or more.
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (N, O, ceil(Y / stride[0]), ceil(X / stride[1])) in the type of `weight`, channels_last.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or device.
        UserError: the backend asked for cannot serve the call.
    """
    check_maps("frames", frames, "C")
    check_maps("weight", weight, "C")
    kernel = weight.shape[-1]
    if weight.shape[1:] != (frames.shape[1], kernel, kernel) or kernel % 2 == 0:
        expected = f"(O, {frames.shape[1]}, k, k) with an odd kernel"
        raise ValueError(f"weight: expected shape {expected}, got {tuple(weight.shape)}")
    _check_device("weight", weight, frames)
    _check_stride(stride)
    return run("stem_unit", backend, frames, weight, stride)


def pooled_sides(x: Tensor, stride: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of what `pooling_unit` makes of maps."""
    return -(-x.shape[2] // stride[0]), -(-x.shape[3] // stride[1])


def _check_prologue(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> int:
    check_maps("x", x, "C")
    if (scale is None) != (shift is None):
        raise ValueError("scale and shift: give both, or neither")
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            _check_vector(name, vector, x, x.shape[1])
    return x.shape[1]


def _shape(name: str, weight: Tensor) -> tuple[int, ...]:
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name}: expected a tensor of four dimensions, got {type(weight).__name__}")
    if weight.dim() != 4:
        raise ValueError(f"{name}: expected four dimensions, got shape {tuple(weight.shape)}")
    return weight.shape


def _check_windows(x: Tensor, kernel: Any, stride: Any) -> None:
    check_maps("x", x, "C")
    if not isinstance(kernel, int):
        raise TypeError(f"kernel: expected a whole number, got {kernel!r}")
    if kernel < 1:
        raise ValueError(f"kernel: expected 1 or more, got {kernel}")
    _check_stride(stride)


def _check_stride(stride: Any) -> None:
    if not isinstance(stride, (tuple, list)) or len(stride) != 2 or not all(isinstance(step, int) for step in stride):
        raise TypeError(f"stride: expected two whole numbers, rows and columns, got {stride!r}")
    if min(stride) < 1:
        raise ValueError(f"stride: expected 1 or more, got {stride}")


def _check_vector(name: str, vector: Tensor, x: Tensor, size: int) -> None:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(vector, Tensor):
        raise TypeError(f"{name}: expected a tensor ({size},), got {type(vector).__name__}")
    if vector.dtype != wide:
        raise TypeError(f"{name}: expected type {wide} with maps of {x.dtype}, got {vector.dtype}")
    if vector.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {tuple(vector.shape)}")
    _check_device(name, vector, x)


def _check_weight(
    name: str, weight: Tensor, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    given = _shape(name, weight)
    wanted, whose = (x.dtype, "the type of the maps") if dtype is None else (dtype, "with weight_scales")
    if weight.dtype != wanted:
        raise TypeError(f"{name}: expected {whose}, {wanted}, got {weight.dtype}")
    if given != shape or shape[-1] % 2 == 0:
        raise ValueError(f"{name}: expected shape {shape} with an odd kernel, got {tuple(given)}")
    _check_device(name, weight, x)


Products = dict[str, tuple[Tensor, tuple[int, ...]]]  # the weight and its right shape, by name


def _shortcut(shortcut: Tensor | None, outputs: int, channels: int) -> Products:
    return {} if shortcut is None else {"shortcut": (shortcut, (outputs, channels, 1, 1))}


def _check_products(products: Products, scales: Scales, x: Tensor) -> None:
    if not isinstance(scales, (tuple, list)):
        raise TypeError(f"weight_scales: expected a tuple of tensors, got {type(scales).__name__}")
    if scales and len(scales) != len(products):
        raise ValueError(f"weight_scales: expected {len(products)}, for {', '.join(products)}, got {len(scales)}")
    for name, (weight, shape) in products.items():
        _check_weight(name, weight, x, shape, torch.int8 if scales else None)
    if scales:
        for (name, (_, shape)), scale in zip(products.items(), scales, strict=True):
            _check_vector(f"weight_scales, of {name}", scale, x, shape[0])


def _run(operator: str, backend: str | None, scales: Scales, skips: Skips, *unit: Tensor | None) -> Tensor:
    served: Tensor = (
        run(f"int8_{operator}", backend, *unit, scales, skips) if scales else run(operator, backend, *unit, skips)
    )
    return served


def _check_skips(x: Tensor, channels: int, skips: Any, most: int = 2, sides: int = 1) -> None:
    if not isinstance(skips, (tuple, list)) or not all(isinstance(skip, Tensor) for skip in skips):
        raise TypeError(f"skips: expected a tuple of maps, got {type(skips).__name__}")
    if len(skips) > most:
        raise ValueError(f"skips: expected at most {most}, got {len(skips)}")
    for skip in skips:
        _check_maps_like(x, "skips", skip, (x.shape[0], channels, sides * x.shape[2], sides * x.shape[3]))


def _check_maps_like(x: Tensor, name: str, maps: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name}: expected maps, got {type(maps).__name__}")
    if maps.dtype != x.dtype:
        raise TypeError(f"{name}: expected the type of the maps, {x.dtype}, got {maps.dtype}")
    if maps.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(maps.shape)}")
    _check_device(name, maps, x)


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected device {x.device}, that of the maps, got {tensor.device}")


def activated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Return the units' prologue of maps."""
    if scale is None or shift is None:
        return x
    return torch.relu(torch.addcmul(shift[:, None, None], x.to(scale.dtype), scale[:, None, None])).to(x.dtype)


def repeated(x: Tensor) -> Tensor:
    """Return maps of twice the sides, every pixel repeated."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _summed(y: Tensor, a: Tensor, shortcut: Tensor | None, skips: Skips) -> Tensor:
    if shortcut is not None:
        y = y + F.conv2d(a, shortcut)
    for skip in skips:
        y = y + skip
    return y


def _eager_separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
) -> Tensor:
    a = activated(x, scale, shift)
    spatial = F.conv2d(a, depthwise, padding="same", groups=x.shape[1])
    return _summed(F.conv2d(spatial, pointwise), a, shortcut, skips)


def _eager_upscaling_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    beside: Tensor,
    skips: Skips,
) -> Tensor:
    unit = (scale, shift, depthwise, pointwise, None)
    return _eager_separable_unit(repeated(x), *unit, (repeated(beside), *skips))


def _eager_bottleneck_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
) -> Tensor:
    a = activated(x, scale, shift)
    middle = torch.relu(F.conv2d(a, reduce, bias.to(x.dtype)))
    return _summed(F.conv2d(middle, expand, padding="same"), a, shortcut, skips)


def _eager_convolution_unit(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, skips: Skips
) -> Tensor:
    return _summed(F.conv2d(activated(x, scale, shift), weight, padding="same"), x, None, skips)


def _eager_pooling_unit(x: Tensor, kernel: int, stride: tuple[int, int]) -> Tensor:
    rows, columns = pooled_sides(x, stride)
    below = max((rows - 1) * stride[0] + kernel - x.shape[2], 0)
    right = max((columns - 1) * stride[1] + kernel - x.shape[3], 0)
    whole = F.pad(x, (0, right, 0, below), value=float("-inf")) if below or right else x
    return F.max_pool2d(whole, kernel, stride)


def _eager_extremes_unit(x: Tensor, kernel: int, stride: tuple[int, int]) -> Tensor:
    return _eager_pooling_unit(x, kernel, stride) - _eager_pooling_unit(-x, kernel, stride)


def _eager_stem_unit(frames: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    rows, columns = pooled_sides(frames, stride)
    kernel = weight.shape[-1]
    down = max((rows - 1) * stride[0] + kernel - frames.shape[2], 0)
    across = max((columns - 1) * stride[1] + kernel - frames.shape[3], 0)
    padded = F.pad(frames.to(weight.dtype), (across // 2, across - across // 2, down // 2, down - down // 2))
    if torch._C._are_functorch_transforms_active():  # vmap has no memory formats
        return F.conv2d(padded, weight, stride=stride)
    last = torch.channels_last
    return F.conv2d(padded.contiguous(memory_format=last), weight, stride=stride).contiguous(memory_format=last)


register("upsampling_unit", "eager", repeated)
register("stem_unit", "eager", _eager_stem_unit)
register("separable_unit", "eager", _eager_separable_unit)
register("upscaling_unit", "eager", _eager_upscaling_unit)
register("bottleneck_unit", "eager", _eager_bottleneck_unit)
register("convolution_unit", "eager", _eager_convolution_unit)
register("pooling_unit", "eager", _eager_pooling_unit)
register("extremes_unit", "eager", _eager_extremes_unit)
