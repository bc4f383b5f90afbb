"""Everything that needs a GPU, on a fresh machine, unattended: `python -m benchmarks.gpu_session`.

Installs pyhar, then tests it on the device, times the operators, the whole network, streaming and training, runs the
kernels under the sanitizers and the profiler and times calls; each step has its seconds, goes on where another failed,
and is skipped, with the reason, where the machine lacks what it needs. The folder `--out` gets session.json (what
became of each step, written anew after each), the output of the steps in a few text files, and the results of the
benchmarks. It needs Python alone to start, and no network.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
GPU_BACKENDS = ("cuda", "nvrtc", "triton")
# What is marked as needing a GPU beside the operators' tests.
NETWORK_TESTS = (
    "tests/deploy/test_graphs.py",
    "tests/export/test_export_files.py",
    "tests/inference/test_streaming.py",
)
LEAST_SECONDS = 3.0  # with less left no step is started
LAST_WORDS_SECONDS = 4.0  # for what outstays its time to end by itself
# Of a clip, Triton's other tiles too; compiling with max-autotune would take all the time.
_UNITS = ("--no-compile", "--tiles", "--seconds", "0.2", "--minutes", "0.25")


@dataclass
class Step:
    """A command with its seconds, what it needs, and the file that its output goes to."""

    name: str
    command: list[str]
    seconds: float
    log: str = "log.txt"
    needs_gpu: bool = False
    programs: tuple[str, ...] = ()
    unless: str | None = None
    """Why it is skipped whatever the machine offers."""
    environment: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    """Neighbours of one group run at the same time."""


Record = dict[str, Any]
_running: set[subprocess.Popen[bytes]] = set()


def machine() -> Record:
    """Return what `benchmarks.machine` finds, in a process of its own; under `error`, why it finds nothing."""
    command = [sys.executable, "-m", "benchmarks.machine"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        found: Record = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"the machine is not known: {error}"}
    except (ValueError, IndexError):  # it failed: the last line of its traceback says why
        return {"error": f"the machine is not known: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"}
    return found


def install() -> Step:
    """The step before all others: what it builds is what they run."""
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    return Step("install", pip, 75)


def plan(found: Record, out: Path) -> list[Step]:
    """Return the steps on a machine as `machine()` describes it, those that matter most first."""
    python = sys.executable
    folder = ["--out", str(out)]
    on_gpu = found.get("device", {}).get("type") == "cuda"
    return [
        Step("info", [python, "-m", "pyhar", "info"], 15),
        *_tests(found, python),
        Step("acceptance", _ops(python, "acceptance", 55, folder, on_gpu), 70),
        Step("whole network", _whole_network(python, out, on_gpu), 55),
        Step("streaming", _streaming(python, out, on_gpu), 25),
        Step("training", [python, "-m", "benchmarks.training", "--presets", "small", "--rounds", "5", *folder], 40),
        *_sanitizers(found, python),
        Step("call_overhead", [python, "-m", "benchmarks.call_overhead", "--seconds", "6", *folder], 20),
        Step("network", _ops(python, "network", 15, folder, on_gpu), 25),
        Step("units", [python, "-m", "benchmarks.units", *_UNITS, *folder], 25),
        Step("profile", [python, "-m", "benchmarks.profile_ops", "--results", str(out)], 15, "profile.txt"),
        Step("ncu", _ncu(python, out), 20, "profile.txt", needs_gpu=True, programs=("ncu",)),
    ]


def _tests(found: Record, python: str) -> Iterable[Step]:
    """Processes of each GPU backend, since each waits for a compiler of its own, and of the rest: as many as there are
    cores, where pytest can spread tests over them.
    """
    pytest = [python, "-m", "pytest", "-q", "--tb=short", "--durations=8", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") is not None:
        pytest += ["-n", str(max(1, (os.cpu_count() or 1) // (len(GPU_BACKENDS) + 1))), "--dist", "worksteal"]
    for backend in GPU_BACKENDS:
        reason = found.get("backends", {}).get(backend, "the machine's backends are not known")
        yield Step(
            f"tests {backend}",
            [*pytest, *_there("tests/ops", "tests/kernels"), "-k", backend],
            95,
            "tests.txt",
            needs_gpu=True,
            unless=None if reason is None else f"backend {backend}: {reason}",
            environment={"OMP_NUM_THREADS": "2"},
            group="tests",
        )
    networks = [*_there(*NETWORK_TESTS), "-m", "gpu", "--continue-on-collection-errors"]
    others = [*_there("tests/ops", "tests/kernels"), "-k", " and ".join(f"not {name}" for name in GPU_BACKENDS)]
    for name, more in (("tests networks", networks), ("tests", others)):
        yield Step(
            name,
            [*pytest, *more],
            95,
            "tests.txt",
            needs_gpu=more is networks,
            environment={"OMP_NUM_THREADS": "2"},
            group="tests",
        )


def _there(*tests: str) -> list[str]:
    """Those that this copy of the repository has."""
    return [name for name in tests if (ROOT / name).exists()]


def _ops(python: str, suite: str, seconds: float, folder: Sequence[str], on_gpu: bool) -> list[str]:
    quick = [] if on_gpu and suite == "acceptance" else ["--quick"]
    limits = ["--seconds", "2" if on_gpu else "1", "--minutes", f"{seconds / 60:.2f}"]
    return [python, "-m", "benchmarks.ops", "--suite", suite, *quick, *limits, *folder]


def _whole_network(python: str, out: Path, on_gpu: bool) -> list[str]:
    """What is measured is written after each case: the first ones are there if the time is too short for all."""
    networks = ["penn-release", "ntu"] if on_gpu else ["small"]
    inputs = ["--input", "clip", "images", "image"] if on_gpu else ["--input", "clip"]
    dtype = "bfloat16" if on_gpu else "float32"
    command = [python, "-m", "pyhar", "benchmark", *networks, "--dtype", dtype, *inputs]
    return [*command, "--seconds", "1", "--output", str(out / "network")]


def _streaming(python: str, out: Path, on_gpu: bool) -> list[str]:
    presets = ["penn-release", "small"] if on_gpu else ["small"]
    return [
        *(python, "-m", "benchmarks.streaming", "--presets", *presets),
        *("--seconds", "3", "--out", str(out / "streaming.json")),
    ]


def _ncu(python: str, out: Path) -> list[str]:
    options = ["--profile-from-start", "off", "--set", "detailed", "--clock-control", "none", "--nvtx"]
    return ["ncu", *options, python, "-m", "benchmarks.profile_ops", "--tool", "ncu", "--results", str(out)]


def _sanitizers(found: Record, python: str) -> Iterable[Step]:
    backends = found.get("backends", {})
    for tool in SANITIZERS:
        for backend in GPU_BACKENDS:
            reason = backends.get(backend, "the machine's backends are not known")
            sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
            sanitizer += ["--target-processes", "application-only"]
            if tool == "memcheck":  # libraries ask for what a device may lack; a call of ours that fails raises
                sanitizer += ["--report-api-errors", "no"]
            yield Step(
                f"{tool} {backend}",
                [*sanitizer, python, "-m", "benchmarks.sanitize", "--backend", backend, "--seconds", "35"],
                60,
                "sanitizer.txt",
                needs_gpu=True,
                programs=("compute-sanitizer",),
                unless=None if reason is None else f"backend {backend}: {reason}",
                # Each tensor its own allocation, or a sanitizer would not see an access beyond its end.
                environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"},
                group="sanitizers",
            )


def why_skipped(step: Step, found: Record) -> str | None:
    """Return why this machine cannot run a step, or None."""
    if step.needs_gpu and found.get("device", {}).get("type") != "cuda":
        return found.get("error") or "no CUDA device"
    missing = [program for program in step.programs if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    return step.unless


def run(step: Step, deadline: float, found: Record) -> tuple[Record, str]:
    """Run a step and return what became of it, for session.json, and its output."""
    record: Record = {"step": step.name, "state": "skipped", "seconds": 0.0, "reason": why_skipped(step, found)}
    if record["reason"] is not None:
        return record, ""
    begin = time.monotonic()
    limit = min(step.seconds, deadline - begin)
    if limit < LEAST_SECONDS:
        return record | {"reason": "no time was left"}, ""
    with tempfile.TemporaryFile() as file:
        try:
            status = _call(step, limit, file.fileno())
        except OSError as error:
            return record | {"state": "failed", "reason": str(error)}, ""
        file.seek(0)
        output = file.read().decode(errors="replace")
    record |= {"state": "ok", "seconds": round(time.monotonic() - begin, 1), "command": " ".join(step.command)}
    lines = [line for line in output.splitlines() if line.strip()]
    record["last_line"] = lines[-1][:300] if lines else ""
    if status is None:
        record |= {"state": "failed", "reason": f"stopped after {limit:.0f} s", "tail": lines[-12:]}
    elif status != 0:
        record |= {"state": "failed", "reason": f"exit status {status}", "tail": lines[-12:]}
    return record, output


def _call(step: Step, limit: float, output: int) -> int | None:
    """Run the command and return its exit status; None if it had to be stopped, with all that it had started."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | step.environment
    process = subprocess.Popen(
        step.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    _running.add(process)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # pytest then says what has failed so far
            process.wait(LAST_WORDS_SECONDS)
        return None
    finally:
        _stop(process)
        _running.discard(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill what still runs of a command; it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Session:
    """Runs steps and keeps the files of the output folder up to date."""

    def __init__(self, out: Path, deadline: float, found: Record) -> None:
        self.out, self.deadline, self.found = out, deadline, found
        self.records: list[Record] = []
        self._begin = time.monotonic()
        self._fresh: set[str] = set()

    def run(self, steps: Sequence[Step], workers: int = 12) -> None:
        """Run the steps in their order, neighbours of one group at the same time, `workers` of them."""
        index = 0
        while index < len(steps):
            group = [steps[index]]
            while steps[index].group and len(group) + index < len(steps):
                if steps[index + len(group)].group != steps[index].group:
                    break
                group.append(steps[index + len(group)])
            index += len(group)
            with ThreadPoolExecutor(min(workers, len(group))) as pool:
                results = pool.map(lambda step: (step, *run(step, self.deadline, self.found)), group)
                try:
                    for step, record, output in results:
                        self.keep(step, record, output)
                except BaseException:  # an interrupt: the pool would wait for its threads, and they for their steps
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in list(_running):
                        _stop(process)
                    raise

    def keep(self, step: Step, record: Record, output: str) -> None:
        """Print what became of a step, and write it down."""
        self.records.append(record)
        reason = f": {record['reason']}" if record["reason"] else ""
        print(f"{record['state']:>7}  {record['seconds']:6.1f} s  {step.name}{reason}", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if output:
            mode = "a" if step.log in self._fresh else "w"
            self._fresh.add(step.log)
            with (self.out / step.log).open(mode, encoding="utf-8") as log:
                log.write(f"===== {step.name}: {' '.join(step.command)}\n{output}\n")
        states = [r["state"] for r in self.records]
        summary = {state: states.count(state) for state in ("ok", "failed", "skipped")}
        seconds = round(time.monotonic() - self._begin, 1)
        content = {**summary, "seconds": seconds, "machine": self.found, "steps": self.records}
        (self.out / "session.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the session and return 0 if no step failed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_session", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="output folder (default: benchmarks/results/<device>)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument(
        "--only", action="append", help='only this step or group, as "tests", with all the time; may be repeated'
    )
    parser.add_argument("--no-install", action="store_true", help="pyhar is installed already")
    parser.add_argument("--dry-run", action="store_true", help="print the steps and run none")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * options.minutes
    first = [] if options.no_install else [install()]

    def wanted(steps: Sequence[Step]) -> list[Step]:
        if options.only is None:
            return list(steps)
        chosen = [s for s in steps if s.name in options.only or s.group in options.only]
        return [dataclasses.replace(s, seconds=60 * options.minutes) for s in chosen]

    if options.out is not None:
        options.out = options.out.resolve()
    if options.dry_run:
        found = machine()
        for step in wanted([*first, *plan(found, options.out or _folder(found))]):
            skipped = why_skipped(step, found)
            print(f"{step.name}, at most {step.seconds:.0f} s{f' (skipped: {skipped})' if skipped else ''}")
            print(f"    {' '.join(step.command)}")
        return 0
    begun = [(step, *run(step, deadline, {})) for step in wanted(first)]
    found = machine()  # not before: it takes what has just been installed
    session = Session(options.out or _folder(found), deadline, found)
    for step, record, output in begun:
        session.keep(step, record, output)
    session.run(wanted(plan(found, session.out)))
    return 1 if any(record["state"] == "failed" for record in session.records) else 0


def _folder(found: Record) -> Path:
    return ROOT / "benchmarks" / "results" / str(found.get("folder", "unknown"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a session told to end takes its step along
    signal.signal(signal.SIGINT, signal.default_int_handler)  # steps would ignore it where a shell's `&` or nohup does
    raise SystemExit(main())
