"""The files of NTU RGB+D: .skeleton text, the list of recordings without skeletons, and the community's pickle.

Bodies are (T, 25, ..) as the Kinect tracked them: which of them is the person is for `pyhar.data.ntu_bodies` to say.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.safe_pickle import load_pickle
from pyhar.errors import UserError

Array = npt.NDArray[np.float64]

NUM_JOINTS = 25
_FIELDS = 12
_BODY_FIELDS = 10
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


@dataclass(frozen=True)
class Name:
    """What a recording's name says: setup, camera, subject ("performer"), repetition and action, counted from 1."""

    setup: int
    camera: int
    subject: int
    repetition: int
    action: int

    @classmethod
    def of(cls, text: str) -> Name | None:
        """The parts of "SsssCcccPpppRrrrAaaa"; None if it is no such name."""
        match = _NAME.fullmatch(text)
        return cls(*map(int, match.groups())) if match else None


def find_files(root: Path, ending: str) -> dict[str, Path]:
    """Files S*`ending` in `root` and two levels of folders below, by what stands before the ending.

    The owners' archives are unpacked into one folder or into one for each setup; of files of one name the least deep
    counts. Folders that are named after a recording hold its frames, and are not looked into.
    """
    found: dict[str, Path] = {}
    folders = [root]
    for _ in range(3):
        below: list[Path] = []
        for folder in folders:
            with suppress(PermissionError), os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = entry.name.removesuffix(ending)
                    if entry.is_dir():
                        if not entry.name.startswith(".") and not _NAME.match(entry.name):
                            below.append(folder / entry.name)
                    elif entry.name.startswith("S") and name != entry.name:
                        found.setdefault(name, folder / entry.name)
        folders = below
    return found


@dataclass
class Body:
    """One body that was tracked through some frames of T; NaN where it was not.

    xyz: (T, 25, 3) metres, x to the right of the picture, y up, z away from the Kinect. px: (T, 25, 2) pixels of the
    colour picture, NaN if not given. state: (T, 25) 2 tracked, 1 inferred, 0 not tracked.
    """

    xyz: Array
    px: Array
    state: npt.NDArray[np.int64]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(T,) frames in which it has at least one joint."""
        known = np.isfinite(self.xyz).all(-1) | np.isfinite(self.px).all(-1)
        return np.asarray(known).sum(axis=-1) > 0


def read_skeleton(path: Path) -> list[Body]:
    """Bodies of a .skeleton file, by their tracking number, in the order in which they appear.

    A joint that is not a number, at the origin (in pixels: in the corner), or not tracked (state 0) is NaN. Raises
    UserError if the file is missing, ends early, or is no skeleton file of 25 joints.
    """
    try:
        tokens = path.read_text(encoding="ascii", errors="replace").split()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    bodies: dict[int, Body] = {}
    try:
        frames, at = int(tokens[0]), 1
        if not 0 <= frames < len(tokens):  # each has at least its count of bodies
            raise ValueError(f"{frames} frames in {len(tokens)} numbers")
        for frame in range(frames):
            count, at = int(tokens[at]), at + 1
            if count < 0:
                raise ValueError(f"{count} bodies")
            for _ in range(count):
                # As an integer: these numbers have more digits than a float keeps.
                number, joints = int(tokens[at]), int(tokens[at + _BODY_FIELDS])
                at += _BODY_FIELDS + 1
                if joints != NUM_JOINTS:
                    raise ValueError(f"{joints} joints instead of {NUM_JOINTS}")
                rows = _numbers(tokens[at : at + NUM_JOINTS * _FIELDS]).reshape(NUM_JOINTS, _FIELDS)
                at += NUM_JOINTS * _FIELDS
                body = bodies.setdefault(number, _empty(frames))
                body.xyz[frame], body.px[frame] = rows[:, :3], rows[:, 5:7]
                body.state[frame] = np.nan_to_num(rows[:, 11]).astype(np.int64)
    except (IndexError, ValueError) as error:
        why = "it ends early" if isinstance(error, IndexError) or "reshape" in str(error) else str(error)
        raise UserError(f"{path} is no whole skeleton file: {why}; copy it again") from error
    for body in bodies.values():
        _hide_unknown(body)
    return [body for body in bodies.values() if body.present.any()]


def _numbers(tokens: list[str]) -> Array:
    try:
        return np.array(list(map(float, tokens)))
    except ValueError:
        # Windows programs write -1.#IND and 1.#QNAN for what is not a number.
        return np.array([float("nan") if "#" in token else float(token) for token in tokens])


def _empty(frames: int) -> Body:
    return Body(
        np.full((frames, NUM_JOINTS, 3), np.nan),
        np.full((frames, NUM_JOINTS, 2), np.nan),
        np.zeros((frames, NUM_JOINTS), dtype=np.int64),
    )


def _hide_unknown(body: Body) -> None:
    """NaN for joints that are not tracked, not finite, or at zero, which stands for "unknown"."""
    for points in (body.xyz, body.px):
        # Numbers of pixels beyond any picture come of depths near zero.
        known = np.isfinite(points).all(-1) & (points != 0).any(-1) & (np.abs(points) < 1e5).all(-1) & (body.state > 0)
        points[~known] = np.nan


def read_missing(path: Path) -> set[str]:
    """Names in the owners' list of recordings without whole skeletons; its heading is no name and is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return {line.strip().removesuffix(".skeleton") for line in lines if Name.of(line.strip().removesuffix(".skeleton"))}


@dataclass
class Annotation:
    """One recording of a community pickle. keypoint: (M, T, V, C), as it lies there; score: (M, T, V) or None; size:
    width and height of the picture or None."""

    name: str
    label: int
    keypoint: npt.NDArray[np.generic]
    score: npt.NDArray[np.generic] | None
    size: tuple[int, int] | None


def read_annotations(path: Path) -> tuple[dict[str, set[str]], list[Annotation], dict[str, list[str]]]:
    """The splits of a pyskl or mmaction2 pickle, its recordings, and names of those left out, by reason.

    A file that is but a list of recordings has no splits. Raises UserError if it is missing, damaged, not of this form,
    or holds anything but data.
    """
    data = load_pickle(path)
    if isinstance(data, list) and data and isinstance(data[0], dict):
        data = {"annotations": data}  # mmaction2 used to keep one list for each split.
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise UserError(
            f"{path} has no list 'annotations': it is no annotation file of pyskl or mmaction2 for NTU RGB+D"
        )
    splits = _splits(path, data.get("split"))
    found: list[Annotation] = []
    skipped: dict[str, list[str]] = {}
    for place, raw in enumerate(data["annotations"]):
        one: dict[str, Any] = raw if isinstance(raw, dict) else {}
        name = _plain(one.get("frame_dir", f"annotation {place}"))
        try:
            found.append(_annotation(name, one))
        except _UnusableError as error:
            skipped.setdefault(str(error), []).append(name)
        except (TypeError, ValueError, OverflowError, LookupError):
            skipped.setdefault("a field holds something else than it should", []).append(name)
    return splits, found, skipped


class _UnusableError(Exception):
    """Why a recording is left out, in words that fit many."""


def _splits(path: Path, given: Any) -> dict[str, set[str]]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(names, list | tuple | set) for names in given.values()):
        raise UserError(f"{path}: 'split' should hold a list of names for each split: get the file again")
    return {str(name): {_plain(one) for one in names} for name, names in given.items()}


def _plain(name: Any) -> str:
    """A recording's name, where it is given as a path, or as mmaction2's script calls it after its video."""
    return str(name).rpartition("/")[2].removesuffix("_rgb")


def _annotation(name: str, one: dict[str, Any]) -> Annotation:
    """One recording. Raises _UnusableError, or what conversions raise of values of another kind."""
    for key in ("frame_dir", "label", "keypoint"):
        if one.get(key) is None:
            raise _UnusableError(f"no field {key!r}")
    keypoint = np.asarray(one["keypoint"])
    score = None if one.get("keypoint_score") is None else np.asarray(one["keypoint_score"])
    if keypoint.ndim != 4 or keypoint.shape[-2:] not in ((NUM_JOINTS, 3), (17, 2)):
        raise _UnusableError("keypoints of another shape than (M, T, 25, 3) or (M, T, 17, 2)")
    frames = one.get("total_frames")
    if (frames is not None and int(frames) != keypoint.shape[1]) or (
        score is not None and score.shape != keypoint.shape[:3]
    ):
        raise _UnusableError("counts of frames or joints disagree")
    shape = one.get("img_shape")
    size = (int(shape[1]), int(shape[0])) if shape is not None else None
    kinds = {array.dtype.kind for array in (keypoint, score) if array is not None}
    if not kinds <= set("fiu") or (size is not None and min(size) < 1):
        raise ValueError("no numbers, or a picture without pixels")
    return Annotation(name, int(one["label"]), keypoint, score, size)
