"""Speed over cuts (Sec. 4.5.4), beside the scores of the blocks that a cut network ends with."""

from __future__ import annotations

import torch

from pyhar.evaluation.judge import Judge
from pyhar.evaluation.results import ActionScores, CutScores, Evaluation, PoseScores
from pyhar.evaluation.speed import frames_per_second
from pyhar.models import SPNet
from pyhar.models.spnet import visiting_order


def scores_of_cuts(model: SPNet, result: Evaluation) -> list[CutScores]:
    """One entry for each pyramid, with the scores of the blocks that it ends with; a network that is cut already has
    one.
    """

    def entry(pyramid: int, pose: int | None, action: int | None) -> CutScores:
        poses = result.poses[pose] if pose is not None and result.poses else None
        actions = result.actions[action] if action is not None and result.actions else None
        return CutScores(
            pyramid,
            pose,
            action,
            poses.pckh if poses else None,
            poses.mpjpe if poses else None,
            actions.single_clip if actions else None,
        )

    if model.config.cut is not None:
        scores: list[PoseScores | ActionScores] = [*result.poses, *result.actions]
        pyramid = max(block.pyramid for block in scores)
        return [entry(pyramid, 0 if model.num_pose_blocks else None, 0 if model.num_action_blocks else None)]
    last = {step.pyramid: step for step in visiting_order(model.config)}
    return [entry(pyramid, step.pose_block, step.action_block) for pyramid, step in last.items()]


def measure_cuts(judge: Judge, result: Evaluation) -> None:
    """Speed of every cut, poses on a batch of stills and actions on one clip, as Sec. 4.5.4 measures them."""
    config, full = judge.model.config, judge.model
    size = (3, config.image_size, config.image_size)
    stills = torch.rand((result.pose_batch, *size), device=judge.device) * 2 - 1
    clip = stills[torch.arange(config.clip_frames) % result.pose_batch].unsqueeze(0)
    with judge.bar(len(result.cuts), "speed") as bar:
        for cut in result.cuts:
            if cut.pose_block is not None:
                poses = full if config.cut else full.cut(cut.pose_block, None)
                cut.pose_fps = frames_per_second(judge.in_form(poses), stills)
            if cut.action_block is not None:
                actions = full if config.cut else full.cut(None, cut.action_block)
                cut.action_fps = frames_per_second(judge.in_form(actions), clip)
            bar.update()
