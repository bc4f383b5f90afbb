"""The operators of `pyhar.ops` as modules, and drop-ins for the soft-argmax functions and modules people already use.

The modules `SpatialSoftmax`, `SoftArgmax2d`, `PoseDecoder` and `AppearancePooling` take the inverse temperature `beta`
as a number, as a tensor (), (1,) or (J,), which becomes a buffer, or as an `nn.Parameter` of such a shape, which is
learnt. Their `backend` names the backend that must serve them; None takes the fastest that can.

The drop-ins keep the signature and the values of what they replace, but for what their docstrings say, and for one
difference: coordinates of half-precision maps are computed and returned in float32.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyhar import ops
from pyhar.errors import shown
from pyhar.ops.grid import axis, check_grid
from pyhar.ops.validation import check_confidence, check_maps


class _MapModule(nn.Module):
    """Holds what every module here has: the inverse temperature and the choice of the backend."""

    beta: float | Tensor

    def __init__(self, beta: float | Tensor = 1.0, *, backend: str | None = None) -> None:
        super().__init__()
        if isinstance(beta, Tensor) and not isinstance(beta, nn.Parameter):
            self.register_buffer("beta", beta)
        else:
            self.beta = beta
        self.backend = backend

    def extra_repr(self) -> str:
        beta = f"tensor {tuple(self.beta.shape)}" if isinstance(self.beta, Tensor) else self.beta
        return f"beta={beta}, backend={self.backend!r}"


class SpatialSoftmax(_MapModule):
    """Logits (B, J, Y, X) -> probability maps (B, J, Y, X); see `pyhar.ops.spatial_softmax`."""

    def forward(self, logits: Tensor) -> Tensor:
        return ops.spatial_softmax(logits, beta=self.beta, backend=self.backend)


class SoftArgmax2d(_MapModule):
    """Logits (B, J, Y, X) -> coordinates x, y (B, J, 2); see `pyhar.ops.soft_argmax`."""

    def __init__(
        self,
        beta: float | Tensor = 1.0,
        *,
        grid: str = "corners",
        backend: str | None = None,
    ) -> None:
        check_grid(grid)
        super().__init__(beta, backend=backend)
        self.grid = grid

    def forward(self, logits: Tensor) -> Tensor:
        return ops.soft_argmax(logits, beta=self.beta, grid=self.grid, backend=self.backend)

    def extra_repr(self) -> str:
        return f"grid={self.grid!r}, {super().extra_repr()}"


class PoseDecoder(_MapModule):
    """Logits (B, J, Y, X), and depth logits or None -> `pyhar.ops.DecodedPose`; see `pyhar.ops.decode_pose`."""

    def __init__(
        self,
        beta: float | Tensor = 1.0,
        *,
        grid: str = "corners",
        confidence: str = "max",
        backend: str | None = None,
    ) -> None:
        check_grid(grid)
        check_confidence(confidence)
        super().__init__(beta, backend=backend)
        self.grid = grid
        self.confidence = confidence

    def forward(self, logits: Tensor, depth_logits: Tensor | None = None) -> ops.DecodedPose:
        return ops.decode_pose(
            logits, depth_logits, beta=self.beta, grid=self.grid, confidence=self.confidence, backend=self.backend
        )

    def extra_repr(self) -> str:
        return f"grid={self.grid!r}, confidence={self.confidence!r}, {super().extra_repr()}"


class AppearancePooling(_MapModule):
    """Logits (B, J, Y, X) and features (B, C, Y, X) -> appearance (B, J, C); see `pyhar.ops.pool_appearance`."""

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        return ops.pool_appearance(logits, features, beta=self.beta, backend=self.backend)


def spatial_soft_argmax2d(
    input: Tensor, temperature: float | Tensor | None = None, normalized_coordinates: bool = True
) -> Tensor:
    """Drop-in for `kornia.geometry.subpix.spatial_soft_argmax2d` as of kornia 0.9.

    kornia before 0.9 multiplied by its `temperature`; callers that relied on that pass its inverse here. The one pixel
    of a side of length 1 has the normalised coordinate -1 here and 0 in kornia.

    Args:
        input: heat maps (B, N, H, W), floating point.
        temperature: positive number or tensor of one element that divides the input; None means 1. A tensor's sign is
            not checked.
        normalized_coordinates: True for coordinates in [-1, 1], the pixel centres of the corners lying at -1 and 1;
            False for pixels.

    Returns:
        Coordinates x, y (B, N, 2), float32 (float64 for float64 input).

    Raises:
        TypeError, ValueError: `input` or `temperature` is of the wrong kind, or the temperature is not positive.
    """
    check_maps("input", input, "N")
    beta = 1.0 if temperature is None else _inverse(temperature, input)
    return ops.soft_argmax(input, beta=beta, grid="ndc_corners" if normalized_coordinates else "pixels")


def dsnt(heatmaps: Tensor, normalized_coordinates: bool = True) -> Tensor:
    """Drop-in for `dsntnn.dsnt` with heat maps of two dimensions.

    Args:
        heatmaps: maps (B, L, H, W) that are probabilities already, floating point.
        normalized_coordinates: True for coordinates in (-1, 1), the edges of the picture lying at -1 and 1; False for
            pixels.

    Returns:
        Coordinates x, y (B, L, 2), float32 (float64 for float64 maps).

    Raises:
        TypeError, ValueError: `heatmaps` has the wrong type or shape.
    """
    check_maps("heatmaps", heatmaps, "L")
    return ops.expectation(heatmaps, grid="ndc_centers" if normalized_coordinates else "pixels")


class SpatialSoftmaxKeypoints(nn.Module):
    """Drop-in for the `SpatialSoftmax` of robot-learning code (robomimic, LeRobot and their kin).

    Features (B, C, H, W) -> keypoints x, y (B, K, 2) in [-1, 1], the pixel centres of the corners lying at -1 and 1.
    Weights saved by those modules load: the convolution has their name, and their coordinate grids are ignored.
    Other code has one row a picture: `keypoints.flatten(1)` is x1, y1, x2, ..., `keypoints.mT.flatten(1)` all x before
    all y, and `keypoints.flip(-1).flatten(1)` that of TensorFlow's `contrib.layers.spatial_softmax`, y before x.

    Args:
        input_shape: (C, H, W) of the features; H and W may be others when called.
        num_kp: number of keypoints K, made by a 1x1 convolution; None takes each channel for a keypoint (it is the
            default here and in LeRobot, where in robomimic 32 is).
        temperature: positive number that divides the maps before the softmax.
        learnable_temperature: whether the temperature is a parameter.
        output_variance: return the covariances (B, K, 2, 2) of x and y under the softmax beside the keypoints.
        noise_std: in training, keypoints get normal noise of this standard deviation.

    Raises:
        TypeError, ValueError: `input_shape` is not three sizes, `num_kp` is not 1 or more, the temperature is not a
            positive number, or the noise is negative; on a call, the features have not C channels.
    """

    temperature: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        num_kp: int | None = None,
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        output_variance: bool = False,
        noise_std: float = 0.0,
    ) -> None:
        super().__init__()
        try:
            self.input_shape = tuple(operator.index(n) for n in input_shape)
            channels, _, _ = self.input_shape
        except (TypeError, ValueError):
            raise ValueError(f"input_shape: expected (C, H, W), got {shown(input_shape)}") from None
        if num_kp is not None and not (hasattr(num_kp, "__index__") and num_kp >= 1):
            raise ValueError(f"num_kp: expected 1 or more, or None for one of each channel, got {shown(num_kp)}")
        _check_temperature(temperature)
        _check_number("noise_std", noise_std)
        if not noise_std >= 0:
            raise ValueError(f"noise_std: expected 0 or more, got {noise_std}")
        self.output_variance = output_variance
        self.noise_std = noise_std
        self.num_kp = channels if num_kp is None else num_kp
        self.nets = None if num_kp is None else nn.Conv2d(channels, num_kp, kernel_size=1)
        initial = torch.full((1,), float(temperature))
        if learnable_temperature:
            self.temperature = nn.Parameter(initial)
        else:
            self.register_buffer("temperature", initial)
        self.register_load_state_dict_pre_hook(_adapt_keypoint_weights)

    def output_shape(self, input_shape: Sequence[int] | None = None) -> list[int]:
        """Return the shape [K, 2] of the keypoints of one picture; the argument is not needed."""
        return [self.num_kp, 2]

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        check_maps("features", features, "C")
        if features.shape[1] != self.input_shape[0]:
            raise ValueError(f"features: expected (B, {self.input_shape[0]}, H, W), got {tuple(features.shape)}")
        if self.nets is not None:
            features = self.nets(features)
        beta = _inverse(self.temperature, features)
        xy = ops.soft_argmax(features, beta=beta, grid="ndc_corners")
        noisy = xy + self.noise_std * torch.randn_like(xy) if self.training and self.noise_std else xy
        return (noisy, _covariance(features, beta, xy)) if self.output_variance else noisy

    def extra_repr(self) -> str:
        return f"input_shape={self.input_shape}, num_kp={self.num_kp}"


def _covariance(maps: Tensor, beta: float | Tensor, xy: Tensor) -> Tensor:
    """Return the covariances (B, J, 2, 2) of x and y in [-1, 1] under softmax(beta * maps), whose means are `xy`."""
    y, x = (axis("ndc_corners", n, xy) for n in maps.shape[-2:])
    products = torch.stack(torch.broadcast_tensors(x * x, x * y[:, None], (y * y)[:, None]))
    xx, x_y, yy = ops.pool_appearance(maps, products.expand(len(maps), -1, -1, -1), beta=beta).unbind(-1)
    second = torch.stack((xx, x_y, x_y, yy), -1).unflatten(-1, (2, 2))
    return second - xy[..., None] * xy[..., None, :]


def _adapt_keypoint_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Drop what other modules of the kind save and ours does not have; keep our temperature where they save none."""
    for name in ("pos_x", "pos_y", "pos_grid"):
        state_dict.pop(prefix + name, None)
    state_dict.setdefault(prefix + "temperature", module.temperature)


def _inverse(temperature: float | Tensor, maps: Tensor) -> float | Tensor:
    """Return beta for `maps`, in float32 at least, from a positive temperature or a tensor of one element."""
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(f"temperature: expected one element, got shape {tuple(temperature.shape)}")
        wide = torch.promote_types(temperature.dtype, torch.float32)
        return temperature.to(maps.device, wide).reshape(()).reciprocal()
    _check_temperature(temperature)
    return 1.0 / temperature


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")


def _check_temperature(temperature: Any) -> None:
    _check_number("temperature", temperature)
    if not float(temperature) > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
