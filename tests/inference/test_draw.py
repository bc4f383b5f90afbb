import numpy as np
import pytest

from pyhar.data.layouts import PA16, custom_layout
from pyhar.inference.draw import LEFT, MIDDLE, RIGHT, draw_prediction
from pyhar.inference.predictor import ActionPrediction, FramePrediction

LAYOUT = custom_layout("dots", ["hip", "right hand", "left hand"], [(0, 1), (0, 2)])
POSE = np.array([[100, 30], [40, 100], [160, 100]], np.float32)
ACTION = ActionPrediction("clap", 0.9, ({"wave": 0.1, "clap": 0.9},), (0, 1))


def prediction(**changes: object) -> FramePrediction:
    values: dict[str, object] = {
        "index": 0,
        "time_s": 0.0,
        "name": None,
        "box": (-0.5, -0.5, 199.5, 149.5),
        "pose_px": POSE,
        "depth_mm": None,
        "confidence": np.ones(3, np.float32),
        "action": None,
        "latency_s": 0.1,
    }
    return FramePrediction(**{**values, **changes})  # type: ignore[arg-type]


def picture() -> np.ndarray:
    return np.full((150, 200, 3), 128, np.uint8)


def test_joints_and_limbs_are_drawn_where_they_are_in_the_colour_of_their_side() -> None:
    before = picture()
    after = draw_prediction(before, prediction(), LAYOUT)
    assert (before == 128).all()
    for (x, y), colour in zip(POSE.astype(int), (MIDDLE, RIGHT, LEFT), strict=True):
        np.testing.assert_allclose(after[y, x], colour, atol=2)
    np.testing.assert_allclose(after[65, 70], RIGHT, atol=2)  # halfway
    np.testing.assert_allclose(after[65, 130], LEFT, atol=2)
    assert (after[120:] == 128).all()


def test_uncertain_joints_fade() -> None:
    faint = draw_prediction(picture(), prediction(confidence=np.array([1, 1, 0], np.float32)), LAYOUT)
    sure = np.abs(faint[100, 40].astype(int) - 128).sum()
    unsure = np.abs(faint[100, 160].astype(int) - 128).sum()
    assert 0 < unsure < 0.6 * sure


def test_box_action_and_rate_are_drawn_when_there_are_any() -> None:
    bare = draw_prediction(picture(), prediction(), LAYOUT)
    boxed = draw_prediction(picture(), prediction(box=(20, 20, 180, 140)), LAYOUT)
    assert (boxed != bare)[18:23, 18:30].any()
    named = draw_prediction(picture(), prediction(action=ACTION), LAYOUT)
    assert (named != bare)[:20, :90].mean() > 0.9
    timed = draw_prediction(picture(), prediction(), LAYOUT, frames_per_second=25.0)
    assert (timed != bare)[-15:, -40:].mean() > 0.9
    assert (timed != bare)[:-20].sum() == 0


def test_the_bar_grows_with_the_probability() -> None:
    yellow = []
    for p in (0.2, 0.9):
        action = ActionPrediction("clap", p, ({"clap": p, "wave": 0.0},), (0,))
        image = draw_prediction(picture(), prediction(action=action), LAYOUT)
        yellow.append((np.abs(image.astype(int) - (255, 200, 60)).sum(-1) < 10).sum())
    assert yellow[1] > 3 * yellow[0] > 0


@pytest.mark.parametrize("shift", [(1000.0, 0.0), (0.0, -1000.0), (150.0, 100.0), (-1e6, 1e6)])
def test_what_lies_outside_the_picture_is_cut_away(shift: tuple[float, float]) -> None:
    moved = prediction(pose_px=POSE + np.float32(shift), box=(150, 100, 400, 300))
    assert draw_prediction(picture(), moved, LAYOUT).shape == (150, 200, 3)


@pytest.mark.parametrize("size", [(8, 8), (20, 3000), (1200, 1600)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    pose = np.random.default_rng(0).uniform(0, 1, (16, 2)).astype(np.float32) * np.float32(size[::-1])
    answer = prediction(pose_px=pose, confidence=np.ones(16, np.float32), action=ACTION, box=(0, 0, 5, 5))
    after = draw_prediction(image, answer, PA16, frames_per_second=3.0)
    assert after.shape == image.shape
    assert after.any()
