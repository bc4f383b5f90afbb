"""Pictures and videos with bright marks at known places, and an index of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import PA16

RED, GREEN, WHITE = (255, 40, 40), (40, 255, 40), (255, 255, 255)


def picture(width: int, height: int, marks: Iterable[tuple[float, float, tuple[int, int, int]]], sigma: float = 2.0):
    """RGB (height, width, 3): on dark grey, a round mark of the given colour at each (x, y)."""
    out = np.full((height, width, 3), 20.0)
    y, x = np.mgrid[:height, :width]
    for mark_x, mark_y, colour in marks:
        weight = np.exp(-((x - mark_x) ** 2 + (y - mark_y) ** 2) / (2 * sigma**2))[..., None]
        out = out * (1 - weight) + weight * np.array(colour)
    return out.round().astype(np.uint8)


def write_picture(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


def write_video(
    path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", b_frames: int = 0, group: int = 12
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.gop_size, stream.max_b_frames = group, b_frames
        # Key frames where the group says, not where the picture changes.
        stream.options = {"sc_threshold": "1000000000"} if codec == "mpeg4" else {"x264-params": "scenecut=0"}
        stream.codec_context.thread_count = 1
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def joints(count: int, **known: Any) -> np.ndarray:
    """(count, 16, 2), NaN but for the joints named, underscores for spaces, each (2,) or (count, 2)."""
    out = np.full((count, 16, 2), np.nan)
    for name, places in known.items():
        out[:, PA16.index(name.replace("_", " "))] = places
    return out


def centroid(crop: np.ndarray, channel: int | None = None) -> np.ndarray:
    """Where the mark in a crop (H, W, 3) is, pixel indices (x, y)."""
    light = crop.astype(float).mean(-1) if channel is None else crop[..., channel] - crop.astype(float).min(-1)
    # The foot of the mark, where compression leaves its noise, and the ground do not count.
    light = np.clip(light - (20 + 0.25 * (light.max() - 20)), 0, None)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


def small_index(data_set: str = "fake", actions: Sequence[str] = ("wave", "jump")) -> IndexBuilder:
    return IndexBuilder(data_set, PA16, actions)


def three_media(root: Path, data_set: str = "fake") -> Index:
    """A picture (train), a video of 20 frames (train) and numbered pictures of 4 frames (test); the right wrist carries
    a white mark."""
    builder = small_index(data_set)
    write_picture(root / "images/a.jpg", picture(120, 90, [(60, 40, WHITE)]))
    builder.add(
        name="fake/a",
        media="images/a.jpg",
        kind="picture",
        split="train",
        joints_px=joints(1, right_wrist=(60, 40), left_wrist=(30, 60)),
        box=(20, 10, 100, 80),
        head_size=11,
        subject=3,
    )
    places = np.stack([30 + 3.0 * np.arange(20), 40 + np.arange(20)], axis=1)
    write_video(root / "videos/b.avi", [picture(128, 96, [(x, y, WHITE)], 3.0) for x, y in places])
    builder.add(
        name="fake/b",
        media="videos/b.avi",
        kind="video",
        split="train",
        joints_px=joints(20, right_wrist=places, left_wrist=(20, 20)),
        action=1,
    )
    for number in range(5, 9):
        write_picture(root / f"frames/c/{number:06d}.jpg", picture(100, 100, [(10.0 * number, 50, WHITE)]))
    mm = np.full((4, 16, 3), np.nan)
    mm[:, 0] = [0, 0, 3000]
    mm[:, 8] = [100, 50, 3400]
    builder.add(
        name="fake/c",
        media="frames/c/%06d.jpg",
        kind="frames",
        split="test",
        joints_px=joints(4, right_wrist=[(10.0 * n, 50) for n in range(5, 9)], pelvis=(50, 80)),
        joints_mm=mm,
        action=0,
        camera=(500, 500, 50, 50),
        first_frame=5,
    )
    return builder.build()
