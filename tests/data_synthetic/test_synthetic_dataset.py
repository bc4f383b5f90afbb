"""The embedded data sets: what samples hold, that they are fixed by their seeds, and that their coordinates agree."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from pyhar.data.geometry import apply_map, project
from pyhar.data.layouts import PA17
from pyhar.data.registry import build
from pyhar.data.sample import DEPTH_RANGE_MM, Sample
from pyhar.data.synthetic import ACTION_NAMES, PAPER_AUGMENTATION, Augmentation, SyntheticClips, SyntheticPoses
from pyhar.data.synthetic.video import SPLITS, draw_seeds
from pyhar.errors import UserError

SIZE = 48
FLIPPED = Augmentation(flip=1.0)
STILL = {
    "frames": ((SIZE, SIZE, 3), torch.uint8),
    "pose": ((17, 3), torch.float32),
    "pose_valid": ((17, 3), torch.bool),
    "confidence": ((17,), torch.float32),
    "visible": ((17,), torch.bool),
    "joints_px": ((17, 2), torch.float32),
    "joints_mm": ((17, 3), torch.float32),
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


def digest(samples: list[Sample]) -> str:
    """One number for all bytes of some samples."""
    sum_ = hashlib.sha256()
    for sample in samples:
        for name, value in sorted(sample.items()):
            sum_.update(name.encode())
            sum_.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else str(value).encode())
    return sum_.hexdigest()


def some_samples() -> list[Sample]:
    return [SyntheticPoses("train", SIZE)[3, 2], SyntheticClips("test", SIZE, clip_frames=2)[4]]


def check(values: Sample, expected: dict[str, tuple[tuple[int, ...], torch.dtype]], leading: tuple[int, ...]) -> None:
    for name, (shape, dtype) in expected.items():
        value = values[name]  # type: ignore[literal-required]
        assert (tuple(value.shape), value.dtype) == (leading + shape, dtype), name


@pytest.mark.parametrize("split", SPLITS)
def test_samples_hold_every_key_with_its_shape_and_type(split: str) -> None:
    still, clip = SyntheticPoses(split, SIZE)[1], SyntheticClips(split, SIZE, clip_frames=3)[1]
    check(still, STILL, ())
    check(clip, STILL, (3,))
    for sample in (still, clip):
        check(sample, ONCE, ())
        assert set(sample) == set(STILL) | set(ONCE) | {"name"} == set(Sample.__annotations__)
        assert sample["action"] == 1
        assert sample["pose_valid"].all()
        assert sample["frames"].float().std() > 10
    assert still["name"] == f"synthetic/{split}/still/000001"
    assert clip["name"] == f"synthetic/{split}/clip/000001"


def test_samples_make_batches() -> None:
    clips = SyntheticClips("test", SIZE, clip_frames=2)
    batch = default_collate([clips[0], clips[1]])
    assert batch["frames"].shape == (2, 2, SIZE, SIZE, 3)
    assert batch["name"] == ["synthetic/test/clip/000000", "synthetic/test/clip/000001"]


def test_same_key_gives_same_bytes_in_another_process() -> None:
    code = f"import runpy\ntest = runpy.run_path({__file__!r})\nprint(test['digest'](test['some_samples']()))\n"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(some_samples()) == digest(some_samples())


def test_draws_seeds_and_splits_differ() -> None:
    train = SyntheticPoses("train", SIZE)
    pictures = [
        train[3],
        train[3, 1],
        train[4],
        SyntheticPoses("train", SIZE, seed=1)[3],
        SyntheticPoses("val", SIZE)[3],
    ]
    for a, b in itertools.combinations(pictures, 2):
        assert not torch.equal(a["frames"], b["frames"])
        assert a["subject"] != b["subject"]


def test_without_augmentation_the_draw_changes_nothing() -> None:
    data = SyntheticPoses("train", SIZE, augment=False)
    assert digest([data[5, 3]]) == digest([data[5]])
    assert digest([SyntheticPoses("test", SIZE)[5, 3]]) == digest([SyntheticPoses("test", SIZE)[5]])


def test_splits_share_no_seed() -> None:
    rng = np.random.default_rng(0)
    drawn = {split: np.array([draw_seeds(split, rng) for _ in range(500)]) for split in SPLITS}
    for first, second in itertools.pairwise(SPLITS):
        assert drawn[first].max() < drawn[second].min()
    # Whatever the data set's own seed.
    train = {int(s) for seed in range(4) for s in SyntheticPoses("train", SIZE, seed=seed).video(2).seeds}
    test = {int(s) for seed in range(4) for s in SyntheticPoses("test", SIZE, seed=seed).video(2).seeds}
    assert max(train) < min(test)


def coordinates_agree(sample: Sample) -> None:
    camera, to_crop = sample["camera"][None], sample["to_crop"]
    assert torch.allclose(project(sample["joints_mm"][None], camera)[0], sample["joints_px"], atol=1e-3)
    assert torch.allclose(apply_map(to_crop, sample["joints_px"]), sample["pose"][..., :2], atol=1e-5)
    depth = (sample["pose"][..., 2] - 0.5) * DEPTH_RANGE_MM + sample["root_depth"][..., None]
    assert torch.allclose(depth, sample["joints_mm"][..., 2], atol=1e-2)
    inside = ((sample["pose"][..., :2] >= 0) & (sample["pose"][..., :2] <= 1)).all(-1)
    assert torch.equal(sample["confidence"] == 1, inside)
    assert not (sample["visible"] & ~inside).any()


@pytest.mark.parametrize("augment", [False, True, FLIPPED, PAPER_AUGMENTATION])
def test_coordinates_agree(augment: bool | Augmentation) -> None:
    stills, clips = SyntheticPoses("train", 8, augment=augment), SyntheticClips("train", 8, 4, augment=augment)
    for index in range(len(ACTION_NAMES)):
        coordinates_agree(stills[index])
        coordinates_agree(clips[index])


def test_the_box_holds_the_joints_and_the_crop_shows_it() -> None:
    clip = SyntheticClips("test", SIZE)[0]
    joints = clip["joints_px"].reshape(-1, 2)
    assert torch.equal(clip["box"], torch.cat([joints.amin(0), joints.amax(0)]))
    assert clip["confidence"].all()
    xy = clip["pose"][..., :2].reshape(-1, 2)
    # The longer side of the box fills the crop but for the margin.
    assert (xy.amax(0) - xy.amin(0)).max() == pytest.approx(1 / 1.25, abs=1e-4)


def test_people_have_human_sizes() -> None:
    for index in range(len(ACTION_NAMES)):
        sample = SyntheticPoses("test", 8)[index]
        mm = sample["joints_mm"]
        parent, child = torch.tensor(PA17.bones).T
        lengths = (mm[parent] - mm[child]).norm(dim=-1)
        assert ((lengths > 60) & (lengths < 560)).all()
        head = (mm[2] - mm[3]).norm()
        # The head box in millimetres at the head's depth: 0.6 of its diagonal is a little less than the head's height.
        assert 0.5 < sample["head_size"] / sample["camera"][0] * mm[3, 2] / head < 1.1


def test_flip_mirrors_picture_and_swaps_joints() -> None:
    clips = SyntheticClips("test", SIZE, clip_frames=2)
    frames = [10, 20]
    plain, mirror = clips.clip(2, frames), clips.clip(2, frames, flip=True)
    swap = torch.tensor(PA17.flip)
    expected = plain["pose"][:, swap].clone()
    expected[..., 0] = 1 - expected[..., 0]
    assert torch.allclose(mirror["pose"], expected, atol=1e-5)
    for name in ("joints_px", "joints_mm", "visible"):
        assert torch.equal(mirror[name], plain[name][:, swap])  # type: ignore[literal-required]
    # The sensor's noise and the samples at edges differ a little.
    difference = (mirror["frames"].flip(2).float() - plain["frames"].float()).abs()
    assert difference.mean() < 8
    assert difference.mean() < 0.3 * (mirror["frames"].float() - plain["frames"].float()).abs().mean()
    coordinates_agree(mirror)


def test_evaluation_clips_lie_around_the_middle_and_can_be_asked_for() -> None:
    clips = SyntheticClips("test", 16, clip_frames=4, subsample=5)
    for index in range(3):
        count = clips.num_frames(index)
        assert 48 <= count <= 64
        first = (count - 16) // 2
        assert digest([clips[index]]) == digest([clips.clip(index, range(first, first + 16, 5))])


def test_every_action_comes_equally_often() -> None:
    clips = SyntheticClips("test", 8, clip_frames=1, size=2 * len(ACTION_NAMES))
    assert [int(clips[i]["action"]) for i in range(len(clips))] == list(range(len(ACTION_NAMES))) * 2
    assert clips.action_names == ACTION_NAMES
    assert clips.layout is PA17


def test_the_registry_builds_both_kinds() -> None:
    stills = build("synthetic", "test", "pose", image_size=16, augment=False, seed=3, size=5)
    clips = build("synthetic", "train", "clips", image_size=16, clip_frames=2, augment=True, seed=3, size=4)
    assert (len(stills), len(clips)) == (5, 4)
    assert stills[4]["frames"].shape == (16, 16, 3)
    assert clips[3, 1]["frames"].shape == (2, 16, 16, 3)
    assert clips.subsample == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "tests"}, "did you mean 'test'"),
        ({"image_size": 0}, "image_size"),
        ({"size": 0}, "size"),
        ({"seed": -1}, "seed"),
        ({"clip_frames": 0}, "clip of 0 frames"),
        ({"subsample": 0}, "subsampling 0"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SyntheticClips(**{"split": "test", **options})  # type: ignore[arg-type]


def test_indices_outside_are_refused() -> None:
    clips = SyntheticClips("test", 16, size=3)
    for index in (3, -4):
        with pytest.raises(IndexError, match="synthetic/test/clip"):
            clips[index]
    assert digest([clips[-1]]) == digest([clips[2]])
    with pytest.raises(IndexError, match="frames"):
        clips.clip(0, [0, 64])
    with pytest.raises(UserError, match="at least one frame"):
        clips.clip(0, [])
