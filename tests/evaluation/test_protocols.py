from __future__ import annotations

import numpy as np
import pytest
import torch
from stand_in import FRAMES, HEAD, NAMES, Oracle, StandIn, config
from torch import Tensor

from pyhar.data.layouts import PA16, PA17
from pyhar.errors import UserError
from pyhar.evaluation.protocols import evaluate
from pyhar.models import SPNet


def judge(model, pose_data, clip_data, **options):
    return evaluate(model, pose_data, clip_data, **{"speed": False, "progress": False, "batch_size": 5} | options)


def truth(video: int, pose: Tensor) -> Tensor:
    return pose


# Poses


def test_the_truth_is_perfect_in_every_block() -> None:
    data = StandIn()
    found = judge(Oracle(data).train(), data, StandIn(kind="clips"), multi_clip=False)
    assert [(s.pyramid, s.level) for s in found.poses] == [(1, 2), (2, 1)]
    for scores in found.poses:
        assert scores.pckh == 100
        assert scores.pckh_auc == pytest.approx(100, abs=2)  # the curve begins at threshold 0
        assert scores.mpjpe == pytest.approx(0, abs=0.01)
        assert scores.pa_mpjpe == pytest.approx(0, abs=0.01)
        assert len(scores.pckh_by_joint) == 14
        assert len(scores.mpjpe_by_joint) == 17
        assert scores.not_finite == 0
    assert found.pose_samples == len(data)
    assert found.joints == list(PA17.joints)
    assert [s.single_clip for s in found.actions] == [100, 100]
    assert found.pose is found.poses[-1]


def test_a_depth_error_becomes_millimetres_along_the_ray() -> None:
    data = StandIn()

    def too_deep(video: int, pose: Tensor) -> Tensor:
        far = pose.clone()
        far[1:, 2] += 0.05  # 100 mm, all but the root
        return far

    first, last = judge(Oracle(data, [too_deep, truth]), data, None).poses
    ray = (data.joints_mm / data.joints_mm[..., 2:]).norm(dim=-1)
    expected = 100 * ray
    expected[:, 0] = 0
    assert first.mpjpe == pytest.approx(float(expected.mean()), rel=1e-4)
    assert first.mpjpe_by_joint["spine"] == pytest.approx(float(expected[:, 16].mean()), rel=1e-4)
    assert first.mpjpe_by_action["wave"] == pytest.approx(float(expected[1::3].mean()), rel=1e-4)
    assert first.pckh == 100
    assert last.mpjpe == pytest.approx(0, abs=0.01)


def test_an_error_in_the_plane_is_measured_in_picture_pixels() -> None:
    data = StandIn()
    side = 200.0  # of the crop, pixels

    def shifted(heads: float):
        def pose(video: int, true: Tensor) -> Tensor:
            moved = true.clone()
            moved[PA17.index("left knee"), :2] += torch.tensor([0.6, 0.8]) * heads * HEAD / side
            return moved

        return pose

    near, far = judge(Oracle(data, [shifted(0.49), shifted(0.51)]), data, None).poses
    assert near.pckh == 100
    assert far.pckh == pytest.approx(100 * 13 / 14)
    assert far.pckh_by_joint["left knee"] == 0
    assert far.pckh_curve["left knee"][:25] == [0] * 25
    assert far.pckh_curve["left knee"][26:] == [100] * 25


def test_invalid_joints_and_unknown_head_sizes_do_not_count() -> None:
    class Partly(StandIn):
        def clip(self, video, frame_indices, flip=False):
            sample = super().clip(video, frame_indices, flip)
            sample["pose_valid"][:, 5] = False
            sample["pose_valid"][:, 6, 2] = False
            sample["joints_px"][:, 5] = torch.nan
            sample["joints_mm"][:, 5:7] = torch.nan
            if video == 0:
                sample["head_size"][:] = torch.nan
                sample["camera"] = torch.full((4,), torch.nan)
            return sample

    data = Partly(size=4)

    def off(video: int, pose: Tensor) -> Tensor:
        moved = pose.clone()
        moved[5] += 9
        if video == 0:
            moved[:, :2] += 9
        return moved

    scores = judge(Oracle(data, [truth, off]), data, None).poses[-1]
    assert scores.pckh == 100
    assert PA17.joints[5] not in scores.pckh_by_joint
    assert PA17.joints[6] in scores.pckh_by_joint
    assert not {PA17.joints[5], PA17.joints[6]} & set(scores.mpjpe_by_joint)
    assert scores.mpjpe == pytest.approx(0, abs=0.01)


def test_nan_predictions_are_counted_as_wrong() -> None:
    data = StandIn(size=10)

    def broken(video: int, pose: Tensor) -> Tensor:
        out = pose.clone()
        if video == 4:
            out[3] = torch.nan
        if video == 5:
            out[6, 2] = torch.inf
        return out

    found = judge(Oracle(data, [truth, broken]), data, None)
    scores = found.poses[-1]
    assert scores.not_finite == 2
    assert scores.pckh == pytest.approx(100 * 139 / 140)  # in the picture, the joint without depth is right
    distances = (data.joints_mm[[4, 5], [3, 6]] - data.joints_mm[[4, 5], 0]).norm(dim=-1)
    assert scores.mpjpe == pytest.approx(float(distances.sum()) / 170, rel=1e-3)
    assert found.worst_poses[0].index == 4
    assert found.worst_poses[0].error is None
    assert found.poses[0].not_finite == 0


def test_two_dimensional_networks_have_no_mpjpe() -> None:
    data = StandIn()
    found = judge(Oracle(data, dim=2), data, None)
    assert found.pose.pckh == 100
    assert found.pose.mpjpe is None
    assert found.pose.mpjpe_by_joint == {}


def test_best_and_worst_are_told_apart() -> None:
    data = StandIn(size=20)

    def worse_and_worse(video: int, pose: Tensor) -> Tensor:
        return pose + torch.tensor([0.001 * ((7 * video) % 20), 0, 0])

    found = judge(Oracle(data, [truth, worse_and_worse]), data, None)
    order = sorted(range(20), key=lambda video: (7 * video) % 20)
    assert [s.index for s in found.best_poses] == order[:6]
    assert [s.index for s in found.worst_poses] == order[:-7:-1]
    assert found.best_poses[1].error == pytest.approx(0.001 * 200 / HEAD, rel=1e-3)


# Actions


def constant(*probabilities: float):
    return lambda video, first, mirrored: probabilities


def test_single_clip_accuracy_of_every_block() -> None:
    data = StandIn(size=12, kind="clips")
    model = Oracle(data, chances=[constant(0.5, 0.3, 0.2), constant(0.1, 0.2, 0.7)])
    found = judge(model, None, data, multi_clip=False)
    assert [s.single_clip for s in found.actions] == [pytest.approx(100 / 3)] * 2
    assert found.actions[0].by_class == {"clap": 100, "wave": 0, "walk": 0}
    assert found.actions[1].confusion == [[0, 0, 4], [0, 0, 4], [0, 0, 4]]
    assert found.actions[0].multi_clip is None
    assert found.clips == 12
    assert found.action_names == list(NAMES)
    assert found.poses == []
    assert found.worst_clips[0].error == pytest.approx(0.9)
    assert [key[0] for key in model.calls] == list(range(12))
    assert model.calls[0][1] == (6, 8, 10, 12)  # the middle of 20 frames, every second


def test_multi_clip_averages_probabilities_over_clips_and_mirror_images() -> None:
    data = StandIn(size=2, kind="clips", frames=(20, 13))

    def chance(video: int, first: int, mirrored: bool):
        # Right on the middle clip, wrong on average for video 0; the other way round for video 1.
        if video == 0:
            return [0.6, 0.4, 0.0] if not mirrored else [0.3, 0.7, 0.0]
        if first == 3:  # the centre clip
            return [0.5, 0.4, 0.1]
        return [0.1, 0.9, 0.0] if mirrored else [0.6, 0.4, 0.0]

    model = Oracle(data, chances=[chance, chance])
    found = judge(model, None, data, batch_size=3 * FRAMES)
    assert found.action.by_class == {"clap": 100, "wave": 0}
    assert found.action.multi_clip == 50  # video 1 alone: 0.35 and 0.65
    # 20 frames, T = 4, every second: clips begin at 0, 2, .., 12; of 13 frames at 0, 2, 4. Each twice.
    assert found.multi_clips == (7 + 3) * 2 / 2
    multi = model.calls[2:]
    assert sorted((v, k[0], m) for v, k, m in multi) == sorted(
        (v, first, m)
        for v, firsts in ((0, range(0, 13, 2)), (1, range(0, 5, 2)))
        for first in firsts
        for m in (False, True)
    )


def test_multi_clips_can_be_limited_and_short_videos_count() -> None:
    data = StandIn(size=4, kind="clips", frames=(20, 3))
    model = Oracle(data)
    found = judge(model, None, data, max_clips=2)
    assert found.multi_clips == (2 + 1) / 2 * 2
    assert found.action.multi_clip == 100
    assert {k for v, k, m in model.calls if v == 1} == {(0, 1, 1, 2)}


def test_nan_probabilities_are_wrong() -> None:
    data = StandIn(size=6, kind="clips")

    def chance(video: int, first: int, mirrored: bool):
        if video == 0:  # class 0, which argmax would name
            return [np.nan] * 3
        if video == 1 and mirrored:
            return [np.nan] * 3
        return np.eye(3)[video % 3] * 0.7 + 0.1

    found = judge(Oracle(data, chances=[chance, chance]), None, data)
    assert found.action.not_finite == 1
    assert found.action.single_clip == pytest.approx(100 * 5 / 6)
    assert found.action.multi_clip == pytest.approx(100 * 5 / 6)
    assert sum(map(sum, found.action.confusion)) == 5


# Everything else


def test_samples_that_cannot_be_read_are_skipped_and_counted() -> None:
    poses, clips = StandIn(size=10, bad=[3]), StandIn(size=9, kind="clips", bad=[0, 4])
    found = judge(Oracle(poses), poses, clips)
    assert found.pose_samples == 9
    assert found.clips == 7
    assert found.skipped == 3
    assert found.skipped_because == ["video 3 is broken", "video 0 is broken", "video 4 is broken"]
    assert found.pose.pckh == 100
    assert found.action.multi_clip == 100


def test_workers_give_the_same() -> None:
    data, clips = StandIn(size=8, bad=[2]), StandIn(size=5, kind="clips")
    alone, helped = (judge(Oracle(data), data, clips, workers=workers) for workers in (0, 1))
    alone.seconds = helped.seconds = 0
    assert alone == helped


def test_nothing_readable_is_an_error_and_bugs_come_through() -> None:
    data = StandIn(size=3, bad=[0, 1, 2])
    with pytest.raises(UserError, match=r"none of the 3 samples.*video 0 is broken"):
        judge(Oracle(data), data, None)

    class Faulty(StandIn):
        def clip(self, video, frame_indices, flip=False):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        judge(Oracle(data), Faulty(size=3), None)


def test_a_share_of_the_samples_is_always_the_same_and_of_all_classes() -> None:
    poses, clips = StandIn(size=60), StandIn(size=60, kind="clips")
    model, again = Oracle(poses), Oracle(poses)
    found = judge(model, poses, clips, pose_samples=7, clips=20, multi_clip=False)
    judge(again, poses, clips, pose_samples=7, clips=20, multi_clip=False)
    assert found.pose_samples == 7
    chosen = [call[0] for call in model.calls]
    assert len(set(chosen)) == 20
    assert chosen == [call[0] for call in again.calls]
    assert {video % 3 for video in chosen} == {0, 1, 2}
    assert judge(model, poses, None, pose_samples=99).pose_samples == 60
    with pytest.raises(UserError, match="at least 1"):
        judge(model, poses, None, pose_samples=0)


def test_data_that_does_not_fit_is_an_error() -> None:
    data, clips = StandIn(size=3), StandIn(size=3, kind="clips")
    other = StandIn(size=3)
    other.layout = PA16
    with pytest.raises(UserError, match=r"17 joints.*16"):
        judge(Oracle(data), other, None)
    clips.action_names = ("clap", "wave")
    with pytest.raises(UserError, match="3 actions apart, the data has 2"):
        judge(Oracle(data), None, clips)
    with pytest.raises(UserError, match="no classifier 1"):
        judge(Oracle(data), None, StandIn(size=3, kind="clips"), action_head=1)
    with pytest.raises(UserError, match="nothing to evaluate"):
        judge(Oracle(data), None, None)


def test_unlabelled_clips_do_not_count() -> None:
    class Partly(StandIn):
        def clip(self, video, frame_indices, flip=False):
            sample = super().clip(video, frame_indices, flip)
            return sample | {"action": torch.tensor(-1)} if video % 2 or self.size == 2 else sample

    found = judge(Oracle(StandIn()), None, Partly(size=6, kind="clips"))
    assert found.clips == 3
    assert found.action.multi_clip == 100
    with pytest.raises(UserError, match="no clip has an action"):
        judge(Oracle(StandIn()), None, Partly(size=2, kind="clips"))


def test_a_real_network_and_its_cuts() -> None:
    model = SPNet(config()).train()
    found = evaluate(model, StandIn(size=4), StandIn(size=3, kind="clips"), progress=False)
    assert model.training
    assert len(found.poses) == len(found.actions) == 2
    assert [(c.pyramid, c.pose_block, c.action_block) for c in found.cuts] == [(1, 0, 0), (2, 1, 1)]
    for cut, pose, action in zip(found.cuts, found.poses, found.actions, strict=True):
        assert (cut.pckh, cut.mpjpe, cut.single_clip) == (pose.pckh, pose.mpjpe, action.single_clip)
        assert cut.pose_fps > 0
        assert cut.action_fps > 0


def test_the_deployed_network_is_judged_alike() -> None:
    model = SPNet(config())
    data = StandIn(size=4), StandIn(size=3, kind="clips")
    plain = evaluate(model, *data, progress=False, speed=False)
    deployed = evaluate(model, *data, progress=False, dtype=torch.float32)
    assert deployed.protocols["network"] == "deployed in float32."
    assert "network" not in plain.protocols
    assert deployed.pose.mpjpe == pytest.approx(plain.pose.mpjpe, rel=1e-4)
    assert deployed.action.confusion == plain.action.confusion
    assert deployed.cuts[0].pose_fps > 0
    half = evaluate(model, *data, progress=False, speed=False, dtype=torch.bfloat16)
    assert half.pose.mpjpe == pytest.approx(plain.pose.mpjpe, rel=0.05)
    assert half.pose.mpjpe != plain.pose.mpjpe


def test_a_cut_network_and_one_without_actions() -> None:
    cut = SPNet(config()).cut(0, None)
    found = evaluate(cut, StandIn(size=4), StandIn(size=3, kind="clips"), progress=False)
    assert [(s.pyramid, s.level) for s in found.poses] == [(1, 2)]
    assert found.actions == []
    assert [(c.pyramid, c.pose_block, c.action_block) for c in found.cuts] == [(1, 0, None)]
    assert found.cuts[0].pose_fps > 0

    poses_only = SPNet(config(action_pyramids=(), num_actions=()))
    found = evaluate(poses_only, StandIn(size=4), StandIn(size=3, kind="clips"), progress=False)
    assert len(found.poses) == 2
    assert found.cuts[-1].action_fps is None

    late = SPNet(config(action_pyramids=(2,)))
    found = evaluate(late, StandIn(size=4), StandIn(size=3, kind="clips"), progress=False, multi_clip=False)
    assert [c.action_block for c in found.cuts] == [None, 0]
    assert [(s.pyramid, s.level) for s in found.actions] == [(2, 1)]


def test_depth_range_is_the_networks() -> None:
    data = StandIn()

    def halved(video: int, pose: Tensor) -> Tensor:
        return torch.cat([pose[:, :2], (pose[:, 2:] - 0.5) / 2 + 0.5], dim=1)

    found = judge(Oracle(data, [truth, halved]), data, None, depth_range=4000.0)
    assert found.pose.mpjpe == pytest.approx(0, abs=0.01)
    assert found.poses[0].mpjpe > 100
