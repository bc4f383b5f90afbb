from __future__ import annotations

import pytest

from pyhar.data import registry
from pyhar.errors import UserError


def test_the_embedded_data_is_built_by_name() -> None:
    stills = registry.build("synthetic", "test", "pose", image_size=32, augment=False, size=3)
    clips = registry.build("synthetic", "test", "clips", image_size=32, augment=False, clip_frames=4, size=2)
    assert (len(stills), len(clips)) == (3, 2)
    assert stills[0]["frames"].shape == (32, 32, 3)
    assert clips[1]["frames"].shape == (4, 32, 32, 3)
    assert clips.num_frames(0) > 4 * clips.subsample
    assert stills.layout == clips.layout
    assert stills.action_names == clips.action_names


@pytest.mark.parametrize(
    ("name", "split", "kind", "message"),
    [
        ("sinthetic", "test", "pose", "did you mean 'synthetic'"),
        ("synthetic", "tset", "pose", "did you mean 'test'"),
        ("synthetic", "test", "poses", "must be 'pose' or 'clips'"),
    ],
)
def test_unknown_names_are_errors(name: str, split: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.build(name, split, kind, image_size=32)
