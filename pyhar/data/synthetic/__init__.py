"""Rendered people: data that needs no download, made anew from seeds.

`SyntheticPoses` and `SyntheticClips` are the data sets (`dataset`). A `video` is one performance: `motion` says what
actions are, `body` where joints go, `clothes` what is drawn, as `shapes`; `scene` is what surrounds it. Pictures come
from `raycast` and `renderer`, `background` and `sensor`. `demo` is for looking: `python -m pyhar.data.synthetic`.
"""

from pyhar.data.augment import PAPER_AUGMENTATION, Augmentation
from pyhar.data.synthetic.dataset import SyntheticClips, SyntheticPoses
from pyhar.data.synthetic.motion import ACTION_NAMES, MOTION_PAIRS, OBJECT_PAIRS

__all__ = [
    "ACTION_NAMES",
    "MOTION_PAIRS",
    "OBJECT_PAIRS",
    "PAPER_AUGMENTATION",
    "Augmentation",
    "SyntheticClips",
    "SyntheticPoses",
]
