"""Where rays meet round cones and boxes.

Rays start in the camera; the direction d of a ray has Z = 1, so the distance along it is the depth Z. All that an
intersection needs are a few forms that are linear or quadratic in d. They are worked out once per shape, in float64.

A round cone is the hull of balls at a and b with radii ra and rb, in the metric G that undoes its flattening. Let

    u = b - a,  r = ra - rb,  m0 = u.Gu,  d2 = m0 - r^2,  w = Gu / sqrt(d2),  p = a.w,  e = r ra / sqrt(d2),
    c1 = -p - e,  c0 = a.Ga - p^2 - 2 p e - m0 ra^2 / d2,  k = (-Ga - c1 w).d,  q = d.Gd - (w.d)^2.

The ray meets the cone where q Z^2 + 2 k Z + c0 = 0, at the share s = (c1 + Z w.d) / sqrt(d2) of its length. Where s is
outside [0, 1], the ray meets one of the balls, if anything: an equation of the same form. The nearer root is
Z = c0 / (sqrt(k^2 - q c0) - k), which is exact for rays along the cone too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.shapes import Shapes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A camera in the world: x_camera = rotation @ x_world + offset, millimetres."""

    rotation: Array
    offset: Array

    def points(self, world: Array) -> Array:
        """World points (.., 3) in camera coordinates."""
        return world @ self.rotation.T + self.offset

    def vectors(self, world: Array) -> Array:
        """World vectors (.., 3) in camera coordinates."""
        return world @ self.rotation.T


@dataclass(frozen=True)
class Cones:
    """P round cones in F frames, camera coordinates, with their forms; an axis of 3 is the cone, its first and its
    second ball."""

    start: Array
    """(F, P, 3)."""
    end: Array
    radii: Array
    """(P, 2)."""
    thin: Array
    """(F, P, 3)."""
    squeeze: Array
    """(P,): G is the identity plus this times the square of `thin`."""
    side: Array
    """(F, P, 3)."""
    linear: Array
    """(F, P, 3, 3): k."""
    quadratic: Array
    """(F, P, 3, 3, 3): k^2 - q c0, symmetric."""
    constant: Array
    """(F, P, 3): c0."""
    along: Array
    """(F, P, 3): w."""
    offset: Array
    """(F, P): c1."""
    scale: Array
    """(F, P): 1 / sqrt(d2)."""


@dataclass(frozen=True)
class Boxes:
    """Q boxes in F frames, camera coordinates."""

    centre: Array
    """(F, Q, 3)."""
    axes: Array
    """(F, Q, 3, 3): rows are unit axes."""
    half: Array
    """(Q, 3)."""


def apply(matrix: Array, vector: Array) -> Array:
    """Matrices (.., 3, 3) times vectors (.., 3)."""
    return (matrix @ vector[..., None])[..., 0]


def dot(x: Array, y: Array) -> Array:
    """Scalar products over the last axis."""
    return np.asarray((x * y).sum(axis=-1))


def make_cones(shapes: Shapes, view: View) -> Cones:
    """Prepare the round cones of `shapes`. Neither ball of a cone may contain the other."""
    start, end = view.points(shapes.start), view.points(shapes.end)
    thin, squeeze = view.vectors(shapes.thin), shapes.thinness**-2 - 1.0

    def g(vector: Array) -> Array:
        return vector + (squeeze * dot(thin, vector))[..., None] * thin

    first, second = shapes.radii.T
    r = first - second
    axis = end - start
    ga, gb, gu = g(start), g(end), g(axis)
    m0 = dot(axis, gu)
    d2 = m0 - r * r
    scale = 1.0 / np.sqrt(d2)
    along = gu * scale[..., None]
    p, e = dot(start, along), r * first * scale
    c1 = -p - e
    linear = np.stack([-ga - c1[..., None] * along, -ga, -gb], axis=-2)
    cone = dot(start, ga) - p * p - 2.0 * p * e - m0 * first**2 / d2
    constant = np.stack([cone, dot(start, ga) - first**2, dot(end, gb) - second**2], axis=-1)
    metric = np.eye(3) + squeeze[:, None, None] * thin[..., :, None] * thin[..., None, :]
    q = np.stack([metric - along[..., :, None] * along[..., None, :], metric, metric], axis=-3)
    quadratic = linear[..., :, None] * linear[..., None, :] - q * constant[..., None, None]
    # A camera inside the cone's extension at the wide end sees nothing but the ball there.
    place = c1 * scale
    facing = (cone < 0) & (((r >= 0) & (place < 0)) | ((r <= 0) & (place > 1)))
    if facing.any():
        ball = np.where(place < 0, 1, 2)[facing]
        for form in (linear, quadratic, constant):
            form[facing, 0] = form[facing, ball]
        along[facing], c1 = 0.0, np.where(facing, np.where(place < 0, -1.0, 2.0) / scale, c1)
    side = view.vectors(shapes.side)
    return Cones(start, end, shapes.radii, thin, squeeze, side, linear, quadratic, constant, along, c1, scale)


def make_boxes(shapes: Shapes, view: View) -> Boxes:
    """Prepare the boxes of `shapes`."""
    return Boxes(view.points(shapes.centre), view.vectors(shapes.axes), shapes.half)


def occluded(cones: Cones, boxes: Boxes, points: Array, margin: Array) -> npt.NDArray[np.bool_]:
    """Which of points (F, J, 3) have a surface more than margin (J,) millimetres in front of them: (F, J)."""
    ray = points / points[..., 2:]
    limit = points[..., 2] - margin
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.einsum("fpak,fjk->fjpa", cones.linear, ray)
        h = np.einsum("fpakl,fjkl->fjpa", cones.quadratic, ray[..., :, None] * ray[..., None, :])
        depths = cones.constant[:, None] / (np.sqrt(h) - k)
        along = np.einsum("fpk,fjk->fjp", cones.along, ray)
        share = (cones.offset[:, None] + depths[..., 0] * along) * cones.scale[:, None]
        depth = np.where(share < 0, depths[..., 1], np.where(share > 1, depths[..., 2], depths[..., 0]))
        blocked = ((depth > 0) & (depth < limit[..., None])).any(axis=-1)
        speed = np.einsum("fqik,fjk->fjqi", boxes.axes, ray)
        inverse = 1.0 / np.where(speed == 0, 1e-12, speed)
        middle = dot(boxes.axes, boxes.centre[:, :, None])[:, None] * inverse
        reach = boxes.half * np.abs(inverse)
        near, far = (middle - reach).max(axis=-1), (middle + reach).min(axis=-1)
        blocked |= ((near < far) & (near > 0) & (near < limit[..., None])).any(axis=-1)
    return np.asarray(blocked)
