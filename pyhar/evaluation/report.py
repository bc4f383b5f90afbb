"""What a person reads of an evaluation: a table in the terminal, and one self-contained HTML page."""

from __future__ import annotations

import base64
import importlib.resources
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pyhar.evaluation import plots
from pyhar.evaluation.gallery import Picture
from pyhar.evaluation.results import ActionScores, Evaluation, PoseScores
from pyhar.files import write_text

DASH = "–"
_MOST_ROWS = 24
"""Of so many joints or activities a table is printed; files have all."""
_SECTIONS = {
    "stills": "Best and worst poses",
    "space": "Poses in space",
    "clips": "Recognised actions",
    "maps": "Where it looks: heat maps",
}


class Block(NamedTuple):
    """One line of the table by block: the blocks of one visit to a level."""

    pyramid: int
    level: int
    pose: PoseScores | None
    action: ActionScores | None


def blocks(evaluation: Evaluation) -> list[Block]:
    """All blocks in the order of the network, the last one last."""
    poses = {(scores.pyramid, scores.level): scores for scores in evaluation.poses}
    actions = {(scores.pyramid, scores.level): scores for scores in evaluation.actions}
    places = list(poses) + [place for place in actions if place not in poses]
    return [Block(*place, poses.get(place), actions.get(place)) for place in places]


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; a dash for None."""
    return DASH if value is None else f"{value:,.{digits}f}"


# Terminal


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the scores by block, speeds, and what went wrong."""
    console = console or Console()
    with_depth = any(scores.mpjpe is not None for scores in evaluation.poses)
    table = Table(title=f"Evaluation on {evaluation.data or 'the data'}", title_justify="left", header_style="bold")
    for heading in ("block", "pyramid", "level"):
        table.add_column(heading, justify="right")
    if evaluation.poses:
        table.add_column("PCKh@0.5 %", justify="right")
    if with_depth:
        table.add_column("MPJPE mm", justify="right")
    if evaluation.actions:
        table.add_column("single-clip %", justify="right")
        if evaluation.multi_clips:
            table.add_column("multi-clip %", justify="right")
    rows = blocks(evaluation)
    for place, block in enumerate(rows):
        cells = [str(place + 1), str(block.pyramid), str(block.level)]
        if evaluation.poses:
            cells.append(number(block.pose.pckh if block.pose else None))
        if with_depth:
            cells.append(number(block.pose.mpjpe if block.pose else None))
        if evaluation.actions:
            cells.append(number(block.action.single_clip if block.action else None))
            if evaluation.multi_clips:
                cells.append(number(block.action.multi_clip if block.action else None))
        last = place == len(rows) - 1
        table.add_row(*cells, style="bold green" if last else None)
    console.print(table)
    for part in _pose_tables(evaluation):
        console.print(part)
    for line in summary(evaluation):
        console.print(line, markup=False, highlight=False)
    for line in warnings(evaluation):
        console.print(f"warning: {line}", style="yellow", markup=False, highlight=False)


def _pose_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Scores of the last block by joint, and by activity as in Table 1 of the paper."""
    pose = evaluation.pose
    if pose and 0 < len(evaluation.joints) <= _MOST_ROWS:
        columns = [
            (head, scores)
            for head, scores in (("PCKh@0.5 %", pose.pckh_by_joint), ("MPJPE mm", pose.mpjpe_by_joint))
            if scores
        ]
        if columns:
            table = _table("The last block, by joint", "joint", *(heading for heading, _ in columns))
            for joint in evaluation.joints:
                table.add_row(joint, *(number(scores.get(joint)) for _, scores in columns))
            yield table
    if pose and 0 < len(pose.mpjpe_by_action) <= _MOST_ROWS:
        table = _table("The last block, by activity", "activity", "MPJPE mm")
        for activity, error in pose.mpjpe_by_action.items():
            table.add_row(activity, number(error))
        table.add_section()
        table.add_row("average over activities", number(pose.mpjpe_over_actions))
        table.add_row("average over joints", number(pose.mpjpe), style="bold green")
        yield table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    return table


def summary(evaluation: Evaluation) -> list[str]:
    """What the table does not say, in sentences."""
    lines = []
    what = []
    if evaluation.poses:
        what.append(f"{evaluation.pose_samples} stills")
    if evaluation.actions:
        what.append(f"{evaluation.clips} videos")
        if evaluation.multi_clips:
            what[-1] += f" ({evaluation.multi_clips:.1f} clips each for multi-clip, mirrored ones included)"
    lines.append(f"On {' and '.join(what)}, in {evaluation.seconds:.0f} s. The last block is the result.")
    lines += [f"{name}: {how}" for name, how in evaluation.protocols.items()]
    full = evaluation.cuts[-1] if evaluation.cuts else None
    if full and full.pose_fps is not None:
        lines.append(
            f"Poses: {full.pose_fps:,.0f} frames/s in batches of {evaluation.pose_batch} ({evaluation.device})."
        )
    if full and full.action_fps is not None:
        lines.append(
            f"Actions: {full.action_fps:,.0f} frames/s on one clip of {evaluation.clip_frames} frames "
            f"({evaluation.device})."
        )
    return lines


def warnings(evaluation: Evaluation) -> list[str]:
    """What a reader must know before trusting the scores."""
    lines = []
    if evaluation.pose and evaluation.pose.pckh is None and evaluation.pose.mpjpe is None:
        lines.append("poses have no score: PCKh needs head sizes, MPJPE joints in space and a network that tells depth")
    if evaluation.skipped:
        lines.append(f"{evaluation.skipped} samples could not be read: " + "; ".join(evaluation.skipped_because))
    if evaluation.pose and evaluation.pose.not_finite:
        lines.append(
            f"{evaluation.pose.not_finite} predicted joints are not finite; "
            "they count as misses and as lying on the root"
        )
    if evaluation.action and evaluation.action.not_finite:
        lines.append(
            f"{evaluation.action.not_finite} clips have probabilities that are not finite; they count as wrong"
        )
    return lines


# HTML


class Image(NamedTuple):
    """A figure ready for the page."""

    uri: str
    caption: str
    wide: bool


def write_report(
    path: Path, evaluation: Evaluation, *, title: str, log: Path | None = None, pictures: Sequence[Picture] = ()
) -> None:
    """Write the page, atomically. It holds everything it shows: no file beside it, no network.

    title: what was evaluated, e.g. the run's name. log: the training log whose losses are plotted, if it exists.
    pictures: what `gallery` drew.
    """
    template = importlib.resources.files("pyhar.evaluation").joinpath("templates/report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = number
    sections = [
        (key, heading, [Image(_webp(p.figure), p.caption, True) for p in pictures if p.section == key])
        for key, heading in _SECTIONS.items()
    ]
    page = environment.from_string(template).render(
        title=title,
        evaluation=evaluation,
        cards=_cards(evaluation),
        summary=summary(evaluation),
        warnings=warnings(evaluation),
        blocks=blocks(evaluation),
        charts=_charts(evaluation, log),
        sections=[section for section in sections if section[2]],
    )
    write_text(path, page)


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The result in large figures: (value, unit, what)."""
    pose, action = evaluation.pose, evaluation.action
    full = evaluation.cuts[-1] if evaluation.cuts else None
    cards = [
        (pose.pckh if pose else None, "%", "PCKh@0.5", 1),
        (pose.mpjpe if pose else None, "mm", "MPJPE, root aligned", 1),
        (action.single_clip if action else None, "%", "single-clip accuracy", 1),
        (action.multi_clip if action else None, "%", "multi-clip accuracy", 1),
        (full.pose_fps if full else None, "frames/s", f"poses, {evaluation.pose_batch} stills", 0),
        (full.action_fps if full else None, "frames/s", "actions, one clip", 0),
    ]
    return [(number(value, digits), unit, what) for value, unit, what, digits in cards if value is not None]


def _charts(evaluation: Evaluation, log: Path | None) -> dict[str, list[Image]]:
    """Charts by section; a section without data is empty."""
    charts: dict[str, list[Image]] = {"training": [], "poses": [], "actions": [], "speed": []}
    pose, action = evaluation.pose, evaluation.action
    with plots.style():
        records = plots.read_log(log) if log is not None and log.is_file() else []
        if any("pose_loss" in record or "action_loss" in record for record in records):
            caption = "Losses and learning rate over all stages; bold: running mean."
            charts["training"].append(Image(_svg(plots.losses(records)), caption, True))
        if pose and pose.pckh_by_joint:
            charts["poses"] += [
                Image(_svg(plots.pckh_by_joint(pose)), "", False),
                Image(_svg(plots.pckh_by_threshold(pose, evaluation.thresholds)), "", False),
            ]
        if pose and pose.mpjpe_by_joint:
            charts["poses"].append(Image(_svg(plots.error_by("joint", pose.mpjpe_by_joint, pose.mpjpe)), "", False))
        if pose and pose.mpjpe_by_action:
            charts["poses"].append(Image(_svg(plots.error_by("action", pose.mpjpe_by_action, pose.mpjpe)), "", False))
        if action and action.by_class:
            wide = len(evaluation.action_names) > 20
            matrix = plots.confusion(action.confusion, evaluation.action_names)
            charts["actions"] += [
                Image(_svg(matrix), "Counts, shaded by the share of the true class.", wide),
                Image(_svg(plots.accuracy_by_class(action.by_class, action.single_clip)), "", False),
            ]
        if any(cut.pose_fps or cut.action_fps for cut in evaluation.cuts):
            caption = (
                "The network cut after each pyramid P, without training again, as in Fig. 9 of the paper: speed of the "
                f"network alone, {evaluation.device}."
            )
            charts["speed"].append(Image(_svg(plots.speed(evaluation.cuts, evaluation)), caption, True))
    return charts


def _svg(figure: Figure) -> str:
    return _data_uri(figure, "svg", "image/svg+xml", metadata={"Date": None})


def _webp(figure: Figure) -> str:
    return _data_uri(figure, "webp", "image/webp", dpi=150, pil_kwargs={"quality": 88})


def _data_uri(figure: Figure, kind: str, media: str, **options: Any) -> str:
    buffer = io.BytesIO()
    with plots.style():
        figure.savefig(buffer, format=kind, **options)
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
