"""Where a person is seen: camera, light, floor and walls, furniture.

World coordinates as in `pyhar.data.synthetic.body`; the camera stands in front, at positive z, and looks towards
negative z.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.raycast import View
from pyhar.data.synthetic.renderer import Light
from pyhar.data.synthetic.sensor import Sensor, make_sensor
from pyhar.data.synthetic.shapes import Look, ShapeList, plain

Array = npt.NDArray[np.float64]

WIDTH, HEIGHT = 640, 480
"""Size of the whole picture in pixels."""


@dataclass(frozen=True)
class Surface:
    """A floor or wall: two colours in a pattern, mottled."""

    colours: Array
    """(2, 3)."""
    waves: Array
    """(2,): wave numbers of the pattern along the two directions of the surface, radians per millimetre; 0 for none."""
    mottle: float
    """Relative strength of the texture."""
    grain: Array
    """(2,): stretch of the texture along the two directions."""


@dataclass(frozen=True)
class Wall:
    """A vertical plane behind the person: normal . x = distance. Below `band` mm of height it shows `low`."""

    normal: Array
    """(2,): x and z of the unit normal, pointing away from the person."""
    distance: float
    surface: Surface
    low: Surface
    band: float
    rough: float
    """How much the edge between the two wanders, millimetres."""
    pictures: Array
    """(K, 7): rectangles on the wall: centre and half size along the wall and in height, millimetres, and a colour."""


@dataclass(frozen=True)
class Furniture:
    """An upright box on the floor or above it."""

    centre: Array
    turn: float
    half: tuple[float, float, float]
    look: Look


@dataclass(frozen=True)
class Scene:
    """All that surrounds a person."""

    camera: Array
    """(4,): fx, fy, cx, cy in pixels of the whole picture."""
    view: View
    light: Light
    shade: Array
    """(2,): where shadows fall on the floor, x and z per millimetre of height."""
    floor: Surface
    walls: tuple[Wall, ...]
    furniture: tuple[Furniture, ...]
    sensor: Sensor

    @property
    def directions(self) -> Array:
        """(3, 3): from homogeneous picture pixels to ray directions with Z = 1."""
        fx, fy, cx, cy = self.camera
        return np.array([[1 / fx, 0.0, -cx / fx], [0.0, 1 / fy, -cy / fy], [0.0, 0.0, 1.0]])


def _colour(rng: np.random.Generator, vivid: float, bright: tuple[float, float]) -> Array:
    return np.array(colorsys.hsv_to_rgb(rng.random(), vivid * rng.random() ** 2, rng.uniform(*bright)))


def _surface(rng: np.random.Generator, bright: tuple[float, float], vivid: float, patterned: float) -> Surface:
    colour = _colour(rng, vivid, bright)
    second = np.clip(colour * rng.uniform(0.6, 1.3) + rng.normal(0.0, 0.04, 3), 0.02, 1.0)
    waves = 2 * np.pi / np.exp(rng.uniform(np.log(120.0), np.log(900.0), 2))
    if rng.random() >= patterned:
        waves[:] = 0.0
    elif rng.random() < 0.6:
        waves[rng.integers(2)] = 0.0
    grain = np.exp(rng.uniform(-0.8, 0.8, 2)) * np.exp(rng.uniform(-0.8, 1.0))
    return Surface(np.stack([colour, second]), waves, float(rng.uniform(0.0, 0.5) ** 1.3), grain)


def _walls(rng: np.random.Generator, eye: Array) -> tuple[Wall, ...]:
    outdoors = rng.random() < 0.3
    angle = np.deg2rad(rng.uniform(-40.0, 40.0))
    back = np.array([np.sin(angle), -np.cos(angle)])
    across = np.array([-back[1], back[0]]) * (1 if rng.random() < 0.5 else -1)
    if across @ eye[[0, 2]] > 1000.0:
        across = -across
    distances = rng.uniform(9000.0, 30000.0, 2) if outdoors else rng.uniform([900.0, 1500.0], [4500.0, 5000.0])
    if outdoors:
        surface = _surface(rng, (0.6, 1.0), 0.4, 0.0)
        low, band, rough = (
            _surface(rng, (0.15, 0.6), 0.8, 0.2),
            rng.uniform(0.03, 0.4) * distances.min(),
            rng.uniform(200.0, 3000.0),
        )
    else:
        surface = _surface(rng, (0.25, 1.0), 0.7, 0.4)
        low = _surface(rng, (0.15, 0.9), 0.8, 0.4) if rng.random() < 0.35 else surface
        band, rough = rng.uniform(100.0, 1300.0), 0.0
    walls = []
    for normal, distance in zip((back, across), distances, strict=True):
        count = int(rng.integers(0, 6))
        grow = distance / 3000.0 if outdoors else 1.0
        pictures = np.concatenate(
            [
                rng.uniform([-3500.0, 300.0, 80.0, 80.0], [3500.0, 2200.0, 600.0, 700.0], (count, 4)) * grow,
                np.stack([_colour(rng, 0.9, (0.1, 1.0)) for _ in range(count)] or [np.zeros(3)])[:count],
            ],
            axis=1,
        )
        walls.append(Wall(normal, float(distance), surface, low, float(band), float(rough), pictures))
    return tuple(walls)


def _furniture(rng: np.random.Generator, eye: Array) -> tuple[Furniture, ...]:
    """Boxes behind and beside the person, and now and then one between camera and person."""
    things = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):
        place = np.array([rng.uniform(900.0, 2600.0) * rng.choice([-1, 1]), 0.0, rng.uniform(-2600.0, -300.0)])
        wide, tall, deep = (float(v) for v in rng.uniform([150.0, 150.0, 150.0], [500.0, 900.0, 450.0]))
        things.append((place, (wide, tall, deep)))
    if rng.random() < 0.2:
        near = rng.uniform(0.3, 0.6)
        aside = rng.uniform(150.0, 600.0) * rng.choice([-1, 1]) * (1 - near)
        place = np.array([eye[0] * near + aside, 0.0, eye[2] * near])
        if rng.random() < 0.5:
            half = (float(rng.uniform(35.0, 90.0)), 1500.0, float(rng.uniform(35.0, 90.0)))
        else:
            half = (
                float(rng.uniform(150.0, 380.0)),
                float(rng.uniform(180.0, 380.0)),
                float(rng.uniform(100.0, 250.0)),
            )
        things.append((place, half))
    out = []
    for place, half in things:
        look = Look(
            _colour(rng, 0.8, (0.15, 0.9)),
            _colour(rng, 0.8, (0.15, 0.9)),
            0.0,
            float(2 * np.pi / rng.uniform(120.0, 500.0)),
        )
        look = look if rng.random() < 0.4 else plain(look.colour)
        out.append(Furniture(place + np.array([0.0, half[1], 0.0]), float(rng.uniform(-0.8, 0.8)), half, look))
    return tuple(out)


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene around a person who stands at the world's origin."""
    focal = rng.uniform(520.0, 900.0)
    distance = focal * 1800.0 / (HEIGHT * rng.uniform(0.5, 0.78))
    eye = np.array([0.0, rng.uniform(700.0, 1900.0), distance])
    target = np.array([rng.normal(0.0, 150.0), 900.0 + rng.normal(0.0, 80.0), 0.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.array([-forward[2], 0.0, forward[0]]) / np.hypot(forward[0], forward[2])
    roll = np.deg2rad(np.clip(rng.normal(0.0, 1.5), -4.0, 4.0))
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])

    height, azimuth = np.deg2rad(rng.uniform(35.0, 80.0)), np.deg2rad(rng.uniform(-110.0, 110.0))
    lamp = np.array([np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)])
    warm = rng.normal(0.0, 0.07)
    strength = rng.uniform(0.35, 0.85)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    light = Light(
        rotation @ lamp, strength * tint, (1.12 - 0.75 * strength) / tint, rotation @ np.array([0.0, 1.0, 0.0])
    )
    return Scene(
        camera=np.array(
            [focal, focal, WIDTH / 2 - 0.5 + rng.uniform(-8.0, 8.0), HEIGHT / 2 - 0.5 + rng.uniform(-8.0, 8.0)]
        ),
        view=View(rotation, -rotation @ eye),
        light=light,
        shade=-lamp[[0, 2]] / lamp[1],
        floor=_surface(rng, (0.2, 0.9), 0.6, 0.55),
        walls=_walls(rng, eye),
        furniture=_furniture(rng, eye),
        sensor=make_sensor(rng),
    )


def add_furniture(shapes: ShapeList, scene: Scene) -> None:
    """Add the scene's boxes."""
    for thing in scene.furniture:
        c, s = np.cos(thing.turn), np.sin(thing.turn)
        shapes.box(thing.centre, np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]), thing.half, thing.look)
