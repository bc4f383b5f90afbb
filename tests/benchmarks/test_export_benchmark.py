"""The export benchmark: what answers otherwise than the network gets no time, and presets are kept from run to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import export
from benchmarks.machine import read_json
from pyhar.benchmarking.networks import random_network
from pyhar.inference.export import LastAnswers


@pytest.fixture
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network itself stands for the exported ones: once right, once a little wrong."""

    def contenders(network: LastAnswers, paths: dict[str, Path], frames: torch.Tensor) -> dict[str, export.Call]:
        return {
            export.PLAIN: lambda: list(network(frames)),
            "right": lambda: [value + 5e-5 for value in network(frames)],
            "wrong": lambda: [value + 2e-4 for value in network(frames)],
            "nan": lambda: [value * torch.nan for value in network(frames)],
        }

    monkeypatch.setattr(export, "contenders", contenders)
    monkeypatch.setattr(export, "export_all", lambda *_: {})


def test_only_what_is_right_is_timed(without_files: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "export.json").write_text('{"pose": {"kept": true}}')
    assert export.main(["--preset", "small", "--seconds", "0", "--out", str(tmp_path)]) == 1
    found = read_json(tmp_path / "export.json")
    assert found["pose"] == {"kept": True}
    assert found["small"]["frames"] == [1, 8, 3, 96, 96]
    assert found["small"]["device"]["type"] == "cpu"
    runs: dict[str, Any] = found["small"]["runs"]
    assert list(runs) == ["network", "right", "wrong", "nan"]
    assert {name for name, run in runs.items() if "median_ms" in run} == {"network", "right"}
    assert runs["network"]["median_speedup"] == 1
    assert runs["right"]["q1_ms"] <= runs["right"]["median_ms"] <= runs["right"]["q3_ms"]
    assert runs["right"]["samples"] >= 5
    assert 1e-4 < runs["wrong"]["error"] < 3e-4
    assert capsys.readouterr().out.count("wrong, not timed") == 2


def test_untrained_networks_have_activations_as_trained_ones() -> None:
    model = random_network("small")
    again = random_network("small")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    with torch.no_grad():
        out = model(torch.rand(1, 8, 3, 96, 96) * 2 - 1)
    confidence = out.poses[-1][..., -1]
    assert 0.02 < confidence.mean() < 0.98
    probabilities = out.actions[-1][0]
    assert probabilities.max() < 0.999
