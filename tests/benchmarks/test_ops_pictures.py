"""The README's table and the pictures come from the results, and the README says what the results say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import plot_ops, report
from benchmarks.cases import suite
from benchmarks.machine import read_json, slug, write_json
from benchmarks.readme import README, markers


def row(case: Any, implementation: str, name: str, **changes: Any) -> dict[str, Any]:
    made = {"operator": case.operator, "depth": case.depth, **case.shape._asdict()}
    made |= {"dtype": case.dtype, "layout": case.layout, "implementation": implementation, "pass": name}
    made |= {"status": "ok", "error": 1e-7, "samples": 30, "median_us": 1500.0, "speedup": 1.0, "speedup_q1": 0.9}
    return made | {"speedup_q3": 1.1, "baseline": "plain", "saved_bytes_per_plane": 8192.0} | changes


def content() -> dict[str, Any]:
    about = {"device": {"type": "cpu", "name": "A Processor"}, "threads": 2, "date": "2026-01-02T03:04:05+00:00"}
    about |= {"versions": {"torch": "9.9.9"}}
    runs = {}
    for name in ("acceptance", "robot"):
        rows = []
        for case in suite(name, "cpu", quick=True):
            for passed in ("forward", "backward", "both"):
                rows.append(row(case, "plain", passed))
                rows.append(row(case, "pyhar eager", passed, median_us=2000.0, speedup=0.75))
                fast = {"median_us": 500.0, "speedup": 3.0, "saved_bytes_per_plane": 8.0}
                rows.append(row(case, "pyhar cpu", passed, **fast))
            rows.append({**row(case, "kornia", "both"), "pass": None, "status": "wrong", "reason": "xy is off"})
        runs[name] = {**about, "rows": rows}
    return {"schema": 1, "suites": runs}


def test_the_table_shows_the_fastest_kernel() -> None:
    lines = plot_ops.table([content()]).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:3] == ["A Processor, 2 threads", "`decode_pose_and_appearance` 8×16×32×32, C = 288 with depth", "cpu"]
    assert cells[3:] == ["500 µs (**3.00×**)"] * 3 + ["8 B", "8,192 B"]
    assert sum(line.startswith("| A Processor") for line in lines) == 4
    assert any(line.startswith("A Processor, suite robot: 3.00× over both passes (median of 4") for line in lines)
    assert any("PyTorch 9.9.9, 2026-01-02, medians of 30 samples" in line for line in lines)


def test_the_table_falls_back_to_eager_where_no_kernel_was_timed() -> None:
    made = content()
    run = made["suites"]["acceptance"]
    run["rows"] = [r for r in run["rows"] if r["implementation"] != "pyhar cpu"]
    assert "| eager | 2 ms (**0.75×**)" in plot_ops.table([made])


def test_verdicts_say_what_was_gained_and_kept() -> None:
    rows = content()["suites"]["acceptance"]["rows"]
    lines = list(report.verdicts("acceptance", rows))
    kept = "pyhar cpu: forward 3.00×, backward 3.00×, both 3.00×; keeps 8 bytes a plane, at most 16: yes"
    assert kept in lines[0]
    assert "kornia wrong: xy is off" in lines[1]
    for one in rows:
        one["saved_bytes_per_plane"] = 17
    assert next(report.verdicts("acceptance", rows)).endswith("at most 16: NO")


def test_the_command_draws_pictures_and_fills_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "results" / "a-processor" / "ops.json", content())
    assert read_json(tmp_path / "results" / "a-processor" / "ops.json") == content()
    readme = tmp_path / "README.md"
    readme.write_text("before\n\n<!-- ops table -->\nold\n<!-- /ops table -->\n\nafter\n")
    command = ["--results", str(tmp_path / "results"), "--readme", str(readme)]
    assert plot_ops.main(command) == 0
    first = readme.read_text()
    assert first.startswith("before\n\n<!-- ops table -->\n| device | operator")
    assert first.endswith("\n<!-- /ops table -->\n\nafter\n")
    assert "old" not in first
    picture = tmp_path / "results" / "a-processor" / "ops-acceptance.svg"
    assert picture.read_text().count("pyhar cpu") >= 1
    assert (picture.parent / "ops-robot.svg").exists()
    drawn = picture.read_bytes()
    assert plot_ops.main(command) == 0
    assert readme.read_text() == first
    assert picture.read_bytes() == drawn

    capsys.readouterr()
    assert plot_ops.main([*command, "--print"]) == 0
    assert capsys.readouterr().out.startswith("| device |")


def test_readme_has_the_table_of_the_results() -> None:
    begin, end = markers("ops")
    between = README.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert between.strip() == plot_ops.table(list(plot_ops.find().values())).strip()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4"),
        ("AMD EPYC", "amd-epyc"),
        ("***", "unknown"),
    ],
)
def test_folder_names(name: str, folder: str) -> None:
    assert slug(name) == folder
