"""Frames of a video by number, exactly: whatever the container, frame n is the n-th picture in the order of display."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyhar.errors import UserError


class VideoReader:
    """A video file, open for reading frames by number.

    Opening reads through its packets, without decoding, for the time stamp of each frame; reading then goes on from
    where the decoder is if that is nearest, else from the last key frame before. Of the frames in between, H.264 has
    those left out that no other refers to. Where a file's time stamps prove useless, frames are counted from its
    beginning. Not to be shared by threads, nor with a forked process.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises UserError if the file is missing, empty, damaged, or holds no video."""
        import av

        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"video {path} cannot be read: there is no such file")
        if self.path.stat().st_size == 0:
            raise UserError(f"video {path} is empty (0 bytes); copy it again")
        self._failure = av.error.FFmpegError
        try:
            self._open()
            packets = [
                (packet.pts, packet.dts, bool(packet.is_keyframe), bool(packet.is_corrupt))
                for packet in self._container.demux(self._stream)
                if packet.size
            ]
        except (av.error.FFmpegError, OSError, EOFError) as error:
            raise UserError(
                f"video {path} cannot be opened: it is cut off, damaged, or of an unknown format ({error}); copy it "
                "again or convert it"
            ) from error
        if not packets:
            raise UserError(f"video {path} holds no frames: it is cut off; copy it again")
        stamps = [pts for pts, *_ in packets if pts is not None]
        self.num_frames = len(packets)
        """Pictures that the file holds, by its packets."""
        self.cut_off = packets[-1][3]
        """The file ends within a packet: its last pictures may not be decoded."""
        # Stamps in the order of decoding, for a codec that shows frames in another, say nothing (H.264 in AVI).
        reordered = bool(self._stream.codec_context.has_b_frames)
        useful = len(set(stamps)) == len(packets) and not (reordered and stamps == sorted(stamps) and len(stamps) > 1)
        self.exact = useful and any(key for _, _, key, _ in packets)
        """Frames are found by their time stamps; otherwise they are counted from the beginning."""
        self._stamps = sorted(stamps)
        self._number = {pts: number for number, pts in enumerate(self._stamps)}
        # Containers seek by the order of decoding, in which a key frame's stamp is another.
        self._keys = sorted(
            (pts, pts if dts is None else dts) for pts, dts, key, _ in packets if key and pts is not None
        )
        self._frames: Iterator[Any] | None = None
        self._next = 0
        self._wanted, self._last = frozenset[int](), 0
        self._left_out: set[int] = set()

    def _open(self) -> None:
        import av

        # FFmpeg takes what stands before the first colon for a protocol, unless a slash comes before it.
        self._container = av.open(str(self.path.absolute()), metadata_errors="replace")
        if not self._container.streams.video:
            raise UserError(f"{self.path} holds no video")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            raise UserError(f"video {self.path} cannot be opened: its codec is unknown; convert it")
        self._stream.codec_context.thread_count = 1
        self.width, self.height = self._stream.codec_context.width, self._stream.codec_context.height

    def close(self) -> None:
        """Close the file."""
        self._frames = None
        self._container.close()

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (number, decoded frame of PyAV) for rising numbers. Raises UserError for a frame that is not there or
        cannot be decoded."""
        done, self._wanted, self._last = 0, frozenset(numbers), max(numbers, default=0)
        for number in numbers:
            if not 0 <= number < self.num_frames:
                raise UserError(f"video {self.path} has no frame {number}: it holds {self.num_frames}, counted from 0")
        while done < len(numbers):
            number = numbers[done]
            frame = self._find(number)
            if frame is None:
                if self.exact:
                    # Time stamps that decoding does not bear out are of no use: from here on frames are counted.
                    self.exact, self._frames = False, None
                    continue
                raise self._broken(number, "the file ends before it")
            if frame.is_corrupt:
                raise self._broken(number, "its data is damaged or cut off")
            yield number, frame
            done += 1

    def _find(self, number: int) -> Any:
        """The frame, or None if decoding passes the place where it should be."""
        behind = number < self._next or number in self._left_out
        if self._frames is None or behind or (self.exact and self._key_before(number) > self._next):
            self._start(number)
        assert self._frames is not None
        try:
            for frame in self._frames:
                place = self._number.get(frame.pts) if self.exact else self._next
                if place is None or place < self._next:
                    # Leading pictures of an open group, which refer to what lies before the key frame.
                    if place is None and self.exact:
                        return None
                    continue
                self._next = place + 1
                if place == number:
                    return frame
                if place > number:
                    return None
        except self._failure as error:
            self._frames = None
            raise self._broken(number, str(error)) from error
        self._frames = None
        return None

    def _start(self, number: int) -> None:
        """Begin to decode at the last place from which the frame can be reached."""
        self._next, self._left_out = 0, set()
        try:
            if self.exact:
                place = self._key_place(number)
                self._container.seek(self._keys[max(place, 0)][1], stream=self._stream, backward=True)
            else:
                self._container.close()
                self._open()
        except self._failure as error:
            raise self._broken(number, str(error)) from error
        self._frames = self._decode()

    def _decode(self) -> Iterator[Any]:
        """The frames from here on that are wanted, that wanted ones may refer to, or that may be wanted next."""
        decoder = self._stream.codec_context
        # By the definition of H.264, no frame ever refers to what it calls disposable; of others, that is not certain.
        disposable = self.exact and decoder.name == "h264"
        packets: Iterator[Any] = self._container.demux(self._stream)
        for packet in packets:
            if disposable:
                place = self._number.get(packet.pts, self.num_frames)
                needless = place < self._last and place not in self._wanted
                decoder.skip_frame = "NONREF" if needless else "DEFAULT"
                if needless:
                    self._left_out.add(place)
            yield from packet.decode()

    def _key_place(self, number: int) -> int:
        """Place in the list of key frames of the last one up to a frame; -1 if there is none."""
        return bisect_right(self._keys, self._stamps[number], key=lambda key: key[0]) - 1

    def _key_before(self, number: int) -> int:
        """Number of the last key frame up to a frame; -1 if there is none."""
        place = self._key_place(number)
        return self._number[self._keys[place][0]] if place >= 0 else -1

    def _broken(self, number: int, why: str) -> UserError:
        return UserError(f"video {self.path}: frame {number} cannot be decoded: {why}; copy the file again")
