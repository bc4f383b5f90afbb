"""What parsers of data sets share: a video's header, read without decoding, and splits that must not be empty."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyhar.data.index import SPLITS, Index
from pyhar.errors import UserError, unknown_name


@dataclass(frozen=True)
class VideoHeader:
    """Size in pixels and number of frames, 0 if the file does not say."""

    width: int
    height: int
    frames: int


def read_video_header(path: Path) -> VideoHeader:
    """Raises UserError if the file is missing, cut off (an AVI shorter than it says; an MP4 whose table at the end is
    missing) or no video."""
    import av

    if not path.is_file():
        raise UserError(f"{path} is missing")
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        (size,) = struct.unpack("<I", head[4:8])
        if path.stat().st_size < size + 8:
            raise UserError(f"{path} is cut off: it has {path.stat().st_size} of {size + 8} bytes; copy it again")
    try:
        # FFmpeg takes what stands before the first colon for a protocol, unless a slash comes before it.
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            pictures = container.streams.video[0]
            if pictures.codec_context is None:
                raise UserError(f"{path} is of an unknown codec: convert it")
            header = VideoHeader(pictures.codec_context.width, pictures.codec_context.height, pictures.frames)
    except (av.error.FFmpegError, OSError, EOFError, IndexError) as error:
        raise UserError(f"{path} is cut off, damaged or no video ({error}): copy it again") from error
    if header.width < 1 or header.height < 1:
        raise UserError(f"{path} does not say how large its pictures are: it is cut off or damaged; copy it again")
    return header


def check_splits(index: Index, required: Iterable[str]) -> Index:
    """The index, if each of the splits has sequences. Raises UserError that says what was left out if one has none."""
    for split in required:
        if split not in SPLITS:
            raise unknown_name(f"split of {index.data_set}", split, SPLITS)
        if not (index.split == SPLITS.index(split)).any():
            skipped = index.notes.get("skipped", {})
            why = "; ".join(f"{reason}: {len(names)}, first {names[0]}" for reason, names in skipped.items())
            raise UserError(
                f"{index.data_set}: split {split!r} would be empty" + (f"; left out were: {why}" if why else "")
            )
    return index
