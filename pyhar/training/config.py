"""What a training run is made of: one tree of dataclasses, its presets, and its YAML file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from pyhar.errors import UserError, reason, shown, unknown_name
from pyhar.files import write_text
from pyhar.models import SPNetConfig, get_preset

CONFIG_FILE = "config.yaml"

StageName = Literal["pose", "action", "joint", "decoupled"]
STAGES: tuple[StageName, ...] = ("pose", "action", "joint", "decoupled")


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser and its constants; those of the other kinds are not read."""

    kind: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    lr: float = 1e-3
    weight_decay: float = 0.0
    """Of weights with two or more dimensions; scales and shifts of norms never decay."""
    momentum: float = 0.0
    """rmsprop, sgd. SGD's is Nesterov's."""
    decay: float = 0.9
    """rmsprop: of the running mean of squared gradients."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw."""
    eps: float = 1e-7
    """rmsprop, adamw."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over a stage; places are fractions of the stage's steps."""

    kind: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    warmup: float = 0.0
    """Share of the steps over which the rate rises: linearly, or for one-cycle along a cosine from 1/25 of the rate."""
    milestones: tuple[float, ...] = ()
    """step: where the rate is multiplied by `factor`."""
    factor: float = 0.1
    """step."""
    final: float = 0.0
    """cosine, one-cycle: the rate at the end, as a share of the full one."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and which blocks have them."""

    normaliser: Literal["joints", "coordinates"] = "joints"
    """The pose loss is divided by the number of valid joints (Eq. 11), or of valid coordinates (release)."""
    coordinate_bce: float = 0.0
    """Binary cross entropy of the coordinates (release: 0.01)."""
    confidence: float = 0.01
    action: float = 0.01
    """On each action block and head (the release's NTU script: 0.1)."""
    clip_pose: float = 0.0
    """Weight of the pose and confidence losses on the clips of an action batch, next to the action loss. 0: clips teach
    actions alone.
    """
    blocks: Literal["all", "last"] = "all"
    """Every prediction block is supervised, or the last alone (Table 4)."""
    pose: float = 1.0
    """On each prediction block. With `confidence` 0, too, a joint stage learns from actions alone (Table 6)."""


@dataclass(frozen=True)
class StageConfig:
    """One stage. A step is one optimiser step; joint and decoupled take a pose batch and an action batch in turn,
    beginning with poses.
    """

    enabled: Annotated[bool, tyro.conf.FlagConversionOff] = True
    steps: int = 1000
    images: int = 32
    """Stills in a pose batch, over all processes."""
    clips: int = 4
    """Clips in an action batch, over all processes."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    grad_clip: float = 0.0
    """Largest norm of the gradient of all weights together; 0: not limited."""
    ema_decay: float = 0.0
    """Above 0, a running mean of the weights is kept and is the stage's result."""


@dataclass(frozen=True)
class StagesConfig:
    """The four stages in order: poses alone, actions on frozen poses, both in turn, both decoupled."""

    pose: StageConfig = StageConfig()
    action: StageConfig = StageConfig()
    joint: StageConfig = StageConfig()
    decoupled: StageConfig = StageConfig()


@dataclass(frozen=True)
class DataConfig:
    """Which data sets, by the names that `pyhar.data.registry` knows."""

    pose: tuple[str, ...] = ("synthetic",)
    """Where the stills of pose batches come from."""
    pose_shares: tuple[float, ...] = ()
    """The share of each of them in a batch; empty: equal."""
    action: tuple[str, ...] = ("synthetic",)
    """Where clips come from: one data set for each of the network's classifiers, which get its classes."""
    augmentation: Literal["auto", "gentle", "paper", "release"] = "auto"
    """How far training samples are turned, scaled and shifted (see `pyhar.data.augment`). auto: gentle for synthetic,
    the paper's ranges for data on disk. release: the steps, scales and shifts of the authors' code, one set for all
    data sets; rectangles of human36m erased.
    """
    size: int = 0
    """Use this many samples of each; 0: all."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    preset: tyro.conf.Suppress[str] = "small"
    """The preset it began as."""
    model: SPNetConfig = field(default_factory=lambda: get_preset("small"))
    data: DataConfig = DataConfig()
    stages: StagesConfig = StagesConfig()
    run_dir: str = ""
    """Where everything is written. Empty: runs/PRESET, or with -2, -3... if that is taken."""
    init: str = ""
    """A model file or run directory whose weights training starts from."""
    seed: int = 0
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"...; auto: a GPU if there is one."""
    amp: Literal["off", "bf16", "fp16", "auto"] = "off"
    """Mixed precision. auto: bf16 where the device computes with it directly, else off."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = True
    workers: int = 2
    """Processes that prepare samples; 0: none, the training process does it."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; each stage's end has one in any case."""
    evaluate: bool = True
    """Evaluate at the end and write the report."""

    def __post_init__(self) -> None:
        check(self)

    def enabled_stages(self) -> list[StageName]:
        """The names of the stages to run, in order."""
        return [name for name in STAGES if self.stage(name).enabled]

    def stage(self, name: StageName) -> StageConfig:
        """The configuration of one stage."""
        return getattr(self.stages, name)


def check(config: TrainConfig) -> None:
    """Raise UserError, with the option's name, if a value makes no sense."""

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise UserError(message)

    require(config.workers >= 0, f"workers must be at least 0, not {config.workers}")
    require(config.log_every >= 1, f"log-every must be at least 1, not {config.log_every}")
    require(config.checkpoint_every >= 1, f"checkpoint-every must be at least 1, not {config.checkpoint_every}")
    require(config.seed >= 0, f"seed must be at least 0, not {config.seed}")
    require(config.model.cut is None, "a cut network cannot be trained: leave model.cut empty")
    require(bool(config.enabled_stages()), "every stage is switched off: nothing to train")
    for name in config.enabled_stages():
        stage, where = config.stage(name), f"stages.{name}"
        require(
            name == "pose" or bool(config.model.num_actions),
            f"{where}: this network recognises no actions; switch the stage off or give model.action-pyramids",
        )
        for option in ("steps", "images", "clips"):
            require(getattr(stage, option) >= 1, f"{where}.{option} must be at least 1, not {getattr(stage, option)}")
        optimizer, loss = stage.optimizer, stage.loss
        for option, value in (
            ("grad-clip", stage.grad_clip),
            ("optimizer.weight-decay", optimizer.weight_decay),
            ("optimizer.momentum", optimizer.momentum),
            ("optimizer.eps", optimizer.eps),
            ("loss.pose", loss.pose),
            ("loss.coordinate-bce", loss.coordinate_bce),
            ("loss.confidence", loss.confidence),
            ("loss.action", loss.action),
            ("loss.clip-pose", loss.clip_pose),
        ):
            require(value >= 0, f"{where}.{option} must not be negative: {value}")
        for option, value in (("decay", optimizer.decay), *(("betas", beta) for beta in optimizer.betas)):
            require(0 <= value < 1, f"{where}.optimizer.{option} must lie in [0, 1), not {value}")
        require(
            optimizer.lr > 0 and math.isfinite(optimizer.lr),
            f"{where}.optimizer.lr must be positive, not {optimizer.lr}",
        )
        require(0 <= stage.ema_decay < 1, f"{where}.ema-decay must lie in [0, 1), not {stage.ema_decay}")
        places = (stage.schedule.warmup, *stage.schedule.milestones)
        require(
            all(0 <= place <= 1 for place in places),
            f"{where}.schedule: warmup and milestones are shares of the stage, in [0, 1], not {places}",
        )
    require(config.data.size >= 0, f"data.size must be at least 0, not {config.data.size}")
    shares = config.data.pose_shares
    for name, names in (("pose", config.data.pose), ("action", config.data.action)):
        used = name in config.enabled_stages() or {"joint", "decoupled"} & set(config.enabled_stages())
        require(bool(names) or not used, f"data.{name} names no data set")
    require(
        not shares or (len(shares) == len(config.data.pose) and all(s > 0 for s in shares)),
        "data.pose-shares must give one positive number for each of data.pose",
    )


# Files


def save_config(path: Path, config: TrainConfig) -> None:
    """Write the whole configuration as YAML."""
    write_text(path, yaml.safe_dump(_plain(config), sort_keys=False))


def load_config(path: Path) -> TrainConfig:
    """Read what `save_config` wrote; raises UserError if it is missing, is not YAML or has unknown fields."""
    if not path.is_file():
        raise UserError(f"no training configuration at {path}: is its folder a run directory?")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: other text, or dates and numbers that there are not; RecursionError: lists within lists without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable YAML file: {reason(error)}") from error
    try:
        made: TrainConfig = _build(TrainConfig, values, str(path))
    except UserError as error:
        # What settings may be, their classes say, which know no file.
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    return made


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn plain YAML values into `kind`: a dataclass, a tuple, an optional or a scalar."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _build(typing.get_args(kind)[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return (
            None
            if value is None
            else _build(next(k for k in typing.get_args(kind) if k is not type(None)), value, where)
        )
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected named values, found {shown(value)}")
        hints = typing.get_type_hints(kind, include_extras=True)
        names = {f.name for f in dataclasses.fields(kind)}
        for name in value:
            if name not in names:
                raise unknown_name(f"setting in {where}", str(name), names)
        made: Callable[..., Any] = typing.cast("Callable[..., Any]", kind)
        return made(**{name: _build(hints[name], item, f"{where}: {name}") for name, item in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, found {shown(value)}")
        item_kind = typing.get_args(kind)[0]
        return tuple(_build(item_kind, item, where) for item in value)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise unknown_name(f"value in {where}", str(value), map(str, typing.get_args(kind)))
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {kind.__name__}, found {shown(value)}")
    return value


# Presets


def _epochs(count: float, samples: int, batch: int, tasks: int = 1) -> int:
    """Optimiser steps of `count` passes over `samples` when each of `tasks` batches in turn is one step."""
    return round(count * samples / batch) * tasks


_PENN_CLIPS = 1258
"""Training videos of Penn Action."""
_NTU_CLIPS = 40_091
"""Training videos of NTU RGB+D, cross-subject, without those that lack a skeleton."""

_POSE = StageConfig(steps=32_000)
_OFF = StageConfig(enabled=False)


def _penn(loss: LossConfig) -> StagesConfig:
    """Sec. 4.2.3: RMSprop; 2 epochs of actions, 30 of both with steps at 15 and 25, a few more decoupled at the last
    rate.

    An epoch is a pass over the clips. That of the authors' script is 3,707 batches of clips, some 12 passes, and its 30
    epochs begin with the 2 of actions.
    """
    rmsprop = OptimizerConfig()
    joint = ScheduleConfig("step", milestones=(15 / 30, 25 / 30))
    return StagesConfig(
        pose=dataclasses.replace(_POSE, loss=loss),
        action=StageConfig(steps=_epochs(2, _PENN_CLIPS, 4), optimizer=rmsprop, loss=loss),
        joint=StageConfig(steps=_epochs(30, _PENN_CLIPS, 4, 2), optimizer=rmsprop, schedule=joint, loss=loss),
        decoupled=StageConfig(
            steps=_epochs(5, _PENN_CLIPS, 4, 2), optimizer=dataclasses.replace(rmsprop, lr=1e-5), loss=loss
        ),
    )


def _ntu(loss: LossConfig) -> StagesConfig:
    """Sec. 4.2.3: SGD; 50 epochs of actions, 60 of both with steps at 50 and 55, a few decoupled at the last rate.

    The paper trains both until scores do not rise any more. The authors' script goes on counting: it trains both from
    the end of the 50 epochs of actions on, at a tenth of their rate.
    """
    sgd = OptimizerConfig("sgd", lr=0.01, momentum=0.9)
    joint = ScheduleConfig("step", milestones=(50 / 60, 55 / 60))
    return StagesConfig(
        pose=dataclasses.replace(_POSE, loss=loss),
        action=StageConfig(steps=_epochs(50, _NTU_CLIPS, 4), optimizer=sgd, loss=loss),
        joint=StageConfig(steps=_epochs(60, _NTU_CLIPS, 4, 2), optimizer=sgd, schedule=joint, loss=loss),
        decoupled=StageConfig(
            steps=_epochs(5, _NTU_CLIPS, 4, 2), optimizer=dataclasses.replace(sgd, lr=1e-4), loss=loss
        ),
    )


def _small() -> StagesConfig:
    """Made for minutes on two cores: high rates that fall to nothing in each stage; in the last two, clips teach poses
    too.
    """

    def stage(steps: int, lr: float, loss: LossConfig) -> StageConfig:
        return StageConfig(
            steps=steps,
            images=16,
            clips=4,
            optimizer=OptimizerConfig("adamw", lr=lr, weight_decay=1e-4),
            schedule=ScheduleConfig("one-cycle", warmup=0.2, final=0.01),
            loss=loss,
            grad_clip=5.0,
        )

    both = LossConfig(action=0.1, clip_pose=1.0)
    return StagesConfig(
        pose=stage(2500, 1e-2, LossConfig()),
        action=stage(2200, 5e-3, LossConfig()),
        joint=stage(200, 3e-4, both),
        decoupled=stage(160, 2e-4, both),
    )


_PENN_DATA = DataConfig(pose=("mpii", "penn"), pose_shares=(0.8, 0.2), action=("penn",))
_NTU_DATA = DataConfig(pose=("human36m", "mpii", "ntu"), pose_shares=(0.5, 0.375, 0.125), action=("ntu",))
_RELEASE_LOSS = LossConfig(normaliser="coordinates", coordinate_bce=0.01)


def _as_released(data: DataConfig) -> DataConfig:
    return dataclasses.replace(data, augmentation="release")


def _model(name: str) -> SPNetConfig:
    # The release's networks are listed as they end; training begins without replicas, its last stage makes them.
    return dataclasses.replace(get_preset(name), decoupled=False)


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "small": lambda: TrainConfig("small", _model("small"), DataConfig(), _small(), checkpoint_every=100),
    "pose": lambda: TrainConfig(
        "pose", _model("pose"), DataConfig(("mpii",), action=()), StagesConfig(_POSE, _OFF, _OFF, _OFF), workers=8
    ),
    "penn": lambda: TrainConfig("penn", _model("penn"), _PENN_DATA, _penn(LossConfig()), workers=8),
    "ntu": lambda: TrainConfig("ntu", _model("ntu"), _NTU_DATA, _ntu(LossConfig()), workers=8),
    "penn-release": lambda: TrainConfig(
        "penn-release", _model("penn-release"), _as_released(_PENN_DATA), _penn(_RELEASE_LOSS), workers=8
    ),
    "ntu-release": lambda: TrainConfig(
        "ntu-release",
        _model("ntu-release"),
        _as_released(_NTU_DATA),
        _ntu(dataclasses.replace(_RELEASE_LOSS, action=0.1)),
        workers=8,
    ),
}


def get_train_preset(name: str) -> TrainConfig:
    """The training preset called `name`; raises UserError that suggests the nearest name."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]()
