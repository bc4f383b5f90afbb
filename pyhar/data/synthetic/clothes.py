"""A subject's clothes, hair and skin, and the shapes of a clothed body and of what it holds."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.body import Body, Posture
from pyhar.data.synthetic.shapes import Look, ShapeList, plain

Array = npt.NDArray[np.float64]

_SKIN = np.array([[0.98, 0.84, 0.75], [0.90, 0.70, 0.56], [0.72, 0.51, 0.37], [0.45, 0.30, 0.21]])
_HAIR = np.array(
    [
        [0.07, 0.06, 0.06],
        [0.25, 0.15, 0.09],
        [0.47, 0.30, 0.16],
        [0.82, 0.67, 0.40],
        [0.62, 0.61, 0.60],
        [0.55, 0.22, 0.10],
    ]
)
_DARK = np.array([0.06, 0.05, 0.06])
_HANDS = 8, 9
"""Joints that hands hang on: wrists."""
HEAD = np.array([0.33, 0.53, 0.40])
"""Half axes of the head to the side, up and forward, in units of its height above the neck joint."""


@dataclass(frozen=True)
class Clothes:
    """What a subject looks like."""

    skin: Array
    hair: Array
    top: Look
    bottom: Look
    shoes: Array
    sleeve: float
    """How far the sleeves reach: 0 the shoulder, 1 the elbow, 2 the wrist."""
    trouser: float
    """How far the trousers reach: 0 the hip, 1 the knee, 2 the ankle."""
    hairstyle: str
    """"bald", "short", "long", "bun", "cap" or "hat"."""
    headgear: Array
    """Colour of cap or hat."""


def _colour(rng: np.random.Generator, bright: tuple[float, float] = (0.2, 1.0)) -> Array:
    saturation = rng.uniform(0.0, 0.25) if rng.random() < 0.25 else rng.uniform(0.3, 0.95)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(*bright)))


def _cloth(rng: np.random.Generator, patterned: float, bright: tuple[float, float]) -> Look:
    """A plain, striped (along or across) or checked cloth."""
    colour, second = _colour(rng, bright), _colour(rng)
    if rng.random() >= patterned:
        return plain(colour)
    along, across = 2 * np.pi / rng.uniform(70.0, 150.0, 2)
    kind = rng.integers(3)
    return Look(colour, second, float(along * (kind != 1)), float(across * (kind != 0)))


def make_clothes(rng: np.random.Generator) -> Clothes:
    """Draw what a subject wears."""
    tone = rng.uniform(0.0, len(_SKIN) - 1.001)
    skin = _SKIN[int(tone)] + (tone % 1.0) * (_SKIN[int(tone) + 1] - _SKIN[int(tone)])
    styles = ("bald", "short", "long", "bun", "cap", "hat")
    return Clothes(
        skin=skin * rng.uniform(0.93, 1.05),
        hair=_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.7, 1.2),
        top=_cloth(rng, 0.45, (0.25, 1.0)),
        bottom=_cloth(rng, 0.12, (0.12, 0.8)),
        shoes=_colour(rng, (0.08, 0.95)),
        sleeve=float(rng.choice([0.0, 0.55, 0.8, 1.4, 1.95], p=[0.1, 0.3, 0.2, 0.1, 0.3])),
        trouser=float(rng.choice([0.45, 0.85, 1.5, 1.95], p=[0.15, 0.2, 0.1, 0.55])),
        hairstyle=str(rng.choice(styles, p=[0.08, 0.36, 0.22, 0.1, 0.14, 0.1])),
        headgear=_colour(rng),
    )


def _covered(cloth: Look, share: float, skin: Array) -> Look:
    """`cloth` on the first `share` of a limb, skin on the rest."""
    if share <= 0.0:
        return plain(skin)
    return cloth if share >= 1.0 else replace(cloth, rest=skin, share=share)


def add_body(shapes: ShapeList, body: Body, clothes: Clothes, posture: Posture) -> None:
    """Add the shapes of a clothed body."""
    unit, joints = body.height, posture.joints
    cover = clothes.top, clothes.bottom
    _add_torso(shapes, body, clothes, posture)
    _add_head(shapes, body, clothes, posture)
    g = body.girth * unit
    for side in (0, 1):
        shoulder, elbow, wrist = (joints[:, j + side] for j in (4, 6, 8))
        upper, fore, hand = posture.upper_arm[:, side], posture.forearm[:, side], posture.hand[:, side]
        loose = 1.06 if clothes.sleeve > 0.5 else 1.0
        shapes.cone(
            shoulder, elbow, 0.0315 * g * loose, 0.0235 * g, upper, _covered(cover[0], clothes.sleeve, clothes.skin)
        )
        shapes.cone(elbow, wrist, 0.0235 * g, 0.0165 * g, fore, _covered(cover[0], clothes.sleeve - 1.0, clothes.skin))
        palm = wrist - hand[:, :, 1] * 0.55 * body.hand
        tips = wrist - hand[:, :, 1] * body.hand
        shapes.cone(wrist, palm, 0.017 * unit, 0.024 * unit, hand, plain(clothes.skin), thin=0, thinness=0.55)
        shapes.cone(palm, tips, 0.022 * unit, 0.014 * unit, hand, plain(clothes.skin), thin=0, thinness=0.5)
        hip, knee, ankle = (joints[:, j + side] for j in (10, 12, 14))
        thigh, shin, foot = posture.thigh[:, side], posture.shin[:, side], posture.foot[:, side]
        wide = 1.08 if clothes.trouser > 1.0 else 1.0
        shapes.cone(hip, knee, 0.052 * g, 0.034 * g * wide, thigh, _covered(cover[1], clothes.trouser, clothes.skin))
        calf = knee - shin[:, :, 1] * 0.3 * body.shin - shin[:, :, 2] * 0.008 * unit
        shapes.cone(
            knee,
            calf,
            0.033 * g * wide,
            0.034 * g * wide,
            shin,
            _covered(cover[1], (clothes.trouser - 1.0) / 0.3, clothes.skin),
        )
        shapes.cone(
            calf,
            ankle,
            0.034 * g * wide,
            0.022 * g * wide,
            shin,
            _covered(cover[1], (clothes.trouser - 1.3) / 0.7, clothes.skin),
        )
        heel = ankle + foot @ np.array([0.0, 0.030 * unit - body.ankle, -0.10 * body.foot])
        toes = ankle + foot @ np.array([0.0, 0.019 * unit - body.ankle, body.foot - 0.02 * unit])
        shapes.cone(heel, toes, 0.029 * unit, 0.021 * unit, foot, plain(clothes.shoes), thin=1, thinness=0.9)


def _add_torso(shapes: ShapeList, body: Body, clothes: Clothes, posture: Posture) -> None:
    unit, joints, chest, pelvis = body.height, posture.joints, posture.chest, posture.pelvis
    slender = body.slender
    wide, thick = body.shoulders / (0.107 * unit), body.belly
    ribs = joints[:, 1] - chest[:, :, 1] * 0.075 * unit
    waist, seat = joints[:, 16] - pelvis[:, :, 1] * 0.01 * unit, joints[:, 0] + pelvis[:, :, 1] * 0.015 * unit
    waist_radius = 0.078 * unit * thick * (1 - 0.1 * slender)
    shapes.cone(ribs, waist, 0.091 * unit * wide, waist_radius, chest, clothes.top, thinness=0.68 * thick)
    shapes.cone(
        waist,
        seat,
        waist_radius,
        0.083 * unit * thick,
        pelvis,
        replace(clothes.top, rest=clothes.bottom.colour, share=0.55),
        thinness=0.74,
    )
    shapes.cone(joints[:, 10], joints[:, 11], 0.055 * unit * thick, 0.055 * unit * thick, pelvis, clothes.bottom)
    collar = joints[:, 1] - chest[:, :, 1] * 0.022 * unit
    for side in (4, 5):
        shapes.cone(collar, joints[:, side], 0.042 * unit, 0.034 * unit * body.girth, chest, clothes.top)


def _add_head(shapes: ShapeList, body: Body, clothes: Clothes, posture: Posture) -> None:
    joints, frame = posture.joints, posture.head
    size = body.head
    skin, hair = plain(clothes.skin), plain(clothes.hair)

    def at(x: float, y: float, z: float) -> Array:
        """A place in the head, in units of its height above the neck joint."""
        return joints[:, 2] + frame @ (np.array([x, y, z]) * size)

    shapes.cone(
        joints[:, 1], at(0.0, 0.12, 0.02), 0.034 * body.height * body.girth, 0.031 * body.height, posture.chest, skin
    )
    shapes.cone(at(0, 0.32, 0.08), at(0, 0.62, 0.02), 0.28 * size, 0.37 * size, frame, skin, thin=0, thinness=0.84)
    shapes.cone(at(0, 0.42, 0.40), at(0, 0.34, 0.46), 0.035 * size, 0.055 * size, frame, plain(clothes.skin * 0.93))
    for side in (-1.0, 1.0):
        shapes.cone(
            at(0.125 * side, 0.50, 0.325), at(0.14 * side, 0.50, 0.325), 0.055 * size, 0.055 * size, frame, plain(_DARK)
        )
    if clothes.hairstyle == "bald":
        return
    shapes.cone(at(0, 0.56, -0.09), at(0, 0.69, -0.03), 0.33 * size, 0.345 * size, frame, hair, thin=0, thinness=0.92)
    if clothes.hairstyle == "long":
        shapes.cone(at(0, 0.5, -0.16), at(0, -0.18, -0.2), 0.31 * size, 0.22 * size, frame, hair, thinness=0.6)
    elif clothes.hairstyle == "bun":
        shapes.cone(at(0, 0.86, -0.3), at(0, 0.9, -0.34), 0.16 * size, 0.16 * size, frame, hair)
    elif clothes.hairstyle in ("cap", "hat"):
        gear = plain(clothes.headgear)
        shapes.cone(
            at(0, 0.72, -0.02), at(0, 0.76, -0.02), 0.37 * size, 0.36 * size, frame, gear, thin=0, thinness=0.95
        )
        if clothes.hairstyle == "cap":
            shapes.cone(
                at(0, 0.72, 0.25), at(0, 0.68, 0.5), 0.26 * size, 0.22 * size, frame, gear, thin=1, thinness=0.16
            )
        else:
            shapes.cone(
                at(0, 0.70, -0.02), at(0, 0.71, 0.02), 0.66 * size, 0.66 * size, frame, gear, thin=1, thinness=0.09
            )


def joint_radii(body: Body) -> Array:
    """(17,): how deep joints lie in the body, millimetres."""
    g = body.girth
    limbs = [0.034, 0.0235 * g, 0.0175, 0.06 * g, 0.034 * g, 0.023 * g]
    torso = 0.064 * body.belly
    return body.height * np.array([torso, torso, 0.034 * g, 0.05, *np.repeat(limbs, 2), torso])


_CARDBOARD = np.array([0.68, 0.46, 0.26])
_WOOD = np.array([0.55, 0.30, 0.12])
_LINEN = np.array([0.92, 0.90, 0.82])


@dataclass(frozen=True)
class Things:
    """Colours of objects in a video."""

    first: Array
    second: Array


def make_things(rng: np.random.Generator) -> Things:
    """Draw the colours of objects."""
    return Things(_colour(rng, (0.5, 1.0)), _colour(rng, (0.3, 1.0)))


def add_held(
    shapes: ShapeList, held: str, things: Things, body: Body, posture: Posture, mirrored: bool, both_hands: bool
) -> None:
    """Add a "ball", "box", "bat" or "cushion": in both hands, or in the right one (mirrored: the left one)."""
    joints, hand = posture.joints, posture.hand
    if both_hands:
        grips = [joints[:, _HANDS[s]] - hand[:, s, :, 1] * 0.75 * body.hand for s in (0, 1)]
        place = 0.5 * (grips[0] + grips[1])
        across = grips[1] - grips[0]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        out = -0.5 * (hand[:, 0, :, 1] + hand[:, 1, :, 1])
        out -= (out * across).sum(axis=1, keepdims=True) * across
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        frame = np.stack([across, np.cross(out, across), out], axis=-1)
    else:
        s = int(mirrored)
        place = joints[:, _HANDS[s]] - hand[:, s, :, 1] * 0.6 * body.hand
        frame = hand[:, s]

    def at(x: float, y: float, z: float) -> Array:
        return np.asarray(place + frame @ np.array([x, y, z]))

    if held == "ball":
        radius = 135.0 if both_hands else 105.0
        centre = at(0, 0, 0.4 * radius) if both_hands else at(0, -radius, 0)
        beyond = np.array([0.0, 0.0, 1.0])
        shapes.cone(
            centre,
            centre + frame @ beyond,
            radius,
            radius,
            frame,
            Look(things.first, things.second, 0.0, np.pi / radius),
        )
    elif held == "box":
        half = (240.0, 200.0, 190.0) if both_hands else (90.0, 190.0, 190.0)
        centre = at(0, 0, 110.0) if both_hands else at(0, -half[1], 0)
        card = _made_of(_CARDBOARD, things.first)
        shapes.box(centre, frame, half, Look(card, 0.8 * card, 0.0, np.pi / 110.0))
    elif held == "bat":
        wood = plain(_made_of(_WOOD, things.first))
        shapes.cone(at(0, 60.0, 0), at(0, -300.0, 0), 20.0, 28.0, frame, plain(things.second))
        shapes.cone(at(0, -300.0, 0), at(0, -780.0, 0), 30.0, 52.0, frame, wood)
    else:
        linen = _made_of(_LINEN, things.first)
        shapes.box(at(0, -290.0, 0), frame, (210.0, 300.0, 90.0), Look(linen, 0.85 * linen, 0.0, np.pi / 130.0))


def _made_of(material: Array, colour: Array) -> Array:
    """The colour of one thing of a material: materials have a look of their own, things vary around it."""
    return 0.75 * material + 0.25 * colour


def add_seat(shapes: ShapeList, things: Things, body: Body, seated: Posture) -> None:
    """Add a stool for the one posture of `seated`, the same in all frames."""
    pelvis, back = seated.joints[0, 0], -seated.pelvis[0, :, 2]
    top = max(pelvis[1] - 0.066 * body.height * body.belly, 200.0)
    back = back * [1.0, 0.0, 1.0] / np.hypot(back[0], back[2])
    frame = np.stack([np.cross([0.0, 1.0, 0.0], -back), [0.0, 1.0, 0.0], -back], axis=-1)
    place = pelvis * [1.0, 0.0, 1.0] + 50.0 * back
    shapes.box(place + np.array([0.0, top - 30.0, 0.0]), frame, (210.0, 30.0, 190.0), plain(things.first))
    for x in (-165.0, 165.0):
        for z in (-145.0, 145.0):
            leg = place + frame @ np.array([x, top / 2 - 30.0, z])
            shapes.box(leg, frame, (22.0, top / 2 - 30.0, 22.0), plain(0.6 * things.first))
