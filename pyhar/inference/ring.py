"""What the action part reads of the newest frames, kept on the device without moving it."""

from __future__ import annotations

import torch
from torch import Tensor

from pyhar.models import ActionInput


class FeatureRing:
    """The action part's input of the last T * s frames, of which it gives the clip of every s-th.

    Memory is made once, on the device of the first frame. Each frame is written twice, T places apart, so that any T
    frames in order are one view: neither filling nor reading the ring allocates.
    """

    def __init__(self, clip_frames: int, subsample: int) -> None:
        """clip_frames: T. subsample: s."""
        self.clip_frames = clip_frames
        self.subsample = subsample
        self.count = 0
        """Frames since the beginning."""
        self._blocks: list[ActionInput] = []  # per action block, of each part of its input: (s, 2 T, ...)

    def clear(self) -> None:
        """Begin anew, in the same memory."""
        self.count = 0

    def append(self, seen: list[ActionInput]) -> None:
        """Take in the next frame: (1, ...) tensors, one `ActionInput` per action block."""
        if not self._blocks:
            size = self.subsample, 2 * self.clip_frames
            self._blocks = [block.each(lambda part: part.new_empty(*size, *part.shape[1:])) for block in seen]
        phase, place = self._newest(self.count)
        for block, parts in zip(self._blocks, seen, strict=True):
            for kept, part in zip(block, parts, strict=True):
                if kept is not None and part is not None:
                    kept[phase, place :: self.clip_frames].copy_(part)  # broadcast to both places
        self.count += 1

    def clip(self) -> list[ActionInput]:
        """Views (1, T, ...) of the newest clip, oldest frame first, valid until the next frame comes; there must have
        been (T - 1) * s + 1 frames."""
        assert self.count > (self.clip_frames - 1) * self.subsample
        phase, place = self._newest(self.count - 1)
        window = slice(place + 1, place + 1 + self.clip_frames)
        return [block.each(lambda kept: kept[phase, window].unsqueeze(0)) for block in self._blocks]

    def _newest(self, number: int) -> tuple[int, int]:
        """Where the frame of this number is: its row and its first place in it."""
        return number % self.subsample, number // self.subsample % self.clip_frames


def moved(clips: list[ActionInput], scale: Tensor, shift: Tensor) -> list[ActionInput]:
    """The clips with each frame's coordinates, if any, times `scale` (1, T, 1, dim) plus `shift`, for another crop."""
    return [
        clip if clip.coordinates is None else clip._replace(coordinates=torch.addcmul(shift, clip.coordinates, scale))
        for clip in clips
    ]
