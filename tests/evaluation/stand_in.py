"""A data set without pictures, whose frames carry their own number, and a network that looks the answer up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyhar.data.clips import centre_clip
from pyhar.data.geometry import apply_map, crop_map, project
from pyhar.data.layouts import PA17
from pyhar.errors import UserError
from pyhar.models import SPNetConfig, SPNetOutput

SIZE, FRAMES, SUBSAMPLE = 32, 4, 2
NAMES = ("clap", "wave", "walk")
CAMERA = torch.tensor([500.0, 510.0, 160.0, 120.0])
ROOT_DEPTH = 4000.0
HEAD = 30.0


def config(**changes: Any) -> SPNetConfig:
    """Two pyramids of one block each, all small."""
    values: dict[str, Any] = {
        "num_joints": 17, "dim": 3, "layout": "pa17", "image_size": SIZE, "clip_frames": FRAMES, "num_pyramids": 2,
        "action_pyramids": (1, 2), "num_levels": 2, "growth": 8, "stem_features": 8, "pose_features": 16,
        "appearance_features": 16, "num_actions": (len(NAMES),), "grid": "centers",
    }  # fmt: skip
    return SPNetConfig(**values | changes)


class StandIn:
    """Poses scattered around a root. Frame k of video v has v + 1, k + 1 in its upper left pixel, so a mirrored one
    has 0.
    """

    layout = PA17
    action_names = NAMES
    subsample = SUBSAMPLE

    def __init__(
        self, size: int = 12, kind: str = "pose", frames: Sequence[int] = (20,), bad: Sequence[int] = ()
    ) -> None:
        self.size, self.kind, self.frames, self.bad = size, kind, frames, bad
        generator = torch.Generator().manual_seed(3)
        relative = torch.randint(-400, 400, (size, 17, 3), generator=generator).float()
        relative[:, 0] = 0
        self.joints_mm = relative + torch.tensor([100.0, -50.0, ROOT_DEPTH])
        self.joints_px = project(self.joints_mm, CAMERA.expand(size, 4))
        self.to_crop = torch.from_numpy(crop_map((60, 20, 260, 220), rotation=20.0, flip=True))

    def __len__(self) -> int:
        return self.size

    def normalised(self, video: int) -> Tensor:
        xy = apply_map(self.to_crop, self.joints_px[video])
        z = 0.5 + (self.joints_mm[video, :, 2:] - ROOT_DEPTH) / 2000
        return torch.cat([xy, z], dim=1)

    def num_frames(self, video: int) -> int:
        return self.frames[video % len(self.frames)]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        assert isinstance(index, int)
        if self.kind == "clips":
            return self.clip(index, centre_clip(self.num_frames(index), FRAMES, SUBSAMPLE).tolist())
        return {key: value[0] if key in PER_FRAME else value for key, value in self.clip(index, [0]).items()}

    def clip(self, video: int, frame_indices: Sequence[int], flip: bool = False) -> dict[str, Any]:
        if video in self.bad:
            raise UserError(f"video {video} is broken")
        count = len(frame_indices)
        frames = torch.zeros(count, SIZE, SIZE, 3, dtype=torch.uint8)
        frames[:, 0, 0, 0] = video + 1
        frames[:, 0, 0, 1] = torch.tensor(frame_indices) + 1

        def each(value: Tensor) -> Tensor:
            return value.expand(count, *value.shape).clone()

        return {
            "frames": frames,
            "pose": each(self.normalised(video)),
            "pose_valid": torch.ones(count, 17, 3, dtype=torch.bool),
            "confidence": torch.ones(count, 17),
            "visible": torch.ones(count, 17, dtype=torch.bool),
            "action": torch.tensor(video % len(NAMES)),
            "action_head": torch.tensor(0),
            "joints_px": each(self.joints_px[video]),
            "joints_mm": each(self.joints_mm[video]),
            "root_depth": torch.full((count,), ROOT_DEPTH),
            "camera": CAMERA,
            "to_crop": self.to_crop,
            "head_size": torch.full((count,), HEAD),
            "box": torch.tensor([60.0, 20.0, 260.0, 220.0]),
            "subject": torch.tensor(0),
            "index": torch.tensor(video),
            "name": f"stand-in/{video:03}",
        }


PER_FRAME = (
    "frames",
    "pose",
    "pose_valid",
    "confidence",
    "visible",
    "joints_px",
    "joints_mm",
    "root_depth",
    "head_size",
)

Pose = Callable[[int, Tensor], Tensor]
Chance = Callable[[int, int, bool], Sequence[float]]


class Oracle(nn.Module):
    """Answers with the truth, changed by `pose(video, true pose)` in each block and `chance(video, first frame,
    mirrored)`.
    """

    def __init__(
        self, data: StandIn, poses: Sequence[Pose] = (), chances: Sequence[Chance] = (), **changes: Any
    ) -> None:
        super().__init__()
        self.config = config(**changes)
        self.data = data
        self.poses = list(poses) or [lambda video, pose: pose] * self.config.num_pose_blocks
        self.chances = list(chances) or [right_action] * self.config.num_action_blocks
        self.num_pose_blocks, self.num_action_blocks = len(self.poses), len(self.chances)
        self.calls: list[tuple[int, tuple[int, ...], bool]] = []

    def forward(self, frames: Tensor, *, keep_maps: bool = False) -> SPNetOutput:
        assert not self.training
        assert frames.min() >= -1
        numbers = ((frames + 1) * 127.5).round().long()
        clip = frames.ndim == 5
        mirrored = bool(numbers[..., 0, 0, -1].any())
        corner = numbers[..., 0, -1 if mirrored else 0]  # (B, [T,] 3)
        videos = (corner[:, 0, 0] if clip else corner[:, 0]).sub(1).tolist()
        out = SPNetOutput()
        for pose in self.poses:
            answers = torch.stack([pose(v, self.data.normalised(v)) for v in videos])
            answers = torch.cat([answers[..., : self.config.dim], torch.ones(*answers.shape[:2], 1)], dim=-1)
            out.poses.append(answers.unsqueeze(1).expand(-1, frames.shape[1], -1, -1) if clip else answers)
        if clip:
            numbers_of = corner[..., 1].sub(1).tolist()
            self.calls += [(v, tuple(k), mirrored) for v, k in zip(videos, numbers_of, strict=True)]
            for chance in self.chances:
                p = [chance(v, k[0], mirrored) for v, k in zip(videos, numbers_of, strict=True)]
                out.action_logits.append([torch.tensor(np.array(p)).float().log()])
        return out


def right_action(video: int, first: int, mirrored: bool) -> list[float]:
    return np.where(np.arange(len(NAMES)) == video % len(NAMES), 0.8, 0.1).tolist()
