"""Poses and actions frame by frame, as a camera delivers them: every frame goes through the network once.

The pose part of the network knows nothing of time, and the action part reads little of each frame: coordinates,
confidence and appearance of the joints. So these are kept for the frames of a clip, and with every new frame the action
part runs over them, at a fraction of what the pose costs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch

from pyhar.data.geometry import Matrix, crop_map
from pyhar.data.sample import model_input
from pyhar.deploy import DeployedSPNet
from pyhar.errors import UserError
from pyhar.inference.pipeline import Ahead
from pyhar.inference.predictions import ActionPrediction, FramePrediction
from pyhar.inference.predictor import (
    Group,
    Predictor,
    check_size,
    checked_frames,
    follow_poses,
    follower_of,
    union_box,
)
from pyhar.inference.ring import FeatureRing, moved
from pyhar.inference.tracking import Box, Boxes, BoxFollower, crop_square
from pyhar.inference.video import Frame, Picture
from pyhar.models import ModelMeta, SPNet


class _Shot(NamedTuple):
    """How a frame of the clip was taken."""

    frame_index: int
    box: Box | None
    to_crop: Matrix


class StreamingPredictor(Predictor):
    """A `Predictor` that answers each frame when it comes: a pose always, an action as soon as a clip is full.

    A clip is the newest frame and those before it, every `subsample`-th, `clip_frames` in all: the first answer comes
    with frame (clip_frames - 1) * subsample + 1 of a stream, and until then `action` is None. With a fixed box the
    answers are those of a `Predictor` for the same clip. Where the box moves, each frame is cut out by its own box,
    and the coordinates that the action part reads are those in the box around all boxes of the clip, as if they had
    been cut out together.

    A clip begins anew after `reset`, after a pause, where a followed person is lost or found again, and after an error.
    Not safe to use from several threads at once.
    """

    def __init__(
        self,
        model: SPNet | DeployedSPNet | str | os.PathLike[str],
        meta: ModelMeta | None = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        pose_block: int = -1,
        action_block: int | None = -1,
        action_head: int = 0,
        subsample: int = 1,
        batch_size: int = 16,
        action_every: int = 1,
        max_pause_s: float = 1.0,
    ) -> None:
        """action_every: so many frames apart actions are computed; those between carry the last one.

        max_pause_s: frames that are further apart than this, or go back in time, are not of one clip; frames without
        a time never are apart. The rest is as for `Predictor`, which also says what raises UserError.
        """
        super().__init__(
            model,
            meta,
            device=device,
            dtype=dtype,
            pose_block=pose_block,
            action_block=action_block,
            action_head=action_head,
            subsample=subsample,
            batch_size=batch_size,
        )
        if action_every < 1:
            raise UserError(f"action_every must be at least 1, not {action_every}")
        if not max_pause_s > 0:
            raise UserError(f"max_pause_s must be more than 0, not {max_pause_s:g}")
        self.action_every = action_every
        self.max_pause_s = max_pause_s
        self._ring = FeatureRing(self.config.clip_frames, subsample)
        self._shots: deque[_Shot] = deque(maxlen=self.clip_span)
        self._newest_action: ActionPrediction | None = None
        self.reset()

    @property
    def clip_span(self) -> int:
        """Frames from the first of a clip to its last."""
        return (self.config.clip_frames - 1) * self.subsample + 1

    def reset(self, *, box: Box | Boxes | None = None, follow: bool = False) -> None:
        """Begin a new stream. box: the person's, for all frames or by frame index or name; the whole frame without one.

        follow: the box is moved with the pose after every frame; back to `box` when the person is lost. Raises
        UserError if there is a box for every frame and one to follow.
        """
        self._where: Box | Boxes | BoxFollower | None = follower_of(box) if follow else box
        self._was_found: bool | None = None
        self._last: Frame | None = None
        self._count = 0
        self._forget()

    def predict_frame(self, frame: Frame | Picture) -> FramePrediction:
        """The next frame of the stream: (H, W, 3) uint8 RGB, or a `Frame`, which carries its own index, time and name.

        Raises UserError on a frame that is no picture or of another size than the one before, on a box outside it, and
        if the network answers with NaN; the stream may go on behind a frame that was wrong.
        """
        item = frame if isinstance(frame, Frame) else Frame(frame, self._count)
        return self._answer(self._one(next(checked_frames([item]))), actions=self.recognises_actions)

    def predict_frames(
        self,
        frames: Iterable[Frame | Picture],
        *,
        box: Box | Boxes | None = None,
        follow: bool = False,
        clips: bool = True,
        ahead: int = 0,
    ) -> Generator[FramePrediction, None, None]:
        """A new stream of frames, one answer each, before the next is asked for.

        box, follow: see `reset`. clips: whether the frames are consecutive, so that actions can be recognised. ahead:
        so many frames are read, and cut out if the box follows nothing, in threads of their own before they are asked
        for; for a file, since behind a camera they would be late. Raises as `predict_frame` does.
        """
        self.reset(box=box, follow=follow)
        with ExitStack() as threads:
            read = checked_frames(frames)
            if ahead:
                read = iter(threads.enter_context(Ahead(read, ahead)))
            groups: Iterable[Group] = map(self._one, read)
            if ahead and not follow:
                groups = threads.enter_context(Ahead(groups, ahead))
            for group in groups:
                yield self._answer(group, actions=clips and self.recognises_actions)

    def _one(self, frame: Frame) -> Group:
        return self._cut_out([frame], 1, [self._box(frame, self._where)], one_box=False)

    def _answer(self, group: Group, *, actions: bool) -> FramePrediction:
        start = time.perf_counter() - group.seconds
        (frame,) = group.frames
        try:
            if self._last is not None:
                check_size(frame, self._last)
                if self._paused(self._last, frame):
                    self._forget()
            with torch.inference_mode():
                crop = model_input(torch.from_numpy(group.crops), self.device)
                seen = self.model.frame_features(crop, actions=actions)
                if actions:
                    self._ring.append(seen.actions)
                    self._shots.append(_Shot(frame.index, group.boxes[0], group.to_crop[0]))
                    beyond = self._ring.count - self.clip_span
                    if beyond >= 0 and beyond % self.action_every == 0:
                        self._newest_action = self._recognise(frame)
                pose = seen.poses[-1].float().cpu().numpy()
            (prediction,) = self._predictions(group, pose, self._newest_action, start)
        except BaseException:
            self._forget()
            raise
        self._last = frame
        self._count += 1
        if isinstance(self._where, BoxFollower):
            follow_poses(self._where, [prediction], frame)
            if self._was_found not in (None, self._where.found):
                self._forget()
            self._was_found = self._where.found
        return prediction

    def _recognise(self, frame: Frame) -> ActionPrediction:
        """The action of the clip that ends with `frame`."""
        shots = list(self._shots)[:: self.subsample]
        clips = self._ring.clip()
        maps = np.stack([shot.to_crop for shot in shots])
        if (maps != maps[0]).any():
            height, width = frame.rgb.shape[:2]
            common = crop_map(crop_square(union_box([shot.box for shot in shots], frame), width, height))
            change = common @ np.linalg.inv(maps)  # of squares: a scale and a shift
            scale = np.ones((1, len(shots), 1, self.config.dim), np.float32)
            shift = np.zeros_like(scale)
            scale[0, :, 0, :2], shift[0, :, 0, :2] = change[:, [0, 1], [0, 1]], change[:, :2, 2]
            clips = moved(clips, *(torch.from_numpy(part).to(self.device) for part in (scale, shift)))
        heads = [logits.softmax(dim=-1)[0].cpu().numpy() for logits in self.model.recognise(clips)[-1]]
        return self._action(heads, tuple(shot.frame_index for shot in shots))

    def _paused(self, before: Frame, frame: Frame) -> bool:
        if before.time_s is None or frame.time_s is None:
            return False
        return not 0 <= frame.time_s - before.time_s <= self.max_pause_s

    def _forget(self) -> None:
        """The next frame begins a new clip."""
        self._ring.clear()
        self._shots.clear()
        self._newest_action = None
