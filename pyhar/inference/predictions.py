"""What is predicted of a frame and of a clip, and its form in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.inference.tracking import Box

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ActionPrediction:
    """What is done in a clip."""

    name: str
    probability: float
    probabilities: tuple[dict[str, float], ...]
    """Of every class, by name; one dictionary for each of the network's classifiers."""
    frames: tuple[int, ...]
    """The indices of the frames it was read from."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; probabilities to five places."""
        return {
            "type": "clip",
            "frames": list(self.frames),
            "action": self.name,
            "probability": round(self.probability, 5),
            "probabilities": [{name: round(p, 5) for name, p in head.items()} for head in self.probabilities],
        }


@dataclass(frozen=True)
class FramePrediction:
    """The person in one frame."""

    index: int
    time_s: float | None
    """Seconds since the first frame; None if unknown."""
    name: str | None
    """File name of a picture; None for frames of a video."""
    box: Box
    """x1, y1, x2, y2, picture pixels: where the person was looked for, without the crop's margin."""
    pose_px: FloatArray
    """(J, 2) picture pixels."""
    depth_mm: FloatArray | None
    """(J,) millimetres behind the root joint; None from a 2D network."""
    confidence: FloatArray
    """(J,) in [0, 1]."""
    action: ActionPrediction | None
    """Of the clip that the frame belongs to; None without one."""
    latency_s: float
    """Seconds from the frames to the answer, for the group of frames that was computed together with this one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; pixels and confidence to three places, millimetres to one."""
        return {
            "type": "frame",
            "index": self.index,
            "time_s": None if self.time_s is None else round(self.time_s, 4),
            "name": self.name,
            "box": [round(value, 2) for value in self.box],
            "pose_px": _rounded(self.pose_px, 3),
            "depth_mm": None if self.depth_mm is None else _rounded(self.depth_mm, 1),
            "confidence": _rounded(self.confidence, 3),
            "action": None if self.action is None else self.action.name,
        }


def _rounded(values: FloatArray, places: int) -> list[Any]:
    return np.round(values.astype(np.float64), places).tolist()
