"""The training benchmark: implementations in processes of their own, and no time for one that is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.machine import read_json


def test_only_what_is_right_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = training.IMPLEMENTATIONS["pyhar"]
    known = {
        training.PLAIN: training.IMPLEMENTATIONS[training.PLAIN],
        "pyhar": ours,
        "never right": dataclasses.replace(ours, tolerance=-1.0),
    }
    monkeypatch.setattr(training, "IMPLEMENTATIONS", known)
    options = ["--presets", "small", "--device", "cpu", "--threads", "1", "--rounds", "2", "--out", str(tmp_path)]
    assert training.main(options) == 1
    found = read_json(tmp_path / "training.json")["presets"]["small"]
    assert {name: result["status"] for name, result in found.items()} == {
        training.PLAIN: "ok",
        "pyhar": "ok",
        "never right": "wrong",
    }
    assert found[training.PLAIN]["both"]["speedup"] == 1
    both, pose, action = (found["pyhar"][kind]["median_s"] for kind in ("both", "pose", "action"))
    assert both >= max(pose, action) > 0
    assert "plain PyTorch's" in found["never right"]["reason"]
    assert "never right" in capsys.readouterr().out


def test_losses_are_compared_without_tf32_and_steps_are_timed_with_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    steps = object.__new__(training.Steps)
    steps.device, steps.how = torch.device("cpu"), training.IMPLEMENTATIONS["pyhar"]
    steps.batches = {"pose": (torch.zeros(1), {})}

    def forward(frames: torch.Tensor) -> None:
        raise RuntimeError(f"TF32 {torch.backends.cudnn.allow_tf32}")

    steps.forward = forward
    for update in (False, True):
        with pytest.raises(RuntimeError, match=f"TF32 {update}"):
            steps.step("pose", update)
