"""Samples out of an index: every key, masks, crops, frames chosen, mistakes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marked_media import (
    GREEN,
    RED,
    WHITE,
    centroid,
    joints,
    picture,
    small_index,
    three_media,
    write_picture,
    write_video,
)
from torch.utils.data import DataLoader

from pyhar.data.augment import PAPER_AUGMENTATION, RELEASE_AUGMENTATION, RELEASE_ERASING, Augmentation
from pyhar.data.geometry import apply_map, project
from pyhar.data.index import Index
from pyhar.data.indexed import IndexedClips, IndexedPoses
from pyhar.data.layouts import PA16, PA17
from pyhar.data.sample import TIMED_KEYS, Sample
from pyhar.errors import UserError

SIZE, J = 48, 16
TIMED = {
    "frames": ((SIZE, SIZE, 3), torch.uint8),
    "pose": ((J, 3), torch.float32),
    "pose_valid": ((J, 3), torch.bool),
    "confidence": ((J,), torch.float32),
    "visible": ((J,), torch.bool),
    "joints_px": ((J, 2), torch.float32),
    "joints_mm": ((J, 3), torch.float32),
    "root_depth": ((), torch.float32),
    "head_size": ((), torch.float32),
}
ONCE = {
    "colour_power": ((3,), torch.float32),
    "action": ((), torch.int64),
    "action_head": ((), torch.int64),
    "camera": ((9,), torch.float32),
    "to_crop": ((3, 3), torch.float64),
    "box": ((4,), torch.float32),
    "subject": ((), torch.int64),
    "index": ((), torch.int64),
}
WRIST, LEFT_WRIST = PA16.index("right wrist"), PA16.index("left wrist")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def index(root: Path) -> Index:
    return three_media(root)


def test_samples_hold_every_key_with_its_shape_and_type(index: Index, root: Path) -> None:
    still, clip = IndexedPoses(index, root, "train", SIZE)[1, 5], IndexedClips(index, root, "train", SIZE, 3)[1, 5]
    assert tuple(TIMED) == TIMED_KEYS
    for sample, leading in ((still, ()), (clip, (3,))):
        assert set(sample) == set(Sample.__annotations__)
        for expected, lead in ((TIMED, leading), (ONCE, ())):
            for name, (shape, kind) in expected.items():
                value = sample[name]  # type: ignore[literal-required]
                assert (tuple(value.shape), value.dtype) == (lead + shape, kind), name
        assert sample["action"] == 1
        assert sample["index"] == 1
        assert torch.isfinite(sample["pose"]).all()
    assert still["name"].startswith("fake/b#")
    assert clip["name"] == "fake/b"
    assert IndexedPoses(index, root, "train", SIZE)[0]["name"] == "fake/a"
    batch = next(iter(DataLoader(IndexedClips(index, root, "train", SIZE, 3), batch_size=2)))  # type: ignore[arg-type]
    assert batch["frames"].shape == (2, 3, SIZE, SIZE, 3)


def test_what_is_unknown_is_masked(index: Index, root: Path) -> None:
    sample = IndexedPoses(index, root, "train", SIZE, augment=False)[0]
    known = torch.zeros(J, dtype=torch.bool)
    known[[WRIST, LEFT_WRIST]] = True
    assert torch.equal(sample["pose_valid"][:, 0], known)
    assert torch.equal(sample["pose_valid"][:, 1], known)
    assert not sample["pose_valid"][:, 2].any()  # flat data gives no depth
    assert not sample["pose"][~sample["pose_valid"]].any()
    assert torch.equal(sample["confidence"] == 1, known)
    assert torch.equal(sample["joints_px"].isnan().any(-1), ~known)
    assert sample["joints_mm"].isnan().all()
    assert sample["root_depth"].isnan()
    assert sample["camera"].isnan().all()
    assert (sample["head_size"], sample["subject"], sample["action"]) == (11, 3, -1)


def test_depth_is_relative_to_the_root_and_two_metres_span_the_range(index: Index, root: Path) -> None:
    sample = IndexedPoses(index, root, "test", SIZE, every=2)[1]
    assert sample["name"] == "fake/c#2"
    assert sample["pose_valid"][:, 2].nonzero().flatten().tolist() == [0, 8]
    assert sample["pose"][0, 2] == 0.5
    assert sample["pose"][8, 2] == pytest.approx(0.5 + 400 / 2000)
    assert sample["root_depth"] == 3000
    # Known in depth alone: no place in the crop, so no confidence.
    without_root = replace(index, joints_mm=np.where(np.arange(16)[:, None] == 0, np.nan, index.joints_mm))
    assert not IndexedPoses(without_root.select([2]), root, "test", SIZE)[0]["pose_valid"][:, 2].any()
    assert sample["camera"].tolist() == [500, 500, 50, 50, 0, 0, 0, 0, 0]


def test_the_crop_shows_the_box_with_its_margin(index: Index, root: Path) -> None:
    index.notes["box_margin"] = 0.5
    sample = IndexedPoses(index, root, "train", SIZE, augment=False)[0]
    assert sample["box"].tolist() == [20, 10, 100, 80]
    corners = apply_map(sample["to_crop"], torch.tensor([[0.0, -15.0], [120.0, 105.0]], dtype=torch.float64))
    torch.testing.assert_close(corners, torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64))


def test_without_a_box_the_joints_make_it(index: Index, root: Path) -> None:
    clip = IndexedClips(index, root, "train", SIZE, 4, augment=False, subsample=5)[1]
    # Frames 2, 7, 12, 17 of the moving wrist, and the wrist that stays at (20, 20).
    assert clip["box"].tolist() == [20, 20, 81, 57]
    side = 1.25 * 61
    middle = torch.tensor([[50.5 - side / 2, 38.5 - side / 2]], dtype=torch.float64)
    assert apply_map(clip["to_crop"], middle).abs().max() < 1e-9
    assert clip["confidence"][:, [WRIST, LEFT_WRIST]].all()


def test_a_clip_has_one_box_over_its_frames_that_have_one(index: Index, root: Path) -> None:
    boxes = np.full((25, 4), np.nan, np.float32)
    boxes[1 + 2], boxes[1 + 7], boxes[1 + 12] = [5, 6, 40, 50], [0, 9, 30, 60], np.nan
    clips = IndexedClips(replace(index, box=boxes), root, "train", SIZE, augment=False)
    assert clips.clip(1, [2, 7, 12])["box"].tolist() == [0, 6, 40, 60]
    assert clips.clip(1, [12])["box"].tolist() == [20, 20, 66, 52]


def test_boxes_from_a_file(index: Index, root: Path) -> None:
    file = root / "boxes.json"
    file.write_text(json.dumps({"fake/b": [10, 20, 90, 60], "other": [0, 0, 1, 1]}))
    data = IndexedClips(index, root, "train", SIZE, augment=False, boxes=file)
    assert data[1]["box"].tolist() == [10, 20, 90, 60]
    assert data[0]["box"].tolist() == [20, 10, 100, 80]
    for text, words in (
        ('{"fake/b": [10, 20, 5, 60]}', "the box of fake/b should be x1"),
        ('{"fake/b": [10, 20, 30]}', "the box of fake/b should be x1"),
        ("[1, 2]", "expected JSON"),
        ("{", "expected JSON"),
        ('{"other": [0, 0, 1, 1]}', "names no sequence of fake: its names are like 'fake/a'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            IndexedClips(index, root, "train", SIZE, boxes=file)
    with pytest.raises(UserError, match="cannot be read"):
        IndexedClips(index, root, "train", SIZE, boxes=root / "none.json")


def test_nothing_to_crop_is_named(index: Index, root: Path) -> None:
    lost = replace(index, joints_px=np.full_like(index.joints_px, np.nan))
    with pytest.raises(UserError, match="fake/b has neither a box nor two known joints"):
        IndexedClips(lost, root, "train", SIZE)[1]
    with pytest.raises(UserError, match="the train split of fake has no joints of layout 'pa16' in pixels: learn"):
        IndexedPoses(lost, root, "train", SIZE)
    boxed = replace(lost, box=np.full_like(index.box, [20, 10, 100, 80]))
    sample = IndexedPoses(boxed, root, "train", SIZE, augment=False)[1]
    assert sample["name"] == "fake/b#10"
    assert not sample["pose_valid"].any()


def test_sequences_that_teach_nothing_are_left_out_where_others_teach(index: Index, root: Path) -> None:
    px = index.joints_px.copy()
    px[:1] = np.nan
    lost = replace(index, joints_px=px)
    for augment in (False, True):
        stills = IndexedPoses(lost, root, "train", SIZE, augment=augment)
        assert [stills[0]["name"].partition("#")[0], len(stills)] == ["fake/b", 1]
    other = replace(index, layout=replace(PA16, name="other", joints=tuple(f"x {j}" for j in PA16.joints)))
    with pytest.raises(UserError, match="no joints of layout 'pa16'"):
        IndexedPoses(other, root, "train", SIZE, layout="pa16")
    px[11] = np.nan  # Its middle alone.
    assert len(IndexedPoses(lost, root, "train", SIZE)) == 1
    assert index.action[0] == -1
    clips = IndexedClips(index, root, "train", SIZE, augment=False, labelled=True)
    assert [clips[0]["name"], len(clips), len(IndexedClips(index, root, "train", SIZE))] == ["fake/b", 1, 2]
    unlabelled = replace(index, action=np.full_like(index.action, -1))
    assert len(IndexedClips(unlabelled, root, "train", SIZE, labelled=True)) == 2


def test_stills_are_frames_with_a_known_joint(index: Index, root: Path) -> None:
    px = index.joints_px.copy()
    px[1:21] = np.nan
    px[[4, 9]] = index.joints_px[[4, 9]]
    data = IndexedPoses(replace(index, joints_px=px), root, "train", SIZE)
    names = {data[1, draw]["name"] for draw in range(12)}
    assert names == {"fake/b#3", "fake/b#8"}
    assert IndexedPoses(replace(index, joints_px=px), root, "train", SIZE, augment=False)[1]["name"] == "fake/b#8"


def test_every_nth_frame_is_a_still_of_its_own(index: Index, root: Path) -> None:
    data = IndexedPoses(index, root, "train", SIZE, every=8, augment=False)
    assert [data[i]["name"] for i in range(len(data))] == ["fake/a", "fake/b#0", "fake/b#8", "fake/b#16"]
    noted = replace(index, notes={"stills": {"train": 8}})
    assert len(IndexedPoses(noted, root, "train", SIZE)) == 4
    assert len(IndexedPoses(noted, root, "test", SIZE)) == 1
    assert len(IndexedPoses(noted, root, "train", SIZE, every=0)) == 2
    some = IndexedPoses(index, root, "train", SIZE, every=1, size=7, augment=False)
    assert [some[i]["name"] for i in (0, 3, 6)] == ["fake/b#0", "fake/b#9", "fake/b#18"]


def test_clips_take_the_frames_of_their_medium(index: Index, root: Path) -> None:
    # Frames 5 to 8 of the medium; of 4 frames, a clip of 2 with step 2.
    clips = IndexedClips(index, root, "test", SIZE, 2, subsample=2)
    assert clips.num_frames(0) == 4
    for clip, frames in ((clips[0], (0, 2)), (clips.clip(0, [3, 0, 0]), (3, 0, 0))):
        for shown, pose, frame in zip(clip["frames"].numpy(), clip["pose"], frames, strict=True):
            assert clip["joints_px"].shape[0] == len(frames)
            np.testing.assert_allclose(centroid(shown) + 0.5, SIZE * pose[WRIST, :2], atol=0.5)
            assert pose[WRIST, 0] == pytest.approx(
                float(apply_map(clip["to_crop"], torch.tensor([[10.0 * (5 + frame), 50.0]]))[0, 0])
            )


def test_steps_of_the_medium(root: Path) -> None:
    places = [(20 + 2 * n, 30) for n in range(20)]
    write_video(root / "a.avi", [picture(96, 64, [(x, y, WHITE)], 3.0) for x, y in places])
    builder = small_index()
    rows = [places[3 + 4 * n] for n in range(4)]
    builder.add(
        name="a",
        media="a.avi",
        kind="video",
        split="test",
        joints_px=joints(4, right_wrist=rows, neck=(30, 60)),
        first_frame=3,
        frame_step=4,
    )
    clip = IndexedClips(builder.build(), root, "test", SIZE, augment=False).clip(0, range(4))
    for shown, pose in zip(clip["frames"].numpy(), clip["pose"], strict=True):
        np.testing.assert_allclose(centroid(shown) + 0.5, SIZE * pose[WRIST, :2], atol=0.5)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_short_videos_give_whole_clips(index: Index, root: Path, count: int) -> None:
    short = index.select([1], [count])
    for augment in (False, True):
        clip = IndexedClips(short, root, "train", SIZE, 8, augment=augment)[0]
        assert clip["frames"].shape[0] == 8
        places = clip["joints_px"][:, [WRIST, LEFT_WRIST], 1].sum(-1)  # mirrored or not
        assert (places.diff() >= 0).all()
        assert len(places.unique()) == min(count, 8)


def test_draws_are_fixed_and_differ(index: Index, root: Path) -> None:
    data, again = IndexedClips(index, root, "train", SIZE, 4), IndexedClips(index, root, "train", SIZE, 4)
    for name, value in data[1, 7].items():
        other = again[1, 7][name]  # type: ignore[literal-required]
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert value == other
    maps = [data[1, draw]["to_crop"] for draw in range(4)] + [
        IndexedClips(index, root, "train", SIZE, 4, seed=1)[1]["to_crop"]
    ]
    for i, a in enumerate(maps):
        assert all(not torch.equal(a, b) for b in maps[i + 1 :])
    still = IndexedClips(index, root, "train", SIZE, 4, augment=False)
    assert torch.equal(still[1, 3]["frames"], still[1]["frames"])
    # A still and a clip of one number do not share their draws.
    assert not torch.equal(data[0, 1]["to_crop"], IndexedPoses(index, root, "train", SIZE)[0, 1]["to_crop"])


def test_a_batch_holds_what_its_samples_hold_one_by_one(index: Index, root: Path) -> None:
    for data in (IndexedPoses(index, root, "train", SIZE), IndexedClips(index, root, "train", SIZE, 3)):
        keys = [(1, 3), (0, 1), (1, 3), (1, 0), 1]
        batch = data.__getitems__(keys)
        assert len(batch) == len(keys)
        for key, sample in zip(keys, batch, strict=True):
            for name, value in data[key].items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(sample[name], value, rtol=0, atol=0, equal_nan=True)  # type: ignore[literal-required]
                else:
                    assert sample[name] == value  # type: ignore[literal-required]


def test_mirrored_samples_swap_joints_and_keep_the_picture_space(root: Path) -> None:
    write_picture(root / "a.png", picture(100, 100, [(25, 40, RED), (70, 60, GREEN)], 3.0))
    builder = small_index()
    mm = np.full((1, 16, 3), np.nan)
    mm[0, [0, WRIST, LEFT_WRIST]] = [(0, 0, 2000), (-250, -100, 2000), (200, 100, 2000)]
    camera = np.array([200.0, 200, 50, 50, 0, 0, 0, 0, 0])
    builder.add(
        name="a",
        media="a.png",
        kind="picture",
        split="test",
        box=(0, 0, 100, 100),
        camera=camera,
        joints_px=joints(1, right_wrist=(25, 40), left_wrist=(70, 60), pelvis=(50, 50)),
        joints_mm=mm,
    )
    clips = IndexedClips(builder.build(), root, "test", SIZE)
    for flip, red_joint, green_joint in ((False, WRIST, LEFT_WRIST), (True, LEFT_WRIST, WRIST)):
        sample = clips.clip(0, [0], flip=flip)
        shown, pose = sample["frames"][0].numpy(), SIZE * sample["pose"][0, :, :2]
        np.testing.assert_allclose(centroid(shown, 0) + 0.5, pose[red_joint], atol=0.5)
        np.testing.assert_allclose(centroid(shown, 1) + 0.5, pose[green_joint], atol=0.5)
        torch.testing.assert_close(sample["joints_px"][0, red_joint], torch.tensor([25.0, 40.0]))
        known = [0, WRIST, LEFT_WRIST]
        projected = project(sample["joints_mm"][:, known], sample["camera"][None])
        torch.testing.assert_close(projected, sample["joints_px"][:, known])


def test_another_layout_by_the_names_of_joints(index: Index, root: Path) -> None:
    sample = IndexedPoses(index, root, "train", SIZE, augment="paper", layout="pa17")
    assert sample.layout is PA17
    one = sample[0, 2]
    assert one["pose"].shape == (17, 3)
    assert not one["pose_valid"][16].any()
    assert one["joints_px"][16].isnan().all()
    assert one["pose_valid"][[WRIST, LEFT_WRIST], 0].all()
    back = replace(
        index,
        layout=PA17,
        **{
            name: np.concatenate([getattr(index, name), getattr(index, name)[:, :1]], axis=1)
            for name in ("joints_px", "joints_mm", "visible")
        },
    )
    back.check()
    assert IndexedPoses(back, root, "train", SIZE, layout="pa16")[0]["pose"].shape == (16, 3)
    with pytest.raises(UserError, match="did you mean 'pa17'"):
        IndexedPoses(index, root, "train", SIZE, layout="pa117")


def test_the_window_is_multiplied_by_the_scale(index: Index, root: Path) -> None:
    """As in the authors' code: Human3.6M's 2.25 m become 1.575 m at 0.7."""

    def side(**changes: object) -> float:
        ranges = replace(RELEASE_AUGMENTATION, rotation=0.0, rotation_step=0.0, flip=0.0, **changes)
        to_crop = IndexedPoses(index, root, "train", SIZE, augment=ranges)[0]["to_crop"]
        return float(1 / to_crop[0, 0])

    assert side(scales=(0.7,)) == pytest.approx(0.7 * side(scales=(1.0,)))
    assert side(scales=(0.7,), scale_window=False) == pytest.approx(side(scales=(1.0,)) / 0.7)


def test_erased_joints_are_not_visible_but_known(index: Index, root: Path) -> None:
    everything = Augmentation(erase=1.0, erase_size=(1.0, 1.0), flip=0.0)
    sample = IndexedPoses(index, root, "train", SIZE, augment=everything)[0]
    assert sample["frames"].float().std(dim=(0, 1)).max() == 0
    assert not sample["visible"].any()
    assert sample["confidence"].sum() == 2


def test_colours_are_as_on_disk_and_their_powers_given(index: Index, root: Path) -> None:
    plain = replace(PAPER_AUGMENTATION, colour_power=(1.0, 1.0))
    for kind in (IndexedPoses, IndexedClips):
        powered, powerless = (kind(index, root, "train", SIZE, augment=how)[1, 3] for how in ("paper", plain))
        assert torch.equal(powered["frames"], powerless["frames"])
        assert (powerless["colour_power"] == 1).all()
        assert ((powered["colour_power"] >= 0.9) & (powered["colour_power"] <= 1.1)).all()
        assert len(powered["colour_power"].unique()) == 3


def test_joints_outside_the_crop_have_no_confidence(index: Index, root: Path) -> None:
    near = replace(index, box=np.where(np.arange(25)[:, None] == 0, np.float32([40, 30, 80, 50]), index.box))
    sample = IndexedPoses(near, root, "train", SIZE, augment=False)[0]
    assert sample["confidence"][WRIST] == 1
    assert sample["confidence"][LEFT_WRIST] == 0
    assert sample["pose_valid"][LEFT_WRIST, :2].all()
    assert not sample["visible"][LEFT_WRIST]
    assert sample["pose"][LEFT_WRIST, 0] < 0


def test_unreadable_samples_are_the_users_to_mend(index: Index, root: Path) -> None:
    (root / "images/a.jpg").unlink()
    data = root / "videos/b.avi"
    data.write_bytes(data.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"a\.jpg cannot be read"):
        IndexedPoses(index, root, "train", SIZE)[0]
    with pytest.raises(UserError, match=r"b\.avi"):
        IndexedClips(index, root, "train", SIZE).clip(1, [0, 19])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 4}, "image_size"),
        ({"seed": -1}, "seed"),
        ({"size": 0}, "size"),
        ({"every": -1}, "every"),
        ({"augment": "papper"}, "did you mean 'paper'"),
        ({"split": "val"}, "the val split of fake is empty"),
        ({"split": "tests"}, "did you mean 'test'"),
    ],
)
def test_mistakes_are_named(index: Index, root: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        IndexedPoses(index, root, **{"split": "train", **options})  # type: ignore[arg-type]


def test_indices_outside_are_refused(index: Index, root: Path) -> None:
    clips = IndexedClips(index, root, "train", SIZE, 2)
    for place in (2, -3):
        with pytest.raises(IndexError, match="fake/train/clip"):
            clips[place]
        with pytest.raises(IndexError):
            clips.num_frames(place)
    assert clips[-1]["name"] == "fake/b"
    with pytest.raises(IndexError, match=r"frames 0\.\.20 of 20"):
        clips.clip(1, [0, 20])
    with pytest.raises(UserError, match="at least one frame"):
        clips.clip(1, [])
    for options, words in (({"clip_frames": 0}, "clip of 0 frames"), ({"subsample": 0}, "subsampling 0")):
        with pytest.raises(UserError, match=words):
            IndexedClips(index, root, "train", SIZE, **options)


def test_workers_read_the_same_from_a_mapped_index(index: Index, root: Path) -> None:
    index.save(root / "index")
    data = IndexedClips(Index.load(root / "index"), root, "train", SIZE, 2, augment=False)
    assert len(pickle.dumps(data)) < 2500  # a path, not columns
    for start in ("fork", "spawn"):
        if start not in multiprocessing.get_all_start_methods():
            continue
        loader = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context=start)  # type: ignore[arg-type]
        (batch,) = list(loader)
        for place in range(2):
            assert torch.equal(batch["frames"][place], data[place]["frames"])


# Marks lie where joints are said to be, whatever is drawn.

AUGMENTS = st.builds(
    Augmentation,
    rotation=st.floats(0, 180),
    scale=st.just((0.6, 1.5)),
    shift=st.floats(0, 0.3),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
) | st.sampled_from([PAPER_AUGMENTATION, RELEASE_AUGMENTATION, RELEASE_ERASING])
BOXES = st.tuples(st.floats(-0.1, 0.5), st.floats(-0.1, 0.5), st.floats(0.25, 0.8))
RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def check_marks(sample: Sample, size: int, pixels_shown: float) -> int:
    """Compare marks with the joint in every frame where the whole mark is in sight; returns in how many."""
    seen = 0
    for shown, pose, known in zip(sample["frames"].numpy(), sample["pose"], sample["visible"], strict=True):
        place = size * pose[WRIST, :2].numpy() - 0.5
        if known[WRIST] and (place > pixels_shown).all() and (place < size - 1 - pixels_shown).all():
            x, y = place.round().astype(int)
            reach = int(pixels_shown)
            part = shown[y - reach : y + reach + 1, x - reach : x + reach + 1]
            offset = np.array([x - reach, y - reach])
            assert np.abs(centroid(part) + offset - place).max() < 0.5
            seen += 1
    return seen


@pytest.mark.parametrize(("size", "suffix"), [(32, "jpg"), (64, "jpg"), (160, "jpg"), (64, "png")])
def test_marks_in_pictures_stay_at_their_joints(tmp_path: Path, size: int, suffix: str) -> None:
    width, height, mark = 640, 480, (311.3, 227.8)
    # As large in the crop, whatever the crop's size: pictures are decoded at 1/8 to 1/1.
    sigma = 1.6 * 300 / size
    write_picture(tmp_path / f"a.{suffix}", picture(width, height, [(*mark, WHITE)], sigma))
    seen = []

    @RELAXED
    @given(BOXES, AUGMENTS, st.integers(0, 2**31))
    def check(box: tuple[float, float, float], augment: Augmentation, draw: int) -> None:
        x, y, side = box[0] * width, box[1] * height, box[2] * width
        builder = small_index()
        builder.add(
            name="a",
            media=f"a.{suffix}",
            kind="picture",
            split="train",
            box=(x, y, x + side, y + side),
            joints_px=joints(1, right_wrist=mark, left_wrist=mark),
        )
        plain = replace(augment, colour_power=(1.0, 1.0))
        sample = IndexedClips(builder.build(), tmp_path, "train", size, 1, augment=plain)[0, draw]
        scale = size * abs(np.linalg.det(sample["to_crop"][:2, :2].numpy())) ** 0.5
        seen.append(check_marks(sample, size, 3 * sigma * scale))

    check()
    assert sum(seen) > 3


@pytest.mark.parametrize(("name", "codec", "b_frames"), [("a.avi", "mpeg4", 0), ("a.mp4", "libx264", 3)])
def test_marks_in_videos_stay_at_their_joints(tmp_path: Path, name: str, codec: str, b_frames: int) -> None:
    places = np.stack([40 + 5.0 * np.arange(24), 150 - 4.0 * np.arange(24)], axis=1)
    write_video(tmp_path / name, [picture(192, 176, [(x, y, WHITE)], 4.0) for x, y in places], codec, b_frames)
    seen = []

    @RELAXED
    @given(BOXES, AUGMENTS, st.integers(0, 2**31))
    def check(box: tuple[float, float, float], augment: Augmentation, draw: int) -> None:
        x, y, side = box[0] * 192, box[1] * 176, (0.3 + box[2]) * 192
        builder = small_index()
        builder.add(
            name="a",
            media=name,
            kind="video",
            split="train",
            box=(x, y, x + side, y + side),
            joints_px=joints(24, right_wrist=places, left_wrist=places),
        )
        plain = replace(augment, colour_power=(1.0, 1.0))
        sample = IndexedClips(builder.build(), tmp_path, "train", 96, 4, augment=plain)[0, draw]
        scale = 96 * abs(np.linalg.det(sample["to_crop"][:2, :2].numpy())) ** 0.5
        seen.append(check_marks(sample, 96, 3 * 4.0 * scale))

    check()
    assert sum(seen) > 20
