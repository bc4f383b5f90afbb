"""The embedded data as data sets: stills for pose batches, clips for action batches, in the form of
`pyhar.data.sample`.

Training draws a new subject, scene and performance for every (index, draw), so it never repeats; without augmentation
a data set is fixed. Sample i shows action i modulo the number of actions.

In a mirrored sample the picture is mirrored by `to_crop`, and the person in it is the mirror image: "right wrist" is
what looks like a right wrist there. All keys by joint follow that order, while `joints_px`, `joints_mm` and `camera`
stay in the picture as it was filmed; so `to_crop` takes `joints_px` to `pose`, and `camera` takes `joints_mm` to
`joints_px`, joint by joint, mirrored or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pyhar.data.augment import Augmentation, Crop, choose_augmentation, draw_crop
from pyhar.data.clips import centre_clip, random_clip
from pyhar.data.geometry import crop_map, square_box, to_crop_pixels
from pyhar.data.layouts import PA17, JointLayout
from pyhar.data.sample import DEPTH_RANGE_MM, TIMED_KEYS, Sample
from pyhar.data.synthetic.motion import ACTION_NAMES
from pyhar.data.synthetic.video import Video, draw_seeds
from pyhar.errors import UserError

Array = npt.NDArray[np.float64]

BOX_MARGIN = 0.25
"""The crop is this share larger than the longer side of the joints' box."""


class _Synthetic:
    """What stills and clips share."""

    layout: JointLayout = PA17
    action_names: tuple[str, ...] = ACTION_NAMES
    _kind: str

    def __init__(
        self,
        split: str,
        image_size: int,
        seed: int,
        size: int | None,
        default_size: int,
        augment: bool | str | Augmentation | None,
    ) -> None:
        if image_size < 8:
            raise UserError(f"image_size must be at least 8 pixels, not {image_size}")
        if size is not None and size < 1:
            raise UserError(f"size must be at least 1 sample, not {size}")
        if seed < 0:
            raise UserError(f"seed must be at least 0, not {seed}")
        draw_seeds(split, np.random.default_rng(0))  # An unknown split is refused here rather than at the first sample.
        self.split = split
        self.image_size = image_size
        self.seed = seed
        self.augmentation = choose_augmentation(split == "train" if augment is None else augment, Augmentation())
        self._size = default_size if size is None else size

    def __len__(self) -> int:
        return self._size

    def _key(self, key: int | tuple[int, int]) -> tuple[int, int]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of synthetic/{self.split}/{self._kind}, which has {len(self)}")
        return index, draw if self.augmentation is not None else 0

    def video(self, index: int) -> Video:
        """The performance that sample `index` shows, draw 0. Raises IndexError for an index outside the data set."""
        return self._video(*self._key(index))[0]

    def _video(self, index: int, draw: int) -> tuple[Video, np.random.Generator]:
        """The video of a sample and the generator that draws all else about it."""
        rng = np.random.default_rng([self.seed, len(self._kind), index, draw])
        return Video(index % len(ACTION_NAMES), draw_seeds(self.split, rng)), rng

    def _sample(self, index: int, video: Video, frames: npt.NDArray[np.int64], crop: Crop) -> Sample:
        """A clip of the given frames."""
        size, count = self.image_size, len(frames)
        shot = video.shoot(frames)
        truth = shot.truth()
        points = truth.joints_px.reshape(-1, 2)
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        to_crop = crop_map(
            square_box(box, BOX_MARGIN), rotation=crop.rotation, scale=crop.scale, shift=crop.shift, flip=crop.flip
        )
        pictures = shot.pictures(to_crop_pixels(to_crop, size), size, size, crop.colour_power)

        order = list(self.layout.flip) if crop.flip else slice(None)
        joints_mm, joints_px, visible = truth.joints_mm[:, order], truth.joints_px[:, order], truth.visible[:, order]
        xy = joints_px @ to_crop[:2, :2].T + to_crop[:2, 2]
        root = joints_mm[:, self.layout.root, 2]
        z = 0.5 + (joints_mm[..., 2] - root[:, None]) / DEPTH_RANGE_MM
        inside = ((xy >= 0) & (xy <= 1)).all(axis=-1)
        return Sample(
            frames=torch.from_numpy(pictures),
            colour_power=torch.ones(3),  # The camera has done it already.
            pose=_float(np.concatenate([xy, z[..., None]], axis=-1)),
            pose_valid=torch.ones(count, len(self.layout.joints), 3, dtype=torch.bool),
            confidence=_float(inside),
            visible=torch.from_numpy(visible & inside),
            action=torch.tensor(video.action),
            action_head=torch.tensor(0),
            joints_px=_float(joints_px),
            joints_mm=_float(joints_mm),
            root_depth=_float(root),
            camera=_float(np.pad(video.scene.camera, (0, 5))),
            to_crop=torch.from_numpy(to_crop),
            head_size=_float(truth.head_size),
            box=_float(box),
            subject=torch.tensor(video.seeds.subject),
            index=torch.tensor(index),
            name=f"synthetic/{self.split}/{self._kind}/{index:06d}",
        )


def _float(values: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


class SyntheticPoses(_Synthetic):
    """Stills: a random frame of a random performance.

    split: "train", "val" or "test". augment: True, False, a name from `pyhar.data.augment.AUGMENTATIONS` (nothing is
    erased here) or ranges; None: as the split is "train" or not. size: number of samples. Raises UserError for an
    unknown split or a value out of range, IndexError for an index outside the data set.
    """

    _kind = "still"

    def __init__(
        self,
        split: str,
        image_size: int = 128,
        seed: int = 0,
        size: int | None = None,
        augment: bool | str | Augmentation | None = None,
    ) -> None:
        super().__init__(split, image_size, seed, size, 8192 if split == "train" else 560, augment)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, draw = self._key(key)
        video, rng = self._video(index, draw)
        frame = rng.integers(video.num_frames, size=1)
        sample = self._sample(index, video, frame, draw_crop(self.augmentation, rng) if self.augmentation else Crop())
        for name in TIMED_KEYS:
            sample[name] = sample[name][0]  # type: ignore[literal-required]
        return sample


class SyntheticClips(_Synthetic):
    """Clips: one of each video; any other with `clip`.

    `subsample` is what evaluation uses: frames around the middle of a video, every `subsample`-th. Augmentation
    begins anywhere and draws the step. The rest is as for `SyntheticPoses`.
    """

    _kind = "clip"

    def __init__(
        self,
        split: str,
        image_size: int = 128,
        clip_frames: int = 8,
        seed: int = 0,
        size: int | None = None,
        augment: bool | str | Augmentation | None = None,
        subsample: int = 5,
    ) -> None:
        super().__init__(split, image_size, seed, size, 2016 if split == "train" else 280, augment)
        centre_clip(1, clip_frames, subsample)  # Refuses clips without frames.
        self.clip_frames = clip_frames
        self.subsample = subsample

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, draw = self._key(key)
        video, rng = self._video(index, draw)
        if self.augmentation is None:
            return self._sample(index, video, centre_clip(video.num_frames, self.clip_frames, self.subsample), Crop())
        low, high = self.augmentation.subsample
        frames = random_clip(video.num_frames, self.clip_frames, int(rng.integers(low, high + 1)), rng)
        return self._sample(index, video, frames, draw_crop(self.augmentation, rng))

    def num_frames(self, video: int) -> int:
        """Frames of a video."""
        return self.video(video).num_frames

    def clip(self, video: int, frame_indices: Sequence[int], flip: bool = False) -> Sample:
        """The clip of these frames without augmentation; flip: mirrored, joints swapped. Raises IndexError for frames
        there are not."""
        made = self.video(video)
        frames = np.asarray(frame_indices, dtype=np.int64)
        if frames.ndim != 1 or not len(frames):
            raise UserError(f"clip of video {video}: give a list of at least one frame")
        if frames.min() < 0 or frames.max() >= made.num_frames:
            raise IndexError(f"clip of video {video}: frames {frames.min()}..{frames.max()} of {made.num_frames}")
        return self._sample(self._key(video)[0], made, frames, Crop(flip=flip))
