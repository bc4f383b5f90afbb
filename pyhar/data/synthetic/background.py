"""Pictures of an empty scene, and shadows on its floor.

The background is a function of the viewing direction alone, so a crop and the whole picture show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pyhar.data.synthetic.scene import Scene, Surface

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_NOISE_SIZE = 256
_NOISE_STEP_MM = 18.0
_SHADOW_REACH_MM = 4000.0
_HORIZON_MM = 1e6
"""Floor and walls end here."""


@lru_cache(maxsize=1)
def _noise() -> Floats:
    """(256 * 256,): a periodic texture in [-1, 1], rough on all scales."""
    rng = np.random.default_rng(7)
    frequency = np.fft.fftfreq(_NOISE_SIZE) * _NOISE_SIZE
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    spectrum = (
        np.fft.fft2(rng.normal(size=(_NOISE_SIZE, _NOISE_SIZE))) / (1.0 + radius) * np.exp(-((radius / 60.0) ** 2))
    )
    texture = np.fft.ifft2(spectrum).real
    return np.clip(texture / (2.0 * texture.std()), -1.0, 1.0).astype(np.float32).ravel()


def _texture(u: Floats, v: Floats) -> Floats:
    """The noise at places in texture steps, interpolated."""
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = u - u0, v - v0
    mask = np.int32(_NOISE_SIZE - 1)
    a = u0.astype(np.int32) & mask
    b = (v0.astype(np.int32) & mask) * np.int32(_NOISE_SIZE)
    a1 = (a + np.int32(1)) & mask
    b1 = (b + np.int32(_NOISE_SIZE)) & np.int32(_NOISE_SIZE**2 - 1)
    noise = _noise()
    top = noise.take(a + b)
    top += fu * (noise.take(a1 + b) - top)
    low = noise.take(a + b1)
    low += fu * (noise.take(a1 + b1) - low)
    return np.asarray(top + fv * (low - top))


def _paint(surface: Surface, light: Array, u: Floats, v: Floats, noise: Floats, grain: Floats) -> Floats:
    """(3, N): a surface under light (3,) at places in millimetres, where a pixel covers `grain` millimetres."""
    colours, waves = (surface.colours * light).astype(np.float32), surface.waves.astype(np.float32)
    shade = 1.0 + np.float32(surface.mottle) * noise
    if not waves.any():
        return colours[0][:, None] * shade
    pattern = np.float32(4.0)
    for wave, place in zip(waves, (u, v), strict=True):
        if wave:
            pattern = pattern * np.cos(wave * place)
    # What is finer than a pixel blurs into the mean.
    fine = grain * np.float32(waves.max() / 1.5)
    fine *= fine
    mix = np.clip(pattern, -0.5, 0.5) / (1.0 + fine * fine) + np.float32(0.5)
    return (colours[1][:, None] + mix * (colours[0] - colours[1])[:, None]) * shade


def _mottle(surface: Surface, u: Floats, v: Floats, grain: Floats) -> Floats:
    """The texture of a surface, as `_paint` sees it."""
    stretch = (surface.grain / _NOISE_STEP_MM).astype(np.float32)
    fine = grain * stretch.max()
    return _texture(u * stretch[0], v * stretch[1]) / (1.0 + np.float32(0.15) * fine * fine)


@dataclass(frozen=True)
class Background:
    """A scene without anybody in it."""

    picture: Floats
    """(3, H * W): light."""
    floor: Ints
    """Numbers of the pixels that show floor near the person."""
    ground: Floats
    """(6, N): x^2, xz, z^2, x, z and 1 at these places of the floor, millimetres."""


def draw_background(scene: Scene, to_pixels: Array, width: int, height: int) -> Background:
    """The empty scene in an output of `width` x `height` pixels that `to_pixels` (3, 3) takes picture pixels to."""
    eye = -scene.view.rotation.T @ scene.view.offset
    rays = (scene.view.rotation.T @ scene.directions @ np.linalg.inv(to_pixels)).astype(np.float32)
    pixel = np.float32(np.linalg.norm(rays[:, 0]))
    i, j = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    dx, dy, dz = ((r[0] * i + (r[1] * j + r[2])).ravel() for r in rays)

    which = np.zeros(width * height, np.int8)
    reach = np.float32(-eye[1]) / np.minimum(dy, np.float32(-eye[1] / _HORIZON_MM))
    for number, wall in enumerate(scene.walls, start=1):
        toward = np.float32(wall.normal[0]) * dx + np.float32(wall.normal[1]) * dz
        distance = np.float32(wall.distance - wall.normal @ eye[[0, 2]])
        at = distance / np.maximum(toward, distance / np.float32(2 * _HORIZON_MM))
        which[at < reach] = number
        np.minimum(reach, at, out=reach)
    x, y, z = (np.float32(e) + reach * d for e, d in zip(eye, (dx, dy, dz), strict=True))
    lamp = scene.view.rotation.T @ scene.light.direction

    picture = np.empty((3, width * height), np.float32)
    floor = np.flatnonzero(which == 0)
    ground = np.stack([x.take(floor), z.take(floor)])
    far = reach.take(floor)
    grain = far * far * (pixel / np.float32(eye[1]))
    noise = _mottle(scene.floor, ground[0], ground[1], grain)
    light = (scene.light.ambient + scene.light.colour * max(float(lamp[1]), 0.0)) * 0.85
    picture[:, floor] = _paint(scene.floor, light, ground[0], ground[1], noise, grain)
    for number, wall in enumerate(scene.walls, start=1):
        at = np.flatnonzero(which == number)
        if not len(at):
            continue
        # A distant wall is painted coarser.
        scale = np.float32(min(6000.0 / wall.distance, 1.0))
        u = np.float32(-wall.normal[1]) * x.take(at) + np.float32(wall.normal[0]) * z.take(at)
        v, grain = y.take(at), reach.take(at) * (pixel * scale)
        place = u * scale, v * scale
        light = scene.light.ambient * 0.8 + scene.light.colour * max(-float(lamp[[0, 2]] @ wall.normal), 0.0)
        noise = _mottle(wall.surface, *place, grain)
        paint = _paint(wall.surface, light, *place, noise, grain)
        if wall.low is not wall.surface:
            below = v < np.float32(wall.band) + np.float32(wall.rough) * noise
            paint = np.where(below, _paint(wall.low, light, *place, noise, grain), paint)
        for u0, v0, half_u, half_v, *colour in wall.pictures:
            inside = np.flatnonzero((np.abs(u - np.float32(u0)) < half_u) & (np.abs(v - np.float32(v0)) < half_v))
            shade = 1.0 + np.float32(0.15) * noise.take(inside)
            paint[:, inside] = (np.array(colour) * light).astype(np.float32)[:, None] * shade
        picture[:, at] = paint
    close = np.flatnonzero(np.abs(ground).max(axis=0) < _SHADOW_REACH_MM)
    u, v = ground.take(close, axis=1)
    return Background(picture, floor.take(close), np.stack([u * u, u * v, v * v, u, v, np.ones_like(u)]))


def with_shadow(background: Background, scene: Scene, points: Array, sizes: Array) -> Floats:
    """The background (3, H * W) with the floor darker below points (K, 3), world millimetres."""
    # A shadow is an ellipse from below its point to where the lamp throws it, a x^2 + b xz + c z^2 + d x + e z + f < 2.
    fall = np.clip(scene.shade, -2.0, 2.0) * points[:, 1:2]
    length = np.hypot(*fall.T)
    along = np.where(length[:, None] > 1.0, fall / np.maximum(length, 1.0)[:, None], [1.0, 0.0])
    centre = points[:, [0, 2]] + 0.5 * fall
    axes = np.stack([along / (sizes + 0.5 * length)[:, None], along[:, ::-1] * [-1.0, 1.0] / sizes[:, None]], axis=1)
    form = np.swapaxes(axes, 1, 2) @ axes
    pull = (form @ centre[..., None])[..., 0]
    terms = [
        form[:, 0, 0],
        2 * form[:, 0, 1],
        form[:, 1, 1],
        -2 * pull[:, 0],
        -2 * pull[:, 1],
        (pull * centre).sum(axis=1),
    ]
    near = np.stack(terms, axis=1).astype(np.float32) @ background.ground
    np.multiply(near, np.float32(-0.5), out=near)
    near += 1
    np.maximum(near, 0, out=near)
    near *= near
    near *= np.float32(-0.5)
    near += 1
    picture = background.picture.copy()
    picture[:, background.floor] *= np.multiply.reduce(near)
    return picture
