"""Penn Action: 2,326 videos of 15 actions, 13 joints.

Expected under the root, or under `Penn_Action/` in it:

    frames/0001/000001.jpg, 000002.jpg, ...
    labels/0001.mat: action, pose (the viewpoint), x, y (n, 13), visibility (n, 13), train, bbox (n, 4: x1, y1, x2, y2),
                     dimensions (height, width, n), nframes

The 13 joints go to the joints of the same name in "pa16" or "pa17", the head to "head top" as in the authors' release;
pelvis, thorax, neck and spine are unknown. `derive` can fill the pelvis in as the midpoint of the hips and the thorax
as that of the shoulders, which the release does not do.

The owners' README lists the left joint of each pair first. Others found the right one there, as in a mirror, or take it
first, as the authors' release does; left and right of MPII are the person's own. So `first_side` "auto" looks at the
shoulders of people seen from the front or from behind: where enough videos show it plainly, it is as they show,
otherwise left as in the README. "left" and "right" decide it. Coordinates are taken as they are; `one_based` takes 1
off them.

A coordinate of zero, or one that is no number, means a missing joint; so does a hidden joint at the very corner of the
picture (x and y at most 1), where the labelling tool left joints that nobody placed. A hidden joint elsewhere is known
but not visible.

Frames of one video are of one size: its first and last are compared here, all of them by `pyhar.data.prepare --whole`.
Labels and frames can disagree. A video has as many frames as have both joints and a picture; where `bbox` has fewer
rows, the boxes of the rest are unknown. `notes` names such videos, and gives the viewpoint of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhar.data import matlab
from pyhar.data.frames import picture_size
from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import JointLayout, get_layout
from pyhar.errors import UserError

Array = npt.NDArray[np.float64]

ACTION_NAMES = (
    "baseball_pitch",
    "baseball_swing",
    "bench_press",
    "bowling",
    "clean_and_jerk",
    "golf_swing",
    "jump_rope",
    "jumping_jacks",
    "pull_ups",
    "push_ups",
    "sit_ups",
    "squats",
    "strumming_guitar",
    "tennis_forehand",
    "tennis_serve",
)
"""The classes in order, named as in the owners' README."""

SPELLINGS = {"bowl": "bowling", "strum_guitar": "strumming_guitar"} | {
    spelling: name
    for name in ("pull_ups", "push_ups", "sit_ups", "squats")
    for spelling in (name.removesuffix("s"), name.replace("_", ""), name.removesuffix("s").replace("_", ""))
}
"""Other names of the classes, as in the label files."""

PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
"""After the head, these joints of both sides."""

BOX_MARGIN = 0.25
"""The crop is this share larger than the longer side of the owners' box, which ends close to the body."""

SIZE_TOLERANCE = 0.02
"""By what share a picture may be larger or smaller than its labels say."""

SIDES_SEEN, SIDES_AGREE = 10, 0.75
"""So many videos from the front or from behind, and such a share of them, tell which side comes first."""

_FRAME = re.compile(r"(\d{6})\.jpg")
_VIDEO = re.compile(r"\d{4}")


def read(
    root: Path,
    *,
    layout: str = "pa16",
    first_side: Literal["auto", "left", "right"] = "auto",
    derive: bool = False,
    one_based: bool = False,
) -> Index:
    """The index of Penn Action under `root`, one sequence for each video.

    layout: "pa16" or "pa17". first_side, derive, one_based: see the module. Raises UserError if folders are missing,
    the layout is another or no video is left; videos that cannot be used are in `notes["skipped"]`.
    """
    root = Path(root)
    base = next((f for f in (root, root / "Penn_Action") if (f / "labels").is_dir() and (f / "frames").is_dir()), None)
    if base is None:
        raise UserError(f"{root}: no folders frames/ and labels/; unpack Penn_Action.tar.gz there")
    labels = sorted(path for path in (base / "labels").glob("*.mat") if _VIDEO.fullmatch(path.stem))
    if not labels:
        raise UserError(f"{base / 'labels'}: no label files such as 0001.mat; unpack Penn_Action.tar.gz again")
    if first_side not in ("auto", "left", "right"):
        raise UserError(f"first_side must be 'auto', 'left' or 'right', not {first_side!r}")
    made = IndexBuilder("penn", get_layout(layout), ACTION_NAMES)
    frames_at = (base / "frames").relative_to(root).as_posix()
    notes: dict[str, Any] = {
        "box_margin": BOX_MARGIN,
        "derived_joints": derive,
        "viewpoint": {},
        "fewer_boxes_than_frames": [],
        "fewer_labels_than_frames": [],
        "fewer_frames_than_labels": [],
    }
    videos: dict[str, _Video] = {}
    for path in labels:
        name = f"penn/{path.stem}"
        try:
            videos[name] = _Video(path, base / "frames" / path.stem)
        except _UnusableError as error:
            made.skip(str(error), name)
    right, seen = first_is_right((video.viewpoint, video.joints) for video in videos.values())
    if first_side == "auto":
        first_side = "right" if seen >= SIDES_SEEN and right >= SIDES_AGREE * seen else "left"
    notes["first_side"] = first_side
    if seen >= SIDES_SEEN:
        shown = f"the right joint of a pair comes first in {right} of {seen} videos from the front or from behind"
        notes["remarks"] = [f"{shown}; the {first_side} one is taken to (--set first_side=left or right decides)"]
    for name, video in videos.items():
        joints_px, visible = to_layout(
            video.joints - float(one_based), video.visible, made.layout, first_side, derive=derive
        )
        for key in video.disagreements:
            notes[key].append(name)
        notes["viewpoint"][name] = video.viewpoint
        made.add(
            name=name,
            media=f"{frames_at}/{name.removeprefix('penn/')}/%06d.jpg",
            kind="frames",
            split="train" if video.train else "test",
            joints_px=joints_px,
            visible=visible,
            box=video.box - float(one_based),
            first_frame=1,
            action=video.action,
        )
    return made.build(**notes)


def action_number(spelling: str) -> int:
    """The class that a label file's string means, in any of its spellings. Raises UserError for an unknown one."""
    plain = re.sub(r"[\s-]+", "_", spelling.strip().lower())
    plain = SPELLINGS.get(plain, plain)
    if plain not in ACTION_NAMES:
        raise UserError(f"unknown action {spelling!r}")
    return ACTION_NAMES.index(plain)


def first_is_right(videos: Iterable[tuple[str, Array]]) -> tuple[int, int]:
    """Of videos (viewpoint, joints (T, 13, 2) in the data set's order): in how many the first shoulder is the right
    one, and how many tell. Whoever faces the camera has the right one at the picture's left; from behind it is the
    other way round, and from the side nothing is told."""
    right = seen = 0
    for viewpoint, joints in videos:
        across = joints[:, 2, 0] - joints[:, 1, 0]
        across = across[np.isfinite(across)]
        if viewpoint.lower() in ("front", "back") and len(across):
            seen += 1
            right += int((np.median(across) > 0) == (viewpoint.lower() == "front"))
    return right, seen


def to_layout(
    joints: Array, visible: npt.NDArray[np.bool_], layout: JointLayout, first_side: str, *, derive: bool = False
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Joints (T, 13, 2) and flags (T, 13) in the data set's order, as (T, J, 2) and (T, J) of "pa16" or "pa17"."""
    sides = ("left", "right") if first_side == "left" else ("right", "left")
    order = [layout.index("head top"), *(layout.index(f"{side} {joint}") for joint in PAIRS for side in sides)]
    px = np.full((len(joints), len(layout.joints), 2), np.nan)
    seen = np.zeros(px.shape[:2], dtype=bool)
    px[:, order], seen[:, order] = joints, visible
    if derive:
        for middle, pair in (("pelvis", "hip"), ("thorax", "shoulder")):
            both = [layout.index(f"{side} {pair}") for side in sides]
            px[:, layout.index(middle)] = px[:, both].mean(axis=1)
            seen[:, layout.index(middle)] = seen[:, both].all(axis=1)
    return px, seen


class _UnusableError(Exception):
    """Why a video is left out, in words that fit many videos."""


class _Video:
    """One label file and what it says of the frames that there are."""

    def __init__(self, labels: Path, frames: Path) -> None:
        try:
            fields = matlab.load(labels)
        except UserError as error:
            raise _UnusableError("label file cannot be read") from error
        self.viewpoint = matlab.text(fields.get("pose"))
        label = matlab.text(fields.get("action"))
        if not label:
            raise _UnusableError("labels without an action")
        try:
            self.action = action_number(label)
        except UserError as error:
            raise _UnusableError(str(error)) from error
        flag = matlab.number(fields.get("train"))
        if not np.isfinite(flag):
            raise _UnusableError("labels without a train flag")
        self.train = flag > 0
        self.disagreements: list[str] = []
        self.joints, self.visible = _joints(fields)
        count = self._frames(frames)
        self._check_size(frames, count, matlab.matrix(fields.get("dimensions")).ravel())
        self.joints, self.visible = self.joints[:count], self.visible[:count]
        self.box = self._boxes(matlab.matrix(fields.get("bbox")), count)
        if not (np.isfinite(self.joints).any() or np.isfinite(self.box).any()):
            raise _UnusableError("neither joints nor boxes")

    def _frames(self, folder: Path) -> int:
        """How many frames have a picture and joints."""
        numbers = sorted(int(m[1]) for p in folder.glob("*.jpg") if (m := _FRAME.fullmatch(p.name)))
        if not numbers:
            raise _UnusableError("no frames")
        if numbers != list(range(1, len(numbers) + 1)):
            raise _UnusableError("frames missing in the middle")
        labelled = len(self.joints)
        if labelled > len(numbers):
            self.disagreements.append("fewer_frames_than_labels")
        elif labelled < len(numbers):
            self.disagreements.append("fewer_labels_than_frames")
        return min(labelled, len(numbers))

    def _check_size(self, folder: Path, count: int, dimensions: Array) -> None:
        """Joints mean nothing in pictures of another size than the labels were made for."""
        try:
            width, height = picture_size(folder / "000001.jpg")
        except UserError as error:
            raise _UnusableError("the first frame is not a picture") from error
        try:
            changed = picture_size(folder / f"{count:06d}.jpg") != (width, height)
        except UserError as error:
            raise _UnusableError("the last frame is not a picture") from error
        if changed:
            raise _UnusableError("frames differ in size")
        # The owners' own numbers are a pixel or two off their pictures.
        if len(dimensions) >= 2 and np.abs([height, width] / dimensions[:2] - 1).max() > SIZE_TOLERANCE:
            raise _UnusableError(
                f"frames are {width}x{height} pixels, labels are for {dimensions[1]:g}x{dimensions[0]:g}"
            )

    def _boxes(self, boxes: Array, count: int) -> Array:
        out = np.full((count, 4), np.nan)
        if boxes.ndim == 2 and boxes.shape[1] == 4:
            rows = min(len(boxes), count)
            out[:rows] = boxes[:rows]
            if rows < count:
                self.disagreements.append("fewer_boxes_than_frames")
        elif boxes.size:
            raise _UnusableError("bbox is not four numbers a frame")
        return out


def _joints(fields: dict[str, Any]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """(n, 13, 2) with NaN for missing joints, (n, 13)."""
    x, y = matlab.matrix(fields.get("x")), matlab.matrix(fields.get("y"))
    if x.shape != y.shape or x.ndim != 2 or x.shape[1:] != (1 + 2 * len(PAIRS),) or not len(x):
        raise _UnusableError("x and y are not 13 joints a frame")
    known = np.isfinite(x) & np.isfinite(y) & (x != 0) & (y != 0)
    visible = known
    if "visibility" in fields:
        visible = matlab.matrix(fields["visibility"])
        if visible.shape != x.shape:
            raise _UnusableError("visibility is not 13 joints a frame")
        visible = visible == 1
        known = known & (visible | (x > 1) | (y > 1))
    return np.where(known[..., None], np.stack([x, y], axis=-1), np.nan), visible & known
