"""Where pictures come from: image files, folders, globs, video files, cameras.

Sources yield one frame at a time, so that a video of any length needs constant memory.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pyhar.data.frames import PICTURE_SUFFIXES, is_cut_off
from pyhar.data.parsing import read_video_header
from pyhar.errors import UserError
from pyhar.media import QUIET, Picture

DEFAULT_FPS = 25.0
_MAX_DAMAGED_FRAMES = 32
"""A video file is given up after this many undecodable frames in a row."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source."""

    rgb: Picture
    index: int
    """Place in the source, from 0; unreadable pictures of a folder keep their number."""
    time_s: float | None = None
    """Seconds since the first frame; None for pictures."""
    name: str | None = None
    """File name below the source folder; None for videos."""


class Source(Protocol):
    """Frames, and what there is to know about them. Iterate once."""

    name: str
    """What output files are named after."""
    length: int | None
    """Frames as announced by the folder or the video's header; None if unknown."""
    live: bool
    """Frames keep coming until somebody stops them."""
    notes: list[str]
    """What went wrong without stopping the run, one sentence each; complete after the last frame."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None for pictures."""

    def __iter__(self) -> Iterator[Frame]: ...

    def origin(self, frame: Frame) -> Path | None:
        """The file that holds the frame, if there is one."""

    def stop(self) -> None:
        """End the iteration before the next frame."""


def open_source(source: str | os.PathLike[str]) -> Source:
    """An image, a folder of images, a glob pattern, a video file, or a camera: its number, or its device /dev/videoN.

    Raises UserError if there is nothing of the kind or it cannot be opened.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            raise UserError(f"folder {path} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
        return PictureSource(path.resolve().name, path, found)
    if path.is_file():
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return PictureSource(path.stem, path.parent, [path])
        return VideoSource(path)
    if (number := text.removeprefix("/dev/video")).isdecimal():
        return VideoSource(int(number))
    if glob.has_magic(text):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
        found = [match for match in matches if match.suffix.lower() in PICTURE_SUFFIXES]
        if not found:
            raise UserError(
                f"{text} matches {len(matches)} files, none of them a picture ({', '.join(PICTURE_SUFFIXES)}); "
                "name videos one by one"
            )
        root = Path(os.path.commonpath([file.parent.absolute() for file in found]))
        return PictureSource(root.name or "pictures", root, [file.absolute() for file in found])
    raise UserError(f"there is no {text}: give an image, a folder, a glob in quotes, a video file or a camera number")


class PictureSource:
    """Image files, in the order given. Unreadable ones are skipped and counted in `notes`, unless there is but one."""

    fps = None
    live = False

    def __init__(self, name: str, root: Path, files: list[Path]) -> None:
        self.name = name
        self.root = root
        self.files = files
        self.length: int | None = len(files)
        self.notes: list[str] = []
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        skipped: list[str] = []
        for index, file in enumerate(self.files):
            if self._stopped:
                break
            try:
                rgb = read_picture(file)
            except UserError as error:
                if len(self.files) == 1:
                    raise
                skipped.append(str(error))
                continue
            yield Frame(rgb, index, name=file.relative_to(self.root).as_posix())
        if len(skipped) == len(self.files):
            raise UserError(f"none of the {len(skipped)} pictures in {self.root} can be read; the first: {skipped[0]}")
        if skipped:
            shown = "; ".join(skipped[:5]) + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
            self.notes.append(f"skipped {len(skipped)} of {len(self.files)} pictures: {shown}")

    def origin(self, frame: Frame) -> Path | None:
        return self.files[frame.index]

    def stop(self) -> None:
        self._stopped = True


class VideoSource:
    """A video file, turned upright as its metadata say, or a camera by number."""

    def __init__(self, source: Path | int) -> None:
        """Raises UserError if it cannot be opened."""
        self.path = source if isinstance(source, Path) else None
        self.live = self.path is None
        self.name = f"camera{source}" if self.path is None else self.path.stem
        self.notes: list[str] = []
        self._stopped = False
        with QUIET:
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            if self.path is None:
                raise UserError(
                    f"camera {source} cannot be opened: is it connected, free, and are you allowed to use it?"
                )
            if self.path.stat().st_size == 0:
                raise UserError(f"{self.path} is empty (0 bytes); copy or record it again")
            raise UserError(
                f"{self.path} cannot be opened as a video: it is cut off, damaged, or of an unknown format; "
                f"copy or record it again, or convert it, e.g. `ffmpeg -i {self.path.name} new.mp4`"
            )
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length: int | None = int(announced) if self.path is not None and 0 < announced < 1e9 else None
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps <= 1000 else DEFAULT_FPS
        if self.path is not None and fps != self.fps:
            self.notes.append(f"{self.path} does not say its frames per second: {DEFAULT_FPS:g} taken")

    def __iter__(self) -> Iterator[Frame]:
        count = failures = 0
        time_s = first_s = start = 0.0
        try:
            while not self._stopped:
                with QUIET:
                    ok, bgr = self._capture.read()
                if ok:
                    failures = 0
                    stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    if count == 0:
                        first_s, start = stamp, time.monotonic()
                    elif self.live:
                        time_s = time.monotonic() - start
                    else:  # files without time stamps repeat one
                        time_s = stamp - first_s if stamp - first_s > time_s else time_s + 1 / self.fps
                    yield Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), count, time_s)
                    count += 1
                elif self.length is not None and count < self.length and failures < _MAX_DAMAGED_FRAMES:
                    failures += 1  # decoding often goes on behind a damaged frame
                else:
                    break
        finally:
            self._capture.release()
        if count == 0 and not self._stopped:
            if self.path is None:
                raise UserError(f"{self.name} gives no picture: is another program using it?")
            raise UserError(
                f"{self.path}: not one of the {self.length or 0} frames its header announces can be decoded; "
                "copy or record it again"
            )
        if self.live and not self._stopped:
            self.notes.append(f"{self.name} gave no more pictures after {count} frames: was it unplugged?")
        if not self._stopped and self._is_short(count, time_s):
            self.notes.append(
                f"{self.path}: {count} frames decoded where the header announces {self.length}; "
                "the rest is damaged or missing"
            )

    def _is_short(self, count: int, last_s: float) -> bool:
        """Whether frames are missing. Where a file does not store their number, OpenCV announces its duration times its
        frame rate, which is too many if the rate varies."""
        if self.path is None or self.length is None or count >= self.length:
            return False
        try:
            stored = read_video_header(self.path).frames
        except UserError:
            return True
        return count < stored if stored else last_s + 1.5 / self.fps < self.length / self.fps

    def origin(self, frame: Frame) -> Path | None:
        return self.path

    def stop(self) -> None:
        self._stopped = True


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read an image file as (H, W, 3) uint8 RGB, upright as its EXIF says; 16 bits become 8, grey becomes RGB.

    Raises UserError if the file is missing, cut off, or no picture.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"picture {os.fspath(path)} cannot be read: {error.strerror}") from error
    if not data:
        raise UserError(f"picture {os.fspath(path)} is empty (0 bytes); copy or export it again")
    if is_cut_off(data):
        raise UserError(f"picture {os.fspath(path)} is cut off: its end is missing; copy or export it again")
    try:
        with QUIET:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"picture {os.fspath(path)} cannot be decoded: {error.err}") from error
    if bgr is None:
        raise UserError(f"{os.fspath(path)} is damaged or not a picture; copy it again or export it as PNG or JPEG")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
