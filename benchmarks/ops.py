"""How fast are the operators, and what do they keep for the backward? Against plain PyTorch, compiled, and libraries.

`python -m benchmarks.ops --suite acceptance` measures and writes benchmarks/results/<device>/ops.json and ops.csv; what
the file holds of other suites stays. README.md in this folder says how it is measured and what the columns mean.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import accuracy, measure, report
from benchmarks.cases import (
    DTYPES,
    LAYOUTS,
    OPERATORS,
    PASSES,
    SUITES,
    Case,
    Inputs,
    compulsory_bytes,
    make_inputs,
    suite,
)
from benchmarks.implementations import Function, Implementation, Missing, gather
from benchmarks.machine import describe, read_json, results_folder, write_csv, write_json
from pyhar import cli
from pyhar.errors import UserError

Row = dict[str, Any]
BASELINES = ("plain", "compile")


def measure_case(
    case: Case, device: torch.device, seconds: float, only: tuple[str, ...] | None = None, large: int = 0
) -> list[Row]:
    """Check and time all implementations of a case.

    Args:
        case: what to compute.
        device: where.
        seconds: time to spend on the samples; a few are taken in any case.
        only: names of the implementations wanted; None takes all.
        large: bytes read and written by the large copy that bandwidths are compared with; 0 leaves it out.

    Returns:
        A row for each pass of each implementation that is right, with its times, and one row, without times, for each
        that is wrong, refuses the case or fails.
    """
    inputs = make_inputs(case, device)
    gate = accuracy.Gate(case, inputs)
    right: list[tuple[Implementation, Row]] = []
    rows: list[Row] = []
    # Plain first: what it loses in half types is the yardstick of the others.
    for one in gather(case, only, device.type):
        if isinstance(one, Missing):
            continue
        row = _about(case, one.name)
        try:
            verdict = gate.judge(one)
        except Exception as error:  # whatever another library raises must not end the run
            refused = isinstance(error, (UserError, NotImplementedError))
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows.append(row | {"status": "refused" if refused else "failed", "reason": reason})
            continue
        error_found = verdict.error if verdict.error < float("inf") else None
        row |= {"error": error_found, "tolerance": verdict.tolerance, "worst": verdict.worst}
        if verdict.right:
            right.append((one, row | {"status": "ok"}))
        else:
            rows.append(row | {"status": "wrong", "reason": verdict.reason})
    if right:
        rows = [*_timed(case, inputs, gate, right, seconds, large), *rows]
    return rows


def _timed(
    case: Case,
    inputs: Inputs,
    gate: accuracy.Gate,
    right: Sequence[tuple[Implementation, Row]],
    seconds: float,
    large: int,
) -> Iterator[Row]:
    device = inputs.maps.device
    stopwatch = measure.Stopwatch(device)
    minimal = compulsory_bytes(case)
    runnables: dict[tuple[str, str], measure.Runnable] = {}
    memory: dict[str, Row] = {}
    for one, _ in right:
        passes = _passes(one.function, inputs, gate)
        runnables |= {(one.name, name): runnable for name, runnable in passes.items()}
        memory[one.name] = _memory(case, one.function, inputs, passes)
    if device.type == "cpu":  # its caches may hold a case: a copy of the case's size has them too
        runnables |= {("copy", name): measure.copy(size, device) for name, size in minimal.items()}
    copying = None
    if large:
        samples = measure.interleave(stopwatch, {0: measure.copy(large, device)}, 0)[0]
        copying = large / measure.quantiles([s.device for s in samples])[0]
    found = measure.interleave(stopwatch, runnables, seconds)
    times = {key: [sample.device for sample in samples] for key, samples in found.items()}
    for one, about in right:
        for name in PASSES:
            mine = times[one.name, name]
            median, q1, q3, least = measure.quantiles(mine)
            row = about | {"pass": name, "samples": len(mine), "median_us": median * 1e6, "q1_us": q1 * 1e6}
            row |= {"q3_us": q3 * 1e6, "min_us": least * 1e6, "bytes": minimal[name]}
            row["gb_per_s"] = minimal[name] / median / 1e9
            if copying is not None:
                row["share_of_copy"] = minimal[name] / median / copying
            if ("copy", name) in times:
                row["share_of_case_copy"] = measure.quantiles(times["copy", name])[0] / median
            if device.type == "cuda":
                row["host_us"] = measure.quantiles([s.host for s in found[one.name, name]])[0] * 1e6
            row |= _speedup(times, one.name, name) | memory[one.name]
            yield {key: float(f"{v:.5g}") if isinstance(v, float) else v for key, v in row.items()}


def _passes(function: Function, inputs: Inputs, gate: accuracy.Gate) -> dict[str, measure.Runnable]:
    plain, leaves = inputs.plain(), inputs.leaves()
    wanted = leaves.tensors()
    upstream = gate.upstream(function(leaves))

    def forward(_: None) -> Any:
        with torch.no_grad():
            return function(plain)

    return {
        "forward": measure.Runnable(forward),
        # The graph is made anew each time, untimed: keeping it would change what compiled code may do with its memory.
        "backward": measure.Runnable(
            lambda outputs: torch.autograd.grad(outputs, wanted, upstream), lambda: function(leaves)
        ),
        "both": measure.Runnable(lambda _: torch.autograd.grad(function(leaves), wanted, upstream)),
    }


def _memory(case: Case, function: Function, inputs: Inputs, passes: dict[str, measure.Runnable]) -> Row:
    leaves = inputs.leaves()
    saved = measure.saved_bytes(lambda: function(leaves), leaves.tensors())
    row: Row = {"saved_bytes_per_plane": saved / case.shape.planes}
    for name in ("forward", "both"):
        peak = measure.peak_bytes(functools.partial(passes[name].call, None), inputs.maps.device)
        if peak is not None:
            row[f"peak_bytes_{name}"] = peak
    return row


def _speedup(times: dict[tuple[str, str], list[float]], implementation: str, name: str) -> Row:
    """Times the better baseline took over those of the implementation, sample by sample of the same round."""
    present = [b for b in BASELINES if (b, name) in times]
    if not present:
        return {}
    best = min(present, key=lambda b: measure.quantiles(times[b, name])[0])
    ratios = [b / t for b, t in zip(times[best, name], times[implementation, name], strict=True)]
    median, q1, q3, _ = measure.quantiles(ratios)
    return {"baseline": best, "speedup": median, "speedup_q1": q1, "speedup_q3": q3}


def _about(case: Case, implementation: str) -> Row:
    about = {"operator": case.operator, "depth": case.depth, "sigma": case.sigma, **case.shape._asdict()}
    return about | {"dtype": case.dtype, "layout": case.layout, "implementation": implementation, "pass": None}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--suite", choices=[*SUITES, "all"], default="acceptance", help="which shapes (default: acceptance)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda where there is one")
    add("--dtype", choices=[*DTYPES, "float64"], action="append", help="only this type; may be given again")
    add("--layout", choices=LAYOUTS, action="append", help="only this layout; may be given again")
    add("--operator", choices=OPERATORS, action="append", help="only this operator; may be given again")
    add("--implementation", action="append", help='only this one, as "plain" or "pyhar cpu"; may be given again')
    add("--quick", action="store_true", help="few samples, smaller batches, one type, one layout")
    add("--seconds", type=float, help="time for the samples of each case (default: 8, quick: 1)")
    add("--minutes", type=float, help="start no case after so long; what was measured is written")
    add("--threads", type=int, help="PyTorch's threads (default for the acceptance suite on a CPU: 2)")
    add("--out", type=Path, help="folder of ops.json and ops.csv (default: benchmarks/results/<device>)")
    return parser.parse_args(argv)


def select(options: argparse.Namespace, name: str, device: torch.device) -> list[Case]:
    """Return the cases of a suite that the options leave."""
    cases = suite(name, device.type, options.quick)
    if options.dtype == ["float64"]:  # in no suite: the first type of each is taken for it
        cases = [case._replace(dtype="float64") for case in cases if case.dtype == "float32"]
    elif options.dtype:
        cases = [case for case in cases if case.dtype in options.dtype]
    if options.layout:
        cases = [case for case in cases if case.layout in options.layout]
    if options.operator:
        cases = [case for case in cases if case.operator in options.operator]
    return cases


def main(argv: list[str] | None = None) -> int:
    """Measure the suites asked for, and return 0, or 1 if pyhar was wrong or failed anywhere."""
    options = _options(argv)
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu")
    folder = options.out or results_folder(device)
    only = tuple(options.implementation) if options.implementation else None
    seconds = options.seconds if options.seconds is not None else (1.0 if options.quick else 8.0)
    large = 1 << (31 if device.type == "cuda" else 28 if options.quick else 29)
    default_threads = torch.get_num_threads()
    failures = 0
    for name in SUITES if options.suite == "all" else (options.suite,):
        threads = options.threads or (2 if name == "acceptance" and device.type == "cpu" else default_threads)
        torch.set_num_threads(threads)
        cases = select(options, name, device)
        run = describe(device) | {"quick": options.quick, "copy_bytes": large, "missing": {}}
        rows: list[Row] = []
        for index, case in enumerate(cases):
            if time.monotonic() > end:
                print(f"time is up: {len(cases) - index} cases of {name} are left out", flush=True)
                break
            torch.compiler.reset()  # so that no case's compiled code or recompilation count is another's
            run["missing"] = {m.name: m.reason for m in gather(case, only, device.type) if isinstance(m, Missing)}
            found = measure_case(case, device, seconds, only, large)
            rows += found
            run["cases_left_out"] = len(cases) - index - 1
            report.show_case(case, found)
            save(folder, name, run, rows)
        for line in report.verdicts(name, rows):
            print(line)
        failures += sum(r["status"] in ("wrong", "failed") and r["implementation"].startswith("pyhar") for r in rows)
    return 1 if failures else 0


def save(folder: Path, name: str, run: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write a suite's rows into ops.json, beside those of other suites, and all rows to ops.csv."""
    path = folder / "ops.json"
    content = read_json(path)
    suites = content.get("suites", {})
    suites[name] = run | {"rows": list(rows)}
    content = {"schema": 1, "suites": {key: suites[key] for key in SUITES if key in suites}}
    write_json(path, content)
    write_csv(
        folder / "ops.csv", [{"suite": key, **row} for key, one in content["suites"].items() for row in one["rows"]]
    )


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
