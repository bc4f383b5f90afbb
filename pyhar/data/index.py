"""What a data set on disk knows of itself, save the pixels: one index of columns, made once and mapped into memory.

A *sequence* is one person in one video, or one person in one picture (a video of one frame). Its frames are rows of the
frame columns, from `first_row[i]` to `first_row[i + 1]`. Every loader (`pyhar.data.mpii`, ...) reads its owners' files
into an `Index` with the help of `pyhar.data.index_builder`; `pyhar.data.prepare` saves it; `pyhar.data.indexed` makes
samples of it.

Files: a folder with `index.json`, which names a folder of columns beside it, one .npy for each column. They are mapped
into memory, so that worker processes share the pages of one mapping instead of holding copies. `index.json` is written
last, so an index that is being replaced is either the old one or the new one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import JointLayout
from pyhar.errors import UserError, reason, unknown_name
from pyhar.files import write_text

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MEDIA_KINDS = ("picture", "frames", "video")
SPLITS = ("train", "val", "test")

FILE = "index.json"
VERSION = 2
_COLUMNS_PREFIX = "columns-"
# Column -> type and shape behind the first axis, "J" standing for the number of joints; by the length of that axis.
OF_SEQUENCES: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "media_kind": ("uint8", ()),
    "first_frame": ("int64", ()),
    "frame_step": ("int64", ()),
    "split": ("uint8", ()),
    "action": ("int64", ()),
    "subject": ("int64", ()),
    "camera": ("float64", (9,)),
}
OF_FRAMES: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "joints_px": ("float32", ("J", 2)),
    "joints_mm": ("float32", ("J", 3)),
    "visible": ("bool", ("J",)),
    "box": ("float32", (4,)),
    "head_size": ("float32", ()),
}
ARRAYS = ("first_row", *OF_SEQUENCES, *OF_FRAMES)
STRINGS = ("media", "names")


class Strings(Sequence[str]):
    """Strings as bytes one behind the other and the place where each begins: a column that can be mapped into memory.

    data: (bytes,) uint8, UTF-8. starts: (N + 1,) int64.
    """

    def __init__(self, data: npt.NDArray[np.uint8], starts: Ints) -> None:
        self.data, self.starts = data, starts

    @classmethod
    def of(cls, strings: Iterable[str]) -> Strings:
        """Pack strings."""
        encoded = [string.encode() for string in strings]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in encoded], dtype=np.int64)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def check(self, where: str) -> None:
        """Raise UserError, beginning with `where`, if these are not strings."""
        data, starts = self.data, self.starts
        plain = (data.dtype, data.ndim, starts.dtype, starts.ndim) == (np.uint8, 1, np.int64, 1)
        if not plain or starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
            raise UserError(f"{where}: its starts must rise from 0 to the number of its bytes")
        # A string that begins within a character is caught by none but its own decoding.
        if (data[starts[:-1][np.diff(starts) > 0]] & 0xC0 == 0x80).any():
            raise UserError(f"{where}: a string begins within a character")
        try:
            data.tobytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is no UTF-8 ({error})") from error

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = int(place)
        if not -len(self) <= place < len(self):
            raise IndexError(f"string {place} of {len(self)}")
        place %= len(self)
        return self.data[self.starts[place] : self.starts[place + 1]].tobytes().decode()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings | list | tuple):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class Index:
    """Columns of a data set. N sequences, M frames in all, J joints of `layout`.

    Unknown numbers are NaN, unknown classes and subjects -1. Pixels: x right, y down, centres of pixels at integers,
    0-based, in the picture as it lies on disk. Millimetres: the camera's own space, X right, Y down, Z forward.
    """

    data_set: str
    """Its name in the registry."""
    layout: JointLayout
    action_names: tuple[str, ...]
    """Of the classes, by number; empty if there are none."""
    media: Sequence[str]
    """(N,) files or, for kind "frames", patterns with one number, such as "frames/0001/%06d.jpg"; relative to the root
    folder of the data set."""
    media_kind: npt.NDArray[np.uint8]
    """(N,) index into `MEDIA_KINDS`."""
    first_row: Ints
    """(N + 1,) where the frames of each sequence begin in the frame columns."""
    first_frame: Ints
    """(N,) number of the sequence's first frame in its medium: of the file name for "frames", from 0 for "video"."""
    frame_step: Ints
    """(N,) frames of the medium from one row to the next."""
    split: npt.NDArray[np.uint8]
    """(N,) index into `SPLITS`."""
    action: Ints
    """(N,) class."""
    subject: Ints
    """(N,) the subject's number."""
    camera: Doubles
    """(N, 9) fx, fy, cx, cy in pixels, then the distortion k1, k2, k3, p_x, p_y."""
    joints_px: Floats
    """(M, J, 2)."""
    joints_mm: Floats
    """(M, J, 3)."""
    visible: Bools
    """(M, J) known and not occluded."""
    box: Floats
    """(M, 4) x1, y1, x2, y2 of the person, or NaN: then the known joints' box serves."""
    head_size: Floats
    """(M,) the reference length of PCKh, pixels."""
    names: Sequence[str]
    """(N,) what a message calls the sequence, e.g. "penn/0001"."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the data set's protocol needs besides (which joint convention, which scale and centre of a crop, ...), and
    the counts of what was skipped and why, under "skipped": {reason: [names]}."""

    def __post_init__(self) -> None:
        self._origin: tuple[Path, str] | None = None

    def __len__(self) -> int:
        return len(self.media)

    def __reduce__(self) -> Any:
        # A loaded index travels to worker processes as a path: they map the same pages instead of receiving a copy.
        if self._origin is not None:
            return _reopen, self._origin
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    def num_frames(self, sequence: int) -> int:
        """Frames of a sequence."""
        return int(self.first_row[sequence + 1] - self.first_row[sequence])

    def of_split(self, split: str) -> Ints:
        """The sequences of a split, in order. Raises UserError if its name is unknown or it has none."""
        if split not in SPLITS:
            raise unknown_name(f"split of {self.data_set}", split, SPLITS)
        found = np.flatnonzero(np.asarray(self.split) == SPLITS.index(split))
        if not len(found):
            counts = np.bincount(self.split, minlength=len(SPLITS))
            has = ", ".join(f"{name} ({count})" for name, count in zip(SPLITS, counts, strict=True) if count)
            raise UserError(f"the {split} split of {self.data_set} is empty; it has {has or 'no sequences at all'}")
        return found

    def select(self, sequences: npt.ArrayLike, frames: npt.ArrayLike | None = None) -> Index:
        """An index of these sequences (K,) alone, in the order given. It copies their rows into memory.

        frames: (K,) how many of each one's frames to keep at most, from the first; None: all. Raises IndexError for a
        sequence there is not.
        """
        chosen = np.asarray(sequences, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"sequences {chosen.min()}..{chosen.max()} of {len(self)}")
        first, counts = np.asarray(self.first_row)[chosen], np.diff(self.first_row)[chosen]
        if frames is not None:
            counts = np.minimum(counts, frames)
        first_row = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(first - first_row[:-1], counts) + np.arange(first_row[-1])
        columns: dict[str, Any] = {name: np.asarray(getattr(self, name))[chosen] for name in OF_SEQUENCES}
        columns |= {name: getattr(self, name)[rows] for name in OF_FRAMES}
        columns |= {name: [getattr(self, name)[i] for i in chosen] for name in STRINGS}
        return Index(
            self.data_set, self.layout, self.action_names, first_row=first_row, notes=dict(self.notes), **columns
        )

    def check(self) -> None:
        """Raise UserError, naming the column, if columns do not fit one another or hold what they cannot."""
        n, where = len(self.media), f"index of {self.data_set}"
        rows = np.asarray(self.first_row)
        if rows.shape != (n + 1,) or rows[0] != 0 or (np.diff(rows) < 1).any():
            raise UserError(f"{where}: first_row must rise from 0, one number more than the {n} sequences")
        for label in STRINGS:
            strings = getattr(self, label)
            if isinstance(strings, Strings):
                strings.check(f"{where}: column {label}")
        if len(self.names) != n:
            raise UserError(f"{where}: {len(self.names)} names for {n} sequences")
        for count, columns in ((n, OF_SEQUENCES), (int(rows[-1]), OF_FRAMES)):
            for name, (kind, rest) in columns.items():
                column = getattr(self, name)
                shape = (count, *(len(self.layout.joints) if size == "J" else size for size in rest))
                if column.shape != shape or column.dtype != kind:
                    found = f"{column.dtype} {column.shape}"
                    raise UserError(f"{where}: column {name} should be {kind} {shape}, not {found}")
        for name, low, high in (
            ("media_kind", 0, len(MEDIA_KINDS) - 1),
            ("split", 0, len(SPLITS) - 1),
            ("action", -1, len(self.action_names) - 1),
            ("first_frame", 0, None),
            ("frame_step", 1, None),
        ):
            values = np.asarray(getattr(self, name))
            if n and (values.min() < low or (high is not None and values.max() > high)):
                raise UserError(f"{where}: column {name} holds {values.min()}..{values.max()}, outside {low}..{high}")

    def save(self, folder: str | Path) -> None:
        """Write the index into `folder`, whole or not at all; an index that was there is replaced.

        Raises UserError if `check` does, or if there is no room for it.
        """
        self.check()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = Path(tempfile.mkdtemp(prefix=_COLUMNS_PREFIX, dir=folder))
        try:
            columns.chmod(0o755)
            for name in ARRAYS:
                np.save(columns / f"{name}.npy", np.ascontiguousarray(getattr(self, name)))
            for name in STRINGS:
                strings = Strings.of(getattr(self, name))
                np.save(columns / f"{name}.npy", strings.data)
                np.save(columns / f"{name}.starts.npy", strings.starts)
            facts = {
                "version": VERSION,
                "data_set": self.data_set,
                "layout": {
                    "name": self.layout.name,
                    "joints": self.layout.joints,
                    "bones": self.layout.bones,
                    "root": self.layout.root,
                },
                "action_names": self.action_names,
                "sequences": len(self),
                "frames": int(self.first_row[-1]),
                "columns": columns.name,
                "notes": self.notes,
            }
            write_text(folder / FILE, json.dumps(facts, indent=1, default=_plain) + "\n")
        except BaseException as error:
            shutil.rmtree(columns, ignore_errors=True)
            if isinstance(error, OSError):
                raise UserError(
                    f"the index cannot be written to {folder} ({error}): is there room on the disk?"
                ) from error
            raise
        for old in folder.glob(f"{_COLUMNS_PREFIX}*"):
            if old != columns:
                shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Map what `save` wrote into memory, read-only. Raises UserError if it is missing, damaged or of another
        version."""
        return _open(Path(folder))


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays in notes, as JSON knows them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"notes of an index: {type(value).__name__} {value!r} cannot be written as JSON")


def _reopen(folder: Path, columns: str) -> Index:
    index = _open(folder)
    if index._origin != (folder, columns):
        raise UserError(f"the index in {folder} was replaced while a run was using it: start the run again")
    return index


# What other bytes than `save` wrote lead to in JSON, NumPy's files and the checks.
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError),
    *(OverflowError, RecursionError, MemoryError, SyntaxError, TokenError),
)


_BY_NAME = ("skipped", "cut", "disagree", "stills")
"""Notes that are objects, for all data sets."""


def _open(folder: Path) -> Index:
    path, again = folder / FILE, "prepare the data set again (python -m pyhar.data.prepare)"
    if not path.is_file():
        raise UserError(f"there is no index at {path}: prepare the data set first (python -m pyhar.data.prepare)")
    version: Any = VERSION
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["version"]
        if version != VERSION:
            raise ValueError("of another version")
        layout = facts["layout"]
        notes = facts["notes"]
        if not all(isinstance(part, dict) for part in (notes, *(notes.get(key, {}) for key in _BY_NAME))):
            raise TypeError("its notes are no object")
        if not all(isinstance(name, str) for name in (*layout["joints"], *facts["action_names"])):
            raise TypeError("names that are no text")
        columns: dict[str, Any] = {name: _map(folder / facts["columns"] / f"{name}.npy") for name in ARRAYS}
        for name in STRINGS:
            starts = _map(folder / facts["columns"] / f"{name}.starts.npy")
            columns[name] = Strings(_map(folder / facts["columns"] / f"{name}.npy"), starts)
        bones = tuple((first, second) for first, second in layout["bones"])
        index = Index(
            str(facts["data_set"]),
            JointLayout(layout["name"], tuple(layout["joints"]), bones, layout["root"]),
            tuple(facts["action_names"]),
            notes=notes,
            **columns,
        )
        if (len(index), int(index.first_row[-1])) != (facts["sequences"], facts["frames"]):
            raise ValueError("columns of another length than announced")
        index.check()
    except _DAMAGED as error:
        if isinstance(version, int) and version != VERSION:
            raise UserError(f"{path} is of version {version}, this pyhar reads version {VERSION}: {again}") from error
        raise UserError(f"the index in {folder} is damaged ({reason(error)}): {again}") from error
    index._origin = (folder, facts["columns"])
    return index


def _map(path: Path) -> npt.NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # What makes a slice of a memmap costs more than the slice itself: a plain array over the same pages serves.
    return array.view(np.ndarray) if isinstance(array, np.memmap) else array
