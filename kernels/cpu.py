"""The backend "cpu": C++ kernels for tensors in the computer's own memory. `pyhar.kernels` says what its functions do.

All the work is done by csrc/cpu/, which takes any strides and types; here tensors become addresses. The convolution
units, which pack weights, are in `cpu_units`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyhar.kernels.cpu_entry import entry, keep, why_unusable
from pyhar.kernels.cpu_units import (
    bottleneck_unit,
    convolution_unit,
    int8_units_why_not,
    pooling_unit,
    separable_unit,
    stem_unit,
    units_why_not,
    upsampling_unit,
)

__all__ = [
    "bottleneck_unit",
    "convolution_unit",
    "decode_backward",
    "decode_forward",
    "int8_units_why_not",
    "pooling_unit",
    "separable_unit",
    "softmax_backward",
    "softmax_forward",
    "stem_unit",
    "units_why_not",
    "upsampling_unit",
    "why_not",
    "why_unusable",
]

Grid = tuple[float, float, float, float]

CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_NO_GRID: Grid = (1.0, 0.0, 1.0, 0.0)
_TENSORS = ("logits", "features", "depth_logits", "beta")


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why the backend cannot serve tensors like these, or None."""
    for name, tensor in zip(_TENSORS, (logits, features, depth_logits, beta), strict=True):
        if tensor is None or (tensor.is_cpu and tensor.dtype in CODES and tensor.layout is torch.strided):
            continue
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, not on the CPU"
        if tensor.dtype not in CODES:
            return f"{name} has type {tensor.dtype}"
        return f"{name} has layout {tensor.layout}"
    return None


def as_map(tensor: Tensor | None) -> tuple[int, int, tuple[int, ...]] | None:
    return None if tensor is None else (tensor.data_ptr(), CODES[tensor.dtype], tensor.stride())


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _shared(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: Grid,
    window: bool,
    stats: Tensor | None,
) -> tuple[Any, ...] | None:
    """Return the arguments that forward and backward have in common, or None where there is nothing to do."""
    b, j, y, x = logits.shape
    if b == 0:
        return None
    wide = logits.dtype == torch.float64
    c = 0
    if features is not None:
        c = features.shape[1]
        wide = wide or features.dtype == torch.float64
    if depth_logits is not None:
        wide = wide or depth_logits.dtype == torch.float64
    size = (b, j, c, y, x)
    maps = (as_map(logits), as_map(features), as_map(depth_logits), as_map(beta))
    return (size, wide, *maps, scale, grid, window, _address(stats))


def softmax_forward(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> None:
    """Write the probability maps and `stats`."""
    shared = _shared(logits, None, None, beta, scale, _NO_GRID, False, stats)
    if shared is not None:
        keep(logits, beta, stats, probs)
        entry("cpu_forward")(*shared, 0, 0, 0, None, as_map(probs))


def softmax_backward(
    logits: Tensor,
    beta: Tensor | None,
    scale: float,
    stats: Tensor,
    probs: Tensor,
    g_probs: Tensor | None,
    d_logits: Tensor | None,
    d_beta: Tensor | None,
) -> None:
    """Write the gradients of the logits and of beta."""
    shared = _shared(logits, None, None, beta, scale, _NO_GRID, False, stats)
    if shared is not None:
        gradients = (as_map(d_logits), None, None, _address(d_beta))
        entry("cpu_backward")(*shared, 0, 0, as_map(probs), 0, 0, 0, None, as_map(g_probs), *gradients)


def decode_forward(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: Grid,
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    confidence: Tensor | None,
    appearance: Tensor | None,
) -> None:
    """Write `stats`, if given, and the outputs that are wanted."""
    shared = _shared(logits, features, depth_logits, beta, scale, grid, window, stats)
    if shared is not None:
        keep(logits, features, depth_logits, beta, stats, xy, z, confidence, appearance)
        entry("cpu_forward")(*shared, _address(xy), _address(z), _address(confidence), as_map(appearance), None)


def decode_backward(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: Grid,
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    g_xy: Tensor | None,
    g_z: Tensor | None,
    g_confidence: Tensor | None,
    g_appearance: Tensor | None,
    d_logits: Tensor | None,
    d_features: Tensor | None,
    d_depth_logits: Tensor | None,
    d_beta: Tensor | None,
) -> None:
    """Write the gradients that are wanted."""
    shared = _shared(logits, features, depth_logits, beta, scale, grid, window, stats)
    if shared is not None:
        upstream = (_address(g_xy), _address(g_z), _address(g_confidence), as_map(g_appearance), None)
        gradients = (as_map(d_logits), as_map(d_features), as_map(d_depth_logits), _address(d_beta))
        entry("cpu_backward")(*shared, _address(xy), _address(z), None, *upstream, *gradients)
