"""Writing what was predicted, beside the prediction: JSON lines, annotated pictures or an annotated video."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyhar.data.layouts import JointLayout
from pyhar.errors import UserError
from pyhar.files import atomic
from pyhar.inference import draw
from pyhar.inference.pipeline import in_background
from pyhar.inference.predictions import ActionPrediction, FramePrediction
from pyhar.inference.video import Frame, Source
from pyhar.media import Picture, VideoWriter, write_picture


@contextmanager
def results(
    json_path: Path, picture_path: Path | None, source: Source, layout: JointLayout, header: dict[str, Any]
) -> Iterator[Callable[[Frame, FramePrediction, float], None]]:
    """Give a function that takes a frame, its prediction and the frames/s so far, and writes what is wanted of them.

    Drawing and encoding run in a thread each, few frames behind, in order; what they raise is raised by the function
    or at the end. picture_path: the annotated video, the folder of annotated pictures, or None. header: the first JSON
    line. The JSON lines and the video appear when the block ends without an error, annotated pictures one by one.
    A video from a live source keeps the source's time: pictures are repeated for frames that were not predicted.
    """
    with ExitStack() as files:
        lines = files.enter_context(files.enter_context(atomic(json_path)).open("w", encoding="utf-8"))
        video: VideoWriter | None = None
        if picture_path is not None and source.fps is not None:
            video = files.enter_context(VideoWriter(picture_path, source.fps))
        action: ActionPrediction | None = None
        start_s: float | None = None
        written = 0

        def write_line(content: dict[str, Any]) -> None:
            lines.write(json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n")

        def annotate(item: tuple[Frame, FramePrediction, float]) -> None:
            nonlocal action
            frame, prediction, rate = item
            if prediction.action is not None and prediction.action is not action:
                action = prediction.action
                write_line(action.to_json())
            write_line(prediction.to_json())
            if picture_path is None:
                return
            target = picture_path if video is not None else picture_path / (frame.name or f"{frame.index:06d}.png")
            origin = source.origin(frame)
            if origin is not None and target.exists() and target.samefile(origin):
                raise UserError(f"the result would overwrite {origin}: give another folder with --output")
            drawn = draw.draw_prediction(
                frame.rgb, prediction, layout, frames_per_second=None if video is None else rate
            )
            saved((target, frame.time_s, drawn))

        def save(item: tuple[Path, float | None, Picture]) -> None:
            nonlocal start_s, written
            target, time_s, drawn = item
            if video is None:
                write_picture(target, drawn)
                return
            copies = 1
            if source.live and time_s is not None:
                start_s = time_s if start_s is None else start_s
                copies = round((time_s - start_s) * video.fps) + 1 - written
            for _ in range(copies):
                video.write(drawn)
                written += 1

        write_line(header)
        saved = files.enter_context(in_background(save))
        annotated = files.enter_context(in_background(annotate))
        yield lambda frame, prediction, rate: annotated((frame, prediction, rate))
