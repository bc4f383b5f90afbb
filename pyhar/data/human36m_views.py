"""Recordings of Human3.6M as each source has them: names, places of media, joints and cameras, brought to one form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyhar.data.geometry import world_to_camera
from pyhar.data.human36m_files import (
    CAMERAS,
    Array,
    Camera,
    Metadata,
    read_annotations,
    read_cameras_h5,
    read_cdf,
    read_metadata,
    read_videopose3d,
)
from pyhar.data.index_builder import IndexBuilder
from pyhar.errors import UserError

ACTIVITIES = (
    "Directions",
    "Discussion",
    "Eating",
    "Greeting",
    "Phoning",
    "Posing",
    "Purchases",
    "Sitting",
    "SittingDown",
    "Smoking",
    "Photo",
    "Waiting",
    "Walking",
    "WalkDog",
    "WalkTogether",
)
"""In the order of metadata.xml, whose actions 2..16 they are."""
_ALSO_CALLED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog", "WalkingTogether": "WalkTogether"}
"""S1's files are called so (the last excepted), and h36m-fetch's folders, after the titles in metadata.xml."""


SKELETONS = {"mono": "D3_Positions_mono", "universal": "D3_Positions_mono_universal"}
"""Folders of joints in camera space, by skeleton."""
DROPPED = ((11, "Directions"),)
"""Recordings that papers leave out: the video of camera 54138969 is damaged."""
_FOLDERS = ("MyPoseFeatures/{}", "Poses_{}")


@dataclass
class View:
    """One recording seen by one camera: all that the index takes of it, before frames are chosen."""

    name: str
    media: str
    subject: int
    activity: str
    camera_name: str
    px: Array | None
    mm: Array
    camera: Array
    numbers: npt.NDArray[np.int64] | None = None
    """File numbers of pictures; None: frames of a video from 0 on."""


def _activity(name: str) -> str | None:
    """The activity that a recording's name begins with, e.g. of "TakingPhoto 1" or "Directions-1"; None: no activity
    that is known."""
    base = re.split(r"[\s\-_.]", name.strip(), maxsplit=1)[0]
    base = _ALSO_CALLED.get(base, base)
    return base if base in ACTIVITIES else None


def _spellings(name: str) -> list[str]:
    """A recording's name, and how the same is called for other subjects."""
    out = [name]
    for long, short in _ALSO_CALLED.items():
        base, _, number = name.partition(" ")
        if base in (long, short):
            out.append(" ".join([short if base == long else long, *([number] if number else [])]))
    return out


def find_source(root: Path) -> str:
    """ "owners", "videopose3d" or "fetch": the first of which `root` has files. Raises UserError if it has none."""
    if any(next(root.glob(f"S*/{folder.format('D[23]_*')}"), None) for folder in _FOLDERS):
        return "owners"
    if (root / "data_3d_h36m.npz").is_file():
        return "videopose3d"
    if _annotation_files(root):
        return "fetch"
    raise UserError(
        f"human36m: {root} has neither S<n>/MyPoseFeatures of the owners, nor data_3d_h36m.npz, nor annot.h5 of "
        "h36m-fetch: give the folder that holds one of these"
    )


def find_metadata(root: Path) -> Path | None:
    """metadata.xml, or else cameras.h5, in `root` or a folder of the owners' code in it."""
    for name in ("metadata.xml", "Release-v1.*/metadata.xml", "cameras.h5", "h36m/cameras.h5"):
        found = sorted(root.glob(name))
        if found:
            return found[-1]
    return None


def read_cameras(path: Path) -> Metadata:
    """metadata.xml or a cameras.h5, told apart by the name's end. Raises UserError as their readers do."""
    return read_cameras_h5(path) if Path(path).suffix in (".h5", ".hdf5") else read_metadata(Path(path))


def find_and_read(root: Path, path: Path | None) -> Metadata:
    """The cameras and names at `path`, or where `find_metadata` finds them. Raises UserError if there are none."""
    path = path if path is not None else find_metadata(root)
    if path is None:
        raise UserError(
            f"human36m: {root} has neither metadata.xml nor cameras.h5: copy metadata.xml from the owners' bundle of "
            "code (Release-v1.2), or name one with the option metadata"
        )
    return read_cameras(path)


def _views_of(
    subject: int, name: str, activity: str, metadata: Metadata, builder: IndexBuilder
) -> Iterator[tuple[str, str, Camera]]:
    """Name, camera's name and camera of the views of a recording; those that have no camera are noted."""
    if (subject, name) in DROPPED:
        builder.skip("dropped by the protocol", f"S{subject}/{name}")
        return
    for camera_name in metadata.camera_names:
        label = f"S{subject}/{name}.{camera_name}"
        if (subject, camera_name) in metadata.cameras:
            yield label, camera_name, metadata.cameras[subject, camera_name]
        else:
            builder.skip("camera missing", label)


def owners(
    root: Path, metadata: Metadata, subjects: Sequence[int], skeleton: str, builder: IndexBuilder
) -> Iterator[View]:
    """The owners' tree: names by the table of metadata.xml (by the files' own names where only cameras are given).
    What cannot be used goes to the builder's list of what was skipped."""
    recordings_of = {subject: _recordings(root / f"S{subject}") for subject in subjects}
    if not any(recordings_of.values()):
        raise UserError(
            f"human36m: {root} has no joints of subjects {', '.join(map(str, subjects))}, "
            "such as S1/MyPoseFeatures/D3_Positions_mono/*.cdf"
        )
    for subject, there in recordings_of.items():
        home = root / f"S{subject}"
        recordings: dict[str, str] = {}
        for (action, _), name in metadata.names.get(subject, {}).items():
            # The table and the files spell some activities differently, from subject to subject.
            spelled = next((spelling for spelling in _spellings(name) if spelling in there), None)
            if spelled is not None:
                recordings[spelled] = ACTIVITIES[action - 2]
            elif there:
                builder.skip("joints missing", f"S{subject}/{name}")
        for stray in sorted(there - set(recordings)):
            activity = _activity(stray)
            if metadata.names or activity is None:
                reason = "not in the table of metadata.xml" if metadata.names else "unknown activity"
                builder.skip(reason, f"S{subject}/{stray}")
            else:
                recordings[stray] = activity
        for name, activity in sorted(recordings.items()):
            for label, camera_name, camera in _views_of(subject, name, activity, metadata, builder):
                stem = f"{name}.{camera_name}"
                mono, flat = _joints(home, SKELETONS[skeleton], stem), _joints(home, "D2_Positions", stem)
                world = _joints(home, "D3_Positions", name) if skeleton == "mono" else None
                if mono is None and world is None:
                    builder.skip("3D joints missing", label)
                    continue
                try:
                    if mono is not None:
                        mm = read_cdf(mono, 3)
                    elif world is not None:
                        mm = world_to_camera(read_cdf(world, 3), camera.rotation, camera.centre)
                    px = None if flat is None else read_cdf(flat, 2)
                except UserError:
                    builder.skip("joints damaged", label)
                    continue
                media = f"S{subject}/Videos/{_video_name(home, name, camera_name)}"
                yield View(label, media, subject, activity, camera_name, px, mm, camera.numbers)


def _joints(home: Path, kind: str, stem: str) -> Path | None:
    places = (home / folder.format(kind) / f"{stem}.cdf" for folder in _FOLDERS)
    return next((place for place in places if place.is_file()), None)


def _recordings(home: Path) -> set[str]:
    """Names of the recordings of which a subject's folder has joints."""
    kinds = ("D2_Positions", "D3_Positions", *SKELETONS.values())
    files = (path for kind in kinds for folder in _FOLDERS for path in (home / folder.format(kind)).glob("*.cdf"))
    names = {re.sub(r"\.\d{8}$", "", path.stem) for path in files}
    # Names that begin with a dot are what macOS adds to the files of others.
    return {name for name in names if not name.startswith(("_ALL", "."))}


def _video_name(home: Path, name: str, camera_name: str) -> str:
    files = [f"{spelling}.{camera_name}.mp4" for spelling in _spellings(name)]
    return next((file for file in files if (home / "Videos" / file).is_file()), files[0])


def videopose3d(root: Path, metadata: Metadata, subjects: Sequence[int], builder: IndexBuilder) -> Iterator[View]:
    """World joints of data_3d_h36m.npz through each camera; videos where the owners' tree has them."""
    poses = read_videopose3d(root / "data_3d_h36m.npz")
    for subject in subjects:
        for name, world in sorted(poses.get(subject, {}).items()):
            activity = _activity(name)
            if activity is None:
                builder.skip("unknown activity", f"S{subject}/{name}")
                continue
            for label, camera_name, camera in _views_of(subject, name, activity, metadata, builder):
                media = f"S{subject}/Videos/{_video_name(root / f'S{subject}', name, camera_name)}"
                mm = world_to_camera(world, camera.rotation, camera.centre)
                yield View(label, media, subject, activity, camera_name, None, mm, camera.numbers)


def _annotation_files(root: Path) -> list[Path]:
    return sorted(path for pattern in ("S*/*/annot.h5", "processed/S*/*/annot.h5") for path in root.glob(pattern))


def fetch(
    root: Path, metadata: Metadata | None, subjects: Sequence[int], skeleton: str, builder: IndexBuilder
) -> Iterator[View]:
    """Pictures and annot.h5 of h36m-fetch. Without metadata its cameras are the pinholes that it fitted itself."""
    files = _annotation_files(root)
    if not files:
        raise UserError(f"human36m: {root} has no annot.h5 of h36m-fetch, such as S1/Directions-1/annot.h5")
    for path in files:
        folder = path.parent.relative_to(root).as_posix()
        activity = _activity(path.parent.name)
        try:
            cameras = read_annotations(path)
        except UserError:
            builder.skip("joints damaged", folder)
            continue
        for name, found in cameras.items():
            subject, numbers, px = found["subject"], found["frame"], found["px"]
            label = f"S{subject}/{path.parent.name}.{name}"
            mm = found["mm" if skeleton == "mono" else "universal"]
            known = None if metadata is None else metadata.cameras.get((subject, name))
            lens = found["pinhole"] if known is None else known.numbers
            pictures = f"{folder}/imageSequence/{name}/img_%06d.jpg"
            there = np.array([(root / (pictures % number)).is_file() for number in numbers], dtype=bool)
            if subject not in subjects:
                continue
            # The second recording of S11's Directions is the owners' "Directions".
            if (subject, path.parent.name) == (11, "Directions-2"):
                builder.skip("dropped by the protocol", label)
            elif activity is None:
                builder.skip("unknown activity", label)
            elif mm is None:
                builder.skip(f"3D joints missing (skeleton {skeleton!r})", label)
            elif lens is None or name not in CAMERAS:
                builder.skip("camera missing", label)
            elif not there.any():
                builder.skip("pictures missing", label)
            else:
                for number in numbers[~there]:
                    builder.skip("picture missing", f"{label}/{number:06d}")
                camera = np.concatenate([lens, np.zeros(9 - len(lens))])
                yield View(label, pictures, subject, activity, name, px[there], mm[there], camera, numbers[there])
