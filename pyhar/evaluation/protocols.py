"""How a network is judged (Sec. 4.1.1, 4.5.4): every prediction block on stills, every action block on clips, and
speed over cuts.

Poses: one crop per still, no mirrored copy. PCKh is taken in picture pixels, to which normalised crop coordinates go
back through the inverse of the sample's `to_crop`; MPJPE in camera millimetres, from the same pixels, the depth (z -
0.5) * 2 m + the true root's depth, and the camera. Actions, single clip: T frames around the middle of each video.
Multi clip: clips every T / 2 frames over the whole video, each as it is and mirrored, probabilities averaged. The
last block is the result; none is chosen by its score.
"""

from __future__ import annotations

import heapq
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

import pyhar
from pyhar.data.clips import multi_clips
from pyhar.data.geometry import normalised_to_picture, pose_to_camera
from pyhar.data.registry import ClipData, PoseData
from pyhar.data.sample import DEPTH_RANGE_MM, Sample, model_input
from pyhar.deploy import DeployedSPNet, deploy
from pyhar.errors import UserError
from pyhar.evaluation import metrics
from pyhar.evaluation.loading import Skipped, batches
from pyhar.evaluation.pose_tally import THRESHOLDS, PoseTally, Truth
from pyhar.evaluation.results import ActionScores, CutScores, Evaluation, PoseScores, SampleScore, finite
from pyhar.evaluation.speed import frames_per_second
from pyhar.models import SPNet, SPNetOutput
from pyhar.models.spnet import Step, visiting_order

SHOWN = 6
"""How many of the best and of the worst samples are remembered."""


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
    run = _Run(model, torch.device(device), batch_size, workers, progress, action_head, dtype)
    config = model.config
    result = Evaluation(
        data=name,
        device=_device_name(run.device),
        versions={"pyhar": pyhar.__version__, "torch": torch.__version__, "python": platform.python_version()},
        thresholds=THRESHOLDS.round(6).tolist(),
        clip_frames=config.clip_frames,
    )
    if dtype is not None:
        result.protocols["network"] = f"deployed in {str(dtype).removeprefix('torch.')}."
    try:
        if pose_data is not None:
            _judge_poses(run, pose_data, _chosen(len(pose_data), pose_samples), depth_range, result)
        if clip_data is not None:
            labels = _judge_single_clips(run, clip_data, _chosen(len(clip_data), clips), result)
            if multi_clip:
                _judge_multi_clips(run, clip_data, labels, max_clips, result)
        result.cuts = _cuts(model, result)
        if speed:
            _measure_cuts(run, result)
    finally:
        model.train(training)
    result.skipped, result.skipped_because = run.skipped.count, run.skipped.reasons
    result.seconds = time.perf_counter() - begin
    return result


@dataclass
class _Run:
    """What all protocols share."""

    model: SPNet
    device: torch.device
    batch_size: int
    workers: int
    progress: bool
    action_head: int
    dtype: torch.dtype | None
    skipped: Skipped = field(default_factory=Skipped)

    def in_form(self, model: SPNet) -> SPNet | DeployedSPNet:
        """The network in the form that is judged."""
        return model if self.dtype is None else deploy(model, dtype=self.dtype)

    @cached_property
    def network(self) -> SPNet | DeployedSPNet:
        """What is judged."""
        return self.in_form(self.model)

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> SPNetOutput:
        """The network on uint8 frames of a batch."""
        output: SPNetOutput = self.network(model_input(frames, self.device))
        return output

    @property
    def clips_at_once(self) -> int:
        """Clips in a batch of as many frames."""
        return max(self.batch_size // self.model.config.clip_frames, 1)

    def bar(self, total: int, what: str) -> Any:
        return tqdm(total=total, desc=f"evaluating {what}", leave=False, disable=not self.progress)

    def batches(self, read: Any, keys: list[Any], batch_size: int, what: str) -> Iterable[tuple[list[Any], Any]]:
        """Batches of samples that could be read; the rest is counted. Raises UserError if none could."""
        read_any, first = False, ""
        with self.bar(len(keys), what) as bar:
            for good, batch, bad in batches(read, keys, batch_size, self.workers, pin=self.device.type == "cuda"):
                for _, reason in bad:
                    self.skipped.add(reason)
                    first = first or reason
                if good:
                    read_any = True
                    yield good, batch
                bar.update(len(good) + len(bad))
        if keys and not read_any:
            raise UserError(f"none of the {len(keys)} samples ({what}) could be read; the first: {first}")


# Poses


def _judge_poses(run: _Run, data: PoseData, indices: list[int], depth_range: float, result: Evaluation) -> None:
    layout, model = data.layout, run.model
    if len(layout.joints) != model.config.num_joints:
        raise UserError(
            f"the network has {model.config.num_joints} joints, "
            f"the data {len(layout.joints)} (layout {layout.name!r}): "
            "evaluate on data of the layout that it was trained with"
        )
    tallies = [PoseTally(layout, data.action_names) for _ in range(model.num_pose_blocks)]
    ranked: list[tuple[float, int, str]] = []
    for keys, batch in run.batches(data.__getitem__, indices, run.batch_size, "poses"):
        truth = Truth.of(batch, layout)
        result.pose_samples += len(keys)
        off = np.array([])
        for tally, pose in zip(tallies, run.forward(batch["frames"]).poses, strict=True):
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
        for tally, step in zip(tallies, _places(model, "pose_block"), strict=True)
    ]
    result.best_poses, result.worst_poses = _extremes(ranked)
    if result.poses[-1].pckh is not None:
        result.protocols["PCKh@0.5"] = (
            f"{len(result.poses[-1].pckh_by_joint)} joints (pelvis, thorax and spine left out), within half of the "
            "data set's head size; one crop of each person."
        )
    if result.poses[-1].mpjpe is not None:
        convention = getattr(data, "joint_convention", "")
        result.protocols["MPJPE"] = (
            f"{len(result.poses[-1].mpjpe_by_joint)} joints"
            + (f" by convention {convention}, not comparable with another" if convention else "")
            + "; root aligned, its true depth given; millimetres."
        )


# Actions


def _judge_single_clips(run: _Run, data: ClipData, videos: list[int], result: Evaluation) -> dict[int, int]:
    """One clip from the middle of each video; returns the class of each labelled video that could be read."""
    decided: list[npt.NDArray[np.int64]] = []
    labels: dict[int, int] = {}
    ranked: list[tuple[float, int, str]] = []
    not_finite = np.zeros(run.model.num_action_blocks, dtype=np.int64)
    for keys, batch in run.batches(data.__getitem__, videos, run.clips_at_once, "single clips"):
        probabilities = _probabilities(run, batch["frames"], data)
        classes = batch["action"].tolist()
        kept = [i for i, label in enumerate(classes) if label >= 0]
        decided.append(_decide(probabilities[kept]))
        not_finite += (~np.isfinite(probabilities[kept]).all(-1)).sum(0)
        labels |= {keys[i]: classes[i] for i in kept}
        chance = np.nan_to_num(probabilities[kept, -1, [classes[i] for i in kept]])
        ranked += [(1.0 - float(p), keys[i], batch["name"][i]) for p, i in zip(chance, kept, strict=True)]
    if videos and not labels:
        raise UserError("no clip has an action: evaluate actions on labelled data")
    choices, true = np.concatenate(decided), np.array(list(labels.values()))
    result.clips, result.action_names = len(labels), list(data.action_names)
    for block, step in enumerate(_places(run.model, "action_block")):
        of_class = {
            action: 100 * metrics.accuracy(choices[true == k, block], true[true == k])
            for k, action in enumerate(data.action_names)
            if (true == k).any()
        }
        result.actions.append(
            ActionScores(
                step.pyramid,
                step.level + 1,
                single_clip=finite(100 * metrics.accuracy(choices[:, block], true)),
                by_class=dict(of_class),
                confusion=metrics.confusion_matrix(choices[:, block], true, len(data.action_names)).tolist(),
                not_finite=int(not_finite[block]),
            )
        )
    result.best_clips, result.worst_clips = _extremes(ranked)
    result.protocols["single clip"] = (
        f"{run.model.config.clip_frames} frames around the middle of each video, every {data.subsample} frames."
    )
    return labels


def _judge_multi_clips(
    run: _Run, data: ClipData, labels: dict[int, int], limit: int | None, result: Evaluation
) -> None:
    """Many clips of each video in `labels`, each also mirrored."""
    clips = [
        (video, tuple(clip))
        for video in labels
        for clip in multi_clips(
            data.num_frames(video), run.model.config.clip_frames, data.subsample, limit=limit
        ).tolist()
    ]
    sums: dict[int, metrics.Floats] = {}  # of probabilities (blocks, classes), for the videos in progress
    right = metrics.MaskedMean((run.model.num_action_blocks,))
    seen, videos = 0, 0

    def close(finished: list[int]) -> None:
        for video in finished:
            right.add([_decide(sums.pop(video)) == labels[video]], True)

    for keys, batch in run.batches(partial(_read_clip, data), clips, run.clips_at_once, "multi clips"):
        for frames in (batch["frames"], batch["frames"].flip(-2)):
            for (video, _), p in zip(keys, _probabilities(run, frames, data), strict=True):
                videos += video not in sums
                # A block without an answer adds nothing; if it has none on any clip, it is wrong.
                sums[video] = sums.get(video, 0.0) + np.where(np.isfinite(p).all(-1, keepdims=True), p, 0.0)
                seen += 1
        close([video for video in sums if video != keys[-1][0]])
    close(list(sums))
    for scores, share in zip(result.actions, right.each, strict=True):
        scores.multi_clip = finite(100 * float(share))
    result.multi_clips = seen / max(videos, 1)
    frames = run.model.config.clip_frames
    result.protocols["multi clip"] = (
        f"{frames} frames, every {data.subsample} frames, "
        f"beginning every {max(frames // 2, 1)} frames of the whole video"
        + (f", at most {limit} clips of a video" if limit else "")
        + ", as they are and mirrored; probabilities averaged."
    )


def _read_clip(data: ClipData, key: tuple[int, tuple[int, ...]]) -> Sample:
    return data.clip(key[0], key[1])


def _probabilities(run: _Run, frames: Tensor, data: ClipData) -> metrics.Floats:
    """Class probabilities (B, blocks, classes) of the classifier in question."""
    actions = run.forward(frames).actions
    if run.action_head >= len(actions[-1]):
        raise UserError(f"there is no classifier {run.action_head}: this network has {len(actions[-1])}, from 0")
    out = torch.stack([block[run.action_head] for block in actions], dim=1).cpu().double().numpy()
    if out.shape[-1] != len(data.action_names):
        raise UserError(
            f"the network tells {out.shape[-1]} actions apart, the data has {len(data.action_names)}: "
            "evaluate on data of the classes that it was trained with"
        )
    return out


def _decide(probabilities: metrics.Floats) -> npt.NDArray[np.int64]:
    """The class with the largest probability, over the last axis; -1 where one is not finite or all are 0."""
    answered = np.isfinite(probabilities).all(-1) & (probabilities > 0).any(-1)
    return np.where(answered, np.nan_to_num(probabilities).argmax(-1), -1)


# Speed


def _cuts(model: SPNet, result: Evaluation) -> list[CutScores]:
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


def _measure_cuts(run: _Run, result: Evaluation) -> None:
    """Speed of every cut, poses on a batch of stills and actions on one clip, as Sec. 4.5.4 measures them."""
    config, full = run.model.config, run.model
    size = (3, config.image_size, config.image_size)
    stills = torch.rand((result.pose_batch, *size), device=run.device) * 2 - 1
    clip = stills[torch.arange(config.clip_frames) % result.pose_batch].unsqueeze(0)
    with run.bar(len(result.cuts), "speed") as bar:
        for cut in result.cuts:
            if cut.pose_block is not None:
                poses = full if config.cut else full.cut(cut.pose_block, None)
                cut.pose_fps = frames_per_second(run.in_form(poses), stills)
            if cut.action_block is not None:
                actions = full if config.cut else full.cut(None, cut.action_block)
                cut.action_fps = frames_per_second(run.in_form(actions), clip)
            bar.update()


# Small things


def _places(model: SPNet, kind: Literal["pose_block", "action_block"]) -> list[Step]:
    """Where the network's blocks of a kind lie, in the order of its output."""
    steps = [step for step in visiting_order(model.config) if getattr(step, kind) is not None]
    if model.config.cut is None:
        return steps
    number = getattr(model.config.cut, kind)
    return [step for step in steps if getattr(step, kind) == number]


def _chosen(size: int, count: int | None) -> list[int]:
    """`count` of the indices below `size`, drawn at random but always the same, or all: classes often lie in a
    regular order.
    """
    if count is not None and count < 1:
        raise UserError(f"the number of samples must be at least 1, not {count}")
    if count is None or count >= size:
        return list(range(size))
    return sorted(np.random.default_rng(0).permutation(size)[:count].tolist())


def _extremes(ranked: list[tuple[float, int, str]]) -> tuple[list[SampleScore], list[SampleScore]]:
    """The best (smallest) and the worst, from the outermost inwards; none is in both."""

    def scores(chosen: list[tuple[float, int, str]]) -> list[SampleScore]:
        return [SampleScore(index, name, error if np.isfinite(error) else None) for error, index, name in chosen]

    count = min(SHOWN, len(ranked) // 2)
    return scores(heapq.nsmallest(count, ranked)), scores(heapq.nlargest(count, ranked))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
