"""Augmentation: what it may do, what it does to one sample, and its erased rectangles.

Where a crop lies, how it is turned, scaled and mirrored is one affine map (`pyhar.data.geometry.crop_map`), so joints,
boxes and pixels follow exactly. All frames of a clip are treated alike. Colours change where the network runs
(`pyhar.data.sample.model_input`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pyhar.errors import unknown_name

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """Ranges that training draws from. The defaults are gentler than the paper's, `PAPER_AUGMENTATION`: short
    trainings gain."""

    rotation: float = 6.0
    """Largest angle either way, degrees."""
    scale: tuple[float, float] = (0.9, 1.1)
    """How large the person is shown; with `scale_window`, how much of the picture."""
    scale_window: bool = False
    shift: float = 0.03
    """Largest shift either way, as a share of the crop."""
    flip: float = 0.5
    """Probability of mirroring."""
    colour_power: tuple[float, float] = (0.9, 1.1)
    """Exponent of each colour channel."""
    subsample: tuple[int, int] = (3, 6)
    """A clip takes every s-th frame, s from here, both ends included."""
    shift_down: float | None = None
    """Largest shift up or down, where it is not that across."""
    rotation_step: float = 0.0
    """Above 0, angles are multiples of it."""
    scales: tuple[float, ...] = ()
    """Scales to choose from, instead of any in the range."""
    erase: float = 0.0
    """Probability that a rectangle of the crop is filled with one colour."""
    erase_size: tuple[float, float] = (0.08, 0.35)
    """Least and largest side of that rectangle, as shares of the crop."""


PAPER_AUGMENTATION = Augmentation(rotation=40.0, scale=(0.7, 1.3), scale_window=True, shift=0.0, subsample=(3, 10))
"""The ranges of Sec. 4.2.3. The authors' code multiplies the crop's window by the scale, so 0.7 shows a person 1 / 0.7
times as large."""
RELEASE_AUGMENTATION = replace(
    PAPER_AUGMENTATION, rotation_step=5.0, scales=(0.7, 1.0, 1.3), shift=40 / 256, shift_down=10 / 256
)
"""The steps of 5 degrees, three scales, and shifts of up to 40 pixels across and 10 down of the authors' code, the same
for all data sets, of crops of 256; that code's pixels are the picture's. It has other ranges for some: MPII is not
shifted; Human3.6M turns by 10 degrees, is scaled by 0.8 to 1.2 and shifted by 20 and 4 pixels; stills of Penn Action
and NTU are scaled by 2.0, too, and those of NTU turn by 10 degrees; clips of Penn Action turn by 30 and take every 4th,
6th or 8th frame, those of NTU do not turn and take every 6th, 8th or 10th."""
RELEASE_ERASING = replace(RELEASE_AUGMENTATION, erase=0.5)
"""As `RELEASE_AUGMENTATION`, with rectangles erased that are as large as the authors' code draws them for Human3.6M, 20
to 88 pixels of 256; its published loader does not read them. How often and in what colour is this package's
choice."""

AUGMENTATIONS = {
    "gentle": Augmentation(),
    "paper": PAPER_AUGMENTATION,
    "release": RELEASE_AUGMENTATION,
    "release-erasing": RELEASE_ERASING,
}


def choose_augmentation(augment: bool | str | Augmentation, default: Augmentation) -> Augmentation | None:
    """The ranges that an option means: True the default, False none, a name one of `AUGMENTATIONS`. Raises UserError
    for an unknown name."""
    if isinstance(augment, str):
        if augment not in AUGMENTATIONS:
            raise unknown_name("augmentation", augment, AUGMENTATIONS)
        return AUGMENTATIONS[augment]
    if isinstance(augment, bool):
        return default if augment else None
    return augment


@dataclass(frozen=True)
class Crop:
    """How the crop deviates from the person's box, and its colours."""

    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    colour_power: tuple[float, ...] = (1.0, 1.0, 1.0)
    erased: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2 of the erased rectangle, normalised crop coordinates."""
    erased_colour: tuple[int, int, int] = (0, 0, 0)
    """As if it lay on disk."""


def draw_crop(augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """Draw what happens to one sample."""
    a = augmentation
    down = a.shift if a.shift_down is None else a.shift_down
    reach = a.rotation + 0.5 * a.rotation_step  # The outermost steps are as likely as the others.
    rotation = _stepped(float(rng.uniform(-reach, reach)), a.rotation_step)
    scale = float(rng.choice(a.scales) if a.scales else np.exp(rng.uniform(*np.log(a.scale))))
    crop = Crop(
        rotation=rotation,
        scale=1.0 / scale if a.scale_window else scale,
        shift=(float(rng.uniform(-a.shift, a.shift)), float(rng.uniform(-down, down))),
        flip=bool(rng.random() < a.flip),
        colour_power=tuple(float(p) for p in rng.uniform(*a.colour_power, 3)),
    )
    # Last, and only where asked for: what is drawn before stays as it is without erasing.
    if a.erase > 0 and rng.random() < a.erase:
        sides = rng.uniform(*a.erase_size, 2)
        first = rng.uniform(0.0, 1.0 - sides)
        red, green, blue = (int(level) for level in rng.integers(256, size=3))
        crop = replace(crop, erased=(*first, *(first + sides)), erased_colour=(red, green, blue))
    return crop


def erase(frames: Picture, crop: Crop) -> None:
    """Fill the crop's erased rectangle in frames (T, H, W, 3), uint8, in place."""
    if crop.erased is not None:
        height, width = frames.shape[1:3]
        x1, y1, x2, y2 = np.round(np.asarray(crop.erased) * (width, height, width, height)).astype(int)
        frames[:, y1:y2, x1:x2] = crop.erased_colour


def inside_erased(xy: npt.NDArray[np.float64], crop: Crop) -> npt.NDArray[np.bool_]:
    """Which points (.., 2), normalised crop coordinates, the erased rectangle covers."""
    if crop.erased is None:
        return np.zeros(xy.shape[:-1], bool)
    x1, y1, x2, y2 = crop.erased
    return (xy[..., 0] >= x1) & (xy[..., 0] < x2) & (xy[..., 1] >= y1) & (xy[..., 1] < y2)


def _stepped(angle: float, step: float) -> float:
    return round(angle / step) * step if step > 0 else angle
