"""What a network is made of, as one dataclass, and the presets."""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any, Literal

from pyhar.errors import UserError, shown, unknown_name


@dataclass(frozen=True)
class Cut:
    """Where a network ends (Sec. 4.5.4): 0-based block numbers of the full network, None for a task that is left
    out."""

    pose_block: int | None
    action_block: int | None


@dataclass(frozen=True)
class SPNetConfig:
    """Everything that fixes the network's layers.

    The first group is free; the second says where the paper and the authors' release differ (defaults: the paper, but
    for `action_layers`); the third records what was done to a trained network.
    """

    num_joints: int = 16
    dim: int = 2
    """2: x, y; 3: x, y and depth."""
    layout: str = "pa16"
    """Name of the joint layout, for drawing and flipping; any name is allowed (see `pyhar.data.layouts`)."""
    image_size: int = 256
    """Side of the pictures it is made for, pixels. The network runs on any multiple of `size_multiple`."""
    clip_frames: int = 8
    """T, the frames of the clips it is made for. The network runs on any length."""
    num_pyramids: int = 8
    action_pyramids: tuple[int, ...] = ()
    """Numbers, from 1, of the pyramids that recognise actions."""
    num_levels: int = 4
    growth: int = 96
    """Channels added per level; the entry flow ends with 3 * growth."""
    stem_features: int = 64
    """Channels of the first convolution."""
    kernel_size: int = 5
    """Of the separable convolutions of the pose part; odd."""
    pose_features: int = 160
    """Np, features of the pose stream of the action part."""
    appearance_features: int = 160
    """Nv, features of its appearance stream."""
    action_streams: Literal["both", "pose", "appearance"] = "both"
    """What the action part reads of each frame: coordinates and appearance (Sec. 3.3), or one of them alone (Table
    5)."""
    num_actions: tuple[int, ...] = ()
    """Classes of each action data set; one classifier each."""

    appearance_source: Literal["same", "first"] = "same"
    """Features pooled under the heat maps: Z of the same block (Sec. 3.3.2), or those of the first visit to the level
    (release)."""
    confidence: Literal["max", "window"] = "max"
    """Joint confidence: the largest probability (Sec. 3.2.3), or the largest sum of a 2x2 window (release)."""
    grid: Literal["corners", "unit", "centers"] = "unit"
    """Soft-argmax grid: c / W (Eq. 8), c / (W - 1) (release), or (c + 0.5) / W, which knows the edges of the crop."""
    reinjection: Literal["maps", "logits"] = "maps"
    """What goes back into the features: probability and depth maps (Eq. 10), or logits beside forwarded maps
    (release)."""
    action_layers: Literal["standard", "separable"] = "separable"
    """3x3 convolutions of the unit that carries action features on to the next level: standard (Sec. 4.2.2) or
    separable (release). Every preset has the latter, which is nearer to the size the paper gives for its network."""

    decoupled: bool = False
    """The action part reads maps of its own (Sec. 3.3.4)."""
    cut: Cut | None = None

    def __post_init__(self) -> None:
        def require(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(f"network configuration: {message}")

        def whole(name: str, value: Any) -> int:
            try:
                return int(operator.index(value))  # NumPy's numbers too, which a file's header does not take
            except TypeError:
                raise UserError(f"network configuration: {name} must be a whole number, not {shown(value)}") from None

        sizes = ("num_joints", "image_size", "clip_frames", "num_pyramids", "growth", "stem_features", "kernel_size")
        for name in (*sizes, "dim", "num_levels", "pose_features", "appearance_features"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("action_pyramids", "num_actions"):
            values = getattr(self, name)
            require(isinstance(values, (tuple, list)), f"{name} must be a tuple of whole numbers, not {shown(values)}")
            object.__setattr__(self, name, tuple(whole(f"each of {name}", value) for value in values))
        for name in (*sizes, "pose_features", "appearance_features") if self.num_actions else sizes:
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        require(self.dim in (2, 3), f"dim must be 2 or 3, not {self.dim}")
        require(self.num_levels >= 2, f"num_levels must be at least 2, not {self.num_levels}")
        require(self.growth % 2 == 0, f"growth must be even, not {self.growth}")
        require(self.kernel_size % 2 == 1, f"kernel_size must be odd, not {self.kernel_size}")
        for p in self.action_pyramids:
            require(1 <= p <= self.num_pyramids, f"action pyramid {p} is outside 1..{self.num_pyramids}")
        require(
            bool(self.action_pyramids) == bool(self.num_actions),
            "action_pyramids and num_actions must both be given, or neither",
        )
        require(
            all(n >= 2 for n in self.num_actions),
            f"every action data set needs at least 2 classes, not {self.num_actions}",
        )
        if self.num_actions:
            for name in ("pose_features", "appearance_features"):
                require(getattr(self, name) % 16 == 0, f"{name} must be a multiple of 16, not {getattr(self, name)}")
        require(isinstance(self.layout, str), f"layout must be a name, not {shown(self.layout)}")
        require(isinstance(self.decoupled, bool), f"decoupled must be true or false, not {shown(self.decoupled)}")
        require(self.cut is None or isinstance(self.cut, Cut), f"cut must be a Cut or None, not {shown(self.cut)}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"{name} in the network configuration", str(getattr(self, name)), known)
        if self.cut is not None:
            for task, block, count in (
                ("pose", self.cut.pose_block, self.num_pose_blocks),
                ("action", self.cut.action_block, self.num_action_blocks),
            ):
                require(block is None or 0 <= block < count, f"cannot cut at {task} block {block}: there are {count}")
            require(
                self.cut.pose_block is not None or self.cut.action_block is not None,
                "a cut network needs at least one output",
            )

    @property
    def num_pose_blocks(self) -> int:
        """Prediction blocks of the full network."""
        return self.num_pyramids * (self.num_levels - 1)

    @property
    def num_action_blocks(self) -> int:
        """Action blocks of the full network."""
        return len(set(self.action_pyramids)) * (self.num_levels - 1)

    @property
    def reads_coordinates(self) -> bool:
        """Whether the action part has a pose stream."""
        return self.action_streams != "appearance"

    @property
    def reads_appearance(self) -> bool:
        """Whether the action part has an appearance stream."""
        return self.action_streams != "pose"

    @property
    def action_features(self) -> int:
        """Features of the action part behind its streams: as many as the wider of them has."""
        pose, appearance = self.pose_features * self.reads_coordinates, self.appearance_features * self.reads_appearance
        return max(pose, appearance)

    @property
    def size_multiple(self) -> int:
        """Picture sides must be a multiple of this many pixels."""
        return 8 * 2 ** (self.num_levels - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SPNetConfig:
        """The inverse of `to_dict`; raises UserError on an unknown field or a value of another type."""
        fields = {field.name for field in dataclasses.fields(cls)}
        made = dict(values)
        for name in values:
            if name not in fields:
                raise unknown_name("field of the network configuration", str(name), fields)
        if made.get("cut") is not None:
            made["cut"] = _cut(made["cut"])
        return cls(**made)


def _cut(value: Any) -> Cut:
    names = {field.name for field in dataclasses.fields(Cut)}
    if not isinstance(value, dict) or set(value) != names or {type(v) for v in value.values()} - {int, type(None)}:
        raise UserError(f"network configuration: cut cannot be {shown(value)}")
    return Cut(**value)


_CHOICES = {
    "action_streams": ("both", "pose", "appearance"),
    "appearance_source": ("same", "first"),
    "confidence": ("max", "window"),
    "grid": ("corners", "unit", "centers"),
    "reinjection": ("maps", "logits"),
    "action_layers": ("standard", "separable"),
}

_RELEASE: dict[str, Any] = {
    "appearance_source": "first",
    "confidence": "window",
    "grid": "corners",
    "reinjection": "logits",
    "action_layers": "separable",
}
_NTU: dict[str, Any] = {
    "num_joints": 17,
    "dim": 3,
    "layout": "pa17",
    "pose_features": 192,
    "appearance_features": 192,
    "num_actions": (60,),
}

PRESETS: dict[str, SPNetConfig] = {
    # The paper's networks (Table 4, Sec. 4.2.2).
    "pose": SPNetConfig(),
    "penn": SPNetConfig(action_pyramids=(5, 6, 7, 8), num_actions=(15,)),
    "ntu": SPNetConfig(action_pyramids=(5, 6, 7, 8), **_NTU),
    # The networks whose weights the authors distribute.
    "penn-release": SPNetConfig(num_pyramids=6, action_pyramids=(5, 6), num_actions=(15,), decoupled=True, **_RELEASE),
    "ntu-release": SPNetConfig(num_pyramids=2, action_pyramids=(1, 2), **_NTU, **_RELEASE),
    # For the embedded synthetic data: trains in minutes on a laptop's CPU.
    "small": SPNetConfig(
        num_joints=17,
        dim=3,
        layout="pa17",
        image_size=96,
        num_pyramids=2,
        action_pyramids=(1, 2),
        num_levels=3,
        growth=32,
        stem_features=32,
        pose_features=64,
        appearance_features=64,
        num_actions=(14,),
        grid="centers",
    ),
}


def get_preset(name: str) -> SPNetConfig:
    """The preset called `name`; raises UserError that suggests the nearest name."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
