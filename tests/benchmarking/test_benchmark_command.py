"""`pyhar benchmark` from the command line to its files, on networks that run in milliseconds."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyhar import benchmark, cli
from pyhar.benchmarking import counting, networks, timing
from pyhar.benchmarking.ceilings import Ceilings, name_of
from pyhar.benchmarking.parts import REST, time_by_part
from pyhar.deploy import choose_dtype, deploy
from pyhar.evaluation.results import CutScores, Evaluation
from pyhar.inference.ring import FeatureRing
from pyhar.kernels import native
from pyhar.kernels.cpu_entry import instruction_set
from pyhar.models import ActionInput, ModelMeta, SPNet, SPNetConfig, save_model

TINY = SPNetConfig(
    num_joints=5,
    dim=3,
    image_size=32,
    clip_frames=4,
    num_pyramids=2,
    action_pyramids=(2,),
    num_levels=3,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=16,
    num_actions=(4,),
    reinjection="logits",
)
CEILINGS = Ceilings({"float32": 1e9, "bfloat16": 2e9, "float16": 2e9, "int8": 4e9}, 1e9)
needs_int8 = pytest.mark.skipif(
    native.load() is None or not native.load().cpu_has_int8_units(),  # type: ignore[union-attr]
    reason="this CPU multiplies no int8",
)
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder with a tiny network in runs/tiny; ceilings are not measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyhar.benchmarking.ceilings.measure", lambda dtypes, device: CEILINGS)
    monkeypatch.setattr(timing, "LEAST", 2)
    torch.manual_seed(0)
    save_model(tmp_path / "runs" / "tiny" / "model.safetensors", SPNet(TINY), ModelMeta.default(TINY))
    return lambda *words: cli.run(benchmark.main, ["--seconds", "0.01", *(str(word) for word in words)])


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "speeds" / "benchmark.json").read_text())
    return found


def test_all_ways_and_types(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("runs/tiny", "--dtype", "float32", "bfloat16") == 0
    out = capsys.readouterr().out
    assert "runs/tiny, 2 pyramids, bfloat16, clip of 4 frames" in out
    assert "1 GFLOP/s float32" in out
    found = results(tmp_path)
    rows = found["rows"]
    ways = ["pyhar", "PyTorch", "PyTorch, channels_last"]
    assert [(r["input"], r["dtype"], r["implementation"].removesuffix(", clip anew")) for r in rows] == [
        (given, dtype, way)
        for given in ("image", "images", "clip", "stream")
        for dtype in ("float32", "bfloat16")
        for way in ways
    ]
    assert [r["frames"] for r in rows[::6]] == [1, 16, 4, 1]
    assert all(r["right"] and r["median_ms"] > 0 and r["samples"] >= 2 for r in rows)
    assert all(r["q1_ms"] <= r["median_ms"] <= r["q3_ms"] <= r["p95_ms"] for r in rows)
    assert all((r["speedup"] is not None) == (r["implementation"] == "pyhar") for r in rows)
    assert all(r["error"] < 1e-4 for r in rows if r["dtype"] == "float32")
    assert [r["actions"] for r in rows[::6]] == [False, False, True, True]
    clip = found["cases"][-3]
    # By hand: at least the stem, a 7x7 convolution of 3 to 8 channels on 16x16 places of 4 frames.
    stem = clip["work"]["stem 7x7"]["operations"]
    assert stem == pytest.approx(2 * 4 * 16 * 16 * 8 * 3 * 49, rel=1e-5)
    assert clip["gigaoperations"] == pytest.approx(sum(w["operations"] for w in clip["work"].values()) / 1e9, rel=1e-4)
    assert found["ceilings"] == {"operations": CEILINGS.operations, "bandwidth": 1e9}
    assert found["machine"]["versions"]["torch"]
    with (tmp_path / "speeds" / "benchmark.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


@needs_int8
def test_int8_beside_the_type_of_its_maps(run: Run, tmp_path: Path) -> None:
    assert run("runs/tiny", "--dtype", "int8", "--input", "clip", "stream") == 0
    found = results(tmp_path)
    maps = choose_dtype("auto", torch.device("cpu"))
    assert [row["implementation"] for row in found["rows"]] == 2 * ["pyhar", f"pyhar, {name_of(maps)}"]
    assert all(row["dtype"] == "int8" and row["right"] and row["median_ms"] > 0 for row in found["rows"])
    assert found["rows"][0]["error"] > 1e-4
    assert found["machine"]["instruction_set"] == instruction_set()


def test_a_wrong_answer_has_no_speed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def spoilt(model: SPNet, **options: Any) -> nn.Module:
        assert not torch.backends.cudnn.allow_tf32  # or float32 would not tell a wrong answer from a right one
        wrong = deploy(model, **options)
        wrong.parts.entry.stem.weight.mul_(1.1)
        return wrong

    monkeypatch.setattr("pyhar.benchmarking.contenders.deploy", spoilt)
    assert run("runs/tiny", "--input", "image", "--no-parts") == 1
    ours, *others = results(tmp_path)["rows"]
    assert not ours["right"]
    assert ours["median_ms"] is None
    assert all(row["median_ms"] for row in others)


def test_what_is_no_number_is_never_right(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SPNet(TINY)
    with torch.no_grad():
        model.entry.stem.weight.mul_(1e7)  # beyond float16, for plain PyTorch too
    save_model(tmp_path / "large.safetensors", model, ModelMeta.default(TINY))
    assert run("large.safetensors", "--dtype", "float16", "--input", "image", "--no-parts") == 1
    for row in results(tmp_path)["rows"]:
        assert (row["right"], row["error"], row["median_ms"]) == (False, None, None)


@needs_int8
def test_the_type_of_the_maps_is_judged_beside_int8(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(model: SPNet, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
        network = deploy(model, dtype=dtype, **options)
        if dtype == choose_dtype("auto", torch.device("cpu")):
            network.parts.entry.stem.weight.fill_(torch.nan)
        return network

    monkeypatch.setattr("pyhar.benchmarking.contenders.deploy", spoilt)
    assert run("runs/tiny", "--dtype", "int8", "--input", "image", "--no-parts") == 1
    assert [row["right"] for row in results(tmp_path)["rows"]] == [True, False]


def test_a_new_frame_of_a_stream_is_counted_as_computed(run: Run, tmp_path: Path) -> None:
    assert run("runs/tiny", "--input", "image", "clip", "stream") == 0
    found = results(tmp_path)
    image, clip, stream = found["cases"]
    assert {kind: work for kind, work in stream["work"].items() if kind != "action part"} == image["work"]
    assert stream["work"]["action part"] == clip["work"]["action part"]
    assert (image["clip_gigaoperations"], clip["clip_gigaoperations"]) == (None, None)
    assert stream["clip_gigaoperations"] == clip["gigaoperations"]
    assert stream["deployed_gigaoperations"] == pytest.approx(stream["gigaoperations"], rel=0.1)
    ours, *others = (row for row in found["rows"] if row["input"] == "stream")
    assert [row["implementation"] for row in others] == ["PyTorch, clip anew", "PyTorch, channels_last, clip anew"]
    for row, operations, work in [(ours, stream["gigaoperations"], stream["work"])] + [
        (row, clip["gigaoperations"], clip["work"]) for row in others
    ]:
        assert (row["frames"], row["actions"], row["right"]) == (1, True, True)
        assert row["frames_per_second"] == pytest.approx(1e3 / row["median_ms"], rel=1e-4)
        rate = 1e12 * operations / row["median_ms"] / CEILINGS.operations["float32"]
        assert row["share_of_rate"] == pytest.approx(rate, rel=1e-4)
        least = sum(kind["at_least_s"] for kind in work.values())
        assert row["share_of_bound"] == pytest.approx(1e3 * least / row["median_ms"], rel=1e-4)
    assert list(stream["parts_ms"]) == ["pyhar", "PyTorch, channels_last, clip anew"]
    assert all("action part" in parts and "stem" in parts for parts in stream["parts_ms"].values())


def _sees_only_the_newest(ring: FeatureRing, seen: list[ActionInput], append: Any) -> None:
    for _ in range(ring.clip_frames):
        append(ring, seen)


def _keeps_only_the_first_clip(ring: FeatureRing, seen: list[ActionInput], append: Any) -> None:
    if ring.count < ring.clip_frames:
        append(ring, seen)


@pytest.mark.parametrize("wrong", [_sees_only_the_newest, _keeps_only_the_first_clip])
def test_a_stream_that_does_not_keep_its_clip_has_no_speed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    append = FeatureRing.append
    monkeypatch.setattr(FeatureRing, "append", lambda ring, seen: wrong(ring, seen, append))
    assert run("runs/tiny", "--input", "stream", "--no-parts") == 1
    ours, *others = results(tmp_path)["rows"]
    assert not ours["right"]
    assert ours["median_ms"] is None
    assert all(row["median_ms"] for row in others)


def test_a_stream_without_actions_is_one_image_after_the_other(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("runs/tiny", "--cuts", "pyramids", "--input", "image", "stream", "--no-parts") == 0
    found = results(tmp_path)
    image, stream = found["cases"][:2]
    assert (stream["pyramids"], stream["input"], stream["clip_gigaoperations"]) == (1, "stream", None)
    assert stream["work"] == image["work"]
    ways = ["pyhar", "PyTorch", "PyTorch, channels_last"]
    assert [(r["implementation"], r["frames"], r["actions"]) for r in found["rows"][3:6]] == [
        (way, 1, False) for way in ways
    ]
    poses = SPNet(TINY).cut(1, None)
    save_model(tmp_path / "poses.safetensors", poses, ModelMeta.default(poses.config))
    capsys.readouterr()
    assert run("poses.safetensors", "--input", "image", "stream", "--no-parts") == 0
    assert "poses.safetensors: stream left out, as it answers poses alone" in capsys.readouterr().out
    assert {case["input"] for case in results(tmp_path)["cases"]} == {"image"}
    assert run("poses.safetensors", "--input", "stream") == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_cuts_do_less_and_make_a_picture(run: Run, tmp_path: Path) -> None:
    evaluation = Evaluation("rendered, test split", "CPU", clip_frames=4)
    evaluation.cuts = [CutScores(1, 1, None, 50.0, 90.0, None), CutScores(2, 3, 1, 60.0, 80.0, 70.0)]
    evaluation.save(tmp_path / "runs" / "tiny" / "evaluation.json")
    shutil.copytree(tmp_path / "runs", tmp_path / "others")
    assert run("runs/tiny", "others/tiny", "--cuts", "pyramids", "--input", "images", "clip", "--no-parts") == 0
    cases = results(tmp_path)["cases"][:4]
    assert [(c["pyramids"], c["input"]) for c in cases] == [(1, "images"), (1, "clip"), (2, "images"), (2, "clip")]
    for name in ("gigaoperations", "deployed_gigaoperations"):
        assert cases[0][name] < 0.9 * cases[2][name]
        assert cases[1][name] < 0.9 * cases[3][name]
    for case in cases:
        assert case["deployed_gigaoperations"] == pytest.approx(case["gigaoperations"], rel=0.1)
    for name in ("tiny-float32.svg", "tiny-2-float32.svg"):
        picture = (tmp_path / "speeds" / name).read_text()
        assert "frames/s (16 stills)" in picture
        assert "single-clip accuracy" in picture


def test_bad_requests(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (("penn-relaese",), "did you mean 'penn-release'"),
        (("--threads", 0), "--threads must be at least 1"),
        (("--seconds", 0), "--seconds must be more than 0"),
        (("--seconds", "nan"), "--seconds must be more than 0"),
        (("--mediapipe", "no-python"), "--mediapipe no-python: No such file or directory"),
        (("--mediapipe", sys.executable), "install it there with `pip install mediapipe==0.10.14`"),
        (("--dtype", "--threads", 2), "--dtype: name at least one"),
        (("--input", "--threads", 2), "--input: name at least one"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("runs/tiny", "--output", "runs/tiny/model.safetensors/speeds"), "model.safetensors is no folder"),
    ]:
        assert run(*words) == 2
        assert message in capsys.readouterr().err


def test_a_network_that_cannot_be_measured_is_said_before_another_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    poses = SPNet(TINY).cut(1, None)
    save_model(tmp_path / "cut.safetensors", poses, ModelMeta.default(poses.config))
    shutil.copytree(tmp_path / "runs" / "tiny", tmp_path / "runs" / "odd")
    (tmp_path / "runs" / "odd" / "evaluation.json").write_text("{}")
    for words, message in [
        (["runs/tinny"], "no model file or run directory) 'runs/tinny'"),
        (["broken.safetensors"], "broken.safetensors is not a whole safetensors file"),
        (["cut.safetensors", "--cuts", "pyramids"], "cut.safetensors: this network is cut already"),
        (["runs/odd", "--cuts", "pyramids"], "runs/odd/evaluation.json: this is not an evaluation"),
    ]:
        assert run("runs/tiny", *words) == 2
        told = capsys.readouterr()
        assert message in told.err
        assert told.out == ""
        assert not (tmp_path / "speeds").exists()


def test_a_missing_compiler_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert run("runs/tiny", "--compile", "default", "--device", "cpu") == 2
    told = capsys.readouterr()
    assert "--compile needs a C++ compiler, and none is found" in told.err
    assert told.out == ""


def test_a_network_without_poses_answers_no_stills(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = SPNet(TINY).cut(None, -1)
    save_model(tmp_path / "actions.safetensors", actions, ModelMeta.default(actions.config))
    assert run("actions.safetensors", "--no-parts") == 0
    assert "actions.safetensors: image, images left out, as it answers actions alone" in capsys.readouterr().out
    assert [case["input"] for case in results(tmp_path)["cases"]] == ["clip", "stream"]
    assert all(row["right"] for row in results(tmp_path)["rows"])


def test_a_cut_network_is_not_cut_again(tmp_path: Path) -> None:
    cut = SPNet(TINY).cut(1, None)
    assert networks.cut_places(cut, "none")[0].apply(cut, "image") is cut
    with pytest.raises(ValueError, match="cut already"):
        networks.cut_places(cut, "pyramids")


def test_parts_sum_up_to_the_whole() -> None:
    model = SPNet(TINY).eval()
    frames = networks.frames_for(model, "clip", torch.device("cpu"))
    plain, deployed = time_by_part(model, frames, 2), time_by_part(deploy(model, graph=False), frames, 2)
    assert set(plain) == set(deployed)
    assert {"entry flow, 1/2", "action part", "change of scale", REST} < set(plain)
    assert min(plain.values()) > 0
    assert not any(module._forward_hooks for module in model.modules())


def test_the_least_time_is_the_longer_of_computing_and_moving() -> None:
    model = SPNet(TINY).eval()
    frames = networks.frames_for(model, "image", torch.device("cpu"))
    computing = counting.count(model, frames, torch.float32, Ceilings({"float32": 1.0}, 1e30))
    moving = counting.count(model, frames, torch.float32, Ceilings({"float32": 1e30}, 1.0))
    half = counting.count(model, frames, torch.bfloat16, Ceilings({"bfloat16": 1e30}, 1.0))
    for kind, work in computing.items():
        assert work.at_least_s == pytest.approx(work.operations)
        assert moving[kind].at_least_s == pytest.approx(work.bytes) == pytest.approx(2 * half[kind].bytes)
    assert "depthwise 5x5" in computing
