"""The charts of the report: training, scores by joint, action and threshold, confusion, accuracy against speed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyhar.evaluation.results import CutScores, Evaluation, PoseScores

BLUE, ORANGE, GREEN, RED = "#2f6fb2", "#dd7a25", "#3b9a57", "#d64550"
GREY, FLOOR, SOFT, INK = "#c3cad3", "#dfe4ea", "#52606d", "#1f2933"
_GROUP_COLOURS = (
    "#6b4fa0",
    "#2f6fb2",
    "#27a3a3",
    "#3b9a57",
    "#c9a227",
    "#dd7a25",
    "#c43c4e",
    "#8a8f98",
    "#a0522d",
    "#333333",
)
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf1",
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
    "svg.hashsalt": "pyhar",
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that lays itself out. Draw on it within `style()`."""
    return Figure(figsize=(width, height), layout="constrained")


def style() -> Any:
    """The look of all figures, as a context."""
    return mpl.rc_context(_STYLE)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log, one JSON object a line; lines that are not whole are left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_number(record.get("global_step")):
            records.append(record)
    return records


def losses(records: Sequence[dict[str, Any]]) -> Figure:
    """Pose and action loss and learning rate over all steps, the stages as bands."""
    panels = [("pose_loss", "pose loss", BLUE), ("action_loss", "action loss", ORANGE), ("lr", "learning rate", GREEN)]
    panels = [panel for panel in panels if any(_is_number(r.get(panel[0])) for r in records)]
    figure = new_figure(10, 2.6 * len(panels) - 0.3 * (len(panels) > 2))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label, colour) in zip(rows, panels, strict=True):
        for number, (_, begin, end) in enumerate(_stages(records)):
            if number % 2 == 0:
                axes.axvspan(begin, end, color="#f3f6f9", lw=0, zorder=0)
        for stage, _, _ in _stages(records):
            points = [(r["global_step"], r[key]) for r in records if r.get("stage") == stage and _is_number(r.get(key))]
            if points:
                steps, values = np.array(points, dtype=float).T
                smooth = _smooth(values)
                if key != "lr":
                    axes.plot(steps, values, color=colour, lw=0.8, alpha=0.3)
                axes.plot(steps, values if key == "lr" else smooth, color=colour, lw=1.8)
        axes.set_ylabel(label)
        if all(r[key] > 0 for r in records if _is_number(r.get(key))):
            axes.set_yscale("log")
    for number, (stage, begin, end) in enumerate(_stages(records)):
        # On two lines in turn, so that the names of short stages do not meet.
        rows[0].annotate(
            stage, ((begin + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 3 + 13 * (number % 2)),
            textcoords="offset points", ha="center", va="bottom", fontweight="bold", color="#52606d",
        )  # fmt: skip
    rows[-1].set_xlabel("optimiser step, over all stages")
    rows[-1].margins(x=0)
    return figure


def pckh_by_joint(scores: PoseScores) -> Figure:
    """PCKh@0.5 of every joint."""
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    joints = list(scores.pckh_by_joint)
    _bars(axes, joints, [scores.pckh_by_joint[j] for j in joints], BLUE, "{:.0f}", scores.pckh)
    axes.set_xlim(0, 109)
    axes.set_xlabel("PCKh@0.5, %; line: all joints")
    axes.set_title("PCKh by joint")
    return figure


def pckh_by_threshold(scores: PoseScores, thresholds: Sequence[float]) -> Figure:
    """PCKh against the threshold: right and left joints together, all joints in black."""
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    groups: dict[str, list[Any]] = {}
    for joint, curve in scores.pckh_curve.items():
        groups.setdefault(joint.removeprefix("right ").removeprefix("left "), []).append(curve)
    for number, (group, curves) in enumerate(groups.items()):
        mean = np.nanmean(np.array(curves, dtype=float), axis=0)
        axes.plot(thresholds, mean, lw=1.5, color=_GROUP_COLOURS[number % len(_GROUP_COLOURS)], label=group)
    everything = np.nanmean(np.array(list(scores.pckh_curve.values()), dtype=float), axis=0)
    axes.plot(thresholds, everything, color=INK, lw=2.4, label="mean")
    axes.axvline(0.5, color="#9aa5b1", lw=1, ls="--")
    axes.set(xlim=(0, thresholds[-1]), ylim=(0, 101), xlabel="threshold, head sizes", ylabel="PCKh, %")
    axes.set_title("PCKh by threshold")
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    return figure


def error_by(what: str, errors: dict[str, float | None], mean: float | None) -> Figure:
    """MPJPE for each joint or action."""
    figure = new_figure(5.2, max(0.24 * len(errors) + 0.9, 2.2))
    axes = figure.subplots()
    _bars(axes, list(errors), list(errors.values()), ORANGE, "{:.0f}", mean)
    axes.margins(x=0.1)
    axes.set_xlabel("MPJPE, mm; line: all together")
    axes.set_title(f"Error by {what}")
    return figure


def accuracy_by_class(by_class: dict[str, float | None], mean: float | None) -> Figure:
    """Single-clip accuracy on each action."""
    figure = new_figure(5.2, max(0.24 * len(by_class) + 0.9, 2.2))
    axes = figure.subplots()
    _bars(axes, list(by_class), list(by_class.values()), GREEN, "{:.0f}", mean)
    axes.set_xlim(0, 109)
    axes.set_xlabel("accuracy, %; line: all clips")
    axes.set_title("Accuracy by action, single clip")
    return figure


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Confusion matrix in per cent of each true class; counts are written where there is room."""
    counts = np.array(matrix)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 5.2 if len(names) <= 20 else 11.0
    figure = new_figure(side, 0.88 * side)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 25:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 55
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    figure.colorbar(picture, shrink=0.75, label="% of the true class")
    axes.set_title("Confusion matrix, single clip")
    return figure


def speed(cuts: Sequence[CutScores], evaluation: Evaluation) -> Figure:
    """Accuracy against speed of the network cut after each pyramid, fastest purple to slowest red, as in Fig. 9."""
    panels: list[tuple[str, str, str]] = [
        ("pckh", "pose_fps", "PCKh@0.5, %"),
        ("mpjpe", "pose_fps", "MPJPE, mm"),
        ("single_clip", "action_fps", "single-clip accuracy, %"),
    ]
    points = {
        score: [
            (getattr(c, fps), getattr(c, score), c.pyramid)
            for c in cuts
            if None not in (getattr(c, fps), getattr(c, score))
        ]
        for score, fps, _ in panels
    }
    panels = [panel for panel in panels if points[panel[0]]]
    figure = new_figure(max(3.6 * len(panels), 4.5), 3.1)
    colours = mpl.colormaps["rainbow"]
    for axes, (score, fps, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        found = points[score]
        x, y, pyramids = (np.array(column) for column in zip(*found, strict=True))
        axes.plot(x, y, color=GREY, lw=1.4, zorder=1)
        slowness = (pyramids - min(pyramids)) / max(np.ptp(pyramids), 1)
        axes.scatter(x, y, c=[colours(s) for s in slowness], s=70, zorder=2, edgecolor="white")
        for px, py, pyramid in found:
            axes.annotate(f"P{pyramid}", (px, py), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9)
        what = f"{evaluation.pose_batch} stills" if fps == "pose_fps" else f"1 clip of {evaluation.clip_frames} frames"
        axes.set(xlabel=f"frames/s ({what})", ylabel=label)
        axes.margins(0.2, 0.25)
        axes.set_xlim(left=0)
        if score == "mpjpe":
            axes.invert_yaxis()
    return figure


def _bars(axes: Axes, names: list[str], values: list[float | None], colour: str, form: str, mean: float | None) -> None:
    """Horizontal bars from the top down, each with its value."""
    heights = [float("nan") if value is None else value for value in values]
    drawn = axes.barh(names, heights, color=colour, height=0.68)
    labels = axes.bar_label(drawn, [form.format(h) for h in heights], padding=2, fontsize=8)
    for label in labels:
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    if mean is not None:
        axes.axvline(mean, color=INK, lw=1, ls="--", zorder=0.9)


def _stages(records: Iterable[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Each stage with its first and last step."""
    spans: dict[str, tuple[float, float]] = {}
    for record in records:
        stage, step = str(record.get("stage", "")), record["global_step"]
        begin, end = spans.get(stage, (step, step))
        spans[stage] = (min(begin, step), max(end, step))
    return [(stage, begin, end) for stage, (begin, end) in spans.items()]


def _smooth(values: np.ndarray[Any, Any], share: float = 0.06) -> np.ndarray[Any, Any]:
    """Running mean over a share of the points, shorter at the ends."""
    half = max(int(len(values) * share / 2), 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    begin = np.maximum(np.arange(len(values)) - half, 0)
    end = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[end] - total[begin]) / (end - begin)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e300
