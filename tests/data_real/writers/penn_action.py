"""Writes Penn Action as its owners ship it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from writers import matlab_files
from writers.rendered import Rendered, shoot, write_jpeg

FROM_PA16 = (3, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
"""The data set's joints, the head and then pairs with the left joint first, as places in "pa16"."""
_SHORT = """
    baseball_pitch baseball_swing bench_press bowl clean_and_jerk golf_swing jump_rope jumping_jacks
    pullup pushup situp squat strum_guitar tennis_forehand tennis_serve
"""
_README = """
    baseball_pitch baseball_swing bench_press bowling clean_and_jerk golf_swing jump_rope jumping_jacks
    pull_ups push_ups sit_ups squats strumming_guitar tennis_forehand tennis_serve
"""
SHORT_SPELLINGS, README_SPELLINGS = tuple(_SHORT.split()), tuple(_README.split())


def labels(rendered: Rendered, label: str, flag: int = 1, **changes: Any) -> dict[str, Any]:
    """The variables of one label file; a change to None leaves a variable out."""
    frames, height, width, _ = rendered.pictures.shape
    px = rendered.joints_px[:, list(FROM_PA16)]
    variables = {
        "action": label,
        "pose": "front",
        "x": px[..., 0],
        "y": px[..., 1],
        "visibility": rendered.visible[:, list(FROM_PA16)].astype(np.uint8),
        "train": np.array([[flag]], dtype=np.int16),
        "bbox": rendered.boxes(),
        "dimensions": np.array([[height, width, frames]], dtype=np.float64),
        "nframes": np.array([[frames]], dtype=np.float64),
    }
    return {name: value for name, value in {**variables, **changes}.items() if value is not None}


def write(
    root: Path,
    number: int,
    rendered: Rendered,
    variables: dict[str, Any],
    version: str = "5",
    pictures: npt.NDArray[np.uint8] | None = None,
) -> None:
    """One video; pictures: if not the rendered ones."""
    for i, picture in enumerate(rendered.pictures if pictures is None else pictures, start=1):
        write_jpeg(root / "frames" / f"{number:04d}" / f"{i:06d}.jpg", picture)
    matlab_files.save(root / "labels" / f"{number:04d}.mat", variables, version)


def example(seed: int = 0, frames: int = 4) -> Rendered:
    return shoot(seed, frames, action=seed % 5)
