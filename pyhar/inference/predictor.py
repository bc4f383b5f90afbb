"""The trained network behind a plain interface: pictures in, poses in picture pixels and actions out.

A frame's way: square around the person -> one affine warp to the crop, whose map is kept -> network -> poses through
the inverse map. Coordinates are those of `pyhar.data.sample`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pyhar.data.clips import centre_clip
from pyhar.data.geometry import Matrix, crop_map, normalised_to_picture, to_crop_pixels
from pyhar.data.layouts import LAYOUTS, JointLayout, custom_layout
from pyhar.data.sample import model_input
from pyhar.deploy import DeployedSPNet, choose_dtype, deploy
from pyhar.devices import choose_device
from pyhar.errors import UserError
from pyhar.inference.tracking import Box, Boxes, BoxFollower, crop_square, union, whole_frame
from pyhar.inference.video import Frame, Picture, read_picture
from pyhar.models import ModelMeta, SPNet, load_model

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ActionPrediction:
    """What is done in a clip."""

    name: str
    probability: float
    probabilities: tuple[dict[str, float], ...]
    """Of every class, by name; one dictionary for each of the network's classifiers."""
    frames: tuple[int, ...]
    """The indices of the frames it was read from."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; probabilities to five places."""
        return {
            "type": "clip",
            "frames": list(self.frames),
            "action": self.name,
            "probability": round(self.probability, 5),
            "probabilities": [{name: round(p, 5) for name, p in head.items()} for head in self.probabilities],
        }


@dataclass(frozen=True)
class FramePrediction:
    """The person in one frame."""

    index: int
    time_s: float | None
    """Seconds since the first frame; None if unknown."""
    name: str | None
    """File name of a picture; None for frames of a video."""
    box: Box
    """x1, y1, x2, y2, picture pixels: where the person was looked for, without the crop's margin."""
    pose_px: FloatArray
    """(J, 2) picture pixels."""
    depth_mm: FloatArray | None
    """(J,) millimetres behind the root joint; None from a 2D network."""
    confidence: FloatArray
    """(J,) in [0, 1]."""
    action: ActionPrediction | None
    """Of the clip that the frame belongs to; None without one."""
    latency_s: float
    """Seconds from the frames to the answer, for the group of frames that was computed together with this one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; pixels and confidence to three places, millimetres to one."""
        return {
            "type": "frame",
            "index": self.index,
            "time_s": None if self.time_s is None else round(self.time_s, 4),
            "name": self.name,
            "box": [round(value, 2) for value in self.box],
            "pose_px": _rounded(self.pose_px, 3),
            "depth_mm": None if self.depth_mm is None else _rounded(self.depth_mm, 1),
            "confidence": _rounded(self.confidence, 3),
            "action": None if self.action is None else self.action.name,
        }


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
        the network computes in, "float32", "bfloat16", "float16" or "auto", see `pyhar.deploy.choose_dtype`.

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
        self.layout = _layout(self.meta, self.config.num_joints)
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
        return next(self.predict_frames([frame], box=box, clips=False))

    def predict_frames(
        self,
        frames: Iterable[Frame | Picture],
        *,
        box: Box | Boxes | None = None,
        follow: bool = False,
        clips: bool = True,
    ) -> Iterator[FramePrediction]:
        """Predict frames in order, one answer each; holds no more of them than a clip spans (or a batch).

        frames: (H, W, 3) uint8 RGB arrays, or `Frame`s, which carry their own index, time and name.
        box: the person's for all frames, or by frame index or name; the whole frame where there is none. A clip is
        cropped to the box around its frames' boxes.
        follow: after the first frame (or clip) the box is moved with the pose.
        clips: whether the frames are consecutive, so that actions can be recognised. Then clips follow each other
        without gap; frames left over at the end belong to one more clip, of the video's last frames. With subsampling
        s, the span of a clip is read as s interleaved clips, whose probabilities are averaged. A video shorter than a
        span is read with the largest s that fits, one shorter than a clip by repeating frames.
        Raises UserError on a picture that is not uint8 RGB, on a box outside the picture, on a clip with frames of
        several sizes, and if the network answers with NaN.
        """
        clips = clips and self.recognises_actions
        if follow and isinstance(box, Mapping):
            raise UserError("a box for every frame leaves nothing to follow: give one starting box, or do not follow")
        follower = BoxFollower(None if isinstance(box, Mapping) else box) if follow else None
        size = self.clip_span if clips else 1 if follow else self.batch_size
        for group, new in _groups(_frames(frames), size, overlap=clips):
            boxes = [self._box(frame, box if follower is None else follower.box) for frame in group]
            predictions = (self._predict_clip if clips else self._predict_stills)(group, boxes)
            if follower is not None:
                height, width = group[-1].rgb.shape[:2]
                poses, confidence = zip(*((p.pose_px, p.confidence) for p in predictions), strict=True)
                follower.update(np.stack(poses), np.stack(confidence), width, height)
            yield from predictions[-new:]

    @staticmethod
    def _box(frame: Frame, box: Box | Boxes | None) -> Box | None:
        if isinstance(box, Mapping):
            return box.get(frame.index, box.get(frame.name) if frame.name is not None else None)
        return box

    def _predict_stills(self, frames: list[Frame], boxes: list[Box | None]) -> list[FramePrediction]:
        start = time.perf_counter()
        crops, to_crop = self._crop(frames, boxes)
        poses = self._run(crops[:, None], clips=False)[0][:, 0]
        return self._predictions(frames, boxes, poses, to_crop, None, start)

    def _predict_clip(self, frames: list[Frame], boxes: list[Box | None]) -> list[FramePrediction]:
        start = time.perf_counter()
        for frame in frames:
            if frame.rgb.shape != frames[0].rgb.shape:
                raise UserError(
                    f"frame {frame.index} is {_size(frame)}, frame {frames[0].index} is {_size(frames[0])}: "
                    "the frames of one video must be of one size"
                )
        height, width = frames[0].rgb.shape[:2]
        if any(box is not None for box in boxes):
            boxes = [union([whole_frame(width, height) if box is None else box for box in boxes])] * len(frames)
        crops, to_crop = self._crop(frames, boxes)
        indices = _covering_clips(len(frames), self.config.clip_frames, self.subsample)
        in_clips, heads = self._run(crops[indices], clips=True)
        poses = np.empty((len(frames), *in_clips.shape[2:]), np.float32)
        poses[indices.reshape(-1)] = in_clips.reshape(-1, *in_clips.shape[2:])
        seen = tuple(frames[i].index for i in np.unique(indices))
        return self._predictions(
            frames, boxes, poses, to_crop, self._action([head.mean(axis=0) for head in heads], seen), start
        )

    def _crop(self, frames: list[Frame], boxes: list[Box | None]) -> tuple[Picture, Matrix]:
        """Crops (N, S, S, 3) uint8 and their maps (N, 3, 3)."""
        size = self.config.image_size
        maps = np.stack(
            [
                crop_map(crop_square(box, frame.rgb.shape[1], frame.rgb.shape[0]))
                for frame, box in zip(frames, boxes, strict=True)
            ]
        )
        return np.stack(
            [crop_picture(frame.rgb, matrix, size) for frame, matrix in zip(frames, maps, strict=True)]
        ), maps

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
        self,
        frames: list[Frame],
        boxes: list[Box | None],
        poses: FloatArray,
        to_crop: Matrix,
        action: ActionPrediction | None,
        start: float,
    ) -> list[FramePrediction]:
        """poses (N, J, dim + 1) in normalised crop coordinates with their maps (N, 3, 3)."""
        for frame, pose in zip(frames, poses, strict=True):
            if not np.isfinite(pose).all():
                raise UserError(
                    f"the network's answer to frame {frame.index} is not finite: "
                    "its weights are damaged or its training diverged; take another model"
                )
        pixels = normalised_to_picture(torch.from_numpy(poses[..., :2]), torch.from_numpy(to_crop)).numpy()
        depth = (poses[..., 2] - 0.5) * self.meta.depth_range_mm if self.config.dim == 3 else [None] * len(frames)
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
            for n, (frame, box) in enumerate(zip(frames, boxes, strict=True))
        ]

    def _action(self, heads: list[FloatArray], frames: tuple[int, ...]) -> ActionPrediction:
        """Probabilities (classes,) of each classifier, named."""
        named = [
            dict(zip(names, head.tolist(), strict=True))
            for names, head in zip(self.meta.action_names, heads, strict=True)
        ]
        best = max(named[self.action_head], key=named[self.action_head].__getitem__)
        return ActionPrediction(best, named[self.action_head][best], tuple(named), frames)


def crop_picture(rgb: Picture, to_crop: Matrix, size: int) -> Picture:
    """The (size, size, 3) crop that `to_crop` (3, 3) describes; black outside the picture.

    Where the crop is smaller than what it shows, pixels are averaged, not left out.
    """
    matrix = to_crop_pixels(to_crop, size)
    shrink = int(1.0 / np.sqrt(abs(np.linalg.det(matrix[:2, :2]))) + 1e-6)
    if shrink > 1:
        height, width = rgb.shape[:2]
        small = max(1, width // shrink), max(1, height // shrink)
        rgb = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        fx, fy = small[0] / width, small[1] / height
        matrix = matrix @ np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]])
    return cv2.warpAffine(rgb, matrix[:2], (size, size), flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _frames(frames: Iterable[Frame | Picture]) -> Iterator[Frame]:
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


def _layout(meta: ModelMeta, num_joints: int) -> JointLayout:
    if len(meta.joints) != num_joints:
        raise UserError(
            f"the model names {len(meta.joints)} joints, its network has {num_joints}: they do not belong together"
        )
    known = LAYOUTS.get(meta.layout)
    return (
        known
        if known is not None and list(known.joints) == list(meta.joints)
        else custom_layout(meta.layout, meta.joints)
    )


def _rounded(values: FloatArray, places: int) -> list[Any]:
    return np.round(values.astype(np.float64), places).tolist()


def _size(frame: Frame) -> str:
    return f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}"
