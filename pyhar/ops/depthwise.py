"""Depthwise convolution with gradients of our own, which is where the library's kernels are slow on a CPU.

The backend "cpu" takes maps in memory format channels_last; its values are plain PyTorch's, its gradients are summed in
float32 whatever the maps' type is. Tracing (`torch.compile`, `torch.export`), transforms of `torch.func` and second
derivatives see plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar.kernels import cpu_depthwise
from pyhar.ops.dispatch import are_plain, autocast_type, is_traced, register, run
from pyhar.ops.validation import FLOATING, check_maps


def depthwise_conv(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the convolution of each channel with its own kernel, padded with zeros to the size of `x`.

    Args:
        x: maps (B, C, Y, X), floating point; under `torch.autocast` they are taken in its type.
        weight: (C, 1, k, k), k odd, floating point.
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (B, C, Y, X) in the type and memory format of `x`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or device.
        UserError: the backend asked for cannot serve the call.
    """
    check_maps("x", x, "C")
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a tensor (C, 1, k, k), got {type(weight).__name__}")
    if weight.dtype not in FLOATING:
        raise TypeError(f"weight: expected a floating-point tensor (C, 1, k, k), got {weight.dtype}")
    k = weight.shape[-1] if weight.dim() == 4 else 0
    if weight.shape != (x.shape[1], 1, k, k) or k % 2 == 0:
        raise ValueError(f"weight: expected shape ({x.shape[1]}, 1, k, k) with odd k, got {tuple(weight.shape)}")
    if weight.device != x.device:
        raise ValueError(f"weight: expected device {x.device}, that of the maps, got {weight.device}")
    autocast = autocast_type(x.device)
    if autocast is not None and x.dtype != torch.float64:
        x = x.to(autocast)
    return run("depthwise_conv", backend, x, weight)


def _eager(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=x.shape[1])


class _Cpu(torch.autograd.Function):
    """Gradients by C++; their own derivative is that of plain PyTorch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _eager(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        differentiable = torch.is_grad_enabled()
        if differentiable or not are_plain((x, weight, g)):
            with torch.enable_grad():
                y = _eager(x, weight)
            targets = [t for t, want in zip((x, weight), wants, strict=True) if want]
            found = torch.autograd.grad(y, targets, g, create_graph=differentiable)
            grads = iter(found)
            return (next(grads) if wants[0] else None), (next(grads) if wants[1] else None)
        d_x = torch.empty_like(x, memory_format=torch.channels_last) if wants[0] else None
        d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if wants[1] else None
        g = g.contiguous(memory_format=torch.channels_last)
        cpu_depthwise.backward(x, weight.contiguous(), g, d_x, d_weight)
        return d_x, d_weight


def _cpu(x: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = _Cpu.apply(x, weight)
    return result


def _why_not(x: Tensor, weight: Tensor) -> str | None:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return "it is not there for tracing and torch.func"
    if is_traced() or not are_plain((x, weight)):
        return "it takes plain tensors only"
    return cpu_depthwise.why_not(x, weight)


register("depthwise_conv", "eager", _eager)
register("depthwise_conv", "cpu", _cpu, _why_not)
