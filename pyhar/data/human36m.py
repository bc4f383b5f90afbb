"""Human3.6M: seven subjects, fifteen activities, four cameras; 3D joints of a motion capture system.

`read` takes the owners' tree (S<n>/Videos/*.mp4 and S<n>/MyPoseFeatures/*/*.cdf beside their metadata.xml), or what
others made of it: VideoPose3D's data_3d_h36m.npz, or the pictures and annot.h5 of h36m-fetch. Ionescu et al.,
Human3.6M, TPAMI 2014.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyhar.data.geometry import project
from pyhar.data.human36m_views import (
    ACTIVITIES,
    SKELETONS,
    View,
    fetch,
    find_and_read,
    find_metadata,
    find_source,
    owners,
    read_cameras,
    videopose3d,
)
from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import PA17
from pyhar.data.parsing import check_splits, read_video_header
from pyhar.errors import UserError, unknown_name

JOINTS: dict[str, tuple[int, ...]] = {
    "release": (0, 12, 13, 15, 25, 17, 26, 18, 27, 19, 1, 6, 2, 7, 3, 8, 11),
    "standard": (0, 13, 14, 15, 25, 17, 26, 18, 27, 19, 1, 6, 2, 7, 3, 8, 12),
}
"""Which of the owners' 32 joints stand for the joints of layout "pa17", by convention.

"release": as in the authors' code, with which the paper's figures were made. Its thorax is the middle of the spine, its
neck the thorax, and its spine is joint 11, which lies on the root; joint 14 (neck, or nose) is left out. "standard":
the 17 joints that other papers evaluate. An average error over the one set is not comparable with the other's.
"""
SPLITS = {1: "train", 5: "train", 6: "train", 7: "train", 8: "train", 9: "test", 11: "test"}
"""The usual split by subjects."""
WINDOW_MM = 2250.0
"""Side of the square, at the root's depth, that a crop shows, as in the authors' code."""
_TOLERANCE_PX = 5.0


def read(
    root: Path,
    *,
    source: str = "auto",
    joints: str = "release",
    skeleton: str = "mono",
    metadata: Path | None = None,
    train_step: int = 5,
    test_step: int = 64,
    subjects: Sequence[int] | None = None,
    window_mm: float = WINDOW_MM,
    check_media: bool = True,
    required: Iterable[str] = (),
) -> Index:
    """Index the data set under `root`; classes are the 15 activities, both recordings of each merged.

    source: "owners", "videopose3d" or "fetch" (h36m-fetch), or "auto" for the first of these that is there. joints: a
    convention of `JOINTS`. skeleton: the subject's own ("mono") or the owners' "universal" one. metadata: metadata.xml
    or the community's cameras.h5; None: either, where it lies in `root` or a folder of the owners' code in it.
    h36m-fetch needs none, but then its cameras have no lens distortion. train_step, test_step: take every how many
    frames. subjects: only these. window_mm: side of the box around the root, at its depth. check_media: open
    each video (and the first picture of each folder) to compare its size and length with the annotations. required:
    splits that must not be empty.

    Every frame taken is a still, by the index's note "stills".

    Joints are in camera millimetres and pixels, as the owners give them (projected, where they give none); a joint at
    NaN or the origin is unknown, all others count as visible, since occlusion is not annotated. What is missing,
    damaged or contradictory is left out, and named in notes["skipped"] by reason; recordings whose pixels and
    millimetres disagree by more than five pixels are named in notes["disagree"], shortened ones in notes["cut"].

    Raises UserError if there is nothing to read, a required split would be empty, the metadata are missing or damaged,
    or an option is unknown.
    """
    root = Path(root)
    if joints not in JOINTS:
        raise unknown_name("joint convention of human36m", joints, JOINTS)
    if skeleton not in SKELETONS:
        raise unknown_name("skeleton of human36m", skeleton, SKELETONS)
    if min(train_step, test_step) < 1:
        raise UserError(f"human36m: every {train_step} and {test_step} frames cannot be taken; give at least 1")
    if not window_mm > 0:
        raise UserError(f"human36m: a window of {window_mm} mm shows nothing; give more than 0")
    wanted = tuple(SPLITS) if subjects is None else tuple(subjects)
    for subject in wanted:
        if subject not in SPLITS:
            raise UserError(f"human36m: no joints are published of subject {subject}; choose of {tuple(SPLITS)}")
    if not root.is_dir():
        raise UserError(f"human36m: there is no folder {root}")
    source = find_source(root) if source == "auto" else source
    builder = IndexBuilder("human36m", PA17, ACTIVITIES)
    if source == "owners":
        views = owners(root, find_and_read(root, metadata), wanted, skeleton, builder)
    elif source == "videopose3d":
        views = videopose3d(root, find_and_read(root, metadata), wanted, builder)
    elif source == "fetch":
        path = metadata if metadata is not None else find_metadata(root)
        views = fetch(root, None if path is None else read_cameras(path), wanted, skeleton, builder)
    else:
        raise unknown_name("source of human36m", source, ("owners", "videopose3d", "fetch"))
    steps = {"train": train_step, "test": test_step}
    notes = _fill(builder, root, views, JOINTS[joints], steps, window_mm, check_media, skeleton == "mono")
    index = builder.build(
        source=source,
        joint_convention=joints,
        owners_joints=list(JOINTS[joints]),
        skeleton=skeleton,
        steps=steps,
        stills={"train": 1, "test": 1},
        window_mm=window_mm,
        box_margin=0.0,
        **notes,
    )
    return check_splits(index, required)


def _fill(
    builder: IndexBuilder,
    root: Path,
    views: Iterator[View],
    joints: Sequence[int],
    steps: dict[str, int],
    window_mm: float,
    check_media: bool,
    check_joints: bool,
) -> dict[str, Any]:
    """Add every recording to the index; returns notes about them all."""
    order, sizes, largest = list(joints), dict[str, list[int]](), 0.0
    disagree: dict[str, float] = {}
    cut: dict[str, list[str]] = {}
    for view in views:
        split, length = SPLITS[view.subject], len(view.mm)
        if view.px is not None and len(view.px) != length:
            cut.setdefault("2D and 3D joints of different length", []).append(view.name)
            length = min(length, len(view.px))
        if check_media:
            wrong, size, frames = _check_medium(root, view)
            if wrong is not None:
                builder.skip(wrong, view.name)
                continue
            sizes[view.camera_name] = size
            if 0 < frames < length:
                cut.setdefault("video shorter than its joints", []).append(view.name)
                length = frames
        if length < 1:
            builder.skip("no frames", view.name)
            continue
        rows, pieces = _choose_frames(view, length, steps[split])
        mm = view.mm[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            projected = project(torch.from_numpy(mm)[None], torch.from_numpy(view.camera)[None])[0].numpy()
            half = 0.5 * window_mm * view.camera[:2] / mm[:, order[0], 2:]
        projected[~(mm[..., 2] > 0)] = np.nan
        px = projected if view.px is None else view.px[rows]
        if check_joints:
            apart = np.abs(px - projected)[(px != 0).any(axis=-1)]
            worst = float(apart[np.isfinite(apart)].max(initial=0.0))
            largest = max(largest, worst)
            if worst > _TOLERANCE_PX:
                disagree[view.name] = round(worst, 2)
        mm, px = mm[:, order], px[:, order]
        box = np.concatenate([px[:, 0] - half, px[:, 0] + half], axis=-1)
        for label, part, medium, kind, first, step in pieces:
            builder.add(
                name=f"human36m/{label}",
                media=medium,
                kind=kind,
                split=split,
                joints_px=px[part],
                joints_mm=mm[part],
                box=box[part],
                action=ACTIVITIES.index(view.activity),
                subject=view.subject,
                camera=view.camera,
                first_frame=first,
                frame_step=step,
            )
    extra = {name: found for name, found in (("disagree", disagree), ("cut", cut)) if found}
    return {"image_sizes": sizes, "reprojection_px": largest, **extra}


def _check_medium(root: Path, view: View) -> tuple[str | None, list[int], int]:
    """Why a recording's medium cannot serve (None: it can), its size, and its frames (0: unknown)."""
    from pyhar.data.frames import picture_size

    frames = 0
    try:
        if view.numbers is None:
            if not (root / view.media).is_file():
                return "video missing from S<n>/Videos/", [], 0
            header = read_video_header(root / view.media)
            width, height, frames = header.width, header.height, header.frames
        else:
            width, height = picture_size(root / (view.media % view.numbers[0]))
    except UserError:
        return "video damaged" if view.numbers is None else "pictures damaged", [], 0
    # The axis of a lens leaves the picture near its middle: otherwise the picture was made smaller, or cropped.
    away = np.abs(view.camera[2:4] / [width, height] - 0.5)
    if not (away < 0.25).all():
        return f"pictures of {width} x {height} pixels, which is not what the camera took", [], 0
    return None, [width, height], frames


def _choose_frames(
    view: View, length: int, step: int
) -> tuple[npt.NDArray[np.int64], list[tuple[str, slice, str, str, int, int]]]:
    """Rows to take, and sequences to make of them: name, rows, medium, kind, first frame, step."""
    if view.numbers is None:
        rows = np.arange(0, length, step)
        return rows, [(view.name, slice(None), view.media, "video", 0, step)]
    numbers = view.numbers[:length]
    gaps = np.diff(numbers)
    if len(gaps) == 0 or (gaps == gaps[0]).all():
        # Pictures of every n-th frame: thin them out where that gives the step asked for.
        apart = int(gaps[0]) if len(gaps) else 1
        stride = step // apart if step % apart == 0 else 1
        rows = np.arange(0, length, stride)
        return rows, [(view.name, slice(None), view.media, "frames", int(numbers[0]), apart * stride)]
    # Pictures of frames in which the subject moved: no even step, so each is a picture of its own.
    rows = np.arange(length)
    return rows, [
        (f"{view.name}/{number:06d}", slice(row, row + 1), view.media % number, "picture", 0, 1)
        for row, number in enumerate(numbers)
    ]
