"""What a run starts from: its data sets, its network, its first weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pyhar.data import registry
from pyhar.errors import UserError
from pyhar.models import ModelMeta, SPNet, load_model
from pyhar.training.config import TrainConfig
from pyhar.training.sampling import TrainingData
from pyhar.training.stages import Task, tasks_of


def build_data(config: TrainConfig) -> TrainingData:
    """The training splits of the data sets that the enabled stages need.

    Raises UserError if a data set is unknown or its joints are not the network's.
    """
    tasks = {task for name in config.enabled_stages() for task in tasks_of(name)}
    options: dict[str, Any] = {"image_size": config.model.image_size, "layout": config.model.layout}
    if config.data.size:
        options["size"] = config.data.size
    sources: dict[Task, Sequence[registry.PoseData]] = {"pose": [], "action": []}
    if "pose" in tasks:
        sources["pose"] = [
            registry.build(name, "train", "pose", augment=_augmentation(config, name), **options)
            for name in config.data.pose
        ]
    if "action" in tasks:
        options["clip_frames"] = config.model.clip_frames
        sources["action"] = [
            registry.build(name, "train", "clips", augment=_augmentation(config, name), **options)
            for name in config.data.action
        ]
    for task, of_task in sources.items():
        for name, source in zip(config.data.pose if task == "pose" else config.data.action, of_task, strict=False):
            if (source.layout.name, len(source.layout.joints)) != (config.model.layout, config.model.num_joints):
                raise UserError(
                    f"data set {name!r} has {len(source.layout.joints)} joints of layout {source.layout.name!r}, "
                    f"the network {config.model.num_joints} of {config.model.layout!r}: "
                    "set model.num-joints and model.layout, or take other data"
                )
            if len(source) == 0:
                raise UserError(f"data set {name!r} has no training samples for {task}")
            if task == "action" and not source.action_names:
                raise UserError(f"data set {name!r} names no actions: it cannot train the action part")
    return TrainingData(sources)


def _augmentation(config: TrainConfig, name: str) -> bool | str:
    """What the data set of this name takes as `augment`."""
    chosen = config.data.augmentation
    if chosen == "auto":
        return True
    return "release-erasing" if chosen == "release" and name == "human36m" else chosen


def fit_to_data(config: TrainConfig, data: TrainingData) -> TrainConfig:
    """The configuration with as many classifiers and classes as the action data has."""
    if not data.sources["action"]:
        return config
    classes = tuple(len(source.action_names) for source in data.sources["action"])
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_actions=classes))


def describe(config: TrainConfig, data: TrainingData) -> ModelMeta:
    """The names that go into the model files."""
    meta = ModelMeta.default(config.model)
    meta.extra["preset"] = config.preset
    # What `pyhar evaluate` takes if not told.
    for task, names in (("pose", config.data.pose), ("clip", config.data.action)):
        if names:
            meta.extra[f"{task}_data"] = " ".join(names)
    if data.sources["action"]:
        meta.action_names = [list(source.action_names) for source in data.sources["action"]]
    for source in (*data.sources["pose"], *data.sources["action"]):
        meta.take_joints(source.layout)
    return meta


def start_from(model: SPNet, path: str) -> list[str]:
    """Copy the weights of a model file or run directory into `model`; returns the names in the action part that did not
    fit.

    Those keep their random values: another data set has other classes, and a model of poses has no action part. A
    decoupled model makes `model` decoupled. Raises UserError if anything of the pose part differs.
    """
    source, _ = load_model(path)
    if source.config.decoupled and model.config.num_actions and not model.config.decoupled:
        model.decouple()
    given, own = source.state_dict(), model.state_dict()
    action_parts = set(map(id, model.action_modules()))
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if id(module) in action_parts)
    left = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    poses = [name for name in left if not name.startswith(prefixes)]
    if poses:
        raise UserError(
            f"cannot start from {path}: its pose part is another network's ({len(poses)} weights differ, the first "
            f"{poses[0]}); choose the preset it was trained with"
        )
    model.load_state_dict(
        {name: value for name, value in given.items() if name in own and name not in left}, strict=False
    )
    return left
