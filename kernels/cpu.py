"""The backend "cpu": C++ kernels for tensors in the computer's own memory. `pyhar.kernels` says what its functions do.

All the work is done by csrc/cpu/, which takes any strides and types. The convolution
units, which pack weights, are in `cpu_units`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyhar.kernels.cpu_entry import entry, keep, why_unusable
from pyhar.kernels.cpu_units import (
    bottleneck_unit,
    convolution_unit,
    extremes_unit,
    int8_units_why_not,
    pooling_unit,
    separable_unit,
    stem_unit,
    units_why_not,
    upsampling_unit,
    upscaling_unit,
)

__all__ = [
    "bottleneck_unit",
    "convolution_unit",
    "decode_backward",
    "decode_forward",
    "extremes_unit",
    "int8_units_why_not",
    "pooling_unit",
    "separable_unit",
    "softmax_backward",
    "softmax_forward",
    "stem_unit",
    "units_why_not",
    "upsampling_unit",
    "upscaling_unit",
    "why_not",
    "why_unusable",
]

Grid = tuple[float, float, float, float]

TYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_NO_GRID: Grid = (1.0, 0.0, 1.0, 0.0)
_TENSORS = ("logits", "features", "depth_logits", "beta")


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why the backend cannot serve tensors like these, or None."""
    for name, tensor in zip(_TENSORS, (logits, features, depth_logits, beta), strict=True):
        if tensor is None or (tensor.is_cpu and tensor.dtype in TYPES and tensor.layout is torch.strided):
            continue
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, not on the CPU"
        if tensor.dtype not in TYPES:
            return f"{name} has type {tensor.dtype}"
        return f"{name} has layout {tensor.layout}"
    return None


def softmax_forward(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> None:
    """Write the probability maps and `stats`."""
    keep(logits, beta, stats, probs)
    entry("cpu_forward")(logits, None, None, beta, scale, _NO_GRID, False, stats, *(None,) * 4, probs)


def softmax_backward(
    logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor, g_probs: Tensor | None,
    d_logits: Tensor | None, d_beta: Tensor | None,
) -> None:  # fmt: skip
    """Write the gradients of the logits and of beta."""
    entry("cpu_backward")(
        logits, None, None, beta, scale, _NO_GRID, False, stats, None, None, probs, *(None,) * 4, g_probs,
        d_logits, None, None, d_beta,
    )  # fmt: skip


def decode_forward(
    logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float, grid: Grid,
    window: bool, stats: Tensor | None, xy: Tensor | None, z: Tensor | None, confidence: Tensor | None,
    appearance: Tensor | None,
) -> None:  # fmt: skip
    """Write `stats`, if given, and the outputs that are wanted."""
    keep(logits, features, depth_logits, beta, stats, xy, z, confidence, appearance)
    entry("cpu_forward")(
        logits, features, depth_logits, beta, scale, grid, window, stats, xy, z, confidence, appearance, None
    )


def decode_backward(
    logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float, grid: Grid,
    window: bool, stats: Tensor | None, xy: Tensor | None, z: Tensor | None, g_xy: Tensor | None, g_z: Tensor | None,
    g_confidence: Tensor | None, g_appearance: Tensor | None, d_logits: Tensor | None, d_features: Tensor | None,
    d_depth_logits: Tensor | None, d_beta: Tensor | None,
) -> None:  # fmt: skip
    """Write the gradients that are wanted."""
    entry("cpu_backward")(
        logits, features, depth_logits, beta, scale, grid, window, stats, xy, z, None, g_xy, g_z, g_confidence,
        g_appearance, None, d_logits, d_features, d_depth_logits, d_beta,
    )  # fmt: skip
