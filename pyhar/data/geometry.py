"""Boxes, crops and cameras: the only place where coordinates change convention (see `pyhar.data.sample`).

All maps are (3, 3) float64 matrices acting on homogeneous column vectors (x, y, 1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyhar.data.sample import DEPTH_RANGE_MM
from pyhar.errors import UserError

Matrix = npt.NDArray[np.float64]


def square_box(box: npt.ArrayLike, margin: float = 0.0) -> npt.NDArray[np.float64]:
    """The square around `box` (x1, y1, x2, y2, pixels) with the same centre, its side the longer side times 1 + margin.

    Raises UserError if the box has no area or is not finite.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    if not np.isfinite([x1, y1, x2, y2]).all() or x2 <= x1 or y2 <= y1:
        raise UserError(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area: give x1 < x2 and y1 < y2 in pixels")
    half = 0.5 * (1.0 + margin) * max(x2 - x1, y2 - y1)
    cx, cy = 0.5 * (x1 + x2), 0.5 * (y1 + y2)
    return np.array([cx - half, cy - half, cx + half, cy + half])


def crop_map(
    box: npt.ArrayLike,
    *,
    rotation: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> Matrix:
    """The map `to_crop` from picture pixels to normalised crop coordinates.

    box: the square (x1, y1, x2, y2) in continuous picture pixels that the crop shows when nothing else is asked for; a
    pixel with
    index i covers [i - 0.5, i + 0.5]. rotation: degrees by which the content turns clockwise on the screen. scale: > 1
    shows the
    person larger. shift: fractions of the crop by which the content moves right and down. flip: mirror left and right,
    last.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    cx, cy, side = 0.5 * (x1 + x2), 0.5 * (y1 + y2), max(x2 - x1, y2 - y1)
    angle = np.deg2rad(rotation)
    a = scale / side * np.cos(angle)
    b = scale / side * np.sin(angle)
    out = np.array([[a, -b, 0.0], [b, a, 0.0], [0.0, 0.0, 1.0]])
    out[:2, 2] = 0.5 + np.asarray(shift) - out[:2, :2] @ np.array([cx, cy])
    if flip:
        out = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ out
    return out


def to_crop_pixels(to_crop: Matrix, size: int) -> Matrix:
    """The map from picture pixels to pixel indices of a `size` x `size` crop, pixel centres at integers on both
    sides."""
    return np.array([[size, 0.0, -0.5], [0.0, size, -0.5], [0.0, 0.0, 1.0]]) @ to_crop


def apply_map(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply an affine map (.., 3, 3) to points (.., 2); leading dimensions broadcast. float64 inside, result in the
    points' type."""
    linear, offset = matrix[..., :2, :2].double(), matrix[..., :2, 2].double()
    return ((linear @ points.double().unsqueeze(-1)).squeeze(-1) + offset).to(points.dtype)


def normalised_to_picture(xy: Tensor, to_crop: Tensor) -> Tensor:
    """Normalised crop coordinates (B, .., 2) back to picture pixels with `to_crop` (B, 3, 3)."""
    inverse = torch.linalg.inv(to_crop.double())
    return apply_map(inverse.reshape(-1, *(1,) * (xy.ndim - 2), 3, 3), xy)


def project(joints_mm: Tensor, camera: Tensor) -> Tensor:
    """Camera millimetres (B, .., 3) to picture pixels (B, .., 2); camera (B, 4): fx, fy, cx, cy. No lens distortion."""
    cam = camera.reshape(-1, *(1,) * (joints_mm.ndim - 2), 4)
    return joints_mm[..., :2] / joints_mm[..., 2:] * cam[..., :2] + cam[..., 2:]


def back_project(xy_px: Tensor, depth_mm: Tensor, camera: Tensor) -> Tensor:
    """Picture pixels (B, .., 2) at depth Z (B, ..) to camera millimetres (B, .., 3); the inverse of `project`."""
    cam = camera.reshape(-1, *(1,) * (xy_px.ndim - 2), 4)
    z = depth_mm.unsqueeze(-1)
    return torch.cat([(xy_px - cam[..., 2:]) / cam[..., :2] * z, z], dim=-1)


def pose_to_camera(
    pose: Tensor, to_crop: Tensor, camera: Tensor, root_depth: Tensor, depth_range: float = DEPTH_RANGE_MM
) -> Tensor:
    """A normalised pose (B, [T,] J, 3) to camera millimetres (B, [T,] J, 3).

    to_crop (B, 3, 3), camera (B, 4), root_depth (B, [T]) in millimetres: z is undone as (z - 0.5) * depth_range + root
    depth.
    """
    depth = (pose[..., 2] - 0.5) * depth_range + root_depth.unsqueeze(-1)
    return back_project(normalised_to_picture(pose[..., :2], to_crop), depth, camera)
