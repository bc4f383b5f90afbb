"""The command `pyhar export`, and what it says to what cannot be exported."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyhar import cli, export
from pyhar.errors import UserError
from pyhar.inference.export import export_network
from pyhar.models import ModelMeta, SPNet, SPNetConfig, save_model

CONFIG = SPNetConfig(
    image_size=32,
    clip_frames=2,
    num_pyramids=2,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(2,),
    num_actions=(3,),
    pose_features=16,
    appearance_features=16,
)
META = ModelMeta.default(CONFIG)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained network."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_model(folder / "model.safetensors", SPNet(CONFIG), META)
    return folder


@pytest.mark.parametrize(
    ("options", "summary"),
    [
        (
            ["--format", "torch"],
            "frames (batch, 2, 3, 32, 32) to poses (batch, 2, 16, 3), action_0 (batch, 3); answers within ",
        ),
        (
            ["--format", "torch", "--stills", "--image-size", "64", "--no-dynamic-batch", "--pose-block", "0"],
            "frames (1, 3, 64, 64) to poses (1, 16, 3); answers within ",
        ),
        (
            ["--format", "torch", "--clip-frames", "4", "--pose-block", "none"],
            "frames (batch, 4, 3, 32, 32) to action_0 (batch, 3); answers within ",
        ),
        (["--format", "torch", "--action-block", "none"], "frames (batch, 3, 32, 32) to poses (batch, 16, 3); "),
    ],
)
def test_command(
    options: list[str], summary: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.pt2"
    assert cli.run(cli.main, ["export", str(run), "-o", str(path), *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{path}: ")
    assert f" MB, {summary}" in captured.out
    assert captured.out.count("\n") == 1
    torch.export.load(path)


def test_onnx_is_the_format_unless_another_is_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(export.main, [str(run / "model.safetensors"), "--output", str(tmp_path / "tiny.onnx")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err == ""
    assert (tmp_path / "tiny.onnx").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.pt2"], r"a file of format onnx is called \*\.onnx, not a\.pt2"),
        (["-o", "a.onnx", "--format", "torch"], r"a file of format torch is called \*\.pt2, not a\.onnx"),
        (["-o", "nowhere/a.onnx"], r"there is no folder nowhere to write a\.onnx to: make it first"),
        (["-o", "a.onnx", "--image-size", "40"], "image_size must be a multiple of 16 for this network, not 40"),
        (["-o", "a.onnx", "--image-size", "0"], "image_size must be at least 1, not 0"),
        (["-o", "a.onnx", "--clip-frames", "0"], "clip_frames must be at least 1, not 0"),
        (["-o", "a.onnx", "--pose-block", "2"], r"there is no pose block 2: this network has 2, counted from 0"),
        (["-o", "a.onnx", "--action-block", "-2"], "there is no action block -2: this network has 1"),
        (["-o", "a.onnx", "--device", "tpu"], "unknown device 'tpu'"),
        (["-o", "a.onnx", "--dtype", "bfloat16"], "format onnx in bfloat16 on a CPU: use float32 or float16"),
        (["-o", "a.onnx", "--pose-block", "none", "--action-block", "none"], "a cut network needs at least one output"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        export.main([str(run), *arguments])
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(export.main, [str(tmp_path / "no"), "-o", str(tmp_path / "a.onnx")]) == 2
    assert capsys.readouterr().err.startswith(f"error: no model at {tmp_path / 'no'}: train one")


def test_an_unknown_format(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        export.main([str(run), "-o", str(tmp_path / "a.onnx"), "--format", "tflite"])
    assert exit_info.value.code == 2
    assert "tflite" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"unknown export format 'onx'; did you mean 'onnx'\?"):
        export_network(SPNet(CONFIG), META, tmp_path / "a.onnx", "onx")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (SPNet(CONFIG).cut(0, None), {"pose_block": 0}, "cut already: leave the blocks out, or export the full one"),
        (SPNet(CONFIG).cut(None, 0), {"stills": True}, "predicts no poses.*export it for clips"),
        (SPNet(CONFIG), {"pose_block": None, "stills": True}, "needs at least one output"),
        (SPNet(CONFIG), {"batch": 0}, "batch must be at least 1, not 0"),
    ],
)
def test_networks_without_what_is_asked_for(
    model: SPNet, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export_network(model, META, tmp_path / "a.pt2", "torch", **options)
    assert not list(tmp_path.iterdir())


def test_a_cut_network_is_exported_as_it_is(tmp_path: Path) -> None:
    cut = SPNet(CONFIG).eval().cut(0, 0)
    done = export_network(cut, META, tmp_path / "a.pt2", "torch")
    assert list(done.outputs) == ["poses", "action_0"]
    frames = torch.rand(2, 2, 3, 32, 32)
    poses, action = torch.export.load(done.path).module()(frames)
    with torch.no_grad():
        out = cut(frames)
    torch.testing.assert_close(poses, out.poses[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(action, out.actions[0][0], rtol=0, atol=1e-4)
    done = export_network(cut, META, tmp_path / "b.pt2", "torch", stills=True)
    assert done.outputs == {"poses": ("batch", 16, 3)}


def test_a_network_that_answers_with_nan(tmp_path: Path) -> None:
    model = SPNet(CONFIG)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError, match="the network's poses are not finite: its weights are damaged"):
        export_network(model, META, tmp_path / "a.pt2", "torch")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'^ONNX files need {package}, which is not installed: pip install "pyhar\[export\]"$'
    with pytest.raises(UserError, match=message):
        export_network(SPNet(CONFIG), META, tmp_path / "a.onnx")


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    from torch._inductor import config

    message = r"AOTInductor needs a C\+\+ compiler, and none is found.*CXX"
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(UserError, match=message):
        export_network(SPNet(CONFIG), META, tmp_path / "a.pt2", "aoti")
    assert not list(tmp_path.iterdir())


def test_names_of_another_network(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, num_actions=(4,))
    with pytest.raises(UserError, match=r"names 16 joints and \(4,\) actions, its network has 16 and \(3,\)"):
        export_network(SPNet(CONFIG), ModelMeta.default(other), tmp_path / "a.pt2", "torch")
