"""The gradients of a depthwise convolution on the CPU, by csrc/cpu/depthwise_conv.h."""

from __future__ import annotations

import torch
from torch import Tensor

from pyhar.kernels.cpu import TYPES
from pyhar.kernels.cpu_entry import entry


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """Return why the kernels cannot serve tensors like these, or None."""
    for name, tensor in (("x", x), ("weight", weight)):
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return f"{name} is not an ordinary tensor on the CPU"
        if tensor.dtype not in TYPES:
            return f"{name} has type {tensor.dtype}"
    if x.stride(1) != 1:
        return "x is not in memory format channels_last"
    return None


def backward(x: Tensor, weight: Tensor, g: Tensor, d_x: Tensor | None, d_weight: Tensor | None) -> None:
    """Write the gradients that are wanted; maps are channels_last, weights contiguous."""
    if x.numel():
        entry("cpu_depthwise_backward")(x, weight, g, d_x, d_weight)
    elif d_weight is not None:
        d_weight.zero_()
