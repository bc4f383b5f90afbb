"""What an evaluation found: a tree of plain dataclasses, written as evaluation.json.

Scores are per cent, errors millimetres, speeds frames per second. None stands for what does not apply (no depth, no
actions).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyhar.errors import UserError, reason, shown
from pyhar.files import write_text

FORMAT = 1


@dataclass
class PoseScores:
    """One prediction block on the stills. Pyramid and level count from 1."""

    pyramid: int
    level: int
    pckh: float | None = None
    """PCKh@0.5 over the joints in `pckh_by_joint`."""
    pckh_auc: float | None = None
    """Area under the PCKh curve from threshold 0 to 0.5."""
    pckh_by_joint: dict[str, float | None] = field(default_factory=dict)
    pckh_curve: dict[str, list[float | None]] = field(default_factory=dict)
    """For each joint the score at each of `Evaluation.thresholds`."""
    mpjpe: float | None = None
    """Mean per joint position error after root alignment."""
    pa_mpjpe: float | None = None
    """The same after Procrustes alignment."""
    mpjpe_by_joint: dict[str, float | None] = field(default_factory=dict)
    mpjpe_by_action: dict[str, float | None] = field(default_factory=dict)
    mpjpe_over_actions: float | None = None
    """The mean of `mpjpe_by_action`, each action weighing the same; `mpjpe` is that of all joints."""
    not_finite: int = 0
    """Predicted joints that were NaN or infinite; they count as misses, and as lying on the root."""


@dataclass
class ActionScores:
    """One action block on the clips. A video's class is the one with the largest probability."""

    pyramid: int
    level: int
    single_clip: float | None = None
    """Accuracy on one clip from the middle of each video."""
    multi_clip: float | None = None
    """Accuracy when probabilities are averaged over clips from the whole video, each also mirrored."""
    by_class: dict[str, float | None] = field(default_factory=dict)
    """Single-clip accuracy on the videos of each class."""
    confusion: list[list[int]] = field(default_factory=list)
    """Single clips: rows true classes, columns predicted ones."""
    not_finite: int = 0
    """Clips with NaN or infinite probabilities; they count as wrong."""


@dataclass
class CutScores:
    """The network cut after one pyramid (Sec. 4.5.4): block numbers from 0, the scores of these blocks, and speed."""

    pyramid: int
    pose_block: int | None
    action_block: int | None
    pckh: float | None
    mpjpe: float | None
    single_clip: float | None
    pose_fps: float | None = None
    """Frames a second of the network alone on a batch of stills, poses only."""
    action_fps: float | None = None
    """Frames a second of the network alone on one clip, actions only."""


@dataclass
class SampleScore:
    """How well the last block did on one still or clip: for showing the best and the worst."""

    index: int
    name: str
    error: float | None
    """Of a still: mean distance of its joints in head sizes, or millimetres if these are unknown. Of a clip: 1 -
    probability of the true class.
    """


@dataclass
class Evaluation:
    """The whole of it. Lists of scores have one entry for each block of the network; the last is the result."""

    data: str
    """The data set and split."""
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    """How each measure was taken, by its name: "PCKh@0.5", "MPJPE", "single clip", "multi clip", "boxes"."""
    joints: list[str] = field(default_factory=list)
    action_names: list[str] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    """Of PCKh, in head sizes."""
    pose_samples: int = 0
    clips: int = 0
    multi_clips: float = 0.0
    """Clips per video in the multi-clip protocol, on average, mirrored ones included."""
    poses: list[PoseScores] = field(default_factory=list)
    actions: list[ActionScores] = field(default_factory=list)
    cuts: list[CutScores] = field(default_factory=list)
    """After each pyramid, the whole network last."""
    pose_batch: int = 16
    clip_frames: int = 8
    """What the speeds are measured on: this many stills; one clip of this many frames."""
    best_poses: list[SampleScore] = field(default_factory=list)
    worst_poses: list[SampleScore] = field(default_factory=list)
    best_clips: list[SampleScore] = field(default_factory=list)
    worst_clips: list[SampleScore] = field(default_factory=list)
    skipped: int = 0
    """Samples that could not be read."""
    skipped_because: list[str] = field(default_factory=list)
    """The first few reasons."""
    seconds: float = 0.0

    @property
    def pose(self) -> PoseScores | None:
        """The result on poses: the last block's."""
        return self.poses[-1] if self.poses else None

    @property
    def action(self) -> ActionScores | None:
        """The result on actions: the last block's."""
        return self.actions[-1] if self.actions else None

    def to_json(self) -> str:
        """As JSON text; what is not finite becomes null."""
        text = json.dumps({"format": FORMAT, **_plain(dataclasses.asdict(self))}, indent=1, allow_nan=False)
        # Lists of numbers on one line each.
        return re.sub(r"\[[-+.\deEnul,\s]*\]", lambda numbers: " ".join(numbers.group().split()), text) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The inverse of `to_json`; raises UserError if the text is something else."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise UserError("the evaluation was written by another version of pyhar: evaluate again")
            made: Evaluation = _build(cls, values)
            return made
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"this is not an evaluation ({reason(error)}): write it with `python -m pyhar.evaluate`"
            ) from error

    def save(self, path: Path) -> None:
        """Write to a file, atomically."""
        write_text(path, self.to_json())


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinities."""
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _build(kind: Any, value: Any) -> Any:
    """Turn plain values into `kind`: dataclasses, lists, dictionaries by name and scalars. Raises TypeError for values
    of another type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None and type(None) in parts else _build(parts[0], value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _build(hints[name], item) for name, item in value.items()})
    if origin is list and isinstance(value, list):
        return [_build(parts[0], item) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: _build(parts[1], item) for name, item in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if origin is not None or type(value) is not kind:
        raise TypeError(f"{shown(value)} instead of {kind}")
    return value
