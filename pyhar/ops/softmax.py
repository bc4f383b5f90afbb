"""Probability maps: the softmax of each heat map over its plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyhar.ops import native_calls
from pyhar.ops.dispatch import computing_type, register, run
from pyhar.ops.validation import check_beta, check_maps


def spatial_softmax(logits: Tensor, *, beta: float | Tensor = 1.0, backend: str | None = None) -> Tensor:
    """Return the probability map of each plane, softmax(beta * logits) over its pixels.

    Args:
        logits: heat maps (B, J, Y, X), floating point; -inf masks a pixel out.
        beta: inverse temperature, a finite number or a tensor (), (1,) or (J,).
        backend: name of the backend that must serve the call; None takes the fastest that can.

    Returns:
        Maps (B, J, Y, X) in the type of `logits`; each sums to 1 over its plane.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value.
        UserError: the backend asked for cannot serve the call.
    """
    served = native_calls.softmax(backend, logits, beta)
    if served is not None:
        return served
    check_maps("logits", logits)
    check_beta(beta, logits)
    return run("spatial_softmax", backend, logits, beta)


def probabilities(logits: Tensor, beta: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Return softmax(beta * logits) over each plane, computed and returned in `dtype`; beta may also be (B, J)."""
    return torch.softmax(_scaled(logits.to(dtype), beta).flatten(2), -1).view(logits.shape)


def _scaled(logits: Tensor, beta: float | Tensor) -> Tensor:
    """Return beta * logits up to a constant per plane, which the softmax does not see.

    The maximum is subtracted before the product, not after: beta times a large logit would overflow, or lose the digits
    in which the logits differ. Masks need care unless beta is known to be positive: 0 * -inf is not a number, neither
    here nor in the gradient of beta, and a negative beta would turn a mask into the maximum; so they are put back after
    the product.
    """
    if not isinstance(beta, Tensor) and beta == 1:
        return logits
    below = logits - logits.amax((-2, -1), keepdim=True).detach()
    if not isinstance(beta, Tensor) and beta > 0:
        return below * beta
    if isinstance(beta, Tensor):
        beta = beta.to(logits.dtype)[..., None, None]
    masked = below == -math.inf  # not isneginf, which the older of the ONNX exporters does not know
    return (below.masked_fill(masked, 0.0) * beta).masked_fill(masked, -math.inf)


def _eager(logits: Tensor, beta: float | Tensor) -> Tensor:
    return probabilities(logits, beta, computing_type(logits)).to(logits.dtype)


register("spatial_softmax", "eager", _eager)
