"""Checks of operator arguments: which is wrong, what it should be and what it was. No tensor's values are read."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from pyhar.errors import unknown_name

FLOATING = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
CONFIDENCES = ("max", "window")


def check_maps(name: str, maps: Tensor, channels: str = "J") -> None:
    """Raise unless `maps` is a floating-point tensor (B, `channels`, Y, X) whose sizes, save B, are at least 1."""
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name}: expected a tensor (B, {channels}, Y, X), got {type(maps).__name__}")
    if maps.dtype not in FLOATING:
        raise TypeError(f"{name}: expected type float16, bfloat16, float32 or float64, got {_type(maps)}")
    if maps.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {maps.layout}; {name}.to_dense() makes one")
    shape = maps.shape
    if len(shape) != 4 or shape[1] < 1 or shape[2] < 1 or shape[3] < 1:
        expected = f"(B, {channels}, Y, X) with {channels}, Y, X >= 1"
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def check_depth(depth_logits: Tensor | None, logits: Tensor) -> None:
    """Raise unless `depth_logits` is absent, or maps like `logits`."""
    if depth_logits is None:
        return
    check_maps("depth_logits", depth_logits)
    if depth_logits.shape != logits.shape:
        raise ValueError(
            f"depth_logits: expected shape {tuple(logits.shape)}, that of the logits, got {tuple(depth_logits.shape)}"
        )
    _check_device("depth_logits", depth_logits, logits)


def check_features(features: Tensor, maps: Tensor) -> None:
    """Raise unless `features` (B, C, Y, X) fits `maps` (B, J, Y, X)."""
    check_maps("features", features, "C")
    b, _, y, x = maps.shape
    if features.shape[0] != b or features.shape[2] != y or features.shape[3] != x:
        raise ValueError(
            f"features: expected shape ({b}, C, {y}, {x}), to fit maps {tuple(maps.shape)}, got {tuple(features.shape)}"
        )
    _check_device("features", features, maps)


def check_beta(beta: Any, logits: Tensor) -> None:
    """Raise unless `beta` is a finite number, or a floating-point tensor (), (1,) or (J,) on the device of `logits`."""
    if type(beta) is float and -math.inf < beta < math.inf:
        return
    if isinstance(beta, Tensor):
        if beta.dtype not in FLOATING:
            raise TypeError(f"beta: expected type float16, bfloat16, float32 or float64, got {_type(beta)}")
        if beta.layout is not torch.strided:
            raise TypeError(f"beta: expected a dense tensor, got layout {beta.layout}; beta.to_dense() makes one")
        if beta.dim() > 1 or (beta.dim() == 1 and beta.shape[0] not in (1, logits.shape[1])):
            raise ValueError(f"beta: expected shape (), (1,) or (J,) = ({logits.shape[1]},), got {tuple(beta.shape)}")
        _check_device("beta", beta, logits)
    elif isinstance(beta, bool) or not isinstance(beta, numbers.Real):
        raise TypeError(f"beta: expected a number or a tensor (), (1,) or (J,), got {type(beta).__name__}")
    else:
        try:
            finite = math.isfinite(float(beta))
        except OverflowError:
            raise ValueError("beta: expected a finite number, got one beyond the range of float64") from None
        if not finite:
            raise ValueError(f"beta: expected a finite number, got {beta}")


def check_confidence(confidence: str) -> None:
    """Raise unless `confidence` names a confidence."""
    if not isinstance(confidence, str):
        raise TypeError(f"confidence: expected one of {', '.join(CONFIDENCES)}, got {confidence!r}")
    if confidence not in CONFIDENCES:
        raise unknown_name("confidence", confidence, CONFIDENCES)


def _check_device(name: str, tensor: Tensor, logits: Tensor) -> None:
    if tensor.device != logits.device:
        raise ValueError(f"{name}: expected device {logits.device}, that of the maps, got {tensor.device}")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
