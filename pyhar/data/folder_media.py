"""The pictures and videos that a user's annotations name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyhar.data.frames import PICTURE_SUFFIXES, picture_size
from pyhar.errors import UserError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

_NUMBER = r"\d{1,18}"
"""What 64 bits hold."""

Ints = npt.NDArray[np.int64]


class MediumError(Exception):
    """Why a medium cannot be used, in words that fit many."""


@dataclass
class Medium:
    """A picture, a video or numbered pictures that are there."""

    kind: str
    media: str
    """As the index names it: a file, or a pattern with one number."""
    present: Ints
    """The numbers of its frames, sorted."""
    size: tuple[int, int]
    """Width and height of its first frame, pixels."""

    @property
    def first(self) -> int:
        return int(self.present[0])

    def numbers(self, first: int, step: int) -> Ints:
        """Every step-th frame from the first one on. Raises MediumError if there are more numbers than frames."""
        # Names may be times in nanoseconds, all numbers between which fill the memory.
        if (int(self.present[-1]) - first) // step >= len(self.present):
            raise MediumError("frames are missing in the middle of the medium")
        return np.arange(first, int(self.present[-1]) + 1, step, dtype=np.int64)

    def holds(self, numbers: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """For each number whether there is such a frame."""
        return np.isin(np.asarray(numbers), self.present)


def find_medium(root: Path, media: str) -> Medium:
    """The medium that an annotation names, relative to `root`. Raises MediumError if it is not there or is broken."""
    path = root / media
    suffix = path.suffix.lower()
    if path.is_dir():
        return _pattern(root, f"{media.rstrip('/').replace('%', '%%')}/{_name_pattern(path)}")
    if not path.is_file() and "%" in path.name:
        return _pattern(root, media)
    if not path.is_file():
        raise MediumError("no such file or folder")
    if suffix in PICTURE_SUFFIXES:
        return Medium("picture", media, np.zeros(1, dtype=np.int64), _picture_size(path))
    if suffix in VIDEOS:
        return _video(path, media)
    raise MediumError(f"neither a picture nor a video by its ending {suffix!r}")


def _name_pattern(folder: Path) -> str:
    """The pattern that the names of a folder's pictures follow, such as "img_%04d.png"."""
    names = sorted(
        p.name for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")
    )
    parts = [m.groups() for name in names if (m := re.fullmatch(rf"(.*?)({_NUMBER})(\.\w+)", name))]
    if not names:
        raise MediumError("no pictures in the folder")
    if len(parts) < len(names) or len({(before, after) for before, _, after in parts}) > 1:
        raise MediumError("the folder's pictures are not named by one pattern and a number")
    widths = {len(digits) for _, digits, _ in parts}
    before, _, after = parts[0]
    number = f"%0{widths.pop()}d" if len(widths) == 1 else "%d"
    return f"{before.replace('%', '%%')}{number}{after}"


def _pattern(root: Path, media: str) -> Medium:
    # As everywhere in the pattern, a percent sign that is none of the number is doubled in the folder's name.
    folder, name = root / Path(media).parent.as_posix().replace("%%", "%"), Path(media).name
    match = re.fullmatch(r"(.*?)%(?:0(\d+))?d(.*)", name)
    if not match or "%" in (match[1] + match[3]).replace("%%", ""):
        raise MediumError("a pattern has one number, such as %06d")
    before, after = (match[i].replace("%%", "%") for i in (1, 3))
    found = re.compile(f"{re.escape(before)}({_NUMBER}){re.escape(after)}")
    digits = [m[1] for p in (folder.iterdir() if folder.is_dir() else ()) if (m := found.fullmatch(p.name))]
    numbers = sorted(int(d) for d in digits if name % int(d) == f"{before}{d}{after}")
    if not numbers:
        raise MediumError("no pictures of this pattern")
    return Medium("frames", media, np.array(numbers, dtype=np.int64), _picture_size(folder / (name % numbers[0])))


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        return picture_size(path)
    except UserError as error:
        raise MediumError("not a picture, or damaged") from error


def _video(path: Path, media: str) -> Medium:
    from pyhar.data.video_reader import VideoReader

    try:
        reader = VideoReader(path)
    except UserError as error:
        raise MediumError("not a video, or damaged") from error
    reader.close()
    return Medium("video", media, np.arange(reader.num_frames, dtype=np.int64), (reader.width, reader.height))
