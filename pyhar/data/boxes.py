"""Boxes of people from predicted poses, as evaluation needs them where a data set's own boxes are not to be used.

Crop, predict, box the pose, crop again: two rounds from the whole picture on find a single person. The result is what
`pyhar.data.indexed` takes as `boxes`: a JSON file {name of a sequence or still: [x1, y1, x2, y2]}, pixels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyhar.data.frames import numbered, picture_size
from pyhar.data.geometry import normalised_to_picture
from pyhar.data.index import MEDIA_KINDS, Index
from pyhar.data.indexed import IndexedClips
from pyhar.errors import UserError
from pyhar.files import write_text

Array = npt.NDArray[np.float64]
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes uint8 crops (T, H, W, 3), RGB; gives normalised crop coordinates (T, J, 2) and confidences (T, J) in [0, 1]."""

SHARE = 1.5
"""The crop's side over that of the joints' box, as in the authors' release."""
SURE = 0.5
"""Joints of more confidence than this make the box."""


def pose_box(
    points: npt.ArrayLike, confidence: npt.ArrayLike | None = None, *, share: float = SHARE, square: bool = True
) -> Array | None:
    """The box (4,) of joints (.., J, 2) in pixels, `share` times as large as they reach, about the same middle.

    confidence (.., J): joints of at most `SURE` and those that are not finite do not count. square: with the longer
    side. None if no joint counts.
    """
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    counts = np.isfinite(xy).all(axis=-1)
    if confidence is not None:
        counts &= np.asarray(confidence, dtype=np.float64).reshape(-1) > SURE
    if not counts.any():
        return None
    low, high = xy[counts].min(axis=0), xy[counts].max(axis=0)
    half = 0.5 * share * (high - low)
    if square:
        half = np.full(2, half.max())
    middle = 0.5 * (low + high)
    return np.concatenate([middle - half, middle + half])


def find_boxes(
    index: Index,
    root: Path,
    split: str,
    predict: Predict,
    *,
    rounds: int = 2,
    frames: int = 8,
    image_size: int = 256,
) -> dict[str, list[float]]:
    """A box for every sequence of a split, by name: around the poses predicted in its frames. Where the data set's
    protocol takes frames of a sequence as stills (the index's note "stills"), these have boxes of their own, too, and
    the sequence's is around them.

    rounds: of predicting, the first in whole pictures, each other in crops of the boxes of the round before; what no
    joint is found in keeps its box. frames: how many of a sequence are looked at, spread evenly over it, unless stills
    are. image_size: of the crops. The boxes allow for the index's "box_margin", so that a crop is `SHARE` times as
    large as the person. Media that cannot be read are left out, for evaluation to count. Raises UserError for numbers
    below 1, a split without sequences, and one of which nothing can be read.
    """
    if rounds < 1 or frames < 1:
        raise UserError(f"rounds and frames must be at least 1, not {rounds} and {frames}")
    margin = float(index.notes.get("box_margin", 0.0))
    every = int(index.notes.get("stills", {}).get(split, 0))
    looks: list[tuple[str, int, list[int]]] = []
    boxes: dict[str, list[float]] = {}
    for i, sequence in enumerate(index.of_split(split).tolist()):
        name, count = index.names[sequence], index.num_frames(sequence)
        with suppress(UserError):
            # The index's margin comes on top of every box.
            boxes[name] = _scaled(_whole_picture(index, root, sequence), 1 / (1 + margin)).tolist()
            if every:
                looks += [(f"{name}#{row}", i, [row]) for row in range(0, count, every)]
            else:
                spread = (2 * np.arange(min(frames, count)) + 1) * count // (2 * min(frames, count))
                looks.append((name, i, np.unique(spread).tolist()))
    if not boxes:
        raise UserError(f"not one medium of the {split} split of {index.data_set} can be read")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            save_boxes(Path(folder) / "boxes.json", boxes)
            data = IndexedClips(
                index, root, split, image_size=image_size, augment=False, boxes=Path(folder) / "boxes.json"
            )
        for name, i, shown in looks:
            with suppress(UserError):
                sample = data.clip(i, shown)
                xy, confidence = predict(sample["frames"])
                px = normalised_to_picture(xy.cpu().double().reshape(1, -1, 2), sample["to_crop"][None])[0]
                box = pose_box(px.numpy(), confidence.cpu().numpy(), share=SHARE / (1 + margin))
                if box is not None and (box[2:] > box[:2]).all():
                    boxes[name] = box.tolist()
    around: dict[str, list[list[float]]] = {}
    for name, _, _ in looks if every else ():
        if name in boxes:
            around.setdefault(name.rpartition("#")[0], []).append(boxes[name])
    for name, of_stills in around.items():
        boxes[name] = [*np.min(of_stills, axis=0)[:2].tolist(), *np.max(of_stills, axis=0)[2:].tolist()]
    return boxes


def save_boxes(path: Path, boxes: Mapping[str, npt.ArrayLike]) -> None:
    """Write boxes, whole or not at all, as `pyhar.data.indexed` reads them."""
    plain = {name: [round(float(v), 3) for v in np.asarray(box).ravel()] for name, box in boxes.items()}
    write_text(path, json.dumps(plain, indent=0) + "\n")


def _scaled(box: Array, factor: float) -> Array:
    middle, half = 0.5 * (box[:2] + box[2:]), 0.5 * factor * (box[2:] - box[:2])
    return np.concatenate([middle - half, middle + half])


def _whole_picture(index: Index, root: Path, sequence: int) -> Array:
    kind, medium = MEDIA_KINDS[index.media_kind[sequence]], index.media[sequence]
    if kind == "video":
        from pyhar.data.video_reader import VideoReader

        reader = VideoReader(root / medium)
        width, height = reader.width, reader.height
        reader.close()
    else:
        width, height = picture_size(
            root / (medium if kind == "picture" else numbered(medium, int(index.first_frame[sequence])))
        )
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5])
