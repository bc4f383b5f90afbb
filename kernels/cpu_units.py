"""The convolution units on the CPU: packed weights, tensors as addresses. All the work is done by csrc/cpu/units.h.

The functions take checked arguments (`pyhar.ops.units`) that `units_why_not` has let pass, and write into `out`, dense
in channels_last order. Maps in another order are copied.

A weight is packed at its first use and kept as long as the weight lives: a change in place is seen (by the tensor's
version), one through `.data` is not. A weight that counts no versions, made under `torch.inference_mode`, is packed at
every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyhar.kernels import native
from pyhar.kernels.cpu_entry import entry

Skips = tuple[Tensor, ...]

# The points +-p, +-q of csrc/cpu/unit_winograd.h, and its matrix G: what a kernel's three numbers become.
_P, _Q = 0.75, 1.5
_NORM_P, _NORM_Q = 2 * _P**2 * (_P**2 - _Q**2), 2 * _Q**2 * (_Q**2 - _P**2)
_G = torch.tensor(
    [
        [1 / (_P * _Q) ** 2, 0.0, 0.0],
        [1 / _NORM_P, _P / _NORM_P, _P**2 / _NORM_P],
        [1 / _NORM_P, -_P / _NORM_P, _P**2 / _NORM_P],
        [1 / _NORM_Q, _Q / _NORM_Q, _Q**2 / _NORM_Q],
        [1 / _NORM_Q, -_Q / _NORM_Q, _Q**2 / _NORM_Q],
        [0.0, 0.0, 1.0],
    ],
    dtype=torch.float64,
)


def units_why_not(x: Tensor, weights: tuple[Tensor, ...], skips: Skips) -> str | None:
    """Return why the kernels cannot serve maps and weights like these, or None."""
    for tensor in (x, *weights, *skips):
        if not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, not on the CPU"
        if tensor.layout is not torch.strided:
            return f"a tensor has layout {tensor.layout}"
    if x.dtype == torch.float32:
        return None
    if x.dtype != torch.bfloat16:
        return f"maps have type {x.dtype}, not float32 or bfloat16"
    module = native.load()
    if module is None or module.cpu_has_bfloat16_units():
        return None
    return f"the instruction set {module.cpu_isa()} multiplies no bfloat16"


def separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
    out: Tensor,
) -> None:
    """Write the separable unit's output."""
    if out.numel() == 0:
        return
    call = _Call(x, scale, shift, skips, out)
    call(
        "cpu_separable_unit",
        depthwise.shape[-1],
        _packed(depthwise, _channels),
        _packed(pointwise, _matrix),
        _packed(shortcut, _matrix),
    )


def bottleneck_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
    out: Tensor,
) -> None:
    """Write the bottleneck unit's output."""
    if out.numel() == 0:
        return
    call = _Call(x, scale, shift, skips, out)
    kernel = expand.shape[-1]
    call(
        "cpu_bottleneck_unit",
        reduce.shape[0],
        _packed(reduce, _matrix),
        _packed(bias, _vector),
        kernel,
        _packed(expand, _winograd if kernel == 3 else _gathered),
        _packed(shortcut, _matrix),
    )


def pointwise_unit(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, skips: Skips, out: Tensor
) -> None:
    """Write the pointwise unit's output."""
    if out.numel() == 0:
        return
    _Call(x, scale, shift, skips, out)("cpu_pointwise_unit", _packed(weight, _matrix))


class _Call:
    """A call of the native module: what all units share. Holds the copies it makes until it ends."""

    def __init__(self, x: Tensor, scale: Tensor | None, shift: Tensor | None, skips: Skips, out: Tensor) -> None:
        (n, c, rows, columns), outputs = x.shape, out.shape[1]
        self.bfloat16 = x.dtype == torch.bfloat16
        self.size = (n, c, outputs, rows, columns)
        self.inputs = (_dense(x), _contiguous(scale), _contiguous(shift))
        self.skips = [_dense(skip) for skip in skips]
        self.out = out

    def __call__(self, function: str, *unit: Tensor | int | None) -> None:
        skips = [skip.data_ptr() for skip in self.skips] + [0] * (2 - len(self.skips))
        values = [_address(value) if not isinstance(value, int) else value for value in unit]
        addresses = [_address(tensor) for tensor in self.inputs]
        entry(function)(self.bfloat16, self.size, *addresses, *values, skips, self.out.data_ptr())


def _dense(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# --- packed weights

_Packing = Callable[[Tensor, int], Tensor]
_kept: Any = WeakIdKeyDictionary()  # weight -> (packing, lanes) -> (version, address, packed)


def _packed(weight: Tensor | None, packing: _Packing) -> Tensor | None:
    """Return `weight` as the kernels take it, packed now or before."""
    if weight is None:
        return None
    lanes = entry("cpu_lanes")()
    if weight.is_inference():
        return packing(weight.detach(), lanes)
    state = (weight._version, weight.data_ptr())
    packings = _kept.setdefault(weight, {})
    found = packings.get((packing, lanes))
    if found is None or found[0] != state:
        packings[packing, lanes] = found = (state, packing(weight.detach(), lanes))
    packed: Tensor = found[1]
    return packed


def _filled(rows: Tensor, multiple: int) -> Tensor:
    """Zeros after the last place of the last dimension, up to a multiple."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % multiple))


def _matrices(weights: Tensor, lanes: int) -> Tensor:
    """(..., outputs, depth) as csrc/cpu/unit.h packs it."""
    group = 2 if weights.dtype == torch.bfloat16 else 1
    whole = _filled(_filled(weights, group).mT, lanes)  # (..., depth, outputs)
    tiles = whole.unflatten(-1, (-1, lanes)).unflatten(-3, (-1, group))  # (..., depth / g, g, outputs / lanes, lanes)
    return tiles.movedim(-2, -4).transpose(-1, -2).contiguous()


def _matrix(weight: Tensor, lanes: int) -> Tensor:
    return _matrices(weight.flatten(1), lanes)


def _gathered(weight: Tensor, lanes: int) -> Tensor:
    return _matrices(weight.permute(0, 2, 3, 1).flatten(1), lanes)


def _winograd(weight: Tensor, lanes: int) -> Tensor:
    transformed = torch.einsum("ai,bj,ocij->aboc", _G, _G, weight.double()).float()
    return _matrices(transformed, lanes)


def _channels(weight: Tensor, lanes: int) -> Tensor:
    whole = _filled(weight.flatten(1).float().T, lanes)  # (kernel * kernel, channels)
    return whole.unflatten(1, (-1, lanes)).transpose(0, 1).contiguous()


def _vector(vector: Tensor, lanes: int) -> Tensor:
    return _filled(vector, lanes).contiguous()
