"""Pictures of round cones and boxes, drawn straight into the pixels of a crop.

Every pixel has 2 x 2 samples, each with a ray. The map from sample indices (i, j, 1) to ray directions is one (3, 3)
matrix, so any crop - turned, scaled, mirrored - costs the same and is exact. Shapes are projected to outlines and
these cut into spans of samples in a row. On a row the forms of `pyhar.data.synthetic.raycast` are polynomials in i,
whose coefficients are worked out for all spans of all frames at once; what is left for a sample is a few products.
The nearest hit of every sample is shaded, once for a pixel inside a shape, sample by sample at edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.raycast import Boxes, Cones, apply, dot
from pyhar.data.synthetic.shapes import Shapes

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SAMPLES = 2
"""Samples per pixel along each side."""
_FAR = np.float32(1e9)
_EDGES = np.array([[i, i | 1 << axis] for axis in range(3) for i in range(8) if not i & 1 << axis])
"""(12, 2): corners that the edges of a box join; bit k of a corner's number is its side along axis k."""
_CORNERS = np.array([[1.0 if i & 1 << axis else -1.0 for axis in range(3)] for i in range(8)])


@dataclass(frozen=True)
class Light:
    """A distant lamp and the light from all around."""

    direction: Array
    """(3,): unit vector towards the lamp, camera coordinates."""
    colour: Array
    """(3,): of the lamp."""
    ambient: Array
    """(3,): light from above; from below comes half of it."""
    up: Array
    """(3,): unit vector, camera coordinates."""


@dataclass(frozen=True)
class Rendering:
    """Shapes drawn in one frame, before anything is behind them."""

    pixel: Ints
    """(N,): numbers of the pixels that shapes touch, row by row."""
    coverage: Floats
    """(N,): in (0, 1]."""
    colour: Floats
    """(3, N): light from the shapes, weighted by coverage."""


@dataclass(frozen=True)
class _Spans:
    """Samples in rows that may meet a shape; M spans, sorted by frame."""

    place: Ints
    """(M,): number of the shape through all frames."""
    shape: Ints
    """(M,): number of the shape within its frame."""
    row: Ints
    left: Ints
    count: Ints
    frames: Ints
    """(F + 1,): where each frame's spans begin."""


@dataclass(frozen=True)
class _Hits:
    """Samples that meet a shape of one frame."""

    sample: Ints
    x: Floats
    depth: Floats
    span: Ints
    """Number of the span within the frame."""
    share: Floats
    """Cones: share of the length. Boxes: number of the face's axis."""


class Renderer:
    """Draws F frames of shapes seen from one camera.

    to_pixels: (3, 3) from picture pixels to the pixel indices of the output, width x height; directions: (3, 3) from
    picture pixels to ray directions with Z = 1, the inverse of the camera matrix.
    """

    def __init__(
        self,
        shapes: Shapes,
        cones: Cones,
        boxes: Boxes,
        light: Light,
        to_pixels: Array,
        directions: Array,
        width: int,
        height: int,
    ) -> None:
        self._width = width
        self._wide, self._high = SAMPLES * width, SAMPLES * height
        # Pixel p has the samples SAMPLES * p + 0 .. SAMPLES - 1, their centres at p - 1/2 + (k + 1/2) / SAMPLES.
        shift = (SAMPLES - 1) / 2
        to_samples = np.array([[SAMPLES, 0.0, shift], [0.0, SAMPLES, shift], [0.0, 0.0, 1.0]]) @ to_pixels
        self._to_samples = to_samples @ np.linalg.inv(directions)
        self._rays = np.linalg.inv(self._to_samples)
        self._light = light
        self._cones, self._boxes = cones, boxes
        self._cone_looks, self._box_looks = shapes.cone_looks, shapes.box_looks
        self._cone_spans = self._outline_cones()
        self._body, self._balls = self._cone_polynomials(self._cone_spans)
        self._box_spans = self._outline_boxes()
        self._slabs = self._box_polynomials(self._box_spans)

    # Outlines

    def _project(self, points: Array) -> Array:
        """Sample coordinates (.., 2) of points (.., 3)."""
        return apply(self._to_samples[:2], points / np.maximum(points[..., 2:], 1.0))

    def _outline_cones(self) -> _Spans:
        cones = self._cones
        points = np.stack([cones.start, cones.end], axis=2)
        thick = cones.radii * np.sqrt(1.0 / np.minimum(1.0 + cones.squeeze, 1.0))[:, None]
        # A ball seen aside is drawn out, by the square of its direction's length at most.
        stretch = dot(points, points) / points[..., 2] / np.maximum(points[..., 2] - thick, 100.0) ** 2
        radius = thick * stretch * np.sqrt(np.abs(np.linalg.det(self._to_samples[:2, :2]))) + 0.75
        frames, count = cones.offset.shape
        ends, radius = self._project(points).reshape(-1, 2, 2), radius.max(axis=-1).ravel()
        return _split(*_rows(ends, radius, self._wide, self._high), frames, count)

    def _outline_boxes(self) -> _Spans:
        centre, axes, half = self._boxes.centre, self._boxes.axes, self._boxes.half
        frames, count = centre.shape[:2]
        corners = self._project(centre[:, :, None] + (_CORNERS * half[:, None]) @ axes)
        edge, row, left, right = _rows(
            corners[:, :, _EDGES].reshape(-1, 2, 2), np.full(frames * count * 12, 1.0), self._wide, self._high
        )
        # The outline of a box in a row is what all of its edges take up there.
        place, inverse = np.unique(edge // 12 * self._high + row, return_inverse=True)
        first, last = np.full(len(place), self._wide), np.full(len(place), -1)
        np.minimum.at(first, inverse, left)
        np.maximum.at(last, inverse, right)
        return _split(place // self._high, place % self._high, first, last, frames, count)

    # Polynomials in the sample's column, one set per span

    def _linear(self, forms: Array, spans: _Spans) -> Array:
        """(2, M): slope and constant along spans of linear forms (F, P, 3) in the ray."""
        f = (forms @ self._rays).reshape(-1, 3).T.take(spans.place, axis=1)
        return np.stack([f[0], f[1] * spans.row + f[2]])

    def _quadratic(self, forms: Array, spans: _Spans) -> Array:
        """(3, M): the coefficients along spans of symmetric forms (F, P, 3, 3) in the ray, highest first."""
        f = (self._rays.T @ forms @ self._rays).reshape(-1, 9).T.take(spans.place, axis=1)
        return np.stack([f[0], 2.0 * (f[1] * spans.row + f[2]), (f[4] * spans.row + 2.0 * f[5]) * spans.row + f[8]])

    def _cone_polynomials(self, spans: _Spans) -> tuple[Floats, Floats]:
        """Coefficients (10, M) of cones and (6, 2, M) of their balls."""
        cones = self._cones
        equations = [
            np.concatenate(
                [
                    self._quadratic(cones.quadratic[:, :, part], spans),
                    self._linear(cones.linear[:, :, part], spans),
                    cones.constant[:, :, part].reshape(1, -1).take(spans.place, axis=1),
                ]
            )
            for part in range(3)
        ]
        rest = np.stack([cones.offset.ravel(), cones.scale.ravel()]).take(spans.place, axis=1)
        body = np.concatenate([equations[0], self._linear(cones.along, spans), rest])
        return body.astype(np.float32), np.stack(equations[1:], axis=1).astype(np.float32)

    def _box_polynomials(self, spans: _Spans) -> Floats:
        """(4, 3, M): slope and constant of a ray's speed along each axis of a box, its centre and half length along
        it."""
        axes, half = self._boxes.axes, self._boxes.half
        place = dot(axes, self._boxes.centre[:, :, None]).reshape(-1, 3)
        parts = [
            [*self._linear(axes[:, :, axis], spans), place[:, axis].take(spans.place), half[:, axis].take(spans.shape)]
            for axis in range(3)
        ]
        return np.array(parts, np.float32).swapaxes(0, 1)

    # One frame

    def draw(self, frame: int) -> Rendering:
        """Draw a frame."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cones, boxes = self._cast_cones(frame), self._cast_boxes(frame)
        sample, depth = np.concatenate([cones.sample, boxes.sample]), np.concatenate([cones.depth, boxes.depth])
        nearest = np.full(self._wide * self._high, _FAR)
        np.minimum.at(nearest, sample, depth)
        seen = np.flatnonzero(nearest.take(sample) == depth)
        owner = np.full(self._wide * self._high, -1, np.int32)
        owner[sample.take(seen)] = seen

        # Numbers that differ between shapes, and between faces of a box; -1 where there is none.
        cone_shape = self._cone_spans.shape[self._cone_spans.frames[frame] :].take(cones.span)
        box_shape = self._box_spans.shape[self._box_spans.frames[frame] :].take(boxes.span) * 3 + boxes.share.astype(
            np.int64
        )
        kinds = np.concatenate([cone_shape, box_shape + len(self._cone_looks), [-1]])
        rows = owner.reshape(self._high, self._wide)
        corners = [rows[i::SAMPLES, j::SAMPLES] for i in range(SAMPLES) for j in range(SAMPLES)]
        touched = np.flatnonzero(np.maximum.reduce(corners) >= 0)
        y, x = np.divmod(touched, self._width)
        first = SAMPLES * (y * self._wide + x)
        quads = np.stack([owner.take(first + i * self._wide + j) for i in range(SAMPLES) for j in range(SAMPLES)])
        kind = kinds.take(quads)
        inside = np.logical_and.reduce(kind[1:] == kind[0])
        within, edge = np.flatnonzero(inside), np.flatnonzero(~inside)
        at_edge = quads.take(edge, axis=1).ravel()
        there = np.flatnonzero(at_edge >= 0)
        # Hits to shade, and the place in `touched` that each one colours.
        hits = np.concatenate([quads[0].take(within), at_edge.take(there)])
        target = np.concatenate([within, np.tile(edge, SAMPLES**2).take(there)])
        weight = np.full(len(hits), np.float32(1.0 / SAMPLES**2))
        weight[: len(within)] = 1.0

        of_box = hits >= len(cones.sample)
        by_cone, by_box = np.flatnonzero(~of_box), np.flatnonzero(of_box)
        light = np.empty((3, len(hits)), np.float32)
        light[:, by_cone] = self._shade_cones(frame, cones, hits[by_cone], cone_shape)
        if len(by_box):
            light[:, by_box] = self._shade_boxes(frame, boxes, hits[by_box] - len(cones.sample), box_shape)
        light *= weight
        count = len(touched)
        colour = np.stack([np.bincount(target, channel, count) for channel in light]).astype(np.float32)
        return Rendering(touched, np.bincount(target, weight, count).astype(np.float32), colour)

    def _cast_cones(self, frame: int) -> _Hits:
        spans = self._cone_spans
        part = slice(*spans.frames[frame : frame + 2])
        count = spans.count[part]
        square, slope, constant, k1, k0, c0, w1, w0, c1, scale = self._body[:, part]
        span, x = _spread(spans.left[part], count)
        h = (np.repeat(square, count) * x + np.repeat(slope, count)) * x + np.repeat(constant, count)
        hit = np.flatnonzero(h > 0)
        h, x, span = h.take(hit), x.take(hit), span.take(hit)
        depth = c0.take(span) / (np.sqrt(h) - (k1.take(span) * x + k0.take(span)))
        share = (c1.take(span) + depth * (w1.take(span) * x + w0.take(span))) * scale.take(span)
        # Beyond the ends, the balls.
        beyond = np.flatnonzero((share < 0) | (share > 1))
        over, x_over = span.take(beyond), x.take(beyond)
        over += np.where(share.take(beyond) < 0, 0, len(count))
        square, slope, constant, k1, k0, c0 = self._balls[:, :, part].reshape(6, -1)
        h = (square.take(over) * x_over + slope.take(over)) * x_over + constant.take(over)
        ball = c0.take(over) / (np.sqrt(h) - (k1.take(over) * x_over + k0.take(over)))
        depth[beyond] = np.where(h > 0, ball, np.float32(np.inf))
        depth[depth <= 0] = np.inf
        sample = (spans.row[part] * self._wide).take(span) + x.astype(np.int64)
        return _Hits(sample, x, depth, span, np.clip(share, 0, 1))

    def _cast_boxes(self, frame: int) -> _Hits:
        spans = self._box_spans
        part = slice(*spans.frames[frame : frame + 2])
        count = spans.count[part]
        span, x = _spread(spans.left[part], count)
        near, far = np.zeros(len(x), np.float32), np.full(len(x), _FAR)
        face = np.zeros(len(x), np.float32)
        for axis in range(3):
            slope, constant, place, half = self._slabs[:, axis, part]
            speed = np.repeat(slope, count) * x + np.repeat(constant, count)
            speed[speed == 0] = 1e-12
            inverse = 1.0 / speed
            middle, reach = np.repeat(place, count) * inverse, np.repeat(half, count) * np.abs(inverse)
            low = middle - reach
            face[low > near] = axis
            np.maximum(near, low, out=near)
            np.minimum(far, middle + reach, out=far)
        hit = np.flatnonzero((near < far) & (near > 0))
        span, x = span.take(hit), x.take(hit)
        sample = (spans.row[part] * self._wide).take(span) + x.astype(np.int64)
        return _Hits(sample, x, near.take(hit), span, face.take(hit))

    # Shading

    def _points(self, frame: int, spans: _Spans, hits: _Hits, at: Ints) -> tuple[Floats, Floats, Floats]:
        """X, Y, Z of some hits."""
        row = spans.row[slice(*spans.frames[frame : frame + 2])].astype(np.float32)
        x, depth, y = hits.x.take(at), hits.depth.take(at), row.take(hits.span.take(at))
        d = self._rays.astype(np.float32)
        return depth * (d[0, 0] * x + d[0, 1] * y + d[0, 2]), depth * (d[1, 0] * x + d[1, 1] * y + d[1, 2]), depth

    def _shade_cones(self, frame: int, hits: _Hits, at: Ints, shapes: Ints) -> Floats:
        cones = self._cones
        shape, share = shapes.take(at), hits.share.take(at)
        axis = cones.end[frame] - cones.start[frame]
        length = np.sqrt(dot(axis, axis))[:, None]
        table = np.concatenate(
            [cones.start[frame], axis, cones.side[frame], cones.thin[frame], cones.squeeze[:, None], length], axis=1
        )
        columns = table.astype(np.float32).T
        point = self._points(frame, self._cone_spans, hits, at)
        away = [p - columns[i].take(shape) for i, p in enumerate(point)]
        across = sum((a * columns[6 + i].take(shape) for i, a in enumerate(away)), np.float32(0))
        off = [a - share * columns[3 + i].take(shape) for i, a in enumerate(away)]
        thin = [columns[9 + i].take(shape) for i in range(3)]
        squeezed = columns[12].take(shape) * (thin[0] * off[0] + thin[1] * off[1] + thin[2] * off[2])
        normal = [o + squeezed * t for o, t in zip(off, thin, strict=True)]
        inverse = 1.0 / np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
        toward, up = self._light.direction.astype(np.float32), self._light.up.astype(np.float32)
        lamp = (normal[0] * toward[0] + normal[1] * toward[1] + normal[2] * toward[2]) * inverse
        sky = (normal[0] * up[0] + normal[1] * up[1] + normal[2] * up[2]) * inverse
        light = self._light_on(lamp, sky)
        return _pattern(self._cone_looks, shape, share * columns[13].take(shape), across, share) * light

    def _shade_boxes(self, frame: int, hits: _Hits, at: Ints, faces: Ints) -> Floats:
        axes, centre = self._boxes.axes[frame], self._boxes.centre[frame]
        place = dot(axes, centre[:, None])
        # The camera, at the origin, sees the side of each axis that faces it.
        outward = (-np.sign(place)[..., None] * axes).reshape(-1, 3)
        light = self._light_on(outward @ self._light.direction, outward @ self._light.up).astype(np.float32)
        across, offset = np.roll(axes, -1, axis=1).reshape(-1, 3), np.roll(place, -1, axis=1).reshape(-1)
        face = faces.take(at)
        columns = np.column_stack([across, offset]).astype(np.float32).T
        point = self._points(frame, self._box_spans, hits, at)
        place_across = sum((p * columns[i].take(face) for i, p in enumerate(point)), -columns[3].take(face))
        flat = np.zeros_like(place_across)
        return _pattern(self._box_looks, face // 3, flat, place_across, flat) * light.take(face, axis=1)

    def _light_on(self, lamp: npt.NDArray[np.floating], sky: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """(3, N): light on surfaces whose normals have these cosines to the lamp and to the sky."""
        # The lamp is broad: it still reaches a little beyond the edge of its side.
        lamp = np.maximum(lamp + np.float32(0.15), 0) * np.float32(1 / 1.15)
        sky = np.float32(0.75) + np.float32(0.25) * sky
        return (
            self._light.colour.astype(np.float32)[:, None] * lamp
            + self._light.ambient.astype(np.float32)[:, None] * sky
        )


def _rows(ends: Array, radius: Array, width: int, height: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Outlines of thick segments: for each row of each, number of the segment, row, first and last sample, all (M,).

    ends: (N, 2, 2) sample coordinates; radius: (N,), half the thickness in samples. Never too narrow, seldom much too
    wide. Beside the picture the first sample is `width` or the last one -1.
    """
    low, high = ends.min(axis=1), ends.max(axis=1)
    top = np.clip(np.ceil(low[:, 1] - radius), 0, height).astype(np.int64)
    count = np.maximum(np.clip(np.floor(high[:, 1] + radius), -1, height - 1).astype(np.int64) - top + 1, 0)
    segment = np.repeat(np.arange(len(ends)), count)
    row = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count - top, count)
    dx, dy = (ends[:, 1] - ends[:, 0]).T
    dy = np.where(np.abs(dy) < 1e-6, 1e-6, dy)
    slope = dx / dy
    stretch = radius * np.sqrt(1.0 + slope * slope)
    r, x0, dx, dy, slope, stretch = (v[segment] for v in (radius, ends[:, 0, 0], dx, dy, slope, stretch))
    # x is bounded by the part of the segment within `radius` of the row, and by the strip around its line.
    off = row - ends[segment, 0, 1]
    xa, xb = (x0 + np.clip((off + reach) / dy, 0.0, 1.0) * dx for reach in (-r, r))
    on_line = x0 + off * slope
    first = np.maximum(np.minimum(xa, xb) - r, on_line - stretch)
    last = np.minimum(np.maximum(xa, xb) + r, on_line + stretch)
    left = np.clip(np.ceil(first), 0, width).astype(np.int64)
    right = np.clip(np.floor(last), -1, width - 1).astype(np.int64)
    return segment, row, left, right


def _split(shape: Ints, row: Ints, left: Ints, right: Ints, frames: int, count: int) -> _Spans:
    """Spans of shapes numbered through all frames, `count` to a frame, without the empty ones."""
    keep = np.flatnonzero(right >= left)
    shape, row, left, right = shape[keep], row[keep], left[keep], right[keep]
    starts = np.searchsorted(shape, count * np.arange(frames + 1))
    return _Spans(shape, shape % max(count, 1), row, left, right - left + 1, starts)


def _spread(left: Ints, count: Ints) -> tuple[Ints, Floats]:
    """For spans of `count` samples from `left`: each sample's span and its column."""
    span = np.repeat(np.arange(len(count)), count)
    return span, (np.arange(len(span)) - np.repeat(np.cumsum(count) - count - left, count)).astype(np.float32)


def _pattern(looks: Array, shape: Ints, along: Floats, across: Floats, share: Floats) -> Floats:
    """(3, N): colours of surfaces at places in millimetres along and across a shape and at a share of its length."""
    table = looks.astype(np.float32).T
    first = np.clip(2.5 * np.cos(table[9].take(shape) * along) * np.cos(table[10].take(shape) * across) + 0.5, 0, 1)
    rest = share > table[11].take(shape)
    out = np.empty((3, len(shape)), np.float32)
    for i in range(3):
        a, b, c = (table[i + j].take(shape) for j in (0, 3, 6))
        out[i] = np.where(rest, c, b + first * (a - b))
    return out
