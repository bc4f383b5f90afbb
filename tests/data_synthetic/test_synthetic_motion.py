"""Actions and bodies: what the hard pairs share, feet on the floor, limbs that keep their lengths."""

from __future__ import annotations

import numpy as np
import pytest

from pyhar.data.layouts import PA17
from pyhar.data.synthetic.body import Body, Posture, make_body, take_pose
from pyhar.data.synthetic.motion import ACTION_NAMES, ACTIONS, FIELDS, MOTION_PAIRS, OBJECT_PAIRS, make_style, perform
from pyhar.data.synthetic.video import Seeds, Video


def body_and_posture(action: str, seed: int) -> tuple[Body, Posture]:
    body = make_body(np.random.default_rng(seed))
    return body, take_pose(body, perform(ACTIONS[number(action)], make_style(np.random.default_rng(seed)), 50))


def number(action: str) -> int:
    return ACTION_NAMES.index(action)


def test_there_are_enough_actions_and_pairs() -> None:
    assert len(ACTIONS) == len({action.name for action in ACTIONS}) >= 12
    assert len(OBJECT_PAIRS) >= 2
    assert len(MOTION_PAIRS) >= 2


@pytest.mark.parametrize("pair", OBJECT_PAIRS)
def test_object_pairs_move_alike_and_hold_different_things(pair: tuple[str, str]) -> None:
    for seed in range(5):
        seeds = Seeds(seed, seed, seed)
        first, second = (Video(number(name), seeds) for name in pair)
        assert first.num_frames == second.num_frames
        assert np.array_equal(first.posture.joints, second.posture.joints)
        assert first.kind.held != second.kind.held
        a, b = (video.shoot(np.array([0])).pictures(np.diag([0.2, 0.2, 1.0]), 128, 96) for video in (first, second))
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("pair", MOTION_PAIRS)
def test_motion_pairs_show_the_same_pictures_in_reverse(pair: tuple[str, str]) -> None:
    for seed in range(5):
        first, second = (Video(number(name), Seeds(seed, seed, seed)) for name in pair)
        assert first.num_frames == second.num_frames
        backwards = second.posture.joints[::-1]
        # The path is summed up from the other end: equal but for rounding.
        assert np.allclose(first.posture.joints, backwards, atol=1e-6)
        assert not np.allclose(first.posture.joints, second.posture.joints, atol=100.0)
        assert (first.kind.held, first.style.held) == (second.kind.held, second.style.held)


@pytest.mark.parametrize("action", [action.name for action in ACTIONS])
def test_bodies_stand_on_the_floor_and_keep_their_lengths(action: str) -> None:
    for seed in range(4):
        body, posture = body_and_posture(action, seed)
        joints = posture.joints
        assert np.isfinite(joints).all()
        assert joints[..., 1].min() > 0
        lowest = joints[:, 14:16, 1].min(axis=1)
        assert (lowest < body.ankle + (700.0 if action == "jump" else 160.0)).all()
        for parent, child in ((4, 6), (5, 7), (6, 8), (7, 9), (10, 12), (11, 13), (12, 14), (13, 15), (2, 3)):
            length = np.linalg.norm(joints[:, parent] - joints[:, child], axis=1)
            assert np.ptp(length) < 1e-6
        # No faster than a fist in a blow.
        assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() * 25.0 < 14_000.0


def test_the_lower_foot_of_a_standing_body_does_not_slide() -> None:
    for action in ("squat", "raise arms", "wave"):
        _, posture = body_and_posture(action, 1)
        steps = np.diff(posture.joints[:, 14:16][..., [0, 2]], axis=0)
        assert np.linalg.norm(steps.mean(axis=1), axis=1).max() < 12.0


def test_right_and_left_are_where_they_belong() -> None:
    body = make_body(np.random.default_rng(0))
    posture = take_pose(body, np.zeros((2, len(FIELDS))))
    x = posture.joints[0, :, 0]
    for i, joint in enumerate(PA17.joints):
        if joint.startswith("right"):
            assert x[i] < 0 < x[PA17.flip[i]]
    # Hands in front of a body that bends its elbows, heels behind one that bends its knees.
    bent = np.zeros((2, len(FIELDS)))
    bent[:, [FIELDS.index(f) for f in ("r_elbow", "l_elbow", "r_knee", "l_knee")]] = 60.0
    joints = take_pose(body, bent).joints[0]
    assert (joints[[8, 9], 2] > joints[[6, 7], 2] + 100).all()
    assert (joints[[14, 15], 2] < joints[[12, 13], 2] - 100).all()


def test_mirrored_styles_mirror_the_motion() -> None:
    body = make_body(np.random.default_rng(0))
    handed = {}
    for seed in range(20):
        style = make_style(np.random.default_rng(seed))
        joints = take_pose(body, perform(ACTIONS[number("wave")], style, 50)).joints.mean(axis=0)
        handed[seed] = style.mirrored, bool(joints[9, 1] > joints[8, 1])
    assert all(mirrored == left for mirrored, left in handed.values())
    assert {mirrored for mirrored, _ in handed.values()} == {True, False}
