"""What a user's annotations say, whether they came as JSON or as CSV, and checks that both share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import JointLayout, custom_layout
from pyhar.errors import UserError

Array = npt.NDArray[np.float64]

LARGEST = 2**31
"""Numbers of frames and subjects are below it."""


@dataclass
class Frame:
    """One annotated frame; None where nothing is said."""

    number: int | None = None
    """In its medium; None: it follows the frame before it."""
    joints_px: Array | None = None
    joints_mm: Array | None = None
    visible: npt.NDArray[np.bool_] | None = None
    box: Array | None = None
    head_size: float | None = None


@dataclass
class Entry:
    """One person in one medium."""

    where: str
    """In the file, for messages."""
    name: str
    media: str
    frames: list[Frame] | None = None
    """By number; None: all frames of the medium, with labels alone."""
    split: str | None = None
    action: str | None = None
    subject: int = -1
    camera: Array | None = None
    first_frame: int | None = None
    frame_step: int = 1
    box: Array | None = None
    """For frames that have none of their own."""


@dataclass
class Annotations:
    """The whole file."""

    layout: JointLayout
    actions: tuple[str, ...] | None
    entries: list[Entry] = field(default_factory=list)

    @property
    def splits_from(self) -> str:
        return "annotations" if any(entry.split for entry in self.entries) else "share"


def checked_box(numbers: Sequence[float], where: str) -> Array | None:
    """A box, or None for one of zeros or NaN. Raises UserError if it is inside out."""
    box = np.asarray(numbers, dtype=np.float64)
    if np.isnan(box).any() or not box.any():
        return None
    if not (box[2] > box[0] and box[3] > box[1]):
        raise UserError(f"{where}: the box must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, not {box.tolist()}")
    return box


def placed(joints_px: Array) -> Array:
    """Joints (J, 2) with NaN for those that are not there: a coordinate is unknown, or both are 0."""
    absent = ~np.isfinite(joints_px).all(axis=-1) | (joints_px == 0).all(axis=-1)
    return np.where(absent[:, None], np.nan, joints_px)


def named_layout(name: str, joints: Sequence[str], bones: Sequence[Any], root: Any, where: str) -> JointLayout:
    """A user's layout; bones and root by name or number. Raises UserError for a joint that there is not."""

    def place(joint: Any) -> int:
        if isinstance(joint, str) and joint in joints:
            return list(joints).index(joint)
        if isinstance(joint, int) and not isinstance(joint, bool) and 0 <= joint < len(joints):
            return joint
        raise UserError(f"{where}: no joint {joint!r}; the joints are {', '.join(joints)}")

    pairs = [(place(a), place(b)) for a, b in bones]
    try:
        return custom_layout(name, joints, pairs, place(root))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
