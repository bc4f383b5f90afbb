"""The operators and their gradients in NumPy, float64, by the formulas rather than by differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np


def axis(grid: str, n: int) -> np.ndarray:
    i = np.arange(n, dtype=np.float64)
    span = max(n - 1, 1)
    return {
        "corners": i / span,
        "unit": i / n,
        "centers": (i + 0.5) / n,
        "pixels": i,
        "ndc_corners": 2 * i / span - 1,
        "ndc_centers": (2 * i + 1) / n - 1,
    }[grid]


def probabilities(logits: np.ndarray, beta: Any = 1.0) -> np.ndarray:
    beta = np.asarray(beta, dtype=np.float64).reshape(-1, 1, 1)
    masked = np.isneginf(logits)
    scaled = np.where(masked, -np.inf, beta * np.where(masked, 0.0, logits))
    with np.errstate(invalid="ignore"):  # a plane that is wholly masked is 0/0 on purpose
        h = np.exp(scaled - scaled.max((-2, -1), keepdims=True))
        return h / h.sum((-2, -1), keepdims=True)


def window_shape(h: np.ndarray, confidence: str) -> tuple[int, int]:
    """The window of a confidence: 1x1 for "max", 2x2 clipped to the plane for "window"."""
    side = 1 if confidence == "max" else 2
    return min(side, h.shape[-2]), min(side, h.shape[-1])


def window_sums(h: np.ndarray, confidence: str) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(h, window_shape(h, confidence), (-2, -1)).sum((-2, -1))


def values(
    logits: np.ndarray,
    features: np.ndarray,
    depth_logits: np.ndarray,
    beta: Any = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    normalised: bool = False,
) -> dict[str, np.ndarray]:
    """Everything the operators return; `normalised`: the logits are probabilities already."""
    h = logits if normalised else probabilities(logits, beta)
    gx, gy = axis(grid, h.shape[-1]), axis(grid, h.shape[-2])
    return {
        "probs": h,
        "xy": np.stack([(h * gx).sum((-2, -1)), (h * gy[:, None]).sum((-2, -1))], -1),
        "z": (h / (1 + np.exp(-depth_logits))).sum((-2, -1)),
        "confidence": window_sums(h, confidence).max((-2, -1)),
        "appearance": np.matmul(h.reshape(*h.shape[:2], -1), features.reshape(*features.shape[:2], -1).swapaxes(1, 2)),
    }


def gradients(
    logits: np.ndarray,
    features: np.ndarray,
    depth_logits: np.ndarray,
    upstream: dict[str, np.ndarray],
    beta: Any = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    normalised: bool = False,
) -> dict[str, np.ndarray]:
    """Gradients of the sum of upstream * value over the values that have an upstream gradient; that of beta is (J,)."""
    b, j, y, x = logits.shape
    h = logits if normalised else probabilities(logits, beta)
    d = 1 / (1 + np.exp(-depth_logits))
    beta = np.broadcast_to(np.asarray(beta, dtype=np.float64), j).reshape(-1, 1, 1)
    gx, gy = axis(grid, x), axis(grid, y)
    zero = np.zeros((b, j, 1, 1))
    g = {name: value[..., None, None] for name, value in upstream.items()}
    s = np.zeros_like(h) + upstream.get("probs", 0.0) + g.get("z", zero) * d
    if "xy" in g:
        s = s + g["xy"][:, :, 0] * gx + g["xy"][:, :, 1] * gy[:, None]
    d_features = np.zeros_like(features)
    if "appearance" in g:
        s = s + np.matmul(upstream["appearance"], features.reshape(b, -1, y * x)).reshape(s.shape)
        d_features = np.matmul(upstream["appearance"].swapaxes(1, 2), h.reshape(b, j, y * x)).reshape(features.shape)
    if "confidence" in g:
        sums = window_sums(h, confidence)
        best = sums == sums.max((-2, -1), keepdims=True)
        share = g["confidence"] * best / best.sum((-2, -1), keepdims=True)
        rows, columns = window_shape(h, confidence)
        for dy in range(rows):
            for dx in range(columns):
                s[..., dy : dy + share.shape[-2], dx : dx + share.shape[-1]] += share
    dh = s if normalised else h * (s - (h * s).sum((-2, -1), keepdims=True))  # gradient of beta * logits
    return {
        "logits": dh if normalised else beta * dh,
        "features": d_features,
        "depth_logits": g.get("z", zero) * h * d * (1 - d),
        "beta": (np.where(np.isneginf(logits), 0.0, logits) * dh).sum((0, -2, -1)),
    }
