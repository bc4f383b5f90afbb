"""The convolution units on the CPU: packed weights, tensors as addresses. All the work is done by csrc/cpu/units.h.

The functions take checked arguments (`pyhar.ops.units`) that `units_why_not` has let pass, and write into `out`, dense
in channels_last order. Maps in another order are copied. float16, and bfloat16 where the instruction set does not
multiply it, are computed in float32. Products of int8 weights are served where the instruction set has them.

A weight is packed at its first use and kept as long as the weight lives: a change in place is seen (by the tensor's
version), one through `.data` is not. A weight that counts no versions, made under `torch.inference_mode`, is packed at
every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyhar.kernels.cpu_entry import entry, keep

Skips = tuple[Tensor, ...]
Scales = tuple[Tensor, ...]


class _Format(NamedTuple):
    """How the kernels of the instruction set in use take weights; see csrc/cpu/unit.h."""

    lanes: int
    depth: int
    winograd: bool


_Packing = Callable[[Tensor, _Format], Tensor]

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_PATCHES = 8  # of a picture, from which on Winograd's convolution is taken
_INT8_DEPTH = 2**16  # products of 255 and 127 whose sum fits 32 bits
_GROUPS = {torch.bfloat16: 2, torch.int8: 4}  # multiplied together, see csrc/cpu/unit.h

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
    if x.dtype not in _TYPES:
        return f"maps have type {x.dtype}, not float32, bfloat16 or float16"
    return None


def int8_units_why_not(x: Tensor, weights: tuple[Tensor, ...], scales: Scales, skips: Skips) -> str | None:
    """Return why the kernels cannot serve maps and int8 weights like these, or None."""
    if not entry("cpu_has_int8_units")():
        return f"the instruction set {entry('cpu_isa')()} has no products of int8"
    if any(weight.dtype == torch.int8 and weight.shape[1:].numel() > _INT8_DEPTH for weight in weights):
        return f"an output has more than {_INT8_DEPTH} weights: their sums may not fit 32 bits"
    return units_why_not(x, (*weights, *scales), skips)


def separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: Skips,
    out: Tensor,
    scales: Scales = (),
) -> None:
    """Write the separable unit's output."""
    if out.numel() == 0:
        return
    call = _Product(x, scale, shift, skips, out, scales)
    call(
        "cpu_separable_unit",
        1,
        depthwise.shape[-1],
        call.packed(depthwise, _channels),
        call.factors(pointwise, _matrix),
        call.factors(shortcut, _matrix),
    )


def upscaling_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    beside: Tensor,
    skips: Skips,
    out: Tensor,
    scales: Scales = (),
) -> None:
    """Write the upscaling unit's output. A kernel over repeated pixels is four smaller ones over the pixels."""
    if out.numel() == 0:
        return
    call = _Product(x, scale, shift, (beside, *skips), out, scales)
    call(
        "cpu_separable_unit",
        2,
        depthwise.shape[-1],
        call.packed(depthwise, _repeated_channels),
        call.factors(pointwise, _matrix),
        None,
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
    scales: Scales = (),
) -> None:
    """Write the bottleneck unit's output."""
    if out.numel() == 0:
        return
    call = _Product(x, scale, shift, skips, out, scales)
    call(
        "cpu_bottleneck_unit",
        reduce.shape[0],
        call.factors(reduce, _matrix),
        call.packed(bias, _vector),
        *call.expansion(expand),
        call.factors(shortcut, _matrix),
    )


def convolution_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    skips: Skips,
    out: Tensor,
    scales: Scales = (),
) -> None:
    """Write the convolution unit's output."""
    if out.numel() == 0:
        return
    call = _Product(x, scale, shift, skips, out, scales)
    call("cpu_convolution_unit", *call.expansion(weight))


def pooling_unit(x: Tensor, kernel: int, stride: tuple[int, int], out: Tensor) -> None:
    """Write the pooling unit's output."""
    if out.numel() == 0:
        return
    _Call(x, None, None, (), out)("cpu_pooling_unit", kernel, stride, False)


def extremes_unit(x: Tensor, kernel: int, stride: tuple[int, int], out: Tensor) -> None:
    """Write the extremes unit's output."""
    if out.numel() == 0:
        return
    _Call(x, None, None, (), out)("cpu_pooling_unit", kernel, stride, True)


def upsampling_unit(x: Tensor, out: Tensor) -> None:
    """Write the upsampling unit's output."""
    if out.numel() == 0:
        return
    _Call(x, None, None, (), out)("cpu_upsampling_unit")


def stem_unit(frames: Tensor, weight: Tensor, stride: tuple[int, int], out: Tensor) -> None:
    """Write the stem's output."""
    if out.numel() == 0:
        return
    bfloat16 = out.dtype == torch.bfloat16 and entry("cpu_has_bfloat16_units")()
    widened = out.dtype != torch.float32 and not bfloat16
    form = _Format(*entry("cpu_unit_packing")(bfloat16, False))
    (n, c, rows, columns), kernel = frames.shape, weight.shape[-1]
    x, packed = frames.float().contiguous(), _packed(weight, _lines, form, widened)
    written = torch.empty_like(out, dtype=torch.float32) if widened else out
    keep(x, packed, written)
    size = (n, c, out.shape[1], rows, columns)
    entry("cpu_stem_unit")(bfloat16, size, x.data_ptr(), kernel, stride, packed.data_ptr(), written.data_ptr())
    if widened:
        out.copy_(written)


class _Call:
    """A call of the native module: what all units share. Holds the copies it makes until it ends.

    What the instruction set does not multiply in its own type is `widened`: computed in float32, rounded at the end.
    """

    def __init__(self, x: Tensor, scale: Tensor | None, shift: Tensor | None, skips: Skips, out: Tensor) -> None:
        (n, c, rows, columns), outputs = x.shape, out.shape[1]
        self.bfloat16 = x.dtype == torch.bfloat16 and entry("cpu_has_bfloat16_units")()
        self.widened = x.dtype != torch.float32 and not self.bfloat16
        self.numbers: tuple[bool, ...] = (self.bfloat16,)
        self.size: tuple[int, ...] = (n, c, outputs, rows, columns)
        self.inputs = (self._dense(x), _contiguous(scale), _contiguous(shift))
        self.skips = [self._dense(skip) for skip in skips]
        self.out = out

    def __call__(self, function: str, *unit: Tensor | int | tuple[int, int] | None) -> None:
        skips = [skip.data_ptr() for skip in self.skips] + [0] * (2 - len(self.skips))
        values = [value if isinstance(value, int | tuple) else _address(value) for value in unit]
        addresses = [_address(tensor) for tensor in self.inputs]
        out = torch.empty_like(self.out, dtype=torch.float32) if self.widened else self.out
        keep(*self.inputs, *self.skips, out, *(value for value in unit if isinstance(value, Tensor)))
        entry(function)(*self.numbers, self.size, *addresses, *values, skips, out.data_ptr())
        if self.widened:
            self.out.copy_(out)

    def _dense(self, maps: Tensor) -> Tensor:
        return (maps.float() if self.widened else maps).contiguous(memory_format=torch.channels_last)


class _Product(_Call):
    """A call of a unit with weights; `scales` are those of its products, in order, if they are int8."""

    def __init__(
        self, x: Tensor, scale: Tensor | None, shift: Tensor | None, skips: Skips, out: Tensor, scales: Scales
    ) -> None:
        super().__init__(x, scale, shift, skips, out)
        self.size = (*x.shape[:2], *out.shape[1:])
        self.numbers = (self.bfloat16, bool(scales))
        self.scales = iter(scales)
        self.format = _Format(*entry("cpu_unit_packing")(*self.numbers))

    def packed(self, weight: Tensor, packing: _Packing) -> Tensor:
        """Return `weight` as the kernels take it."""
        return _packed(weight, packing, self.format, self.widened)

    def factors(self, weight: Tensor | None, packing: _Packing) -> Tensor | None:
        """Return the next product's weight likewise."""
        return None if weight is None else _packed(weight, packing, self.format, self.widened, next(self.scales, None))

    def expansion(self, weight: Tensor) -> tuple[int, bool, Tensor | None]:
        """Return the side of a k x k product's kernel, whether it is Winograd's convolution, and its weight likewise.

        Winograd's multiplies a quarter as much and reads four times the weights: not worth it where a picture has few
        patches of 4 x 4 pixels to multiply each weight with.
        """
        kernel, form = weight.shape[-1], self.format
        winograd = form.winograd and kernel == 3 and math.prod(-(-side // 4) for side in self.size[3:]) >= _PATCHES
        packing = _matrix if kernel == 1 else _expansion
        scale = next(self.scales, None)
        packed = _packed(weight, packing, form._replace(winograd=winograd), self.widened, scale)
        return kernel, winograd, packed


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# --- packed weights

_kept: Any = WeakIdKeyDictionary()  # weight -> (packing, format, widened) -> (versions and addresses, packed)


def _packed(weight: Tensor, packing: _Packing, form: _Format, widened: bool, scale: Tensor | None = None) -> Tensor:
    """Return `weight` as the kernels take it, packed now or before. scale: of an int8 weight."""

    def pack() -> Tensor:
        plain = weight.detach()
        if scale is not None:
            return _with_scales(packing(plain, form), scale.detach(), form)
        return packing(plain.float() if widened else plain, form)

    given = [tensor for tensor in (weight, scale) if tensor is not None]
    if any(tensor.is_inference() for tensor in given):
        return pack()
    key, state = (packing, form, widened), [(tensor._version, tensor.data_ptr()) for tensor in given]
    packings = _kept.setdefault(weight, {})
    found = packings.get(key)
    if found is None or found[0] != state:
        packings[key] = found = (state, pack())
    packed: Tensor = found[1]
    return packed


def _filled(rows: Tensor, multiple: int) -> Tensor:
    """Zeros after the last place of the last dimension, up to a multiple."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % multiple))


def _matrices(weights: Tensor, form: _Format) -> Tensor:
    """(..., outputs, depth) as csrc/cpu/unit.h packs it."""
    group = _GROUPS.get(weights.dtype, 1)
    whole = _filled(_filled(weights, form.depth if group > 1 else 1).mT, form.lanes)  # (..., depth, outputs)
    # (..., depth / g, g, outputs / lanes, lanes)
    tiles = whole.unflatten(-1, (-1, form.lanes)).unflatten(-3, (-1, group))
    return tiles.movedim(-2, -4).transpose(-1, -2).contiguous()


def _with_scales(tiles: Tensor, scale: Tensor, form: _Format) -> Tensor:
    """int8 matrices with what lies behind each vector of outputs: scales, and 128 times the sums of the weights."""
    sums = 128 * tiles.sum(dim=(-3, -1), dtype=torch.int32)  # (..., outputs / lanes, lanes)
    scales = _filled(scale.float(), form.lanes).unflatten(0, (-1, form.lanes)).expand(sums.shape).contiguous()
    return torch.cat([tiles.flatten(-3).view(torch.uint8), scales.view(torch.uint8), sums.view(torch.uint8)], dim=-1)


def _matrix(weight: Tensor, form: _Format) -> Tensor:
    return _matrices(weight.flatten(1), form)


def _lines(weight: Tensor, form: _Format) -> Tensor:
    return _matrices(weight.permute(2, 0, 3, 1).flatten(2), form)


def _expansion(weight: Tensor, form: _Format) -> Tensor:
    if form.winograd:
        transformed = torch.einsum("ai,bj,ocij->aboc", _G, _G, weight.double()).float()
        return _matrices(transformed, form)
    if weight.dtype == torch.int8:  # a row of the kernel is one product: pixels of whole vectors side by side
        return _matrices(_filled(weight.permute(2, 0, 3, 1), form.lanes).flatten(2), form)
    return _matrices(weight.permute(2, 3, 0, 1), form)


def _channels(weight: Tensor, form: _Format) -> Tensor:
    whole = _filled(weight.flatten(1).float().T, form.lanes)  # (kernel * kernel, channels)
    return whole.unflatten(1, (-1, form.lanes)).transpose(0, 1).contiguous()


def _repeated_channels(weight: Tensor, form: _Format) -> Tensor:
    """(C, 1, k, k) over repeated pixels as a kernel over pixels for each of the 2 x 2, taps that meet one added up."""
    side = weight.shape[-1]
    meets = torch.zeros(2, (side + 1) // 2, side, dtype=torch.float64)  # pixels and taps, for either of two repeated
    for place in range(2):
        first = (place - side // 2) // 2
        for tap in range(side):
            meets[place, (place + tap - side // 2) // 2 - first, tap] = 1
    kernels = torch.einsum("pat,qbu,ctu->cpqab", meets, meets, weight[:, 0].double())
    return _channels(kernels.float(), form)


def _vector(vector: Tensor, form: _Format) -> Tensor:
    return _filled(vector, form.lanes).contiguous()
