"""What a video file says of itself, without decoding it: parsers check their annotations against it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from pyhar.errors import UserError


@dataclass(frozen=True)
class VideoHeader:
    """Size in pixels and number of frames, 0 if the file does not say."""

    width: int
    height: int
    frames: int


def read_video_header(path: Path) -> VideoHeader:
    """Raises UserError if the file is missing, cut off (an AVI shorter than it says; an MP4 whose table at the end is
    missing) or no video."""
    import cv2

    if not path.is_file():
        raise UserError(f"{path} is missing")
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        (size,) = struct.unpack("<I", head[4:8])
        if path.stat().st_size < size + 8:
            raise UserError(f"{path} is cut off: it has {path.stat().st_size} of {size + 8} bytes")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        size_and_count = [
            int(capture.get(what))
            for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
        ]
        if not capture.isOpened() or min(size_and_count[:2]) < 1:
            raise UserError(f"{path} is not a video that can be read: get it again")
    finally:
        capture.release()
    return VideoHeader(size_and_count[0], size_and_count[1], max(size_and_count[2], 0))
