"""What a data set on disk knows of itself, save the pixels: one index of columns, made once and mapped into memory.

A *sequence* is one person in one video, or one person in one picture (a video of one frame). Its frames are rows of the
frame columns, from `first_row[i]` to `first_row[i + 1]`. Every loader (`pyhar.data.mpii`, ...) reads its owners' files
into an `Index`; `pyhar.data.prepare` saves it; `pyhar.data.indexed` makes samples of it.

Files: a folder with one .npy for each column and `index.json` for the rest, so that worker processes share the pages of
one mapping instead of holding copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import JointLayout

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MEDIA_KINDS = ("picture", "frames", "video")
SPLITS = ("train", "val", "test")


@dataclass
class Index:
    """Columns of a data set. N sequences, M frames in all, J joints of `layout`.

    Unknown numbers are NaN, unknown classes and subjects -1. Pixels: x right, y down, centres of pixels at integers,
    0-based, in the picture as it lies on disk. Millimetres: the camera's own space, X right, Y down, Z forward.
    """

    data_set: str
    """Its name in the registry."""
    layout: JointLayout
    action_names: tuple[str, ...]
    """Of the classes, by number; empty if there are none."""
    media: list[str]
    """(N,) files or, for kind "frames", patterns with one number, such as "frames/0001/%06d.jpg"; relative to the root
    folder of the data set."""
    media_kind: npt.NDArray[np.uint8]
    """(N,) index into `MEDIA_KINDS`."""
    first_row: Ints
    """(N + 1,) where the frames of each sequence begin in the frame columns."""
    first_frame: Ints
    """(N,) number of the sequence's first frame in its medium: of the file name for "frames", from 0 for "video"."""
    frame_step: Ints
    """(N,) frames of the medium from one row to the next."""
    split: npt.NDArray[np.uint8]
    """(N,) index into `SPLITS`."""
    action: Ints
    """(N,) class."""
    subject: Ints
    """(N,) the subject's number."""
    camera: Doubles
    """(N, 9) fx, fy, cx, cy in pixels, then the distortion k1, k2, k3, p1, p2."""
    joints_px: Floats
    """(M, J, 2)."""
    joints_mm: Floats
    """(M, J, 3)."""
    visible: Bools
    """(M, J) known and not occluded."""
    box: Floats
    """(M, 4) x1, y1, x2, y2 of the person, or NaN: then the known joints' box serves."""
    head_size: Floats
    """(M,) the reference length of PCKh, pixels."""
    names: list[str]
    """(N,) what a message calls the sequence, e.g. "penn/0001"."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the data set's protocol needs besides (which joint convention, which scale and centre of a crop, ...), and
    the counts of what was skipped and why, under "skipped": {reason: [names]}."""

    def __len__(self) -> int:
        return len(self.media)

    def num_frames(self, sequence: int) -> int:
        """Frames of a sequence."""
        return int(self.first_row[sequence + 1] - self.first_row[sequence])
