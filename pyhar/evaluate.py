"""`python -m pyhar.evaluate RUN_OR_MODEL`: how good a trained network is, block by block, with a report."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pyhar import cli
from pyhar.errors import UserError
from pyhar.files import check_folder

if TYPE_CHECKING:
    import torch

    from pyhar.evaluation.results import Evaluation
    from pyhar.models import ModelMeta, SPNet


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate every prediction block of a trained network on stills and clips, measure its speed, and write
    evaluation.json and report.html. The last block is the result.
    """

    model: tyro.conf.Positional[Path]
    """A run directory, a model file or a run's last.pt, which also stands for a run that has not come to its end."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The data set; without it, what the network was trained on: each data set of a mixture, those beyond the first in
    folders of their names. Of mpii and human36m, poses alone.
    """
    clip_data: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where clips come from, if not from the same data set."""
    split: Annotated[str | None, tyro.conf.arg(metavar="train|val|test")] = None
    """Which part of them; without it, the one that results are published of: val of mpii, test of the others."""
    boxes: Annotated[str | None, tyro.conf.arg(metavar="FILE|refined")] = None
    """People's boxes, if not the data set's: a JSON file {name of a sequence: [x1, y1, x2, y2]}, or "refined": found
    by the network, from whole pictures in two rounds, for single persons: one box for a video, and one for each still
    of human36m. A still's name is its sequence's, "#" and its place in that.
    """
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """What to compute on."""
    deploy: Literal["float32", "bfloat16", "float16", "int8", "auto"] | None = None
    """Judge the network as it is deployed for prediction, in this type (auto: as of `pyhar predict`); without it, as it
    was trained.
    """
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go; without it, the run directory, or evaluations/<name of the model file>, and there in a folder
    of the data set's name if one is asked for.
    """
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
    run(tyro.cli(EvaluateConfig, prog="pyhar evaluate", args=argv))
    return 0


def evaluate_run(model: str | os.PathLike[str], **options: Any) -> Evaluation:
    """Evaluate a run directory or model file as the command line does; options are the fields of `EvaluateConfig`."""
    return run(dataclasses.replace(EvaluateConfig(Path(model)), **options))


def run(config: EvaluateConfig) -> Evaluation:
    """Carry out an evaluation and return that on the data set asked for, or the first that the network was trained on.

    Raises UserError for what the user can mend; where it is about another data set of the mixture, says it and goes on.
    """
    from pyhar.data import registry
    from pyhar.devices import choose_device
    from pyhar.memory import keep_large_blocks

    for option in ("batch_size", "pose_samples", "clips", "max_clips"):
        value = getattr(config, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if config.workers < 0:
        raise UserError(f"--workers must be at least 0, not {config.workers}")
    device = choose_device(config.device)
    keep_large_blocks()
    model, meta = _load(config.model, device)
    is_run = config.model.is_dir()
    poses = [config.data] if config.data else meta.extra.get("pose_data", "synthetic").split()
    actions = [config.clip_data or config.data or ""]
    if not any(actions):
        actions = meta.extra.get("clip_data", poses[0]).split()
    if not model.num_action_blocks or (config.clip_data is None and not registry.judges_actions(actions[0])):
        actions = []
    folder = config.model if is_run else Path("evaluations") / config.model.stem
    folder = Path(config.output) if config.output else folder / (config.data or "")
    check_folder(folder)

    result = _judge(config, model, meta, poses[0], actions[0] if actions else None, folder, speed=config.speed)
    for name in dict.fromkeys([*poses[1:], *actions[1:]]):
        stills, clips = (name if name in others[1:] else None for others in (poses, actions))
        try:
            _judge(config, model, meta, stills, clips, folder / name, speed=False)
        except UserError as error:
            print(f"{name}, which the network was also trained on, cannot be evaluated: {error}", file=sys.stderr)
    return result


def _load(path: Path, device: torch.device) -> tuple[SPNet, ModelMeta]:
    from pyhar.models import load_model
    from pyhar.models.io import MODEL_FILE
    from pyhar.training.checkpoint import CHECKPOINT_FILE, load_network

    checkpoint = path if path.is_file() and path.suffix == ".pt" else path / CHECKPOINT_FILE
    if (path / MODEL_FILE).is_file() or not checkpoint.is_file():
        return load_model(path, device)
    model, meta = load_network(checkpoint)
    if path.is_dir():
        print(f"{path} has no trained network yet: this is its checkpoint {checkpoint.name}", file=sys.stderr)
    return model.to(device), meta


def _judge(
    config: EvaluateConfig,
    model: SPNet,
    meta: ModelMeta,
    stills: str | None,
    clips: str | None,
    folder: Path,
    speed: bool,
) -> Evaluation:
    """Evaluate on the stills of one data set and the clips of one."""
    from pyhar.data import registry
    from pyhar.deploy import choose_dtype
    from pyhar.evaluation.run import LOG_FILE, evaluate_and_report

    is_run = config.model.is_dir()
    device = next(model.parameters()).device
    options: dict[str, Any] = {"image_size": model.config.image_size, "augment": False, "layout": model.config.layout}
    sets = [name for name in dict.fromkeys((stills, clips)) if name]
    boxes = {name: _boxes(config, name, model, folder) for name in sets} if config.boxes else {}

    def build(name: str, kind: Literal["pose", "clips"], **more: Any) -> Any:
        if name in boxes:
            more["boxes"] = boxes[name]
        return registry.build(name, _split(config, name), kind, **options, **more)

    names = [f"{name}, {_split(config, name)} split" for name in sets]
    pose_data = build(stills, "pose") if stills else None
    clip_data = build(clips, "clips", clip_frames=model.config.clip_frames) if clips else None
    return evaluate_and_report(
        folder,
        model,
        meta,
        pose_data,
        clip_data,
        log=config.model / LOG_FILE if is_run else None,
        title=config.model.resolve().name if is_run else config.model.stem,
        report=config.report,
        name=" and ".join(names),
        boxes=_of_boxes(config.boxes, [data for data in (pose_data, clip_data) if data is not None]),
        device=device,
        batch_size=config.batch_size,
        workers=config.workers,
        pose_samples=config.pose_samples,
        clips=config.clips,
        multi_clip=config.multi_clip,
        max_clips=config.max_clips,
        speed=speed,
        dtype=None if config.deploy is None else choose_dtype(config.deploy, device),
        progress=config.progress,
    )


def _split(config: EvaluateConfig, name: str) -> str:
    from pyhar.data import registry

    return config.split or registry.judged_on(name)


def _of_boxes(boxes: str | None, data_sets: list[Any]) -> str:
    """Where people's boxes are from, as a sentence."""
    if boxes is None:
        return "the data set's own."
    if boxes == "refined":
        return "predicted, two rounds from whole pictures."
    kept = max(data.without_given_box for data in data_sets)
    return f"from {boxes}" + (f"; {kept} sequences that it does not name keep the data set's own." if kept else ".")


def _boxes(config: EvaluateConfig, name: str, model: SPNet, folder: Path) -> Path:
    """The file of boxes for a data set: the one given, or one that the network's predictions make in `folder`."""
    import torch

    from pyhar.data import registry
    from pyhar.data.boxes import find_boxes, save_boxes
    from pyhar.data.indexed import IndexedPoses
    from pyhar.data.sample import model_input

    if name not in registry.ON_DISK:
        raise UserError(f"--boxes is for data sets on disk; {name} has its own boxes")
    if config.boxes != "refined":
        return Path(str(config.boxes))
    if not model.num_pose_blocks:
        raise UserError("--boxes refined needs a network that predicts poses")
    split = _split(config, name)
    size = model.config.image_size
    data = registry.build(name, split, "pose", image_size=size, augment=False, layout=model.config.layout)
    assert isinstance(data, IndexedPoses)
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pose = model(model_input(crops, device)).poses[-1].float()
        return pose[..., :2], pose[..., -1]

    path = folder / f"boxes-{name}.json"
    save_boxes(path, find_boxes(data.source, data.root, split, predict, image_size=size))
    return path


if __name__ == "__main__":
    sys.exit(cli.run(main))
