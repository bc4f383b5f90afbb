"""Small video files, and the walking people that the writers of 3D data sets put into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.video import Video, draw_seeds

Array = npt.NDArray[np.float64]


def person(frames: int, seed: int = 0, action: int = 0, step: int = 2) -> Array:
    """Joints of "pa17" (frames, 17, 3) of a synthetic person: millimetres, x right, y to the back, z up from the
    floor."""
    video = Video(action, draw_seeds("train", np.random.default_rng(seed)))
    joints = video.posture.joints[(step * np.arange(frames)) % video.num_frames]
    return np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1)


def write_video(path: Path, dots: Sequence[Array], size: tuple[int, int], fps: float, code: str) -> None:
    """Write a video of `size` (width, height) with a bright square on each of a frame's pixels dots[frame] (n, 2)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size)
    assert out.isOpened()
    for points in dots:
        picture = np.full((size[1], size[0], 3), 40, np.uint8)
        for x, y in np.asarray(points).round().astype(int) if len(points) else ():
            picture[max(y - 3, 0) : max(y + 4, 0), max(x - 3, 0) : max(x + 4, 0)] = 230
        out.write(picture)
    out.release()


def cut_off(path: Path, part: float = 0.5) -> None:
    """Keep the first part of a file, as a copy that was broken off does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
