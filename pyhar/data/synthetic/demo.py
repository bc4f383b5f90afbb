"""Looking at the embedded data: sheets of samples, whole videos with their ground truth, and how fast they are made."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.dataset import SyntheticClips, SyntheticPoses
from pyhar.data.synthetic.motion import ACTION_NAMES, FPS
from pyhar.data.synthetic.scene import HEIGHT, WIDTH
from pyhar.files import write_text
from pyhar.media import VideoWriter


def contact_sheet(
    split: str = "train", image_size: int = 128, columns: int = 8, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """A picture (H, W, 3), RGB, with one clip per action, a row each, and two rows of stills below them."""
    clips = SyntheticClips(split, image_size, columns, seed, len(ACTION_NAMES))
    stills = SyntheticPoses(split, image_size, seed, 2 * columns)
    rows = [np.concatenate(list(clips[i]["frames"].numpy()), axis=1) for i in range(len(clips))]
    for first in (0, columns):
        rows.append(np.concatenate([stills[first + i]["frames"].numpy() for i in range(columns)], axis=1))
    return np.concatenate(rows)


def write_video(path: str | os.PathLike[str], index: int, split: str = "test", seed: int = 0) -> Path:
    """Write the whole pictures of video `index` of `SyntheticClips(split, seed=seed)` as .mp4 or .avi.

    Beside it goes its ground truth, in a JSON file of the same name, whose path is returned: action, subject, camera
    (fx, fy, cx, cy), and per frame joints of "pa17" in pixels and camera millimetres, which of them are visible, and
    the head size. Both are written atomically. Raises UserError for another file name or an unknown split, IndexError
    for a wrong index.
    """
    target = Path(path)
    writer = VideoWriter(target, FPS)
    clips = SyntheticClips(split, seed=seed)
    video = clips.video(index)
    shot = video.shoot(np.arange(video.num_frames))
    truth = shot.truth()
    with writer:
        for picture in shot.pictures(np.eye(3), WIDTH, HEIGHT):
            writer.write(picture)
    facts = {
        "action": video.kind.name,
        "subject": video.seeds.subject,
        "fps": FPS,
        "size": [WIDTH, HEIGHT],
        "camera": video.scene.camera.tolist(),
        "layout": clips.layout.name,
        "joints": list(clips.layout.joints),
        "frames": [
            {
                "joints_px": truth.joints_px[i].round(3).tolist(),
                "joints_mm": truth.joints_mm[i].round(2).tolist(),
                "visible": truth.visible[i].tolist(),
                "head_size": round(float(truth.head_size[i]), 3),
            }
            for i in range(video.num_frames)
        ],
    }
    beside = target.with_suffix(".json")
    write_text(beside, json.dumps(facts) + "\n")
    return beside


def measure(image_size: int = 128, processes: int = 1, seconds: float = 5.0) -> dict[str, float]:
    """Frames per second of stills and of clips, made by so many processes at a time, one thread each."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return {
            kind: sum(pool.starmap(_speed, [(kind, image_size, seconds, i) for i in range(processes)], chunksize=1))
            for kind in ("stills", "clips")
        }


def _speed(kind: str, image_size: int, seconds: float, seed: int) -> float:
    data = (
        SyntheticPoses("train", image_size, seed)
        if kind == "stills"
        else SyntheticClips("train", image_size, seed=seed)
    )
    data[0]
    frames, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        frames += data[frames % len(data)]["frames"].numpy().size // (3 * image_size**2)
    return frames / (time.perf_counter() - start)
