"""A user's annotations as a table, one row for each frame (see `pyhar.data.folder`)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pyhar.data.folder_entries import LARGEST, Annotations, Array, Entry, Frame, checked_box, named_layout, placed
from pyhar.data.index import SPLITS
from pyhar.data.layouts import PA16, PA17, JointLayout
from pyhar.errors import UserError, unknown_name

BOX = ("x1", "y1", "x2", "y2")
CAMERA = ("fx", "fy", "cx", "cy")
OTHER = ("video", "frame", "action", "split", "subject", "person", "head_size", *BOX, *CAMERA)
SAME = ("action", "split", "subject", *CAMERA)
"""What is of a whole sequence. A new action begins a new sequence; the rest must not change."""


@dataclass
class _Row:
    where: str
    cells: dict[str, str]

    def number(self, column: str) -> float:
        """The cell's number; NaN if it is empty or there is no such column."""
        cell = self.cells.get(column, "")
        try:
            return float(cell) if cell else math.nan
        except ValueError:
            raise UserError(f"{self.where}, {column}: expected a number, not {cell!r}") from None

    def whole(self, column: str, missing: int) -> int:
        value = self.number(column)
        if math.isnan(value):
            return missing
        if not 0 <= value < LARGEST or value != int(value):
            raise UserError(f"{self.where}, {column}: expected a whole number from 0 on, not {self.cells[column]!r}")
        return int(value)


def parse_csv(path: Path, layout: JointLayout | None) -> Annotations:
    """The annotations in `path`; layout: None: "pa16" or "pa17" if their names fit, or else the table's own joints in
    order. Raises UserError that names line and column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows, header = _rows(path, csv.reader(file))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error}): save it in that encoding") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a table: {error}") from error
    columns = _joint_columns(path, header)
    layout = layout or _layout(list(columns), path)
    places = {}
    for name, column in columns.items():
        if name not in layout.joints:
            raise UserError(f"{path}: {unknown_name(f'joint in the column {column}_x', name, layout.joints)}")
        places[column] = layout.index(name)
    people: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        people.setdefault((row.cells["video"], row.cells.get("person", "")), []).append(row)
    entries = [e for (media, person), own in people.items() for e in _entries(media, person, own, places, layout)]
    return Annotations(layout, None, entries)


def _rows(path: Path, reader: Iterator[list[str]]) -> tuple[list[_Row], list[str]]:
    header = [name.strip() for name in next(reader, [])]
    if "video" not in header:
        raise UserError(f"{path}: the first line must name the columns, separated by commas: video,frame,...")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: a column is named twice: {next(n for n in header if header.count(n) > 1)!r}")
    rows = []
    for line, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}: line {line}: {len(cells)} cells, but there are {len(header)} columns")
        row = _Row(f"{path}: line {line}", dict(zip(header, (cell.strip() for cell in cells), strict=True)))
        media = row.cells["video"]
        if not media:
            raise UserError(f"{row.where}, video: empty; name the file or folder")
        if Path(media).is_absolute() or ".." in Path(media).parts:
            raise UserError(f"{row.where}, video: give {media!r} relative to the table's folder, and inside it")
        rows.append(row)
    return rows, header


def _joint_columns(path: Path, header: list[str]) -> dict[str, str]:
    """What columns of joints begin with, by joint's name."""
    joints = {}
    for name in header:
        stem, _, axis = name.rpartition("_")
        if name in OTHER:
            continue
        if not stem or axis not in ("x", "y", "z", "v") or not {f"{stem}_x", f"{stem}_y"} <= set(header):
            raise UserError(
                f"{path}: {unknown_name('column', name, OTHER)}; the columns of a joint are <joint>_x and <joint>_y, "
                "and perhaps <joint>_z and <joint>_v"
            )
        joints[stem.replace("_", " ")] = stem
    return joints


def _layout(joints: list[str], path: Path) -> JointLayout:
    for layout in (PA16, PA17):
        if set(joints) <= set(layout.joints):
            return layout
    return named_layout("custom", joints, (), 0, str(path))


def _entries(media: str, person: str, rows: list[_Row], places: dict[str, int], layout: JointLayout) -> Iterator[Entry]:
    """The sequences of one person in one medium."""
    # Without numbers, rows are frames in order.
    given = [row for row in rows if row.cells.get("frame")]
    if given and len(given) < len(rows):
        lacking = next(row for row in rows if not row.cells.get("frame"))
        raise UserError(f"{lacking.where}, frame: empty, but other rows of {media} have numbers")
    numbers = [row.whole("frame", i) for i, row in enumerate(rows)] if given else None
    order = sorted(range(len(rows)), key=lambda i: numbers[i]) if numbers else list(range(len(rows)))
    for before, after in pairwise(order):
        if numbers and numbers[before] == numbers[after]:
            raise UserError(f"{rows[after].where}, frame: {media} has two rows for frame {numbers[after]}")
    name = f"folder/{media}" + (f"/{person}" if person else "")
    cuts = [
        k
        for k, i in enumerate(order)
        if k == 0 or rows[i].cells.get("action") != rows[order[k - 1]].cells.get("action")
    ]
    for begin, end in zip(cuts, [*cuts[1:], len(order)], strict=True):
        part = order[begin:end]
        first = rows[part[0]]
        for column in SAME[1:]:
            odd = [i for i in part if rows[i].cells.get(column) != first.cells.get(column)]
            if odd:
                raise UserError(f"{rows[odd[0]].where}, {column}: differs from the row before, in one sequence")
        entry = Entry(first.where, name if len(cuts) == 1 else f"{name}@{begin}", media)
        entry.action = first.cells.get("action") or None
        split = first.cells.get("split", "")
        if split and split not in SPLITS:
            raise UserError(f"{first.where}, split: {unknown_name('split', split, SPLITS)}")
        entry.split = split or None
        entry.subject = first.whole("subject", -1)
        camera = np.array([first.number(c) for c in CAMERA])
        entry.camera = camera if np.isfinite(camera).all() else None
        if not places and not numbers:
            if len(rows) > 1:
                raise UserError(f"{rows[1].where}, frame: {media} has two rows without a number")
            # One row for a whole video: labels alone, and perhaps a box for all frames.
            entry.box = checked_box([first.number(c) for c in BOX], first.where)
        else:
            entry.frames = [
                _frame(rows[i], numbers[i] if numbers else None, places, layout, entry.camera) for i in part
            ]
            if not numbers:
                entry.first_frame = None
        yield entry


def _frame(row: _Row, number: int | None, places: dict[str, int], layout: JointLayout, camera: Array | None) -> Frame:
    px = np.full((len(layout.joints), 2), np.nan)
    mm = np.full((len(layout.joints), 3), np.nan)
    visible = np.zeros(len(px), dtype=bool)
    for column, place in places.items():
        px[place] = row.number(f"{column}_x"), row.number(f"{column}_y")
        mm[place, 2] = row.number(f"{column}_z")
        flag = row.number(f"{column}_v")
        if not (math.isnan(flag) or flag in (0, 1)):
            raise UserError(f"{row.where}, {column}_v: expected 1 for visible or 0 for hidden")
        visible[place] = flag != 0
    px = placed(px)
    if camera is not None:
        mm[:, :2] = (px - camera[2:]) / camera[:2] * mm[:, 2:]
    return Frame(
        number,
        px,
        mm if np.isfinite(mm).any() else None,
        visible & np.isfinite(px).all(axis=-1),
        checked_box([row.number(c) for c in BOX], row.where),
        row.number("head_size"),
    )
