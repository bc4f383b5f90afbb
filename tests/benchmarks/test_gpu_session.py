"""The unattended session: steps have their time, one's failure does not stop the next, and all is written down."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_session
from benchmarks.gpu_session import Step

ROOT = Path(__file__).parents[2]
GPU = {"device": {"type": "cuda"}, "backends": {"cuda": None, "nvrtc": "no CuPy", "triton": None}, "folder": "a-gpu"}
CPU = {"device": {"type": "cpu"}, "backends": {}, "folder": "a-cpu"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start steps with less time left than is sensible for real ones."""
    monkeypatch.setattr(gpu_session, "LEAST_SECONDS", 0.5)


def python(name: str, code: str, seconds: float = 30, **more: Any) -> Step:
    return Step(name, [sys.executable, "-c", code], seconds, **more)


def session(out: Path, steps: list[Step], seconds: float = 60, found: dict[str, Any] = CPU) -> dict[str, Any]:
    gpu_session.Session(out, time.monotonic() + seconds, found).run(steps)
    made: dict[str, Any] = json.loads((out / "session.json").read_text())
    return made


def test_failures_do_not_stop_the_steps_after_them(tmp_path: Path) -> None:
    steps = [
        python("fails", "print('so it goes'); raise SystemExit(3)"),
        python("hangs", "import time; print('begun', flush=True); time.sleep(60)", 1.6),
        Step("missing", ["no-such-program-anywhere"], 5),
        python("needs a GPU", "", needs_gpu=True),
        python("needs a program", "", programs=("no-such-program-anywhere",)),
        python("not meant", "", unless="because"),
        python("works", "print('done')", log="other.txt"),
    ]
    made = session(tmp_path, steps)
    by_name = {step["step"]: step for step in made["steps"]}
    assert [step["state"] for step in made["steps"]] == ["failed"] * 3 + ["skipped"] * 3 + ["ok"]
    assert (made["ok"], made["failed"], made["skipped"]) == (1, 3, 3)
    assert by_name["fails"]["reason"] == "exit status 3"
    assert by_name["fails"]["tail"] == ["so it goes"]
    assert by_name["hangs"]["reason"] == "stopped after 2 s"
    assert by_name["hangs"]["tail"][0] == "begun"
    assert by_name["needs a GPU"]["reason"] == "no CUDA device"
    assert by_name["needs a program"]["reason"] == "no-such-program-anywhere is not installed"
    assert by_name["not meant"]["reason"] == "because"
    assert by_name["works"]["last_line"] == "done"
    assert "so it goes" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "other.txt").read_text().endswith("done\n\n")


def test_what_a_stopped_step_started_is_stopped_too(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(2.5); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    session(tmp_path / "out", [python("parent", parent, 1)])
    time.sleep(2.5)
    assert not mark.exists()


def test_the_whole_session_has_an_end(tmp_path: Path) -> None:
    steps = [python("long", "import time; time.sleep(60)", 30), python("late", "print('never')")]
    made = session(tmp_path, steps, seconds=gpu_session.LEAST_SECONDS + 0.5)
    assert [step["state"] for step in made["steps"]] == ["failed", "skipped"]
    assert made["steps"][1]["reason"] == "no time was left"


def test_a_group_runs_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    # Each waits for the other's file.
    code = (
        "import pathlib, time, sys; here = pathlib.Path(sys.argv[1]); (here / sys.argv[2]).touch()\n"
        "while not (here / sys.argv[3]).exists(): time.sleep(0.05)"
    )
    steps = [
        Step(name, [sys.executable, "-c", code, str(tmp_path), name, other], 30, group="both")
        for name, other in (("one", "two"), ("two", "one"))
    ]
    made = session(tmp_path / "out", [*steps, python("after", "")])
    assert [(step["step"], step["state"]) for step in made["steps"]] == [("one", "ok"), ("two", "ok"), ("after", "ok")]


def test_what_outstays_its_time_may_say_what_it_found(tmp_path: Path) -> None:
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('one has failed')"
    made = session(tmp_path, [python("tests", code, seconds=3.5)])
    assert made["steps"][0]["reason"] == "stopped after 4 s"
    assert made["steps"][0]["last_line"] == "one has failed"


def test_the_plan_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session.shutil, "which", lambda program: f"bin/{program}")
    steps = gpu_session.plan(GPU, tmp_path)
    run = [step.name for step in steps if gpu_session.why_skipped(step, GPU) is None]
    sanitizers = [f"{tool} {backend}" for tool in gpu_session.SANITIZERS for backend in ("cuda", "triton")]
    tests = ["tests cuda", "tests triton", "tests networks", "tests"]
    whole = ["whole network", "streaming", "training"]
    rest = ["call_overhead", "network", "units", "profile", "ncu"]
    assert run == ["info", *tests, "acceptance", *whole, *sanitizers, *rest]
    assert {gpu_session.why_skipped(s, GPU) for s in steps if s.name.endswith("nvrtc")} == {"backend nvrtc: no CuPy"}
    together = {s.group: s.seconds for s in steps if s.group}
    alone = sum(s.seconds for s in steps if not s.group)
    assert gpu_session.install().seconds + sum(together.values()) + alone <= 9 * 60
    acceptance = next(step for step in steps if step.name == "acceptance")
    assert "--quick" not in acceptance.command


def test_all_tests_that_need_a_gpu_are_in_the_plan(tmp_path: Path) -> None:
    marked = {
        file
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"pytest\.mark\.gpu\b", file.read_text()) and file != Path(__file__)
    }
    commands = [step.command for step in gpu_session.plan(GPU, tmp_path) if step.group == "tests"]
    named = {ROOT / word for command in commands for word in command if word.startswith("tests/")}
    assert marked
    assert all(file in named or named & set(file.parents) for file in marked)


def test_the_plan_without_a_gpu_keeps_what_a_cpu_can_do(tmp_path: Path) -> None:
    steps = gpu_session.plan(CPU, tmp_path)
    run = [step.name for step in steps if gpu_session.why_skipped(step, CPU) is None]
    whole = ["whole network", "streaming", "training"]
    assert run == ["info", "tests", "acceptance", *whole, "call_overhead", "network", "units", "profile"]


def test_commands_name_modules_and_options_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    seen = set()
    for step in gpu_session.plan(GPU, tmp_path):
        modules = [word for word in step.command if word.startswith("benchmarks.")]
        for module in set(modules) - seen:
            seen.add(module)
            with pytest.raises(SystemExit):
                importlib.import_module(module).main(["--help"])
            known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
            used = {word for word in step.command[step.command.index(module) :] if word.startswith("--")}
            assert used <= known
    assert len(seen) == 7


@pytest.mark.parametrize("found", [GPU, CPU], ids=["cuda", "cpu"])
def test_the_whole_network_is_measured_by_the_command_line(found: dict[str, Any], tmp_path: Path) -> None:
    import tyro

    from pyhar.benchmark import BenchmarkConfig

    step = next(step for step in gpu_session.plan(found, tmp_path) if step.name == "whole network")
    assert step.command[1:4] == ["-m", "pyhar", "benchmark"]
    config = tyro.cli(BenchmarkConfig, args=step.command[4:])
    assert config.output == tmp_path / "network"
    assert config.dtype == (("bfloat16",) if found is GPU else ("float32",))
    assert ("ntu" in config.networks) == (found is GPU)


def test_the_machine_is_found() -> None:
    found = gpu_session.machine()
    assert found["device"]["type"] in ("cpu", "cuda")
    assert found["folder"]
    assert "eager" in found["backends"]


def test_a_dry_run_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_session, "machine", lambda: CPU)
    assert gpu_session.main(["--dry-run", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("install, at most")
    assert "compute-sanitizer --tool memcheck" in printed
    assert gpu_session.main(["--dry-run", "--only", "tests", "--minutes", "5"]) == 0
    assert "\ntests, at most 300 s\n" in capsys.readouterr().out  # what alone is asked for has all the time
    assert not (tmp_path / "out").exists()


def test_a_session_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session, "machine", lambda: CPU)
    monkeypatch.setattr(gpu_session, "install", lambda: python("install", "print('installed')"))
    assert gpu_session.main(["--out", str(tmp_path), "--only", "install", "--only", "info", "--only", "ncu"]) == 0
    made = json.loads((tmp_path / "session.json").read_text())
    assert [step["step"] for step in made["steps"]] == ["install", "info", "ncu"]
    assert made["steps"][1]["state"] == "ok"
    assert made["machine"] == CPU
