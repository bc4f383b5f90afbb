"""The benchmark on a video: how the video is played, and what is written of each way."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import live
from benchmarks.machine import read_json
from pyhar.models import ModelMeta, SPNet, SPNetConfig, save_model

TINY = SPNetConfig(
    image_size=32,
    clip_frames=2,
    num_pyramids=1,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1,),
    num_actions=(3,),
    pose_features=16,
    appearance_features=16,
)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six frames, each brighter than the one before."""
    path = tmp_path / "grey.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for n in range(6):
        writer.write(np.full((48, 64, 3), 40 * n, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("paced", [False, True])
def test_a_video_is_played_over_and_over(paced: bool, video: Path) -> None:
    played = live.Played(video, 60.0, live=paced)
    frames = iter(played)
    found = list(itertools.islice(frames, 14))
    assert [frame.index for frame in found] == list(range(14))
    assert [round(float(frame.rgb.mean()) / 40) for frame in found] == [n % 6 for n in range(14)]
    assert [frame.time_s for frame in found] == [n / 50 for n in range(14)]
    played.stop()
    assert list(frames) == []


def test_rows(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "tiny.safetensors", SPNet(TINY), ModelMeta.default(TINY))
    out = tmp_path / "live.json"
    words = [video, "--origin", "made", "--models", tmp_path / "tiny.safetensors", "--dtypes", "float32"]
    assert live.main([*map(str, words), "--seconds", "0.3", "--out", str(out)]) == 0
    found = read_json(out)
    assert found["video"] == {
        "name": "grey.avi", "origin": "made", "box": None, "fps": 50.0, "width": 64, "height": 48, "frames": 6
    }  # fmt: skip
    assert [(case["model"], case["dtype"], case["way"]) for case in found["cases"]] == [
        ("tiny", "float32", way) for way in live.WAYS
    ]
    for case in found["cases"]:
        times = case["latency_ms"]
        assert case["frames"] >= 1
        assert 0 < times["median"] <= times["p95"] <= times["max"]
        assert ("dropped" in case) == ("arrival_ms" in case) == case["way"].startswith("camera")
    assert capsys.readouterr().out.count("frames/s") == len(live.WAYS)
