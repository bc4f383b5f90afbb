"""The network's building blocks: separable convolutions, residual units, entry flow.

Every convolution is without bias and padded "same" as the authors' release pads (TensorFlow's rule: the smaller half
first).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pyhar import ops

# Keras' epsilon, and its momentum of 0.99 in PyTorch's terms.
_NORM_EPS = 1e-3
_NORM_MOMENTUM = 0.01


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm over (N, channels, H, W) with the release's constants."""
    return nn.BatchNorm2d(channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)


def conv(in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1) -> nn.Conv2d:
    """Convolution of stride 1 with "same" padding; odd kernels."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding="same", bias=False)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) along one side, such that the output has ceil(size / stride) places."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad_same(x: Tensor, kernel: int, stride: tuple[int, int], value: float) -> Tensor:
    top, bottom = same_padding(x.shape[-2], kernel, stride[0])
    left, right = same_padding(x.shape[-1], kernel, stride[1])
    return F.pad(x, (left, right, top, bottom), value=value) if top or bottom or left or right else x


def max_pool(x: Tensor, kernel: int, stride: int | tuple[int, int]) -> Tensor:
    """Max pooling with "same" padding of (N, C, H, W); padded places never win."""
    strides = (stride, stride) if isinstance(stride, int) else stride
    return F.max_pool2d(_pad_same(x, kernel, strides, float("-inf")), kernel, strides)


def max_min_pool(x: Tensor) -> Tensor:
    """The largest plus the smallest value of each 2x2 window of (N, C, H, W)."""
    return max_pool(x, 2, 2) - max_pool(-x, 2, 2)


class DepthwiseConv(nn.Conv2d):
    """Depthwise k x k convolution of stride 1 with "same" padding, by `pyhar.ops`."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return ops.depthwise_conv(x, self.weight)


class SeparableConv(nn.Sequential):
    """Depthwise k x k, then pointwise 1x1, nothing in between."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, kernel)
        self.pointwise = conv(in_channels, out_channels)


class ResidualUnit(nn.Module):
    """Pre-activation residual unit on (N, in_channels, H, W).

    kind "separable": relu(norm(x)) through one separable convolution; kind "standard": through one plain convolution;
    kind "bottleneck": through 1x1 to out/divisor channels, norm, relu, k x k. The shortcut is x itself, or a 1x1
    convolution of relu(norm(x)) where the channels change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        kind: Literal["separable", "standard", "bottleneck"],
        divisor: int = 2,
    ) -> None:
        super().__init__()
        self.norm = batch_norm(in_channels)
        self.shortcut = conv(in_channels, out_channels) if in_channels != out_channels else None
        self.main: nn.Sequential | nn.Conv2d
        if kind == "separable":
            self.main = SeparableConv(in_channels, out_channels, kernel)
        elif kind == "standard":
            self.main = conv(in_channels, out_channels, kernel)
        else:
            middle = out_channels // divisor
            self.main = nn.Sequential(
                conv(in_channels, middle), batch_norm(middle), nn.ReLU(), conv(middle, out_channels, kernel)
            )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm(x))
        return self.main(activated) + (x if self.shortcut is None else self.shortcut(activated))


class EntryFlow(nn.Module):
    """Pictures (N, 3, H, W) to features (N, 3 * growth, H/8, W/8)."""

    def __init__(self, growth: int, stem_features: int) -> None:
        super().__init__()
        g = growth
        self.stem = nn.Conv2d(3, stem_features, 7, stride=2, bias=False)
        widths = [(stem_features, g), (g, 2 * g), (2 * g, 2 * g), (2 * g, 3 * g), (3 * g, 3 * g)]
        self.units = nn.ModuleList(ResidualUnit(a, b, 3, "bottleneck") for a, b in widths)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.stem(_pad_same(frames.to(self.stem.weight.dtype), 7, (2, 2), 0.0))
        x = max_pool(self.units[0](x), 3, 2)
        x = max_pool(self.units[2](self.units[1](x)), 2, 2)
        return self.units[4](self.units[3](x))


class DownscalingUnit(nn.Module):
    """Half the resolution, `growth` channels more."""

    def __init__(self, channels: int, growth: int, kernel: int) -> None:
        super().__init__()
        self.unit = ResidualUnit(channels, channels + growth, kernel, "separable")

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(max_pool(x, 2, 2))


class UpscalingUnit(nn.Module):
    """Twice the resolution by repetition, `growth` channels fewer."""

    def __init__(self, channels: int, growth: int, kernel: int) -> None:
        super().__init__()
        self.unit = ResidualUnit(channels, channels - growth, kernel, "separable")

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(F.interpolate(x, scale_factor=2, mode="nearest"))
