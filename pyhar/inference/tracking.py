"""The person's box: written by hand, read from a file, or followed from the last pose.

A box is (x1, y1, x2, y2) in picture pixels, around the whole person. The network sees a square around it:
`crop_square`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import square_box
from pyhar.errors import UserError

Box = tuple[float, float, float, float]
Boxes = Mapping[int | str, Box]
"""The box of each frame, by its index or its file name."""

CROP_MARGIN = 0.25
"""Share of a box's longer side that the square shows in addition, half on each side; what networks are trained with."""
BODY_MARGIN = 0.1
"""Share of the joints' extent that a body takes in addition: skull, hands, feet."""
MIN_SIDE = 16.0
"""A followed box is never smaller than this many pixels."""


def parse_box(text: str) -> Box:
    """Read "x1,y1,x2,y2" (pixels). Raises UserError if that is not what it says."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    return check_box(values, f"box {text!r}")


def read_boxes(path: str | os.PathLike[str]) -> dict[int | str, Box]:
    """Read a JSON file: an object from frame numbers (from 0) or file names to [x1, y1, x2, y2], or a list by frame.

    null stands for a frame without a box. Raises UserError that names the file and the entry that is wrong.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"boxes {os.fspath(path)} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"boxes {os.fspath(path)} is not valid JSON: {error}") from error
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        raise UserError(f'boxes {os.fspath(path)}: expected {{"0": [x1, y1, x2, y2], ...}} or [[x1, y1, x2, y2], ...]')
    return {
        int(key) if str(key).isdecimal() and len(str(key)) < 19 else str(key): check_box(
            box, f"boxes {os.fspath(path)}, frame {key}"
        )
        for key, box in content.items()
        if box is not None
    }


def check_box(values: Any, what: str) -> Box:
    """Four finite numbers with x1 < x2 and y1 < y2, as a `Box`. Raises UserError that begins with `what`."""
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: expected x1,y1,x2,y2 in pixels") from error
    if not np.isfinite([x1, y1, x2, y2]).all() or x2 <= x1 or y2 <= y1:
        raise UserError(f"{what}: ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area; give x1 < x2 and y1 < y2 in pixels")
    return x1, y1, x2, y2


def whole_frame(width: int, height: int) -> Box:
    """The box that holds all of a picture, from edge to edge."""
    return -0.5, -0.5, width - 0.5, height - 0.5


def crop_square(box: Box | None, width: int, height: int) -> npt.NDArray[np.float64]:
    """The square (4,) that the network sees: around `box` with `CROP_MARGIN`, around the whole picture without a box.

    Raises UserError if the box lies outside the picture.
    """
    if box is None:
        return square_box(whole_frame(width, height))
    x1, y1, x2, y2 = check_box(box, "box")
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise UserError(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the picture of {width}x{height} pixels")
    return square_box((x1, y1, x2, y2), CROP_MARGIN)


def union(boxes: list[Box]) -> Box:
    """The smallest box around all of them."""
    corners = np.asarray(boxes, dtype=np.float64)
    x1, y1 = corners[:, :2].min(axis=0)
    x2, y2 = corners[:, 2:].max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


class BoxFollower:
    """The box for the next frame or clip, from the joints found in the last one.

    `box` is the starting box, or None for the whole picture, until a person is found and whenever too few joints are
    trusted. `found` says whether it is a person's.
    """

    def __init__(
        self,
        start: Box | None = None,
        *,
        smoothing: float = 0.5,
        min_confidence: float = 0.3,
        min_joints: float = 0.25,
    ) -> None:
        """smoothing: weight, for every frame that passes, of the old box in the new one, in [0, 1).

        min_confidence: of a joint that is trusted. min_joints: share of all joints, else the person is lost.
        """
        self.start = start
        self.smoothing = smoothing
        self.min_confidence = min_confidence
        self.min_joints = min_joints
        self.box = start
        self.found = False

    def update(
        self, poses_px: npt.NDArray[np.float32], confidence: npt.NDArray[np.float32], width: int, height: int
    ) -> None:
        """Take in the joints (N, J, 2) of the last N frames, picture pixels, their confidence (N, J), and the size.

        The next box holds the last frame's joints, and them moved on as far as they came in these N frames.
        """
        trusted = confidence >= self.min_confidence
        both = trusted[0] & trusted[-1]
        if trusted[-1].sum() < max(2, self.min_joints * trusted.shape[1]):
            self.box, self.found = self.start, False
            return
        joints = poses_px[-1][trusted[-1]].astype(np.float64)
        low, high = joints.min(axis=0), joints.max(axis=0)
        pad = BODY_MARGIN / 2 * (high - low).max()
        if both.any():
            step = np.clip((poses_px[-1] - poses_px[0])[both].mean(axis=0), low - high, high - low)
            low, high = np.minimum(low, low + step), np.maximum(high, high + step)
        centre, size = (low + high) / 2, np.maximum(high - low + 2 * pad, MIN_SIDE)
        if self.found and self.box is not None:
            old, weight = np.asarray(self.box), self.smoothing ** len(poses_px)
            centre = weight * (old[:2] + old[2:]) / 2 + (1 - weight) * centre
            size = weight * (old[2:] - old[:2]) + (1 - weight) * size
        self.found = bool((centre >= 0).all() and centre[0] < width and centre[1] < height)
        x1, y1, x2, y2 = np.concatenate([centre - size / 2, centre + size / 2]).tolist()
        self.box = (x1, y1, x2, y2) if self.found else self.start
