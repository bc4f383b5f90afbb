"""The benchmark of the operators: nothing wrong gets a speed, memory is counted, results are kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import accuracy, cases, implementations, measure, ops
from benchmarks.cases import Case, Shape
from pyhar.errors import UserError

CPU = torch.device("cpu")
TINY = Shape(2, 3, 5, 7, 4)
ONLY = ("plain", "pyhar cpu", "pyhar eager")


def tiny(operator: str, dtype: str = "float32", layout: str = "contiguous") -> Case:
    shape = TINY if operator in cases.WITH_FEATURES else TINY._replace(channels=0)
    return Case(operator, shape, dtype, layout, operator in cases.WITH_DEPTH)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", *cases.DTYPES])
@pytest.mark.parametrize("operator", cases.OPERATORS)
def test_plain_and_eager_are_right(operator: str, dtype: str, layout: str) -> None:
    case = tiny(operator, dtype, layout)
    gate = accuracy.Gate(case, cases.make_inputs(case, CPU))
    found = [i for i in implementations.gather(case, ONLY) if isinstance(i, implementations.Implementation)]
    assert {"plain", "pyhar eager"} <= {i.name for i in found}
    for implementation in found:
        verdict = gate.judge(implementation)
        assert verdict.right, verdict.reason
        assert 0 < verdict.tolerance < 0.1


@pytest.mark.parametrize("library", ["kornia", "dsntnn"])
@pytest.mark.parametrize("operator", ["spatial_softmax", "soft_argmax", "expectation"])
def test_other_libraries_are_right_in_their_own_grid(library: str, operator: str) -> None:
    pytest.importorskip(library)
    case = tiny(operator)
    (found,) = implementations.gather(case, (library,))
    assert isinstance(found, implementations.Implementation)
    verdict = accuracy.Gate(case, cases.make_inputs(case, CPU)).judge(found)
    assert verdict.right, verdict.reason


def wrong_value(xy: torch.Tensor) -> torch.Tensor:
    return xy + torch.tensor([0.0, 3e-5])


def wrong_gradient(xy: torch.Tensor) -> torch.Tensor:
    return xy.detach() + 1.001 * (xy - xy.detach())


def not_a_number(xy: torch.Tensor) -> torch.Tensor:
    return xy * torch.tensor([1.0, float("nan")])


@pytest.mark.parametrize(
    ("change", "worst"),
    [
        (wrong_value, "xy"),
        (wrong_gradient, "gradient of maps"),
        (not_a_number, "xy"),
    ],
)
def test_a_wrong_implementation_gets_no_speed(
    change: Callable[[torch.Tensor], torch.Tensor], worst: str, stand_in: Any
) -> None:
    stand_in("soft_argmax", change)
    rows = ops.measure_case(tiny("soft_argmax"), CPU, seconds=0, only=ONLY)
    by_name = {name: [r for r in rows if r["implementation"] == name] for name in ONLY}
    (refused,) = by_name["pyhar cpu"]
    assert refused["status"] == "wrong"
    assert refused["worst"] == worst
    assert worst in refused["reason"]
    assert not {"median_us", "speedup", "gb_per_s"} & set(refused)
    assert [r["pass"] for r in by_name["pyhar eager"]] == list(cases.PASSES)
    assert all(r["status"] == "ok" and r["median_us"] > 0 for r in by_name["pyhar eager"])


def test_half_types_are_judged_by_what_plain_pytorch_loses() -> None:
    case = tiny("decode_pose", "bfloat16")
    gate = accuracy.Gate(case, cases.make_inputs(case, CPU))
    plain, eager = implementations.gather(case, ("plain", "pyhar eager"))
    assert isinstance(plain, implementations.Implementation)
    assert isinstance(eager, implementations.Implementation)
    gate.judge(plain)
    assert gate.judge(plain._replace(name="another")).right
    # The same numbers under pyhar's name: its coordinates are promised in float32.
    assert not gate.judge(plain._replace(name="pyhar", is_pyhar=True)).right
    assert gate.judge(eager).right


def test_what_a_backend_refuses_or_breaks_is_said(stand_in: Any) -> None:
    def breaks(result: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of order")

    stand_in("soft_argmax", breaks)
    (row,) = ops.measure_case(tiny("soft_argmax"), CPU, 0, ("pyhar cpu",))
    assert (row["status"], row["reason"]) == ("failed", "RuntimeError: out of order")
    stand_in("soft_argmax", lambda xy: xy[:, :-1])
    plain, *_, row = ops.measure_case(tiny("soft_argmax"), CPU, 0, ("plain", "pyhar cpu"))
    assert (plain["status"], row["status"]) == ("ok", "failed")

    def refuses(result: torch.Tensor) -> torch.Tensor:
        raise UserError("not today")

    stand_in("soft_argmax", refuses)
    (row,) = ops.measure_case(tiny("soft_argmax"), CPU, 0, ("pyhar cpu",))
    assert (row["status"], row["reason"]) == ("refused", "UserError: not today")


class KeepsSquares(torch.autograd.Function):
    """Keeps its input, its output, and 1024 bytes twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        squares = x * x
        output = x + 1
        ctx.save_for_backward(x, output, squares, squares[:3])
        return output

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g


class Hides(torch.autograd.Function):
    """Keeps 1024 bytes where autograd does not look, and 2048 in a list."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.squares, ctx.others, ctx.number = x * x, [torch.ones(512), None], 3
        return x + 1

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g


def test_saved_bytes_are_those_beyond_inputs_and_outputs() -> None:
    x = torch.randn(256, requires_grad=True)
    assert measure.saved_bytes(lambda: (KeepsSquares.apply(x),), (x,)) == 1024
    assert measure.saved_bytes(lambda: (Hides.apply(x).view(16, 16),), (x,)) == 3072
    assert measure.saved_bytes(lambda: (x.exp(),), (x,)) == 0  # its output
    assert measure.saved_bytes(lambda: (x.exp().sin(),), (x,)) == 1024


def test_rows_have_what_the_table_and_the_pictures_need() -> None:
    case = tiny("decode_pose_and_appearance")
    rows = ops.measure_case(case, CPU, seconds=0, only=("plain", "pyhar eager"), large=1 << 16)
    assert len(rows) == 6
    for row in rows:
        assert row["q1_us"] <= row["median_us"] <= row["q3_us"]
        assert row["min_us"] <= row["q1_us"]
        assert row["bytes"] == cases.compulsory_bytes(case)[row["pass"]]
        assert row["samples"] >= 5
        assert row["share_of_copy"] > 0
        assert row["share_of_case_copy"] > 0
        assert row["baseline"] == "plain"
    # The maps h and sigmoid(D), and the two axes of the grid in the largest case.
    kept = {r["implementation"]: r["saved_bytes_per_plane"] for r in rows}
    assert 2 * 35 * 4 <= kept["plain"] <= 2 * 35 * 4 + 2 * 12 * 4
    assert {r["speedup"] for r in rows if r["implementation"] == "plain"} == {1.0}


def test_compulsory_bytes() -> None:
    h, f, planes = 2 * 3 * 35 * 4, 2 * 4 * 35 * 4, 2 * 3
    everything = cases.compulsory_bytes(tiny("decode_pose_and_appearance"))
    outputs = planes * (2 + 1 + 1 + 4) * 4
    assert everything == {
        "forward": 2 * h + f + outputs,
        "backward": 2 * h + f + outputs + 2 * h + f,
        "both": 3 * (2 * h + f) + 2 * outputs,
    }
    assert cases.compulsory_bytes(tiny("soft_argmax", "bfloat16"))["forward"] == h // 2 + planes * 2 * 4
    assert cases.compulsory_bytes(tiny("expectation"))["backward"] == planes * 2 * 4 + h


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", cases.SUITES)
def test_suites_are_whole(name: str, device: str) -> None:
    full, quick = cases.suite(name, device), cases.suite(name, device, quick=True)
    assert len(set(full)) == len(full)
    assert quick
    assert set(quick) <= set(full)
    for case in full:
        assert (case.shape.channels > 0) == (case.operator in cases.WITH_FEATURES)
    if name == "network":
        assert {case.operator for case in full} == set(cases.OPERATORS)


def test_the_acceptance_suite_is_what_was_agreed() -> None:
    found = cases.suite("acceptance", "cpu")
    shapes = [(8, 16, 32, 32, 288), (16, 17, 16, 16, 384), (16, 17, 64, 48, 0), (16, 17, 64, 48, 0)]
    assert [tuple(case.shape) for case in found] == shapes
    assert [case.operator for case in found] == ["decode_pose_and_appearance"] * 2 + ["decode_pose"] * 2
    assert sorted(case.depth for case in found) == [False, True, True, True]
    assert all(case.dtype == "float32" for case in found)
    assert {case.shape.batch for case in cases.suite("acceptance", "cuda")} == {128}


def test_results_of_one_suite_leave_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stand_in: Any
) -> None:
    stand_in("soft_argmax", lambda xy: xy)
    monkeypatch.setattr(ops, "suite", lambda name, device, quick: [tiny("soft_argmax")])
    options = ["--device", "cpu", "--quick", "--seconds", "0", "--out", str(tmp_path)]
    options += [word for name in ONLY for word in ("--implementation", name)]
    for name in ("robot", "acceptance"):
        assert ops.main([*options, "--suite", name]) == 0
    printed = capsys.readouterr().out
    assert "acceptance: soft_argmax 2x3x5x7 float32 contiguous: pyhar cpu: forward" in printed
    assert "at most 16: NO" in printed  # the stand-in keeps the probability maps, as eager does
    content = json.loads((tmp_path / "ops.json").read_text())
    assert list(content["suites"]) == ["acceptance", "robot"]
    run = content["suites"]["robot"]
    assert run["device"]["type"] == "cpu"
    assert run["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"date", "threads", "missing", "copy_bytes"} <= set(run)
    with (tmp_path / "ops.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(one["rows"]) for one in content["suites"].values()) == 18
    assert [row["suite"] for row in rows] == ["acceptance"] * 9 + ["robot"] * 9


def test_wrong_results_are_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Any) -> None:
    stand_in("soft_argmax", wrong_value)
    monkeypatch.setattr(ops, "suite", lambda name, device, quick: [tiny("soft_argmax")])
    options = ["--device", "cpu", "--quick", "--seconds", "0", "--out", str(tmp_path), "--implementation", "pyhar cpu"]
    assert ops.main(options) == 1


def test_the_triton_interpreter_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementations.ops, "available_backends", lambda: {"triton": None, "eager": None})
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (found,) = implementations.gather(tiny("soft_argmax"), ("pyhar triton",), "cuda")
    assert isinstance(found, implementations.Missing)
    assert "interpreter" in found.reason
    monkeypatch.delenv("TRITON_INTERPRET")
    (found,) = implementations.gather(tiny("soft_argmax"), ("pyhar triton",), "cuda")
    assert isinstance(found, implementations.Implementation)


def test_backends_are_timed_on_their_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("cuda", "cpu", "eager")
    monkeypatch.setattr(implementations.ops, "available_backends", lambda: dict.fromkeys(names))
    only = tuple(f"pyhar {name}" for name in names)
    for device, usable in (("cpu", {"pyhar cpu", "pyhar eager"}), ("cuda", {"pyhar cuda", "pyhar eager"})):
        found = implementations.gather(tiny("soft_argmax"), only, device)
        assert {one.name for one in found if isinstance(one, implementations.Implementation)} == usable


def test_compiled_plain_pytorch_runs_and_is_right() -> None:
    case = tiny("soft_argmax")
    torch.compiler.reset()
    rows = ops.measure_case(case, CPU, 0, ("plain", "compile"))
    if any("compiler" in str(r.get("reason", "")).lower() for r in rows):
        pytest.skip("torch.compile finds no C++ compiler here")
    assert [r["status"] for r in rows] == ["ok"] * 6
