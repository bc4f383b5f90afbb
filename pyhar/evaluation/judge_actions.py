"""Actions: every action block on one clip of each video, and on many."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyhar.data.clips import multi_clips
from pyhar.data.registry import ClipData
from pyhar.data.sample import Sample
from pyhar.errors import UserError
from pyhar.evaluation import metrics
from pyhar.evaluation.judge import Judge, extremes, places
from pyhar.evaluation.results import ActionScores, Evaluation, finite


def judge_single_clips(judge: Judge, data: ClipData, videos: list[int], result: Evaluation) -> dict[int, int]:
    """One clip from the middle of each video; returns the class of each labelled video that could be read."""
    decided: list[npt.NDArray[np.int64]] = []
    labels: dict[int, int] = {}
    ranked: list[tuple[float, int, str]] = []
    not_finite = np.zeros(judge.model.num_action_blocks, dtype=np.int64)
    for keys, batch in judge.batches(data.__getitem__, videos, judge.clips_at_once, "single clips"):
        probabilities = _probabilities(judge, batch["frames"], data)
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
    for block, step in enumerate(places(judge.model, "action_block")):
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
    result.best_clips, result.worst_clips = extremes(ranked)
    protocol = getattr(data, "protocol", "")
    result.protocols["single clip"] = (
        f"{judge.model.config.clip_frames} frames around the middle of each video, every {data.subsample} frames"
        + (f"; {protocol}." if protocol else ".")
    )
    return labels


def judge_multi_clips(
    judge: Judge, data: ClipData, labels: dict[int, int], limit: int | None, result: Evaluation
) -> None:
    """Many clips of each video in `labels`, each also mirrored."""
    clips = [
        (video, tuple(clip))
        for video in labels
        for clip in multi_clips(
            data.num_frames(video), judge.model.config.clip_frames, data.subsample, limit=limit
        ).tolist()
    ]
    sums: dict[int, metrics.Floats] = {}  # of probabilities (blocks, classes), for the videos in progress
    right = metrics.MaskedMean((judge.model.num_action_blocks,))
    seen, videos = 0, 0

    def close(finished: list[int]) -> None:
        for video in finished:
            right.add([_decide(sums.pop(video)) == labels[video]], True)

    for keys, batch in judge.batches(partial(_read_clip, data), clips, judge.clips_at_once, "multi clips"):
        for frames in (batch["frames"], batch["frames"].flip(-2)):
            for (video, _), p in zip(keys, _probabilities(judge, frames, data), strict=True):
                videos += video not in sums
                # A block without an answer adds nothing; if it has none on any clip, it is wrong.
                sums[video] = sums.get(video, 0.0) + np.where(np.isfinite(p).all(-1, keepdims=True), p, 0.0)
                seen += 1
        close([video for video in sums if video != keys[-1][0]])
    close(list(sums))
    for scores, share in zip(result.actions, right.each, strict=True):
        scores.multi_clip = finite(100 * float(share))
    result.multi_clips = seen / max(videos, 1)
    frames = judge.model.config.clip_frames
    result.protocols["multi clip"] = (
        f"{frames} frames, every {data.subsample} frames, "
        f"beginning every {max(frames // 2, 1)} frames of the whole video"
        + (f", at most {limit} clips of a video" if limit else "")
        + ", as they are and mirrored; probabilities averaged."
    )


def _read_clip(data: ClipData, key: tuple[int, tuple[int, ...]]) -> Sample:
    return data.clip(key[0], key[1])


def _probabilities(judge: Judge, frames: Tensor, data: ClipData) -> metrics.Floats:
    """Class probabilities (B, blocks, classes) of the classifier in question."""
    actions = judge.forward(frames).actions
    if judge.action_head >= len(actions[-1]):
        raise UserError(f"there is no classifier {judge.action_head}: this network has {len(actions[-1])}, from 0")
    out = torch.stack([block[judge.action_head] for block in actions], dim=1).cpu().double().numpy()
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
