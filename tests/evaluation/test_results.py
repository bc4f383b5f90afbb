from __future__ import annotations

import json
import math

import pytest

from pyhar.errors import UserError
from pyhar.evaluation.results import ActionScores, CutScores, Evaluation, PoseScores, SampleScore


def example() -> Evaluation:
    return Evaluation(
        data="stand-in, test split",
        device="CPU, 1 threads",
        versions={"torch": "2"},
        joints=["pelvis", "neck"],
        action_names=["clap", "wave"],
        thresholds=[0.0, 0.5, 1.0],
        pose_samples=3,
        clips=4,
        multi_clips=6.5,
        poses=[
            PoseScores(1, 2, pckh=50.0, pckh_by_joint={"neck": 50.0}, pckh_curve={"neck": [0.0, 50.0, None]}),
            PoseScores(2, 1, pckh=87.5, mpjpe=61.25, mpjpe_by_action={"clap": 60.0}, not_finite=2),
        ],
        actions=[ActionScores(2, 1, 75.0, 80.0, {"clap": 75.0}, [[1, 1], [0, 2]])],
        cuts=[CutScores(2, 1, 0, 87.5, 61.25, 75.0, 210.5)],
        worst_poses=[SampleScore(2, "stand-in/002", None)],
        skipped=1,
        skipped_because=["video 1 is broken"],
        seconds=1.5,
    )


def test_json_and_back() -> None:
    found = Evaluation.from_json(example().to_json())
    assert found == example()
    assert found.pose == found.poses[-1]
    assert found.action == found.actions[0]


def test_json_holds_no_nan_and_keeps_lists_of_numbers_on_a_line() -> None:
    made = example()
    made.poses[0].pckh = math.nan
    made.seconds = math.inf
    text = made.to_json()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert values["poses"][0]["pckh"] is None
    assert values["seconds"] is None
    assert "[ 0.0, 50.0, null ]" in text
    assert values["joints"] == ["pelvis", "neck"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "unknown": 3}', "3"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="evaluat"):
        Evaluation.from_json(text)


def test_an_empty_evaluation_has_no_result() -> None:
    nothing = Evaluation("", "")
    assert nothing.pose is None
    assert nothing.action is None
    assert Evaluation.from_json(nothing.to_json()) == nothing
