import contextlib
import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyhar.data.geometry import apply_map, crop_map
from pyhar.deploy import DeployedSPNet
from pyhar.errors import UserError
from pyhar.inference.predictor import Predictor
from pyhar.inference.streaming import StreamingPredictor
from pyhar.inference.tracking import crop_square, union
from pyhar.inference.video import Frame
from pyhar.models import SPNet, SPNetConfig, load_model

T = 4  # frames of a clip of the tiny networks
POINTS = np.array([[60, 50], [250, 90], [140, 200]])
MakeStream = Callable[..., StreamingPredictor]
Dots = Callable[..., np.ndarray]


def noise(n: int, width: int = 70, height: int = 50) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, height, width, 3), dtype=np.uint8))


def greys(n: int) -> list[np.ndarray]:
    """Frame i is of grey 10 i."""
    return [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(n)]


@contextlib.contextmanager
def spoilt(model: DeployedSPNet, part: str) -> Iterator[None]:
    """Not a number for the first weight whose name has `part` in it."""
    weight = next(value for name, value in model.state_dict().items() if part in name and value.dim() == 4)
    good = weight.clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        model.graphs.clear()
        try:
            yield
        finally:
            weight.copy_(good)
            model.graphs.clear()


def sharp(model: SPNet) -> SPNet:
    """The model with actions that differ from clip to clip: random weights alone answer much the same to all."""
    with torch.no_grad():
        for visit in model.path:
            if visit.block.action is not None:
                for head in visit.block.action.heads:
                    head.weight.mul_(10)
    return model


def probabilities(action: Any) -> np.ndarray:
    return np.concatenate([list(head.values()) for head in action.probabilities])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"])
@pytest.mark.parametrize("subsample", [1, 2, 3])
@pytest.mark.parametrize("blocks", [{}, {"pose_block": 1, "action_block": 0}, {"pose_block": 0, "action_block": 2}])
@pytest.mark.parametrize("decoupled", [False, True])
def test_a_stream_answers_as_clips_do(
    model_file: Path, subsample: int, blocks: dict[str, int], decoupled: bool, device: str
) -> None:
    model, meta = load_model(model_file)
    model = sharp(model).decouple() if decoupled else sharp(model)
    stream = StreamingPredictor(model, meta, device=device, subsample=subsample, **blocks)
    clips = Predictor(model, meta, device=device, **blocks)
    frames, box = noise(14), (5, 3, 66, 47)
    answers = list(stream.predict_frames(frames, box=box))
    span = (T - 1) * subsample + 1
    assert stream.clip_span == span
    assert [answer.action for answer in answers[: span - 1]] == [None] * (span - 1)
    found = []
    for end in range(span, len(frames) + 1):
        indices = list(range(end - span, end, subsample))
        expected = list(clips.predict_frames([Frame(frames[i], i) for i in indices], box=box))
        action = answers[end - 1].action
        assert action is not None
        assert expected[-1].action is not None
        assert action.frames == expected[-1].action.frames == tuple(indices)
        assert action.name == expected[-1].action.name
        found.append(probabilities(action))
        np.testing.assert_allclose(found[-1], probabilities(expected[-1].action), atol=1e-5)
        for i, clip in zip(indices, expected, strict=True):
            np.testing.assert_allclose(answers[i].pose_px / 70, clip.pose_px / 70, atol=1e-5)
            np.testing.assert_allclose(answers[i].depth_mm, clip.depth_mm, atol=0.01)
            np.testing.assert_allclose(answers[i].confidence, clip.confidence, atol=1e-5)
            assert answers[i].box == clip.box
    assert np.ptp(found, axis=0).max() > 1e-3


def test_every_frame_is_computed_once_and_actions_as_often_as_asked_for(dot_stream: MakeStream) -> None:
    stream = dot_stream(subsample=2, action_every=3)
    answers = list(stream.predict_frames(greys(16)))
    assert stream.model.calls == [(1, 3, 64, 64)] * 16
    assert len(stream.model.clips) == 4
    ends = [None if answer.action is None else answer.action.frames[-1] for answer in answers]
    assert ends == [None] * 6 + [6, 6, 6, 9, 9, 9, 12, 12, 12, 15]
    for answer in answers[6:]:
        assert answer.action is not None
        assert answer.action.frames == tuple(range(answer.action.frames[-1] - 6, answer.action.frames[-1] + 1, 2))
        expected = np.mean([10 * i for i in answer.action.frames]) / 255
        assert answer.action.probabilities[0]["wave"] == pytest.approx(expected, abs=1e-5)


def test_frames_may_be_given_one_by_one(dot_stream: MakeStream) -> None:
    stream, frames = dot_stream(), greys(6)
    expected = list(dot_stream().predict_frames(frames))
    for repeat in range(2):
        answers = [stream.predict_frame(frame) for frame in frames]
        for answer, other in zip(answers, expected, strict=True):
            assert (answer.index, answer.action) == (other.index, other.action)
            np.testing.assert_array_equal(answer.pose_px, other.pose_px)
        stream.reset()
        assert repeat in (0, 1)
    assert stream.predict_frame(Frame(frames[0], 7, 0.25, "a.png")).to_json()["name"] == "a.png"


def test_the_ring_stays_where_it_is(dot_stream: MakeStream) -> None:
    stream = dot_stream(subsample=3)
    list(stream.predict_frames(greys(2)))
    places = [part.data_ptr() for block in stream._ring._blocks for part in block]
    shapes = [tuple(part.shape[:2]) for block in stream._ring._blocks for part in block]
    assert shapes == [(3, 2 * T)] * 3
    list(stream.predict_frames(greys(25)))
    assert [part.data_ptr() for block in stream._ring._blocks for part in block] == places


def test_poses_alone(model_file: Path) -> None:
    stream = StreamingPredictor(model_file, device="cpu", action_block=None)
    frames = noise(5)
    expected = Predictor(model_file, device="cpu", action_block=None).predict_frames(frames)
    for answer, other in zip(stream.predict_frames(frames), expected, strict=True):
        np.testing.assert_allclose(answer.pose_px, other.pose_px, atol=1e-3)
        assert answer.action is None
    config = SPNetConfig(num_joints=3, image_size=64, num_pyramids=1, num_levels=3, growth=8, stem_features=8)
    (answer,) = StreamingPredictor(SPNet(config), device="cpu").predict_frames(frames[:1])
    assert (answer.action, answer.depth_mm) == (None, None)


def test_single_pictures_do_not_belong_to_the_stream(dot_stream: MakeStream) -> None:
    stream = dot_stream()
    for frame in greys(3):
        stream.predict_frame(frame)
    assert stream.predict_image(np.full((30, 40, 3), 200, np.uint8)).action is None
    action = stream.predict_frame(greys(4)[3]).action
    assert action is not None
    assert action.frames == (0, 1, 2, 3)
    assert all(answer.action is None for answer in stream.predict_frames(greys(6), clips=False))


def test_a_pause_begins_a_new_clip(dot_stream: MakeStream) -> None:
    def has_action(times: list[float | None], **options: float) -> list[bool]:
        frames = [Frame(frame, i, t) for i, (frame, t) in enumerate(zip(greys(len(times)), times, strict=True))]
        return [answer.action is not None for answer in dot_stream(**options).predict_frames(frames)]

    assert has_action([0, 0.9, 1.8, 2.7, 4, 5, 6, 7, 8]) == [False] * 3 + [True] + [False] * 3 + [True] * 2
    assert has_action([0, 1, 2, 3, 2, 3, 4, 5]) == [False] * 3 + [True] + [False] * 3 + [True]  # back in time
    assert has_action([0, 9, 18, 27, 36], max_pause_s=10) == [False] * 3 + [True] * 2
    assert has_action([None] * 5) == [False] * 3 + [True] * 2


def test_a_person_lost_or_found_again_begins_a_new_clip(dot_stream: MakeStream, dots: Dots) -> None:
    dark = np.zeros((240, 320, 3), np.uint8)
    frames = [dots(POINTS)] * 5 + [dark] * 2 + [dots(POINTS)] * 6
    answers = list(dot_stream().predict_frames(frames, follow=True))
    ends = [None if answer.action is None else answer.action.frames for answer in answers]
    # Frame 5 shows nobody, frame 7 somebody again: both still belong to the clip before.
    assert ends == [None] * 3 + [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)] + [None] * 5 + [
        (8, 9, 10, 11),
        (9, 10, 11, 12),
    ]
    whole = (-0.5, -0.5, 319.5, 239.5)
    assert [answer.box == whole for answer in answers] == [True] + [False] * 5 + [True] * 2 + [False] * 5
    # With a fixed box nobody is lost: what a clip shows is said as it is.
    fixed = list(dot_stream().predict_frames(frames))
    assert all(answer.action is not None for answer in fixed[3:])


def test_a_scene_without_anybody_is_answered_too(dot_stream: MakeStream) -> None:
    answers = list(dot_stream().predict_frames(greys(6), follow=True))
    assert [answer.action is not None for answer in answers] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("subsample", [1, 2])
def test_a_moving_box_gives_the_coordinates_of_the_box_around_all(
    dot_stream: MakeStream, dots: Dots, subsample: int
) -> None:
    boxes = {i: (20 + 4 * i, 20 + 2 * i, 270 + 3 * i, 215 + i) for i in range(7)}
    paths = [POINTS + np.array([2 * i, -i]) for i in range(7)]
    stream = dot_stream(subsample=subsample)
    answers = list(stream.predict_frames([dots(path) for path in paths], box=boxes))
    for answer, path in zip(answers, paths, strict=True):
        np.testing.assert_allclose(answer.pose_px, path, atol=0.2)
        assert answer.box == boxes[answer.index]
    indices = [6 - k * subsample for k in (3, 2, 1, 0) if 6 - k * subsample >= 0]
    to_crop = torch.from_numpy(crop_map(crop_square(union([boxes[i] for i in indices]), 320, 240)))
    expected = apply_map(to_crop, torch.tensor(np.array([paths[i] for i in indices]), dtype=torch.float32))
    seen = stream.model.clips[-1].coordinates
    assert seen.shape == (1, T, 3, 3)
    torch.testing.assert_close(seen[0, ..., :2], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[0, ..., 2], torch.full((T, 3), 0.75))


def test_a_fixed_box_leaves_the_coordinates_as_they_are(dot_stream: MakeStream, dots: Dots) -> None:
    stream = dot_stream()
    list(stream.predict_frames([dots(POINTS)] * T, box=(10, 10, 300, 230)))
    to_crop = torch.from_numpy(crop_map(crop_square((10, 10, 300, 230), 320, 240)))
    expected = apply_map(to_crop, torch.tensor(POINTS, dtype=torch.float32))
    torch.testing.assert_close(stream.model.clips[-1].coordinates[0, 0, :, :2], expected, atol=1e-3, rtol=0)


def test_a_box_may_follow_one_by_one(dot_stream: MakeStream, dots: Dots) -> None:
    paths = [POINTS + np.array([5 * i, 0]) for i in range(8)]
    stream = dot_stream()
    stream.reset(box=(20, 20, 290, 230), follow=True)
    answers = [stream.predict_frame(dots(path)) for path in paths]
    assert answers[0].box == (20, 20, 290, 230)
    for answer, path in zip(answers, paths, strict=True):
        np.testing.assert_allclose(answer.pose_px, path, atol=0.3)
    for before, answer in itertools.pairwise(answers[1:]):
        assert before.box[0] < answer.box[0]


def test_an_empty_stream_gives_nothing(dot_stream: MakeStream) -> None:
    assert list(dot_stream().predict_frames([])) == []
    assert list(dot_stream().predict_frames([], ahead=2)) == []


def test_a_frame_that_is_wrong_is_an_error_and_the_stream_goes_on(dot_stream: MakeStream) -> None:
    stream = dot_stream()
    for frame in greys(5):
        stream.predict_frame(frame)
    with pytest.raises(UserError, match="frame 5 is 10x20, frame 4 is 64x64: the frames of one video must be of one"):
        stream.predict_frame(np.zeros((20, 10, 3), np.uint8))
    answers = [stream.predict_frame(frame) for frame in greys(5)]
    assert [answer.index for answer in answers] == [5, 6, 7, 8, 9]
    assert [answer.action is not None for answer in answers] == [False] * 3 + [True] * 2  # a frame is missing between
    with pytest.raises(UserError, match="frame 10: expected uint8 values"):
        stream.predict_frame(np.zeros((64, 64, 3), np.float32))
    stream.reset()
    assert stream.predict_frame(np.zeros((20, 10, 3), np.uint8)).index == 0


def test_answers_that_are_not_finite_are_errors_and_leave_no_trace(model_file: Path) -> None:
    model, meta = load_model(model_file)
    predictor, stream = Predictor(model, meta, device="cpu"), StreamingPredictor(model, meta, device="cpu")
    frames = noise(5)
    expected = list(stream.predict_frames(frames))[-1].action
    for source in (predictor, stream):
        with spoilt(source.model, ".action."), pytest.raises(UserError, match="clip of frames 0 to 3 is not finite"):
            list(source.predict_frames(frames))
    with spoilt(stream.model, "entry.stem"), pytest.raises(UserError, match="answer to frame 0 is not finite"):
        stream.predict_frame(Frame(frames[0], 0))
    answers = [stream.predict_frame(Frame(frame, i)) for i, frame in enumerate(frames)]
    assert [answer.action is None for answer in answers] == [True] * 3 + [False] * 2
    assert expected is not None
    np.testing.assert_allclose(probabilities(answers[-1].action), probabilities(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_every": 0}, "action_every must be at least 1, not 0"),
        ({"max_pause_s": 0}, "max_pause_s must be more than 0, not 0"),
        ({"max_pause_s": float("nan")}, "max_pause_s must be more than 0, not nan"),
        ({"subsample": 0}, "subsample must be at least 1, not 0"),
    ],
)
def test_options_that_make_no_sense(dot_stream: MakeStream, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dot_stream(**options)


def test_boxes_that_make_no_sense(dot_stream: MakeStream) -> None:
    with pytest.raises(UserError, match="leaves nothing to follow"):
        dot_stream().reset(box={}, follow=True)
    with pytest.raises(UserError, match="lies outside the picture of 64x64"):
        list(dot_stream().predict_frames(greys(1), box=(70, 0, 80, 10)))


@pytest.mark.parametrize("kind", [Predictor, StreamingPredictor])
@pytest.mark.parametrize("options", [{}, {"follow": True}, {"clips": False}])
def test_reading_ahead_changes_nothing_but_the_threads(
    kind: type[Predictor], options: dict[str, bool], model_file: Path
) -> None:
    predictor, frames = kind(model_file, device="cpu", batch_size=4), noise(11)
    expected = list(predictor.predict_frames(frames, **options))
    found = list(predictor.predict_frames(iter(frames), ahead=2, **options))
    assert len(found) == 11
    for answer, other in zip(found, expected, strict=True):
        assert dataclasses.replace(answer, latency_s=0, pose_px=0, depth_mm=0, confidence=0) == dataclasses.replace(
            other, latency_s=0, pose_px=0, depth_mm=0, confidence=0
        )
        np.testing.assert_array_equal(answer.pose_px, other.pose_px)

    def broken() -> Iterator[np.ndarray]:
        yield from frames[:5]
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="the disk is gone"):
        list(predictor.predict_frames(broken(), ahead=2, **options))
    with pytest.raises(UserError, match="frame 5 is 9x9, frame"):
        list(predictor.predict_frames([*frames[:5], np.zeros((9, 9, 3), np.uint8)], ahead=1))


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("options", [{}, {"follow": True}])
def test_a_long_stream_runs_in_constant_memory(dot_stream: MakeStream, ahead: int, options: dict[str, bool]) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    made = most = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal made, most
        for i in range(80):
            frame = np.full((24, 32, 3), i, np.uint8)
            alive.append(weakref.ref(frame))
            made, most = made + 1, max(most, sum(ref() is not None for ref in alive))
            yield frame
            del frame

    for count, _ in enumerate(dot_stream(subsample=2).predict_frames(endless(), ahead=ahead, **options), start=1):
        assert made <= count + 2 * ahead + 2
    assert made == 80
    assert most <= 3 + 2 * ahead + 2
