"""Writes a user's own data: media of every kind and their annotations as JSON or CSV."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from writers.rendered import Rendered, shoot, write_jpeg, write_video

from pyhar.data.layouts import PA17

ACTIONS = ("wave", "bow", "sit")


@dataclass
class Clip:
    """A sequence of the test data: what the loader should find."""

    media: str
    kind: str
    pattern: str
    """As the index names the medium."""
    first: int
    step: int
    action: str | None
    split: str
    subject: int
    shot: Rendered
    known: npt.NDArray[np.bool_]
    """(F, 17): which joints the annotations give."""

    @property
    def numbers(self) -> list[int]:
        return [self.first + self.step * i for i in range(len(self.known))]


def example(root: Path) -> list[Clip]:
    """Two videos, a folder and a pattern of numbered pictures, and a single picture, all on disk."""
    clips = []
    for i, (media, kind, pattern, first, step, frames) in enumerate(
        [
            ("clips/a.mp4", "video", "clips/a.mp4", 2, 1, 3),
            ("clips/b.avi", "video", "clips/b.avi", 0, 2, 3),
            ("shots/c", "frames", "shots/c/img_%03d.jpg", 7, 1, 3),
            ("shots/d/%d.png", "frames", "shots/d/%d.png", 9, 2, 2),
            ("one.jpg", "picture", "one.jpg", 0, 1, 1),
        ]
    ):
        shot = shoot(20 + i, frames, action=i)
        known = np.random.default_rng(i).random((frames, 17)) < 0.9
        action = None if kind == "picture" else ACTIONS[i % 3]
        clip = Clip(media, kind, pattern, first, step, action, ("train", "val", "test")[i % 3], 3 + i, shot, known)
        write_media(root, clip)
        clips.append(clip)
    return clips


def write_media(root: Path, clip: Clip) -> None:
    """The medium, with a frame for every number up to a few after the last one."""
    pictures = clip.shot.pictures
    if clip.kind == "picture":
        write_jpeg(root / clip.media, pictures[0])
        return
    shown = {number: pictures[i] for i, number in enumerate(clip.numbers)}
    every = range(0 if clip.kind == "video" else clip.first, clip.numbers[-1] + 3)
    if clip.kind == "video":
        write_video(root / clip.media, np.stack([shown.get(n, np.zeros_like(pictures[0])) for n in every]))
        return
    for number in every:
        write_jpeg(root / (clip.pattern % number), shown.get(number, np.zeros_like(pictures[0])))


def as_json(clip: Clip, by_name: bool = False, **changes: Any) -> dict[str, Any]:
    """One element of "sequences"."""
    shot, frames = clip.shot, []
    for i, number in enumerate(clip.numbers):
        joints = [
            [*map(float, shot.joints_px[i, j]), int(shot.visible[i, j])] if clip.known[i, j] else None
            for j in range(len(PA17.joints))
        ]
        mm = [shot.joints_mm[i, j].tolist() if clip.known[i, j] else None for j in range(len(PA17.joints))]
        frames.append(
            {
                "frame": number,
                "box": shot.boxes()[i].tolist(),
                "joints": {n: v for n, v in zip(PA17.joints, joints, strict=True) if v} if by_name else joints,
                "joints_mm": mm,
                "head_size": float(shot.head_size[i]),
            }
        )
    entry = {
        "media": clip.media,
        "action": clip.action,
        "split": clip.split,
        "subject": clip.subject,
        "camera": shot.camera.tolist(),
        "frames": frames,
    }
    return {**entry, **changes}


def write_json(root: Path, sequences: list[dict[str, Any]], **changes: Any) -> None:
    content = {"layout": "pa17", "actions": list(ACTIONS), "sequences": sequences, **changes}
    (root / "annotations.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def as_rows(clip: Clip) -> list[dict[str, Any]]:
    """The rows of one sequence."""
    shot, rows = clip.shot, []
    for i, number in enumerate(clip.numbers):
        row: dict[str, Any] = {"video": clip.media, "frame": number, "action": clip.action or "", "split": clip.split}
        row |= dict(zip(("x1", "y1", "x2", "y2"), shot.boxes()[i], strict=True))
        row |= {"subject": clip.subject, "head_size": shot.head_size[i]}
        row |= dict(zip(("fx", "fy", "cx", "cy"), shot.camera, strict=True))
        for j, joint in enumerate(PA17.joints):
            x, y, z = (*shot.joints_px[i, j], shot.joints_mm[i, j, 2]) if clip.known[i, j] else ("", "", "")
            stem = joint.replace(" ", "_")
            row |= {f"{stem}_x": x, f"{stem}_y": y, f"{stem}_z": z, f"{stem}_v": int(shot.visible[i, j])}
        rows.append(row)
    return rows


def write_csv(root: Path, rows: list[dict[str, Any]]) -> None:
    with (root / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
