"""The renderer against a slow, exact one, and what pictures show against the ground truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pyhar.data.geometry import crop_map, to_crop_pixels
from pyhar.data.synthetic import clothes
from pyhar.data.synthetic.motion import ACTIONS
from pyhar.data.synthetic.raycast import View, make_boxes, make_cones, occluded
from pyhar.data.synthetic.renderer import SAMPLES, Light, Renderer, Rendering
from pyhar.data.synthetic.shapes import ShapeList, Shapes, plain
from pyhar.data.synthetic.video import Seeds, Video

Array = npt.NDArray[np.float64]

SIZE = 40
VIEW = View(np.eye(3), np.zeros(3))
LIGHT = Light(np.array([0.0, 0.0, -1.0]), np.full(3, 0.6), np.full(3, 0.4), np.array([0.0, -1.0, 0.0]))
DIRECTIONS = np.array([[0.05, 0.0, -1.0], [0.0, 0.05, -1.0], [0.0, 0.0, 1.0]])
"""Rays of a picture of about 40 pixels that sees 90 degrees."""


def draw(shapes: Shapes, view: View = VIEW, to_pixels: Array | None = None) -> Rendering:
    cones, boxes = make_cones(shapes, view), make_boxes(shapes, view)
    to_pixels = np.eye(3) if to_pixels is None else to_pixels
    return Renderer(shapes, cones, boxes, LIGHT, to_pixels, DIRECTIONS, SIZE, SIZE).draw(0)


def coverage(shapes: Shapes, to_pixels: Array | None = None) -> Array:
    rendering, out = draw(shapes, to_pixels=to_pixels), np.zeros(SIZE * SIZE)
    out[rendering.pixel] = rendering.coverage
    return out.reshape(SIZE, SIZE)


def rays(to_pixels: Array) -> Array:
    """Directions (SIZE, SIZE, SAMPLES^2, 3) through the samples of every pixel."""
    offset = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    y, x, dy, dx = np.meshgrid(np.arange(SIZE), np.arange(SIZE), offset, offset, indexing="ij")
    pixels = np.stack([x + dx, y + dy, np.ones_like(x + dx)], axis=-1).reshape(SIZE, SIZE, SAMPLES**2, 3)
    return np.asarray(pixels @ np.linalg.inv(to_pixels).T @ DIRECTIONS.T)


def hull_is_hit(
    start: Array, end: Array, r0: float, r1: float, squeeze: Array, directions: Array
) -> npt.NDArray[np.bool_]:
    """Whether rays meet a round cone, by trying many of the balls it is made of; squeeze (3, 3) undoes flattening."""
    d = directions @ squeeze.T
    hit = np.zeros(directions.shape[:-1], dtype=bool)
    for t in np.linspace(0.0, 1.0, 400):
        centre, radius = squeeze @ (start + t * (end - start)), r0 + t * (r1 - r0)
        along = (d @ centre) / (d * d).sum(-1)
        hit |= ((d * along[..., None] - centre) ** 2).sum(-1) < radius**2
    return hit


TURNED = to_crop_pixels(
    crop_map([-0.5, -0.5, 39.5, 39.5], rotation=30.0, scale=1.3, shift=(0.05, -0.1), flip=True), SIZE
)


@pytest.mark.parametrize("to_pixels", [np.eye(3), TURNED], ids=["upright", "turned"])
@pytest.mark.parametrize("seed", range(12))
def test_round_cones_cover_what_their_balls_do(seed: int, to_pixels: Array) -> None:
    rng = np.random.default_rng(seed)
    start, end = rng.uniform([-1500, -1500, 2500], [1500, 1500, 4500], (2, 3))
    r0, r1 = rng.uniform(60, 500, 2)
    frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    thinness = float(rng.uniform(0.4, 1.3)) if seed % 2 else 1.0
    shapes = ShapeList(1)
    shapes.cone(start, end, r0, r1, frame[None], plain(np.ones(3)), thin=1, thinness=thinness)
    squeeze = np.eye(3) + (1 / thinness - 1) * np.outer(frame[:, 1], frame[:, 1])
    expected = hull_is_hit(start, end, r0, r1, squeeze, rays(to_pixels)).mean(-1)
    assert expected.max() == 1
    # Between 400 balls a sample on the edge may slip through.
    assert np.abs(coverage(shapes.arrays(), to_pixels) - expected).sum() < 1.5


@pytest.mark.parametrize("seed", range(30))
def test_round_cones_that_point_at_the_camera_cover_what_their_balls_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.uniform([-0.6, -0.6, 1], [0.6, 0.6, 1])
    start, end = direction * rng.uniform(1500, 2300), direction * rng.uniform(2900, 4500)
    end += rng.normal(size=3) * (seed % 3) * 40
    if seed % 2:
        start, end = end, start
    r0, r1 = rng.uniform(40, 500, 2)
    shapes = ShapeList(1)
    shapes.cone(start, end, r0, r1, np.eye(3)[None], plain(np.ones(3)))
    expected = hull_is_hit(start, end, r0, r1, np.eye(3), rays(np.eye(3))).mean(-1)
    assert expected.max() == 1
    assert np.abs(coverage(shapes.arrays()) - expected).sum() < 0.6


def test_a_cone_seen_along_its_axis_is_its_nearest_ball() -> None:
    shapes, ball = ShapeList(1), ShapeList(1)
    shapes.cone(
        np.array([0.0, 0.0, 2000.0]), np.array([0.0, 0.0, 3500.0]), 500.0, 100.0, np.eye(3)[None], plain(np.ones(3))
    )
    ball.cone(
        np.array([0.0, 0.0, 2000.0]), np.array([0.0, 0.0, 2001.0]), 500.0, 500.0, np.eye(3)[None], plain(np.ones(3))
    )
    assert np.allclose(coverage(shapes.arrays()), coverage(ball.arrays()))
    assert coverage(ball.arrays()).sum() == pytest.approx(np.pi * (20 * 500 / np.sqrt(2000**2 - 500**2)) ** 2, rel=0.02)


@pytest.mark.parametrize("to_pixels", [np.eye(3), TURNED], ids=["upright", "turned"])
@pytest.mark.parametrize("seed", range(8))
def test_boxes_cover_what_their_slabs_do(seed: int, to_pixels: Array) -> None:
    rng = np.random.default_rng(seed)
    centre, half = rng.uniform([-2500, -1500, 3000], [2500, 1500, 4500]), rng.uniform(100, 900, 3)
    frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shapes = ShapeList(1)
    # A cone far behind, for there is always a body.
    shapes.cone(np.array([0, 0, 1e6]), np.array([0, 1.0, 1e6]), 1.0, 1.0, np.eye(3)[None], plain(np.ones(3)))
    shapes.box(centre, frame[None], tuple(half), plain(np.ones(3)))
    directions = rays(to_pixels) @ frame
    with np.errstate(divide="ignore"):
        middle, reach = frame.T @ centre / directions, half / np.abs(directions)
    expected = ((middle - reach).max(-1) < (middle + reach).min(-1)).mean(-1)
    assert np.abs(coverage(shapes.arrays(), to_pixels) - expected).sum() < 0.6


def test_the_nearer_shape_hides_the_farther() -> None:
    red, green = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    for near, far in ((red, green), (green, red)):
        shapes = ShapeList(1)
        for colour, depth in ((red, 2000.0 if near is red else 3000.0), (green, 2000.0 if near is green else 3000.0)):
            end = np.array([1.0, 0.0, depth])
            shapes.cone(np.array([0.0, 0.0, depth]), end, 400.0, 400.0, np.eye(3)[None], plain(colour))
        rendering = draw(shapes.arrays())
        centre = rendering.colour[:, rendering.pixel == 20 * SIZE + 20][:, 0]
        assert (centre > 0.3).tolist() == near.astype(bool).tolist()
        assert centre[far.argmax()] == 0
        # The lamp behind the camera makes the middle brighter than the edge.
        alike = rendering.coverage == 1
        assert rendering.colour[near.argmax(), alike].max() == pytest.approx(centre.max(), rel=0.01)


def test_occluded_knows_what_is_in_front_of_points() -> None:
    shapes = ShapeList(1)
    shapes.cone(
        np.array([-500.0, 0, 2000]), np.array([500.0, 0, 2000]), 100.0, 100.0, np.eye(3)[None], plain(np.ones(3))
    )
    shapes.box(np.array([0.0, 1000, 2000]), np.eye(3)[None], (300.0, 100.0, 100.0), plain(np.ones(3)))
    arrays = shapes.arrays()
    points = np.array(
        [[0, 0, 2000], [0, 0, 2500], [0, 300, 2500], [900, 0, 2500], [0, 1250, 2500], [0, 0, 1500]], float
    )
    found = occluded(make_cones(arrays, VIEW), make_boxes(arrays, VIEW), points[None], np.full(6, 150.0))
    assert found[0].tolist() == [False, True, False, False, True, False]


# Whole pictures


def video(action: int, seed: int) -> Video:
    return Video(action, Seeds(seed, seed, seed))


def body_only(made: Video, frames: npt.NDArray[np.int64]) -> Shapes:
    shapes = ShapeList(len(frames))
    clothes.add_body(shapes, made.body, made.clothes, made.posture[frames])
    return shapes.arrays()


@pytest.mark.parametrize("action", range(len(ACTIONS)))
def test_joints_lie_inside_the_drawn_body(action: int) -> None:
    made, frames = video(action, action + 20), np.array([5, 30])
    around, shapes = made.scene, body_only(video(action, action + 20), frames)
    to_pixels = np.diag([0.5, 0.5, 1.0])
    cones, boxes = make_cones(shapes, around.view), make_boxes(shapes, around.view)
    renderer = Renderer(shapes, cones, boxes, around.light, to_pixels, around.directions, 320, 240)
    pixels = np.round(made.shoot(frames).truth().joints_px / 2).astype(int)
    for frame in range(2):
        drawn = renderer.draw(frame)
        mask = np.zeros(320 * 240)
        mask[drawn.pixel] = drawn.coverage
        x, y = pixels[frame].T
        there = (x >= 0) & (x < 320) & (y >= 0) & (y < 240)
        there[3] = False  # The top of the head is on the outline.
        assert there.sum() >= 10
        assert mask.reshape(240, 320)[y[there], x[there]].min() > 0.5


def test_a_post_before_a_joint_hides_it_and_only_it() -> None:
    for seed in range(40):
        made = video(8, seed)
        if made.scene.furniture or made.style.held:
            continue
        frames = np.array([0])
        truth = made.shoot(frames).truth()
        joints = made.posture.joints[0]
        if not truth.visible[0, [8, 9]].all() or np.linalg.norm(truth.joints_px[0, 8] - truth.joints_px[0, 9]) < 40:
            continue
        view = made.scene.view
        shapes = ShapeList(1)
        clothes.add_body(shapes, made.body, made.clothes, made.posture[frames])
        eye = -view.rotation.T @ view.offset
        shapes.box(joints[8] + 0.3 * (eye - joints[8]), np.eye(3)[None], (40.0, 40.0, 40.0), plain(np.ones(3)))
        arrays = shapes.arrays()
        hidden = occluded(
            make_cones(arrays, view), make_boxes(arrays, view), truth.joints_mm, 1.25 * clothes.joint_radii(made.body)
        )
        assert hidden[0, 8]
        assert not hidden[0, 9]
        return
    pytest.fail("no suitable video among the seeds")


def test_most_joints_are_visible_and_some_are_not() -> None:
    share = np.mean([video(a, a).shoot(np.array([10, 30])).truth().visible.mean() for a in range(len(ACTIONS))])
    assert 0.6 < share < 0.95


def test_crop_and_whole_picture_agree() -> None:
    made, frames = video(4, 3), np.array([12])
    shot = made.shoot(frames)
    whole = shot.pictures(np.eye(3), 640, 480)[0]
    move = np.array([[1.0, 0.0, -200.0], [0.0, 1.0, -100.0], [0.0, 0.0, 1.0]])
    part = shot.pictures(move, 160, 120)[0]
    there = whole[100:220, 200:360].astype(float)
    # But for the sensor's noise and its blur at the border.
    noise = 255 * made.scene.sensor.noise
    assert np.abs(part[2:-2, 2:-2] - there[2:-2, 2:-2]).mean() < 2 * noise + 1
    assert np.abs(part[2:-2, 2:-2] - there[2:-2, 2:-2]).mean() < 0.25 * there.std()


def test_colour_power_darkens_or_brightens_its_channel_alone() -> None:
    shot = video(0, 0).shoot(np.array([0]))
    plain_picture = shot.pictures(np.diag([0.1, 0.1, 1.0]), 64, 48)
    dark = shot.pictures(np.diag([0.1, 0.1, 1.0]), 64, 48, colour_power=(1.3, 1.0, 1.0))
    assert np.array_equal(plain_picture[..., 1:], dark[..., 1:])
    assert (dark[..., 0] <= plain_picture[..., 0]).all()
    assert (dark[..., 0] < plain_picture[..., 0]).any()
