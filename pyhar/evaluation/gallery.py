"""Which samples the report shows, and as what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from pyhar.data.registry import ClipData, PoseData
from pyhar.data.sample import DEPTH_RANGE_MM
from pyhar.errors import UserError
from pyhar.evaluation import pictures, plots
from pyhar.evaluation.pictures import Shot, View
from pyhar.evaluation.results import Evaluation, SampleScore
from pyhar.models import SPNet


class Picture(NamedTuple):
    """One figure of the report."""

    section: str
    caption: str
    figure: Figure


def gallery(
    model: SPNet,
    pose_data: PoseData | None,
    clip_data: ClipData | None,
    evaluation: Evaluation,
    depth_range: float = DEPTH_RANGE_MM,
    action_head: int = 0,
) -> list[Picture]:
    """Run the network, in eval mode, on a few samples and draw what it says. Samples are drawn at random, always the
    same, and taken from the best and worst that `evaluation` names.
    """
    made: list[Picture] = []
    training = model.training
    model.eval()
    try:
        with plots.style():
            if evaluation.poses and pose_data is not None:
                made += _of_stills(model, pose_data, evaluation, View(depth_range, action_head))
            if evaluation.poses and evaluation.actions and clip_data is not None:
                made += _of_clips(model, clip_data, evaluation, View(depth_range, action_head))
    finally:
        model.train(training)
    return made


def _of_stills(model: SPNet, data: PoseData, evaluation: Evaluation, view: View) -> list[Picture]:
    def shots(scores: list[SampleScore]) -> list[Shot]:
        return _look_at(model, data, [score.index for score in scores], view)

    made = []
    unit = "mean distance from the truth in head sizes"
    for scores, what in ((evaluation.best_poses, "best"), (evaluation.worst_poses, "worst")):
        found = shots(scores)
        if found:
            figure = pictures.stills(found, [score.error for score in scores], data.layout)
            made.append(Picture("stills", f"The {what} poses: predicted in colour, true in white; {unit}.", figure))
    spread = _look_at(model, data, _some(len(data), 6), view) if model.config.dim == 3 else []
    if spread:
        caption = "Poses in space, drawn at random: predicted in colour, true in grey, roots laid on each other."
        made.append(Picture("space", caption, pictures.poses_in_space(spread, data.layout)))
    return made


def _of_clips(model: SPNet, data: ClipData, evaluation: Evaluation, view: View) -> list[Picture]:
    names, layout, grid = evaluation.action_names, data.layout, model.config.grid
    made = []
    wrong = [score.index for score in evaluation.worst_clips if score.error is None or score.error > 0.5][:4]
    spread = _look_at(model, data, _some(len(data), 5), view)
    if spread:
        caption = "Clips drawn at random, with their most probable actions; green is the true one."
        made.append(Picture("clips", caption, pictures.clips(spread, layout, names)))
    failures = _look_at(model, data, wrong, view)
    if failures:
        caption = "The clips whose true action was thought least probable."
        made.append(Picture("clips", caption, pictures.clips(failures, layout, names)))
    decoupled = bool(spread) and spread[0].action_heat is not None
    for shot in spread[1:3]:
        caption = f"“{names[shot.label]}”: probability maps of all joints, by body part."
        if decoupled:
            caption += " Decoupled maps are what action recognition looks at."
        made.append(Picture("maps", caption, pictures.heat_maps(shot, layout, grid)))
    for shot in spread[1:4] if decoupled else []:
        caption = (
            f"“{names[shot.label]}”: maps of single joints where supervised and decoupled ones differ most; "
            "how far the centre moved is given in per cent of the crop's width."
        )
        made.append(Picture("maps", caption, pictures.drifts(shot, layout, grid)))
    return made


def _look_at(model: SPNet, data: PoseData, indices: Iterable[int], view: View) -> list[Shot]:
    """The network on these samples, without those that cannot be read."""
    shots = []
    for index in indices:
        try:
            sample = data[index]
        except (UserError, OSError):
            continue
        shots.append(pictures.look(model, sample, data.layout, view))
    return shots


def _some(size: int, count: int) -> list[int]:
    """Up to `count` of 0..size-1, drawn at random but always the same: classes often lie in a regular order."""
    return [int(index) for index in np.random.default_rng(0).permutation(size)[:count]]
