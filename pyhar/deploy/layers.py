"""The network's units as calls of the inference operators: batch norms folded, sums left to the operators' skips.

Weights are copies in the type asked for; scale and shift stay float32. Maps are channels_last. In int8 are the weights
of the entry flow and of the separable units, which do nearly all of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyhar import ops
from pyhar.models.blocks import EntryFlow, ResidualUnit, SeparableConv, UpscalingUnit


def fold(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift), float32, such that norm(x) = scale * x + shift with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        return scale.float(), shift.float()


class Numbers(NamedTuple):
    """What a network computes in: the type of its maps, and whether its products are in int8."""

    maps: torch.dtype
    int8: bool = False


class Layer(nn.Module):
    """A module of constants."""

    def hold(self, **tensors: Tensor | None) -> None:
        """Keep copies under these names, without gradient."""
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else _channels_inside(tensor.detach()).clone())

    def hold_factors(self, numbers: Numbers, **weights: Tensor | None) -> None:
        """Keep the weights of a unit's products likewise, as `numbers` says."""
        self.factors: list[str] = []
        for name, weight in weights.items():
            if weight is None or not numbers.int8:
                self.hold(**{name: None if weight is None else weight.to(numbers.maps)})
                continue
            self.factors.append(name)
            rounded, scale = ops.quantise(weight.detach())
            self.register_buffer(name, rounded)
            self.register_buffer(f"{name}_scale", scale)

    def scales(self, *left_out: str) -> tuple[Tensor, ...]:
        """Of the int8 weights, in order."""
        return tuple(getattr(self, f"{name}_scale") for name in self.factors if name not in left_out)


class Separable(Layer):
    """Norm, relu and separable convolution; of a residual unit with its shortcut."""

    scale: Tensor
    shift: Tensor
    depthwise: Tensor
    pointwise: Tensor
    shortcut: Tensor | None

    def __init__(
        self, norm: nn.BatchNorm2d, main: SeparableConv, numbers: Numbers, shortcut: nn.Conv2d | None = None
    ) -> None:
        super().__init__()
        scale, shift = fold(norm)
        self.hold(scale=scale, shift=shift, depthwise=main.depthwise.weight.to(numbers.maps))
        self.hold_factors(
            numbers, pointwise=main.pointwise.weight, shortcut=None if shortcut is None else shortcut.weight
        )

    @classmethod
    def of(cls, unit: ResidualUnit, numbers: Numbers) -> Separable:
        """A residual unit; where it has no convolution on its shortcut, the caller adds x as a skip."""
        assert isinstance(unit.main, SeparableConv)
        return cls(unit.norm, unit.main, numbers, unit.shortcut)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """x (N, C, Y, X) and up to two (N, O, Y, X) that are added; returns (N, O, Y, X)."""
        return ops.separable_unit(
            x,
            self.scale,
            self.shift,
            self.depthwise,
            self.pointwise,
            shortcut=self.shortcut,
            weight_scales=self.scales(),
            skips=skips,
        )


class Standard(Layer):
    """Norm, relu and convolution of a residual unit whose shortcut is the identity: the caller adds x as a skip."""

    scale: Tensor
    shift: Tensor
    weight: Tensor

    def __init__(self, unit: ResidualUnit, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(unit.main, nn.Conv2d)
        assert unit.shortcut is None
        scale, shift = fold(unit.norm)
        self.hold(scale=scale, shift=shift, weight=unit.main.weight.to(dtype))

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """x (N, C, Y, X) and up to two (N, O, Y, X) that are added; returns (N, O, Y, X)."""
        return ops.convolution_unit(x, self.scale, self.shift, self.weight, skips=skips)


class Downscaling(Separable):
    """Half the resolution, then a residual unit."""

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """x (N, C, Y, X), both sides even, and at most two (N, O, Y / 2, X / 2) that are added."""
        return super().forward(ops.pooling_unit(x, 2), *skips)


class Upscaling(Separable):
    """Twice the resolution by repetition, then a residual unit."""

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """x (N, C, Y, X) and at most one (N, O, 2 Y, 2 X) that is added.

        The shortcut's product commutes with the repetition, and is a quarter of the work before it.
        """
        assert self.shortcut is not None
        beside = ops.convolution_unit(x, self.scale, self.shift, self.shortcut, weight_scales=self.scales("pointwise"))
        return ops.upscaling_unit(
            x,
            self.scale,
            self.shift,
            self.depthwise,
            self.pointwise,
            beside,
            weight_scales=self.scales("shortcut"),
            skips=skips,
        )


class Bottleneck(Layer):
    """A residual unit of kind "bottleneck", with its shortcut; the middle norm is folded into the first product."""

    scale: Tensor
    shift: Tensor
    reduce: Tensor
    bias: Tensor
    expand: Tensor
    shortcut: Tensor | None

    def __init__(self, unit: ResidualUnit, numbers: Numbers) -> None:
        super().__init__()
        assert isinstance(unit.main, nn.Sequential)
        reduce, norm, _, expand = unit.main
        assert isinstance(reduce, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(expand, nn.Conv2d)
        scale, shift = fold(unit.norm)
        middle_scale, bias = fold(norm)
        self.hold(scale=scale, shift=shift, bias=bias)
        self.hold_factors(
            numbers,
            reduce=reduce.weight * middle_scale[:, None, None, None],
            expand=expand.weight,
            shortcut=None if unit.shortcut is None else unit.shortcut.weight,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, O, Y, X)."""
        return ops.bottleneck_unit(
            x,
            self.scale,
            self.shift,
            self.reduce,
            self.bias,
            self.expand,
            shortcut=self.shortcut,
            weight_scales=self.scales(),
            skips=(x,) if self.shortcut is None else (),
        )


class Stem(Layer):
    """The first convolution, 7x7 with stride 2: pictures (N, 3, H, W) to (N, C, H / 2, W / 2)."""

    weight: Tensor

    def __init__(self, stem: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(weight=stem.weight.to(dtype))

    def forward(self, frames: Tensor) -> Tensor:
        """Any floating type; both sides even."""
        return ops.stem_unit(frames, self.weight)


class Entry(nn.Module):
    """The entry flow: pictures (N, 3, H, W) to features (N, 3 * growth, H / 8, W / 8)."""

    def __init__(self, entry: EntryFlow, numbers: Numbers) -> None:
        super().__init__()
        self.stem = Stem(entry.stem, numbers.maps)
        self.units = nn.ModuleList(Bottleneck(unit, numbers) for unit in entry.units if isinstance(unit, ResidualUnit))

    def forward(self, frames: Tensor) -> Tensor:
        """Sides are multiples of 8, so that "same" padding is that of even sides everywhere."""
        x = ops.pooling_unit(self.units[0](self.stem(frames)), 3)
        x = ops.pooling_unit(self.units[2](self.units[1](x)), 2)
        return self.units[4](self.units[3](x))


def _channels_inside(tensor: Tensor) -> Tensor:
    """Convolution weights (O, C, k, k) with the channels innermost in memory, those of depthwise ones too (C, 1, k, k):
    GPU kernels read them so, and would else copy them at every call. Other tensors contiguous.
    """
    if tensor.dim() != 4:
        return tensor.contiguous()
    if tensor.shape[1] == 1:
        return tensor.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    return tensor.contiguous(memory_format=torch.channels_last)


def deploy_scale(scale: nn.Module, numbers: Numbers) -> Separable:
    """The inference form of a `DownscalingUnit` or `UpscalingUnit`."""
    unit = scale.unit
    assert isinstance(unit, ResidualUnit)
    return (Upscaling if isinstance(scale, UpscalingUnit) else Downscaling).of(unit, numbers)
