"""The scripts for the sanitizers, for profiles and for the cost of a call."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import call_overhead, profile_ops, sanitize
from benchmarks.cases import OPERATORS, suite
from pyhar import ops
from pyhar.errors import UserError

USABLE = [name for name in ("cpu", "eager") if ops.available_backends()[name] is None]


def test_every_operator_meets_every_choice() -> None:
    calls = list(sanitize.calls())
    for operator in OPERATORS:
        mine = [call for call in calls if call.operator == operator]
        assert {call.sizes for call in mine} == set(sanitize.SIZES)
        for choice, values in {"dtype": sanitize.DTYPES, "layout": sanitize.LAYOUTS, "grid": sanitize.GRIDS}.items():
            assert {getattr(call, choice) for call in mine} == set(values)
        assert {call.confidence for call in mine} == set(sanitize.CONFIDENCES)
        assert {(call.dtype, call.confidence) for call in mine} == set(product(sanitize.DTYPES, sanitize.CONFIDENCES))
        assert len({call.beta for call in mine}) >= 3


@pytest.mark.parametrize("backend", USABLE)
def test_small_odd_calls_are_right(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize.main(["--backend", backend, "--device", "cpu"]) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["calls"] + counts["refused"] == len(list(sanitize.calls()))
    assert counts["calls"] > 0
    assert (counts["wrong"], counts["left_out"]) == (0, 0)


def test_small_odd_calls_see_a_wrong_kernel(stand_in: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in("soft_argmax", lambda xy: xy + 0.01)
    assert sanitize.main(["--backend", "cpu", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "output is off by" in printed
    assert json.loads(printed.splitlines()[-1])["wrong"] == len(sanitize.SIZES) - 1  # with no images nothing is wrong


def test_small_odd_calls_end_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize.main(["--backend", "eager", "--device", "cpu", "--seconds", "0"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["left_out"] + counts["calls"] == len(list(sanitize.calls()))
    assert counts["left_out"] > 0


def test_unusable_backends_are_refused() -> None:
    with pytest.raises(UserError, match="not usable here"):
        sanitize.main(["--backend", "no-such", "--device", "cpu"])


def test_call_overhead_measures_every_way(tmp_path: Path) -> None:
    found = call_overhead.measure(torch.device("cpu"), seconds=0, calls=2)
    assert set(found) >= {*call_overhead.doors(), "pyhar soft_argmax, eager"}
    assert set(found["direct"]) == {"no_grad", "no_grad_after_work"}
    for name, kinds in found.items():
        if name != "direct":
            assert set(kinds) == set(call_overhead.KINDS)
        assert all(value > 0 for kind in kinds.values() for value in kind.values())


@pytest.mark.parametrize("name", list(call_overhead.doors()))
def test_ways_to_call_have_the_gradient_they_say(name: str) -> None:
    call = call_overhead.doors()[name]
    x = torch.randn(call_overhead.SHAPE, requires_grad=True)
    output = call(x)
    assert output.shape == (1, 4, 2)
    assert output.requires_grad == (name != "direct")
    if name != "direct":
        (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
        assert gradient.shape == x.shape


def test_call_overhead_is_written(tmp_path: Path) -> None:
    assert call_overhead.main(["--device", "cpu", "--seconds", "0", "--calls", "2", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "call_overhead.json").read_text())
    assert content["threads"] == 1
    assert set(content["calls"]) >= set(call_overhead.doors())


def test_the_cases_furthest_from_a_copy_are_profiled() -> None:
    cases = suite("acceptance", "cpu")
    rows = [
        {
            "operator": c.operator,
            "depth": c.depth,
            **c.shape._asdict(),
            "dtype": c.dtype,
            "layout": c.layout,
            "implementation": name,
            "pass": passed,
            "status": "ok",
            "share_of_copy": share,
        }
        for c, name, passed, share in (
            (cases[0], "pyhar cuda", "both", 0.5),
            (cases[1], "pyhar cuda", "both", 0.2),
            (cases[2], "pyhar triton", "both", 0.3),
            (cases[2], "pyhar triton", "forward", 0.1),
            (cases[0], "plain", "both", 0.01),
            (cases[0], "pyhar eager", "both", 0.02),
        )
    ]
    found = profile_ops.slowest({"suites": {"acceptance": {"rows": rows}}}, 2)
    assert found == [(cases[1], "pyhar cuda"), (cases[2], "pyhar triton")]
    assert profile_ops.slowest({}, 2) == []
    assert len(profile_ops.default(torch.device("cpu"), 2)) == 2


def test_profiles_print_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile_ops.main(["--device", "cpu", "--count", "1", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("decode_pose_and_appearance with depth 8x16x32x32")
    assert "Self CPU" in printed
