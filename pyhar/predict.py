"""`python -m pyhar.predict SOURCE`: poses and actions in pictures, videos and camera streams."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pyhar import cli
from pyhar.errors import UserError
from pyhar.files import atomic
from pyhar.memory import keep_large_blocks

if TYPE_CHECKING:
    from pyhar.inference.predictor import ActionPrediction, FramePrediction, Predictor
    from pyhar.inference.video import Frame, Source

RUNS = Path("runs")
_LATENCIES = 100_000
"""So many frames' latencies are remembered for the summary."""


@dataclass(frozen=True)
class PredictConfig:
    """Find the pose of the person in each frame, and what the person does in each clip.

    Writes an annotated video (or pictures) and a file of JSON lines: a header that names the joints, then a line for
    each frame ("type": "frame"; box, pose in picture pixels, confidence, depth in millimetres behind the root joint)
    and for each clip ("type": "clip"; frames, action, probabilities). One person is looked for, where the box is:
    give one, or --follow, if the person does not fill the frame.
    """

    source: tyro.conf.Positional[str]
    """An image, a folder of images, a glob pattern in quotes, a video file, or a camera number."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A model file or run directory; without it, the newest run in runs/."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go; without it, predictions/<name of the source>. Files of the same name are replaced."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the JSON lines go; without it, predictions.jsonl in the output folder."""
    no_video: bool = False
    """Write the JSON lines alone, no annotated video or pictures."""
    format: Literal["mp4", "avi"] = "mp4"
    """Of the annotated video: MPEG-4, or Motion JPEG, which is larger and clearer."""
    box: Annotated[str | None, tyro.conf.arg(metavar="X1,Y1,X2,Y2")] = None
    """The person's box in pixels, for every frame, or to start following from. Without it, the whole frame."""
    boxes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file with a box for each frame: {"0": [x1, y1, x2, y2], "photo.jpg": [...]} or a list."""
    follow: bool = False
    """Move the box with the pose; back to the starting box (or the whole frame) when the person is lost."""
    sequence: bool = False
    """The pictures of a folder or glob are consecutive frames of one video, so that actions can be recognised."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """What to compute on."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """What the network computes in; auto: bfloat16 where the device has instructions for it, else float32."""
    subsample: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """A clip takes every N-th frame: for actions slower than a clip, or video faster than the training data."""
    pose_block: Annotated[int, tyro.conf.arg(metavar="N")] = -1
    """Take the pose from this prediction block, from 0, or from the end with -1, -2...; earlier ones are faster."""
    action_block: Annotated[int | Literal["none"], tyro.conf.arg(metavar="N|none")] = -1
    """Take the action from this action block; none: poses alone."""
    action_head: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Which of the network's classifiers names the action, if it has several."""
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Pictures computed at once, if not fewer than a clip; a camera without actions is computed frame by frame."""
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after this many frames."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, predict, and return 0. Raises UserError for what the user can mend."""
    config = tyro.cli(PredictConfig, prog="pyhar predict", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    for line in predict(config):
        print(line)
    return 0


def predict(config: PredictConfig) -> list[str]:
    """Carry out a prediction and return its summary by line. Raises UserError, and then removes what is not whole."""
    from tqdm import tqdm

    from pyhar.inference.predictor import Predictor
    from pyhar.inference.tracking import parse_box, read_boxes
    from pyhar.inference.video import open_source

    if config.box is not None and config.boxes is not None:
        raise UserError("--box and --boxes exclude each other: give one of them")
    if config.max_frames is not None and config.max_frames < 1:
        raise UserError(f"--max-frames must be at least 1, not {config.max_frames}")
    boxes = read_boxes(config.boxes) if config.boxes is not None else None
    box = parse_box(config.box) if config.box is not None else None
    source = open_source(config.source)
    pictures = source.fps is None
    model = config.model if config.model is not None else newest_run()
    keep_large_blocks()
    predictor = Predictor(
        model,
        device=config.device,
        dtype=config.dtype,
        pose_block=config.pose_block,
        action_block=None if config.action_block == "none" else config.action_block,
        action_head=config.action_head,
        subsample=config.subsample,
        batch_size=1 if source.live else config.batch,
    )
    clips = predictor.recognises_actions and (config.sequence or not pictures)
    output = config.output if config.output is not None else Path("predictions") / source.name
    json_path = config.json if config.json is not None else output / "predictions.jsonl"
    picture_path = output if pictures else output / f"{source.name}.{config.format}"

    waiting: deque[Frame] = deque()  # frames read and not yet predicted: no more than a clip spans

    def frames() -> Iterator[Frame]:
        for frame in itertools.islice(source, config.max_frames):
            waiting.append(frame)
            yield frame

    count = boxless = 0
    latencies: deque[float] = deque(maxlen=_LATENCIES)
    total = min((n for n in (source.length, config.max_frames) if n is not None), default=None)
    start = time.perf_counter()
    with _stopped_by_interrupt(source), _not_left_empty(output), ExitStack() as files:
        predictions = predictor.predict_frames(
            frames(), box=box if boxes is None else boxes, follow=config.follow, clips=clips
        )
        first = next(predictions, None)  # most of what can be wrong shows here, before a file is made
        if first is None:
            raise UserError(f"stopped before the first frame of {config.source}")
        write = files.enter_context(results(config, model, json_path, picture_path, source, predictor))
        bar = files.enter_context(tqdm(total=total, unit=" frames", disable=None))
        for prediction in itertools.chain([first], predictions):
            frame = waiting.popleft()
            count += 1
            latencies.append(prediction.latency_s)
            boxless += boxes is not None and frame.index not in boxes and (frame.name or "") not in boxes
            write(frame, prediction, count / (time.perf_counter() - start))
            bar.update()
    seconds = time.perf_counter() - start

    one = "picture" if pictures else "frame"
    what = one if count == 1 else f"{one}s"
    alone = config.follow or source.live or count == 1
    group = (
        f"clip of {min(count, predictor.clip_span)} {one}s"
        if clips
        else one
        if alone
        else f"batch of {config.batch} {one}s"
    )
    notes = list(source.notes)
    if boxless:
        notes.append(f"{boxless} of {count} {what} have no box in {config.boxes}: the whole frame was taken")
    if clips and count < predictor.config.clip_frames:
        notes.append(
            f"{count} {what} do not fill a clip of {predictor.config.clip_frames}: some were repeated for the action"
        )
    elif clips and count < predictor.clip_span:
        notes.append(f"{count} {what} are too few for --subsample {config.subsample}: it was lowered for the action")
    if predictor.recognises_actions and not clips and count > 1:
        notes.append("no actions in single pictures; add --sequence if they are consecutive frames of one video")
    return [
        f"{count} {what} in {seconds:.1f} s: {count / seconds:.1f} a second with reading, drawing and writing",
        f"latency of a {group}: {_statistics(latencies)}",
        f"wrote {json_path}" + ("" if config.no_video else f" and {picture_path}"),
        *(f"note: {note}" for note in notes),
    ]


@contextmanager
def results(
    config: PredictConfig, model: Path, json_path: Path, picture_path: Path, source: Source, predictor: Predictor
) -> Iterator[Callable[[Frame, FramePrediction, float], None]]:
    """Give a function that takes a frame, its prediction and the frames/s so far, and writes what is wanted of them.

    The JSON lines and the video appear when the block ends without an error, annotated pictures one by one.
    `picture_path` is the annotated video, or the folder of annotated pictures.
    """
    from pyhar.inference.draw import draw_prediction
    from pyhar.inference.video import VideoWriter, write_picture

    with ExitStack() as files:
        lines = files.enter_context(files.enter_context(atomic(json_path)).open("w", encoding="utf-8"))
        video = None if source.fps is None else files.enter_context(VideoWriter(picture_path, source.fps))
        action: ActionPrediction | None = None

        def write_line(content: dict[str, Any]) -> None:
            lines.write(json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n")

        def write(frame: Frame, prediction: FramePrediction, rate: float) -> None:
            nonlocal action
            if prediction.action is not None and prediction.action is not action:
                action = prediction.action
                write_line(action.to_json())
            write_line(prediction.to_json())
            if config.no_video:
                return
            target = picture_path if video is not None else picture_path / (frame.name or f"{frame.index:06d}.png")
            origin = source.origin(frame)
            if origin is not None and target.exists() and target.samefile(origin):
                raise UserError(f"the result would overwrite {origin}: give another folder with --output")
            drawn = draw_prediction(
                frame.rgb, prediction, predictor.layout, frames_per_second=None if video is None else rate
            )
            if video is not None:
                video.write(drawn)
            else:
                write_picture(target, drawn)

        write_line(
            {
                "type": "header",
                "source": config.source,
                "model": str(model),
                "fps": source.fps,
                "joints": list(predictor.layout.joints),
                "bones": [list(bone) for bone in predictor.layout.bones],
                "root": predictor.layout.root,
                "clip_frames": predictor.config.clip_frames,
                "subsample": predictor.subsample,
            }
        )
        yield write


def newest_run() -> Path:
    """The run directory in runs/ whose model was written last. Raises UserError if there is none."""
    models = sorted(RUNS.glob("*/model.safetensors"), key=lambda file: file.stat().st_mtime)
    if not models:
        raise UserError(
            f"no --model given and no trained one in {RUNS}/: "
            "train one with `python -m pyhar.train`, or give --model PATH"
        )
    return models[-1].parent


def _statistics(seconds: Iterable[float]) -> str:
    import numpy as np

    values = 1000 * np.fromiter(seconds, np.float64)
    median, high = np.percentile(values, (50, 95))
    return f"mean {values.mean():.1f} ms, median {median:.1f} ms, 95 % below {high:.1f} ms, max {values.max():.1f} ms"


@contextmanager
def _stopped_by_interrupt(source: Source) -> Iterator[None]:
    """Let Ctrl-C end a camera's stream, whose results are kept; a second one interrupts."""
    if not source.live or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        source.stop()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _not_left_empty(folder: Path) -> Iterator[None]:
    """If the block raises, remove `folder` if it is empty and was not there before."""
    existed = folder.exists()
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
        raise


if __name__ == "__main__":
    sys.exit(cli.run(main))
