"""A data set of random pictures, and a preset "tiny" that trains on it in a second. Run as a program, it is `pyhar
train` with both.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from pyhar import cli, train
from pyhar.data import registry
from pyhar.data.layouts import PA16
from pyhar.errors import UserError
from pyhar.models import SPNetConfig
from pyhar.training import distributed, loop
from pyhar.training.config import (
    PRESETS,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageConfig,
    StagesConfig,
    TrainConfig,
)

MODEL = SPNetConfig(
    dim=3,
    image_size=32,
    clip_frames=4,
    num_pyramids=2,
    action_pyramids=(1, 2),
    num_levels=2,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=16,
    num_actions=(3,),
)


class TinyData:
    """Stills or clips; everything follows from (index, draw).

    `broken` indices cannot be read, `poisoned` ones hold NaN, and the `interrupt_at`-th sample of its kind, from 1,
    comes with the signal `interrupt`.
    """

    layout = PA16
    action_names = ("sit", "stand", "walk")

    def __init__(
        self,
        kind,
        image_size=32,
        clip_frames=4,
        size=24,
        broken=(),
        poisoned=(),
        interrupt_at=0,
        interrupt=signal.SIGINT,
        **_,
    ):
        self.shape = (clip_frames,) if kind == "clips" else ()
        self.kind, self.image_size, self.size = kind, image_size, size
        self.broken, self.poisoned = broken, poisoned
        self.interrupt_at, self.interrupt = interrupt_at, interrupt
        self.given = 0

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        index, draw = key if isinstance(key, tuple) else (key, 0)
        self.given += 1
        if self.given == self.interrupt_at:
            os.kill(os.getpid(), self.interrupt)
        if index in self.broken:
            raise UserError(f"tiny/{index}.jpg is broken")
        rng = np.random.default_rng([index, draw])
        joints, shape = len(self.layout.joints), self.shape
        pose = rng.random((*shape, joints, 3), np.float32)
        valid = rng.random((*shape, joints, 3)) < 0.8
        if index in self.poisoned:
            pose[..., 0, 0], valid[..., 0, 0] = np.nan, True
        return {
            "frames": torch.from_numpy(rng.integers(0, 256, (*shape, self.image_size, self.image_size, 3), np.uint8)),
            "pose": torch.from_numpy(pose),
            "pose_valid": torch.from_numpy(valid),
            "confidence": torch.from_numpy(valid[..., 0].astype(np.float32)),
            "action": torch.tensor(index % 3),
            "action_head": torch.tensor(0),
            "colour_power": torch.from_numpy(rng.uniform(0.9, 1.1, 3).astype(np.float32)),
            "name": f"tiny/{self.kind}/{index}",
        }


def register(**options) -> None:
    """Make "tiny" the name of a data set and of a preset; options of TinyData apply to stills and clips alike."""
    registry.DATASETS["tiny"] = lambda split, kind, **given: TinyData(kind, **{**given, **options})
    PRESETS["tiny"] = config


def config(directory="", **changes) -> TrainConfig:
    """Four stages of 4 steps; `changes` are fields of TrainConfig, or of every stage."""
    stage = StageConfig(
        steps=4,
        images=4,
        clips=2,
        optimizer=OptimizerConfig(lr=1e-3, momentum=0.9),
        schedule=ScheduleConfig("one-cycle", warmup=0.25),
        loss=LossConfig(action=0.1),
        ema_decay=0.5,
    )
    of_stage = {name: changes.pop(name) for name in list(changes) if hasattr(stage, name)}
    stage = dataclasses.replace(stage, **of_stage)
    made = TrainConfig(
        "tiny",
        MODEL,
        DataConfig(pose=("tiny",), action=("tiny",)),
        StagesConfig(stage, stage, stage, stage),
        run_dir=str(directory),
        device="cpu",
        workers=0,
        log_every=2,
        evaluate=False,
    )
    return dataclasses.replace(made, **changes)


def only(settings: TrainConfig, *names: str) -> TrainConfig:
    """The same with all other stages switched off."""
    stages = {
        field.name: dataclasses.replace(getattr(settings.stages, field.name), enabled=field.name in names)
        for field in dataclasses.fields(StagesConfig)
    }
    return dataclasses.replace(settings, stages=StagesConfig(**stages))


def run(settings: TrainConfig, *, resume: bool = False) -> Path:
    """Train in this process; returns the run directory."""
    directory = Path(settings.run_dir)
    loop.train(settings, directory, distributed.World(), torch.device("cpu"), resume=resume)
    return directory


def in_double() -> None:
    """Make this process train in double precision, where equal means equal: rounding soon parts float32 runs."""
    network, pictures = loop.SPNet, loop.model_input
    loop.SPNet = lambda settings: network(settings).double()
    loop.model_input = lambda frames, device, **more: pictures(frames, device, torch.float64, **more)


if __name__ == "__main__":
    register()
    if "TINY_DOUBLE" in os.environ:
        in_double()
    sys.exit(cli.run(train.main))
