"""Rendered people: data that needs no download, made anew from seeds.

`SyntheticPoses` and `SyntheticClips` are the data sets. Below them, each file knows only those before it: `motion`
(what actions are), `body` (joints), `shapes`, `clothes` (what is drawn), `renderer`, `scene` (camera, light,
background), `video` (one performance).
"""

from pyhar.data.synthetic.dataset import PAPER_AUGMENTATION, Augmentation, SyntheticClips, SyntheticPoses
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
