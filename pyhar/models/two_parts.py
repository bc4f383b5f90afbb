"""How the network's blocks make a whole: a part for each frame by itself, and one over clips of what that gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from pyhar.errors import UserError
from pyhar.models.action import ActionInput
from pyhar.models.config import SPNetConfig
from pyhar.models.prediction import BlockMaps


class FrameFeatures(NamedTuple):
    """What the network sees in N frames, each by itself. Earliest block first."""

    poses: list[Tensor]
    """Per prediction block (N, J, dim + 1), float32: x, y, (z), confidence in normalised crop coordinates."""
    actions: list[ActionInput]
    """Per action block: what it reads of each frame, N first."""
    maps: list[BlockMaps]
    """Per prediction block, if asked for."""


@dataclasses.dataclass
class SPNetOutput:
    """What the network says, earliest block first; the last is the best."""

    poses: list[Tensor] = dataclasses.field(default_factory=list)
    """Per prediction block (B, [T,] J, dim + 1), float32: x, y, (z), confidence in normalised crop coordinates."""
    action_logits: list[list[Tensor]] = dataclasses.field(default_factory=list)
    """Per action block, per action data set: (B, classes), float32."""
    maps: list[BlockMaps] = dataclasses.field(default_factory=list)
    """Per prediction block, if asked for."""

    @property
    def actions(self) -> list[list[Tensor]]:
        """Per action block, per action data set: probabilities (B, classes), float32."""
        return [[logits.softmax(dim=-1) for logits in block] for block in self.action_logits]


class TwoPartNetwork(nn.Module):
    """What `pyhar.models.SPNet` and its inference form compute alike, with blocks of their own.

    `path` are the visits, each with its `level`, whether it `acts`, and the functions `arrive`, `block` and
    `recognise` of `pyhar.models.spnet.Visit`.
    """

    config: SPNetConfig
    entry: nn.Module

    @property
    def path(self) -> Sequence[Any]:
        """The visits in the order in which they are made."""
        raise NotImplementedError

    @property
    def num_pose_blocks(self) -> int:
        """Poses in the output."""
        return self.config.num_pose_blocks if self.config.cut is None else int(self.config.cut.pose_block is not None)

    @property
    def num_action_blocks(self) -> int:
        """Action predictions in the output of a clip."""
        return (
            self.config.num_action_blocks if self.config.cut is None else int(self.config.cut.action_block is not None)
        )

    def forward(self, frames: Tensor, *, keep_maps: bool = False) -> SPNetOutput:
        """frames: (B, 3, H, W) stills, for which only poses are computed, or (B, T, 3, H, W) clips; RGB in [-1, 1],
        of any floating type.

        H and W are multiples of `config.size_multiple`. Raises ValueError on a wrong shape, TypeError on a wrong type,
        UserError on a wrong size.
        """
        if frames.ndim not in (4, 5) or frames.shape[-3] != 3:
            raise ValueError(f"frames: expected (B, 3, H, W) or (B, T, 3, H, W), got {tuple(frames.shape)}")
        if frames.ndim == 4:
            poses, _, maps = self.frame_features(frames, actions=False, keep_maps=keep_maps)
            return SPNetOutput(poses, [], maps)
        clip = frames.shape[:2]
        if clip[1] == 0:
            raise ValueError("frames: the clip is empty (T = 0)")
        poses, actions, maps = self.frame_features(frames.flatten(0, 1), keep_maps=keep_maps)
        logits = self.recognise([seen.each(lambda part: part.unflatten(0, clip)) for seen in actions])
        return SPNetOutput([pose.unflatten(0, clip) for pose in poses], logits, maps)

    def frame_features(self, frames: Tensor, *, actions: bool = True, keep_maps: bool = False) -> FrameFeatures:
        """The pose part, which knows nothing of time: frames (N, 3, H, W), RGB in [-1, 1].

        actions: whether what the action part reads is computed too. Raises as `forward` does.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames: expected (N, 3, H, W), got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise TypeError(f"frames: expected a floating type, RGB / 127.5 - 1, got {frames.dtype}")
        height, width = frames.shape[-2:]
        multiple = self.config.size_multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(
                f"pictures of {width}x{height} pixels do not fit: both sides must be multiples of {multiple}"
            )
        found = FrameFeatures([], [], [])
        path = self.path
        if not actions:  # a cut may have left actions behind the last pose
            path = path[: 1 + max((n for n, visit in enumerate(path) if visit.block.wants_pose), default=-1)]
        x = self.entry(frames)
        features: dict[int, Tensor] = {0: x}  # X of each level
        first: dict[int, Tensor] = {0: x}  # Z0 of each level
        for visit in path:
            level = visit.level
            x = visit.arrive(x, features.get(level))
            first.setdefault(level, x)
            x, pose, seen, maps = visit.block(x, first[level], actions=actions, last=visit is path[-1])
            features[level] = x
            if pose is not None:
                found.poses.append(pose)
            if seen is not None:
                found.actions.append(seen)
            if keep_maps and maps is not None:
                found.maps.append(maps)
        return found

    def recognise(self, clips: Sequence[ActionInput]) -> list[list[Tensor]]:
        """The action part: what `frame_features` says of the frames, stacked to clips (B, T, ...), per action block.

        Returns logits (B, classes), float32, per action block, per action data set; of the last block alone if the
        network is cut. Raises ValueError if there are not as many inputs as action blocks, or one lacks what is read.
        """
        count = sum(visit.acts for visit in self.path)
        if len(clips) != count:
            raise ValueError(f"clips: expected the input of {count} action blocks, got {len(clips)}")
        waiting = iter(clips)
        logits: list[list[Tensor]] = []
        features: dict[int, Tensor | None] = {}  # Y of each level
        y: Tensor | None = None
        for visit in self.path:
            if visit.acts:
                y, scores = visit.recognise(next(waiting), y, features.get(visit.level))
                logits.append([head.float() for head in scores])
            features[visit.level] = y
        return logits if self.config.cut is None else logits[-1:]
