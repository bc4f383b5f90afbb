"""What all operator tests share: the backends to test, the inputs, and the operators written in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pyhar import ops

USABLE = [name for name, reason in ops.available_backends().items() if reason is None]


@pytest.fixture(params=USABLE)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that this machine can run."""
    return request.param


class Inputs(NamedTuple):
    """Arguments of `decode_pose_and_appearance`."""

    logits: torch.Tensor
    features: torch.Tensor
    depth_logits: torch.Tensor

    def leaves(self) -> Inputs:
        """The same, detached and requiring grad, with their strides."""
        return Inputs(*(t.detach().requires_grad_() for t in self))


class Reference:
    """The operators and their gradients in NumPy, float64, by the formulas rather than by differentiation."""

    @staticmethod
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

    @staticmethod
    def probabilities(logits: np.ndarray, beta: Any = 1.0) -> np.ndarray:
        beta = np.asarray(beta, dtype=np.float64).reshape(-1, 1, 1)
        masked = np.isneginf(logits)
        scaled = np.where(masked, -np.inf, beta * np.where(masked, 0.0, logits))
        with np.errstate(invalid="ignore"):  # a plane that is wholly masked is 0/0 on purpose
            h = np.exp(scaled - scaled.max((-2, -1), keepdims=True))
            return h / h.sum((-2, -1), keepdims=True)

    @staticmethod
    def windows(h: np.ndarray, confidence: str) -> np.ndarray:
        """Sums over all windows of the confidence: 1x1 for "max", 2x2 clipped to the plane for "window"."""
        rows, columns = Reference._window(h, confidence)
        return np.lib.stride_tricks.sliding_window_view(h, (rows, columns), (-2, -1)).sum((-2, -1))

    @staticmethod
    def _window(h: np.ndarray, confidence: str) -> tuple[int, int]:
        side = 1 if confidence == "max" else 2
        return min(side, h.shape[-2]), min(side, h.shape[-1])

    @classmethod
    def decode(
        cls,
        logits: np.ndarray,
        features: np.ndarray,
        depth_logits: np.ndarray,
        beta: Any = 1.0,
        grid: str = "corners",
        confidence: str = "max",
    ) -> dict[str, np.ndarray]:
        h = cls.probabilities(logits, beta)
        gx, gy = cls.axis(grid, h.shape[-1]), cls.axis(grid, h.shape[-2])
        return {
            "probs": h,
            "xy": np.stack([(h * gx).sum((-2, -1)), (h * gy[:, None]).sum((-2, -1))], -1),
            "z": (h / (1 + np.exp(-depth_logits))).sum((-2, -1)),
            "confidence": cls.windows(h, confidence).max((-2, -1)),
            "appearance": np.einsum("bjyx,bcyx->bjc", h, features),
        }

    @classmethod
    def gradients(
        cls,
        logits: np.ndarray,
        features: np.ndarray,
        depth_logits: np.ndarray,
        upstream: dict[str, np.ndarray],
        beta: Any = 1.0,
        grid: str = "corners",
        confidence: str = "max",
    ) -> dict[str, np.ndarray]:
        """Gradients of the sum of upstream * output over xy, z, confidence and appearance; that of beta is (J,)."""
        h = cls.probabilities(logits, beta)
        d = 1 / (1 + np.exp(-depth_logits))
        beta = np.broadcast_to(np.asarray(beta, dtype=np.float64), logits.shape[1]).reshape(-1, 1, 1)
        gx, gy = cls.axis(grid, h.shape[-1]), cls.axis(grid, h.shape[-2])
        g = {name: value[..., None, None] for name, value in upstream.items()}
        s = g["xy"][:, :, 0] * gx + g["xy"][:, :, 1] * gy[:, None] + g["z"] * d
        s = s + np.einsum("bjc,bcyx->bjyx", upstream["appearance"], features)
        sums = cls.windows(h, confidence)
        best = sums == sums.max((-2, -1), keepdims=True)
        share = g["confidence"] * best / best.sum((-2, -1), keepdims=True)
        rows, columns = cls._window(h, confidence)
        for dy in range(rows):
            for dx in range(columns):
                s[..., dy : dy + share.shape[-2], dx : dx + share.shape[-1]] += share
        dh = h * (s - (h * s).sum((-2, -1), keepdims=True))  # gradient of beta * logits
        return {
            "logits": beta * dh,
            "features": np.einsum("bjc,bjyx->bcyx", upstream["appearance"], h),
            "depth_logits": g["z"] * h * d * (1 - d),
            "beta": (np.where(np.isneginf(logits), 0.0, logits) * dh).sum((0, -2, -1)),
        }


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def make_inputs() -> Any:
    """A function (b, j, c, y, x, dtype, layout, scale, seed) -> `Inputs`."""

    def layout_as(tensor: torch.Tensor, layout: str) -> torch.Tensor:
        if layout == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "slice":  # every second pixel of a larger tensor
            whole = tensor.new_full([2 * n for n in tensor.shape], float("nan"))
            part = whole[tuple(slice(None, None, 2) for _ in tensor.shape)]
            return part.copy_(tensor)
        if layout == "expanded":  # one batch element for all: stride 0
            return tensor[:1].expand_as(tensor)
        if layout == "transposed":
            return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        assert layout == "contiguous"
        return tensor

    def make(
        b: int = 2,
        j: int = 3,
        c: int = 4,
        y: int = 7,
        x: int = 9,
        dtype: torch.dtype = torch.float32,
        layout: str = "contiguous",
        scale: float = 3.0,
        seed: int = 0,
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def random(channels: int) -> torch.Tensor:
            values = torch.randn(b, channels, y, x, generator=generator, dtype=torch.float64)
            return layout_as((scale * values).to(dtype), layout)

        return Inputs(random(j), random(c), random(j))

    return make
