"""`python -m pyhar.evaluate RUN_OR_MODEL`: how good a trained network is, block by block, with a report."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pyhar import cli
from pyhar.errors import UserError

if TYPE_CHECKING:
    from pyhar.evaluation.results import Evaluation


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate every prediction block of a trained network on stills and clips, measure its speed, and write
    evaluation.json and report.html. The last block is the result.
    """

    model: tyro.conf.Positional[Path]
    """A run directory or a model file."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The data set; without it, what the network was trained on."""
    clip_data: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where clips come from, if not from the same data set."""
    split: str = "test"
    """Which part of it."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """What to compute on."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go; without it, the run directory, or evaluations/<name of the model file>."""
    pose_samples: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Use so many stills, drawn at random but always the same, instead of all."""
    clips: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Use so many videos, drawn likewise, instead of all."""
    multi_clip: bool = True
    """Also average over clips from the whole video and their mirror images."""
    max_clips: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Average over at most so many clips of a video, evenly spread, each also mirrored."""
    speed: bool = True
    """Measure frames per second of the network, and cut after each pyramid."""
    report: bool = True
    """Write report.html."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """Frames computed at once."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes that prepare samples; 0: none."""
    progress: bool = True
    """Show progress bars."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, evaluate, and return 0. Raises UserError for what the user can mend."""
    run(tyro.cli(EvaluateConfig, prog="pyhar evaluate", args=argv, config=(tyro.conf.FlagCreatePairsOff,)))
    return 0


def evaluate_run(model: str | os.PathLike[str], **options: Any) -> Evaluation:
    """Evaluate a run directory or model file as the command line does; options are the fields of `EvaluateConfig`."""
    return run(dataclasses.replace(EvaluateConfig(Path(model)), **options))


def run(config: EvaluateConfig) -> Evaluation:
    """Carry out an evaluation. Raises UserError for what the user can mend."""
    from pyhar.data import registry
    from pyhar.devices import choose_device
    from pyhar.evaluation.run import LOG_FILE, evaluate_and_report
    from pyhar.memory import keep_large_blocks
    from pyhar.models import load_model

    for option in ("batch_size", "pose_samples", "clips", "max_clips"):
        value = getattr(config, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if config.workers < 0:
        raise UserError(f"--workers must be at least 0, not {config.workers}")
    device = choose_device(config.device)
    keep_large_blocks()
    model, meta = load_model(config.model, device)
    is_run = config.model.is_dir()
    stills = config.data or meta.extra.get("pose_data", "synthetic")
    clips = config.clip_data or config.data or meta.extra.get("clip_data", stills)

    options: dict[str, Any] = {"image_size": model.config.image_size, "augment": False, "layout": model.config.layout}
    pose_data = registry.build(stills, config.split, "pose", **options)
    clip_data = None
    if model.num_action_blocks:
        options["clip_frames"] = model.config.clip_frames
        clip_data = registry.build(clips, config.split, "clips", **options)
    names = stills if clip_data is None or clips == stills else f"{stills} and {clips}"
    folder = config.output or (config.model if is_run else Path("evaluations") / config.model.stem)
    return evaluate_and_report(
        folder,
        model,
        meta,
        pose_data,
        clip_data,
        log=config.model / LOG_FILE if is_run else None,
        title=config.model.resolve().name if is_run else config.model.stem,
        report=config.report,
        name=f"{names}, {config.split} split",
        device=device,
        batch_size=config.batch_size,
        workers=config.workers,
        pose_samples=config.pose_samples,
        clips=config.clips,
        multi_clip=config.multi_clip,
        max_clips=config.max_clips,
        speed=config.speed,
        progress=config.progress,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
