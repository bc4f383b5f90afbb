"""The losses of Sec. 4.2.1. Each is a mean over samples of a loss normalised within the sample, summed over the
network's blocks, or of the last alone.

A frame is a sample to the pose and confidence losses, a clip to the action loss. Because every sample weighs the same,
the mean over several processes' equal shares of a batch is the mean over the whole batch.

Coordinates that are not known are replaced before the first arithmetic, so whatever is stored there (NaN, infinities,
-1e9) reaches neither a value nor a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar.models import SPNetOutput
from pyhar.training.config import LossConfig

# Probabilities are kept this far from 0 and 1 before a logarithm (Keras' constant).
_EPS = 1e-7


class Losses(NamedTuple):
    """What one step minimises, and its unweighted parts; a part that does not apply is None. Scalars."""

    total: Tensor
    pose: Tensor | None = None
    confidence: Tensor | None = None
    action: Tensor | None = None


def pose_loss(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    normaliser: Literal["joints", "coordinates"] = "joints",
    coordinate_bce: float = 0.0,
) -> Tensor:
    """Elastic net (Eq. 11): the sum over valid coordinates of |d| + d^2, divided by the number of valid joints or
    coordinates.

    prediction, target (..., J, dim) in normalised crop coordinates; valid (..., J, dim) bool, broadcastable. Returns
    (...) float32, 0 where nothing is valid. A joint is valid if any of its coordinates is. `coordinate_bce` adds that
    much binary cross entropy of the coordinates, with the same normaliser (release).
    """
    prediction, target, valid = torch.broadcast_tensors(_full(prediction), _full(target), valid)
    target = torch.where(valid, target, 0.0)
    p = torch.where(valid, prediction, target)
    difference = p - target
    loss = difference.abs() + difference.square()
    if coordinate_bce:
        loss = loss + coordinate_bce * torch.where(valid, _binary_cross_entropy(p, target), 0.0)
    count = (valid.any(dim=-1) if normaliser == "joints" else valid.flatten(-2)).sum(dim=-1)
    return loss.sum(dim=(-2, -1)) / count.clamp(min=1)


def confidence_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of the confidence, mean over joints.

    prediction (..., J): probabilities, rounding beyond [0, 1] is cut off; target (..., J): 1 inside the crop, 0
    outside, negative or NaN where it is not known: such joints do not count. Returns (...).
    """
    prediction, target = torch.broadcast_tensors(_full(prediction), _full(target))
    known = target >= 0
    target = torch.where(known, target, 0.0)
    entropy = torch.where(known, _binary_cross_entropy(torch.where(known, prediction, 0.5), target), 0.0)
    return entropy.sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


def action_loss(logits: Sequence[Sequence[Tensor]], action: Tensor, head: Tensor) -> Tensor:
    """Categorical cross entropy, summed over action blocks; each clip counts on the head of its own data set.

    logits: per block, per head (B, classes); action (B,) class index, -1 unlabelled; head (B,). Returns the mean over
    the B clips, a scalar; unlabelled clips add 0.
    """
    total = action.new_zeros((), dtype=torch.float32)
    for k in range(len(logits[0])):
        scores = _full(torch.stack([block[k] for block in logits], dim=-1))  # (B, classes, blocks)
        labels = torch.where(head == k, action, -1).unsqueeze(-1).expand(-1, scores.shape[-1])
        total = total + F.cross_entropy(scores, labels, ignore_index=-1, reduction="none").sum(dim=-1).mean()
    return total


def pose_batch_losses(
    poses: Sequence[Tensor], pose: Tensor, valid: Tensor, confidence: Tensor, config: LossConfig
) -> Losses:
    """Pose and confidence losses of these prediction blocks.

    poses: per block (B, [T,] J, dim + 1); pose and valid (B, [T,] J, 3); confidence (B, [T,] J). A network for x and y
    ignores z. A joint outside the crop, of confidence 0, has a confidence loss alone, as in the release: soft-argmax
    cannot reach it.
    """
    stacked = _full(torch.stack(list(poses)))
    valid = valid & (confidence != 0).unsqueeze(-1)
    dim = stacked.shape[-1] - 1
    per_frame = pose_loss(
        stacked[..., :dim], pose[..., :dim], valid[..., :dim], config.normaliser, config.coordinate_bce
    )
    of_pose = per_frame.flatten(1).mean(dim=1).sum()
    of_confidence = confidence_loss(stacked[..., dim], confidence).flatten(1).mean(dim=1).sum()
    return Losses(config.pose * of_pose + config.confidence * of_confidence, of_pose, of_confidence)


def batch_losses(
    task: Literal["pose", "action"], output: SPNetOutput, batch: dict[str, Tensor], config: LossConfig
) -> Losses:
    """The losses of a pose batch or an action batch; `batch` holds collated samples on the output's device (see
    `pyhar.data.sample`).
    """
    blocks = slice(-1, None) if config.blocks == "last" else slice(None)
    poses = output.poses[blocks], batch["pose"], batch["pose_valid"], batch["confidence"]
    if task == "pose":
        return pose_batch_losses(*poses, config)
    action = action_loss(output.action_logits[blocks], batch["action"], batch["action_head"])
    if not config.clip_pose:
        return Losses(config.action * action, action=action)
    pose = pose_batch_losses(*poses, config)
    return Losses(config.action * action + config.clip_pose * pose.total, pose.pose, pose.confidence, action)


def _full(x: Tensor) -> Tensor:
    """float32 or better: half types cannot hold the differences and logarithms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _binary_cross_entropy(p: Tensor, target: Tensor) -> Tensor:
    p = p.clamp(_EPS, 1 - _EPS)
    return -(target * p.log() + (1 - target) * torch.log1p(-p))
