"""What does an action for every frame cost beside the poses? `python -m benchmarks.streaming`.

A new frame of a stream, 640 x 480, from picture to answer, cropping included, by networks with random weights: its pose
alone; pose and action with every frame, and with every second; and, in place of streaming, the clip that the frame
ends computed anew. All take turns. `over_pose` is the median, over the rounds, of the time over that of the pose alone
in the same round, with quartiles. The answers are compared with the clips' before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe, results_folder, write_json
from benchmarks.measure import Runnable, Stopwatch, interleave, quantiles
from pyhar import cli
from pyhar.devices import choose_device, exact_float32
from pyhar.inference.predictions import FramePrediction
from pyhar.inference.predictor import Predictor
from pyhar.inference.streaming import StreamingPredictor
from pyhar.memory import keep_large_blocks
from pyhar.models import SPNet, get_preset

POSE = "pose alone"
TOLERANCE = 1e-4  # of probabilities and of coordinates relative to the picture's width


def main(argv: list[str] | None = None) -> int:
    """Read the command line, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small", "penn-release"], help="networks (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network (%(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON file; without it, streaming.json in the device's folder")
    options = parser.parse_args(argv)
    device = choose_device(options.device)
    keep_large_blocks()
    path = options.out or results_folder(device) / "streaming.json"
    cases = [case for preset in options.presets for case in measure(preset, device, options.seconds)]
    write_json(path, describe(device) | {"cases": cases})
    for case in cases:
        low, high = case["over_pose_quartiles"]
        print(
            f"{case['preset']:<14} {case['what']:<28} {case['median_ms']:8.2f} ms a frame, "
            f"{case['over_pose']:.3f} of the pose alone ({low:.3f} to {high:.3f}, {case['samples']} samples)"
        )
    print(f"wrote {path}")
    return 0


@exact_float32()  # a graph of one frame and a graph of a clip have to give the same answer
def measure(preset: str, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each way to answer a frame."""
    torch.manual_seed(0)
    model, config = SPNet(get_preset(preset)), get_preset(preset)
    frames = list(np.random.default_rng(0).integers(0, 255, (config.clip_frames, 480, 640, 3), dtype=np.uint8))
    pose = StreamingPredictor(model, device=str(device), action_block=None)
    clips = Predictor(model, device=str(device))
    streams = {every: StreamingPredictor(model, device=str(device), action_every=every) for every in (1, 2)}
    for stream in streams.values():
        _compare(list(stream.predict_frames(frames))[-1], list(clips.predict_frames(frames))[-1])

    def stream_frames(stream: StreamingPredictor, count: int) -> Callable[[Any], None]:
        def call(_: Any) -> None:
            for frame in frames[:count]:
                stream.predict_frame(frame)

        return call

    ways = {
        POSE: (Runnable(stream_frames(pose, 1)), 1),
        "action with every frame": (Runnable(stream_frames(streams[1], 1)), 1),
        "action with every 2nd frame": (Runnable(stream_frames(streams[2], 2)), 2),
        "the clip anew": (Runnable(lambda _: list(clips.predict_frames(frames))), 1),
    }
    samples = interleave(Stopwatch(device, program_only=True), {what: run for what, (run, _) in ways.items()}, seconds)
    times = {what: [sample.host / count for sample in samples[what]] for what, (_, count) in ways.items()}
    rows = []
    for what, taken in times.items():
        median, q1, q3, least = quantiles(taken)
        ratio, low, high, _ = quantiles([a / b for a, b in zip(taken, times[POSE], strict=True)])
        rows.append(
            {
                "preset": preset,
                "what": what,
                "median_ms": round(1e3 * median, 3),
                "quartiles_ms": [round(1e3 * q1, 3), round(1e3 * q3, 3)],
                "least_ms": round(1e3 * least, 3),
                "over_pose": round(ratio, 4),
                "over_pose_quartiles": [round(low, 4), round(high, 4)],
                "samples": len(taken),
            }
        )
    return rows


def _compare(found: FramePrediction, expected: FramePrediction) -> None:
    """Raise RuntimeError unless a stream and a clip give the same answer."""
    assert found.action is not None
    assert expected.action is not None
    pairs: list[tuple[Any, Any]] = [(found.pose_px / 640, expected.pose_px / 640)]
    for head, other in zip(found.action.probabilities, expected.action.probabilities, strict=True):
        pairs.append((list(head.values()), list(other.values())))
    for values, others in pairs:
        error = float(np.abs(np.subtract(values, others)).max())
        if not error <= TOLERANCE:
            raise RuntimeError(f"a stream and a clip differ by {error:g}: nothing is timed")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
