"""Writes Human3.6M as its owners ship it, and as VideoPose3D, 3d-pose-baseline and h36m-fetch convert it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cdflib.cdfwrite
import cv2
import h5py
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation
from writers.videos import person, write_video

Array = npt.NDArray[np.float64]

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
SIZES = {"54138969": (1000, 1002), "55011271": (1000, 1000), "58860488": (1000, 1000), "60457274": (1000, 1002)}
# fx, fy, cx, cy, k1, k2, k3, p1, p2: the size of the real ones.
INTRINSICS = {
    "54138969": [1145.3, 1143.9, 512.4, 515.2, -0.207, 0.248, -0.0031, -0.00142, -0.00098],
    "55011271": [1149.7, 1147.6, 508.8, 508.1, -0.194, 0.240, 0.0068, -0.00274, -0.00161],
    "58860488": [1149.1, 1148.8, 519.8, 501.4, -0.208, 0.256, -0.0008, -0.00043, 0.00149],
    "60457274": [1145.6, 1144.8, 514.9, 501.9, -0.198, 0.219, -0.0089, 0.00181, -0.00059],
}
ACTIONS = (
    "_ALL",
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
    "TakingPhoto",
    "Waiting",
    "Walking",
    "WalkingDog",
    "WalkingTogether",
)
"""The titles in metadata.xml, and so h36m-fetch's names of folders; files are called otherwise."""
# Where the joints of "pa17" lie among the owners' 32; the rest is made from these.
_SOURCE = dict(zip((0, 12, 13, 15, 25, 17, 26, 18, 27, 19, 1, 6, 2, 7, 3, 8), range(16), strict=True))


def joints32(frames: int, seed: int) -> Array:
    """World joints (frames, 32, 3), every one at a place of its own; joint 11 lies near the root."""
    pa17 = person(frames, seed=seed)
    rng = np.random.default_rng(seed)
    out = np.empty((frames, 32, 3))
    for joint in range(32):
        near = _SOURCE.get(joint, 0 if joint == 11 else 3 if joint in (14, 16, 24) else 6 + joint % 10)
        out[:, joint] = pa17[:, near] + (0 if joint in _SOURCE else rng.normal(0, 30, 3))
    return out.astype(np.float32).astype(np.float64)


@dataclass
class View:
    """A camera of a subject: X_c = rotation (X_w - centre). numbers: as the owners list them."""

    angles: Array
    centre: Array
    numbers: Array

    @property
    def lens(self) -> Array:
        """The numbers as a sample has them: of the last two, that which goes with x first."""
        return np.concatenate([self.numbers[:7], self.numbers[:6:-1]])

    @property
    def rotation(self) -> Array:
        return Rotation.from_euler("XYZ", self.angles).as_matrix()

    def to_camera(self, world: Array) -> Array:
        return np.einsum("ij,...j->...i", self.rotation, world - self.centre)

    def to_pixels(self, mm: Array) -> Array:
        """As the owners' code projects, component by component."""
        fx, fy, cx, cy, k1, k2, k3, p1, p2 = self.numbers
        x, y = mm[..., 0] / mm[..., 2], mm[..., 1] / mm[..., 2]
        r2 = x * x + y * y
        factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * y + p2 * x
        return np.stack([fx * (x * factor + p2 * r2) + cx, fy * (y * factor + p1 * r2) + cy], axis=-1)


def view(subject: int, camera: str) -> View:
    """A camera that looks at the middle of the room from 4.5 m."""
    place = CAMERAS.index(camera)
    turn = np.pi / 4 + place * np.pi / 2 + 0.05 * subject
    centre = np.array([4500 * np.cos(turn), 4500 * np.sin(turn), 1500.0 + 10 * subject])
    forward = np.array([0.0, 0.0, 950.0]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    tilt = Rotation.from_rotvec([0.01 * subject, 0.0, 0.02]).as_matrix()
    angles = Rotation.from_matrix(tilt @ rotation).as_euler("XYZ")
    return View(angles, centre, np.array(INTRINSICS[camera]))


@dataclass
class Recording:
    """One performance: what the loader should find."""

    subject: int
    name: str
    action: int
    """As in metadata.xml, 2..16."""
    subaction: int
    world: Array
    in_table: str | None = None
    """Its name in metadata.xml, where that is not its name on disk."""


@dataclass
class DataSet:
    recordings: list[Recording]
    cameras: tuple[str, ...] = CAMERAS
    views: dict[tuple[int, str], View] = field(default_factory=dict)

    def view(self, recording: Recording, camera: str) -> View:
        return self.views.setdefault((recording.subject, camera), view(recording.subject, camera))


def example(frames: int = 12, cameras: tuple[str, ...] = CAMERAS) -> DataSet:
    """Both spellings of names, numbered and plain recordings, training and test subjects, and one that is left out."""
    made = [
        (1, "Directions 1", 2, 1, None),
        (1, "TakingPhoto", 12, 2, None),
        (5, "WalkDog 1", 15, 1, "WalkingDog 1"),
        (9, "Photo 1", 12, 1, None),
        (11, "Directions", 2, 2, None),
        (11, "Directions 1", 2, 1, None),
        (11, "WalkTogether", 16, 2, None),
    ]
    return DataSet(
        [Recording(s, n, a, b, joints32(frames + i % 2, seed=i), table) for i, (s, n, a, b, table) in enumerate(made)],
        cameras,
    )


def write_metadata(path: Path, data: DataSet) -> None:
    """metadata.xml: a table of names and the numbers w0 as MATLAB prints them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subjects = range(1, 12)
    names = {(r.subject, r.action, r.subaction): r.in_table or r.name for r in data.recordings}
    heading = "".join(f"<td>{cell}</td>" for cell in ("Action", "Subaction", *(f"S{s}" for s in subjects)))
    rows = [f"<tr>{heading}</tr>"]
    for action, title in enumerate(ACTIONS, 1):
        for subaction in (1, 2):
            plain = f"{title} 1" if subaction == 1 else title
            cells = [names.get((s, action, subaction), "" if action == 4 else plain) for s in subjects]
            rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in (action, subaction, *cells)) + "</tr>")
    sizes = "".join(f"<td>[{';'.join(f'{h} {w}' for w, h in SIZES.values())}]</td>" for _ in subjects)
    rows.append(f"<tr><td></td><td></td>{sizes}</tr>")
    numbers = [n for c in CAMERAS for s in subjects for n in (*view(s, c).angles, *view(s, c).centre)]
    for (subject, camera), one in data.views.items():
        start = 6 * (CAMERAS.index(camera) * 11 + subject - 1)
        numbers[start : start + 6] = [*one.angles, *one.centre]
    numbers += [n for c in CAMERAS for n in INTRINSICS[c]]
    titles = "".join(f"<action>{title}</action>" for title in ACTIONS)
    ids = "".join(f"<id>{camera}</id>" for camera in CAMERAS)
    path.write_text(
        f"<?xml version='1.0'?><metadata><mapping>{''.join(rows)}</mapping><actionnames>{titles}</actionnames>"
        f"<dbcameras><index2id>{ids}</index2id></dbcameras>"
        f"<w0>[{' '.join(f'{n:.15g}' for n in numbers)}]</w0></metadata>"
    )


def write_cdf(path: Path, pose: Array, variable: str = "Pose") -> None:
    """One record of T rows, 32 joints side by side, single precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = np.ascontiguousarray(pose.reshape(len(pose), -1), dtype=np.float32)
    path.unlink(missing_ok=True)
    cdf = cdflib.cdfwrite.CDF(path)
    spec = {
        "Variable": variable,
        "Data_Type": cdf.CDF_FLOAT,
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(flat.shape),
    }
    cdf.write_var(spec, var_data=flat[None])
    cdf.close()


@cache
def _blank_video(size: tuple[int, int], frames: int) -> bytes:
    """Encoded once: what is in the videos does not matter here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blank.mp4"
        write_video(path, [np.empty((0, 2))] * frames, size, 50, "mp4v")
        return path.read_bytes()


def write_videos(root: Path, data: DataSet) -> None:
    """S<n>/Videos."""
    for r in data.recordings:
        for camera in data.cameras:
            path = root / f"S{r.subject}" / "Videos" / f"{r.name}.{camera}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_blank_video(SIZES[camera], len(r.world)))


def write_owners(root: Path, data: DataSet, metadata: bool = True) -> None:
    """The owners' tree."""
    write_videos(root, data)
    if metadata:
        write_metadata(root / "metadata.xml", data)
    for r in data.recordings:
        folder = root / f"S{r.subject}" / "MyPoseFeatures"
        write_cdf(folder / "D3_Positions" / f"{r.name}.cdf", r.world)
        for camera in data.cameras:
            one = data.view(r, camera)
            mm = one.to_camera(r.world)
            write_cdf(folder / "D2_Positions" / f"{r.name}.{camera}.cdf", one.to_pixels(mm))
            write_cdf(folder / "D3_Positions_mono" / f"{r.name}.{camera}.cdf", mm)
            universal = folder / "D3_Positions_mono_universal" / f"{r.name}.{camera}.cdf"
            write_cdf(universal, universal_of(mm))


def universal_of(mm: Array) -> Array:
    """A skeleton of another size about the same root."""
    return mm[:, :1] + 0.93 * (mm - mm[:, :1])


def write_videopose3d(path: Path, data: DataSet) -> None:
    """data_3d_h36m.npz: metres, single precision, a dictionary in an object array."""
    positions: dict[str, dict[str, Any]] = {}
    for r in data.recordings:
        name = r.name.replace("TakingPhoto", "Photo").replace("WalkingDog", "WalkDog")
        positions.setdefault(f"S{r.subject}", {})[name] = (r.world / 1000).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, positions_3d=np.array(positions, dtype=object))


def write_cameras_h5(path: Path, data: DataSet) -> None:
    """cameras.h5 of 3d-pose-baseline: as MATLAB writes it, transposed, names as character codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for subject in range(1, 12):
            for place, camera in enumerate(CAMERAS, 1):
                one = data.views.get((subject, camera), view(subject, camera))
                group = file.create_group(f"subject{subject}/camera{place}")
                group["R"] = one.rotation.T
                group["T"] = one.centre[:, None]
                group["f"], group["c"] = one.numbers[:2, None], one.numbers[2:4, None]
                group["k"], group["p"] = one.numbers[4:7, None], one.numbers[7:, None]
                group["Name"] = np.array([[ord(letter)] for letter in camera], dtype=np.uint16)
        file["rgb"] = np.zeros(3)


def write_fetch(root: Path, data: DataSet, frames: dict[str, list[int]], pinhole: bool = False) -> None:
    """processed/S<n>/<Activity>-<k>/annot.h5 and imageSequence/<camera>/img_%06d.jpg; frames: rows by split."""
    for r in data.recordings:
        rows = np.array(frames["test" if r.subject in (9, 11) else "train"])
        folder = root / "processed" / f"S{r.subject}" / f"{ACTIONS[r.action - 1]}-{r.subaction}"
        folder.mkdir(parents=True)
        columns: dict[str, list[Any]] = {}
        with h5py.File(folder / "annot.h5", "w") as file:
            for camera in data.cameras:
                one = data.view(r, camera)
                mm = one.to_camera(r.world[rows])
                px = one.to_pixels(mm)
                if pinhole:
                    px = mm[..., :2] / mm[..., 2:] * one.numbers[:2] + one.numbers[2:4]
                for key, values in {
                    "pose/2d": px,
                    "pose/3d": mm,
                    "pose/3d-univ": universal_of(mm),
                    "frame": rows + 1,
                    "camera": np.full(len(rows), int(camera)),
                    "subject": np.full(len(rows), r.subject),
                    "action": np.full(len(rows), r.action),
                    "subaction": np.full(len(rows), r.subaction),
                }.items():
                    columns.setdefault(key, []).append(values)
                fx, fy, cx, cy = one.numbers[:4]
                file[f"intrinsics/{camera}"] = np.array([fx, cx, fy, cy])
                width, height = SIZES[camera]
                for number in rows + 1:
                    path = folder / "imageSequence" / camera / f"img_{number:06d}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
            for key, parts in columns.items():
                file[key] = np.concatenate(parts)
