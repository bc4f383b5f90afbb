"""Augmentation: ranges, presets, colours, erased rectangles."""

from __future__ import annotations

import numpy as np
import pytest

from pyhar.data.augment import (
    AUGMENTATIONS,
    PAPER_AUGMENTATION,
    RELEASE_AUGMENTATION,
    RELEASE_ERASING,
    Augmentation,
    Crop,
    choose_augmentation,
    draw_crop,
    erase,
    inside_erased,
)
from pyhar.errors import UserError


def draws(augmentation: Augmentation, count: int = 2000) -> list[Crop]:
    return [draw_crop(augmentation, np.random.default_rng([3, n])) for n in range(count)]


def test_the_papers_ranges_are_drawn_from_end_to_end() -> None:
    crops = draws(PAPER_AUGMENTATION)
    angles, scales = np.array([c.rotation for c in crops]), np.array([1 / c.scale for c in crops])
    powers = np.array([c.colour_power for c in crops])
    for values, low, high in ((angles, -40, 40), (scales, 0.7, 1.3), (powers, 0.9, 1.1)):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.5, abs=0.04)
    assert all(c.shift == (0, 0) and c.erased is None for c in crops)
    assert PAPER_AUGMENTATION.subsample == (3, 10)


def test_the_releases_steps() -> None:
    crops = draws(RELEASE_AUGMENTATION)
    assert {c.rotation for c in crops} == set(np.arange(-40.0, 41.0, 5.0).tolist())
    # All 17 steps are as likely, the outermost ones, too.
    assert np.mean([abs(c.rotation) == 40 for c in crops]) == pytest.approx(2 / 17, abs=0.02)
    assert {round(1 / c.scale, 9) for c in crops} == {0.7, 1.0, 1.3}  # of the window
    across, down = np.abs(np.array([c.shift for c in crops])).max(axis=0) * 256
    assert 39 < across <= 40
    assert 9.5 < down <= 10
    assert not any(c.erased for c in crops)


def test_erasing_changes_nothing_else() -> None:
    plain, erasing = draws(RELEASE_AUGMENTATION, 400), draws(RELEASE_ERASING, 400)
    assert [c.erased is not None for c in erasing].count(True) == pytest.approx(200, abs=40)
    for a, b in zip(plain, erasing, strict=True):
        assert (a.rotation, a.scale, a.shift, a.flip) == (b.rotation, b.scale, b.shift, b.flip)
        if b.erased is not None:
            x1, y1, x2, y2 = b.erased
            assert 0 <= x1 < x2 <= 1
            assert 0 <= y1 < y2 <= 1
            assert 0.08 <= x2 - x1 <= 0.35
            assert 0.08 <= y2 - y1 <= 0.35


def test_names_and_switches() -> None:
    default = Augmentation(rotation=1)
    assert choose_augmentation(True, default) is default
    assert choose_augmentation(False, default) is None
    assert choose_augmentation(PAPER_AUGMENTATION, default) is PAPER_AUGMENTATION
    for name, ranges in AUGMENTATIONS.items():
        assert choose_augmentation(name, default) is ranges
    with pytest.raises(UserError, match="did you mean 'release'"):
        choose_augmentation("relese", default)


def test_the_rectangle_is_filled_in_every_frame_and_hides_joints() -> None:
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    crop = Crop(erased=(0.25, 0.5, 0.75, 1.0), erased_colour=(1, 2, 3))
    erase(frames, crop)
    inside = np.zeros((20, 20), bool)
    inside[10:20, 5:15] = True
    for frame in frames:
        assert (frame[inside] == (1, 2, 3)).all()
        assert not frame[~inside].any()
    points = np.array([[0.5, 0.6], [0.5, 0.4], [0.8, 0.6], [np.nan, np.nan]])
    assert inside_erased(points, crop).tolist() == [True, False, False, False]
    assert not inside_erased(points, Crop()).any()
