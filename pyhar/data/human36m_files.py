"""The files of Human3.6M, one function each: the owners' .cdf and metadata.xml, and what others made of them.

Nothing here knows of splits or joint conventions: `pyhar.data.human36m` puts the pieces together. Poses are (T, 32, 2)
pixels or (T, 32, 3) millimetres, float64.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.hdf5 import DAMAGED, MOST_DEFLATED, read_array
from pyhar.data.safe_pickle import load_object_array
from pyhar.errors import UserError, reason

Array = npt.NDArray[np.float64]

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
"""The owners' names of the four cameras, in the order of metadata.xml."""
NUM_JOINTS = 32
_CDF_3 = bytes.fromhex("cdf300010000ffff")
_SUBJECTS = 11
_EXTRINSICS = 6 * _SUBJECTS * len(CAMERAS)
_INTRINSICS = 9 * len(CAMERAS)
# The owners' two tangential numbers go with y and with x, in this order.
_LENS = [0, 1, 2, 3, 4, 5, 6, 8, 7]


@dataclass(frozen=True)
class Camera:
    """One camera as it stood for one subject: X_c = rotation (X_w - centre), millimetres; numbers: fx, fy, cx, cy, k1,
    k2, k3, p_x, p_y as `pyhar.data.geometry.project` takes them."""

    rotation: Array
    centre: Array
    numbers: Array


@dataclass
class Metadata:
    """What metadata.xml or a file of cameras says. `names`: by subject, (action 2..16, subaction 1..2) -> the name
    that the subject's files begin with; empty if the file gives cameras only."""

    cameras: dict[tuple[int, str], Camera]
    names: dict[int, dict[tuple[int, int], str]] = field(default_factory=dict)
    camera_names: tuple[str, ...] = CAMERAS


def euler_rotation(x: float, y: float, z: float) -> Array:
    """The rotation Rx(x) Ry(y) Rz(z) from world to camera that three angles (radians) of metadata.xml mean."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    return about_x @ about_y @ about_z


def read_metadata(path: Path) -> Metadata:
    """The owners' metadata.xml: the names of recordings by subject, and the cameras.

    Raises UserError if it is missing, no XML, or lacks the table `mapping` or the 300 numbers of `w0`.
    """
    try:
        root = ET.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: of an encoding that is not known
        raise UserError(f"{path} is damaged ({error}): copy it again from the owners' bundle of code") from error
    mapping, w0 = root.find("mapping"), root.find("w0")
    if mapping is None or w0 is None or not w0.text:
        raise UserError(f"{path} has no 'mapping' or no 'w0': it is not the metadata.xml of Human3.6M")
    try:
        numbers = np.array([float(number) for number in re.split(r"[\s,;]+", w0.text.strip().strip("[]").strip())])
    except ValueError as error:
        raise UserError(f"{path}: 'w0' holds something that is no number ({reason(error)})") from error
    if len(numbers) < _EXTRINSICS + _INTRINSICS:
        raise UserError(f"{path}: 'w0' has {len(numbers)} numbers, expected {_EXTRINSICS + _INTRINSICS}")
    if not np.isfinite(numbers).all():
        raise UserError(f"{path}: 'w0' holds NaN or infinite numbers: copy it again from the owners' bundle of code")
    ids = tuple((one.text or "").strip() for one in root.findall("dbcameras/index2id/*"))[: len(CAMERAS)]
    camera_names = ids if len(ids) == len(CAMERAS) and all(ids) else CAMERAS
    cameras = {}
    for place, name in enumerate(camera_names):
        intrinsics = numbers[_EXTRINSICS + 9 * place :][:9][_LENS]
        for subject in range(1, _SUBJECTS + 1):
            angles_and_centre = numbers[6 * (place * _SUBJECTS + subject - 1) :][:6]
            cameras[subject, name] = Camera(
                euler_rotation(*angles_and_centre[:3]), angles_and_centre[3:].copy(), intrinsics.copy()
            )
    return Metadata(cameras, _names(mapping), camera_names)


def _names(mapping: ET.Element) -> dict[int, dict[tuple[int, int], str]]:
    """The table of metadata.xml: a heading of subjects, then rows of action, subaction and a name for each subject."""
    subjects: dict[int, int] = {}
    names: dict[int, dict[tuple[int, int], str]] = {}
    for row in mapping:
        cells = [(cell.text or "").strip() for cell in row]
        if not subjects:
            subjects = {column: int(text[1:]) for column, text in enumerate(cells) if re.fullmatch(r"S\d{1,3}", text)}
            continue
        if len(cells) < 2 or not all(re.fullmatch(r"\d{1,3}", cell) for cell in cells[:2]):
            continue
        key = int(cells[0]), int(cells[1])
        if not 2 <= key[0] <= 16:  # 1 is "_ALL", a recording of the subject standing still.
            continue
        for column, subject in subjects.items():
            if column < len(cells) and cells[column]:
                names.setdefault(subject, {})[key] = cells[column]
    return names


def read_cameras_h5(path: Path) -> Metadata:
    """Cameras of the community's cameras.h5: groups subject<k>/camera<i> of R, T, f, c, k, p, Name.

    MATLAB wrote it, column by column, so R lies there transposed. Raises UserError if it is missing, no HDF5, or lacks
    a field.
    """
    import h5py

    cameras = {}
    try:
        with h5py.File(path, "r") as file:
            for subject in file:
                match = re.fullmatch(r"subject(\d{1,3})", subject)
                for group in file[subject].values() if match else ():
                    raw = read_array(group["Name"]).ravel()
                    name = raw[0].decode() if raw.dtype.kind in "SO" else "".join(chr(int(code)) for code in raw)
                    rotation, centre = read_array(group["R"], np.float64).T, read_array(group["T"], np.float64).ravel()
                    parts = [read_array(group[key], np.float64).ravel() for key in ("f", "c", "k", "p")]
                    numbers = np.concatenate(parts)
                    if rotation.shape != (3, 3) or centre.shape != (3,) or numbers.shape != (9,):
                        raise ValueError(f"{group.name} has fields of a shape that no camera has")
                    numbers = numbers[_LENS]
                    if not all(np.isfinite(part).all() for part in (rotation, centre, numbers)):
                        raise ValueError(f"{group.name} holds NaN or infinite numbers")
                    assert match is not None
                    cameras[int(match[1]), name] = Camera(rotation, centre, numbers)
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable cameras.h5 ({reason(error)})") from error
    if not cameras:
        raise UserError(f"{path} has no groups subject<k>/camera<i>: it is not the cameras.h5 of Human3.6M")
    return Metadata(cameras)


def read_cdf(path: Path, dimensions: int) -> Array:
    """The poses (T, 32, dimensions) of an owners' .cdf file, variable "Pose" of (1, T, 32 * dimensions).

    Raises UserError if it is missing, damaged, or holds another number of joints.
    """
    import cdflib

    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        _check_counts(path.read_bytes())
        content = cdflib.CDF(path)
        about = content.varinq("Pose")
        claimed = (about.Last_Rec + 1) * math.prod(about.Dim_Sizes)
        if claimed > MOST_DEFLATED * path.stat().st_size:
            raise ValueError(f"it says to hold {claimed} numbers")
        pose = np.asarray(content["Pose"], dtype=np.float64)
    except Exception as error:  # cdflib raises whatever the bytes lead it to.
        raise UserError(f"{path} is damaged or no CDF with a variable 'Pose' ({reason(error)})") from error
    if pose.ndim < 2 or pose.shape[-1] != NUM_JOINTS * dimensions:
        raise UserError(f"{path}: 'Pose' has shape {pose.shape}, expected (1, T, {NUM_JOINTS * dimensions})")
    return pose.reshape(-1, NUM_JOINTS, dimensions)


def _check_counts(data: bytes) -> None:
    """Raise ValueError if a CDF file (of version 3) says to have more dimensions or pieces than bytes: cdflib counts
    them one by one, up to the thousands of millions that a damaged byte makes of them."""

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], "big")

    # From record to record as cdflib goes: of the file, of its first variable, and of the pieces that this lies in.
    file = number(20, 8)
    variable = number(file + 20, 8)
    pieces = number(variable + 28, 8)
    if data.startswith(_CDF_3) and any(number(n, 4) > len(data) for n in (file + 56, variable + 340, pieces + 24)):
        raise ValueError("a record has entries without number")


def read_videopose3d(path: Path) -> dict[int, dict[str, Array]]:
    """World poses of VideoPose3D's data_3d_h36m.npz, by subject and name of the recording; metres become millimetres.

    Raises UserError if it is missing, damaged, holds anything but arrays, or has no 32 joints.
    """
    positions = load_object_array(path, "positions_3d")
    found: dict[int, dict[str, Array]] = {}
    for subject, recordings in positions.items() if isinstance(positions, dict) else ():
        match = re.fullmatch(r"S(\d+)", str(subject))
        for name, pose in recordings.items() if match and isinstance(recordings, dict) else ():
            try:
                array = np.asarray(pose, dtype=np.float64)
            except (ValueError, TypeError, OverflowError) as error:
                raise UserError(
                    f"{path}: {subject}, {name} holds something that is no number ({reason(error)})"
                ) from error
            if array.ndim != 3 or array.shape[1:] != (NUM_JOINTS, 3):
                raise UserError(
                    f"{path}: {subject}, {name} has shape {array.shape}, expected (T, {NUM_JOINTS}, 3): give the "
                    "file as it is before joints are removed"
                )
            assert match is not None
            found.setdefault(int(match[1]), {})[str(name)] = 1000.0 * array
    if not found:
        raise UserError(f"{path}: 'positions_3d' has no subjects: it is not data_3d_h36m.npz")
    return found


def read_annotations(path: Path) -> dict[str, dict[str, Any]]:
    """An annot.h5 of h36m-fetch, by camera: px (F, 32, 2), mm (F, 32, 3) or None, universal (F, 32, 3) or None, frame
    (F,) counted from 1, subject, action (as in the file, or -1), pinhole (fx, fy, cx, cy) or None.

    Raises UserError if it is missing, damaged or lacks a field that every version of the format has, or if the counts
    of its fields disagree.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            needed, more = ("pose/2d", "frame", "camera", "subject"), ("pose/3d", "pose/3d-univ", "action")
            columns = {key: read_array(file[key]) for key in (*needed, *(key for key in more if key in file))}
            lenses = {name: read_array(lens, np.float64) for name, lens in file.get("intrinsics", {}).items()}
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable annot.h5 ({reason(error)})") from error
    frames = columns["frame"].size
    for key, column in columns.items():
        points = key.startswith("pose/")
        shape = (frames, NUM_JOINTS, 2 if key == "pose/2d" else 3) if points else (frames,)
        if column.shape != shape or column.dtype.kind not in "iuf" or not (points or np.isfinite(column).all()):
            raise UserError(
                f"{path}: its fields disagree, or have not {NUM_JOINTS} joints: {key} should be numbers of shape "
                f"{shape}, but is {column.dtype} of {column.shape}"
            )
    found = {}
    for number in np.unique(columns["camera"]):
        rows = np.flatnonzero(columns["camera"] == number)
        rows = rows[np.argsort(columns["frame"][rows], kind="stable")]
        lens = lenses.get(str(number))
        found[str(number)] = {
            "px": columns["pose/2d"][rows].astype(np.float64),
            "mm": columns["pose/3d"][rows].astype(np.float64) if "pose/3d" in columns else None,
            "universal": columns["pose/3d-univ"][rows].astype(np.float64) if "pose/3d-univ" in columns else None,
            "frame": columns["frame"][rows].astype(np.int64),
            "subject": int(columns["subject"][rows[0]]),
            "action": int(columns["action"][rows[0]]) if "action" in columns else -1,
            # The file gives alpha_x, x_0, alpha_y, y_0.
            "pinhole": lens[[0, 2, 1, 3]] if lens is not None and lens.shape == (4,) else None,
        }
    return found
