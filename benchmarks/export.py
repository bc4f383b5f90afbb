"""How fast do exported networks answer? ONNX Runtime and AOTInductor beside the network itself, on one clip.

`python -m benchmarks.export` takes untrained networks of the presets, exports each in both formats, compares the
answers with the network's, times those that are right in turns, and writes benchmarks/results/<device>/export.json,
where it replaces the presets that were measured. `--files` keeps the exported files, which take minutes to make, for
the next run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import describe, read_json, results_folder, write_json
from benchmarks.measure import Runnable, Stopwatch, interleave, quantiles
from benchmarks.report import duration, ratio
from pyhar import cli
from pyhar.benchmarking.networks import random_network
from pyhar.deploy import deploy
from pyhar.inference.export import TOLERANCES, LastAnswers, export_network, last_answers
from pyhar.inference.export_formats import FORMATS
from pyhar.memory import keep_large_blocks
from pyhar.models import ModelMeta, SPNet

Call = Callable[[], list[Tensor]]
PLAIN = "network"


def export_all(preset: str, model: SPNet, formats: Sequence[str], folder: Path) -> dict[str, Path]:
    """The preset's files by format, made if they are not there."""
    paths = {format: folder / f"{preset}-{format}{FORMATS[format].suffix}" for format in formats}
    for format, path in paths.items():
        if not path.exists():
            print(f"exporting {path.name}")
            export_network(model, ModelMeta.default(model.config), path, format)
    return paths


def contenders(network: LastAnswers, paths: dict[str, Path], frames: Tensor) -> dict[str, Call]:
    """Functions without arguments that answer to `frames`, (1, T, 3, H, W), by name, the network itself first, as
    prediction runs it."""
    plain = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels_last = frames.movedim(-3, -1).contiguous().movedim(-1, -3)
    calls: dict[str, Call] = {PLAIN: lambda: list(plain(channels_last))}
    assert isinstance(network.model, SPNet)
    deployed = LastAnswers(deploy(network.model), network.names)
    calls["pyhar, deployed"] = lambda: list(deployed(frames))
    if "onnx" in paths:
        calls["ONNX Runtime"] = _onnx_runtime(paths["onnx"], frames)
    if "aoti" in paths:
        package = torch._inductor.aoti_load_package(str(paths["aoti"]))
        calls["AOTInductor"] = lambda: list(package(frames))
    return calls


def _onnx_runtime(path: Path, frames: Tensor) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Between runs its threads would otherwise spin on the cores that the others are timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    array = {"frames": frames.numpy()}
    return lambda: [torch.from_numpy(value) for value in session.run(None, array)]


def measure(preset: str, formats: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Return what is known of each contender: its error and, where that is small enough, quantiles of the milliseconds
    for one clip and of how many times faster than the network it is in the same round."""
    model = random_network(preset)
    config = model.config
    paths = export_all(preset, model, formats, folder)
    network = last_answers(model, -1, -1, stills=False)
    frames = torch.rand(1, config.clip_frames, 3, config.image_size, config.image_size) * 2 - 1
    with torch.inference_mode():
        calls = contenders(network, paths, frames)
        true = calls[PLAIN]()
        errors = {name: max(_error(*pair) for pair in zip(call(), true, strict=True)) for name, call in calls.items()}
        right = {name: Runnable(_timed(call)) for name, call in calls.items() if errors[name] <= TOLERANCES["float32"]}
        samples = interleave(Stopwatch(torch.device("cpu")), right, seconds)
    rows: dict[str, Any] = {}
    for name, error in errors.items():
        rows[name] = {"error": error if math.isfinite(error) else None}
        if name in samples:
            times = [sample.host for sample in samples[name]]
            faster = [plain.host / time for plain, time in zip(samples[PLAIN], times, strict=True)]
            rows[name] |= _named("ms", [1e3 * value for value in quantiles(times)])
            rows[name] |= _named("speedup", list(quantiles(faster)[:3])) | {"samples": len(times)}
    return {"frames": list(frames.shape), "tolerance": TOLERANCES["float32"], "runs": rows}


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).abs().max().nan_to_num(nan=float("inf"))) if found.shape == true.shape else float("inf")


def _timed(call: Call) -> Callable[[Any], object]:
    return lambda _: call()


def _named(unit: str, values: list[float]) -> dict[str, float]:
    names = ("median", "q1", "q3", "min")[: len(values)]
    return {f"{name}_{unit}": float(f"{value:.4g}") for name, value in zip(names, values, strict=True)}


def show(preset: str, result: dict[str, Any]) -> None:
    """Print a preset's table: medians, quartiles in brackets."""
    table = Table(
        title=f"{preset}, frames {tuple(result['frames'])}", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for column in ("", "one clip", "times as fast", "largest difference"):
        table.add_column(column, no_wrap=True)
    for name, row in result["runs"].items():
        cells = ["wrong, not timed", ""]
        if "median_ms" in row:
            time, *quartiles = (duration(1e3 * row[f"{q}_ms"]) for q in ("median", "q1", "q3"))
            faster, *spread = (ratio(row[f"{q}_speedup"]) for q in ("median", "q1", "q3"))
            cells = [f"{time} ({' to '.join(quartiles)})", f"{faster} ({' to '.join(spread)})"]
        table.add_row(name, *cells, "not finite" if row["error"] is None else f"{row['error']:.1e}")
    Console(highlight=False, width=None if Console().is_terminal else 120).print(table)


def main(argv: list[str] | None = None) -> int:
    """Export, compare, measure, print and write; 1 if an exported network answers otherwise than it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=["small", "penn-release"], help="default: small penn-release")
    parser.add_argument("--format", nargs="+", choices=["onnx", "aoti"], default=["onnx", "aoti"], help="default: both")
    parser.add_argument("--files", type=Path, help="folder that keeps the exported files (default: a temporary one)")
    parser.add_argument("--prepare", action="store_true", help="only export to --files, measure nothing")
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on each preset (default: 30)")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: benchmarks/results/<device>)")
    options = parser.parse_args(argv)
    if options.prepare and options.files is None:
        parser.error("--prepare needs --files")
    if options.files is not None:
        options.files.mkdir(parents=True, exist_ok=True)
    keep_large_blocks()
    device = torch.device("cpu")
    path = (options.out or results_folder(device)) / "export.json"
    wrong = False
    with tempfile.TemporaryDirectory() if options.files is None else nullcontext(options.files) as folder:
        for preset in options.preset:
            if options.prepare:
                export_all(preset, random_network(preset), options.format, Path(folder))
                continue
            result = measure(preset, options.format, Path(folder), options.seconds)
            show(preset, result)
            wrong = wrong or any("median_ms" not in row for row in result["runs"].values())
            about = describe(device)
            about["versions"]["onnxruntime"] = importlib.metadata.version("onnxruntime")
            write_json(path, read_json(path) | {preset: about | result})
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
