"""Poses out of heat maps: coordinates, depth and confidence of each joint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyhar.ops import native_calls
from pyhar.ops.dispatch import computing_type, register, run
from pyhar.ops.grid import axis, check_grid
from pyhar.ops.softmax import probabilities
from pyhar.ops.validation import check_beta, check_confidence, check_depth, check_maps


class DecodedPose(NamedTuple):
    """A pose as read from the heat maps, float32 (float64 if an input is)."""

    xy: Tensor
    """(B, J, 2) coordinates x, y in the grid convention asked for."""
    z: Tensor | None
    """(B, J) depth in (0, 1); None without depth logits."""
    confidence: Tensor
    """(B, J) confidence in (0, 1]."""


# torch.export.save has to know what it writes.
pytree._register_namedtuple(DecodedPose, serialized_type_name="pyhar.ops.DecodedPose")


def soft_argmax(
    logits: Tensor, *, beta: float | Tensor = 1.0, grid: str = "corners", backend: str | None = None
) -> Tensor:
    """Return the expected coordinates of each heat map under softmax(beta * logits) (Eq. 8).

    Args:
        logits: heat maps (B, J, Y, X), floating point; -inf masks a pixel out.
        beta: inverse temperature, a finite number or a tensor (), (1,) or (J,).
        grid: "corners", "unit", "centers", "pixels", "ndc_corners" or "ndc_centers"; see `pyhar.ops`.
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Coordinates x, y (B, J, 2), float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value.
        UserError: the grid is unknown, or the backend asked for cannot serve the call.
    """
    served = native_calls.decode(backend, logits, None, None, beta, False, grid)
    if served is not None:
        xy: Tensor = served[0]
        return xy
    check_maps("logits", logits)
    check_beta(beta, logits)
    check_grid(grid)
    return run("soft_argmax", backend, logits, beta, grid)


def expectation(probs: Tensor, *, grid: str = "corners", backend: str | None = None) -> Tensor:
    """Return the expected coordinates (sum probs * gx, sum probs * gy) of maps that are probabilities already.

    Args:
        probs: probability maps (B, J, Y, X), floating point; they are taken as they are, not normalised.
        grid: as for `soft_argmax`.
        backend: as for `soft_argmax`.

    Returns:
        Coordinates x, y (B, J, 2), float32 (float64 for float64 maps).

    Raises:
        TypeError, ValueError, UserError: as for `soft_argmax`.
    """
    served = native_calls.decode(backend, probs, None, None, 1.0, True, grid)
    if served is not None:
        xy: Tensor = served[0]
        return xy
    check_maps("probs", probs)
    check_grid(grid)
    return run("expectation", backend, probs, grid)


def decode_pose(
    logits: Tensor,
    depth_logits: Tensor | None = None,
    *,
    beta: float | Tensor = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    backend: str | None = None,
) -> DecodedPose:
    """Return coordinates (Eq. 8), depth (Eq. 7 and 9) and confidence (Sec. 3.2.3) of each joint.

    Below, h stands for the probability maps softmax(beta * logits).

    Args:
        logits: heat maps (B, J, Y, X), floating point; -inf masks a pixel out.
        depth_logits: depth maps of the same shape, or None; the depth is sum h * sigmoid(depth_logits).
        beta, grid, backend: as for `soft_argmax`.
        confidence: "max", the maximum of h; or "window", the largest sum of h over a window of 2x2 pixels that lies in
            the plane (of 1x2, 2x1 or 1x1 where a side of the plane is 1).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value.
        UserError: the grid or the confidence is unknown, or the backend asked for cannot serve the call.
    """
    served = native_calls.decode(backend, logits, None, depth_logits, beta, False, grid, confidence)
    if served is not None:
        return DecodedPose(*served[:3])
    check_maps("logits", logits)
    check_depth(depth_logits, logits)
    check_beta(beta, logits)
    check_grid(grid)
    check_confidence(confidence)
    return run("decode_pose", backend, logits, depth_logits, beta, grid, confidence)


def decode_probabilities(h: Tensor, depth_logits: Tensor | None, grid: str, confidence: str) -> DecodedPose:
    """Return the pose of probability maps `h`, in the type of `h`."""
    z = None if depth_logits is None else depth(h, depth_logits)
    return DecodedPose(coordinates(h, grid), z, peak(h, confidence))


def coordinates(h: Tensor, grid: str) -> Tensor:
    """Return sum h * gx and sum h * gy, from the sums over columns and over rows."""
    # Not as matrix products: those lose digits where the user has allowed reduced precision (TF32) for them.
    x = (h.sum(-2) * axis(grid, h.shape[-1], h)).sum(-1)
    y = (h.sum(-1) * axis(grid, h.shape[-2], h)).sum(-1)
    return torch.stack((x, y), -1)


def depth(h: Tensor, depth_logits: Tensor) -> Tensor:
    """Return sum h * sigmoid(depth_logits)."""
    return (h * depth_logits.to(h.dtype).sigmoid()).sum((-2, -1))


def peak(h: Tensor, confidence: str) -> Tensor:
    """Return the confidence: the largest pixel, or the largest sum over a window."""
    return (h if confidence == "max" else _window_sums(h)).amax((-2, -1))


def _window_sums(h: Tensor) -> Tensor:
    """Return the sums (B, J, Y-1, X-1) over all 2x2 windows; an axis of one pixel stays as it is."""
    if h.shape[-2] > 1:
        h = h[..., :-1, :] + h[..., 1:, :]
    if h.shape[-1] > 1:
        h = h[..., :-1] + h[..., 1:]
    return h


def _eager_soft_argmax(logits: Tensor, beta: float | Tensor, grid: str) -> Tensor:
    return coordinates(probabilities(logits, beta, computing_type(logits)), grid)


def _eager_expectation(probs: Tensor, grid: str) -> Tensor:
    return coordinates(probs.to(computing_type(probs)), grid)


def _eager_decode_pose(
    logits: Tensor, depth_logits: Tensor | None, beta: float | Tensor, grid: str, confidence: str
) -> DecodedPose:
    h = probabilities(logits, beta, computing_type(logits, depth_logits))
    return decode_probabilities(h, depth_logits, grid, confidence)


register("soft_argmax", "eager", _eager_soft_argmax)
register("expectation", "eager", _eager_expectation)
register("decode_pose", "eager", _eager_decode_pose)
