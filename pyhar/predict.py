"""`python -m pyhar.predict SOURCE`: poses and actions in pictures, videos and camera streams."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pyhar import cli
from pyhar.errors import UserError
from pyhar.memory import keep_large_blocks

if TYPE_CHECKING:
    from pyhar.inference.pipeline import Ahead
    from pyhar.inference.predictions import FramePrediction
    from pyhar.inference.predictor import Predictor
    from pyhar.inference.tracking import Boxes
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

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """An image, a folder of images, a glob pattern in quotes, a video file, or a camera number (or /dev/videoN)."""
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
    stream: bool = False
    """Answer each frame when it comes, with the action of the clip that it ends; cameras always are."""
    action_every: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Of a stream: compute the action with every N-th frame."""
    sequence: bool = False
    """The pictures of a folder or glob are consecutive frames of one video, so that actions can be recognised."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """What to compute on."""
    dtype: Literal["float32", "bfloat16", "float16", "int8", "auto"] = "float32"
    """What the network computes in; int8: its products, on CPUs that have them; auto: bfloat16 where the device has
    instructions for it, else float32."""
    subsample: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """A clip takes every N-th frame: for actions slower than a clip, or video faster than the training data."""
    pose_block: Annotated[int, tyro.conf.arg(metavar="N")] = -1
    """Take the pose from this prediction block, from 0, or from the end with -1, -2...; earlier ones are faster."""
    action_block: Annotated[int | Literal["none"], tyro.conf.arg(metavar="N|none")] = -1
    """Take the action from this action block; none: poses alone."""
    action_head: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Which of the network's classifiers names the action, if it has several."""
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Pictures computed at once, if not fewer than a clip; a stream is computed frame by frame."""
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after this many frames."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, predict, and return 0. Raises UserError for what the user can mend."""
    config = tyro.cli(PredictConfig, prog="pyhar predict", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    summary = predict(config)
    for line in summary.lines:
        print(line)
    return 128 + summary.cut_short if summary.cut_short else 0  # as a shell would say


class Tally:
    """What is counted of the frames between the source and the writing."""

    def __init__(self, boxes: Boxes | None) -> None:
        self.count = 0
        """Frames answered."""
        self.without_box = 0
        """Of them, those for which `boxes` has none."""
        self.latencies: deque[float] = deque(maxlen=_LATENCIES)
        """Seconds that computing them took."""
        self.ages: deque[float] = deque(maxlen=_LATENCIES)
        """Seconds from their arrival to their answer."""
        self._boxes = boxes
        self._waiting: deque[tuple[Frame, float]] = deque()  # taken and not yet answered: few, in order
        self._start = time.perf_counter()

    def taken(self, frames: Iterable[tuple[Frame, float]]) -> Iterator[Frame]:
        """Frames out of frames with the time of their arrival, noted when they are taken."""
        for item in frames:
            self._waiting.append(item)
            yield item[0]
            del item

    def answered(self, prediction: FramePrediction) -> Frame:
        """The frame that is answered, the next of those taken."""
        frame, arrival = self._waiting.popleft()
        self.count += 1
        self.latencies.append(prediction.latency_s)
        self.ages.append(time.perf_counter() - arrival)
        boxes = self._boxes
        self.without_box += boxes is not None and frame.index not in boxes and (frame.name or "") not in boxes
        return frame

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._start


@dataclass(frozen=True)
class Summary:
    """What was done."""

    lines: list[str]
    """In words."""
    cut_short: int
    """The number of the signal that ended a source that ends by itself, or 0."""
    tally: Tally
    dropped: int
    """Frames of a live source that newer ones replaced."""


def predict(config: PredictConfig, source: Source | None = None) -> Summary:
    """Carry out a prediction. source: what to read if not what `config` names. Raises UserError, and then removes what
    is not whole.

    Reading, cropping, the network, drawing and encoding run side by side. A first interrupt (Ctrl-C, SIGTERM) ends the
    reading, and what was read until then is predicted and written; a second one gives up.
    """
    from tqdm import tqdm

    from pyhar.inference.pipeline import Ahead
    from pyhar.inference.results import results
    from pyhar.inference.tracking import parse_box, read_boxes
    from pyhar.inference.video import open_source

    if config.box is not None and config.boxes is not None:
        raise UserError("--box and --boxes exclude each other: give one of them")
    if config.action_every < 1:
        raise UserError(f"--action-every must be at least 1, not {config.action_every}")
    if config.max_frames is not None and config.max_frames < 1:
        raise UserError(f"--max-frames must be at least 1, not {config.max_frames}")
    boxes = read_boxes(config.boxes) if config.boxes is not None else None
    box = parse_box(config.box) if config.box is not None else None
    if source is None:
        source = open_source(config.source)
    pictures = source.fps is None
    if config.stream and pictures and not config.sequence:
        raise UserError("--stream is for consecutive frames: add --sequence if these pictures are")
    if config.action_every > 1 and not config.stream and not source.live:
        raise UserError("--action-every is for streams: add --stream")
    model = config.model if config.model is not None else newest_run()
    keep_large_blocks()
    predictor = make_predictor(config, model, stream=config.stream or source.live)
    output = config.output if config.output is not None else Path("predictions") / source.name
    json_path = config.json if config.json is not None else output / "predictions.jsonl"
    picture_path = output if pictures else output / f"{source.name}.{config.format}"
    header = {
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
    total = min((n for n in (source.length, config.max_frames) if n is not None), default=None)

    tally = Tally(boxes)
    arriving = ((frame, time.perf_counter()) for frame in source)
    newest = Ahead(arriving, newest=True) if source.live else None
    with _not_left_empty(output), ExitStack() as stages:
        interrupted = stages.enter_context(_stopped_by_interrupt(source, newest))
        frames = arriving if newest is None else iter(stages.enter_context(newest))
        predictions = predictor.predict_frames(
            tally.taken(itertools.islice(frames, config.max_frames)),
            box=box if boxes is None else boxes,
            follow=config.follow,
            clips=config.sequence or not pictures,
            ahead=0 if source.live else 1,
        )
        stages.enter_context(closing(predictions))
        first = next(predictions, None)  # most of what can be wrong shows here, before a file is made
        if first is None:
            raise UserError(f"stopped before the first frame of {config.source}")
        write = stages.enter_context(
            results(json_path, None if config.no_video else picture_path, source, predictor.layout, header)
        )
        bar = stages.enter_context(tqdm(total=total, unit=" frames", disable=None))
        for prediction in itertools.chain([first], predictions):
            frame = tally.answered(prediction)
            write(frame, prediction, tally.count / tally.seconds)
            bar.update()
            del frame, prediction
    summary = summarise(config, source, predictor, tally)
    summary.append(f"wrote {json_path}" + ("" if config.no_video else f" and {picture_path}"))
    dropped = newest.dropped if newest is not None else 0
    notes = notes_on(config, source, predictor, tally, dropped)
    if interrupted:
        notes.insert(0, f"interrupted after {tally.count} frames; they are written")
    lines = summary + [f"note: {note}" for note in notes]
    return Summary(lines, 0 if source.live or not interrupted else interrupted[0], tally, dropped)


def make_predictor(config: PredictConfig, model: Path, *, stream: bool) -> Predictor:
    """The predictor that the options ask for. Raises UserError as it does."""
    from pyhar.inference.predictor import Predictor
    from pyhar.inference.streaming import StreamingPredictor

    kind = partial(StreamingPredictor, action_every=config.action_every) if stream else Predictor
    return kind(
        model,
        device=config.device,
        dtype=config.dtype,
        pose_block=config.pose_block,
        action_block=None if config.action_block == "none" else config.action_block,
        action_head=config.action_head,
        subsample=config.subsample,
        batch_size=config.batch,
    )


def summarise(config: PredictConfig, source: Source, predictor: Predictor, tally: Tally) -> list[str]:
    """Speed and latency, in lines."""
    from pyhar.inference.streaming import StreamingPredictor

    one = "picture" if source.fps is None else "frame"
    count, seconds = tally.count, tally.seconds
    clips = predictor.recognises_actions and (config.sequence or source.fps is not None)
    if isinstance(predictor, StreamingPredictor) or (not clips and (config.follow or count == 1)):
        group = one
    elif clips:
        group = f"clip of {min(count, predictor.clip_span)} {one}s"
    else:
        group = f"batch of {config.batch} {one}s"
    lines = [
        f"{count} {one if count == 1 else f'{one}s'} in {seconds:.1f} s: {count / seconds:.1f} a second "
        "with reading, drawing and writing",
        f"latency of a {group}: {_statistics(tally.latencies)}",
    ]
    if source.live:
        lines.append(f"from a frame's arrival to its answer: {_statistics(tally.ages)}")
    return lines


def notes_on(config: PredictConfig, source: Source, predictor: Predictor, tally: Tally, dropped: int) -> list[str]:
    """What the user should know beside, in sentences."""
    from pyhar.inference.streaming import StreamingPredictor

    one = "picture" if source.fps is None else "frame"
    count = tally.count
    what = one if count == 1 else f"{one}s"
    clips = config.sequence or source.fps is not None
    notes = list(source.notes)
    if dropped:
        notes.append(
            f"{dropped} of {count + dropped} frames came while another was computed and a newer one was taken: "
            f"{dropped / (count + dropped):.0%} dropped"
        )
    if tally.without_box:
        notes.append(f"{tally.without_box} of {count} {what} have no box in {config.boxes}: the whole frame was taken")
    if not predictor.recognises_actions:
        return notes
    length = predictor.config.clip_frames
    if not clips:
        if count > 1:
            notes.append("no actions in single pictures; add --sequence if they are consecutive frames of one video")
    elif isinstance(predictor, StreamingPredictor):
        if count < predictor.clip_span:
            notes.append(f"{count} {what} are fewer than the {predictor.clip_span} that the first action takes")
    elif count < length:
        notes.append(f"{count} {what} do not fill a clip of {length}: some were repeated for the action")
    elif count < predictor.clip_span:
        notes.append(f"{count} {what} are too few for --subsample {config.subsample}: it was lowered for the action")
    return notes


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
def _stopped_by_interrupt(source: Source, newest: Ahead[Any] | None) -> Iterator[list[int]]:
    """Let Ctrl-C or SIGTERM end the source, and give its number once it has come; a second one interrupts."""
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        source.stop()
        if newest is not None:  # a camera that hangs does not notice
            newest.stop()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        restore()


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
