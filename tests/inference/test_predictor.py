import dataclasses
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pyhar.data.geometry import crop_map, to_crop_pixels
from pyhar.data.layouts import JointLayout
from pyhar.data.warp import View
from pyhar.deploy import DeployedSPNet
from pyhar.errors import UserError
from pyhar.inference.predictor import Predictor
from pyhar.inference.video import Frame
from pyhar.media import write_picture
from pyhar.models import ModelMeta, SPNet, SPNetConfig, load_model

POINTS = np.array([[60, 50], [250, 90], [140, 200]])
MakePredictor = Callable[..., Predictor]
Dots = Callable[..., np.ndarray]


def grey(value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, np.uint8)


def square_frames(n: int) -> list[np.ndarray]:
    """Frame i is of grey 10 i."""
    return [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(n)]


@pytest.mark.parametrize(
    "box", [None, (0, 0, 320, 240), (40, 30, 280, 230), (45.5, 20.25, 270, 220), (-50, -60, 300, 280)]
)
@pytest.mark.parametrize("size", [(320, 240), (321, 243)])
def test_poses_come_back_in_picture_pixels(
    dots: Dots, dot_predictor: MakePredictor, box: tuple | None, size: tuple
) -> None:
    answer = dot_predictor().predict_image(dots(POINTS, *size), box)
    np.testing.assert_allclose(answer.pose_px, POINTS, atol=0.2)
    assert answer.pose_px.dtype == np.float32
    np.testing.assert_allclose(answer.depth_mm, [250, 250, 250])  # (0.75 - 0.5) of 1000 mm
    assert answer.confidence.tolist() == [1, 1, 1]
    assert answer.action is None
    assert answer.box == (box or (-0.5, -0.5, size[0] - 0.5, size[1] - 0.5))


def test_large_and_small_pictures_keep_their_places(dots: Dots, dot_predictor: MakePredictor) -> None:
    large = dot_predictor().predict_image(dots(POINTS * 4, 1279, 961, sigma=20.0))
    np.testing.assert_allclose(large.pose_px, POINTS * 4, atol=0.8)
    small = dot_predictor().predict_image(dots(POINTS / 8, 40, 30, sigma=1.5))
    np.testing.assert_allclose(small.pose_px, POINTS / 8, atol=0.1)


def test_a_crop_is_black_outside_the_picture() -> None:
    crop = np.full((64, 64, 3), 99, np.uint8)
    to_pixels = to_crop_pixels(crop_map((-32.5, -0.5, 31.5, 63.5)), 64)
    View(to_pixels, 64, 64, 64).write(np.full((64, 64, 3), 200, np.uint8), crop)
    assert crop[:, :31].max() == 0
    assert crop[:, 33:].min() == 200


def test_pictures_are_read_from_files(tmp_path: Path, dots: Dots, dot_predictor: MakePredictor) -> None:
    write_picture(tmp_path / "a.png", dots(POINTS))
    answer = dot_predictor().predict_image(tmp_path / "a.png")
    assert answer.name == "a.png"
    np.testing.assert_allclose(answer.pose_px, POINTS, atol=0.2)
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        dot_predictor().predict_image(tmp_path / "b.png")


def test_single_pictures_go_in_batches_of_any_sizes(dots: Dots, dot_predictor: MakePredictor) -> None:
    predictor = dot_predictor(batch_size=3)
    pictures = [dots(POINTS + i, 320 + 7 * i, 240 + 5 * i) for i in range(7)]
    answers = list(predictor.predict_frames(pictures, clips=False))
    for i, answer in enumerate(answers):
        np.testing.assert_allclose(answer.pose_px, POINTS + i, atol=0.2)
    assert [shape[0] for shape in predictor.model.calls] == [3, 3, 1]
    assert all(len(shape) == 4 for shape in predictor.model.calls)


def test_boxes_by_index_and_by_name(dots: Dots, dot_predictor: MakePredictor) -> None:
    frames = [Frame(dots(POINTS), index, name=name) for index, name in ((0, "a.png"), (3, "b.png"), (4, "c.png"))]
    boxes = {"a.png": (20, 20, 290, 220), 3: (30, 30, 300, 230), 1: (0, 0, 5, 5)}
    answers = list(dot_predictor().predict_frames(frames, box=boxes, clips=False))
    assert [answer.box for answer in answers] == [(20, 20, 290, 220), (30, 30, 300, 230), (-0.5, -0.5, 319.5, 239.5)]
    assert [answer.index for answer in answers] == [0, 3, 4]
    for answer in answers:
        np.testing.assert_allclose(answer.pose_px, POINTS, atol=0.2)


def test_a_clip_has_one_box_around_its_frames_boxes(dots: Dots, dot_predictor: MakePredictor) -> None:
    boxes = {i: (40 + 5 * i, 30, 260 + 5 * i, 220) for i in range(4)}
    answers = list(dot_predictor().predict_frames([dots(POINTS)] * 4, box=boxes))
    assert {answer.box for answer in answers} == {(40, 30, 275, 220)}
    for answer in answers:
        np.testing.assert_allclose(answer.pose_px, POINTS, atol=0.2)


@pytest.mark.parametrize("frames", [4, 8, 9, 11])
def test_clips_follow_each_other_and_the_last_is_made_of_the_last_frames(
    dot_predictor: MakePredictor, frames: int
) -> None:
    answers = list(dot_predictor().predict_frames(square_frames(frames)))
    assert [answer.index for answer in answers] == list(range(frames))
    for i, answer in enumerate(answers):
        start = min(i // 4 * 4, frames - 4)
        assert answer.action is not None
        assert answer.action.frames == tuple(range(start, start + 4))
        expected = np.mean([10 * k for k in answer.action.frames]) / 255
        assert answer.action.probabilities[0]["wave"] == pytest.approx(expected, abs=1e-5)
        assert answer.action.probabilities[1]["sit"] == pytest.approx(expected, abs=1e-5)
    assert len({id(answer.action) for answer in answers}) == -(-frames // 4)


def test_subsampling_reads_the_span_as_interleaved_clips(dot_predictor: MakePredictor) -> None:
    predictor = dot_predictor(subsample=3, batch_size=8)
    assert predictor.clip_span == 12
    answers = list(predictor.predict_frames(square_frames(14)))
    assert [answer.index for answer in answers] == list(range(14))
    assert answers[0].action is not None
    assert answers[0].action.frames == tuple(range(12))
    assert answers[-1].action is not None
    assert answers[-1].action.frames == tuple(range(2, 14))
    assert answers[0].action.probabilities[0]["wave"] == pytest.approx(55 / 255, abs=1e-5)
    assert [shape[:2] for shape in predictor.model.calls] == [(2, 4), (1, 4)] * 2


@pytest.mark.parametrize(("frames", "seen"), [(1, 1), (3, 3), (5, 5), (11, 11)])
def test_videos_shorter_than_a_span_still_have_an_action(dot_predictor: MakePredictor, frames: int, seen: int) -> None:
    answers = list(dot_predictor(subsample=3).predict_frames(square_frames(frames)))
    assert [answer.index for answer in answers] == list(range(frames))
    assert answers[0].action is not None
    assert all(answer.action is answers[0].action for answer in answers)
    assert answers[0].action.frames == tuple(range(seen))


def test_an_empty_video_gives_nothing(dot_predictor: MakePredictor) -> None:
    assert list(dot_predictor().predict_frames([])) == []


def test_each_frame_of_a_clip_keeps_its_own_pose(dots: Dots, dot_predictor: MakePredictor) -> None:
    paths = [POINTS + np.array([3 * i, -2 * i]) for i in range(11)]
    for answer, points in zip(dot_predictor(subsample=2).predict_frames(map(dots, paths)), paths, strict=True):
        np.testing.assert_allclose(answer.pose_px, points, atol=0.2)


@pytest.mark.parametrize("options", [{"clips": True}, {"clips": False}, {"clips": True, "follow": True}])
def test_long_videos_run_in_constant_memory(dot_predictor: MakePredictor, options: dict[str, bool]) -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    most = 0

    def endless() -> Iterator[np.ndarray]:
        for i in range(60):
            frame = grey(i % 256)
            seen.append(weakref.ref(frame))
            yield frame
            del frame

    for count, _ in enumerate(dot_predictor(subsample=2, batch_size=4).predict_frames(endless(), **options), start=1):
        most = max(most, sum(ref() is not None for ref in seen))
        assert len(seen) <= count + 8  # reads no further ahead than a clip spans
    assert len(seen) == 60
    assert most <= 17  # the clip at work and the one before it


def test_the_class_of_the_chosen_head_is_named(dot_predictor: MakePredictor) -> None:
    bright = [np.full((64, 64, 3), 250, np.uint8)] * 4
    action = next(dot_predictor(action_head=1).predict_frames(bright)).action
    assert action is not None
    assert action.name == "sit"
    assert action.probability == pytest.approx(250 / 255)
    with pytest.raises(UserError, match="no action head 2: this network has 2"):
        dot_predictor(action_head=2)


def test_json(dots: Dots, dot_predictor: MakePredictor) -> None:
    answer = next(dot_predictor().predict_frames([dots(POINTS)] * 4))
    frame = answer.to_json()
    assert set(frame) == {"type", "index", "time_s", "name", "box", "pose_px", "depth_mm", "confidence", "action"}
    assert frame["type"] == "frame"
    assert np.allclose(frame["pose_px"], POINTS, atol=0.2)
    assert frame["depth_mm"] == [250.0] * 3
    assert answer.action is not None
    clip = answer.action.to_json()
    assert clip["type"] == "clip"
    assert clip["frames"] == [0, 1, 2, 3]
    assert clip["action"] == frame["action"]
    assert [set(head) for head in clip["probabilities"]] == [{"wave", "clap", "bow"}, {"sit", "stand"}]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((10, 10), np.uint8), r"expected an RGB array \(height, width, 3\), not \(10, 10\)"),
        (np.zeros((10, 10, 4), np.uint8), r"not \(10, 10, 4\)"),
        (np.zeros((0, 10, 3), np.uint8), r"not \(0, 10, 3\)"),
        ([1, 2, 3], "not list"),
        (np.zeros((10, 10, 3), np.float32), "not float32; scale it to 0..255"),
        (np.full((10, 10, 3), np.nan, np.float32), "float32 with 300 NaN values"),
        (np.zeros((10, 10, 3), np.int64), "not int64"),
    ],
)
def test_what_is_no_rgb_picture_is_an_error(dot_predictor: MakePredictor, picture: object, message: str) -> None:
    with pytest.raises(UserError, match=f"frame 0: .*{message}"):
        dot_predictor().predict_image(picture)  # type: ignore[arg-type]


def test_errors_in_the_midst_of_frames(dot_predictor: MakePredictor) -> None:
    with pytest.raises(
        UserError, match="frame 2 is 10x20, frame 0 is 32x24: the frames of one video must be of one size"
    ):
        list(dot_predictor().predict_frames([grey(1), grey(1), np.zeros((20, 10, 3), np.uint8), grey(1)]))
    with pytest.raises(UserError, match=r"box \(50, 0, 60, 10\) lies outside the picture of 32x24"):
        dot_predictor().predict_image(grey(1), (50, 0, 60, 10))
    with pytest.raises(UserError, match="has no area"):
        dot_predictor().predict_image(grey(1), (5, 5, 5, 10))
    with pytest.raises(UserError, match="leaves nothing to follow"):
        list(dot_predictor().predict_frames([grey(1)], box={}, follow=True))


def test_a_real_network_gives_the_same_from_stills_and_clips(model_file: Path) -> None:
    predictor = Predictor(model_file, device="cpu")
    frames = [np.random.default_rng(i).integers(0, 255, (50, 70, 3), dtype=np.uint8) for i in range(6)]
    in_clips = list(predictor.predict_frames(frames))
    for clip, still in zip(in_clips, predictor.predict_frames(frames, clips=False), strict=True):
        np.testing.assert_allclose(clip.pose_px, still.pose_px, atol=1e-3)
        assert still.action is None
        assert clip.action is not None
        assert sum(clip.action.probabilities[0].values()) == pytest.approx(1, abs=1e-5)
    assert predictor.layout.joints == ("hip", "right hand", "left hand")


def test_blocks_are_chosen(model_file: Path) -> None:
    model, meta = load_model(model_file)
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    full = model(torch.from_numpy(frame).permute(2, 0, 1)[None, None].expand(1, 4, -1, -1, -1) / 127.5 - 1)
    answers = list(Predictor(model, meta, device="cpu", pose_block=1, action_block=0).predict_frames([frame] * 4))
    np.testing.assert_allclose((answers[0].pose_px + 0.5) / 64, full.poses[1][0, 0, :, :2].detach(), atol=1e-4)
    assert answers[0].action is not None
    assert list(answers[0].action.probabilities[1].values()) == pytest.approx(full.actions[0][1][0].tolist(), abs=1e-4)
    alone = Predictor(model_file, device="cpu", action_block=None)
    assert not alone.recognises_actions
    assert next(alone.predict_frames([frame] * 4)).action is None
    with pytest.raises(UserError, match="no pose block 9"):
        Predictor(model_file, device="cpu", pose_block=9)


def test_the_type_is_chosen(model_file: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    found = {}
    for dtype in ("float32", "bfloat16"):
        predictor = Predictor(model_file, device="cpu", dtype=dtype)
        assert isinstance(predictor.model, DeployedSPNet)
        assert predictor.model.dtype == getattr(torch, dtype)
        found[dtype] = predictor.predict_image(frame).pose_px
    assert 0 < np.abs(found["float32"] - found["bfloat16"]).max() < 2
    with pytest.raises(UserError, match="unknown dtype 'int4'"):
        Predictor(model_file, device="cpu", dtype="int4")


def test_a_cut_model_is_used_as_it_is(model_file: Path) -> None:
    model, meta = load_model(model_file)
    cut = model.cut(2, 1)
    deployed = Predictor(cut, meta, device="cpu").model
    assert isinstance(deployed, DeployedSPNet)
    assert deployed.config == cut.config
    assert Predictor(deployed, meta, device="cpu").model is deployed
    with pytest.raises(UserError, match="cut already"):
        Predictor(cut, meta, device="cpu", pose_block=0)


def test_a_model_without_depth_or_actions() -> None:
    from pyhar.models import SPNetConfig

    config = SPNetConfig(
        num_joints=3, layout="dots", image_size=64, num_pyramids=1, num_levels=3, growth=8, stem_features=8
    )
    predictor = Predictor(SPNet(config), device="cpu")
    answer = next(predictor.predict_frames([grey(9)]))
    assert answer.depth_mm is None
    assert answer.action is None
    assert answer.to_json()["depth_mm"] is None
    assert predictor.layout.joints == ("joint 0", "joint 1", "joint 2")


def test_a_layout_of_ones_own_keeps_its_bones_and_its_root() -> None:
    config = SPNetConfig(
        num_joints=3, layout="arm", image_size=32, num_pyramids=1, num_levels=2, growth=8, stem_features=8
    )
    meta = ModelMeta("arm", ["hand", "elbow", "shoulder"], bones=[[2, 1], [1, 0]], root=2)
    layout = JointLayout("arm", ("hand", "elbow", "shoulder"), ((2, 1), (1, 0)), 2)
    assert Predictor(SPNet(config), meta, device="cpu").layout == layout
    with pytest.raises(UserError, match=r"joint layout 'arm': joint index 7 is outside 0\.\.2"):
        Predictor(SPNet(config), dataclasses.replace(meta, root=7), device="cpu")


def test_bad_models_are_errors(tmp_path: Path, model_file: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*pyhar\.train.*pyhar\.convert"):
        Predictor(tmp_path / "nowhere", device="cpu")
    (tmp_path / "model.safetensors").write_bytes(model_file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Predictor(tmp_path, device="cpu")
    model, meta = load_model(model_file)
    with pytest.raises(UserError, match=r"names \(4,\) actions, its network has \(3, 2\)"):
        Predictor(model, ModelMeta("dots", meta.joints, [list("abcd")]), device="cpu")
    with pytest.raises(UserError, match="names 1 joints, its network has 3"):
        Predictor(model, ModelMeta("dots", ["hip"], meta.action_names), device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="answer to frame 0 is not finite"):
        Predictor(model, meta, device="cpu").predict_image(grey(9))


@pytest.mark.parametrize("option", ["subsample", "batch_size"])
def test_counts_are_positive(dot_predictor: MakePredictor, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} must be at least 1, not 0"):
        dot_predictor(**{option: 0})


def test_devices(model_file: Path) -> None:
    with pytest.raises(UserError, match="unknown device 'gpu': use auto, cpu"):
        Predictor(model_file, device="gpu")
    for known_to_pytorch in ("mps", "meta"):
        with pytest.raises(UserError, match=f"'{known_to_pytorch}' is not one that pyhar computes on: use auto, cpu"):
            Predictor(model_file, device=known_to_pytorch)
    assert Predictor(model_file).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_asked_for_and_absent_is_an_error(model_file: Path) -> None:
    with pytest.raises(UserError, match=r"device 'cuda' asked for, but PyTorch .* sees no CUDA GPU: use --device cpu"):
        Predictor(model_file, device="cuda")
