"""Pixels: the crop of a picture, of numbered pictures, or of frames of a video, each by one affine map
(`pyhar.data.warp`).

Where a crop shows a JPEG smaller, the decoder gives it at 1/2, 1/4 or 1/8, averaged, for less than the whole picture
costs; and it stops below the crop.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data import jpeg
from pyhar.data.decoded import FrameCrop
from pyhar.data.geometry import Matrix
from pyhar.data.video_reader import VideoReader
from pyhar.data.warp import Picture, View, block_size, of_blocks
from pyhar.errors import UserError

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What names of pictures end in, in small letters."""
# Factor -> flag of OpenCV for a decoder that gives 1/factor of a JPEG's width and height.
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# Open videos that a process keeps: stills of one video come one after the other where a still names its neighbour.
_MAX_OPEN = 4
_open: OrderedDict[str, VideoReader] = OrderedDict()
_open_in = os.getpid()


def read_crop(
    path: str | Path,
    kind: str,
    numbers: Sequence[int] | npt.NDArray[np.int64],
    to_pixels: Matrix,
    size: int,
    out: Picture | None = None,
) -> Picture:
    """The crop of some frames, uint8 (T, size, size, 3) RGB, black where it reaches beyond the picture; written into
    `out` if that is given.

    path, kind: a file of kind "picture" (each number gives the same picture) or "video" (frames count from 0), or for
    "frames" a pattern with one number, such as "0001/%06d.jpg". to_pixels: (3, 3), from picture pixels to pixel indices
    of the crop, centres at integers on both sides (`pyhar.data.geometry.to_crop_pixels`). Pictures are taken as they
    lie on disk, whatever their EXIF orientation says; grey, CMYK, 16-bit and transparent ones become RGB.

    Raises UserError, naming file and frame, for what is missing, cut off or cannot be decoded.
    """
    if out is None:
        out = np.empty((len(numbers), size, size, 3), np.uint8)
    if kind == "video":
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            places.setdefault(int(number), []).append(place)
        crop = FrameCrop(to_pixels, size)
        for number, frame in _video(str(path)).read(sorted(places)):
            first, *rest = places[number]
            crop.write(frame, out[first])
            for place in rest:
                out[place] = out[first]
        return out
    done: dict[str, int] = {}
    for place, number in enumerate(numbers):
        file = numbered(path, int(number)) if kind == "frames" else str(path)
        if file in done:
            out[place] = out[done[file]]
            continue
        bgr, view = _decode(file, to_pixels, size)
        view.write(bgr, out[place], bgr=True)
        done[file] = place
    return out


def numbered(pattern: str | Path, number: int) -> str:
    """The file that a pattern gives for a number. Raises UserError if it takes none."""
    try:
        return str(pattern) % number
    except (TypeError, ValueError) as error:
        raise UserError(f"{pattern} is no pattern with one number, such as frames/%06d.jpg: {error}") from error


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture as it lies on disk, of JPEG and PNG from the header alone. Raises UserError if it
    is missing or no picture."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
            if jpeg.is_jpeg(start):
                header = jpeg.read_header(start)
                if not header.height:
                    header = jpeg.read_header(start + file.read())
                if header.width and header.height:
                    return header.width, header.height
    except OSError as error:
        raise UserError(f"picture {path} cannot be read: {error.strerror}") from error
    if start.startswith(b"\x89PNG") and len(start) >= 24:
        width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
        if width and height:
            return width, height
    height, width = _decode_as(cv2.IMREAD_COLOR, _load(str(path))[0], str(path)).shape[:2]
    return width, height


def check_picture(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture whose file is whole, which costs reading but not decoding it. Raises UserError if
    it is missing, empty, cut off or no picture."""
    if is_cut_off(_read(str(path))):
        raise _cut_off(str(path))
    return picture_size(path)


def is_cut_off(data: bytes) -> bool:
    """Whether a PNG or JPEG file lacks its end. Decoders may fill up with grey instead of failing."""
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") < 0
    return jpeg.is_jpeg(data) and not jpeg.has_end(data, jpeg.read_header(data))


def _read(file: str) -> bytes:
    try:
        with open(file, "rb", buffering=0) as opened:
            data = opened.read()
    except OSError as error:
        raise UserError(f"picture {file} cannot be read: {error.strerror}") from error
    if not data:
        raise UserError(f"picture {file} is empty (0 bytes); copy it again")
    return data


def _cut_off(file: str) -> UserError:
    return UserError(f"picture {file} is cut off: its end is missing; copy it again")


def _decode(file: str, to_pixels: Matrix, size: int) -> tuple[Picture, View]:
    """A picture, BGR, as much of it and as large as the crop needs, and how the crop shows that."""
    data, header = _load(file)
    if header is None or not header.height:
        # Decoded whole and then scaled, since scaling it first would resample it twice.
        picture = _decode_as(cv2.IMREAD_COLOR, data, file)
        return picture, View(to_pixels, size, picture.shape[1], picture.shape[0])
    block = block_size(to_pixels)
    factor = max(n for n in _REDUCED if n <= block)
    # Pixel i of the smaller picture stands for pixels factor * i to factor * i + factor - 1.
    view = View(of_blocks(to_pixels, factor), size, -(-header.width // factor), -(-header.height // factor))
    # The decoder interpolates colours, for which it looks at the next row of them.
    upper = jpeg.upper_rows(data, header, (view.bottom + 2) * factor)
    return _decode_as(_REDUCED[factor], upper, file), view


def _load(file: str) -> tuple[bytes, jpeg.Header | None]:
    """What a file holds, and its header if it is a JPEG."""
    data = _read(file)
    header = jpeg.read_header(data) if jpeg.is_jpeg(data) else None
    if is_cut_off(data) if header is None else not jpeg.has_end(data, header):
        raise _cut_off(file)
    return data, header


def _decode_as(flags: int, data: bytes | bytearray, file: str) -> Picture:
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UserError(f"picture {file} cannot be decoded: {error.err}") from error
    if picture is None:
        raise UserError(f"{file} is damaged or not a picture; copy it again")
    return picture.astype(np.uint8, copy=False)


def _video(path: str) -> VideoReader:
    """The reader of a video, kept open for the next sample."""
    global _open_in
    if _open_in != os.getpid():
        # A forked process must not move the file positions that it shares with its parent.
        _open_in = os.getpid()
        _inherited.extend(_open.values())
        _open.clear()
    reader = _open.pop(path, None) or VideoReader(path)
    _open[path] = reader
    while len(_open) > _MAX_OPEN:
        _open.popitem(last=False)[1].close()
    return reader


_inherited: list[VideoReader] = []


def read_frames(path: str | Path, numbers: Iterable[int]) -> Iterator[tuple[int, Picture]]:
    """Number and whole picture, uint8 (H, W, 3) RGB, of some frames of a video, in order. Raises UserError as
    `read_crop` does."""
    reader = VideoReader(path)
    try:
        for number, frame in reader.read(sorted(set(numbers))):
            yield number, np.asarray(frame.to_ndarray(format="rgb24"))
    finally:
        reader.close()
