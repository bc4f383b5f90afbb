"""What becomes of light on its way to bytes: exposure, blur, noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sensor:
    """A camera's sensor."""

    gain: float
    gamma: float
    blur: float
    """Share of light that falls on each neighbouring pixel across and down."""
    noise: float
    """Standard deviation, in units of full brightness."""
    seed: int


def make_sensor(rng: np.random.Generator) -> Sensor:
    """Draw a sensor."""
    return Sensor(
        gain=float(rng.uniform(0.8, 1.15)),
        gamma=float(np.exp(rng.normal(0.0, 0.12))),
        blur=float(rng.uniform(0.0, 0.2) if rng.random() < 0.5 else 0.0),
        noise=float(rng.uniform(0.0, 0.03)),
        seed=int(rng.integers(2**31)),
    )


@lru_cache(maxsize=1)
def _grain() -> Floats:
    return np.random.default_rng(11).normal(size=2**18).astype(np.float32)


def expose(
    picture: Floats, sensor: Sensor, frame: int, width: int, height: int, colour_power: Array
) -> npt.NDArray[np.uint8]:
    """What the sensor makes of light (3, H * W): bytes (H, W, 3). colour_power (3,): augmentation, an exponent per
    channel."""
    image = picture.reshape(3, height, width)
    if sensor.blur:
        side = np.float32(sensor.blur)
        for axis in (1, 2):
            rest = np.moveaxis(image, axis, 0)
            spread = rest * (1 - 2 * side)
            spread[1:] += side * rest[:-1]
            spread[:-1] += side * rest[1:]
            spread[0] += side * rest[0]
            spread[-1] += side * rest[-1]
            image = np.moveaxis(spread, 0, axis)
    levels = image * np.float32(255.0 * sensor.gain)
    if sensor.noise:
        grain = _grain()
        start = (sensor.seed + 977 * frame) % (len(grain) // 2)
        noise = (
            grain[start : start + image.size] if image.size <= len(grain) // 2 else np.resize(grain[start:], image.size)
        )
        levels += np.float32(255.0 * sensor.noise) * noise.reshape(image.shape)
    coded = np.clip(levels, 0, 255).astype(np.uint8)
    steps = np.arange(256) / 255.0
    out = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        table = np.round(255.0 * steps ** (sensor.gamma * colour_power[channel])).astype(np.uint8)
        out[:, :, channel] = table.take(coded[channel])
    return out
