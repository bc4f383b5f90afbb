"""What a sample is: one dictionary of tensors, the same for every data set, for still frames and for clips.

A clip has a leading T on the keys marked `[T,]`; a still has none. `pyhar.data.batches` makes batches.

Coordinate conventions, here and everywhere:

* picture pixels: x right, y down, pixel centres at integers, the picture as it was before any crop;
* normalised crop coordinates: the square the network sees spans [0, 1] x [0, 1] from edge to edge, so the pixel with
  index i of a crop W pixels wide has its centre at (i + 0.5) / W;
* normalised depth: z = 0.5 + (Z - Z_root) / 2000 mm, so the root joint has z = 0.5 and two metres span [0, 1] (Sec.
  4.2.1);
* camera: X right, Y down, Z forward, millimetres; picture x = fx * X / Z + cx, y = fy * Y / Z + cy, but for the lens's
  distortion.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

DEPTH_RANGE_MM = 2000.0


class Sample(TypedDict):
    """One still frame or one clip. Values that a data set does not give are 0 where a mask says so, NaN where a
    comment does."""

    frames: Tensor
    """uint8 ([T,] H, W, 3), RGB: the crop, its colours as they lie on disk."""
    colour_power: Tensor
    """float32 (3,): the exponents, above 0, to which augmentation raises the channels; `model_input` does it."""
    pose: Tensor
    """float32 ([T,] J, 3): x, y in normalised crop coordinates, normalised z; 0 where `pose_valid` is false."""
    pose_valid: Tensor
    """bool ([T,] J, 3): the coordinate is given. 2D data has z false everywhere."""
    confidence: Tensor
    """float32 ([T,] J): 1 where the joint is known and lies inside the crop, else 0; the target of the predicted
    confidence."""
    visible: Tensor
    """bool ([T,] J): the joint is known, inside the crop and not occluded."""
    action: Tensor
    """int64 (): class index within its data set's classes, -1 if the sample has none."""
    action_head: Tensor
    """int64 (): which of the network's classifiers the class belongs to."""
    joints_px: Tensor
    """float32 ([T,] J, 2): picture pixels; NaN where unknown."""
    joints_mm: Tensor
    """float32 ([T,] J, 3): camera coordinates in millimetres; NaN where unknown."""
    root_depth: Tensor
    """float32 ([T]): Z of the root joint in millimetres; NaN where unknown."""
    camera: Tensor
    """float32 (9,): fx, fy, cx, cy in picture pixels, then the lens distortion k1, k2, k3, p_x, p_y (zeros: none); NaN
    where unknown."""
    to_crop: Tensor
    """float64 (3, 3): maps homogeneous picture pixels (x, y, 1) to normalised crop coordinates; one for all frames of
    a clip."""
    head_size: Tensor
    """float32 ([T]): the reference length of PCKh, 0.6 times the diagonal of the head box, picture pixels; NaN where
    unknown."""
    box: Tensor
    """float32 (4,): the person's box x1, y1, x2, y2 in picture pixels, over all frames of a clip."""
    subject: Tensor
    """int64 (): the subject's number within the data set, -1 if unknown."""
    index: Tensor
    """int64 (): the sample's place in its data set."""
    name: str
    """What a message about this sample calls it, e.g. "synthetic/test/clip/000012"."""


TIMED_KEYS = (
    "frames",
    "pose",
    "pose_valid",
    "confidence",
    "visible",
    "joints_px",
    "joints_mm",
    "root_depth",
    "head_size",
)
"""The keys that have a leading T in a clip."""


def model_input(
    frames: Tensor,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    colour_power: Tensor | None = None,
) -> Tensor:
    """Turn a batch of pictures into what the network takes.

    frames: uint8 (B, [T,] H, W, 3), RGB. colour_power: (B, 3), the powers of the channels in [0, 1]; None: 1. Returns
    (B, [T,] 3, H, W) in [-1, 1] of `dtype` on `device`, in channels_last memory. The bytes travel to the device as they
    are and are converted there. Raises TypeError if `frames` is not uint8, ValueError on a wrong shape.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames: expected uint8 pictures, got {frames.dtype}")
    if frames.ndim not in (4, 5) or frames.shape[-1] != 3:
        raise ValueError(f"frames: expected shape (B, H, W, 3) or (B, T, H, W, 3), got {tuple(frames.shape)}")
    on_device = frames.to(device, non_blocking=True) if device is not None else frames
    pictures = on_device.to(dtype)
    # Looked at only where nothing has to be waited for.
    if colour_power is None or (colour_power.is_cpu and bool((colour_power == 1).all())):
        return pictures.mul_(2.0 / 255.0).sub_(1.0).movedim(-1, -3)
    power = colour_power.to(pictures, non_blocking=True).reshape(-1, *(1,) * (frames.ndim - 2), 3)
    # Powers by way of logarithms: on the CPU, PyTorch's own of two tensors take four times as long.
    return pictures.mul_(1.0 / 255.0).log_().mul_(power).exp_().mul_(2.0).sub_(1.0).movedim(-1, -3)
