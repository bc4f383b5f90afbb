"""Samples out of any index: stills for pose batches, clips for action batches, in the form of `pyhar.data.sample`.

The crop shows the box that the index gives, made square and larger by the index's note "box_margin"; where it gives
none, the box of the known joints, larger by the note "joints_margin" or by `JOINTS_MARGIN`. A clip has one crop: of the
boxes of all its frames together. As in the embedded data, a mirrored sample lists every joint under the name it has in
the mirrored picture, while `joints_px`, `joints_mm` and `camera` stay in the picture as it lies on disk.

An index may note what its data set's protocol is, under "stills": {split: n} to take every n-th frame of a sequence as
a still, and under "subsample" the step of evaluation clips.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from pyhar.data.augment import (
    PAPER_AUGMENTATION,
    Augmentation,
    Crop,
    choose_augmentation,
    draw_crop,
    erase,
    inside_erased,
)
from pyhar.data.clips import centre_clip, random_clip
from pyhar.data.frames import read_crop
from pyhar.data.geometry import crop_map, square_box, to_crop_pixels
from pyhar.data.index import MEDIA_KINDS, Index
from pyhar.data.layouts import JointLayout, get_layout
from pyhar.data.sample import DEPTH_RANGE_MM, Sample
from pyhar.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

JOINTS_MARGIN = 0.25
"""The crop is this share larger than the longer side of the joints' box, where the joints make the box, unless the
index notes another."""
SUBSAMPLE = 6
"""Step of evaluation clips, unless the index notes another."""


Key = int | tuple[int, int]
"""Of a sample, or of a sample and a draw of its augmentation."""


class _Chosen(NamedTuple):
    """What a sample is to show."""

    place: int
    sequence: int
    frames: Ints
    crop: Crop
    name: str


class _Indexed(ABC):
    """What stills and clips share."""

    _kind: str

    def __init__(
        self,
        index: Index,
        root: str | Path,
        split: str,
        image_size: int,
        seed: int,
        augment: bool | str | Augmentation | None,
        layout: str | None,
        boxes: str | Path | None,
    ) -> None:
        if image_size < 8:
            raise UserError(f"image_size must be at least 8 pixels, not {image_size}")
        if seed < 0:
            raise UserError(f"seed must be at least 0, not {seed}")
        self.source, self.root, self.split = index, Path(root), split
        # A Path costs each sample more than its joints do. Percent signs in a pattern are doubled.
        self._folders = {kind: str(root).replace("%", "%%" if kind == "frames" else "%") for kind in MEDIA_KINDS}
        self.image_size, self.seed = image_size, seed
        self.sequences: Ints = index.of_split(split)
        self.augmentation = choose_augmentation(split == "train" if augment is None else augment, PAPER_AUGMENTATION)
        self.action_names = index.action_names
        self.layout: JointLayout = index.layout if layout in (None, index.layout.name) else get_layout(str(layout))
        # Where each joint of the layout is among the index's; -1: unknown to this data set.
        names = index.layout.joints
        self._joints = np.array([names.index(joint) if joint in names else -1 for joint in self.layout.joints])
        self._missing = self._joints < 0
        self._as_stored = self.layout.joints == names
        self._swap = np.array(self.layout.flip)
        self._boxes, self._still_boxes = ({}, {}) if boxes is None else _read_boxes(Path(boxes), index)

    @property
    def joint_convention(self) -> str:
        """Which of the owners' joints were taken, where there is a choice that scores depend on; otherwise ""."""
        notes = self.source.notes
        if "joint_convention" not in notes:
            return ""
        return f'"{notes["joint_convention"]}" (joints {", ".join(map(str, notes.get("owners_joints", [])))})'

    @property
    def protocol(self) -> str:
        """What options of its data set have made of the split, where scores depend on them; otherwise ""."""
        notes, said = self.source.notes, list[str]()
        if "protocol" in notes:
            said.append(f"{notes['protocol']} split")
        if "skeleton" in notes:
            said.append({"mono": "the subjects' own skeletons"}.get(notes["skeleton"], f"{notes['skeleton']} skeleton"))
        steps = np.unique(self.source.frame_step[self.sequences])
        if "steps" in notes and len(steps) == 1 and steps[0] > 1:
            said.append(f"every {steps[0]} frames")
        return ", ".join(said)

    @property
    def without_given_box(self) -> int:
        """Of a data set with a file of boxes: how many sequences that does not name, which keep the index's box."""
        named = self._boxes.keys() | {name.rpartition("#")[0] for name in self._still_boxes}
        return sum(self.source.names[int(i)] not in named for i in self.sequences) if named else 0

    @property
    def split_remark(self) -> str:
        """What keeps scores on its split from being compared with published ones; otherwise ""."""
        return str(self.source.notes.get("split_remark", ""))

    @abstractmethod
    def _choose(self, key: Key) -> _Chosen:
        """What the sample of a key shows."""

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of a batch, for which PyTorch's loader asks at once."""
        return self._samples([self._choose(key) for key in keys])

    def _check_key(self, key: Key, length: int) -> tuple[int, int]:
        place, draw = key if isinstance(key, tuple) else (key, 0)
        place = place + length if place < 0 else place
        if not 0 <= place < length:
            raise IndexError(f"sample {place} of {self.source.data_set}/{self.split}/{self._kind}, which has {length}")
        return place, draw if self.augmentation is not None else 0

    def _rng(self, place: int, draw: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, len(self._kind), place, draw])

    def _rows(self, sequence: int) -> slice:
        return slice(int(self.source.first_row[sequence]), int(self.source.first_row[sequence + 1]))

    def _pick(self, column: npt.NDArray[np.generic], rows: Ints) -> npt.NDArray[np.generic]:
        """Rows (B, T) of a column by joint, the joints in this data set's layout."""
        values = column[rows]
        if self._as_stored:
            return values
        picked = values[:, :, self._joints]
        picked[:, :, self._missing] = False if values.dtype == bool else np.nan
        return picked

    def _boxes_around(self, chosen: Sequence[_Chosen], rows: Ints, joints_px: Floats) -> list[tuple[Floats, float]]:
        """For each sample, the person's box over all of its rows, and the margin around it."""
        index, found = self.source, []
        margin = float(index.notes.get("box_margin", 0.0))
        boxes = np.asarray(index.box[rows], dtype=np.float64)
        known = np.isfinite(boxes).all(axis=-1, keepdims=True)
        low = boxes[..., :2].min(axis=1, initial=np.inf, where=known)
        high = boxes[..., 2:].max(axis=1, initial=-np.inf, where=known)
        around = np.concatenate([low, high], axis=1)
        for one, box, px in zip(chosen, around, joints_px, strict=True):
            name = index.names[one.sequence]
            of_still = self._still_boxes.get(f"{name}#{one.frames[0]}") if len(one.frames) == 1 else None
            if (other := self._boxes.get(name) if of_still is None else of_still) is not None:
                found.append((other, margin))
            elif np.isfinite(box[0]):
                found.append((box, margin))
            else:
                found.append((_joints_box(px, one.name), float(index.notes.get("joints_margin", JOINTS_MARGIN))))
        return found

    def _samples(self, chosen: Sequence[_Chosen]) -> list[Sample]:
        """Samples of equally many frames: a batch, of which each is a part."""
        # NumPy takes as long for a few numbers as for a batch of them. All but the pixels comes first, since decoding
        # leaves nothing of Python's in the processor's caches.
        index, size = self.source, self.image_size
        sequences, crops = np.array([one.sequence for one in chosen]), [one.crop for one in chosen]
        frames = np.stack([one.frames for one in chosen])
        rows = index.first_row[sequences, None] + frames
        px = np.asarray(self._pick(index.joints_px, rows), dtype=np.float64)
        mm = np.asarray(self._pick(index.joints_mm, rows), dtype=np.float64)
        visible = np.asarray(self._pick(index.visible, rows), dtype=bool)
        boxes = self._boxes_around(chosen, rows, px)
        to_crop = np.stack(
            [
                crop_map(
                    square_box(box, margin), rotation=crop.rotation, scale=crop.scale, shift=crop.shift, flip=crop.flip
                )
                for (box, margin), crop in zip(boxes, crops, strict=True)
            ]
        )
        flipped = np.array([crop.flip for crop in crops])
        if flipped.any():
            for joints in (px, mm, visible):
                joints[flipped] = joints[flipped][:, :, self._swap]
        xy = px @ to_crop[:, None, :2, :2].swapaxes(-1, -2) + to_crop[:, None, None, :2, 2]
        root_depth = mm[:, :, self.layout.root, 2]
        pose = np.empty((*xy.shape[:-1], 3))
        pose[..., :2] = xy
        pose[..., 2] = 0.5 + (mm[..., 2] - root_depth[..., None]) / DEPTH_RANGE_MM
        valid = np.isfinite(pose)
        known = valid[..., 0] & valid[..., 1]
        valid[..., :2] = known[..., None]
        pose[~valid] = 0.0
        # Comparisons with NaN are false: an unknown joint is not inside.
        inside = known & ((xy >= 0) & (xy <= 1)).all(axis=-1)
        seen = visible & inside
        for number, crop in enumerate(crops):
            if crop.erased is not None:
                seen[number] &= ~inside_erased(xy[number], crop)
        pictures = np.empty((*frames.shape, size, size, 3), np.uint8)
        numbers = index.first_frame[sequences, None] + index.frame_step[sequences, None] * frames
        reads = [
            (*self._file(one.sequence), of, to_crop_pixels(matrix, size), size, out)
            for one, of, matrix, out in zip(chosen, numbers, to_crop, pictures, strict=True)
        ]
        kept = 0 if self._kind == "still" else slice(None)
        batch = {
            "frames": torch.from_numpy(pictures[:, kept]),
            "colour_power": _float([crop.colour_power for crop in crops]),
            "pose": _float(pose[:, kept]),
            "pose_valid": torch.from_numpy(valid[:, kept]),
            "confidence": _float(inside[:, kept]),
            "visible": torch.from_numpy(seen[:, kept]),
            "action": _int(index.action[sequences]),
            "action_head": _int(np.zeros(len(chosen))),
            "joints_px": _float(px[:, kept]),
            "joints_mm": _float(mm[:, kept]),
            "root_depth": _float(root_depth[:, kept]),
            "camera": _float(index.camera[sequences]),
            "to_crop": torch.from_numpy(to_crop),
            "head_size": _float(index.head_size[rows[:, kept]]),
            "box": _float(np.stack([box for box, _ in boxes])),
            "subject": _int(index.subject[sequences]),
            "index": _int([one.place for one in chosen]),
        }
        parts = zip(*(values.unbind() for values in batch.values()), strict=True)
        samples = [
            cast("Sample", {**dict(zip(batch, part, strict=True)), "name": one.name})
            for part, one in zip(parts, chosen, strict=True)
        ]
        for read, crop in zip(reads, crops, strict=True):
            erase(read_crop(*read), crop)
        return samples

    def _file(self, sequence: int) -> tuple[str, str]:
        """Path and kind of a sequence's pictures."""
        kind = MEDIA_KINDS[self.source.media_kind[sequence]]
        return os.path.join(self._folders[kind], self.source.media[sequence]), kind


class IndexedPoses(_Indexed):
    """Stills of an index.

    split: "train", "val" or "test". augment: True (the paper's ranges), False, a name from
    `pyhar.data.augment.AUGMENTATIONS`, or ranges; None: as the split is "train" or not. every: take every n-th frame of
    a sequence, from its first, as a still of its own; 0: one still per sequence, with augmentation any frame that has a
    known joint, otherwise the middle one of those; None: as the index notes, else 0. Where some sequences of the split
    have known joints, those without are left out. size: use this many stills, spread evenly; None: all. layout: the
    joints that samples have, by name, those that the data set lacks unknown; None: the data set's. boxes: a JSON file
    {name: [x1, y1, x2, y2]}, taken in place of the index's boxes and with the same margin; a name is a sequence's, or,
    with "#" and the frame's place in the sequence behind it, a still's, which goes before.

    Samples raise UserError if they cannot be read. Raises UserError for a split without sequences, one without known
    joints that is to be augmented, an unknown name, or a value out of range.
    """

    _kind = "still"

    def __init__(
        self,
        index: Index,
        root: str | Path,
        split: str,
        image_size: int = 256,
        seed: int = 0,
        size: int | None = None,
        augment: bool | str | Augmentation | None = None,
        every: int | None = None,
        layout: str | None = None,
        boxes: str | Path | None = None,
    ) -> None:
        super().__init__(index, root, split, image_size, seed, augment, layout, boxes)
        self.every = int(index.notes.get("stills", {}).get(split, 0)) if every is None else every
        if self.every < 0:
            raise UserError(f"every must be at least 1 frame, or 0 for one still per sequence, not {self.every}")
        if not self.every:
            self.sequences = self._with_joints()
        counts = np.diff(index.first_row)[self.sequences]
        if self.every:
            # How many stills there are up to each sequence: a few bytes each, however many frames there are.
            self._ends: Ints = np.cumsum(-(-counts // self.every))
        else:
            self._ends = np.arange(1, len(counts) + 1)
        self._chosen = _spread(int(self._ends[-1]), size)

    def __len__(self) -> int:
        return len(self._chosen)

    def _choose(self, key: Key) -> _Chosen:
        place, draw = self._check_key(key, len(self))
        rng = self._rng(place, draw) if self.augmentation is not None else None
        still = int(self._chosen[place])
        of = int(np.searchsorted(self._ends, still, side="right"))
        sequence = int(self.sequences[of])
        name = self.source.names[sequence]
        if self.every:
            frame = self.every * (still - (int(self._ends[of - 1]) if of else 0))
        else:
            frame = self._frame(sequence, rng)
        if self.source.num_frames(sequence) > 1:
            name = f"{name}#{frame}"
        crop = draw_crop(self.augmentation, rng) if self.augmentation is not None and rng is not None else Crop()
        return _Chosen(place, sequence, np.array([frame]), crop, name)

    def _with_joints(self) -> Ints:
        """The split's sequences that have a known joint of the layout; all of them if none has."""
        index, sequences, joints = self.source, self.sequences, self._joints[~self._missing]
        # Most have one in the middle: not all of a large index has to be looked at.
        middle = (index.first_row[sequences] + index.first_row[sequences + 1]) // 2
        known = np.asarray(_known(index.joints_px[middle][:, joints]).any(axis=-1))
        for place in np.flatnonzero(~known):
            known[place] = _known(index.joints_px[self._rows(int(sequences[place]))][:, joints]).any()
        if not known.any() and self.augmentation is not None:
            raise UserError(
                f"the {self.split} split of {index.data_set} has no joints of layout {self.layout.name!r} in pixels: "
                "learn poses from another data set"
            )
        return sequences[known] if known.any() else sequences

    def _frame(self, sequence: int, rng: np.random.Generator | None) -> int:
        if self.source.num_frames(sequence) == 1:
            return 0
        joints = self.source.joints_px[self._rows(sequence)]
        known = np.flatnonzero(_known(joints).any(axis=-1))
        if not len(known):
            known = np.arange(len(joints))
        return int(known[rng.integers(len(known))] if rng is not None else known[len(known) // 2])


class IndexedClips(_Indexed):
    """Clips of an index: one of each sequence; any other with `clip`.

    subsample: evaluation takes every so many frames around the middle of a sequence; None: as the index notes, else
    `SUBSAMPLE`. Augmentation begins anywhere and draws the step. A sequence too short for that takes smaller steps, or
    repeats frames (`pyhar.data.clips`). labelled: leave out sequences without an action, where others of the split have
    one. The rest is as for `IndexedPoses`.
    """

    _kind = "clip"

    def __init__(
        self,
        index: Index,
        root: str | Path,
        split: str,
        image_size: int = 256,
        clip_frames: int = 8,
        seed: int = 0,
        size: int | None = None,
        augment: bool | str | Augmentation | None = None,
        subsample: int | None = None,
        layout: str | None = None,
        boxes: str | Path | None = None,
        labelled: bool = False,
    ) -> None:
        super().__init__(index, root, split, image_size, seed, augment, layout, boxes)
        has_action = index.action[self.sequences] >= 0
        if labelled and has_action.any():
            self.sequences = self.sequences[has_action]
        self.clip_frames = clip_frames
        self.subsample = int(index.notes.get("subsample", SUBSAMPLE)) if subsample is None else subsample
        centre_clip(1, clip_frames, self.subsample)  # Refuses clips without frames.
        self.sequences = self.sequences[_spread(len(self.sequences), size)]

    def __len__(self) -> int:
        return len(self.sequences)

    def _choose(self, key: Key) -> _Chosen:
        place, draw = self._check_key(key, len(self))
        sequence = int(self.sequences[place])
        name, count = self.source.names[sequence], self.source.num_frames(sequence)
        if self.augmentation is None:
            return _Chosen(place, sequence, centre_clip(count, self.clip_frames, self.subsample), Crop(), name)
        rng = self._rng(place, draw)
        low, high = self.augmentation.subsample
        frames = random_clip(count, self.clip_frames, int(rng.integers(low, high + 1)), rng)
        return _Chosen(place, sequence, frames, draw_crop(self.augmentation, rng), name)

    def num_frames(self, video: int) -> int:
        """Frames of a video. Raises IndexError for one there is not."""
        return self.source.num_frames(int(self.sequences[self._check_key(video, len(self))[0]]))

    def clip(self, video: int, frame_indices: Sequence[int], flip: bool = False) -> Sample:
        """The clip of these frames without augmentation; flip: mirrored, joints swapped. Raises IndexError for frames
        there are not."""
        place = self._check_key(video, len(self))[0]
        sequence, frames = int(self.sequences[place]), np.asarray(frame_indices, dtype=np.int64)
        count = self.source.num_frames(sequence)
        if frames.ndim != 1 or not len(frames):
            raise UserError(f"clip of video {video}: give a list of at least one frame")
        if frames.min() < 0 or frames.max() >= count:
            raise IndexError(f"clip of video {video}: frames {frames.min()}..{frames.max()} of {count}")
        return self._samples([_Chosen(place, sequence, frames, Crop(flip=flip), self.source.names[sequence])])[0]


def _spread(count: int, size: int | None) -> Ints:
    """`size` of `count` places, spread evenly; all if there are no more, or `size` is None."""
    if size is not None and size < 1:
        raise UserError(f"size must be at least 1 sample, not {size}")
    if size is None or size >= count:
        return np.arange(count, dtype=np.int64)
    return (np.arange(size, dtype=np.int64) * count + count // 2) // size


def _read_boxes(path: Path, index: Index) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The boxes of sequences, and those of stills, by name."""
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
        found = {str(name): np.array([float(v) for v in box]) for name, box in read.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"boxes {path} cannot be read: {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"boxes {path}: expected JSON {{name: [x1, y1, x2, y2], ...}} ({error})") from error
    for name, box in found.items():
        if box.shape != (4,) or not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            raise UserError(f"boxes {path}: the box of {name} should be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    names = set(index.names)
    of_sequences = {name: box for name, box in found.items() if name in names}
    of_stills = {name: box for name, box in found.items() if name not in names and name.rpartition("#")[0] in names}
    if not of_sequences and not of_stills:
        raise UserError(f"boxes {path} names no sequence of {index.data_set}: its names are like {index.names[0]!r}")
    return of_sequences, of_stills


def _known(joints: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Which joints (.., J, D) are known, (.., J)."""
    known: npt.NDArray[np.bool_] = np.isfinite(joints).all(axis=-1)
    return known


def _joints_box(joints_px: Floats, name: str) -> Floats:
    points = joints_px[_known(joints_px)]
    if len(points) < 2:
        raise UserError(f"{name} has neither a box nor two known joints, so nothing to crop: give its box (boxes=)")
    # A person seen from above, or a single limb, may have hardly any width.
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, np.maximum(high, low + 1.0)])


def _float(values: npt.ArrayLike) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _int(values: npt.ArrayLike) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))
