"""How fast samples come from disk, against what the decoders alone give: `python -m benchmarks.loading [--json FILE]`.

It makes pictures and videos of rendered noise in a temporary folder, decodes them with the libraries alone, then loads
them as training does, through a DataLoader with worker processes. Before timing it checks that crops show what was
written. Decoders and loader take turns, since a machine's speed wanders. What `model_input` does where the network runs
is no part of it: the powers of colours, normalisation, layout. A second part makes an index as large as NTU's and
measures the time to the first batch and what a worker adds to memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

import pyhar
from pyhar.data.batches import collate
from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.indexed import IndexedClips, IndexedPoses
from pyhar.data.layouts import PA16
from pyhar.files import write_text
from pyhar.info import cpu_name
from pyhar.memory import keep_large_blocks
from pyhar.training.sampling import _start_worker

CROP = 256
PICTURES, VIDEOS, FRAMES = 32, 4, 96
PARTS = ("pictures", "videos", "index")


def noise(width: int, height: int, seed: int) -> np.ndarray:
    """A picture with detail at all scales, about as hard to code as a photograph."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), 128.0, np.float32)
    for step in (4, 8, 16, 64):
        rough = rng.normal(0, 2 * step**0.5, (height // step + 2, width // step + 2, 3)).astype(np.float32)
        out += cv2.resize(rough, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(out, 0, 255).astype(np.uint8)


def write_video(path: Path, width: int, height: int, codec: str, seed: int) -> None:
    """The view of a camera that moves over a still picture."""
    wide = noise(width + 128, height + 64, seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size = 8_000_000, 12
        for number in range(FRAMES):
            shift = number % 64
            rgb = np.ascontiguousarray(wide[shift // 2 : shift // 2 + height, shift : shift + width])
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def index_of(media: list[str], kind: str, frames: int, box: tuple[float, ...]) -> Index:
    """An index of media with one box in all frames."""
    builder = IndexBuilder("benchmark", PA16, ("act",))
    for name in media:
        builder.add(name=name, media=name, kind=kind, split="train", frames=frames, box=box, action=0)
    return builder.build()


def loader_of(data: Any, batch: int, workers: int, count: int) -> DataLoader[Any]:
    """As training loads: `count` samples, over and over through the data set."""
    sampler = [(place % len(data), place) for place in range(count)]
    return DataLoader(
        data,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4,
    )


@dataclass
class Speed:
    """Of all processes together."""

    rate: float
    """Frames per second."""
    cpu: float
    """Milliseconds of processor per frame, whoever else uses the machine."""


def loader_speed(data: Any, batch: int, workers: int, count: int, frames: int) -> Speed:
    """The rate behind the first batch of every worker, which takes their start; processor time of workers and main
    process, the start included."""
    before, own = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
    batches = iter(loader_of(data, batch, workers, count))
    # The workers are done with their first batches at about the same time: none of them may count.
    for _ in range(workers):
        next(batches)
    start, loaded = time.perf_counter(), 0
    for samples in batches:
        loaded += samples["frames"].shape[0]
    seconds = time.perf_counter() - start
    del batches
    gc.collect()  # ends the workers, whose time counts only then
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + time.process_time() - own
    return Speed(loaded * frames / seconds, 1e3 * used / (count * frames))


def in_processes(work: Callable[[], int], processes: int) -> Speed:
    """The speed of `work`, which returns how many frames it decoded, in several processes at once."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(processes), context.Queue()

    def body() -> None:
        cv2.setNumThreads(0)
        os.nice(10)
        work()
        gate.wait()
        start, used = time.perf_counter(), time.process_time()
        frames = work()
        results.put((frames, time.perf_counter() - start, time.process_time() - used))

    children = [context.Process(target=body) for _ in range(processes)]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    frames = sum(count for count, _, _ in found)
    return Speed(sum(count / wall for count, wall, _ in found), 1e3 * sum(used for _, _, used in found) / frames)


def decode_pictures(files: list[Path], flags: int) -> int:
    for file in files:
        assert cv2.imread(str(file), flags) is not None
    return len(files)


def decode_videos(files: list[Path], rgb: bool) -> int:
    count = 0
    for file in files:
        with av.open(str(file)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                if rgb:
                    frame.to_ndarray(format="rgb24")
                count += 1
    return count


def compare(contestants: dict[str, Callable[[], Speed]], repeats: int) -> dict[str, dict[str, float]]:
    """Quantiles of the speed of contestants that take turns, and of their share of the first one's in the same turn."""
    speeds: dict[str, list[Speed]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            speeds[name].append(run())
    found = {}
    for name, of in speeds.items():
        rates = np.quantile([speed.rate for speed in of], (0.1, 0.5, 0.9)).round(1).tolist()
        found[name] = dict(zip(("frames/s q10", "frames/s median", "frames/s q90"), rates, strict=True))
        shares = [one.rate / first.rate for one, first in zip(of, next(iter(speeds.values())), strict=True)]
        found[name]["of the first"] = round(float(np.median(shares)), 2)
        found[name]["processor ms/frame"] = round(float(np.median([speed.cpu for speed in of])), 2)
    return found


def pictures(folder: Path, workers: int, repeats: int) -> dict[str, Any]:
    """JPEG of 1280 x 720: a crop of 1.5 and of 2.5 times its pixels."""
    files = []
    for number in range(PICTURES):
        rgb = noise(1280, 720, number)
        files.append(folder / f"{number:03d}.jpg")
        cv2.imwrite(str(files[-1]), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    names = [file.name for file in files]
    found: dict[str, Any] = {"bytes": int(np.mean([file.stat().st_size for file in files]))}
    for label, side, flags in (("full", 384, cv2.IMREAD_COLOR), ("half", 640, cv2.IMREAD_REDUCED_COLOR_2)):
        box = (640 - side / 2 - 0.5, 360 - side / 2 - 0.5, 640 + side / 2 - 0.5, 360 + side / 2 - 0.5)
        index = index_of(names, "picture", 1, box)
        exact = IndexedPoses(index, folder, "train", CROP, augment=False)[3]["frames"].numpy()
        picture = cv2.imread(str(files[3]))
        assert picture is not None
        rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        part = rgb[360 - side // 2 : 360 + side // 2, 640 - side // 2 : 640 + side // 2]
        expected = cv2.resize(part, (CROP, CROP), interpolation=cv2.INTER_AREA)
        error = float(np.abs(exact.astype(float) - expected).mean())
        assert error < 4, f"crops differ from OpenCV's area filter by {error:.1f} levels"
        data = IndexedPoses(index, folder, "train", CROP, augment="paper")
        plain = IndexedPoses(index, folder, "train", CROP, augment=False)
        found[f"{label} size"] = {"crop shows": f"{side} x {side}", "mean difference from INTER_AREA": round(error, 2)}
        found[f"{label} size"] |= compare(
            {
                "imread": partial(in_processes, partial(decode_pictures, files * 16, flags), workers),
                "loader": partial(loader_speed, plain, 16, workers, 960, 1),
                "loader, augmented": partial(loader_speed, data, 16, workers, 960, 1),
            },
            repeats,
        )
    return found


def videos(folder: Path, workers: int, repeats: int) -> dict[str, Any]:
    """Clips of all frames of a span, so that every frame decoded is a frame delivered."""
    found = {}
    for label, codec, suffix, width, height in (
        ("640 x 480, H.264", "libx264", "mp4", 640, 480),
        ("1920 x 1080, MPEG-4 in AVI", "mpeg4", "avi", 1920, 1080),
    ):
        files = [folder / f"{codec}{number}.{suffix}" for number in range(VIDEOS)]
        for number, file in enumerate(files):
            write_video(file, width, height, codec, number)
        side = 0.6 * height
        box = (width / 2 - side / 2, height / 2 - side / 2, width / 2 + side / 2, height / 2 + side / 2)
        index = index_of([file.name for file in files], "video", FRAMES, box)
        data = IndexedClips(index, folder, "train", CROP, FRAMES, augment=False, subsample=1)
        apart = IndexedClips(index, folder, "train", CROP, 8, augment="paper")
        frames = data[0]["frames"].numpy().astype(int)
        assert np.abs(np.diff(frames[:40], axis=0)).mean((1, 2, 3)).min() > 0.5, "frames repeat"
        found[label] = compare(
            {
                "decode": partial(in_processes, partial(decode_videos, files, False), workers),
                "decode to RGB": partial(in_processes, partial(decode_videos, files, True), workers),
                "loader, whole videos": partial(loader_speed, data, 1, workers, 10 * workers, FRAMES),
                "loader, clips of 8 frames, 3 to 10 apart": partial(loader_speed, apart, 2, workers, 24, 8),
            },
            repeats,
        )
    return found


BIG = """
import json, os, resource, sys, time
start = time.perf_counter()
import torch
from pathlib import Path
from torch.utils.data import DataLoader
from pyhar.data.batches import collate
from pyhar.data.index import Index
from pyhar.data.indexed import IndexedClips
imported = time.perf_counter()
def private():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith(("Private_Clean", "Private_Dirty")):
            yield int(line.split()[1]) / 1024
class Watched(IndexedClips):
    def __getitems__(self, keys):
        samples = super().__getitems__(keys)
        for sample in samples:
            sample["memory"] = torch.tensor(sum(private()))
        return samples
data = Watched(Index.load(sys.argv[1]), sys.argv[2], "train", 256, 8)
loaded = time.perf_counter()
order = [(int(i), 0) for i in torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:64]]
loader = DataLoader(
    data, 4, sampler=order, num_workers=int(sys.argv[3]), collate_fn=collate, multiprocessing_context=sys.argv[4]
)
batches = iter(loader)
batch = next(batches)
first = time.perf_counter()
for batch in batches:
    pass
memory = batch["memory"].max().item()
print(json.dumps({"import": imported - start, "load index": loaded - imported, "first batch": first - loaded,
    "private memory of a worker, MiB": memory, "private memory of the main process, MiB": sum(private())}))
"""


def large_index(folder: Path, workers: int, clips: int) -> dict[str, Any]:
    """Time to the first batch and memory with an index of many clips of 100 frames of one small video."""
    write_video(folder / "small.avi", 320, 240, "mpeg4", 0)
    frames, rng = 96, np.random.default_rng(0)
    builder = IndexBuilder("benchmark", PA16, tuple(f"act {number}" for number in range(60)))
    px = rng.uniform(60, 180, (frames, 16, 2)).astype(np.float32)
    mm = rng.uniform(1000, 3000, (frames, 16, 3)).astype(np.float32)
    start = time.perf_counter()
    for number in range(clips):
        builder.add(
            name=f"S{number:06d}",
            media="small.avi",
            kind="video",
            split="train",
            joints_px=px,
            joints_mm=mm,
            action=number % 60,
        )
    index = builder.build()
    built = time.perf_counter()
    index.save(folder / "index")
    saved = time.perf_counter()
    del index, builder
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*.npy"))
    found: dict[str, Any] = {
        "clips": clips,
        "frames of each": frames,
        "MiB on disk": round(size / 2**20),
        "seconds to build": round(built - start, 1),
        "seconds to save": round(saved - built, 1),
    }
    for method in ("fork", "spawn"):
        script = folder / "big.py"
        script.write_text(f"if __name__ == '__main__':\n{''.join(f'    {line}' for line in BIG.splitlines(True))}")
        if method == "spawn":
            # A class of the main script cannot be found by a spawned worker: define it outside.
            body = BIG.replace("\ndata = Watched", "\nif __name__ == '__main__':\n    data = Watched", 1)
            head, _, tail = body.partition("    data = Watched")
            script.write_text(head + "".join(f"    {line}" for line in ("data = Watched" + tail).splitlines(True)))
        told = subprocess.run(
            [sys.executable, str(script), str(folder / "index"), str(folder), str(workers), method],
            capture_output=True,
            text=True,
            check=True,
        )
        found[method] = {name: round(value, 2) for name, value in json.loads(told.stdout.splitlines()[-1]).items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there, e.g. results/<device>/loading.json"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="of what (default: all); the file keeps the others'"
    )
    parser.add_argument("--clips", type=int, default=56_000, help="of the large index (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_large_blocks()  # As training does, and here for the decoders too.
    found: dict[str, Any] = {
        "device": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 1),
        "versions": {
            "pyhar": pyhar.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "av": av.__version__,
        },
        "workers": options.workers,
    }
    if options.json and options.json.is_file():
        found = {**json.loads(options.json.read_text(encoding="utf-8")), **found}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "pictures" in options.parts:
            found["JPEG, 1280 x 720"] = pictures(folder, options.workers, options.repeats)
        if "videos" in options.parts:
            found["videos"] = videos(folder, options.workers, options.repeats)
        if "index" in options.parts:
            found["large index"] = large_index(folder, options.workers, options.clips)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        write_text(options.json, text + "\n")


if __name__ == "__main__":
    main()
