"""Rendered people with their truth, in small pictures: what the writers of annotations start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.video import Video, draw_seeds

FULL = (640, 480)


@dataclass
class Rendered:
    """Some frames of one performance; joints of "pa17", 0-based pixels of the small pictures."""

    pictures: npt.NDArray[np.uint8]
    """(F, H, W, 3), RGB."""
    joints_px: npt.NDArray[np.float64]
    joints_mm: npt.NDArray[np.float64]
    visible: npt.NDArray[np.bool_]
    head_size: npt.NDArray[np.float64]
    camera: npt.NDArray[np.float64]
    """(4,) fx, fy, cx, cy in the small pictures."""

    def boxes(self, margin: float = 4.0) -> npt.NDArray[np.float64]:
        """(F, 4): around the joints."""
        low, high = self.joints_px.min(axis=1), self.joints_px.max(axis=1)
        return np.concatenate([low - margin, high + margin], axis=1)


@lru_cache(maxsize=32)
def shoot(seed: int, frames: int, width: int = 160, action: int = 0) -> Rendered:
    """Every third frame of a performance, in pictures of width x 3/4 width. Shared by tests: copy before changing."""
    video = Video(action, draw_seeds("test", np.random.default_rng(seed)))
    shot = video.shoot(3 * np.arange(frames))
    truth = shot.truth()
    s = width / FULL[0]
    # Pixel centres are at integers before and after: the pictures' corners, at -0.5, stay where they are.
    to_small = np.array([[s, 0.0, (s - 1) / 2], [0.0, s, (s - 1) / 2], [0.0, 0.0, 1.0]])
    height = round(FULL[1] * s)
    return Rendered(
        pictures=shot.pictures(to_small, width, height),
        joints_px=truth.joints_px * s + (s - 1) / 2,
        joints_mm=truth.joints_mm,
        visible=truth.visible,
        head_size=truth.head_size * s,
        camera=video.scene.camera * s + [0, 0, (s - 1) / 2, (s - 1) / 2],
    )


def write_jpeg(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])


def write_video(path: Path, pictures: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    height, width = pictures.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25.0, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()
