"""Pictures and videos as files, which appear only once they are whole."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.errors import UserError
from pyhar.files import atomic

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent; read when OpenCV first needs FFmpeg

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

VIDEO_CODECS = {".avi": "MJPG", ".mp4": "mp4v"}


class _Quiet:
    """Keeps OpenCV from printing, in whichever threads; what fails is said in our own words."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                cv2.utils.logging.setLogLevel(self._before)


QUIET = _Quiet()


class VideoWriter:
    """A video file (.mp4: MPEG-4, .avi: Motion JPEG) that exists only once it is whole.

    Use as a context manager; the first picture sets the size. If the block raises or writes nothing, nothing is left
    behind.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        """Raises UserError if the name does not end in .mp4 or .avi."""
        self.path = Path(path)
        self.fps = fps
        if self.path.suffix.lower() not in VIDEO_CODECS:
            raise UserError(
                f"cannot write a video called {self.path}: the name must end in {' or '.join(VIDEO_CODECS)}"
            )
        self._cleanup = ExitStack()
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, rgb: Picture) -> None:
        """Append a picture (H, W, 3) uint8. Raises UserError if its size differs from the first, or writing fails."""
        size = (rgb.shape[1], rgb.shape[0])
        if self._writer is None:
            self._size = size
            self._temporary = self._cleanup.enter_context(atomic(self.path))
            self._cleanup.push(self._close)
            codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self.path.suffix.lower()])
            with QUIET:
                self._writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, size)
            if not self._writer.isOpened():
                raise UserError(
                    f"{self.path}: OpenCV cannot write such a video of {_by(size)} pixels here; "
                    f"try the other of {', '.join(VIDEO_CODECS)}"
                )
        if size != self._size:
            raise UserError(
                f"{self.path}: a picture of {_by(size)} pixels does not fit into a video of {_by(self._size)}"
            )
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.__exit__(kind, error, trace)

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the temporary file; raises UserError if frames are missing in it, as on a full disk."""
        if self._writer is None or self._temporary is None:
            return
        self._writer.release()
        if kind is None:
            with QUIET:
                written = int(cv2.VideoCapture(str(self._temporary)).get(cv2.CAP_PROP_FRAME_COUNT))
            if written < self._count:
                raise UserError(
                    f"{self.path}: only {max(written, 0)} of {self._count} frames could be written: is the disk full?"
                )


def write_picture(path: Path, rgb: Picture) -> None:
    """Write an image file in the format of its suffix, whole or not at all. Raises UserError if that fails."""
    with atomic(path) as temporary:
        try:
            ok = cv2.imwrite(str(temporary), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise UserError(f"picture {path} cannot be written: {error.err}") from error
        if not ok:
            raise UserError(f"picture {path} cannot be written: is the folder writable, is there room on the disk?")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
