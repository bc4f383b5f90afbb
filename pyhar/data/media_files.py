"""The pictures and videos that an index names: are they there and whole, and the frames of videos as files of their
own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from pyhar.data.frames import check_picture, numbered, read_frames
from pyhar.data.index import MEDIA_KINDS, Index
from pyhar.data.video_reader import VideoReader
from pyhar.errors import UserError
from pyhar.files import write_text

JPEG_QUALITY = 95
_DONE = "extracted.json"
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass
class Faults:
    """What is wrong with media, by their names in the index."""

    unusable: dict[str, str] = field(default_factory=dict)
    """Why, in words that are alike for like faults."""
    frames: dict[str, int] = field(default_factory=dict)
    """Of videos that are shorter than their annotation, how many frames they hold."""


def check_media(index: Index, root: Path, *, whole: bool = False, workers: int = 2, progress: bool = False) -> Faults:
    """Find the media that cannot serve their sequences.

    Without `whole` it asks only whether files are there. With it, pictures must have their end, and videos their
    frames; of numbered pictures every one is looked at, and all must be of one size.
    """

    def look(item: tuple[str, _Span]) -> tuple[str, str, int | None]:
        medium, span = item
        try:
            held = _look(root, medium, span, whole)
        except UserError as error:
            return medium, _short(str(error), medium), None
        return medium, "", held

    return _faults(_each(look, list(_spans(index).items()), workers, f"checking {index.data_set}", progress))


def extract_frames(
    index: Index, root: Path, folder: Path, *, workers: int = 2, progress: bool = False
) -> tuple[Index, Faults]:
    """Write the frames that sequences take from videos as JPEG files in `folder`, one folder for each video, and return
    an index that names those, with what was wrong with media of that index.

    A video's folder appears when it is complete, and one that is complete stays, unless the video has changed since.
    Raises UserError if frames cannot be written.
    """
    spans = {medium: span for medium, span in _spans(index).items() if span.kind == "video"}
    folders = {medium: folder.joinpath(*(part for part in Path(medium).parts if part not in _UP)) for medium in spans}

    def write(item: tuple[str, _Span]) -> tuple[str, str, int | None]:
        medium, span = item
        try:
            return medium, "", _extract(root / medium, folders[medium], span.numbers())
        except UserError as error:
            return medium, _short(str(error), medium), None
        except OSError as error:
            # No fault of this video: the next would fare the same.
            raise UserError(f"frames cannot be written to {folder} ({error}): is there room on the disk?") from error

    found = _faults(_each(write, list(spans.items()), workers, f"extracting {index.data_set}", progress))
    patterns: dict[str, str] = {}
    for medium, target in folders.items():
        below = Path(os.path.relpath(target, root)) if target.is_relative_to(root) else target.resolve()
        # Percent signs in a pattern stand for the number, unless doubled.
        patterns[medium] = below.as_posix().replace("%", "%%") + "/%06d.jpg"
    kinds = np.array(index.media_kind)
    kinds[[medium in patterns for medium in index.media]] = MEDIA_KINDS.index("frames")
    changed = replace(index, media=[patterns.get(medium, medium) for medium in index.media], media_kind=kinds)
    unusable = {patterns[medium]: fault for medium, fault in found.unusable.items()}
    return changed, Faults(unusable, {patterns[medium]: held for medium, held in found.frames.items()})


# Parts of a path that would lead out of a folder.
_UP = {"..", "/", "\\"}


@dataclass
class _Span:
    """Which frames sequences take from a medium."""

    kind: str
    parts: list[range] = field(default_factory=list)

    def numbers(self) -> list[int]:
        return sorted(set().union(*self.parts))


def _spans(index: Index) -> dict[str, _Span]:
    spans: dict[str, _Span] = {}
    for place, medium in enumerate(index.media):
        first, step = int(index.first_frame[place]), int(index.frame_step[place])
        span = spans.setdefault(medium, _Span(MEDIA_KINDS[index.media_kind[place]]))
        span.parts.append(range(first, first + step * index.num_frames(place), step))
    return spans


def _faults(found: list[tuple[str, str, int | None]]) -> Faults:
    return Faults(
        {medium: fault for medium, fault, _ in found if fault},
        {medium: held for medium, _, held in found if held is not None},
    )


def _look(root: Path, medium: str, span: _Span, whole: bool) -> int | None:
    """Raise UserError if a medium cannot serve; returns the frames of a video that is too short."""
    numbers = span.numbers()
    files = [root / medium]
    if span.kind == "frames":
        files = [root / numbered(medium, number) for number in (numbers if whole else (numbers[0], numbers[-1]))]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError("the file is missing" if len(missing) == len(files) else "frames are missing")
    if whole and span.kind == "video":
        return _too_short(files[0], numbers, decode=True)[1]
    if whole:
        sizes = {check_picture(file) for file in files}
        if len(sizes) > 1:
            raise UserError("its frames differ in size")
    return None


def _too_short(video: Path, numbers: list[int], decode: bool = False) -> tuple[list[int], int | None]:
    """The frames that a video has of those asked for, and how many it holds if that is not all of them. decode: leave
    out those that cannot be decoded since the file ends before them."""
    reader = VideoReader(video)
    held, count = [number for number in numbers if number < reader.num_frames], reader.num_frames
    if decode and reader.cut_off:
        while held and not _decodes(reader, held[-1]):
            count = held.pop()
    reader.close()
    if not held:
        raise UserError("the video is shorter than its annotation")
    return held, None if held == numbers else count


def _decodes(reader: VideoReader, number: int) -> bool:
    with suppress(UserError):
        return any(reader.read([number]))
    return False


def _short(message: str, path: str) -> str:
    """The kind of fault that a message tells, without the name of the file."""
    for word, fault in (
        ("is empty", "the file is empty"),
        ("cut off", "the file is cut off or damaged"),
        ("cannot be opened", "the file is cut off or damaged"),
        ("damaged", "the file is cut off or damaged"),
        ("cannot be decoded", "the file is cut off or damaged"),
    ):
        if word in message:
            return fault
    return message.replace(path, "it")


def _extract(video: Path, folder: Path, numbers: list[int]) -> int | None:
    """Write frames of a video, unless they are there; returns how many frames it holds, if those are not all."""
    numbers, held = _too_short(video, numbers)
    stat = video.stat()
    wanted = {"size": stat.st_size, "modified": stat.st_mtime_ns, "frames": [numbers[0], numbers[-1], len(numbers)]}
    with suppress(OSError, ValueError):
        if json.loads((folder / _DONE).read_text(encoding="utf-8")) == wanted:
            return held
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for number, rgb in read_frames(video, numbers):
            file = temporary / f"{number:06d}.jpg"
            bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(file), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise OSError(f"{file.name} of {video.name} is not written")
        write_text(temporary / _DONE, json.dumps(wanted))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return held


def _each(do: Callable[[_Item], _Made], items: list[_Item], workers: int, what: str, progress: bool) -> list[_Made]:
    """`do` of each item, in order, by several threads: reading and decoding leave the interpreter alone."""
    bar: Any = tqdm(total=len(items), desc=what, leave=False, disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        made = []
        try:
            for result in pool.map(do, items):
                made.append(result)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made
