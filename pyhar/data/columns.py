"""Collects sequences one by one and makes an `Index` of them: what the loaders of the data sets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhar.data.index import MEDIA_KINDS, SPLITS, Index
from pyhar.data.layouts import JointLayout
from pyhar.errors import UserError

Split = Literal["train", "val", "test"]
MediaKind = Literal["picture", "frames", "video"]
Array = npt.NDArray[np.float64]


class Columns:
    """An `Index` in the making. What cannot be used is named with `skip` instead of added."""

    def __init__(self, data_set: str, layout: JointLayout, action_names: Sequence[str] = ()) -> None:
        self.data_set = data_set
        self.layout = layout
        self.action_names = tuple(action_names)
        self.skipped: dict[str, list[str]] = {}
        self._sequences: list[dict[str, Any]] = []
        self._frames: dict[str, list[npt.NDArray[Any]]] = {
            name: [] for name in ("joints_px", "joints_mm", "visible", "box", "head_size")
        }
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._sequences)

    def skip(self, reason: str, name: str) -> None:
        """Note that `name` was left out, and why."""
        self.skipped.setdefault(reason, []).append(name)

    def add(
        self,
        name: str,
        media: str,
        kind: MediaKind,
        split: Split,
        *,
        joints_px: npt.ArrayLike,
        visible: npt.ArrayLike | None = None,
        joints_mm: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        head_size: npt.ArrayLike | None = None,
        first_frame: int = 0,
        frame_step: int = 1,
        action: int = -1,
        subject: int = -1,
        camera: npt.ArrayLike | None = None,
    ) -> None:
        """One sequence of T frames.

        joints_px (T, J, 2), joints_mm (T, J, 3): NaN where unknown; a joint of which a coordinate is not finite is
        unknown altogether. visible (T, J): None: as known. box (T, 4), head_size (T,): None: unknown. camera: fx, fy,
        cx, cy, or all nine numbers. Raises ValueError if shapes disagree or the name is taken.
        """
        if name in self._names:
            raise ValueError(f"{name}: two sequences of this name")
        joints = len(self.layout.joints)
        px = np.array(joints_px, dtype=np.float64)
        frames = len(px)
        if px.shape != (frames, joints, 2) or frames == 0:
            raise ValueError(f"{name}: joints_px must be (frames, {joints}, 2), not {px.shape}")
        px[~np.isfinite(px).all(-1)] = np.nan
        known = np.isfinite(px).all(-1)
        columns: dict[str, npt.NDArray[Any]] = {
            "joints_px": px.astype(np.float32),
            "joints_mm": _column(joints_mm, (frames, joints, 3)),
            "visible": np.logical_and(known, True if visible is None else visible),
            "box": plausible_boxes(_column(box, (frames, 4))),
            "head_size": _column(head_size, (frames,)),
        }
        for column, values in columns.items():
            self._frames[column].append(values)
        lens = np.full(9, np.nan)
        if camera is not None:
            numbers = np.asarray(camera, dtype=np.float64).ravel()
            lens[: len(numbers)] = numbers
            lens[len(numbers) :] = 0.0
        self._names.add(name)
        self._sequences.append(
            {
                "name": name,
                "media": media,
                "kind": MEDIA_KINDS.index(kind),
                "split": SPLITS.index(split),
                "first_frame": first_frame,
                "frame_step": frame_step,
                "frames": frames,
                "action": action,
                "subject": subject,
                "camera": lens,
            }
        )

    def finish(self, notes: Mapping[str, Any] | None = None, *, require: Sequence[str] = ()) -> Index:
        """The index. require: splits that must not be empty.

        Raises UserError if there is no sequence at all, or none of a required split: with what was skipped and why.
        """
        if not self._sequences:
            raise UserError(f"{self.data_set}: nothing can be used{self._skipped_because()}")
        splits = np.array([s["split"] for s in self._sequences], dtype=np.uint8)
        for split in require:
            if split not in SPLITS:
                raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
            if SPLITS.index(split) not in splits:
                raise UserError(f"{self.data_set}: the split {split!r} would be empty{self._skipped_because()}")
        lengths = [s["frames"] for s in self._sequences]

        def column(key: str) -> npt.NDArray[np.int64]:
            return np.array([s[key] for s in self._sequences], dtype=np.int64)

        return Index(
            data_set=self.data_set,
            layout=self.layout,
            action_names=self.action_names,
            media=[s["media"] for s in self._sequences],
            media_kind=column("kind").astype(np.uint8),
            first_row=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            first_frame=column("first_frame"),
            frame_step=column("frame_step"),
            split=splits,
            action=column("action"),
            subject=column("subject"),
            camera=np.stack([s["camera"] for s in self._sequences]),
            names=[s["name"] for s in self._sequences],
            notes={**(notes or {}), "skipped": self.skipped},
            **{name: np.concatenate(values) for name, values in self._frames.items()},
        )

    def _skipped_because(self) -> str:
        if not self.skipped:
            return "; the annotations name nothing"
        reasons = [f"{reason} ({len(names)}, such as {names[0]})" for reason, names in self.skipped.items()]
        return "; skipped: " + ", ".join(reasons)


def plausible_boxes(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes (.., 4) with NaN in place of those that are not finite or have no area."""
    good = np.isfinite(boxes).all(-1) & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return np.where(good[..., None], boxes, np.float32(np.nan))


def _column(values: npt.ArrayLike | None, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if values is None:
        return np.full(shape, np.nan, dtype=np.float32)
    array = np.asarray(values, dtype=np.float32)
    if array.shape != shape:
        raise ValueError(f"expected numbers of shape {shape}, not {array.shape}")
    return array
