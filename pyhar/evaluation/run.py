"""The whole of an evaluation: judge, write evaluation.json and report.html, print the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyhar.data.registry import ClipData, PoseData
from pyhar.errors import UserError
from pyhar.evaluation.gallery import gallery
from pyhar.evaluation.protocols import evaluate
from pyhar.evaluation.report import print_table, write_report
from pyhar.evaluation.results import Evaluation
from pyhar.models import ModelMeta, SPNet

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
LOG_FILE = "log.jsonl"


def evaluate_and_report(
    folder: str | os.PathLike[str],
    model: SPNet,
    meta: ModelMeta,
    pose_data: PoseData | None,
    clip_data: ClipData | None,
    *,
    log: str | os.PathLike[str] | None = None,
    report: bool = True,
    title: str = "",
    boxes: str = "",
    **options: Any,
) -> Evaluation:
    """Evaluate `model`, write evaluation.json and, if `report`, report.html to `folder`, and print the table.

    log: the training log to plot, by default log.jsonl in `folder` if there is one. title: the report's, by default the
    folder's name. boxes: where the people's boxes are from, in a sentence. The rest goes to
    `pyhar.evaluation.protocols.evaluate`, which see for what is raised. The classifier is the one that `meta` says
    tells these actions apart.
    """
    target = Path(folder)
    head = classifier(meta, clip_data.action_names) if clip_data is not None and model.num_action_blocks else 0
    evaluation = evaluate(model, pose_data, clip_data, depth_range=meta.depth_range_mm, action_head=head, **options)
    if boxes:
        evaluation.protocols["boxes"] = boxes
    evaluation.save(target / EVALUATION_FILE)
    print_table(evaluation)
    if report:
        write_report(
            target / REPORT_FILE,
            evaluation,
            title=title or target.resolve().name,
            log=Path(log) if log is not None else target / LOG_FILE,
            pictures=gallery(model, pose_data, clip_data, evaluation, meta.depth_range_mm, head),
        )
        print(f"report: {target / REPORT_FILE}")
    return evaluation


def classifier(meta: ModelMeta, action_names: Sequence[str]) -> int:
    """Which of the network's classifiers is for these actions: that of the same names, else the first of as many
    classes. Raises UserError if there is none.
    """
    for head, names in enumerate(meta.action_names):
        if list(names) == list(action_names):
            return head
    for head, names in enumerate(meta.action_names):
        if len(names) == len(action_names):
            return head
    known = ", ".join(str(len(names)) for names in meta.action_names) or "no"
    raise UserError(
        f"the data has {len(action_names)} actions, the network tells {known} apart: "
        "evaluate on data of the classes that it was trained with"
    )
