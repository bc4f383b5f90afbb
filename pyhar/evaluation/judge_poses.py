"""Poses: every prediction block on stills, one crop each."""

from __future__ import annotations

import numpy as np

from pyhar.data.geometry import normalised_to_picture, pose_to_camera
from pyhar.data.registry import PoseData
from pyhar.errors import UserError
from pyhar.evaluation.judge import Judge, extremes, places
from pyhar.evaluation.pose_tally import PoseTally, Truth
from pyhar.evaluation.results import Evaluation


def judge_poses(judge: Judge, data: PoseData, indices: list[int], depth_range: float, result: Evaluation) -> None:
    """Scores of every pose block on these stills, into `result`; UserError if the network has other joints."""
    layout, model = data.layout, judge.model
    if len(layout.joints) != model.config.num_joints:
        raise UserError(
            f"the network has {model.config.num_joints} joints, "
            f"the data {len(layout.joints)} (layout {layout.name!r}): "
            "evaluate on data of the layout that it was trained with"
        )
    tallies = [PoseTally(layout, data.action_names) for _ in range(model.num_pose_blocks)]
    ranked: list[tuple[float, int, str]] = []
    for keys, batch in judge.batches(data.__getitem__, indices, judge.batch_size, "poses"):
        truth = Truth.of(batch, layout)
        result.pose_samples += len(keys)
        off = np.array([])
        for tally, pose in zip(tallies, judge.forward(batch["frames"]).poses, strict=True):
            pose = pose.cpu().double()
            tally.not_finite += int((~pose[..., : model.config.dim].isfinite().all(-1)).sum())
            px = normalised_to_picture(pose[..., :2], batch["to_crop"]).numpy()
            mm = None
            if model.config.dim == 3:
                mm = pose_to_camera(
                    pose[..., :3], batch["to_crop"], batch["camera"].double(), batch["root_depth"].double(), depth_range
                ).numpy()
            off = tally.add(px, mm, truth)
        ranked += [(float(d), k, n) for d, k, n in zip(off, keys, batch["name"], strict=True) if not np.isnan(d)]
    result.joints = list(layout.joints)
    result.poses = [
        tally.scores(step.pyramid, step.level + 1)
        for tally, step in zip(tallies, places(model, "pose_block"), strict=True)
    ]
    result.best_poses, result.worst_poses = extremes(ranked)
    if result.poses[-1].pckh is not None:
        remark = getattr(data, "split_remark", "")
        result.protocols["PCKh@0.5"] = (
            f"{len(result.poses[-1].pckh_by_joint)} joints (pelvis, thorax and spine left out), within half of the "
            "data set's head size; one crop of each person" + (f"; {remark}." if remark else ".")
        )
    if result.poses[-1].mpjpe is not None:
        convention = getattr(data, "joint_convention", "")
        result.protocols["MPJPE"] = (
            f"{len(result.poses[-1].mpjpe_by_joint)} joints"
            + (f" by convention {convention}, not comparable with another" if convention else "")
            + "; root aligned, its true depth given; millimetres"
            + (f"; {protocol}." if (protocol := getattr(data, "protocol", "")) else ".")
        )
