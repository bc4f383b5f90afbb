"""A body: the proportions of a subject, and where its joints are when it takes a pose.

World: x to the left of a person who has not turned, y up from the floor, z to the front; millimetres. A limb's own
axes are the world's when the body stands with hanging arms; a rotation matrix takes vectors from the limb to the
world. Joints are those of "pa17".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import PA17
from pyhar.data.synthetic.motion import FIELDS

Array = npt.NDArray[np.float64]

_COLUMN = {field: i for i, field in enumerate(FIELDS)}
_SIDE = np.array([-1.0, 1.0])
"""Sign of x on the right and left side: limbs are described once, for the left, and mirrored for the right."""
_ANKLE_RANGE = np.deg2rad([-35.0, 45.0])
"""How far the ankle bends to keep the sole on the floor."""


@dataclass(frozen=True)
class Body:
    """Lengths of a subject in millimetres."""

    height: float
    hips: float
    """Half the distance of the hip joints."""
    shoulders: float
    """Half the distance of the shoulder joints."""
    torso: float
    """Pelvis to thorax."""
    neck: float
    head: float
    """Neck joint to the top of the head."""
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    ankle: float
    """Height of the ankle joint above the sole."""
    foot: float
    """Ankle to toes."""
    girth: float
    """Relative thickness of limbs."""
    belly: float
    """Relative thickness of the torso."""
    slender: float
    """Hips against shoulders: above 0 narrower shoulders and waist, wider hips."""


def make_body(rng: np.random.Generator) -> Body:
    """Draw a subject's proportions."""
    height = float(np.clip(rng.normal(1710.0, 95.0), 1490.0, 1960.0))
    slender = float(rng.uniform(-1.0, 1.0))
    vary = 1.0 + 0.04 * np.clip(rng.normal(size=12), -2.0, 2.0)
    girth = float(np.exp(np.clip(rng.normal(0.0, 0.1), -0.2, 0.25)))
    return Body(
        height=height,
        hips=height * 0.056 * vary[0] * (1 + 0.06 * slender),
        shoulders=height * 0.107 * vary[1] * (1 - 0.07 * slender),
        torso=height * 0.288 * vary[2],
        neck=height * 0.057 * vary[3],
        head=height * 0.130 * vary[4],
        upper_arm=height * 0.172 * vary[5],
        forearm=height * 0.148 * vary[6],
        hand=height * 0.075 * vary[7],
        thigh=height * 0.243 * vary[8],
        shin=height * 0.245 * vary[9],
        ankle=height * 0.045 * vary[10],
        foot=height * 0.092 * vary[11],
        girth=girth,
        belly=girth * float(np.exp(np.clip(rng.normal(0.0, 0.08), -0.12, 0.25))),
        slender=slender,
    )


@dataclass(frozen=True)
class Posture:
    """A body in F poses. Arrays of two limbs have the right one first."""

    joints: Array
    """(F, 17, 3) world millimetres."""
    pelvis: Array
    """(F, 3, 3) rotations, as all that follow."""
    chest: Array
    head: Array
    upper_arm: Array
    """(F, 2, 3, 3)."""
    forearm: Array
    hand: Array
    thigh: Array
    shin: Array
    foot: Array

    def __getitem__(self, frames: npt.NDArray[np.int64]) -> Posture:
        """The same at some of the frames."""
        return Posture(**{name: value[frames] for name, value in vars(self).items()})


def _turn(axis: int, angle: Array) -> Array:
    """Rotations (.., 3, 3) by `angle` (..), radians, about x, y or z (0, 1, 2)."""
    out = np.zeros((*angle.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1.0
    out[..., i, i] = out[..., j, j] = np.cos(angle)
    out[..., j, i] = np.sin(angle)
    out[..., i, j] = -out[..., j, i]
    return out


def take_pose(body: Body, poses: Array) -> Posture:
    """The body at poses (F, fields) of `pyhar.data.synthetic.motion`, for consecutive frames of a video.

    The lowest foot stands on the floor, `lift` above it. Feet that carry the body stay where they are, so the body
    moves as the feet push it; the video's middle position is x = z = 0.
    """
    angles = np.deg2rad(poses)

    def one(name: str) -> Array:
        return angles[:, _COLUMN[name]]

    def both(name: str) -> Array:
        return angles[:, [_COLUMN[f"r_{name}"], _COLUMN[f"l_{name}"]]]

    pelvis = _turn(1, one("yaw")) @ _turn(0, one("pitch"))
    bend, twist, side = one("bend"), one("twist"), one("side")
    lumbar = pelvis @ _turn(1, 0.4 * twist) @ _turn(0, 0.5 * bend) @ _turn(2, -0.5 * side)
    chest = pelvis @ _turn(1, twist) @ _turn(0, bend) @ _turn(2, -side)
    head = chest @ _turn(1, one("look")) @ _turn(0, one("nod")) @ _turn(2, -one("tilt"))
    upper_arm = (
        chest[:, None] @ _turn(1, _SIDE * both("out")) @ _turn(0, -both("raised")) @ _turn(1, _SIDE * both("roll"))
    )
    forearm = upper_arm @ _turn(0, -both("elbow"))
    hand = forearm @ _turn(0, -both("wrist"))
    thigh = pelvis[:, None] @ _turn(2, _SIDE * both("spread")) @ _turn(0, -both("hip")) @ _turn(1, _SIDE * both("turn"))
    shin = thigh @ _turn(0, both("knee"))
    lean = one("pitch")[:, None] - both("hip") + both("knee")
    foot = shin @ _turn(0, both("ankle") - np.clip(lean, *_ANKLE_RANGE))

    joints = np.zeros((len(poses), len(PA17.joints), 3))
    half = body.torso / 2
    joints[:, 16] = lumbar[:, :, 1] * half
    joints[:, 1] = joints[:, 16] + chest[:, :, 1] * half
    joints[:, 2] = joints[:, 1] + chest[:, :, 1] * body.neck
    joints[:, 3] = joints[:, 2] + head[:, :, 1] * body.head
    shoulder = np.array([body.shoulders, -0.012 * body.height, 0.0]) * np.stack([_SIDE, np.ones(2), np.ones(2)], axis=1)
    joints[:, 4:6] = joints[:, None, 1] + shoulder @ np.swapaxes(chest, -1, -2)
    joints[:, 6:8] = joints[:, 4:6] - upper_arm[..., 1] * body.upper_arm
    joints[:, 8:10] = joints[:, 6:8] - forearm[..., 1] * body.forearm
    joints[:, 10:12] = _SIDE[:, None] * body.hips * pelvis[:, None, :, 0]
    joints[:, 12:14] = joints[:, 10:12] - thigh[..., 1] * body.thigh
    joints[:, 14:16] = joints[:, 12:14] - shin[..., 1] * body.shin

    ankles = joints[:, 14:16]
    sole = ankles - foot[..., 1] * body.ankle
    lowest = np.minimum(sole[..., 1] - 0.35 * body.foot * foot[..., 1, 2], sole[..., 1] + body.foot * foot[..., 1, 2])
    up = poses[:, _COLUMN["lift"]] - lowest.min(axis=1)
    # The foot that bears the weight is at rest: the body moves against the foot's motion relative to it.
    weight = np.exp(-(lowest - lowest.min(axis=1, keepdims=True)) / 25.0)
    weight /= weight.sum(axis=1, keepdims=True)
    ground = ankles[..., [0, 2]]
    steps = (0.5 * (weight[1:] + weight[:-1])[..., None] * (ground[1:] - ground[:-1])).sum(axis=1)
    place = np.concatenate([np.zeros((1, 2)), -np.cumsum(steps, axis=0)])
    place -= 0.5 * (place.min(axis=0) + place.max(axis=0))
    joints += np.stack([place[:, 0], up, place[:, 1]], axis=1)[:, None]
    return Posture(joints, pelvis, chest, head, upper_arm, forearm, hand, thigh, shin, foot)
