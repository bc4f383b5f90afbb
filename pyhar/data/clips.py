"""Which frames of a video make a clip: around its middle, at random, or many clips over the whole of it.

All functions return frame indices, int64, sorted. A clip of T frames with subsampling s takes every s-th frame. A
video with fewer than T * s frames gets the largest s that fits; a video with fewer than T frames repeats some of
them, spread evenly over it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyhar.errors import UserError

Indices = npt.NDArray[np.int64]


def centre_clip(num_frames: int, clip_frames: int, subsample: int) -> Indices:
    """The (clip_frames,) indices of the clip around the middle of a video, used for single-clip evaluation (Sec.
    4.1.1).

    Raises UserError if the video has no frames or an argument is not positive.
    """
    offsets = _offsets(num_frames, clip_frames, subsample)
    return (num_frames - 1 - offsets[-1]) // 2 + offsets if num_frames >= clip_frames else offsets


def random_clip(num_frames: int, clip_frames: int, subsample: int, rng: np.random.Generator) -> Indices:
    """The (clip_frames,) indices of a clip that begins anywhere in a video with equal chance. Raises as `centre_clip`
    does.
    """
    offsets = _offsets(num_frames, clip_frames, subsample)
    return rng.integers(num_frames - offsets[-1]) + offsets if num_frames >= clip_frames else offsets


def multi_clips(
    num_frames: int, clip_frames: int, subsample: int, *, step: int | None = None, limit: int | None = None
) -> Indices:
    """The (clips, clip_frames) indices of clips that begin every `step` frames over the whole video (Sec. 4.1.1).

    step: clip_frames // 2 if not given, as the paper says (the authors' code moves on by clip_frames // 2 + subsample
    - 1). limit: keep at most this many clips, spread evenly. A video too short for one full clip gives its centre
    clip, where the authors' code gives none. Raises as `centre_clip` does.
    """
    centre = centre_clip(num_frames, clip_frames, subsample)
    step = max(clip_frames // 2, 1) if step is None else step
    if step < 1 or (limit is not None and limit < 1):
        raise UserError(f"clips of a video: step and limit must be at least 1, got {step} and {limit}")
    starts = np.arange(0, num_frames - clip_frames * subsample + 1, step, dtype=np.int64)
    if len(starts) == 0:
        return centre[None]
    if limit is not None and len(starts) > limit:
        starts = (
            starts[np.linspace(0, len(starts) - 1, limit).round().astype(np.int64)]
            if limit > 1
            else starts[[len(starts) // 2]]
        )
    return starts[:, None] + subsample * np.arange(clip_frames, dtype=np.int64)


def _offsets(num_frames: int, clip_frames: int, subsample: int) -> Indices:
    """Frame indices of a clip counted from its first frame; of a video shorter than the clip, the indices."""
    if clip_frames < 1 or subsample < 1:
        raise UserError(f"clip of {clip_frames} frames with subsampling {subsample}: both must be at least 1")
    if num_frames < 1:
        raise UserError("the video has no frames: a clip needs at least one")
    steps = np.arange(clip_frames, dtype=np.int64)
    if num_frames < clip_frames:
        return (2 * steps + 1) * num_frames // (2 * clip_frames)
    return min(subsample, num_frames // clip_frames) * steps
