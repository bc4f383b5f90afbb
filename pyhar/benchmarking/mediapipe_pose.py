"""MediaPipe's pose, as a peer, in an interpreter of its own: its dependencies do not go with pyhar's.

The other half of this file is run by that interpreter and imports nothing of pyhar.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

_VIDEOS = 4


def measure(interpreter: Path, image_size: int, threads: int, seconds: float) -> dict[str, Any]:
    """Frames per second of MediaPipe's full pose model (version, median and 95th percentile in milliseconds, share of
    frames with a person found) on rendered videos, frame after frame, so that it may follow the person.

    Where it finds nobody it does not look for joints: its speed means little then. Raises UserError as `check` does.
    """
    from pyhar.data import registry

    data: Any = registry.build(
        "synthetic", "test", "clips", image_size=image_size, augment=False, layout="pa17", clip_frames=8
    )
    frames = np.stack([data[index]["frames"].numpy() for index in range(_VIDEOS)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frames.npy")
        np.save(path, frames)
        printed = _run(interpreter, __file__, str(path), str(threads), str(seconds))
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def check(interpreter: Path) -> None:
    """What to ask before long work: raises UserError if the interpreter or MediaPipe in it is missing."""
    _run(interpreter, "-c", "import mediapipe; mediapipe.solutions.pose")


def _run(interpreter: Path, *words: str) -> str:
    from pyhar.errors import UserError

    try:
        return subprocess.run([str(interpreter), *words], capture_output=True, text=True, check=True).stdout
    except OSError as error:
        raise UserError(f"--mediapipe {interpreter}: {error.strerror}; give a Python interpreter") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(
            f"--mediapipe {interpreter}: {last[0]}; install it there with `pip install mediapipe==0.10.14`"
        ) from error


def _main(path: str, threads: int, seconds: float) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import mediapipe  # type: ignore[import-not-found]

    videos = np.load(path)
    times: list[float] = []
    seen = 0
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        for video in videos:
            with mediapipe.solutions.pose.Pose(model_complexity=1) as pose:
                for number, frame in enumerate(video):
                    start = time.perf_counter()
                    result = pose.process(frame)
                    if number:  # the first frame builds the graph
                        times.append(time.perf_counter() - start)
                        seen += result.pose_landmarks is not None
    milliseconds = 1e3 * np.array(times)
    print(
        json.dumps(
            {
                "version": mediapipe.__version__,
                "frames_per_second": 1e3 / float(np.median(milliseconds)),
                "median_ms": float(np.median(milliseconds)),
                "p95_ms": float(np.percentile(milliseconds, 95)),
                "samples": len(times),
                "person_found": seen / len(times),
            }
        )
    )


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
