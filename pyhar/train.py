"""`python -m pyhar.train [PRESET] [options]`: train a network in stages, evaluate it, write the report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tyro

from pyhar import cli
from pyhar.errors import UserError
from pyhar.training import distributed
from pyhar.training.checkpoint import CHECKPOINT_FILE
from pyhar.training.config import CONFIG_FILE, PRESETS, TrainConfig, get_train_preset, load_config
from pyhar.training.interrupt import Interrupted
from pyhar.training.loop import train

RUNS = Path("runs")

_DESCRIPTION = f"""Train a network in stages, evaluate it and write a report.

Usage: python -m pyhar.train [PRESET] [--resume [RUN]] [options]

PRESET, the first word, is one of: {", ".join(PRESETS)}. Without it, small: the embedded data, in minutes on a CPU.
--resume goes on with the run in folder RUN, or with the newest in {RUNS}/; other options then change its settings."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, train, evaluate. Returns the exit status; raises UserError for what the user can mend."""
    config, resumed = parse(sys.argv[1:] if argv is None else argv)
    world, device = distributed.start(config.device)
    try:
        directory = resumed or distributed.gather(new_run_dir(config), world)[0]
        if world.is_main:
            print(f"training preset {config.preset!r} on {device}, writing to {directory}")
        config = dataclasses.replace(config, run_dir=str(directory))
        train(config, directory, world, device, resume=resumed is not None)
    except Interrupted as stop:
        if world.is_main:
            print(stop, file=sys.stderr)
        return stop.status
    finally:
        distributed.stop()
    if world.is_main:
        print(f"trained model: {directory / 'model.safetensors'}")
        if config.evaluate:
            from pyhar.evaluate import evaluate_run

            evaluate_run(directory, device=str(device), workers=config.workers)
    return 0


def parse(words: list[str]) -> tuple[TrainConfig, Path | None]:
    """Read the command line: the configuration, and the run to resume or None.

    The preset is the first word because the options' defaults follow from it. Raises UserError for an unknown preset or
    run; unknown options end the program with tyro's message and status 2.
    """
    words = list(words)
    resumed: Path | None = None
    preset = words.pop(0) if words and not words[0].startswith("-") else None
    places = [i for i, word in enumerate(words) if word == "--resume" or word.startswith("--resume=")]
    if places:
        if preset is not None:
            raise UserError(f"a resumed run keeps its own preset: leave out {preset!r}")
        _, _, name = words.pop(places[0]).partition("=")
        if not name and len(words) > places[0] and not words[places[0]].startswith("-"):
            name = words.pop(places[0])
        resumed = Path(name) if name else newest_run()
        default = dataclasses.replace(load_config(resumed / CONFIG_FILE), run_dir=str(resumed))
    else:
        default = get_train_preset(preset or "small")
    config = tyro.cli(
        TrainConfig,
        prog="pyhar train",
        description=_DESCRIPTION,
        default=default,
        args=words,
        config=(tyro.conf.AvoidSubcommands,),
    )
    if resumed is not None and config.run_dir != str(resumed):
        raise UserError(f"a resumed run stays in its folder {resumed}: leave out --run-dir")
    return config, resumed


def newest_run() -> Path:
    """The run directory in `RUNS` whose checkpoint was written last; raises UserError if there is none."""
    checkpoints = sorted(RUNS.glob(f"*/{CHECKPOINT_FILE}"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UserError(f"nothing to resume: no run in {RUNS}/ has a checkpoint; name the run's folder after --resume")
    return checkpoints[-1].parent


def new_run_dir(config: TrainConfig) -> Path:
    """The folder for a new run; raises UserError if the one asked for holds a run already."""
    if config.run_dir:
        directory = Path(config.run_dir)
        if (directory / CONFIG_FILE).exists():
            raise UserError(
                f"{directory} holds a run already: go on with --resume {directory}, or choose another --run-dir"
            )
        return directory
    number = 1
    while (directory := RUNS / (config.preset if number == 1 else f"{config.preset}-{number}")).exists():
        number += 1
    return directory


if __name__ == "__main__":
    sys.exit(cli.run(main))
