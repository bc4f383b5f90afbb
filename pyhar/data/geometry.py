"""Boxes, crops and cameras: the only place where coordinates change convention (see `pyhar.data.sample`).

All maps are (3, 3) float64 matrices acting on homogeneous column vectors (x, y, 1).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyhar.data.sample import DEPTH_RANGE_MM
from pyhar.errors import UserError

Matrix = npt.NDArray[np.float64]

LARGEST_PX = 1e6
"""No picture is as large: coordinates beyond are mistakes."""


def square_box(box: npt.ArrayLike, margin: float = 0.0) -> npt.NDArray[np.float64]:
    """The square around `box` (x1, y1, x2, y2, pixels) with the same centre, its side the longer side times 1 + margin.

    Raises UserError if the box has no area, is not finite or reaches beyond any picture.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64).tolist()
    if not (math.isfinite(x1 + y1 + x2 + y2) and x2 > x1 and y2 > y1):
        raise UserError(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area: give x1 < x2 and y1 < y2 in pixels")
    if max(-x1, -y1, x2, y2) > LARGEST_PX:
        raise UserError(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) reaches beyond any picture: give it in pixels")
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
    pixel with index i covers [i - 0.5, i + 0.5]. rotation: degrees by which the content turns clockwise on the screen.
    scale: > 1 shows the person larger. shift: fractions of the crop by which the content moves right and down. flip:
    mirror left and right, last.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64).tolist()
    cx, cy, side = 0.5 * (x1 + x2), 0.5 * (y1 + y2), max(x2 - x1, y2 - y1)
    angle = math.radians(rotation)
    a, b = scale / side * math.cos(angle), scale / side * math.sin(angle)
    right, down = 0.5 + shift[0] - a * cx + b * cy, 0.5 + shift[1] - b * cx - a * cy
    across = [-a, b, 1.0 - right] if flip else [a, -b, right]
    return np.array([across, [b, a, down], [0.0, 0.0, 1.0]])


def to_crop_pixels(to_crop: Matrix, size: int) -> Matrix:
    """The map from picture pixels to pixel indices of a `size` x `size` crop, pixel centres at integers on both
    sides."""
    out = to_crop * size
    out[:2, 2] -= 0.5
    out[2] = to_crop[2]
    return out


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
    """Camera millimetres (B, .., 3) to picture pixels (B, .., 2).

    camera (B, 4): fx, fy, cx, cy, or (B, 9): then the lens distortion k1, k2, k3, p_x, p_y of Human3.6M's cameras. With
    (u, v) = (X, Y) / Z and r2 = u^2 + v^2, pixel = f * ((u, v) * (1 + k1 r2 + k2 r2^2 + k3 r2^3 + p_x u + p_y v) + r2 *
    (p_x, p_y)) + c. The owners made the 2D joints of that data set with exactly this (published ones come back within
    1e-4 pixels). p_x and p_y are in the order of the authors' release; metadata.xml and cameras.h5 list them the other
    way round, as OpenCV does (p1 = p_y, p2 = p_x). OpenCV's full tangential model counts the terms in u v, u^2 and v^2
    twice: it misses the owners' joints by hundredths of a pixel amid the picture, and by tenths towards its edge.
    Raises UserError if a camera has neither 4 nor 9 numbers.
    """
    cam = _of_points(camera, joints_mm.ndim)
    uv = joints_mm[..., :2] / joints_mm[..., 2:]
    if cam.shape[-1] == 9:
        uv = _distort(uv, cam[..., 4:])
    return uv * cam[..., :2] + cam[..., 2:4]


def back_project(xy_px: Tensor, depth_mm: Tensor, camera: Tensor) -> Tensor:
    """Picture pixels (B, .., 2) at depth Z (B, ..) to camera millimetres (B, .., 3); the inverse of `project`.

    Distortion is undone by Newton's method in float64, until pixels come back within 1e-9 wherever the lens is
    invertible (the whole picture, for real lenses). Raises UserError as `project` does.
    """
    cam, z = _of_points(camera, xy_px.ndim), depth_mm.unsqueeze(-1)
    uv = (xy_px - cam[..., 2:4]) / cam[..., :2]
    if cam.shape[-1] == 9:
        exact = cam.double()
        uv = _undistort((xy_px.double() - exact[..., 2:4]) / exact[..., :2], exact[..., 4:]).to(uv.dtype)
    return torch.cat([uv * z, z], dim=-1)


def _of_points(camera: Tensor, ndim: int) -> Tensor:
    """Cameras (B, 4 or 9) shaped to broadcast against points of `ndim` dimensions."""
    numbers = camera.shape[-1]
    if numbers not in (4, 9):
        raise UserError(f"a camera has 4 numbers (fx, fy, cx, cy) or 9 (then k1, k2, k3, p_x, p_y), not {numbers}")
    return camera.reshape(-1, *(1,) * (ndim - 2), numbers)


def _distort(uv: Tensor, lens: Tensor) -> Tensor:
    """Where the lens k1, k2, k3, p_x, p_y (.., 5) shows the direction (u, v) (.., 2)."""
    k, p = lens[..., :3], lens[..., 3:]
    r2 = uv.square().sum(-1, keepdim=True)
    radial = 1 + r2 * (k[..., :1] + r2 * (k[..., 1:2] + r2 * k[..., 2:]))
    return uv * (radial + (p * uv).sum(-1, keepdim=True)) + r2 * p


def _undistort(shown: Tensor, lens: Tensor, most_steps: int = 50, tolerance: float = 1e-14) -> Tensor:
    """The direction (.., 2) that `_distort` shows at `shown`; both float64."""
    target, fixed = shown.detach(), lens.detach()
    uv = target.clone()
    for _ in range(most_steps):
        step = _newton_step(uv, target, fixed)
        # A step longer than the picture is wide comes of a nearly singular lens: walk, rather than leap.
        uv = uv - step * (0.5 / step.norm(dim=-1, keepdim=True).clamp_min(0.5))
        if not (step.abs() > tolerance).any():
            break
    # One more step from the solution leaves it where it is, and gives it the solution's derivatives.
    return uv - _newton_step(uv, shown, lens) if shown.requires_grad or lens.requires_grad else uv


def _newton_step(uv: Tensor, shown: Tensor, lens: Tensor) -> Tensor:
    k, p = lens[..., :3], lens[..., 3:]
    r2 = uv.square().sum(-1, keepdim=True)
    radial = 1 + r2 * (k[..., :1] + r2 * (k[..., 1:2] + r2 * k[..., 2:]))
    slope = k[..., :1] + r2 * (2 * k[..., 1:2] + r2 * 3 * k[..., 2:])
    centre = radial + (p * uv).sum(-1, keepdim=True)
    # d shown_i / d uv_j = centre * delta_ij + uv_i * (2 slope uv_j + p_j) + 2 p_i uv_j
    jacobian = uv.unsqueeze(-1) * (2 * slope * uv + p).unsqueeze(-2) + 2 * p.unsqueeze(-1) * uv.unsqueeze(-2)
    jacobian = jacobian + centre.unsqueeze(-1) * torch.eye(2, dtype=uv.dtype, device=uv.device)
    error = _distort(uv, lens) - shown
    (a, b), (c, d) = jacobian[..., 0, :].unbind(-1), jacobian[..., 1, :].unbind(-1)
    x, y = error.unbind(-1)
    return torch.stack([d * x - b * y, a * y - c * x], dim=-1) / (a * d - b * c).unsqueeze(-1)


def world_to_camera(
    points_mm: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64], centre: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """World millimetres (.., 3) to a camera's: X_c = R (X_w - T), with rotation R (3, 3) and the camera's place T
    (3,)."""
    return (np.asarray(points_mm, dtype=np.float64) - centre) @ np.asarray(rotation, dtype=np.float64).T


def pose_to_camera(
    pose: Tensor, to_crop: Tensor, camera: Tensor, root_depth: Tensor, depth_range: float = DEPTH_RANGE_MM
) -> Tensor:
    """A normalised pose (B, [T,] J, 3) to camera millimetres (B, [T,] J, 3).

    to_crop (B, 3, 3), camera (B, 4 or 9), root_depth (B, [T]) in millimetres: z is undone as (z - 0.5) * depth_range +
    root depth.
    """
    depth = (pose[..., 2] - 0.5) * depth_range + root_depth.unsqueeze(-1)
    return back_project(normalised_to_picture(pose[..., :2], to_crop), depth, camera)
