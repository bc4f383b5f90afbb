"""What a JPEG file says of itself, and how to have only its upper part decoded."""

from __future__ import annotations

from collections.abc import Iterator

_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
# Starts of frame of the codings that a decoder goes through once, from top to bottom.
_SEQUENTIAL = (0xC0, 0xC1)
_MCU = 32
"""Rows of the tallest unit that decoders work by: four blocks of 8."""


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins as JPEG does."""
    return data.startswith(b"\xff\xd8\xff")


def has_end(data: bytes) -> bool:
    """Whether the file of a JPEG is not cut off. Decoders may fill up with grey instead of failing."""
    # Behind the header's segments, which may hold a whole thumbnail.
    position = max(place for _, place in _segments(data))
    return data.rfind(_END, position) >= 0


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG as it lies on disk; None where its start, which is enough, does not tell."""
    for marker, place in _segments(data):
        if _is_frame(marker) and place + 9 <= len(data):
            return _two_bytes(data, place + 7), _two_bytes(data, place + 5)
    return None


def upper_rows(data: bytes, rows: int) -> bytes | bytearray:
    """A file that gives the first `rows` rows of a JPEG, or a few more, at the cost of those: as it was but for the
    height in its header, and without an end, in which a decoder would find that rows are left over. The file itself
    where that is not to be had."""
    frame, scan = 0, 0
    for marker, place in _segments(data):
        if marker in _SEQUENTIAL:
            frame = place
        elif marker == _RESTART_INTERVAL or _is_frame(marker):
            return data
        elif marker == _START_OF_SCAN:
            scan = place
    # Where not all components are in the first scan, the next begins behind what is left out.
    if not frame or not scan or data[scan + 4 : scan + 5] != data[frame + 9 : frame + 10]:
        return data
    rows = -(-rows // _MCU) * _MCU
    end = data.find(_END, scan)
    if rows >= _two_bytes(data, frame + 5) or end < 0:
        return data
    upper = bytearray(memoryview(data)[:end])
    upper[frame + 5 : frame + 7] = rows.to_bytes(2, "big")
    return upper


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment of the header, up to the start of the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        yield marker, position
        if marker == _START_OF_SCAN:
            return
        position += 2 + _two_bytes(data, position + 2)
    yield 0, position


def _is_frame(marker: int) -> bool:
    # Of whatever coding; three among them are tables.
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _two_bytes(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 2], "big")
