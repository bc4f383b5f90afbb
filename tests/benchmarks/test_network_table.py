"""The README's table of the whole network, from small result files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import network_table
from benchmarks.machine import write_json
from pyhar.errors import UserError


def row(name: str, ms: float, right: bool = True, given: str = "clip") -> dict[str, object]:
    return {
        "input": given,
        "implementation": name,
        "median_ms": ms,
        "frames_per_second": 8000 / ms,
        "right": right,
        "share_of_rate": 0.5,
        "speedup": 1.5,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [row("pyhar", 200), row("PyTorch", 800), row("torch.compile", 100, right=False)]
    rows.append(row("torch.compile, channels_last", 300))
    rows += [row("pyhar", 20, given="stream"), row("torch.compile, clip anew", 90, given="stream")]
    write_json(tmp_path / "network-float32.json", {"machine": {"device": "A chip", "threads": 2}, "rows": rows})
    both = {"status": "ok", "both": {"speedup": 1.75}}
    write_json(
        tmp_path / "training.json",
        {
            "device": {"name": "A chip"},
            "presets": {"small": {"plain PyTorch": both, "pyhar": both, "pyhar, bfloat16": {"status": "wrong"}}},
        },
    )
    return tmp_path


def test_what_is_wrong_or_missing_is_left_out(results: Path) -> None:
    text = network_table.table([results])
    assert (
        "| A chip, 2 threads | float32 | 800 ms, 10.0 frames/s | 300 ms, 26.7 frames/s | 200 ms, 40.0 frames/s "
        "| **1.50×** | 50% |" in text
    )
    assert "bfloat16" not in text
    assert "Streaming" not in text
    assert (
        "A chip, a training step of the joint stage, `small`, beside plain PyTorch in float32: 1.75× (pyhar)." in text
    )


def test_it_goes_between_the_markers(results: Path) -> None:
    readme = results / "README.md"
    readme.write_text("before\n<!-- network table -->\nold\n<!-- /network table -->\nafter\n")
    assert network_table.main(["--results", str(results), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- network table -->\nOne clip")
    assert text.endswith("<!-- /network table -->\nafter\n")
    assert "old" not in text
    readme.write_text("nothing\n")
    with pytest.raises(UserError, match="has no lines"):
        network_table.main(["--results", str(results), "--readme", str(readme)])


def test_a_real_video_gets_a_line_for_each_network(results: Path) -> None:
    speeds = [("float32", "file", 30.0), ("float32", "file, drawn", 20.0), ("float32", "camera", 25.0)]
    cases = [{"model": "small", "dtype": d, "way": way, "frames_per_second": speed} for d, way, speed in speeds]
    content = {"device": {"name": "A chip"}, "video": {"width": 64, "height": 48}, "cases": cases}
    write_json(results / "live.json", content)
    (line,) = (line for line in network_table.table([results]).splitlines() if "real video" in line)
    assert "of 64x48" in line
    assert line.endswith("`small`: frames/s without and with the drawn video written 30.0 and 20.0 (float32).")


def test_exported_networks_that_are_right_are_told(results: Path) -> None:
    runs = {
        "network": {"median_ms": 30.0},
        "ONNX Runtime": {"error": 1e-6, "median_ms": 8.236},
        "wrong": {"error": 1.0},
    }
    write_json(results / "export.json", {"small": {"device": {"name": "A chip"}, "runs": runs}})
    text = network_table.table([results])
    assert "- A chip, one clip in float32, `small`, exported: 8.24 ms (ONNX Runtime)." in text.splitlines()
