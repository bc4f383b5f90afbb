"""Where does the time of an operator go? The kernels of the cases that are furthest from the speed of a copy.

`python -m benchmarks.profile_ops` reads ops.json, takes the cases in which pyhar's backends reach the smallest share of
a copy's speed, and prints the kernels and their times, one forward and backward each. `--tool ncu` prints the cases
alone and runs them between the marks that `ncu --profile-from-start off --nvtx` heeds, put before the command.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.accuracy import Gate
from benchmarks.cases import Case, make_inputs, suite
from benchmarks.implementations import Implementation, gather
from benchmarks.machine import read_json, results_folder
from benchmarks.report import case_of
from pyhar import cli
from pyhar.errors import UserError

WARM_UP = 3


def slowest(content: dict[str, Any], count: int) -> list[tuple[Case, str]]:
    """Return the `count` cases with a pyhar kernel in ops.json that are slowest beside a copy, each once a backend.

    The share counts over both passes; the eager form has no kernels of ours and is left out.
    """
    shares: dict[tuple[Case, str], float] = {}
    for run in content.get("suites", {}).values():
        for row in run["rows"]:
            name = row["implementation"]
            if row["status"] == "ok" and row["pass"] == "both" and name.startswith("pyhar ") and name != "pyhar eager":
                shares[case_of(row), name] = row.get("share_of_copy", 0.0)
    return sorted(shares, key=lambda key: shares[key])[:count]


def default(device: torch.device, count: int) -> list[tuple[Case, str]]:
    """Return cases of the acceptance suite with the backends that are usable, for want of results."""
    cases = suite("acceptance", device.type)
    found = [one for one in gather(cases[0], None, device.type) if isinstance(one, Implementation) and one.is_pyhar]
    names = [one.name for one in found if one.name != "pyhar eager"] or ["pyhar eager"]
    return [(case, name) for case in cases for name in names][:count]


def main(argv: list[str] | None = None) -> int:
    """Profile the cases; return 1 if none could be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_ops", description=__doc__.splitlines()[0])
    parser.add_argument("--tool", choices=["torch", "ncu"], default="torch", help="who looks on (default: torch)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=3, help="how many cases (default: 3)")
    parser.add_argument("--results", type=Path, help="folder of ops.json (default: benchmarks/results/<device>)")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if not torch.cuda.is_available() and (device.type == "cuda" or options.tool == "ncu"):
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu --tool torch")
    content = read_json((options.results or results_folder(device)) / "ops.json")
    done = 0
    for case, name in slowest(content, options.count) or default(device, options.count):
        found = [one for one in gather(case, (name,), device.type) if isinstance(one, Implementation)]
        print(f"{case.name}: {name}{'' if found else ': not usable here'}", flush=True)
        for one in found:
            _profile(case, one, device, options.tool)
            done += 1
    return 0 if done else 1


def _profile(case: Case, one: Implementation, device: torch.device, tool: str) -> None:
    gate = Gate(case, make_inputs(case, device))
    for _ in range(WARM_UP):
        gate.run(one)
    if tool == "ncu":
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        with torch.cuda.nvtx.range(f"{case.name}: {one.name}"):
            gate.run(one)
            torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        for _ in range(WARM_UP):
            gate.run(one)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=90))


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
