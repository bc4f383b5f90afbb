"""A user's own data: pictures and videos in a folder, and one `annotations.json` or `annotations.csv` beside them.

`docs/own-data.md` describes both files with examples. In short, the JSON file says

    {"layout": "pa16", "actions": ["wave", "walk"],
     "sequences": [{"media": "clips/a.mp4", "action": "wave", "split": "train",
                    "frames": [{"frame": 0, "box": [x1, y1, x2, y2], "joints": {"neck": [x, y], ...}}, ...]}]}

and the CSV file has one row for each frame: video, frame, x1, y1, x2, y2, action, <joint>_x, <joint>_y[, <joint>_z]
[, <joint>_v]. Pixels are 0-based, centres at integers. What is unknown is left out, empty or null; a joint at exactly
(0, 0) and a box of four zeros are unknown too, as many tools write them.

A medium is a picture, a video, a folder of numbered pictures or a pattern of their names ("clips/a/%06d.jpg"). Frames
are numbered as in the names of pictures, from 0 in videos. Frames between annotated ones have no joints. A sequence
with neither joints nor boxes shows the whole picture.

Splits: as the file says; if it says nothing at all, a share of the sequences of each class is for testing (by default
a fifth; chosen by the media's names, so it stays as it is), one person's and one medium's sequences together.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyhar.data.folder_entries import Annotations, Entry
from pyhar.data.folder_media import Medium, MediumError, find_medium
from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import JointLayout, get_layout
from pyhar.errors import UserError, shortened

FILES = ("annotations.json", "annotations.csv")


def read(
    root: Path,
    *,
    annotations: str | None = None,
    layout: str | JointLayout | None = None,
    actions: Sequence[str] | None = None,
    test_share: float = 0.2,
    box_margin: float = 0.25,
) -> Index:
    """The index of the user's data under `root`.

    annotations: the file's name, if not annotations.json or annotations.csv. layout: of the joints, where the file
    does not say. actions: the classes in order; None: as the file lists them, or in alphabetical order. test_share: of
    the sequences, where the file gives no splits. box_margin: the crop is this share larger than the longer side of a
    box. Raises UserError naming file, entry or line, and field for anything wrong in the annotations; media that are
    missing or cannot be read are in `notes["skipped"]`.
    """
    root = Path(root)
    if not 0 <= box_margin < math.inf:
        raise UserError(f"box_margin must be at least 0, not {box_margin}")
    path = _annotation_file(root, annotations)
    given = get_layout(layout) if isinstance(layout, str) else layout
    found = _parse(path, given)
    names = _action_names(found, actions, path)
    splits_from = found.splits_from
    _choose_splits(found.entries, test_share)
    made = IndexBuilder("folder", found.layout, names)
    media: dict[str, Medium | str] = {}
    for entry in found.entries:
        if entry.media not in media:
            try:
                media[entry.media] = find_medium(root, entry.media)
            except MediumError as error:
                media[entry.media] = str(error)
            except OSError as error:  # a name longer than names can be, a folder that nobody may look into
                media[entry.media] = error.strerror or "cannot be opened"
        medium = media[entry.media]
        if isinstance(medium, str):
            made.skip(medium, entry.name)
            continue
        try:
            _add(made, entry, medium, names)
        except MediumError as error:
            made.skip(str(error), entry.name)
    return made.build(box_margin=box_margin, annotations=path.name, splits=splits_from)


def _annotation_file(root: Path, name: str | None) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds the media and annotations.json or .csv")
    found = [root / n for n in (FILES if name is None else (name,)) if (root / n).is_file()]
    if not found:
        raise UserError(f"{root}: no {name or ' or '.join(FILES)}; docs/own-data.md says how to write it")
    if len(found) > 1:
        raise UserError(f"{root}: both {' and '.join(FILES)}; keep one, or name the one to read as `annotations`")
    return found[0]


def _parse(path: Path, layout: JointLayout | None) -> Annotations:
    if path.suffix.lower() == ".json":
        from pyhar.data.folder_json import parse_json

        found = parse_json(path, layout)
    elif path.suffix.lower() == ".csv":
        from pyhar.data.folder_csv import parse_csv

        found = parse_csv(path, layout)
    else:
        raise UserError(f"{path}: annotations are a .json or a .csv file")
    if not found.entries:
        raise UserError(f"{path}: names no sequences; docs/own-data.md says how to write it")
    return found


def _action_names(found: Annotations, actions: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    listed = tuple(actions) if actions is not None else found.actions
    used = {entry.action: entry for entry in found.entries if entry.action is not None}
    if listed is None:
        return tuple(sorted(used))
    if len(set(listed)) != len(listed):
        raise UserError(f"{path}: an action is listed twice")
    for action, entry in used.items():
        if action not in listed:
            raise UserError(f"{entry.where}: action {action!r} is not in the list: {shortened(', '.join(listed))}")
    return listed


def _choose_splits(entries: list[Entry], test_share: float) -> None:
    """Fill in the splits where the file gives none; if it gives some, the rest trains."""
    if not 0 <= test_share < 1:
        raise UserError(f"test_share must be at least 0 and below 1, not {test_share}")
    if any(entry.split for entry in entries):
        for entry in entries:
            entry.split = entry.split or "train"
        return
    # What shows one person or comes from one medium stays together; the class is that of its first sequence.
    group: dict[str, str] = {}

    def leader(key: str) -> str:
        while group.setdefault(key, key) != key:
            key = group[key]
        return key

    for entry in entries:
        if entry.subject >= 0:
            group[leader(f"subject {entry.subject}")] = leader(entry.media)
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(leader(entry.media), []).append(entry)
    by_class: dict[str | None, list[str]] = {}
    for key, members in groups.items():
        by_class.setdefault(members[0].action, []).append(key)
    chosen: set[str] = set()
    for keys in by_class.values():
        keys.sort(key=lambda key: (zlib.crc32(key.encode()), key))
        chosen.update(keys[: round(test_share * len(keys))])
    if not chosen and test_share > 0 and len(groups) > 1:
        chosen = {min(groups, key=lambda key: (zlib.crc32(key.encode()), key))}
    for key, members in groups.items():
        for entry in members:
            entry.split = "test" if key in chosen else "train"


def _add(made: IndexBuilder, entry: Entry, medium: Medium, actions: tuple[str, ...]) -> None:
    """Place the entry's frames in its medium. Raises MediumError where it has not got them."""
    joints = len(made.layout.joints)
    if entry.frames is None:
        first = medium.first if entry.first_frame is None else entry.first_frame
        numbers = medium.numbers(first, entry.frame_step)
    else:
        numbers = np.array([f.number if f.number is not None else -1 for f in entry.frames])
        if len(numbers) and numbers[0] < 0:
            first = medium.first if entry.first_frame is None else entry.first_frame
            numbers = first + entry.frame_step * np.arange(len(numbers))
    inside = medium.holds(numbers)
    if not inside.any():
        raise MediumError("none of the annotated frames is in the medium")
    if not inside[: inside.nonzero()[0][-1] + 1].all():
        raise MediumError("annotated frames are missing in the middle of the medium")
    if not inside.all():
        made.skip("frames beyond the end of the medium", f"{entry.name}, {(~inside).sum()} frames")
    numbers = numbers[inside]
    step = int(np.gcd.reduce(np.diff(numbers))) if len(numbers) > 1 else 1
    rows = (numbers - numbers[0]) // step
    count = int(rows[-1]) + 1
    if count > len(medium.present) or not medium.holds(numbers[0] + step * np.arange(count)).all():
        raise MediumError("frames between annotated ones are missing")
    values: dict[str, Any] = {
        "joints_px": np.full((count, joints, 2), np.nan),
        "joints_mm": np.full((count, joints, 3), np.nan),
        "visible": np.zeros((count, joints), dtype=bool),
        "box": np.full((count, 4), np.nan),
        "head_size": np.full(count, np.nan),
    }
    for row, frame in zip(rows, entry.frames or (), strict=False):
        for name, column in values.items():
            value = getattr(frame, name)
            if value is not None:
                column[row] = value
    if entry.box is not None:
        values["box"][np.isnan(values["box"]).any(axis=1)] = entry.box
    if not (np.isfinite(values["joints_px"]).any() or np.isfinite(values["box"]).any()):
        width, height = medium.size
        values["box"][:] = [-0.5, -0.5, width - 0.5, height - 0.5]
    assert entry.split is not None
    made.add(
        name=entry.name,
        media=medium.media,
        kind=medium.kind,
        split=entry.split,
        first_frame=int(numbers[0]),
        frame_step=step,
        action=-1 if entry.action is None else actions.index(entry.action),
        subject=entry.subject,
        camera=entry.camera,
        **values,
    )
