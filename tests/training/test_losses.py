"""The losses against the authors' values, hand-made cases, and everything that must not become NaN."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyhar.models import SPNetOutput
from pyhar.training.config import LossConfig
from pyhar.training.losses import action_loss, batch_losses, confidence_loss, pose_batch_losses, pose_loss

CASES = np.load(Path(__file__).parents[1] / "data" / "loss_cases.npz")
NAMES = sorted({name.split("/")[0] for name in CASES})


def tensors(case):
    return torch.from_numpy(CASES[f"{case}/y_true"]), torch.from_numpy(CASES[f"{case}/y_pred"]).requires_grad_()


@pytest.mark.parametrize("case", NAMES)
def test_release_values_and_gradients(case):
    target, prediction = tensors(case)
    valid = target[..., :-1] > 0  # the release's rule
    pose = pose_loss(prediction[..., :-1], target[..., :-1], valid, "coordinates", coordinate_bce=0.01)
    confidence = confidence_loss(prediction[..., -1], target[..., -1])
    np.testing.assert_allclose(pose.detach(), CASES[f"{case}/l1l2bincross/ploss"], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(confidence.detach(), CASES[f"{case}/l1l2bincross/vloss"], rtol=2e-6, atol=1e-7)
    total = pose + 0.01 * confidence
    per_sample = total.mean(dim=-1) if total.ndim == 2 else total
    np.testing.assert_allclose(per_sample.detach(), CASES[f"{case}/l1l2bincross/loss"], rtol=2e-6)
    (gradient,) = torch.autograd.grad(per_sample.sum(), prediction)
    np.testing.assert_allclose(gradient, CASES[f"{case}/l1l2bincross/grad_of_sum"], rtol=2e-5, atol=1e-7)
    elastic = pose_loss(prediction[..., :-1], target[..., :-1], valid, "coordinates") + 0.01 * confidence
    elastic = elastic.mean(dim=-1) if elastic.ndim == 2 else elastic
    np.testing.assert_allclose(elastic.detach(), CASES[f"{case}/l1l2/loss"], rtol=2e-6)


def test_known_coordinates_count_wherever_they_lie():
    # The release takes a coordinate of zero or less for unknown; here the mask alone decides.
    target, prediction = tensors("3d_valid_but_outside_unit")
    assert (target[..., :-1] <= 0).any()
    everything = torch.ones_like(target[..., :-1], dtype=torch.bool)
    difference = (prediction - target)[..., :-1].detach().double()
    expected = (difference.abs() + difference**2).sum(dim=(1, 2))
    joints = pose_loss(prediction[..., :-1], target[..., :-1], everything, "joints").detach()
    torch.testing.assert_close(joints, (expected / 17).float())
    coordinates = pose_loss(prediction[..., :-1], target[..., :-1], everything, "coordinates").detach()
    torch.testing.assert_close(coordinates, (expected / 51).float())


def test_joints_normaliser_counts_joints_with_any_coordinate():
    valid = torch.tensor([[[True, True, False], [False, False, True], [False, False, False]]])
    target, prediction = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)  # each valid coordinate costs 1 + 1
    assert pose_loss(prediction, target, valid, "joints").item() == pytest.approx(3 * 2 / 2)
    assert pose_loss(prediction, target, valid, "coordinates").item() == pytest.approx(3 * 2 / 3)


@pytest.mark.parametrize("normaliser", ["joints", "coordinates"])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e9, 3e38])
def test_unknown_coordinates_reach_nothing(garbage, normaliser):
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.rand(2, 5, 3, generator=generator), torch.rand(2, 5, 3, generator=generator)
    valid = torch.rand(2, 5, 3, generator=generator) < 0.5
    clean = pose_loss(prediction, target, valid, normaliser, 0.01)
    prediction.requires_grad_()
    loss = pose_loss(prediction, torch.where(valid, target, garbage), valid, normaliser, 0.01)
    assert torch.equal(loss.detach(), clean)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert gradient.isfinite().all()
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).all()
    wild = torch.where(valid, prediction.detach(), garbage).requires_grad_()
    loss = pose_loss(wild, target, valid, normaliser, 0.01)
    assert torch.equal(loss.detach(), clean)
    assert (torch.autograd.grad(loss.sum(), wild)[0][~valid] == 0).all()


def test_nothing_known_costs_nothing():
    prediction = torch.rand(2, 5, 4, requires_grad=True)
    nothing = torch.zeros(2, 5, 3, dtype=torch.bool)
    unknown = torch.full((2, 5), -1.0)
    losses = pose_batch_losses([prediction], torch.full((2, 5, 3), torch.nan), nothing, unknown, LossConfig())
    assert losses.total.item() == 0
    (gradient,) = torch.autograd.grad(losses.total, prediction)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_confidence_at_and_beyond_its_limits():
    prediction = torch.tensor([[0.0, 1.0, 1.0 + 1e-6, -1e-6, 0.5]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0, torch.nan]])
    loss = confidence_loss(prediction, target)
    assert loss.item() == pytest.approx(16, rel=0.02)  # -log 1e-7, over the four joints that are known
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert gradient.isfinite().all()
    assert gradient[0, 4] == 0


def test_joints_outside_the_crop_cost_confidence_alone():
    poses, valid = [torch.rand(2, 5, 4, requires_grad=True)], torch.ones(2, 5, 3, dtype=torch.bool)
    pose, confidence = torch.rand(2, 5, 3), torch.ones(2, 5)
    pose[0, 1], confidence[0, 1] = torch.tensor([-0.4, 0.2, 0.5]), 0.0
    losses = pose_batch_losses(poses, pose, valid, confidence, LossConfig())
    (gradient,) = torch.autograd.grad(losses.total, poses[0])
    assert (gradient[0, 1] == 0).tolist() == [True, True, True, False]
    assert (gradient[0, 2:] != 0).all()
    pose[0, 1] = 7.0
    assert torch.equal(pose_batch_losses(poses, pose, valid, confidence, LossConfig()).pose, losses.pose)


def test_a_flat_network_ignores_depth():
    poses = [torch.rand(3, 5, 3)]
    pose, valid, confidence = torch.rand(3, 5, 3), torch.ones(3, 5, 3, dtype=torch.bool), torch.ones(3, 5)
    losses = pose_batch_losses(poses, pose, valid, confidence, LossConfig())
    pose[..., 2] = torch.nan
    assert torch.equal(pose_batch_losses(poses, pose, valid, confidence, LossConfig()).total, losses.total)


def test_every_block_counts_and_every_sample_weighs_the_same():
    generator = torch.Generator().manual_seed(1)
    poses = [torch.rand(4, 2, 5, 4, generator=generator) for _ in range(3)]
    pose, confidence = torch.rand(4, 2, 5, 3, generator=generator), torch.ones(4, 2, 5)
    valid = torch.rand(4, 2, 5, 3, generator=generator) < 0.7
    whole = pose_batch_losses(poses, pose, valid, confidence, LossConfig()).total
    by_block = [pose_batch_losses([block], pose, valid, confidence, LossConfig()).total for block in poses]
    torch.testing.assert_close(whole, torch.stack(by_block).sum())
    halves = [
        pose_batch_losses(
            [block[part] for block in poses], pose[part], valid[part], confidence[part], LossConfig()
        ).total
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


def test_action_loss_by_head_and_label():
    generator = torch.Generator().manual_seed(2)
    logits = [[torch.randn(4, 3, generator=generator), torch.randn(4, 6, generator=generator)] for _ in range(2)]
    action, head = torch.tensor([2, 5, -1, 0]), torch.tensor([0, 1, 0, 1])
    expected = 0.0
    for sample in (0, 1, 3):
        for block in logits:
            expected -= block[int(head[sample])][sample].double().log_softmax(dim=0)[action[sample]].item() / 4
    assert action_loss(logits, action, head).item() == pytest.approx(expected, rel=1e-6)


def test_unlabelled_clips_cost_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = action_loss([[logits]], torch.tensor([-1, -1]), torch.tensor([0, 0]))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros(2, 3))


def test_the_last_block_alone_or_no_poses():
    """What Tables 4 and 6 compare with."""
    generator = torch.Generator().manual_seed(3)
    blocks = [torch.rand(2, 4, 5, 4, generator=generator, requires_grad=True) for _ in range(3)]
    logits = [[torch.randn(2, 3, generator=generator, requires_grad=True)] for _ in range(2)]
    output = SPNetOutput(poses=blocks, action_logits=logits)
    batch = {
        "pose": torch.rand(2, 4, 5, 3, generator=generator),
        "pose_valid": torch.ones(2, 4, 5, 3, dtype=torch.bool),
        "confidence": torch.ones(2, 4, 5),
        "action": torch.tensor([0, 2]),
        "action_head": torch.tensor([0, 0]),
    }
    last = SPNetOutput(poses=blocks[-1:], action_logits=logits[-1:])
    for task in ("pose", "action"):
        one = batch_losses(task, output, batch, LossConfig(blocks="last", clip_pose=0.5))
        torch.testing.assert_close(one.total, batch_losses(task, last, batch, LossConfig(clip_pose=0.5)).total)
        assert one.total < batch_losses(task, output, batch, LossConfig(clip_pose=0.5)).total
    nothing = batch_losses("pose", output, batch, LossConfig(pose=0.0, confidence=0.0)).total
    assert not any(gradient.any() for gradient in torch.autograd.grad(nothing, blocks))


def test_weights_and_parts():
    output = SPNetOutput(poses=[torch.rand(2, 4, 5, 4)], action_logits=[[torch.randn(2, 3)]])
    batch = {
        "pose": torch.rand(2, 4, 5, 3),
        "pose_valid": torch.ones(2, 4, 5, 3, dtype=torch.bool),
        "confidence": torch.ones(2, 4, 5),
        "action": torch.tensor([0, 2]),
        "action_head": torch.tensor([0, 0]),
    }
    alone = batch_losses("action", output, batch, LossConfig(action=0.1))
    assert alone.pose is None
    torch.testing.assert_close(alone.total, 0.1 * alone.action)
    both = batch_losses("action", output, batch, LossConfig(action=0.1, clip_pose=0.5))
    torch.testing.assert_close(both.total, 0.1 * both.action + 0.5 * (both.pose + 0.01 * both.confidence))
    poses = batch_losses("pose", output, batch, LossConfig(confidence=0.02))
    assert poses.action is None
    torch.testing.assert_close(poses.total, poses.pose + 0.02 * poses.confidence)
