from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pyhar.data.clips import centre_clip, multi_clips, random_clip
from pyhar.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "clips_golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["centre"], ids=str)
def test_centre_clip_agrees_with_the_release_where_the_video_is_long_enough(case: dict) -> None:
    got = centre_clip(case["sequence_size"], len(case["out"]), case["subsample"])
    if case["sequence_size"] >= len(case["out"]):
        assert got.tolist() == case["out"]
    else:
        # The release leaves out the last frames of a video shorter than the clip; here all of it is spread evenly.
        assert sorted(set(got.tolist())) == list(range(case["sequence_size"]))
        assert np.ptp(np.bincount(got)) <= 1


@pytest.mark.parametrize("case", GOLDEN["multi"], ids=lambda c: f"{c['num_frames']}-{c['clip_size']}-{c['subsamples']}")
def test_multi_clips_agree_with_the_release_at_its_step(case: dict) -> None:
    frames, length, (subsample,) = case["num_frames"], case["clip_size"], case["subsamples"]
    got = multi_clips(frames, length, subsample, step=length // 2 + subsample - 1)
    # The release gives no clip at all for a short video.
    assert got.tolist() == (case["clips"] or [centre_clip(frames, length, subsample).tolist()])


def test_multi_clips_begin_every_half_clip() -> None:
    got = multi_clips(60, 8, 5)
    assert got[:, 0].tolist() == [0, 4, 8, 12, 16, 20]
    assert (np.diff(got, axis=1) == 5).all()
    assert got.dtype == np.int64


def test_multi_clips_can_be_limited() -> None:
    assert multi_clips(60, 8, 5, limit=2)[:, 0].tolist() == [0, 20]
    assert multi_clips(60, 8, 5, limit=3)[:, 0].tolist() == [0, 8, 20]
    assert multi_clips(60, 8, 5, limit=1)[:, 0].tolist() == [12]
    assert len(multi_clips(60, 8, 5, limit=99)) == 6


def test_random_clips_begin_everywhere_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    clips = np.stack([random_clip(20, 4, 3, rng) for _ in range(400)])
    assert set(clips[:, 0]) == set(range(11))
    assert clips.max() == 19
    assert (np.diff(clips, axis=1) == 3).all()


def test_random_clip_of_a_short_video() -> None:
    rng = np.random.default_rng(0)
    assert random_clip(9, 8, 6, rng).tolist() in ([*range(8)], [*range(1, 9)])
    assert random_clip(3, 8, 6, rng).tolist() == centre_clip(3, 8, 6).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("call", [(0, 8, 1), (-1, 8, 1)])
def test_a_video_without_frames_is_an_error(call: tuple[int, int, int]) -> None:
    for choose in (centre_clip, multi_clips, lambda *a: random_clip(*a, np.random.default_rng(0))):
        with pytest.raises(UserError, match="no frames"):
            choose(*call)


def test_senseless_lengths_are_errors() -> None:
    with pytest.raises(UserError, match="at least 1"):
        centre_clip(10, 0, 1)
    with pytest.raises(UserError, match="at least 1"):
        centre_clip(10, 8, 0)
    with pytest.raises(UserError, match="limit"):
        multi_clips(10, 2, 1, limit=0)
