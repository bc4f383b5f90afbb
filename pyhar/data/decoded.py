"""The crop of a video's decoded frame: only what it shows is turned into RGB, and as late as can be.

Where a crop averages blocks of pixels, so are the frame's planes, of which the two of colour are half as large to begin
with; the crop interpolates what is left, and its own pixels alone are turned into RGB. Averages and interpolation are
linear, and so is the change of colours: the result is the same but for rounding. Larger crops of small frames are
turned into RGB first, by FFmpeg's own code for it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import Matrix
from pyhar.data.warp import Picture, View, averaged

_HALVED = ("yuv420p", "yuvj420p")
"""Formats of a frame with planes of brightness and, half as large, of two colours."""
# Kr and Kb by FFmpeg's numbers of colour spaces; 2: not said, for which FFmpeg too takes ITU-R BT.601.
_WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114)}
_FULL_RANGE = 2


class FrameCrop:
    """The crop of a video's frames by one map."""

    def __init__(self, to_pixels: Matrix, size: int) -> None:
        """to_pixels, size: as of `pyhar.data.warp.View`."""
        self.to_pixels, self.size = to_pixels, size
        self._format: tuple[int, int, bool] | None = None

    def write(self, frame: Any, out: Picture) -> None:
        """Write the crop of a frame of PyAV into `out` (size, size, 3), RGB, as `pyhar.data.warp.View` does."""
        width, height = frame.width, frame.height
        halved = frame.format.name in _HALVED
        if self._format != (width, height, halved):  # One for all frames, if the video is whole.
            self._format = width, height, halved
            # Of colour planes, whole pixels only.
            self._view = View(self.to_pixels, self.size, width, height, grid=2 if halved else 1)
        view = self._view
        part = (view.right - view.left) * (view.bottom - view.top) / (width * height)
        if view.empty:
            out[:] = 0
        elif halved and view.block > 1 and int(frame.colorspace) in _WEIGHTS:
            self._write_planes(frame, out)
        elif not halved or part > 0.7 or width % 2 or height % 2:
            view.write(whole_frame(frame), out)
        else:
            view.write_part(_part_of_frame(frame, view), out)

    def _write_planes(self, frame: Any, out: Picture) -> None:
        view, block = self._view, self._view.block
        columns = -(-(view.right - view.left) // (2 * block)) * 2
        rows = -(-(view.bottom - view.top) // (2 * block)) * 2
        planes = []
        for plane, half in zip(_planes(frame), (1, 2, 2), strict=True):
            # Up to the frame's edge, beyond which memory may hold more.
            shown: Any = plane[view.top // half : -(-view.bottom // half), view.left // half : -(-view.right // half)]
            below, beside = rows * block // half - shown.shape[0], columns * block // half - shown.shape[1]
            if below or beside:
                shown = cv2.copyMakeBorder(shown, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            # Where nothing is averaged, a copy: OpenCV merges planes several times as fast if they are contiguous.
            planes.append(np.ascontiguousarray(averaged(shown, block // half)))
        full = frame.format.name == "yuvj420p" or int(frame.color_range) == _FULL_RANGE
        matrix, black = _to_rgb(int(frame.colorspace), full)
        # With a fourth channel, OpenCV's warp takes half the time.
        merged = cv2.merge([*planes, planes[0]])
        # No block that lies wholly beyond the edge.
        merged = merged[: -(-(view.bottom - view.top) // block), : -(-(view.right - view.left) // block)]
        warped = cv2.warpAffine(
            merged, view.of_blocks, (self.size, self.size), flags=cv2.INTER_LINEAR, borderValue=black
        )
        cv2.transform(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), matrix, dst=out)


def whole_frame(frame: Any) -> Picture:
    """A decoded frame as (H, W, 3), RGB."""
    # One converter for all frames: it keeps its tables for as long as sizes stay the same.
    picture: Picture = _converter().reformat(frame, format="rgb24", threads=1).to_ndarray()
    return picture


@cache
def _converter() -> Any:
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def _planes(frame: Any) -> list[npt.NDArray[np.uint8]]:
    """The planes, (rows, columns) as they lie in memory, perhaps with columns beyond the picture's."""
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]


def _part_of_frame(frame: Any, view: View) -> Picture:
    import av

    part: Any = av.VideoFrame(view.right - view.left, view.bottom - view.top, frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    for source, target, half in zip(_planes(frame), _planes(part), (1, 2, 2), strict=True):
        rows, columns = part.height // half, part.width // half
        target[:rows, :columns] = source[view.top // half :, view.left // half :][:rows, :columns]
    return whole_frame(part)


@cache
def _to_rgb(colours: int, full: bool) -> tuple[npt.NDArray[np.float32], tuple[float, ...]]:
    """The affine map (3, 4) from brightness and colours to RGB, and what is black."""
    red, blue = _WEIGHTS[colours]
    green = 1.0 - red - blue
    brightness, chroma, black = (1.0, 1.0, 0.0) if full else (255 / 219, 255 / 224, 16.0)
    linear = np.array(
        [
            [brightness, 0.0, 2 * (1 - red) * chroma],
            [brightness, -2 * blue * (1 - blue) / green * chroma, -2 * red * (1 - red) / green * chroma],
            [brightness, 2 * (1 - blue) * chroma, 0.0],
        ]
    )
    of_black = np.array([black, 128.0, 128.0])
    return np.column_stack([linear, -linear @ of_black]).astype(np.float32), (*of_black, black)
