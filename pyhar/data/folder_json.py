"""A user's annotations as JSON (see `pyhar.data.folder`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyhar.data.folder_entries import LARGEST, Annotations, Array, Entry, Frame, checked_box, named_layout, placed
from pyhar.data.index import SPLITS
from pyhar.data.layouts import LAYOUTS, JointLayout, get_layout
from pyhar.errors import UserError, unknown_name

TOP = ("layout", "actions", "sequences")
SEQUENCE = (
    *("media", "name", "split", "action", "subject", "camera"),
    *("first_frame", "frame_step", "box", "frames"),
)
FRAME = ("frame", "box", "joints", "joints_mm", "head_size")


def parse_json(path: Path, layout: JointLayout | None) -> Annotations:
    """The annotations in `path`; layout: where the file names none. Raises UserError that names entry and field."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error}): save it in that encoding") from error
    # Numbers with thousands of digits; lists within lists without end.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON that can be read: {error}") from error
    top = _object(content, f"{path}", TOP)
    joints = _layout(top["layout"], f"{path}: layout") if top.get("layout") is not None else layout
    if joints is None:
        raise UserError(f"{path}: say which joints these are: layout is {', '.join(LAYOUTS)} or an object with joints")
    actions = top.get("actions")
    if actions is not None:
        actions = tuple(_of(a, str, f"{path}: actions[{i}]", "a name") for i, a in enumerate(_list(actions, path)))
    entries: list[Entry] = []
    names: dict[str, str] = {}
    for i, item in enumerate(_list(top.get("sequences"), f"{path}: sequences")):
        entry = _sequence(item, f"{path}: sequences[{i}]", joints)
        if entry.name in names:
            raise UserError(f"{entry.where}: the name {entry.name!r} is taken by {names[entry.name]}; give it another")
        names[entry.name] = f"sequences[{i}]"
        entries.append(entry)
    return Annotations(joints, actions, entries)


def _layout(value: Any, where: str) -> JointLayout:
    if isinstance(value, str):
        try:
            return get_layout(value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    fields = _object(value, where, ("name", "joints", "bones", "root"))
    joints = [_of(j, str, f"{where}.joints[{i}]", "a name") for i, j in enumerate(_list(fields.get("joints"), where))]
    bones = _list(fields.get("bones", []), f"{where}.bones")
    for i, bone in enumerate(bones):
        if not isinstance(bone, list) or len(bone) != 2:
            raise UserError(f"{where}.bones[{i}]: a bone is two joints, not {bone!r}")
    return named_layout(str(fields.get("name", "custom")), joints, bones, fields.get("root", 0), where)


def _sequence(value: Any, where: str, layout: JointLayout) -> Entry:
    fields = _object(value, where, SEQUENCE)
    media = _of(fields.get("media"), str, f"{where}.media", "the name of a file or folder")
    if Path(media).is_absolute() or ".." in Path(media).parts:
        raise UserError(f"{where}.media: give {media!r} relative to the folder of the annotations, and inside it")
    name = fields.get("name")
    entry = Entry(where, f"folder/{media}" if name is None else _of(name, str, f"{where}.name", "text"), media)
    if fields.get("split") is not None:
        entry.split = _split(fields["split"], f"{where}.split")
    if fields.get("action") is not None:
        entry.action = _of(fields["action"], str, f"{where}.action", "a name")
    if fields.get("subject") is not None:
        entry.subject = _whole(fields["subject"], f"{where}.subject")
    if fields.get("camera") is not None:
        camera = fields["camera"]
        size = 9 if isinstance(camera, list) and len(camera) == 9 else 4
        entry.camera = _numbers(camera, (size,), f"{where}.camera", "fx, fy, cx, cy (and k1, k2, k3, p_x, p_y)")
    if fields.get("first_frame") is not None:
        entry.first_frame = _whole(fields["first_frame"], f"{where}.first_frame")
    if fields.get("frame_step") is not None:
        entry.frame_step = _whole(fields["frame_step"], f"{where}.frame_step", least=1)
    entry.box = _box(fields.get("box"), where)
    if fields.get("frames") is not None:
        frames = _list(fields["frames"], f"{where}.frames")
        entry.frames = _in_order([_frame(f, f"{where}.frames[{i}]", layout) for i, f in enumerate(frames)], where)
    return entry


def _in_order(frames: list[Frame], where: str) -> list[Frame]:
    if not frames:
        raise UserError(f"{where}.frames: empty; leave it out to take all frames, with labels alone")
    numbered = [f.number for f in frames if f.number is not None]
    if numbered and len(numbered) < len(frames):
        raise UserError(f'{where}.frames: give the number "frame" in all of them or in none')
    if len(set(numbered)) < len(numbered):
        raise UserError(f'{where}.frames: two have the same number "frame"')
    return sorted(frames, key=lambda f: f.number or 0) if numbered else frames


def _frame(value: Any, where: str, layout: JointLayout) -> Frame:
    fields = _object(value, where, FRAME)
    frame = Frame(box=_box(fields.get("box"), where))
    if fields.get("frame") is not None:
        frame.number = _whole(fields["frame"], f"{where}.frame")
    if fields.get("joints") is not None:
        rows = _joints(fields["joints"], layout, f"{where}.joints", (2, 3), "x, y or x, y, visible")
        frame.joints_px = placed(rows[:, :2])
        flags = rows[:, 2]
        if not np.isin(flags[np.isfinite(flags)], (0, 1)).all():
            raise UserError(f"{where}.joints: the third number of a joint is 1 for visible and 0 for hidden")
        frame.visible = np.isfinite(frame.joints_px).all(axis=-1) & (flags != 0)
    if fields.get("joints_mm") is not None:
        frame.joints_mm = _joints(fields["joints_mm"], layout, f"{where}.joints_mm", (3,), "X, Y, Z in millimetres")
    if fields.get("head_size") is not None:
        frame.head_size = float(_numbers(fields["head_size"], (), f"{where}.head_size", "a number of pixels"))
    return frame


def _joints(value: Any, layout: JointLayout, where: str, lengths: tuple[int, ...], what: str) -> Array:
    """Rows of a list with an entry for each joint, or of an object by joint's name; (J, 3), NaN where nothing is."""
    out = np.full((len(layout.joints), 3), np.nan)
    if isinstance(value, dict):
        for name in value:
            if name not in layout.joints:
                raise UserError(f"{where}: {unknown_name('joint', str(name), layout.joints)}")
        items = [value.get(name) for name in layout.joints]
    elif isinstance(value, list):
        if len(value) != len(layout.joints):
            raise UserError(f"{where}: {len(value)} joints, but the layout {layout.name!r} has {len(layout.joints)}")
        items = value
    else:
        raise UserError(f"{where}: expected a list of joints or an object by their names, not {value!r}")
    for i, item in enumerate(items):
        if item is not None:
            size = len(item) if isinstance(item, list) and len(item) in lengths else lengths[0]
            out[i, :size] = _numbers(item, (size,), f"{where}, {layout.joints[i]}", what)
    return out


def _box(value: Any, where: str) -> Array | None:
    if value is None:
        return None
    return checked_box(_numbers(value, (4,), f"{where}.box", "x1, y1, x2, y2").tolist(), f"{where}.box")


def _split(value: Any, where: str) -> str:
    if value not in SPLITS:
        raise UserError(f"{where}: {unknown_name('split', str(value), SPLITS)}")
    return str(value)


def _numbers(value: Any, shape: tuple[int, ...], where: str, what: str) -> Array:
    """Numbers of a shape, null as NaN."""
    flat = value if isinstance(value, list) else [value]
    if all(v is None or type(v) is float or (type(v) is int and abs(v) < 2**1023) for v in flat):
        array = np.array(value, dtype=np.float64)
        if array.shape == shape:
            return array
    raise UserError(f"{where}: expected {what}, not {_short(value)}")


def _whole(value: Any, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST:
        raise UserError(f"{where}: expected a whole number from {least} on, not {_short(value)}")
    return value


def _object(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    """An object with no other fields than the known ones."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object with {', '.join(known)}, not {_short(value)}")
    for name in value:
        if name not in known:
            raise UserError(f"{where}: {unknown_name('field', str(name), known)}")
    return value


def _list(value: Any, where: str | Path) -> list[Any]:
    return list(_of(value, list, str(where), "a list"))


def _of(value: Any, kind: Callable[..., Any], where: str, what: str) -> Any:
    if not isinstance(value, kind) or not value:  # type: ignore[arg-type]
        if kind is list and value == []:
            return value
        raise UserError(f"{where}: expected {what}, not {_short(value)}")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{where}: {_short(value)} holds half of a character, which cannot be written")
    return value


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
