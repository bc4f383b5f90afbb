"""How many frames a second does `pyhar predict --stream` answer on a real video? `python -m benchmarks.live VIDEO`.

The video, decoding included, is played over and over for some seconds: read as fast as frames are answered; and, as
from a camera, at its own pace, where the newest frame wins and the others are dropped; each without and with the drawn
video written. `latency_ms` is what computing a frame takes, `arrival_ms` the time from its arrival to its answer. The
first frame's are among them, for which the network's weights are brought into the kernels' order. Models are files,
runs, or presets' names for random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks.machine import describe, results_folder, write_json
from pyhar import cli
from pyhar.devices import choose_device
from pyhar.inference.video import Frame, VideoSource
from pyhar.models import PRESETS, ModelMeta, SPNet, get_preset, save_model
from pyhar.predict import PredictConfig, Summary, predict

Dtype = Literal["float32", "bfloat16", "float16"]
WAYS = {"file": (False, False), "file, drawn": (False, True), "camera": (True, False), "camera, drawn": (True, True)}
"""Whether frames keep coming, and whether the annotated video is written."""


class Played:
    """A video file as a source that ends after some seconds, from its beginning again where it ends before."""

    def __init__(self, path: Path, seconds: float, *, live: bool) -> None:
        """live: frames come at the video's pace, not when they are asked for. Raises UserError as `VideoSource`."""
        self.path, self.seconds, self.live = path, seconds, live
        video = VideoSource(path)
        self.name, self.fps, self.notes = video.name, video.fps, video.notes
        self.length: int | None = None
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        start, count = time.monotonic(), 0
        while True:
            for frame in VideoSource(self.path):
                due = count / self.fps
                if self.live:
                    time.sleep(max(0.0, start + due - time.monotonic()))
                if self._stopped or time.monotonic() - start > self.seconds:
                    return
                yield Frame(frame.rgb, count, due)
                count += 1

    def origin(self, frame: Frame) -> Path:
        """The file that holds the frame."""
        return self.path

    def stop(self) -> None:
        """End the iteration before the next frame."""
        self._stopped = True


def measure(video: Path, model: Path, dtype: Dtype, box: str | None, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each way to play the video."""
    rows = []
    for way, (live, drawn) in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = PredictConfig(
                str(video), model, output=Path(folder), no_video=not drawn, box=box, stream=True, dtype=dtype
            )
            summary = predict(config, Played(video, seconds, live=live))
        rows.append({"model": model.stem, "dtype": dtype, "way": way} | figures(summary, live=live))
    return rows


def figures(summary: Summary, *, live: bool) -> dict[str, Any]:
    """Return what was counted and timed of a prediction."""
    tally = summary.tally
    row = {
        "frames": tally.count,
        "frames_per_second": round(tally.count / tally.seconds, 2),
        "latency_ms": _milliseconds(tally.latencies),
    }
    return row | ({"arrival_ms": _milliseconds(tally.ages), "dropped": summary.dropped} if live else {})


def _milliseconds(seconds: Iterable[float]) -> dict[str, float]:
    values = 1e3 * np.fromiter(seconds, np.float64)
    found = {"mean": values.mean(), "median": np.median(values), "p95": np.percentile(values, 95), "max": values.max()}
    return {name: round(float(value), 2) for name, value in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Read the command line, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="a video file")
    parser.add_argument("--origin", default="", help="where the video is from, for the record")
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="the person's box in pixels (the whole frame)")
    parser.add_argument("--models", nargs="+", default=["small", "penn-release"], help="networks (%(default)s)")
    parser.add_argument(
        "--dtypes", nargs="+", choices=get_args(Dtype), default=["float32", "bfloat16"], help="types (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="for each way, network and type (%(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON file; without it, live.json in the device's folder")
    options = parser.parse_args(argv)
    device = choose_device("auto")
    video = VideoSource(options.video)
    about = {"name": options.video.name, "origin": options.origin, "box": options.box, "fps": round(video.fps, 3)}
    pictures = [frame.rgb.shape for frame in video]
    about |= {"width": pictures[0][1], "height": pictures[0][0], "frames": len(pictures)}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = Path(name)
            if name in PRESETS:
                model = Path(folder) / f"{name}.safetensors"
                torch.manual_seed(0)
                network = SPNet(get_preset(name))
                save_model(model, network, ModelMeta.default(network.config))
            for dtype in options.dtypes:
                cases += measure(options.video, model, dtype, options.box, options.seconds)
    for case in cases:
        times = case.get("arrival_ms", case["latency_ms"])
        dropped = f", {case['dropped']} dropped" if "dropped" in case else ""
        print(
            f"{case['model']:<14} {case['dtype']:<9} {case['way']:<14} {case['frames_per_second']:6.1f} frames/s, "
            f"{'arrival' if dropped else 'crop'} to answer {times['median']:.1f} ms, 95 % below {times['p95']:.1f} ms, "
            f"max {times['max']:.1f} ms{dropped}"
        )
    path = options.out or results_folder(device) / "live.json"
    write_json(path, describe(device) | {"video": about, "cases": cases})
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
