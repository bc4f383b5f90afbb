import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyhar.errors import UserError
from pyhar.inference.predictor import Predictor
from pyhar.inference.tracking import MIN_SIDE, BoxFollower, crop_square, parse_box, read_boxes

JOINTS = np.array([[100, 50], [110, 60], [90, 120], [105, 150]], np.float32)
SURE = np.ones(4, np.float32)


def test_boxes_are_parsed() -> None:
    assert parse_box("1,2.5, 30,40") == (1.0, 2.5, 30.0, 40.0)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "5,5,5,9", "9,1,2,5", "nan,0,1,1", "0,0,inf,1"])
def test_what_is_no_box_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=r"box '.*': .*x1"):
        parse_box(text)


def test_box_files(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"0": [1, 2, 3, 4], "b.png": [5, 6, 7, 8], "7": None}))
    assert read_boxes(path) == {0: (1, 2, 3, 4), "b.png": (5, 6, 7, 8)}
    path.write_text("[[1, 2, 3, 4], null, [5, 6, 7, 8]]")
    assert read_boxes(path) == {0: (1, 2, 3, 4), 2: (5, 6, 7, 8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("3", "expected"),
        ('{"4": [1, 2, 3]}', "frame 4: expected x1,y1,x2,y2"),
        ('{"4": 9}', "frame 4: expected x1,y1,x2,y2"),
        ('{"a.png": [3, 2, 1, 4]}', "frame a.png: .* has no area"),
    ],
)
def test_bad_box_files_are_errors_that_name_the_entry(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "boxes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"boxes\.json.*{message}"):
        read_boxes(path)


def test_the_crop_is_a_square_around_the_box() -> None:
    np.testing.assert_allclose(crop_square((10, 20, 50, 100), 200, 200), [-20, 10, 80, 110])
    np.testing.assert_allclose(crop_square(None, 200, 100), [-0.5, -50.5, 199.5, 149.5])
    with pytest.raises(UserError, match="outside the picture of 200x100"):
        crop_square((10, 100, 50, 180), 200, 100)


def test_the_followed_box_holds_the_joints_and_moves_smoothly() -> None:
    follower = BoxFollower(smoothing=0.5)
    assert follower.box is None
    follower.update(JOINTS[None], SURE[None], 640, 480)
    assert follower.box == pytest.approx((85, 45, 115, 155))  # a twentieth of the height on every side
    follower.update(JOINTS[None] + np.float32([40, 0]), SURE[None], 640, 480)
    assert follower.box == pytest.approx((105, 45, 135, 155))
    for _ in range(20):
        follower.update(JOINTS[None] + np.float32([40, 0]), SURE[None], 640, 480)
    assert follower.box == pytest.approx((125, 45, 155, 155), abs=0.01)


def test_after_a_clip_the_box_reaches_as_far_ahead_as_the_person_came() -> None:
    follower = BoxFollower()
    clip = JOINTS + np.arange(0, 40, 10, dtype=np.float32)[:, None, None] * np.float32([1, 0])
    follower.update(clip, np.ones((4, 4), np.float32), 640, 480)
    # The last joints, x 120..140, and those 20 further, which is the most that a person 20 wide is taken to move.
    assert follower.box == pytest.approx((115, 45, 165, 155))


def test_uncertain_joints_do_not_count() -> None:
    follower = BoxFollower()
    joints = np.concatenate([JOINTS, [[600, 400]]]).astype(np.float32)
    follower.update(joints[None], np.array([[1, 1, 1, 1, 0.1]], np.float32), 640, 480)
    assert follower.box == pytest.approx((85, 45, 115, 155))


@pytest.mark.parametrize("start", [None, (5.0, 5.0, 50.0, 50.0)])
def test_a_lost_person_is_looked_for_at_the_start_again(start: tuple[float, float, float, float] | None) -> None:
    follower = BoxFollower(start)
    follower.update(JOINTS[None], SURE[None], 640, 480)
    assert follower.box != start
    follower.update(JOINTS[None], SURE[None] * 0.1, 640, 480)
    assert follower.box == start
    follower.update(JOINTS[None] + 1000, SURE[None], 640, 480)
    assert follower.box == start


def test_a_followed_box_never_collapses() -> None:
    follower = BoxFollower()
    follower.update(np.full((1, 4, 2), 30, np.float32), SURE[None], 640, 480)
    assert follower.box == pytest.approx((30 - MIN_SIDE / 2, 30 - MIN_SIDE / 2, 30 + MIN_SIDE / 2, 30 + MIN_SIDE / 2))


@pytest.mark.parametrize("clips", [False, True])
def test_a_person_who_walks_is_followed_to_the_pixel(
    dots: Callable[..., np.ndarray], dot_predictor: Callable[..., Predictor], clips: bool
) -> None:
    constellation = np.array([[0, 0], [30, 40], [-20, 60]])
    paths = [constellation + np.array([60 + 4 * t, 50 + 2 * t]) for t in range(24)]
    answers = list(
        dot_predictor().predict_frames((dots(points, sigma=4.0) for points in paths), follow=True, clips=clips)
    )
    assert len(answers) == 24
    for answer, points in zip(answers, paths, strict=True):
        np.testing.assert_allclose(answer.pose_px, points, atol=0.5)
        assert answer.confidence.tolist() == [1, 1, 1]
    assert answers[0].box == (-0.5, -0.5, 319.5, 239.5)
    x1, y1, x2, y2 = answers[-1].box
    assert 40 < x2 - x1 < 120
    assert 40 < y2 - y1 < 120
