"""How fast are the network's convolution units, and do other tiles make Triton's kernels faster?

`python -m benchmarks.units --preset ntu` measures the units of a network at its own shapes, against plain PyTorch
(cuDNN on channels_last maps) and `torch.compile` of it, and writes benchmarks/results/<device>/units.json. With
`--tiles`, also Triton's kernels with each of a few other tiles. Where values are wrong, no time is reported.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from benchmarks.accuracy import relative_error
from benchmarks.machine import describe, read_json, results_folder, write_json
from pyhar import cli, ops
from pyhar.devices import exact_float32
from pyhar.errors import UserError
from pyhar.models import SPNetConfig, get_preset
from pyhar.ops import dispatch

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Relative to the largest magnitude; plain PyTorch rounds more often and may lose twice as much.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
PRODUCT_TILES = ((128, 128, 32, 8, 4), (128, 64, 64, 4, 3), (64, 64, 64, 4, 4), (64, 128, 32, 4, 3), (32, 64, 64, 4, 3))
SEPARABLE_TILES = ((16, 64, 1, 32, 4, 168), (16, 128, 1, 64, 4, 168), (16, 64, 3, 32, 4, 168), (32, 64, 3, 32, 8, 255))
NO_EPSILON = torch.finfo(torch.float32).tiny  # batch norm wants one, and 1 plus this is 1
Row = dict[str, Any]


class Case(NamedTuple):
    """A unit at the sizes of one place of a network; `batch` counts frames."""

    operator: str
    batch: int
    channels: int
    out_channels: int
    rows: int
    columns: int
    kernel: int = 1
    middle: int = 0
    norm: bool = True
    skips: int = 0

    @property
    def shortcut(self) -> bool:
        return self.operator != "convolution_unit" and self.channels != self.out_channels


class Inputs(NamedTuple):
    """Arguments of a unit."""

    x: Tensor
    norm: tuple[Tensor | None, Tensor | None]
    weights: tuple[Tensor, ...]
    shortcut: Tensor | None
    skips: tuple[Tensor, ...]

    def double(self) -> Inputs:
        """Return the same in float64."""
        scale, shift = (None if v is None else v.double() for v in self.norm)
        shortcut = None if self.shortcut is None else self.shortcut.double()
        skips = tuple(s.double() for s in self.skips)
        return Inputs(self.x.double(), (scale, shift), tuple(w.double() for w in self.weights), shortcut, skips)


def cases(config: SPNetConfig, clips: int) -> list[Case]:
    """Return the units of a network for so many clips, each size once."""
    n, g, side, j = clips * config.clip_frames, config.growth, config.image_size // 8, config.num_joints
    found: list[Case] = []
    k = config.kernel_size
    for level in range(config.num_levels):
        c, size = (3 + level) * g, side >> level
        found.append(Case("separable_unit", n, c, c, size, size, k, skips=1))
        for neighbour in (c - g, c + g):  # from above and from below
            if 3 * g <= neighbour <= (2 + config.num_levels) * g:
                found.append(Case("separable_unit", n, neighbour, c, size, size, k))
        found.append(Case("convolution_unit", n, c, j, size, size))
        found.append(Case("convolution_unit", n, j, c, size, size, norm=False, skips=2))
    widths = ((config.stem_features, g, 4), (g, 2 * g, 2), (2 * g, 2 * g, 2), (2 * g, 3 * g, 1), (3 * g, 3 * g, 1))
    for before, after, scale in widths:
        size, skips = side * scale, int(before == after)
        found.append(Case("bottleneck_unit", n, before, after, size, size, 3, after // 2, skips=skips))
    if config.num_actions:
        width, frames = max(config.pose_features, config.appearance_features), config.clip_frames
        streams = config.pose_features + config.appearance_features
        pose = config.pose_features // 16 * 7
        found.append(
            Case("bottleneck_unit", clips, pose, config.pose_features, frames, j, 3, config.pose_features // 2)
        )
        short = frames // 2 if frames >= 16 else frames
        for channels in (streams, streams + width):
            found.append(Case("bottleneck_unit", clips, channels, width, short, -(-j // 4) * 2, 3, width // 4))
        found.append(Case("separable_unit", clips, width, width, short, -(-j // 4) * 2, 3, skips=1))
    return list(dict.fromkeys(found))


def make_inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return arguments of a case, channels_last, weights in the order the kernels take them in."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def maps(channels: int) -> Tensor:
        values = random(case.batch, channels, case.rows, case.columns)
        return values.to(device, dtype).contiguous(memory_format=torch.channels_last)

    def weight(*shape: int) -> Tensor:
        values = random(*shape) / (shape[1] * shape[2] * shape[3]) ** 0.5
        return values.to(device, dtype).contiguous(memory_format=torch.channels_last)

    c, o, k, m = case.channels, case.out_channels, case.kernel, case.middle
    norm = (random(c).to(device), random(c).to(device)) if case.norm else (None, None)
    weights: tuple[Tensor, ...] = (weight(o, c, 1, 1),)
    if case.operator == "separable_unit":
        depthwise = weight(c, 1, k, k).permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)  # channels innermost
        weights = (depthwise, *weights)
    elif case.operator == "bottleneck_unit":
        weights = (weight(m, c, 1, 1), random(m).to(device), weight(o, m, k, k))
    shortcut = weight(o, c, 1, 1) if case.shortcut else None
    return Inputs(maps(c), norm, weights, shortcut, tuple(maps(o) for _ in range(case.skips)))


def by_pyhar(case: Case, inputs: Inputs, backend: str) -> Tensor:
    """Call the operator."""
    options = {} if case.operator == "convolution_unit" else {"shortcut": inputs.shortcut}
    function = getattr(ops, case.operator)
    result: Tensor = function(inputs.x, *inputs.norm, *inputs.weights, skips=inputs.skips, backend=backend, **options)
    return result


def plain(case: Case, inputs: Inputs) -> Tensor:
    """Compute the unit as the network's modules do: batch norm, relu, convolutions, in the type of the maps."""
    x, (scale, shift), weights, shortcut, skips = inputs
    a = x
    if scale is not None:
        zeros = torch.zeros_like(scale)
        a = F.relu(F.batch_norm(x, zeros, torch.ones_like(scale), scale, shift, False, 0.0, NO_EPSILON))
    if case.operator == "separable_unit":
        y = F.conv2d(F.conv2d(a, weights[0], padding="same", groups=x.shape[1]), weights[1])
    elif case.operator == "bottleneck_unit":
        y = F.conv2d(F.relu(F.conv2d(a, weights[0], weights[1].to(x.dtype))), weights[2], padding="same")
    else:
        y = F.conv2d(a, weights[0])
    if shortcut is not None:
        y = y + F.conv2d(a, shortcut)
    for skip in skips:
        y = y + skip
    return y


Function = Callable[[], Tensor]


def implementations(case: Case, inputs: Inputs, tiles: bool, compiled: bool) -> Iterator[tuple[str, Function]]:
    """Yield every way to compute a case here, by name."""
    device = inputs.x.device.type
    yield "plain", lambda: plain(case, inputs)
    if compiled:
        mode = "max-autotune-no-cudagraphs" if device == "cuda" else None
        function = torch.compile(plain, fullgraph=True, dynamic=False, mode=mode)
        yield "compile", lambda: function(case, inputs)
    yield "pyhar eager", lambda: by_pyhar(case, inputs, "eager")
    for backend, reason in ops.available_backends().items():
        if reason is None and dispatch.BACKENDS[backend] == device and backend in dispatch._operators[case.operator]:
            yield f"pyhar {backend}", lambda backend=backend: by_pyhar(case, inputs, backend)  # type: ignore[misc]
            if tiles and backend == "triton":
                yield from tiled(case, inputs)


def tiled(case: Case, inputs: Inputs) -> Iterator[tuple[str, Function]]:
    """Yield Triton's kernels with tiles other than those of the plan."""
    from pyhar.kernels.triton import unit_plan, unit_product, units

    @contextlib.contextmanager
    def instead(module: Any, name: str, tile: Any) -> Iterator[None]:
        before = getattr(module, name)
        setattr(module, name, lambda *args, **kwargs: tile)
        try:
            yield
        finally:
            setattr(module, name, before)

    def call(*changes: tuple[Any, str, Any]) -> Function:
        def function() -> Tensor:
            with contextlib.ExitStack() as stack:
                for change in changes:
                    stack.enter_context(instead(*change))
                return by_pyhar(case, inputs, "triton")

        return function

    two: tuple[tuple[Any, str, Any], ...] = ()
    if case.operator == "separable_unit":
        two = ((units, "plan_separable", None),)
        yield "pyhar triton, two kernels", call(*two)
        for tile in map(unit_plan.SeparableTile._make, SEPARABLE_TILES):
            yield f"pyhar triton, {tuple(tile)}", call((units, "plan_separable", tile))
    for sizes in PRODUCT_TILES:
        yield (
            f"pyhar triton, product {sizes}",
            call(*two, (unit_product, "plan_product", unit_plan.ProductTile(*sizes))),
        )


@exact_float32()
def measure_case(
    case: Case, dtype: torch.dtype, device: torch.device, seconds: float, tiles: bool = False, compiled: bool = True
) -> list[Row]:
    """Check and time every implementation of a case; return a row for each, with times where it is right."""
    inputs = make_inputs(case, dtype, device)
    rows: list[Row] = []
    runnables: dict[int, measure.Runnable] = {}
    with torch.no_grad():
        true = by_pyhar(case, inputs.double(), "eager")
        for name, function in implementations(case, inputs, tiles, compiled):
            row: Row = {**case._asdict(), "dtype": str(dtype).removeprefix("torch."), "implementation": name}
            limit = TOLERANCES[dtype] * (1 if name.startswith("pyhar") and name != "pyhar eager" else 2)
            try:
                error = relative_error(function(), true)
            except Exception as problem:  # a tile may not fit a device, a library may fail: go on with the others
                rows.append(row | {"status": "failed", "reason": f"{type(problem).__name__}: {str(problem)[:200]}"})
                continue
            row |= {"status": "ok" if error <= limit else "wrong", "error": error if error < float("inf") else None}
            if row["status"] == "ok":
                runnables[len(rows)] = measure.Runnable(lambda _, function=function: function())  # type: ignore[misc]
            rows.append(row)
        for place, samples in measure.interleave(measure.Stopwatch(device), runnables, seconds).items():
            median, q1, q3, least = measure.quantiles([s.device for s in samples])
            rows[place] |= {"samples": len(samples), "median_us": median * 1e6, "q1_us": q1 * 1e6, "q3_us": q3 * 1e6}
            rows[place] |= {"min_us": least * 1e6, "host_us": measure.quantiles([s.host for s in samples])[0] * 1e6}
    baselines = [r["median_us"] for r in rows if r["implementation"] in ("plain", "compile") and "median_us" in r]
    for row in rows:
        if "median_us" in row and baselines:
            row["speedup"] = min(baselines) / row["median_us"]
    return [{k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def main(argv: list[str] | None = None) -> int:
    """Measure, write, and return 0, or 1 if a backend of pyhar was wrong or failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.units", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--preset", action="append", help="network whose units are measured; may be given again (default: ntu)")
    add("--clips", type=int, default=1, help="clips in a batch (default: 1)")
    add(
        "--dtype", choices=DTYPES, action="append", help="may be given again (default: bfloat16 on a GPU, else float32)"
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda where there is one")
    add("--tiles", action="store_true", help="try other tiles of Triton's kernels too")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--seconds", type=float, default=1.0, help="time for the samples of each case (default: 1)")
    add("--minutes", type=float, help="start no case after so long; what was measured is written")
    add("--out", type=Path, help="folder of units.json (default: benchmarks/results/<device>)")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu")
    end = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    wanted = [(name, case) for name in args.preset or ["ntu"] for case in cases(get_preset(name), args.clips)]
    rows: list[Row] = []
    left_out = 0
    path = (args.out or results_folder(device)) / "units.json"
    before = {key: value for key, value in read_json(path).items() if key != "schema"}
    for dtype in args.dtype or ["bfloat16" if device.type == "cuda" else "float32"]:
        for preset, case in wanted:
            if time.monotonic() > end:
                left_out += 1
                continue
            torch.compiler.reset()
            found = measure_case(case, DTYPES[dtype], device, args.seconds, args.tiles, not args.no_compile)
            show(case, dtype, found)
            rows += [{"preset": preset, **row} for row in found]
            run = {**describe(device), "clips": args.clips, "cases_left_out": left_out, "rows": rows}
            write_json(path, {"schema": 1, **before, f"clips-{args.clips}": run})
    if left_out:
        print(f"time is up: {left_out} cases are left out")
    bad = [r for r in rows if r["status"] != "ok" and r["implementation"] in [f"pyhar {b}" for b in dispatch.BACKENDS]]
    return 1 if bad else 0


def show(case: Case, dtype: str, rows: Sequence[Row]) -> None:
    """Print the rows of a case, fastest first."""
    norm = "" if case.norm else ", no norm"
    sizes = f"{case.batch}x{case.channels}x{case.rows}x{case.columns} to {case.out_channels}"
    print(f"{case.operator} {sizes}, {case.kernel}x{case.kernel}, {case.skips} skips{norm}, {dtype}", flush=True)
    for row in sorted(rows, key=lambda row: row.get("median_us", float("inf"))):
        if row["status"] == "ok":
            gain = f"{row['speedup']:5.2f}x" if "speedup" in row else "      "  # where no baseline is right
            print(f"  {row['median_us']:10.1f} us  {gain}  {row['implementation']}", flush=True)
        else:
            print(f"  {row['status']:>10}  {row['implementation']}: {row.get('reason', row.get('error'))}", flush=True)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
