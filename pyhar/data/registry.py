"""The one place where data sets are chosen by name, and what the rest of the package asks of them.

A data set yields samples (see `pyhar.data.sample`): stills of kind "pose", clips of kind "clips". To add one, write a
builder and enter it in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, overload

from pyhar.data.layouts import JointLayout
from pyhar.data.sample import Sample
from pyhar.errors import UserError, unknown_name

Kind = Literal["pose", "clips"]


class PoseData(Protocol):
    """Samples by number. `data[i]` is sample i as evaluation sees it or with draw 0 of augmentation, `data[i, draw]`
    another draw.
    """

    layout: JointLayout
    action_names: tuple[str, ...]
    """Names of the classes of `sample["action"]`; empty if samples have none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | tuple[int, int]) -> Sample: ...


class ClipData(PoseData, Protocol):
    """Clips by number, one per video; any other clip of a video by its frames."""

    subsample: int
    """Every how many frames of a video an evaluation clip takes one."""

    def num_frames(self, video: int) -> int:
        """Frames of a video."""
        ...

    def clip(self, video: int, frame_indices: Sequence[int], flip: bool = False) -> Sample:
        """The clip of these frames, as evaluation sees it; flip: mirrored, joints swapped."""
        ...


def _synthetic(split: str, kind: Kind, **options: Any) -> PoseData | ClipData:
    from pyhar.data.synthetic import SyntheticClips, SyntheticPoses

    return SyntheticPoses(split, **options) if kind == "pose" else SyntheticClips(split, **options)


DATASETS: dict[str, Callable[..., Any]] = {"synthetic": _synthetic}
"""Builders by name: called with split, kind and the options of `build`."""


@overload
def build(name: str, split: str, kind: Literal["pose"], **options: Any) -> PoseData: ...
@overload
def build(name: str, split: str, kind: Literal["clips"], **options: Any) -> ClipData: ...
def build(name: str, split: str, kind: Kind, **options: Any) -> PoseData | ClipData:
    """The data set called `name`: stills (kind "pose") or clips (kind "clips") of one split, "train" or "test".

    Options all data sets know: image_size (pixels), augment (bool), seed, size (use this many samples; None: all),
    and for clips clip_frames. The rest are a data set's own. Raises UserError for an unknown name, kind or split.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if kind not in ("pose", "clips"):
        raise UserError(f"kind of data must be 'pose' or 'clips', not {kind!r}")
    return DATASETS[name](split, kind, **options)
