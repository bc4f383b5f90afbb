"""Files of others with single things wrong in them: one clear error that names the file, in little time and memory."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from writers import folder as folder_writer
from writers import human36m as h36m_writer
from writers import matlab_files
from writers import mpii as mpii_writer
from writers import ntu as ntu_writer

from pyhar.data import folder_json, matlab, mpii_lists
from pyhar.data.folder import read as read_folder
from pyhar.data.human36m_files import read_annotations, read_cameras_h5, read_cdf, read_metadata, read_videopose3d
from pyhar.data.indexed import _read_boxes
from pyhar.data.layouts import PA16
from pyhar.data.ntu_files import read_skeleton
from pyhar.data.safe_pickle import load_object_array, load_pickle
from pyhar.errors import UserError
from pyhar.inference.tracking import read_boxes

NO_JSON = ("[" * 100_000, "[" + "1" * 5000 + "]")
HUGE = 10**400


def refused(read: Callable[..., Any], path: Path, *more: Any) -> str:
    """What is said of a file that cannot be read: on one line of some length, with its name."""
    with pytest.raises(UserError) as caught:
        read(path, *more)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("text", NO_JSON, ids=["nested", "digits"])
def test_json_that_python_cannot_take_in(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    refused(mpii_lists._read_json, path)
    refused(folder_json.parse_json, path, PA16)
    refused(read_boxes, path)
    refused(_read_boxes, path, None)


def test_numbers_beyond_floats_in_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [0, 0, 1, HUGE]}))
    refused(read_boxes, path)
    refused(_read_boxes, path, None)
    content = {"layout": "pa16", "sequences": [{"media": "a.jpg", "box": [0, 0, 1, HUGE]}]}
    path.write_text(json.dumps(content))
    assert "box" in refused(folder_json.parse_json, path, None)
    assert mpii_lists._numbers([HUGE, 1], (2,)) is None
    assert np.isnan(matlab.number(HUGE))


def test_half_a_character_is_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"layout": "pa16", "sequences": [{"media": "a.jpg", "name": "\\ud800"}]}')
    assert "name" in refused(folder_json.parse_json, path, None)
    with pytest.raises(ValueError, match="without image"):
        mpii_lists._person({"image": "\ud800.jpg"}, "train")


def test_a_medium_whose_name_is_too_long_is_skipped(tmp_path: Path) -> None:
    clips = folder_writer.example(tmp_path)[-1:]
    entries = [folder_writer.as_json(clip) for clip in clips]
    folder_writer.write_json(tmp_path, [*entries, {**entries[0], "media": "a" * 5000, "name": "long"}])
    assert list(read_folder(tmp_path).notes["skipped"].values()) == [["long"]]


def test_pictures_that_are_named_by_times(tmp_path: Path) -> None:
    """In nanoseconds, and with more digits than numbers of 64 bits have."""
    picture = folder_writer.shoot(0, 1).pictures[0]
    for name in ("1700000000000000001", "1700000009000000000", "1" * 30):
        folder_writer.write_jpeg(tmp_path / "long" / f"{name}.jpg", picture)
    for name in ("100000000001", "100000000002", "170000000900"):
        folder_writer.write_jpeg(tmp_path / "times" / f"{name}.jpg", picture)
    folder_writer.write_jpeg(tmp_path / "a.jpg", picture)
    media = [{"media": name, "action": "wave"} for name in ("a.jpg", "long", "times")]
    folder_writer.write_json(tmp_path, media)
    index = read_folder(tmp_path)
    assert list(index.names) == ["folder/a.jpg"]
    assert sum(map(len, index.notes["skipped"].values())) == 2


def test_numbers_of_frames_far_apart(tmp_path: Path) -> None:
    picture = folder_writer.shoot(0, 1).pictures[0]
    for number in (0, 1, 2_000_000_000):
        folder_writer.write_jpeg(tmp_path / "a" / f"{number:010d}.jpg", picture)
    folder_writer.write_jpeg(tmp_path / "b.jpg", picture)
    frames = [{"frame": number, "box": [0, 0, 9, 9]} for number in (0, 1, 2_000_000_000)]
    folder_writer.write_json(tmp_path, [{"media": "a", "frames": frames}, {"media": "b.jpg"}])
    assert read_folder(tmp_path).notes["skipped"] == {"frames between annotated ones are missing": ["folder/a"]}


def test_boxes_saved_by_notepad_and_by_long_numbers(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    long = "1" * 5000
    path.write_text(json.dumps({"0": [0, 0, 1, 1], long: [0, 0, 1, 2]}), encoding="utf-8-sig")
    assert read_boxes(path) == {0: (0, 0, 1, 1), long: (0, 0, 1, 2)}


@pytest.mark.parametrize("coordinate", [1e30, -1e30])
def test_coordinates_beyond_any_picture_are_unknown(tmp_path: Path, coordinate: float) -> None:
    entry = folder_writer.as_json(folder_writer.example(tmp_path)[-1])
    joints, mm = entry["frames"][0]["joints"], entry["frames"][0]["joints_mm"]
    known = next(j for j, joint in enumerate(joints) if joint)
    joints[known] = mm[known] = [coordinate, 5.0, 1.0]
    entry["frames"][0]["box"] = [-2e30, 0, 2e30, 5]
    entry["frames"][0]["head_size"] = abs(coordinate)
    folder_writer.write_json(tmp_path, [entry])
    index = read_folder(tmp_path)
    assert np.isnan(index.joints_px[0, known]).all()
    assert np.isnan(index.joints_mm[0, known]).all()
    assert not index.visible[0, known]
    assert np.isnan(index.box[0]).all()
    assert np.isnan(index.head_size[0])


def test_metadata_with_single_things_wrong(tmp_path: Path) -> None:
    path = tmp_path / "metadata.xml"
    h36m_writer.write_metadata(path, h36m_writer.example(frames=1))
    good = path.read_text()
    for encoding in ("utf-7", "klingon"):
        path.write_text(good.replace("'1.0'", f"'1.0' encoding='{encoding}'"))
        assert "damaged" in refused(read_metadata, path)
    path.write_text(good.replace("<w0>[", "<w0>[nan "))
    assert "w0" in refused(read_metadata, path)
    for number in ("\N{SUPERSCRIPT TWO}", "1" * 5000):  # rows of the table that are none
        path.write_text(good.replace("<td>2</td><td>1</td>", f"<td>{number}</td><td>1</td>"), encoding="utf-8")
        assert (2, 1) not in read_metadata(path).names[1]


BAD_FIELDS = {
    "text": "text",
    "empty": h5py.Empty("f"),
    "NaN": np.full((3, 3), np.nan),
}


def replace(path: Path, field: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[field]
        if isinstance(value, str) and value == "huge":
            file.create_dataset(field, shape=(10**9,), dtype="f4", chunks=True)
        else:
            file[field] = value


@pytest.mark.parametrize("value", [*BAD_FIELDS.values(), "huge"], ids=[*BAD_FIELDS, "huge"])
def test_hdf5_fields_of_another_kind(tmp_path: Path, value: Any) -> None:
    data = h36m_writer.example(frames=3, cameras=("54138969",))
    data.recordings = data.recordings[:1]
    cameras = tmp_path / "cameras.h5"
    h36m_writer.write_cameras_h5(cameras, data)
    replace(cameras, "subject1/camera1/R", value)
    refused(read_cameras_h5, cameras)
    h36m_writer.write_fetch(tmp_path, data, {"train": [0, 1], "test": []})
    (path,) = tmp_path.rglob("annot.h5")
    good = path.read_bytes()
    for field in ("pose/2d", "pose/3d", "frame", "subject", "action"):
        path.write_bytes(good)
        replace(path, field, value)
        refused(read_annotations, path)


def test_cdf_files_with_impossible_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.cdf"
    h36m_writer.write_cdf(path, np.ones((5, 32, 3)))
    good = path.read_bytes()
    assert read_cdf(path, 3).shape == (5, 32, 3)
    general = int.from_bytes(good[20:28], "big")
    variable = int.from_bytes(good[general + 20 : general + 28], "big")
    entries = int.from_bytes(good[variable + 28 : variable + 36], "big")
    # How many dimensions the file and the variable have; how long the variable's first is; its last record; and in how
    # many pieces it lies.
    for place in (general + 56, variable + 340, variable + 344, variable + 24, entries + 24):
        path.write_bytes(good[:place] + b"\x70" + good[place + 1 :])
        assert "damaged" in refused(read_cdf, path, 3)


def test_poses_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data_3d_h36m.npz"
    for pose in (np.array(["a"]), {"x": 1}, [[1], [1, 2]]):
        np.savez(path, positions_3d=np.array({"S1": {"Directions 1": pose}}, dtype=object))
        assert "Directions 1" in refused(read_videopose3d, path)


def test_pickles_that_end_in_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for data in (b"\x80\x04\x95" + b"\xff" * 8 + b".", b"\x80\x02r" + b"\xff" * 4 + b".", b"\x80\x02K\x01Q."):
        path.write_bytes(data)
        refused(load_pickle, path)


def test_archives_that_end_in_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", pickle.dumps(1))
    good = path.read_bytes()
    # Compressed in a way that there is not; encrypted; another name in the table than at the entry.
    for signature, place, value in (
        (b"PK\x01\x02", 10, b"\x4d"),
        (b"PK\x01\x02", 8, b"\x01"),
        (b"PK\x03\x04", 30, b"z"),
    ):
        data = bytearray(good)
        at = data.index(signature) + place
        data[at : at + 1] = value
        path.write_bytes(data)
        refused(load_object_array, path, "a")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
    refused(load_object_array, path, "a")


@pytest.mark.parametrize("head", ["1000000000", "4\r\n-1"])
def test_skeletons_with_impossible_counts(tmp_path: Path, head: str) -> None:
    path = tmp_path / "x.skeleton"
    ntu_writer.write_skeleton(path, [ntu_writer.track(4)], 4)
    path.write_text(head + path.read_text().partition("4")[2])
    refused(read_skeleton, path)


def test_a_struct_that_holds_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    matlab_files.save(path, {"a": {"b": {"c": 1.0}}}, "7.3")
    with h5py.File(path, "r+") as file:
        file["a/b/again"] = file["a"]
    assert "within itself" in refused(matlab.load, path)


def test_a_matrix_larger_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    matlab_files.save(path, {"a": 1.0}, "7.3")
    replace(path, "a", "huge")
    assert "4000000000 bytes" in refused(matlab.load, path)


def test_a_matrix_of_zeros_compressed_as_far_as_can_be(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    matlab_files.save(path, {"a": 1.0}, "7.3")
    with h5py.File(path, "r+") as file:
        del file["a"]
        file.create_dataset("a", data=np.zeros((2000, 2000)), compression=9, chunks=(2000, 2000))
    assert matlab.load(path)["a"].shape == (2000, 2000)


def test_mpii_lists_of_another_kind_are_named(tmp_path: Path) -> None:
    pictures = mpii_writer.example(tmp_path)
    people = [(p.image, s) for p in pictures if p.train for s in p.subjects]
    path = tmp_path / "train.json"
    mpii_writer.write_list(path, people)
    content = json.loads(path.read_text())
    content[0]["center"] = [HUGE, 1]
    path.write_text(json.dumps(content))
    assert "entry without center and scale" in mpii_lists.read_lists(tmp_path).skipped
