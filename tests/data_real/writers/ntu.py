"""Writes NTU RGB+D as its owners ship it, and the pickles that pyskl and mmaction2 make of it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from writers.videos import person, write_video

Array = npt.NDArray[np.float64]

FULL = (1920, 1080)
# fx, fy, cx, cy of the colour camera, the size of real ones.
COLOUR = np.array([1057.0, 1061.0, 972.0, 541.0])
DEPTH = np.array([365.5, 365.5, 256.0, 212.0])
# The Kinect's 25 joints out of "pa17", its left on the side where a mirrored picture has it; hands, feet and thumbs lie
# beyond wrists and ankles.
_SOURCE = (0, 16, 2, 3, 4, 6, 8, 8, 5, 7, 9, 9, 10, 12, 14, 14, 11, 13, 15, 15, 1, 8, 8, 9, 9)
# What the loader should give as "pa17", by the spec.
MIRRORED = [0, 20, 2, 3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18, 1]


@dataclass
class Track:
    """One body as written: from frame `start` on."""

    number: int
    xyz: Array
    """(n, 25, 3) metres, y up."""
    state: npt.NDArray[np.int64]
    start: int = 0
    px: Array | None = None
    """(n, 25, 2); None: by COLOUR, exactly."""

    def pixels(self) -> Array:
        if self.px is not None:
            return self.px
        return to_colour(self.xyz)


def to_colour(xyz: Array) -> Array:
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.stack([COLOUR[0] * x / z + COLOUR[2], COLOUR[1] * -y / z + COLOUR[3]], axis=-1)


def kinect(frames: int, seed: int = 0, depth: float = 3.2, side: float = 0.1, action: int = 0) -> Array:
    """A synthetic person as a Kinect sees it: (frames, 25, 3) metres."""
    joints = person(frames, seed=seed, action=action, step=3)[:, list(_SOURCE)] / 1000
    rng = np.random.default_rng(seed)
    for joint in (7, 11, 15, 19, 21, 22, 23, 24):
        joints[:, joint] += rng.normal(0, 0.04, 3)
    x, back, up = np.moveaxis(joints, -1, 0)
    return np.stack([x + side, up - 0.95, depth + back], axis=-1)


def track(frames: int, number: int = 72057594037931101, start: int = 0, **options: Any) -> Track:
    return Track(number, kinect(frames, **options), np.full((frames, 25), 2), start)


def chair(frames: int, number: int = 72057594037931222, jitter: float = 0.004) -> Track:
    """A ghost: wide and low, all but still."""
    rng = np.random.default_rng(number % 1000)
    shape = np.stack([rng.uniform(-0.9, 0.9, 25), rng.uniform(-0.3, 0.3, 25), rng.uniform(-0.1, 0.1, 25)], -1)
    # Its back has the length of a person's: only its outline tells.
    shape[0], shape[20] = (-0.4, -0.2, 0.0), (0.1, -0.1, 0.0)
    xyz = shape + [0.9, -0.5, 2.6] + rng.normal(0, jitter, (frames, 25, 3))
    return Track(number, xyz, np.ones((frames, 25), dtype=np.int64))


def write_skeleton(path: Path, tracks: Sequence[Track], frames: int) -> None:
    """As the owners' program wrote them: numbers of seven digits, Windows line ends."""
    lines = [str(frames)]
    for frame in range(frames):
        there = [t for t in tracks if t.start <= frame < t.start + len(t.xyz)]
        lines.append(str(len(there)))
        for t in there:
            xyz, px, state = t.xyz[frame - t.start], t.pixels()[frame - t.start], t.state[frame - t.start]
            lines += [f"{t.number} 0 1 1 1 1 0 0.02764709 0.05745083 2", "25"]
            for (x, y, z), (u, v), s in zip(xyz, px, state, strict=True):
                with np.errstate(all="ignore"):
                    du, dv = DEPTH[0] * x / z + DEPTH[2], DEPTH[1] * -y / z + DEPTH[3]
                numbers = [x, y, z, du, dv, u, v, -0.2059419, 0.05349901, 0.9692109, -0.1239193]
                lines.append(" ".join([*(f"{n:.10g}" for n in numbers), str(s)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())


def write_rgb(root: Path, name: str, frames: int, size: tuple[int, int] = FULL, dots: Sequence[Array] = ()) -> None:
    path = root / "nturgb+d_rgb" / f"{name}_rgb.avi"
    write_video(path, dots if len(dots) else [np.empty((0, 2))] * frames, size, 30, "MJPG")


def write_owners(root: Path, recordings: dict[str, list[Track]], frames: int = 8) -> None:
    """nturgb+d_skeletons and nturgb+d_rgb; the videos are small in bytes, but of full size."""
    blank: bytes | None = None
    for name, tracks in recordings.items():
        write_skeleton(root / "nturgb+d_skeletons" / f"{name}.skeleton", tracks, frames)
        video = root / "nturgb+d_rgb" / f"{name}_rgb.avi"
        if blank is None:
            write_rgb(root, name, frames)
            blank = video.read_bytes()
        video.write_bytes(blank)


def write_missing(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    heading = (
        f'{len(names)} of the captured samples in the "NTU RGB+D" dataset have missing or incomplete skeleton data.\n'
        "If you are working on skeleton-based analysis, please ignore these files in your training and testing.\n\n"
    )
    path.write_text(heading + "".join(f"{name}\n" for name in names))


def annotation_3d(name: str, bodies: Sequence[Array]) -> dict[str, Any]:
    """A recording of pyskl's ntu60_3danno.pkl: bodies (T, 25, 3)."""
    return {
        "frame_dir": name,
        "label": int(name[-3:]) - 1,
        "keypoint": np.stack(bodies).astype(np.float32),
        "total_frames": len(bodies[0]),
    }


def annotation_2d(name: str, bodies: Sequence[Array], scores: Sequence[Array]) -> dict[str, Any]:
    """A recording of pyskl's ntu60_hrnet.pkl: bodies (T, 17, 2), scores (T, 17), half precision."""
    return {
        "frame_dir": name,
        "label": int(name[-3:]) - 1,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "total_frames": len(bodies[0]),
        "keypoint": np.stack(bodies).astype(np.float16),
        "keypoint_score": np.stack(scores).astype(np.float16),
    }


def write_pickle(path: Path, annotations: Sequence[Any], split: dict[str, list[str]] | None, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"annotations": list(annotations)}
    if split is not None:
        data["split"] = split
    path.write_bytes(pickle.dumps(data, protocol=protocol))
