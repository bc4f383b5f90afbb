"""The trained network behind a plain interface: pictures in, poses in picture pixels and actions out.

A frame's way: square around the person -> one affine warp to the crop, whose map is kept -> network -> poses through
the inverse map. Coordinates are those of `pyhar.data.sample`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pyhar.data.clips import centre_clip
from pyhar.data.geometry import Matrix, crop_map, normalised_to_picture, to_crop_pixels
from pyhar.data.sample import model_input
from pyhar.data.warp import View
from pyhar.deploy import DeployedSPNet, choose_dtype, deploy
from pyhar.devices import choose_device
from pyhar.errors import UserError
from pyhar.inference.pipeline import Ahead
from pyhar.inference.predictions import ActionPrediction, FloatArray, FramePrediction
from pyhar.inference.tracking import Box, Boxes, BoxFollower, crop_square, union, whole_frame
from pyhar.inference.video import Frame, Picture, read_picture
from pyhar.models import ModelMeta, SPNet, load_model


class Group(NamedTuple):
    """Frames that are computed together, cut out for the network."""

    frames: list[Frame]
    new: int
    """How many of them, at the end, have not been answered."""
    boxes: list[Box | None]
    """Where the person is in each; None for the whole frame."""
    crops: Picture
    """(N, S, S, 3) uint8."""
    to_crop: Matrix
    """(N, 3, 3)."""
    seconds: float
    """What cutting them out took."""


class Predictor:
    """A network with everything around it. Not safe to use from several threads at once."""

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
    ) -> None:
        """model: a network with its `meta`, or a model file or run directory. device: see `choose_device`. dtype: what
        the network computes in, "float32", "bfloat16", "float16", "int8" or "auto", see `pyhar.deploy.choose_dtype`.

        pose_block, action_block: the blocks whose answers are taken; what they do not read is not computed.
        action_block None: poses alone. action_head: the classifier that names the action. subsample: a clip takes
        every so many frames of a video. batch_size: pictures computed at once, if not fewer than a clip. The network is
        deployed: what an SPNet learns later the predictor does not see. A network that is deployed already is taken as
        it is, with its type, device and blocks. Raises UserError if the model, the device, the type or a block does
        not exist, or the names do not fit the network.
        """
        self.device = choose_device(device)
        if isinstance(model, (str, os.PathLike)):
            model, meta = load_model(model, self.device)
        self.config = model.config
        self.meta = ModelMeta.default(self.config) if meta is None else meta
        for what, number in (("subsample", subsample), ("batch_size", batch_size)):
            if number < 1:
                raise UserError(f"{what} must be at least 1, not {number}")
        if len(self.meta.joints) != self.config.num_joints:
            raise UserError(
                f"the model names {len(self.meta.joints)} joints, its network has {self.config.num_joints}: "
                "they do not belong together"
            )
        self.layout = self.meta.joint_layout
        classes = tuple(len(names) for names in self.meta.action_names)
        if classes != self.config.num_actions:
            raise UserError(
                f"the model names {classes} actions, its network has {self.config.num_actions}: "
                "they do not belong together"
            )
        if isinstance(model, SPNet):
            if self.config.cut is None or (pose_block, action_block) != (-1, -1):
                model = model.cut(pose_block, action_block)
            model = deploy(model, dtype=choose_dtype(dtype, self.device), device=self.device)
        self.model = model
        self.recognises_actions = self.model.num_action_blocks > 0
        if self.recognises_actions and not 0 <= action_head < len(classes):
            raise UserError(f"there is no action head {action_head}: this network has {len(classes)}, counted from 0")
        self.action_head = action_head
        self.subsample = subsample
        self.batch_size = batch_size

    @property
    def clip_span(self) -> int:
        """Frames of a video that one action is recognised from: clip length times subsampling."""
        return self.config.clip_frames * self.subsample

    def predict_image(self, picture: Picture | str | os.PathLike[str], box: Box | None = None) -> FramePrediction:
        """The pose in one picture, (H, W, 3) uint8 RGB or an image file. box: the person's, else the whole picture.

        Raises UserError as `read_picture` and `predict_frames` do.
        """
        if isinstance(picture, (str, os.PathLike)):
            frame = Frame(read_picture(picture), 0, name=os.path.basename(picture))
        else:
            frame = Frame(picture, 0)
        return next(Predictor.predict_frames(self, [frame], box=box, clips=False))

    def predict_frames(
        self,
        frames: Iterable[Frame | Picture],
        *,
        box: Box | Boxes | None = None,
        follow: bool = False,
        clips: bool = True,
        ahead: int = 0,
    ) -> Generator[FramePrediction, None, None]:
        """Predict frames in order, one answer each; holds no more of them than a clip spans (or a batch).

        frames: (H, W, 3) uint8 RGB arrays, or `Frame`s, which carry their own index, time and name.
        box: the person's for all frames, or by frame index or name; the whole frame where there is none. A clip is
        cropped to the box around its frames' boxes.
        follow: after the first frame (or clip) the box is moved with the pose.
        clips: whether the frames are consecutive, so that actions can be recognised. Then clips follow each other
        without gap; frames left over at the end belong to one more clip, of the video's last frames. With subsampling
        s, the span of a clip is read as s interleaved clips, whose probabilities are averaged. A video shorter than a
        span is read with the largest s that fits, one shorter than a clip by repeating frames.
        ahead: so many clips (or batches) are read, and cut out if the box follows nothing, in threads of their own
        before they are asked for; they are held in addition, twice.
        Raises UserError on a picture that is not uint8 RGB, on a box outside the picture, on a clip with frames of
        several sizes, and if the network answers with NaN.
        """
        clips = clips and self.recognises_actions
        follower = follower_of(box) if follow else None
        size = self.clip_span if clips else 1 if follow else self.batch_size
        with ExitStack() as threads:
            read = checked_frames(frames)
            if ahead:
                read = iter(threads.enter_context(Ahead(read, ahead * size)))
            groups: Iterable[Group] = (
                self._cut_out(group, new, [self._box(frame, follower or box) for frame in group], one_box=clips)
                for group, new in _groups(read, size, overlap=clips)
            )
            if ahead and follower is None:
                groups = threads.enter_context(Ahead(groups, ahead))
            for group in groups:
                predictions = (self._predict_clip if clips else self._predict_stills)(group)
                if follower is not None:
                    follow_poses(follower, predictions, group.frames[-1])
                yield from predictions[-group.new :]

    @staticmethod
    def _box(frame: Frame, box: Box | Boxes | BoxFollower | None) -> Box | None:
        if isinstance(box, BoxFollower):
            return box.box
        if isinstance(box, Mapping):
            return box.get(frame.index, box.get(frame.name) if frame.name is not None else None)
        return box

    def _cut_out(self, frames: list[Frame], new: int, boxes: list[Box | None], *, one_box: bool) -> Group:
        """one_box: the frames are of one clip, which is seen in the box around all its boxes."""
        start = time.perf_counter()
        if one_box:
            for frame in frames:
                check_size(frame, frames[0])
            boxes = [union_box(boxes, frames[0])] * len(frames)
        maps = np.stack(
            [
                crop_map(crop_square(box, frame.rgb.shape[1], frame.rgb.shape[0]))
                for frame, box in zip(frames, boxes, strict=True)
            ]
        )
        size = self.config.image_size
        crops = np.empty((len(frames), size, size, 3), np.uint8)
        for frame, matrix, crop in zip(frames, maps, crops, strict=True):
            height, width = frame.rgb.shape[:2]
            View(to_crop_pixels(matrix, size), size, width, height).write(frame.rgb, crop)
        return Group(frames, new, boxes, crops, maps, time.perf_counter() - start)

    def _predict_stills(self, group: Group) -> list[FramePrediction]:
        start = time.perf_counter() - group.seconds
        poses = self._run(group.crops[:, None], clips=False)[0][:, 0]
        return self._predictions(group, poses, None, start)

    def _predict_clip(self, group: Group) -> list[FramePrediction]:
        start = time.perf_counter() - group.seconds
        indices = _covering_clips(len(group.frames), self.config.clip_frames, self.subsample)
        in_clips, heads = self._run(group.crops[indices], clips=True)
        poses = np.empty((len(group.frames), *in_clips.shape[2:]), np.float32)
        poses[indices.reshape(-1)] = in_clips.reshape(-1, *in_clips.shape[2:])
        seen = tuple(group.frames[i].index for i in np.unique(indices))
        return self._predictions(group, poses, self._action([head.mean(axis=0) for head in heads], seen), start)

    def _run(self, crops: Picture, *, clips: bool) -> tuple[FloatArray, list[FloatArray]]:
        """Crops (N, T, S, S, 3) to poses (N, T, J, dim + 1) and, of clips, probabilities (N, classes) by classifier."""
        poses: list[FloatArray] = []
        heads: list[list[FloatArray]] = []
        step = max(1, self.batch_size // crops.shape[1])
        for begin in range(0, len(crops), step):
            chunk = torch.from_numpy(crops[begin : begin + step])
            with torch.inference_mode():
                out = self.model(model_input(chunk if clips else chunk[:, 0], self.device))
            pose = out.poses[-1].float().cpu().numpy()
            poses.append(pose if clips else pose[:, None])
            if clips:
                heads.append([head.float().cpu().numpy() for head in out.actions[-1]])
        return np.concatenate(poses), [np.concatenate(parts) for parts in zip(*heads, strict=True)]

    def _predictions(
        self, group: Group, poses: FloatArray, action: ActionPrediction | None, start: float
    ) -> list[FramePrediction]:
        """poses (N, J, dim + 1) in normalised crop coordinates."""
        for frame, pose in zip(group.frames, poses, strict=True):
            if not np.isfinite(pose).all():
                raise _not_finite(f"frame {frame.index}")
        pixels = normalised_to_picture(torch.from_numpy(poses[..., :2]), torch.from_numpy(group.to_crop)).numpy()
        depth = (poses[..., 2] - 0.5) * self.meta.depth_range_mm if self.config.dim == 3 else [None] * len(poses)
        latency = time.perf_counter() - start
        return [
            FramePrediction(
                index=frame.index,
                time_s=frame.time_s,
                name=frame.name,
                box=whole_frame(frame.rgb.shape[1], frame.rgb.shape[0]) if box is None else box,
                pose_px=pixels[n],
                depth_mm=depth[n],
                confidence=poses[n, :, -1],
                action=action,
                latency_s=latency,
            )
            for n, (frame, box) in enumerate(zip(group.frames, group.boxes, strict=True))
        ]

    def _action(self, heads: list[FloatArray], frames: tuple[int, ...]) -> ActionPrediction:
        """Probabilities (classes,) of each classifier, named."""
        if not all(np.isfinite(head).all() for head in heads):
            raise _not_finite(f"the clip of frames {frames[0]} to {frames[-1]}")
        named = [
            dict(zip(names, head.tolist(), strict=True))
            for names, head in zip(self.meta.action_names, heads, strict=True)
        ]
        best = max(named[self.action_head], key=named[self.action_head].__getitem__)
        return ActionPrediction(best, named[self.action_head][best], tuple(named), frames)


def checked_frames(frames: Iterable[Frame | Picture]) -> Iterator[Frame]:
    """Frames as `Frame`s. Raises UserError on what is not a picture (H, W, 3) uint8."""
    for index, item in enumerate(frames):
        frame = item if isinstance(item, Frame) else Frame(item, index)
        rgb: Any = frame.rgb
        if not isinstance(rgb, np.ndarray) or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise UserError(
                f"frame {frame.index}: expected an RGB array (height, width, 3), "
                f"not {getattr(rgb, 'shape', type(rgb).__name__)}"
            )
        if rgb.dtype != np.uint8:
            bad = int(np.isnan(rgb).sum()) if rgb.dtype.kind == "f" else 0
            raise UserError(
                f"frame {frame.index}: expected uint8 values from 0 to 255, not {rgb.dtype}"
                + (
                    f" with {bad} NaN values; mend the picture first"
                    if bad
                    else "; scale it to 0..255 and use .astype('uint8')"
                )
            )
        yield frame


def _groups(frames: Iterator[Frame], size: int, *, overlap: bool) -> Iterator[tuple[list[Frame], int]]:
    """Groups of `size` frames, each with how many at its end are new: all, unless `overlap` fills the last group up."""
    recent: deque[Frame] = deque(maxlen=size)
    new = 0
    for frame in frames:
        recent.append(frame)
        new += 1
        if new == size:
            yield list(recent), new
            new = 0
    if new:
        yield list(recent) if overlap else list(itertools.islice(recent, len(recent) - new, None)), new


def _covering_clips(num_frames: int, clip_frames: int, subsample: int) -> npt.NDArray[np.int64]:
    """Indices (clips, clip_frames) of clips that together see each frame; `num_frames` <= clip_frames * subsample."""
    step = min(subsample, num_frames // clip_frames)
    if step == 0:
        return centre_clip(num_frames, clip_frames, 1)[None]
    last = num_frames - step * clip_frames  # of the clips' starts: the second row reaches the last frames
    starts = np.unique(np.concatenate([np.arange(step), last + np.arange(step)]))
    return starts[:, None] + step * np.arange(clip_frames, dtype=np.int64)


def check_size(frame: Frame, first: Frame) -> None:
    """Raise UserError unless `frame` is as large as `first`, as frames of one video are."""
    if frame.rgb.shape != first.rgb.shape:
        raise UserError(
            f"frame {frame.index} is {_size(frame)}, frame {first.index} is {_size(first)}: "
            "the frames of one video must be of one size"
        )


def union_box(boxes: list[Box | None], frame: Frame) -> Box | None:
    """The box around those of a clip's frames, of which `frame` is one; None if all are the whole frame."""
    if all(box is None for box in boxes):
        return None
    height, width = frame.rgb.shape[:2]
    return union([whole_frame(width, height) if box is None else box for box in boxes])


def follower_of(box: Box | Boxes | None) -> BoxFollower:
    """A follower that starts at `box`. Raises UserError if there is a box for every frame."""
    if isinstance(box, Mapping):
        raise UserError("a box for every frame leaves nothing to follow: give one starting box, or do not follow")
    return BoxFollower(box)


def follow_poses(follower: BoxFollower, predictions: list[FramePrediction], frame: Frame) -> None:
    """Move the box with the poses of the last frames, of which `frame` is one."""
    height, width = frame.rgb.shape[:2]
    poses, confidence = (np.stack([getattr(p, name) for p in predictions]) for name in ("pose_px", "confidence"))
    follower.update(poses, confidence, width, height)


def _not_finite(what: str) -> UserError:
    return UserError(
        f"the network's answer to {what} is not finite: "
        "its weights are damaged or its training diverged; take another model"
    )


def _size(frame: Frame) -> str:
    return f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}"
