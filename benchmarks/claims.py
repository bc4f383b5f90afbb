"""What the method claims, shown again on the embedded data: `python -m benchmarks.claims`.

A preset is trained in variants, each of which leaves out one thing that the paper says helps (Tables 4, 5 and 6), with
the same data, seeds, numbers of steps and evaluation. Every run has a folder of its own in --runs, which is kept: the
same command later goes on where it was stopped, and takes what is done as it is. Results are added to the JSON file
after every run; --table makes the README's table of it, between the markers `<!-- claims table -->` and
`<!-- /claims table -->`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyhar import cli  # before PyTorch: it says how idle threads wait

# isort: split
import torch

from benchmarks.machine import describe, read_json, results_folder, write_json
from benchmarks.readme import README, put_table
from pyhar.devices import choose_device
from pyhar.errors import UserError, unknown_name
from pyhar.evaluate import evaluate_run
from pyhar.evaluation.results import Evaluation
from pyhar.evaluation.run import EVALUATION_FILE
from pyhar.files import check_folder
from pyhar.models import load_model
from pyhar.models.io import MODEL_FILE
from pyhar.training.checkpoint import CHECKPOINT_FILE
from pyhar.training.config import (
    CONFIG_FILE,
    STAGES,
    StageConfig,
    StageName,
    StagesConfig,
    TrainConfig,
    get_train_preset,
    load_config,
)
from pyhar.training.distributed import World
from pyhar.training.interrupt import Interrupted
from pyhar.training.loop import TrainingError, train
from pyhar.training.stages import tasks_of

SCORES = {
    "pckh": ("PCKh@0.5", "{:.1f} %"),
    "mpjpe": ("MPJPE", "{:.1f} mm"),
    "single_clip": ("accuracy, single clip", "{:.1f} %"),
    "multi_clip": ("accuracy, multi-clip", "{:.1f} %"),
}
"""Of the last block: the column's title and how a number is written."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train: how it differs from the default, and what the paper found to be lost by it."""

    change: Callable[[TrainConfig], TrainConfig]
    paper: str = ""
    """The table, and the changes of PCKh and of accuracy in points, on the paper's data."""


def _with_stages(config: TrainConfig, **changes: StageConfig) -> TrainConfig:
    return dataclasses.replace(config, stages=dataclasses.replace(config.stages, **changes))


def _with_losses(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The same with these fields of the losses of every stage."""
    stages = {name: config.stage(name) for name in STAGES}
    return _with_stages(
        config,
        **{n: dataclasses.replace(s, loss=dataclasses.replace(s.loss, **changes)) for n, s in stages.items()},
    )


def _with_model(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def _fewer_pyramids(config: TrainConfig) -> TrainConfig:
    """Half as many, actions in the same part of them."""
    acting = tuple(sorted({(pyramid + 1) // 2 for pyramid in config.model.action_pyramids}))
    return _with_model(config, num_pyramids=config.model.num_pyramids // 2, action_pyramids=acting)


def _not_decoupled(config: TrainConfig) -> TrainConfig:
    """The last stage's steps are the joint stage's."""
    joint, last = config.stages.joint, config.stages.decoupled
    return _with_stages(
        config,
        joint=dataclasses.replace(joint, steps=joint.steps + last.steps),
        decoupled=dataclasses.replace(last, enabled=False),
    )


def _no_pose_supervision(config: TrainConfig) -> TrainConfig:
    """As many action batches as ever. Those of the action stage train the whole network, at that stage's rate: there
    is no pose part that could be frozen. What a joint stage learns from its pose batches is nothing.
    """
    config = _with_losses(config, pose=0.0, confidence=0.0, coordinate_bce=0.0, clip_pose=0.0)
    pose, action, joint = config.stages.pose, config.stages.action, config.stages.joint
    return _with_stages(
        config,
        pose=dataclasses.replace(pose, enabled=False),
        action=dataclasses.replace(action, enabled=False),
        joint=dataclasses.replace(action, images=joint.images, steps=2 * action.steps + joint.steps),
    )


ALL = "all"
VARIANTS = {
    ALL: Variant(lambda config: config),
    "last block supervised": Variant(lambda config: _with_losses(config, blocks="last"), "Table 4: -0.9, -0.6"),
    "fewer pyramids": Variant(_fewer_pyramids, "Table 4, 2 for 8: -3.2, -0.1"),
    "pose features only": Variant(lambda config: _with_model(config, action_streams="pose"), "Table 5: -0.2, -0.4"),
    "appearance features only": Variant(
        lambda config: _with_model(config, action_streams="appearance"), "Table 5: +0.1, -0.2"
    ),
    "not decoupled": Variant(_not_decoupled, "Table 5: -0.3, -0.1"),
    "no pose supervision": Variant(_no_pose_supervision, "Table 6: accuracy -9.9"),
}
"""Every one but the first differs from it in what its name says alone."""


def base(preset: str, share: float = 1.0, steps: Sequence[int] | None = None) -> TrainConfig:
    """The preset with `share` of its steps, or of `steps` of its four stages; stages of two tasks keep equal numbers of
    their batches. Raises UserError for what makes no sense.
    """
    config = get_train_preset(preset)
    if not config.model.num_actions:
        raise UserError(f"preset {preset!r} recognises no actions, which most claims are about: choose another")
    if not 0 < share < math.inf:
        raise UserError(f"--share must be a positive number, not {share:g}")

    def shortened(name: StageName, whole: int) -> StageConfig:
        tasks = len(tasks_of(name))
        return dataclasses.replace(config.stage(name), steps=tasks * max(1, round(share * whole / tasks)))

    wholes = steps or [config.stage(name).steps for name in STAGES]
    stages = StagesConfig(*(shortened(name, whole) for name, whole in zip(STAGES, wholes, strict=True)))
    return dataclasses.replace(config, stages=stages, evaluate=False)


def differences(config: TrainConfig, other: TrainConfig) -> dict[str, Any]:
    """The settings of `config`, by their dotted names, that `other` has otherwise."""
    own, others = _flat(dataclasses.asdict(config)), _flat(dataclasses.asdict(other))
    return {name: value for name, value in own.items() if value != others[name]}


def _flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def run(config: TrainConfig, device: torch.device) -> Evaluation:
    """Train and evaluate in the run directory of `config`, or as much of it as is not done yet.

    Raises UserError if that holds a run with other settings, TrainingError if a loss is not finite, Interrupted.
    """
    directory = Path(config.run_dir)
    check_folder(directory, "name another place with --runs")
    if (directory / CONFIG_FILE).is_file():
        kept = load_config(directory / CONFIG_FILE)
        # Where it is computed does not matter here, and how many classes there are the data alone says.
        kept = dataclasses.replace(kept, run_dir=config.run_dir, workers=config.workers, device=config.device)
        kept = _with_model(kept, num_actions=config.model.num_actions)
        if other := differences(kept, config):
            raise UserError(
                f"{directory} holds a run with other settings ({', '.join(f'{n} {v}' for n, v in other.items())}): "
                "name another place with --runs, or remove it"
            )
    if not (directory / MODEL_FILE).is_file():
        train(config, directory, World(), device, resume=(directory / CHECKPOINT_FILE).is_file())
    result = directory / EVALUATION_FILE
    if result.is_file():
        return Evaluation.from_json(result.read_text(encoding="utf-8"))
    return evaluate_run(
        directory,
        device=str(device),
        workers=config.workers,
        speed=False,
        report=False,
        progress=sys.stderr.isatty(),
    )


def result_of(evaluation: Evaluation, directory: Path) -> dict[str, Any]:
    """What the JSON file keeps of a run: the last block's scores, and the network's size."""
    pose, action = evaluation.pose, evaluation.action
    model, _ = load_model(directory)
    return {
        "pckh": None if pose is None else pose.pckh,
        "mpjpe": None if pose is None else pose.mpjpe,
        "single_clip": None if action is None else action.single_clip,
        "multi_clip": None if action is None else action.multi_clip,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def table(content: dict[str, Any]) -> str:
    """The results as Markdown: of several seeds the mean and, in brackets, the least and the largest."""
    judged, seeds = content["judged"], sorted({int(seed) for v in content["variants"].values() for seed in v["seeds"]})
    titles = ["variant", *(title for title, _ in SCORES.values()), "the paper: PCKh, accuracy"]
    lines = [
        f"The `{content['preset']}` preset with {100 * content['share']:g} % of its steps, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, last block, on "
        f"{judged['stills']} stills and {judged['videos']} videos of {judged['data']} "
        f"({content['device']['name']}, {content['date'][:10]}). "
        f"In {ALL!r} every block is supervised, both streams are read and the last stage is decoupled; every other "
        "variant differs from it in what its name says alone. On the right, what the same did to the paper's networks, "
        "in points. Of so many videos, an accuracy of 80 % has a standard error of "
        f"{_standard_error(judged['videos']):.1f} points: smaller differences say little.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name, variant in content["variants"].items():
        cells = [
            _cell([found[score] for found in variant["seeds"].values()], form) for score, (_, form) in SCORES.items()
        ]
        paper = variant["paper"].replace("-", "\N{MINUS SIGN}")
        lines.append(f"| {name} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines)


def _standard_error(count: int) -> float:
    """Of 80 % right, in points."""
    return 100 * math.sqrt(0.8 * 0.2 / count)


def _cell(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = form.format(sum(known) / len(known))
    if len(known) == 1:
        return mean
    bare = form.split("}")[0] + "}"
    return f"{mean} ({bare.format(min(known))} to {bare.format(max(known))})"


def main(argv: list[str] | None = None) -> int:
    """Read the command line, train and evaluate what is missing, write the results and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    quoted = ", ".join(repr(name) for name in VARIANTS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", help=f"of {quoted} (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="one run each (%(default)s)")
    parser.add_argument("--preset", default="small", help="training preset (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of all stages (%(default)s)")
    parser.add_argument(
        "--preset-steps",
        nargs=len(STAGES),
        type=int,
        metavar=tuple(name.upper() for name in STAGES),
        help="steps of the stages of which that share is taken, if not the preset's",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    parser.add_argument("--workers", type=int, help="processes that prepare samples (the preset's)")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON file; without it, claims.json in the device's folder")
    parser.add_argument("--table", action="store_true", help="train nothing: put the table of --out into --readme")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers (README.md)")
    options = parser.parse_args(argv)
    device = choose_device(options.device)
    path = options.out or results_folder(device) / "claims.json"
    if options.table:
        return _put_table(path, options.readme)
    for name in options.variants:
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
    default = base(options.preset, options.share, options.preset_steps)
    default = dataclasses.replace(
        default, device=str(device), workers=default.workers if options.workers is None else options.workers
    )
    steps = {name: default.stage(name).steps for name in STAGES}
    about = {"preset": options.preset, "share": options.share, "steps": steps}
    if (before := read_json(path)) and any(before.get(key) != value for key, value in about.items()):
        raise UserError(f"{path} holds results of another preset or other numbers of steps: name another file as --out")
    found: dict[str, Any] = before.get("variants", {})
    failed = []
    for seed in options.seeds:
        for name in options.variants:
            folder = options.runs / options.preset / f"{name.replace(' ', '-')}-seed{seed}"
            seeded = dataclasses.replace(default, seed=seed, run_dir=str(folder))
            config = VARIANTS[name].change(seeded)
            print(f"{name}, seed {seed}: {folder}", flush=True)
            try:
                evaluation = run(config, device)
            except Interrupted as stop:
                print(f"stopped in {folder}; the same command goes on there", file=sys.stderr)
                return stop.status
            except TrainingError as error:
                print(f"{name}, seed {seed} failed: {error}", file=sys.stderr)
                failed.append(f"{name}, seed {seed}")
                continue
            variant = found.setdefault(name, {"seeds": {}})
            variant |= {"paper": VARIANTS[name].paper, "differences": differences(config, seeded)}
            variant["seeds"][str(seed)] = result_of(evaluation, folder)
            judged = {"data": evaluation.data, "stills": evaluation.pose_samples, "videos": evaluation.clips}
            in_order = {known: found[known] for known in VARIANTS if known in found}
            write_json(path, describe(device) | about | {"judged": judged, "variants": in_order})
    if content := read_json(path):
        print(f"\n{table(content)}\n\nwrote {path}")
    if failed:
        print(f"{len(failed)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _put_table(path: Path, readme: Path) -> int:
    content = read_json(path)
    if not content:
        raise UserError(f"no results at {path}: leave --table out to make them, or name their file as --out")
    put_table(readme, "claims", table(content))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
