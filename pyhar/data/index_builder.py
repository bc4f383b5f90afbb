"""Gathers an index (`pyhar.data.index`) sequence by sequence, in the form that parsers find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import LARGEST_PX
from pyhar.data.index import ARRAYS, MEDIA_KINDS, OF_FRAMES, OF_SEQUENCES, SPLITS, STRINGS, Floats, Index
from pyhar.data.layouts import JointLayout
from pyhar.errors import UserError, unknown_name

_LARGEST = {"joints_px": LARGEST_PX, "joints_mm": 1e8, "box": LARGEST_PX, "head_size": LARGEST_PX}
"""Numbers beyond are mistakes: no camera sees as far."""


class IndexBuilder:
    """Gathers an index sequence by sequence, as parsers find them; makes columns of them at the end.

    It takes joints as data sets give them: a joint with a coordinate that is not finite or beyond any picture or
    camera's reach, or with only zeros, is unknown, and becomes NaN; so does such a box or head size, a box without
    area and a head size that is not positive.
    """

    def __init__(self, data_set: str, layout: JointLayout, action_names: Sequence[str] = ()) -> None:
        self.data_set, self.layout, self.action_names = data_set, layout, tuple(action_names)
        self.notes: dict[str, Any] = {}
        self._skipped: dict[str, list[str]] = {}
        self._columns: dict[str, list[Any]] = {name: [] for name in (*ARRAYS, *STRINGS)}

    def __len__(self) -> int:
        return len(self._columns["media"])

    def skip(self, reason: str, name: str) -> None:
        """Note that something was left out and why."""
        self._skipped.setdefault(reason, []).append(name)

    def add(
        self,
        *,
        name: str,
        media: str,
        kind: str,
        split: str,
        joints_px: npt.ArrayLike | None = None,
        joints_mm: npt.ArrayLike | None = None,
        frames: int | None = None,
        visible: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        head_size: npt.ArrayLike | None = None,
        action: int = -1,
        subject: int = -1,
        camera: npt.ArrayLike | None = None,
        first_frame: int = 0,
        frame_step: int = 1,
    ) -> None:
        """Append a sequence of T frames: joints_px (T, J, 2), joints_mm (T, J, 3), visible (T, J), box (T, 4) or (4,),
        head_size (T,) or (), camera (4,) or (9,); what is left out is unknown, and a joint whose visibility is not
        given is visible where its pixels are known. frames: T, where neither kind of joints is given.

        Raises UserError, naming the sequence, for an unknown kind or split, an action without a name, no frames, and
        arrays of another shape.
        """
        where, joints = f"{self.data_set}: {name}", len(self.layout.joints)
        if kind not in MEDIA_KINDS:
            raise unknown_name("kind of medium", kind, MEDIA_KINDS)
        if split not in SPLITS:
            raise unknown_name(f"split of {self.data_set}", split, SPLITS)
        if not -1 <= action < len(self.action_names):
            raise UserError(f"{where}: action {action} of {len(self.action_names)}")
        if frames is None:
            given = joints_px if joints_px is not None else joints_mm
            frames = 0 if given is None else len(np.asarray(given))
        if frames < 1:
            raise UserError(f"{where} has no frames")
        if first_frame < 0 or frame_step < 1:
            raise UserError(f"{where}: first frame {first_frame} and step {frame_step} should be at least 0 and 1")

        def column(label: str, values: npt.ArrayLike | None, shape: tuple[int, ...], kind: str = "float32") -> Any:
            if values is None:
                return np.full((frames, *shape), np.nan, kind)
            array = np.asarray(values)
            if array.shape == shape and label in ("box", "head_size"):
                array = np.broadcast_to(array, (frames, *shape))
            if array.shape != (frames, *shape):
                raise UserError(f"{where}: {label} has shape {array.shape}, expected {(frames, *shape)}")
            array = array.astype(kind)
            if label in _LARGEST:
                array[~(np.abs(array) < _LARGEST[label])] = np.nan
            return array

        px = _unknown_to_nan(column("joints_px", joints_px, (joints, 2)))
        mm = _unknown_to_nan(column("joints_mm", joints_mm, (joints, 3)))
        known = np.isfinite(px).all(axis=-1)
        seen = known if visible is None else known & column("visible", visible, (joints,), "bool")
        boxes = column("box", box, (4,))
        boxes[~(np.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))] = np.nan
        heads = column("head_size", head_size, ())
        heads[~(np.isfinite(heads) & (heads > 0))] = np.nan
        lens = np.full(9, np.nan)
        if camera is not None:
            lens = np.zeros(9)
            numbers = np.asarray(camera, dtype=np.float64)
            if numbers.shape not in ((4,), (9,)):
                raise UserError(f"{where}: a camera has 4 or 9 numbers, not shape {numbers.shape}")
            lens[: len(numbers)] = numbers
            if not np.isfinite(lens).all():
                lens[:] = np.nan
        row: dict[str, Any] = {
            "media": media,
            "names": name,
            "media_kind": MEDIA_KINDS.index(kind),
            "split": SPLITS.index(split),
            "first_row": frames,
            "first_frame": first_frame,
            "frame_step": frame_step,
            "action": action,
            "subject": subject,
            "camera": lens,
            "joints_px": px,
            "joints_mm": mm,
            "visible": seen,
            "box": boxes,
            "head_size": heads,
        }
        for label, value in row.items():
            self._columns[label].append(value)

    def build(self, **notes: Any) -> Index:
        """The index, `notes` added to its notes; the builder is empty afterwards. Raises UserError if nothing was
        added."""
        if not len(self):
            why = "; ".join(f"{reason}: {len(names)}, first {names[0]}" for reason, names in self._skipped.items())
            raise UserError(f"{self.data_set}: nothing to index" + (f" ({why})" if why else ""))
        made: dict[str, Any] = {name: self._columns[name] for name in STRINGS}
        counts = np.array(self._columns["first_row"], dtype=np.int64)
        made["first_row"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        join: Callable[[list[Any]], npt.NDArray[Any]]
        for columns, join in ((OF_SEQUENCES, np.stack), (OF_FRAMES, np.concatenate)):
            for name, (kind, _) in columns.items():
                # One column at a time, its parts let go: a large index is held hardly more than once.
                made[name] = join([np.asarray(v) for v in self._columns.pop(name)]).astype(kind, copy=False)
        self._columns = {name: [] for name in (*ARRAYS, *STRINGS)}
        skipped = {"skipped": self._skipped} if self._skipped else {}
        index = Index(self.data_set, self.layout, self.action_names, notes={**skipped, **self.notes, **notes}, **made)
        index.check()
        return index


def _unknown_to_nan(joints: Floats) -> Floats:
    """Joints (.., J, D) with NaN in all coordinates of those that are not finite or all zero."""
    known = np.isfinite(joints).all(axis=-1) & (joints != 0).any(axis=-1)
    joints[~known] = np.nan
    return joints
