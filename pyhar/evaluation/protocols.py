"""How a network is judged (Sec. 4.1.1, 4.5.4): every prediction block on stills, every action block on clips, and
speed over cuts.

Poses: one crop per still, no mirrored copy. PCKh is taken in picture pixels, to which normalised crop coordinates go
back through the inverse of the sample's `to_crop`; known joints outside the crop count, as in the data set's own
evaluation, while the authors' code leaves them out. MPJPE in camera millimetres, from the same pixels, the depth (z -
0.5) * 2 m + the true root's depth, and the camera. Actions, single clip: T frames around the middle of each video.
Multi clip: clips every T / 2 frames over the whole video, each as it is and mirrored, probabilities averaged. The
last block is the result; none is chosen by its score.
"""

from __future__ import annotations

import platform
import time

import numpy as np
import torch

import pyhar
from pyhar.data.registry import ClipData, PoseData
from pyhar.data.sample import DEPTH_RANGE_MM
from pyhar.errors import UserError
from pyhar.evaluation.judge import Judge
from pyhar.evaluation.judge_actions import judge_multi_clips, judge_single_clips
from pyhar.evaluation.judge_poses import judge_poses
from pyhar.evaluation.judge_speed import measure_cuts, scores_of_cuts
from pyhar.evaluation.pose_tally import THRESHOLDS
from pyhar.evaluation.results import Evaluation
from pyhar.models import SPNet


def evaluate(
    model: SPNet,
    pose_data: PoseData | None,
    clip_data: ClipData | None,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    workers: int = 0,
    pose_samples: int | None = None,
    clips: int | None = None,
    multi_clip: bool = True,
    max_clips: int | None = None,
    action_head: int = 0,
    speed: bool = True,
    dtype: torch.dtype | None = None,
    depth_range: float = DEPTH_RANGE_MM,
    name: str = "",
    progress: bool = True,
) -> Evaluation:
    """Judge `model` on stills and on clips; either may be None. The model is moved to `device` and left in the mode
    it came in.

    batch_size: frames per forward pass. workers: processes that read samples. pose_samples, clips: use this many,
    drawn at random but always the same; None: all. multi_clip, max_clips: whether to run the multi-clip protocol, and
    with at most how many clips per video. action_head: which of the network's classifiers the clips are for. speed:
    measure frames per second of the network and of its cuts. dtype: judge the network deployed in this type; None: as
    it is. depth_range: millimetres that z = 0..1 spans. name: what the data is called in the result.

    A sample that cannot be read is skipped and counted. Raises UserError if none can, if the network does not fit the
    data, or if there is nothing to evaluate.
    """
    if model.num_action_blocks == 0:
        clip_data = None
    if model.num_pose_blocks == 0:
        pose_data = None
    if pose_data is None and clip_data is None:
        raise UserError("nothing to evaluate: give stills, or clips and a network that recognises actions")
    begin, training = time.perf_counter(), model.training
    model.to(device).eval()
    judge = Judge(model, torch.device(device), batch_size, workers, progress, action_head, dtype)
    config = model.config
    result = Evaluation(
        data=name,
        device=_device_name(judge.device),
        versions={"pyhar": pyhar.__version__, "torch": torch.__version__, "python": platform.python_version()},
        thresholds=THRESHOLDS.round(6).tolist(),
        clip_frames=config.clip_frames,
    )
    if dtype is not None:
        result.protocols["network"] = f"deployed in {str(dtype).removeprefix('torch.')}."
    try:
        if pose_data is not None:
            judge_poses(judge, pose_data, _chosen(len(pose_data), pose_samples), depth_range, result)
        if clip_data is not None:
            labels = judge_single_clips(judge, clip_data, _chosen(len(clip_data), clips), result)
            if multi_clip:
                judge_multi_clips(judge, clip_data, labels, max_clips, result)
        result.cuts = scores_of_cuts(model, result)
        if speed:
            measure_cuts(judge, result)
    finally:
        model.train(training)
    result.skipped, result.skipped_because = judge.skipped.count, judge.skipped.reasons
    result.seconds = time.perf_counter() - begin
    return result


def _chosen(size: int, count: int | None) -> list[int]:
    """`count` of the indices below `size`, drawn at random but always the same, or all: classes often lie in a
    regular order.
    """
    if count is not None and count < 1:
        raise UserError(f"the number of samples must be at least 1, not {count}")
    if count is None or count >= size:
        return list(range(size))
    return sorted(np.random.default_rng(0).permutation(size)[:count].tolist())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
