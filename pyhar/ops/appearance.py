"""Appearance features: features pooled by each joint's probability map (Sec. 3.3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from pyhar.ops import native_calls
from pyhar.ops.decode import DecodedPose, decode_probabilities
from pyhar.ops.dispatch import computing_type, register, run
from pyhar.ops.grid import check_grid
from pyhar.ops.softmax import probabilities
from pyhar.ops.validation import check_beta, check_confidence, check_depth, check_features, check_maps


def pool_appearance(
    logits: Tensor, features: Tensor, *, beta: float | Tensor = 1.0, backend: str | None = None
) -> Tensor:
    """Return the features of each joint, sum over the plane of softmax(beta * logits) * features.

    Args:
        logits: heat maps (B, J, Y, X), floating point; -inf masks a pixel out.
        features: (B, C, Y, X), floating point.
        beta: inverse temperature, a finite number or a tensor (), (1,) or (J,).
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Appearance (B, J, C) in the type of `features`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value.
        UserError: the backend asked for cannot serve the call.
    """
    served = native_calls.decode(backend, logits, features, None, beta, False)
    if served is not None and served[3] is not None:  # there were features
        appearance: Tensor = served[3]
        return appearance
    check_maps("logits", logits)
    check_features(features, logits)
    check_beta(beta, logits)
    return run("pool_appearance", backend, logits, features, beta)


def pool_appearance_from_probs(probs: Tensor, features: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the features of each joint, sum of probs * features, for maps that are probabilities already.

    Args:
        probs: probability maps (B, J, Y, X), floating point; they are taken as they are, not normalised.
        features: (B, C, Y, X), floating point.
        backend: as for `pool_appearance`.

    Returns:
        Appearance (B, J, C) in the type of `features`.

    Raises:
        TypeError, ValueError, UserError: as for `pool_appearance`.
    """
    served = native_calls.decode(backend, probs, features, None, 1.0, True)
    if served is not None and served[3] is not None:  # there were features
        appearance: Tensor = served[3]
        return appearance
    check_maps("probs", probs)
    check_features(features, probs)
    return run("pool_appearance_from_probs", backend, probs, features)


def decode_pose_and_appearance(
    logits: Tensor,
    features: Tensor,
    depth_logits: Tensor | None = None,
    *,
    beta: float | Tensor = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    backend: str | None = None,
) -> tuple[DecodedPose, Tensor]:
    """Return what `decode_pose` and `pool_appearance` return, the probability maps being computed once.

    Args, Raises: as for those two.
    """
    served = native_calls.decode(backend, logits, features, depth_logits, beta, False, grid, confidence)
    if served is not None and served[3] is not None:  # there were features
        return DecodedPose(*served[:3]), served[3]
    check_maps("logits", logits)
    check_features(features, logits)
    check_depth(depth_logits, logits)
    check_beta(beta, logits)
    check_grid(grid)
    check_confidence(confidence)
    return run("decode_pose_and_appearance", backend, logits, features, depth_logits, beta, grid, confidence)


def pool(h: Tensor, features: Tensor) -> Tensor:
    """Return the appearance (B, J, C) in the type of `features`, summed in the type of `h`."""
    columns = features.to(h.dtype).flatten(2).transpose(1, 2)  # (B, YX, C)
    return torch.bmm(h.flatten(2), columns).to(features.dtype)


def _eager_pool_appearance(logits: Tensor, features: Tensor, beta: float | Tensor) -> Tensor:
    return pool(probabilities(logits, beta, computing_type(logits, features)), features)


def _eager_pool_appearance_from_probs(probs: Tensor, features: Tensor) -> Tensor:
    return pool(probs.to(computing_type(probs, features)), features)


def _eager_decode_pose_and_appearance(
    logits: Tensor,
    features: Tensor,
    depth_logits: Tensor | None,
    beta: float | Tensor,
    grid: str,
    confidence: str,
) -> tuple[DecodedPose, Tensor]:
    h = probabilities(logits, beta, computing_type(logits, features, depth_logits))
    return decode_probabilities(h, depth_logits, grid, confidence), pool(h, features)


register("pool_appearance", "eager", _eager_pool_appearance)
register("pool_appearance_from_probs", "eager", _eager_pool_appearance_from_probs)
register("decode_pose_and_appearance", "eager", _eager_decode_pose_and_appearance)
