"""Model files: safetensors that carry their configuration and what is needed to read the network's answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyhar.data.layouts import LAYOUTS, JointLayout, custom_layout
from pyhar.data.sample import DEPTH_RANGE_MM
from pyhar.errors import UserError, reason, shown
from pyhar.files import write_bytes
from pyhar.models.config import SPNetConfig
from pyhar.models.spnet import SPNet

MODEL_FILE = "model.safetensors"


@dataclass
class ModelMeta:
    """What the numbers a network gives out mean."""

    layout: str
    joints: list[str]
    action_names: list[list[str]] = field(default_factory=list)
    """Class names, one list per action data set."""
    depth_range_mm: float = DEPTH_RANGE_MM
    extra: dict[str, str] = field(default_factory=dict)
    bones: list[list[int]] = field(default_factory=list)
    """Pairs of joints' numbers, (parent, child), for drawing."""
    root: int = 0
    """The joint that depth is relative to."""

    @classmethod
    def default(cls, config: SPNetConfig) -> ModelMeta:
        """Names from the configuration's layout, numbers where there are none."""
        meta = cls(config.layout, [], [[f"class {k}" for k in range(n)] for n in config.num_actions])
        layout = LAYOUTS.get(config.layout)
        if layout is None or len(layout.joints) != config.num_joints:
            layout = custom_layout(config.layout, [f"joint {j}" for j in range(config.num_joints)])
        meta.take_joints(layout)
        return meta

    @classmethod
    def from_dict(cls, values: Any, config: SPNetConfig) -> ModelMeta:
        """What `dataclasses.asdict` made of it. Raises UserError if the fields are others, of another type, or not
        those of a network of this configuration."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not {"layout", "joints"} <= set(values) <= known:
            raise UserError(f"the description of the network has other fields than {', '.join(sorted(known))}")
        made: Any = cls(**values)
        for right, name in (
            (isinstance(made.layout, str), "layout"),
            (_are(made.joints, str) and len(made.joints) == config.num_joints, "joints"),
            (isinstance(made.action_names, list) and all(_are(n, str) for n in made.action_names), "action_names"),
            (isinstance(made.depth_range_mm, int | float) and 0 < made.depth_range_mm < math.inf, "depth_range_mm"),
            (isinstance(made.extra, dict) and _are([*made.extra, *made.extra.values()], str), "extra"),
            (isinstance(made.bones, list) and all(_are(b, int) and len(b) == 2 for b in made.bones), "bones"),
            (type(made.root) is int, "root"),
        ):
            if not right:
                raise UserError(f"the description of the network has {name} {shown(getattr(made, name))}")
        if not all(0 <= joint < len(made.joints) for joint in (made.root, *itertools.chain(*made.bones))):
            raise UserError("the description of the network has bones or a root that are none of its joints")
        if made.action_names and tuple(map(len, made.action_names)) != config.num_actions:
            raise UserError(f"names of {list(map(len, made.action_names))} classes for {list(config.num_actions)}")
        return made

    def take_joints(self, layout: JointLayout) -> None:
        """Describe the joints as a layout does."""
        self.joints, self.bones, self.root = list(layout.joints), [list(bone) for bone in layout.bones], layout.root

    @property
    def joint_layout(self) -> JointLayout:
        """The joints as a layout. Raises UserError if bones or root are not among them."""
        known = LAYOUTS.get(self.layout)
        if known is not None and list(known.joints) == self.joints:
            return known
        return custom_layout(self.layout, self.joints, [(a, b) for a, b in self.bones], self.root)


def save_model(path: str | os.PathLike[str], model: SPNet, meta: ModelMeta) -> None:
    """Write weights, configuration and `meta` to one file; atomic: a reader sees the old file or the whole new one."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {"pyhar": json.dumps({"config": model.config.to_dict(), "meta": dataclasses.asdict(meta)})}
    write_bytes(path, save(state, metadata=header))


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> tuple[SPNet, ModelMeta]:
    """Read a model file, or the one in a run directory; the network comes in eval mode on `device`, in float32 whatever
    type its weights are kept in.

    Raises UserError if the file is missing, is not one of ours, or its weights do not fit its configuration.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        raise UserError(
            f"no model at {file}: train one with `python -m pyhar.train`, "
            "or convert the authors' with `python -m pyhar.convert`"
        )
    try:
        with safe_open(file, framework="pt") as handle:
            header = (handle.metadata() or {}).get("pyhar")
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file ({reason(error)}); write it again") from error
    if header is None:
        raise UserError(f"{file} carries no pyhar configuration: it was written by another program")
    try:
        content: dict[str, Any] = json.loads(header)
        model, meta = describe(content["config"], content["meta"], state)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"the header of {file} cannot be read ({reason(error)}): it is damaged, or was written by another version "
            "of pyhar"
        ) from error
    load_weights(model, state, str(file), assign=True)
    return model.to(device, torch.float32).eval(), meta


def describe(config: Any, meta: Any, state: dict[str, torch.Tensor]) -> tuple[SPNet, ModelMeta]:
    """The network of a file's configuration, without memory for its weights, and what its numbers mean; meta: None:
    what the configuration says. Raises ValueError if either is damaged, or cannot be what has these weights."""
    if not isinstance(config, dict):
        raise UserError(f"the network's configuration is {shown(config)}")
    made = SPNetConfig.from_dict(config)
    # Before a network is built that would take hours.
    if made.num_pose_blocks > len(state):
        raise UserError(f"{made.num_pose_blocks} prediction blocks, but only {len(state)} weights")
    try:
        with torch.device("meta"):
            model = SPNet(made)
    except (RuntimeError, TypeError, OverflowError) as error:  # of sizes that no tensor has
        raise UserError(f"there is no such network: {reason(error)}") from error
    return model, ModelMeta.default(made) if meta is None else ModelMeta.from_dict(meta, made)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def load_weights(model: SPNet, state: dict[str, torch.Tensor], source: str, *, assign: bool = False) -> None:
    """Put a state dict into `model`; raises UserError that lists what is missing, unexpected, of another shape, or not
    finite, before changing anything."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the network's {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    problems += [
        f"{name} is of {state[name].dtype}"
        for name, value in own.items()
        if name in state and state[name].is_floating_point() != value.is_floating_point()
    ]
    if problems:
        raise UserError(
            f"{source} belongs to another configuration than this network: {listed(problems, between='; ')}"
        )
    if broken := [name for name, value in state.items() if not _finite(value)]:
        raise UserError(f"{source} holds NaN or infinite weights in {listed(broken)}: fetch or train it again")
    model.load_state_dict(state, assign=assign)


def _finite(weights: torch.Tensor) -> bool:
    if not weights.is_floating_point() or weights.numel() == 0:
        return True
    # One pass without a copy; a NaN is both the least and the largest.
    return all(math.isfinite(float(bound)) for bound in weights.aminmax())


def listed(names: list[str], most: int = 5, between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    return between.join(names[:most]) + (f"{between}and {len(names) - most} more" if len(names) > most else "")
