"""What a person does: named actions, as body angles over time, in a style of the performance.

A pose is a vector of `FIELDS`: angles in degrees and `lift`, the height in millimetres above standing on the floor.
Fields with "r_" and "l_" belong to the right and left limb and mean the same on both sides (outward, inward,
forward), see `pyhar.data.synthetic.body`. An action is a function of phase. Two kinds of pairs are hard on purpose:
actions that share one motion and differ by the object in the hand (`Action.held`), and actions that are each other
reversed in time, so that every single picture of one belongs to the other too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_LIMB_FIELDS = ("raised", "out", "roll", "elbow", "wrist", "hip", "spread", "turn", "knee", "ankle")
FIELDS = (
    *("yaw", "pitch", "lift", "bend", "twist", "side", "nod", "look", "tilt"),
    *(f"{side}_{field}" for field in _LIMB_FIELDS for side in ("r", "l")),
)
"""yaw: to the person's left; pitch: whole body forward; bend, twist, side: chest against pelvis, forward, to the
left, to the left; nod, look, tilt: the same of the head. Arms: raised from hanging, in the direction `out` (0
forward, 90 outward), turned about the upper arm by `roll` (outward), elbow, wrist. Legs: hip forward, spread outward,
turn (toes outward), knee, ankle (toes down)."""

FPS = 25.0
"""Frames per second of every video."""

_INDEX = {field: i for i, field in enumerate(FIELDS)}
_MIRROR = np.array([_INDEX[{"r_": "l_", "l_": "r_"}[f[:2]] + f[2:] if f[:2] in ("r_", "l_") else f] for f in FIELDS])
_MIRROR_SIGN = np.array([-1.0 if f in ("yaw", "twist", "side", "look", "tilt") else 1.0 for f in FIELDS])
_NOISE = np.array(
    [
        0.0 if f == "lift" else 1.0 if f in ("yaw", "pitch", "r_hip", "l_hip", "r_knee", "l_knee") else 2.0
        for f in FIELDS
    ]
)
"""Degrees of wandering around the motion, by field; legs that carry the body stay calmer."""


def _pose(base: Array | None = None, **degrees: float) -> Array:
    """`base` with some fields set; a name without "r_" or "l_" sets both sides."""
    pose = np.zeros(len(FIELDS)) if base is None else base.copy()
    for name, value in degrees.items():
        for field in (name,) if name in _INDEX else (f"r_{name}", f"l_{name}"):
            pose[_INDEX[field]] = value
    return pose


STAND = _pose(None, raised=9.0, out=80.0, roll=-75.0, elbow=14.0, spread=4.0, turn=8.0, knee=4.0, hip=2.0)


@dataclass(frozen=True)
class Style:
    """How a person performs on one occasion; drawn from the motion seed alone, whatever the action."""

    mirrored: bool
    period: float
    """Relative duration of a cycle."""
    amplitude: float
    start: float
    """Phase at the first frame of cyclic actions."""
    delay: float
    """Share of the video before a single movement begins."""
    yaw: float
    """Degrees the person faces away from the camera at first."""
    turn: float
    """Degrees the person turns over the video."""
    lean: Array
    """(fields,): constant deviation from the motion."""
    sway: Array
    """(3, 2, fields): amplitude, rate (Hz) and phase (radians) of two slow oscillations per field."""
    held: str | None
    """What is in the hand in actions that do not say."""


DISTRACTORS = ("ball", "bat", "box", "cushion")


def make_style(rng: np.random.Generator) -> Style:
    """Draw a style."""
    fields = len(FIELDS)
    return Style(
        mirrored=bool(rng.random() < 0.5),
        period=float(rng.uniform(0.8, 1.25)),
        amplitude=float(rng.uniform(0.85, 1.1)),
        start=float(rng.random()),
        delay=float(rng.uniform(0.02, 0.14)),
        yaw=float(np.clip(rng.normal(0.0, 42.0), -100.0, 100.0)),
        turn=float(rng.normal(0.0, 10.0)),
        lean=_NOISE * np.clip(rng.normal(size=fields), -2.0, 2.0) * 1.5,
        sway=np.stack(
            [
                _NOISE * rng.uniform(0.0, 1.0, (2, fields)),
                rng.uniform(0.2, 0.8, (2, fields)),
                rng.uniform(0.0, 2 * np.pi, (2, fields)),
            ]
        ),
        held=str(rng.choice(DISTRACTORS)) if rng.random() < 0.12 else None,
    )


def _between(phase: Array, *keys: tuple[float, Array]) -> Array:
    """Poses at `phase` (F,), eased between key poses at rising places; constant outside them. Returns (F, fields)."""
    places = np.array([place for place, _ in keys])
    poses = np.stack([pose for _, pose in keys])
    i = np.clip(np.searchsorted(places, phase, side="right") - 1, 0, len(keys) - 2)
    t = np.clip((phase - places[i]) / (places[i + 1] - places[i]), 0.0, 1.0)
    t = t * t * (3.0 - 2.0 * t)
    return poses[i] + t[:, None] * (poses[i + 1] - poses[i])


def _add(poses: Array, **degrees: Array) -> Array:
    """Add to some fields of poses (F, fields), in place; returns them."""
    for field, value in degrees.items():
        poses[:, _INDEX[field]] += value
    return poses


def _walk(phase: Array, amount: float) -> Array:
    step = np.sin(2 * np.pi * phase)
    knees = [np.maximum(np.sin(2 * np.pi * (phase + shift)), 0.0) ** 1.5 for shift in (0.22, 0.72)]
    upright = _pose(STAND, raised=5.0, out=0.0, roll=0.0, elbow=22.0, bend=4.0, knee=8.0)
    poses = np.repeat(upright[None], len(phase), axis=0)
    _add(poses, r_hip=30 * amount * step, l_hip=-30 * amount * step)
    _add(poses, r_knee=55 * amount * knees[0], l_knee=55 * amount * knees[1])
    _add(poses, r_raised=-30 * amount * step, l_raised=30 * amount * step, r_elbow=-9 * step, l_elbow=9 * step)
    return _add(poses, twist=7 * amount * step, yaw=-4 * amount * step)


def _jump(phase: Array, amount: float) -> Array:
    stand = _pose(STAND, out=10.0, roll=0.0)
    crouch = _pose(stand, hip=70 * amount, knee=88 * amount, bend=35 * amount, raised=-32.0, elbow=10.0)
    rise = _pose(stand, hip=0.0, knee=2.0, bend=-4.0, raised=115 * amount, elbow=15.0, ankle=35.0)
    landing = _pose(crouch, raised=20.0)
    keys = ((0.0, stand), (0.26, crouch), (0.48, rise), (0.68, rise), (0.84, landing), (1.0, stand))
    flight = np.clip((phase % 1.0 - 0.44) / 0.3, 0.0, 1.0)
    return _add(_between(phase % 1.0, *keys), lift=340 * amount * 4 * flight * (1 - flight))


def _wave(phase: Array, amount: float) -> Array:
    arm = _pose(STAND, r_raised=112.0, r_out=75.0, r_roll=0.0, r_elbow=75.0, side=3.0)
    poses = np.repeat(arm[None], len(phase), axis=0)
    return _add(
        poses, r_elbow=42 * amount * np.sin(2 * np.pi * phase), r_raised=10 * amount * np.sin(2 * np.pi * (phase + 0.1))
    )


def _punch(phase: Array, amount: float) -> Array:
    guard = _pose(STAND, raised=32.0, out=18.0, roll=-12.0, elbow=128.0, bend=8.0, knee=24.0, hip=18.0, nod=8.0)
    guard = _pose(guard, l_hip=34.0, r_hip=-2.0, r_knee=20.0)
    right = _pose(guard, r_raised=86.0, r_out=-8.0, r_roll=0.0, r_elbow=8.0, twist=32 * amount)
    left = _pose(guard, l_raised=86.0, l_out=-8.0, l_roll=0.0, l_elbow=8.0, twist=-28 * amount)
    return _between(
        phase % 1.0, (0.0, guard), (0.17, right), (0.27, right), (0.48, guard), (0.66, left), (0.76, left), (1.0, guard)
    )


def _kick(phase: Array, amount: float) -> Array:
    stand = _pose(STAND, raised=35.0, out=40.0, roll=-40.0, elbow=70.0, bend=5.0)
    back = _pose(stand, r_hip=-22.0, r_knee=45.0, l_knee=12.0, l_hip=10.0, bend=10.0)
    chamber = _pose(stand, r_hip=70 * amount, r_knee=95.0, l_knee=14.0, l_hip=8.0)
    out = _pose(stand, r_hip=92 * amount, r_knee=8.0, l_knee=16.0, l_hip=6.0, bend=-8.0, pitch=-12.0, r_ankle=20.0)
    return _between(
        phase % 1.0, (0.0, stand), (0.2, back), (0.42, chamber), (0.54, out), (0.64, out), (0.78, chamber), (1.0, stand)
    )


def _squat(phase: Array, amount: float) -> Array:
    stand = _pose(STAND, spread=11.0, turn=22.0, out=12.0, roll=-5.0)
    low = _pose(
        stand,
        hip=104 * amount,
        knee=112 * amount,
        spread=16.0,
        bend=30 * amount,
        pitch=14.0,
        raised=88.0,
        elbow=6.0,
        nod=-18.0,
    )
    return _between(phase % 1.0, (0.0, stand), (0.45, low), (0.55, low), (1.0, stand))


def _sit_down(phase: Array, amount: float) -> Array:
    reach = _pose(
        STAND, hip=62.0, knee=62.0, bend=38 * amount, pitch=14.0, raised=30.0, out=25.0, roll=-25.0, elbow=28.0
    )
    seated = _pose(STAND, hip=86.0, knee=88.0, bend=6.0, spread=7.0, raised=24.0, out=20.0, roll=-20.0, elbow=52.0)
    return _between(phase, (0.0, STAND), (0.55, reach), (1.0, seated))


def _raise_arms(phase: Array, amount: float) -> Array:
    up = _pose(STAND, raised=164 * amount, out=86.0, roll=-30.0, elbow=8.0, nod=-8.0)
    return _between(phase, (0.0, STAND), (1.0, up))


def _lift(phase: Array, amount: float) -> Array:
    low = _pose(STAND, raised=20.0, out=-8.0, roll=-4.0, elbow=62.0, knee=28.0, hip=30.0, bend=16.0, nod=12.0)
    chest = _pose(STAND, raised=52.0, out=-2.0, roll=0.0, elbow=96.0)
    high = _pose(STAND, raised=158 * amount, out=4.0, roll=0.0, elbow=24.0, nod=-14.0, bend=-4.0)
    return _between(phase % 1.0, (0.0, low), (0.25, chest), (0.5, high), (0.62, high), (0.8, chest), (1.0, low))


def _swing(phase: Array, amount: float) -> Array:
    ready = _pose(
        STAND, knee=18.0, hip=16.0, spread=10.0, bend=8.0, l_raised=40.0, l_out=30.0, l_roll=-20.0, l_elbow=50.0
    )
    back = _pose(
        ready,
        r_raised=84.0,
        r_out=104.0,
        r_roll=10.0,
        r_elbow=52.0,
        twist=-38 * amount,
        yaw=-12.0,
        r_wrist=-30.0,
        look=24.0,
    )
    hit = _pose(ready, r_raised=66.0, r_out=34.0, r_roll=0.0, r_elbow=12.0, twist=8.0, yaw=4.0, r_wrist=0.0, look=-4.0)
    end = _pose(
        ready,
        r_raised=96.0,
        r_out=-38.0,
        r_roll=0.0,
        r_elbow=62.0,
        twist=40 * amount,
        yaw=14.0,
        r_wrist=10.0,
        look=-24.0,
    )
    return _between(phase % 1.0, (0.0, back), (0.12, back), (0.34, hit), (0.55, end), (0.66, end), (1.0, back))


@dataclass(frozen=True)
class Action:
    """A class of movement. `motion(phase (F,), amplitude)` gives poses (F, fields)."""

    name: str
    motion: Callable[[Array, float], Array]
    period: float | None
    """Seconds of a cycle; None: one movement over the whole video."""
    backwards: bool = False
    """The motion runs reversed in time."""
    held: str | None = None
    """The object that makes the action what it is."""
    seat: bool = False
    """There is something to sit on."""


ACTIONS: tuple[Action, ...] = (
    Action("walk", _walk, 1.15),
    Action("jump", _jump, 1.5),
    Action("wave", _wave, 0.85),
    Action("punch", _punch, 1.15),
    Action("kick", _kick, 1.3),
    Action("squat", _squat, 1.5),
    Action("sit down", _sit_down, None, seat=True),
    Action("stand up", _sit_down, None, backwards=True, seat=True),
    Action("raise arms", _raise_arms, None),
    Action("lower arms", _raise_arms, None, backwards=True),
    Action("lift ball", _lift, 1.6, held="ball"),
    Action("lift box", _lift, 1.6, held="box"),
    Action("swing bat", _swing, 1.3, held="bat"),
    Action("swing cushion", _swing, 1.3, held="cushion"),
)
ACTION_NAMES = tuple(action.name for action in ACTIONS)
OBJECT_PAIRS = (("lift ball", "lift box"), ("swing bat", "swing cushion"))
"""Actions with one distribution of motion, told apart by what is held."""
MOTION_PAIRS = (("sit down", "stand up"), ("raise arms", "lower arms"))
"""Actions with one distribution of pictures, told apart by the direction of time."""


def perform(action: Action, style: Style, num_frames: int) -> Array:
    """Poses (num_frames, fields) of a whole video."""
    share = np.linspace(0.0, 1.0, num_frames)
    seconds = np.arange(num_frames) / FPS
    if action.backwards:
        share, seconds = share[::-1], seconds[::-1]
    if action.period is None:
        phase = np.clip((share - style.delay) / (1.0 - 2.0 * style.delay), 0.0, 1.0)
    else:
        phase = style.start + seconds / (action.period * style.period)
    poses = action.motion(phase, style.amplitude)
    if style.mirrored:
        poses = poses[:, _MIRROR] * _MIRROR_SIGN
    size, rate, shift = style.sway[:, :, None]
    poses = poses + style.lean + (size * np.sin(2 * np.pi * rate * seconds[:, None] + shift)).sum(axis=0)
    poses[:, _INDEX["yaw"]] += style.yaw + style.turn * (share - 0.5)
    for field in ("r_knee", "l_knee", "r_elbow", "l_elbow"):
        poses[:, _INDEX[field]] = np.maximum(poses[:, _INDEX[field]], 0.0)
    return poses
