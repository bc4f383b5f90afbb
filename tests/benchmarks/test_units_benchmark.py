"""The benchmark of the convolution units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import units
from benchmarks.accuracy import relative_error
from pyhar import ops
from pyhar.models import get_preset

SMALL = units.Case("separable_unit", 2, 8, 12, 5, 6, 3, skips=1)


@pytest.mark.parametrize("preset", ["ntu", "penn-release", "small"])
def test_cases_are_the_units_of_the_network(preset: str) -> None:
    config = get_preset(preset)
    found = units.cases(config, clips=2)
    assert len(set(found)) == len(found)
    assert {case.operator for case in found} == {"separable_unit", "bottleneck_unit", "convolution_unit"}
    frames = 2 * config.clip_frames
    side, growth = config.image_size // 8, config.growth
    for level in range(config.num_levels):
        width = (3 + level) * growth
        assert (
            units.Case(
                "separable_unit", frames, width, width, side >> level, side >> level, config.kernel_size, skips=1
            )
            in found
        )
    stem = units.Case(
        "bottleneck_unit", frames, config.stem_features, growth, 4 * side, 4 * side, 3, growth // 2,
        skips=int(config.stem_features == growth),
    )  # fmt: skip
    assert stem in found


@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        units.Case("bottleneck_unit", 2, 8, 8, 5, 6, 3, 4, skips=2),
        units.Case("convolution_unit", 2, 8, 3, 5, 6, norm=False),
    ],
)
def test_every_implementation_is_right_and_timed(case: units.Case) -> None:
    rows = units.measure_case(case, torch.float32, torch.device("cpu"), seconds=0, compiled=False)
    assert [row["implementation"] for row in rows][:2] == ["plain", "pyhar eager"]
    for row in rows:
        assert row["status"] == "ok"
        assert row["median_us"] > 0
        assert row["speedup"] > 0


def test_other_tiles_are_used_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = ops.available_backends()["triton"]
    if reason is not None:
        pytest.skip(reason)
    from pyhar.kernels.triton import unit_product
    from pyhar.kernels.triton import units as launchers
    from pyhar.kernels.triton.launch import Launch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = units.make_inputs(SMALL, torch.float32, torch.device(device))
    plans = launchers.plan_separable, unit_product.plan_product
    found = dict(units.tiled(SMALL, inputs))
    assert len(found) == 1 + len(units.SEPARABLE_TILES) + len(units.PRODUCT_TILES)
    used: list[tuple[int, ...]] = []
    start = Launch.start

    def recorded(launch: Launch, device: torch.device) -> None:
        used.append(tuple(launch.constants[name] for name in ("PIXELS", "OUT") if name in launch.constants))
        start(launch, device)

    monkeypatch.setattr(Launch, "start", recorded)
    with torch.no_grad():
        true = units.by_pyhar(SMALL, inputs.double(), "eager")
        for sizes in ((16, 64), (32, 64)):  # those that the interpreter is quick with
            names = [name for name in found if str(sizes)[:-1] in name]
            assert names
            for name in names:
                assert relative_error(found[name](), true) < 1e-5
                assert used[-1] == sizes
    assert (launchers.plan_separable, unit_product.plan_product) == plans


def test_what_is_wrong_gets_no_speed(stand_in: Any) -> None:
    stand_in("separable_unit", lambda y: y + 0.01)
    rows = units.measure_case(SMALL, torch.float32, torch.device("cpu"), seconds=0, compiled=False)
    wrong = [row for row in rows if row["status"] == "wrong"]
    assert [row["implementation"] for row in wrong] == ["pyhar cpu"]
    assert "median_us" not in wrong[0]


def test_results_are_written_and_time_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--preset", "small", "--device", "cpu", "--no-compile", "--seconds", "0", "--out", str(tmp_path)]
    assert units.main([*command, "--minutes", "0.001"]) == 0
    content = json.loads((tmp_path / "units.json").read_text())["clips-1"]
    assert content["device"]["type"] == "cpu"
    assert {row["preset"] for row in content["rows"]} == {"small"}
    assert "are left out" in capsys.readouterr().out


def test_rows_are_shown_where_no_baseline_works(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"implementation": "plain", "status": "failed", "reason": "ValueError: no"},
        {"implementation": "pyhar cpu", "status": "ok", "median_us": 2.0},
    ]
    units.show(SMALL, "float32", rows)
    assert capsys.readouterr().out.splitlines()[1].split() == ["2.0", "us", "pyhar", "cpu"]
