"""What a JPEG file says of itself, and how to have only its upper part decoded."""

from __future__ import annotations

from typing import NamedTuple

_END = b"\xff\xd9"
_START_OF_SCAN, _RESTART_INTERVAL, _APP2 = 0xDA, 0xDD, 0xE2
# Starts of frame; of the codings that a decoder goes through once, from top to bottom; and tables among the markers.
_FRAMES, _SEQUENTIAL, _TABLES = range(0xC0, 0xD0), (0xC0, 0xC1), (0xC4, 0xC8, 0xCC)
_TALLEST_UNIT = 32
"""Rows of the tallest unit that decoders work by: four blocks of 8."""


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins as JPEG does."""
    return data.startswith(b"\xff\xd8\xff")


class Header(NamedTuple):
    """What lies before the first scan of a JPEG."""

    width: int
    height: int
    """As the picture lies on disk; both 0 where the data does not say."""
    height_place: int
    """Where the height stands in a file whose only scan can be left before its end, otherwise 0."""
    scan: int
    """Where the scan begins, or the data ends."""


def read_header(data: bytes) -> Header:
    """The header of a JPEG file, or of a part of it that holds its start."""
    position, width, height, height_place, components, whole = 2, 0, 0, 0, 0, False
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == _START_OF_SCAN:
            # Where not all components are in the first scan, the next begins behind what would be left out.
            whole |= data[position + 4 : position + 5] != bytes([components])
            return Header(width, height, 0 if whole else height_place, position)
        if marker in _FRAMES and marker not in _TABLES and position + 10 <= len(data):
            height_place, components = position + 5, data[position + 9]
            height, width = _two_bytes(data, height_place), _two_bytes(data, position + 7)
            whole |= marker not in _SEQUENTIAL
        elif marker == _RESTART_INTERVAL or (marker == _APP2 and data[position + 4 : position + 7] == b"MPF"):
            # What would be left out holds markers; in the second case, of another picture.
            whole = True
        position += 2 + _two_bytes(data, position + 2)
    return Header(width, height, 0, position)


def has_end(data: bytes, header: Header) -> bool:
    """Whether a file is not cut off. Decoders may fill up with grey instead of failing."""
    # Behind the header's segments, which may hold a whole thumbnail.
    return data.rfind(_END, header.scan) >= 0


def upper_rows(data: bytes, header: Header, rows: int) -> bytes | bytearray:
    """A file that gives the first `rows` rows of a JPEG, or a few more, at the cost of those: as it was but for the
    height in its header, and without an end, in which a decoder would find that rows are left over. The file itself
    where that is not to be had."""
    rows = -(-rows // _TALLEST_UNIT) * _TALLEST_UNIT
    if not header.height_place or rows >= header.height:
        return data
    upper = bytearray(memoryview(data)[: data.rfind(_END, header.scan)])
    upper[header.height_place : header.height_place + 2] = rows.to_bytes(2, "big")
    return upper


def _two_bytes(data: bytes, place: int) -> int:
    return (data[place] << 8) + data[place + 1]
