"""A synthetic video: who does what, how, before which background; its ground truth and its pictures.

A video follows from three seeds - subject, scene, motion - and the action. Seeds of the splits come from ranges that
do not meet, so no subject, background or performance is in two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic import clothes
from pyhar.data.synthetic.background import draw_background, with_shadow
from pyhar.data.synthetic.body import Body, Posture, make_body, take_pose
from pyhar.data.synthetic.motion import ACTIONS, Action, Style, make_style, perform
from pyhar.data.synthetic.raycast import make_boxes, make_cones, occluded
from pyhar.data.synthetic.renderer import Renderer
from pyhar.data.synthetic.scene import Scene, add_furniture, make_scene
from pyhar.data.synthetic.sensor import expose
from pyhar.data.synthetic.shapes import ShapeList, Shapes
from pyhar.errors import unknown_name

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPLITS = ("train", "val", "test")
_SEEDS_PER_SPLIT = 2**32


class Seeds(NamedTuple):
    """What a video is made from besides its action."""

    subject: int
    scene: int
    motion: int


def draw_seeds(split: str, rng: np.random.Generator) -> Seeds:
    """Seeds from the range of a split. Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise unknown_name("split of the synthetic data", split, SPLITS)
    return Seeds(
        *(SPLITS.index(split) * _SEEDS_PER_SPLIT + int(seed) for seed in rng.integers(_SEEDS_PER_SPLIT, size=3))
    )


@dataclass(frozen=True)
class Truth:
    """Ground truth of F frames; joints of "pa17"."""

    joints_mm: Array
    """(F, 17, 3): camera coordinates, millimetres."""
    joints_px: Array
    """(F, 17, 2): picture pixels."""
    visible: npt.NDArray[np.bool_]
    """(F, 17): nothing is in front of the joint but the limb it is in."""
    head_size: Array
    """(F,): 0.6 times the diagonal of the head box, pixels."""


class Video:
    """One performance of one action by one subject before one background."""

    def __init__(self, action: int, seeds: Seeds) -> None:
        self.action = action
        self.seeds = seeds
        subject, around, motion = (np.random.default_rng([stream, seed]) for stream, seed in enumerate(seeds))
        self.body: Body = make_body(subject)
        self.clothes = clothes.make_clothes(subject)
        self.scene: Scene = make_scene(around)
        self.things = clothes.make_things(around)
        self.num_frames = int(motion.integers(48, 65))
        self.style: Style = make_style(motion)

    @property
    def kind(self) -> Action:
        """The action."""
        return ACTIONS[self.action]

    @cached_property
    def posture(self) -> Posture:
        """The body in every frame."""
        return take_pose(self.body, perform(self.kind, self.style, self.num_frames))

    def shoot(self, frames: Ints) -> Shot:
        """Some frames of the video."""
        return Shot(self, frames)


class Shot:
    """Some frames of a video: their ground truth and their pictures."""

    def __init__(self, video: Video, frames: Ints) -> None:
        self.video = video
        self.frames = frames
        self.posture = video.posture[frames]
        shapes = ShapeList(len(frames))
        clothes.add_body(shapes, video.body, video.clothes, self.posture)
        held = video.kind.held or video.style.held
        if held is not None:
            both = video.kind.held in ("ball", "box")
            clothes.add_held(shapes, held, video.things, video.body, self.posture, video.style.mirrored, both)
        if video.kind.seat:
            lowest = int(video.posture.joints[:, 0, 1].argmin())
            clothes.add_seat(shapes, video.things, video.body, video.posture[np.array([lowest])])
        add_furniture(shapes, video.scene)
        self._shapes: Shapes = shapes.arrays()
        self._cones = make_cones(self._shapes, video.scene.view)
        self._boxes = make_boxes(self._shapes, video.scene.view)

    def truth(self) -> Truth:
        """Ground truth."""
        view, camera, body = self.video.scene.view, self.video.scene.camera, self.video.body
        mm = view.points(self.posture.joints)
        px = mm[..., :2] / mm[..., 2:] * camera[:2] + camera[2:]
        visible = ~occluded(self._cones, self._boxes, mm, 1.25 * clothes.joint_radii(body))
        # The outline of an ellipsoid seen from afar reaches as far as the root of the sum of its axes' squares.
        axes = view.vectors(np.swapaxes(self.posture.head, -1, -2)) * (clothes.HEAD * body.head)[:, None]
        depth = 0.5 * (mm[:, 2, 2:] + mm[:, 3, 2:])
        half = np.sqrt((axes[..., :2] ** 2).sum(axis=1)) / depth * camera[:2]
        return Truth(mm, px, visible, 0.6 * 2.0 * np.hypot(half[:, 0], half[:, 1]))

    def pictures(
        self, to_pixels: Array, width: int, height: int, colour_power: npt.ArrayLike = (1.0, 1.0, 1.0)
    ) -> npt.NDArray[np.uint8]:
        """The frames, RGB (F, height, width, 3), in pixels that `to_pixels` (3, 3) takes picture pixels to.

        colour_power: exponents of the three channels.
        """
        around, joints = self.video.scene, self.posture.joints
        background = draw_background(around, to_pixels, width, height)
        renderer = Renderer(
            self._shapes, self._cones, self._boxes, around.light, to_pixels, around.directions, width, height
        )
        # Feet, thighs, pelvis and chest throw shadows.
        points = np.concatenate([joints[:, 14:16], 0.5 * (joints[:, 10:12] + joints[:, 12:14]), joints[:, :2]], axis=1)
        sizes = self.video.body.height / 1000.0 * np.array([75.0, 75.0, 90.0, 90.0, 150.0, 160.0])
        out = np.empty((len(self.frames), height, width, 3), np.uint8)
        for i, frame in enumerate(self.frames):
            picture = with_shadow(background, around, points[i], sizes)
            drawn = renderer.draw(i)
            picture[:, drawn.pixel] = picture[:, drawn.pixel] * (1 - drawn.coverage) + drawn.colour
            out[i] = expose(picture, around.sensor, int(frame), width, height, np.asarray(colour_power))
        return out
