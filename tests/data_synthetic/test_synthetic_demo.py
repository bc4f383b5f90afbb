"""The command that shows the embedded data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyhar.cli import run
from pyhar.data.synthetic import ACTION_NAMES, SyntheticClips, demo
from pyhar.data.synthetic.__main__ import main
from pyhar.data.synthetic.demo import contact_sheet, measure, write_video
from pyhar.errors import UserError


def test_contact_sheet_has_a_row_per_action_and_two_of_stills() -> None:
    assert contact_sheet("test", 16, 3).shape == ((len(ACTION_NAMES) + 2) * 16, 3 * 16, 3)


def test_video_and_truth_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The upper left corner: the whole pictures take ten times as long.
    monkeypatch.setattr(demo, "WIDTH", 192)
    monkeypatch.setattr(demo, "HEIGHT", 144)
    beside = write_video(tmp_path / "person.avi", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["person.avi", "person.json"]
    facts = json.loads(beside.read_text())
    clips = SyntheticClips("test")
    assert facts["action"] == ACTION_NAMES[5]
    assert len(facts["frames"]) == clips.num_frames(5)
    sample = clips.clip(5, [7])
    assert np.allclose(facts["frames"][7]["joints_px"], sample["joints_px"][0], atol=1e-2)
    assert np.allclose(facts["frames"][7]["joints_mm"], sample["joints_mm"][0], atol=1e-1)
    assert len(facts["joints"]) == 17
    reader = cv2.VideoCapture(str(tmp_path / "person.avi"))
    ok, picture = reader.read()
    assert ok
    assert picture.shape == (144, 192, 3)
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == clips.num_frames(5)


def test_mistakes_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mkv"):
        write_video(tmp_path / "person.mkv", 0)
    with pytest.raises(IndexError, match="100000"):
        write_video(tmp_path / "person.avi", 100_000)
    assert not list(tmp_path.iterdir())


def test_command_writes_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert run(main, ["--sheet", str(sheet), "--image-size", "16"]) == 0
    assert capsys.readouterr().out.split() == [str(sheet)]
    assert cv2.imread(str(sheet)).shape == ((len(ACTION_NAMES) + 2) * 16, 8 * 16, 3)
    assert run(main, ["--sheet", str(tmp_path / "sheet.nothing"), "--image-size", "16"]) == 2
    assert run(main, ["--video", str(tmp_path / "v.avi"), "--split", "tset"]) == 2
    assert run(main, ["--video", str(tmp_path / "v.avi"), "--index", "9999"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_measure_counts_frames_of_both_kinds() -> None:
    speeds = measure(16, 1, seconds=0.1)
    assert set(speeds) == {"stills", "clips"}
    assert min(speeds.values()) > 0
