"""Penn Action: what was written in the owners' format is read back; disagreements and broken files are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import penn_action as writer
from writers.penn_action import FROM_PA16, README_SPELLINGS, SHORT_SPELLINGS
from writers.rendered import write_jpeg

from pyhar.data import penn_action
from pyhar.data.index import MEDIA_KINDS, SPLITS
from pyhar.data.indexed import IndexedClips
from pyhar.data.prepare import differences, prepare
from pyhar.errors import UserError

KNOWN = list(FROM_PA16)
UNKNOWN = [0, 1, 2]
"""Pelvis, thorax, neck."""


def write_one(root: Path, version: str = "5", **changes: Any) -> Any:
    """Video 7 with changed labels, and video 8 as it should be."""
    shot = writer.example()
    writer.write(root, 7, shot, writer.labels(shot, "squat", **changes), version)
    writer.write(root, 8, shot, writer.labels(shot, "bowl"))
    return shot


def only_skipped(root: Path) -> dict[str, list[str]]:
    index = penn_action.read(root)
    assert index.names == ["penn/0008"]
    skipped: dict[str, list[str]] = index.notes["skipped"]
    return skipped


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("folder", [".", "Penn_Action"])
@pytest.mark.parametrize("spellings", [SHORT_SPELLINGS, README_SPELLINGS])
def test_the_owners_files_are_read_back(tmp_path: Path, version: str, folder: str, spellings: tuple[str, ...]) -> None:
    shots = [writer.example(seed, frames=2 + seed) for seed in range(3)]
    flags, classes = [1, -1, 0], [12, 0, 8]
    for i, (shot, flag, label) in enumerate(zip(shots, flags, classes, strict=True), start=1):
        variables = writer.labels(shot, spellings[label], flag, pose=["front", "back", "left"][i - 1])
        writer.write(tmp_path / folder, i, shot, variables, version)
    index = penn_action.read(tmp_path)
    assert index.names == ["penn/0001", "penn/0002", "penn/0003"]
    assert index.action_names == README_SPELLINGS
    assert index.action.tolist() == classes
    assert [SPLITS[s] for s in index.split] == ["train", "test", "test"]
    assert index.first_row.tolist() == [0, 2, 5, 9]
    assert index.first_frame.tolist() == [1, 1, 1]
    assert index.frame_step.tolist() == [1, 1, 1]
    assert {MEDIA_KINDS[k] for k in index.media_kind} == {"frames"}
    for video, shot in enumerate(shots):
        rows = slice(index.first_row[video], index.first_row[video + 1])
        np.testing.assert_allclose(index.joints_px[rows][:, KNOWN], shot.joints_px[:, KNOWN], atol=0.01)
        assert np.isnan(index.joints_px[rows][:, UNKNOWN]).all()
        np.testing.assert_array_equal(index.visible[rows][:, KNOWN], shot.visible[:, KNOWN])
        assert not index.visible[rows][:, UNKNOWN].any()
        np.testing.assert_allclose(index.box[rows], shot.boxes(), atol=0.01)
        for frame in range(len(shot.pictures)):
            assert (tmp_path / (index.media[video] % (index.first_frame[video] + frame))).is_file()
    assert np.isnan(index.joints_mm).all()
    assert index.notes["viewpoint"] == {"penn/0001": "front", "penn/0002": "back", "penn/0003": "left"}
    assert "skipped" not in index.notes


def test_every_class_in_either_spelling() -> None:
    for spellings in (SHORT_SPELLINGS, README_SPELLINGS):
        assert [penn_action.action_number(name) for name in spellings] == list(range(15))
    assert penn_action.action_number("Strumming Guitar") == 12
    assert list(penn_action.ACTION_NAMES) == sorted(penn_action.ACTION_NAMES)


def test_which_side_comes_first_and_derived_joints(tmp_path: Path) -> None:
    shot = write_one(tmp_path)
    flip = [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]
    swapped = penn_action.read(tmp_path, first_side="right")
    np.testing.assert_allclose(swapped.joints_px[:4, 4:16], shot.joints_px[:, flip][:, 4:16], atol=0.01)
    derived = penn_action.read(tmp_path, derive=True, layout="pa17")
    np.testing.assert_allclose(derived.joints_px[:4, 0], shot.joints_px[:, 10:12].mean(axis=1), atol=0.01)
    np.testing.assert_allclose(derived.joints_px[:4, 1], shot.joints_px[:, 4:6].mean(axis=1), atol=0.01)
    np.testing.assert_array_equal(derived.visible[:4, 0], shot.visible[:, 10:12].all(axis=1))
    assert np.isnan(derived.joints_px[:, [2, 16]]).all()
    shifted = penn_action.read(tmp_path, one_based=True)
    np.testing.assert_allclose(shifted.joints_px[:4, KNOWN], shot.joints_px[:, KNOWN] - 1, atol=0.01)
    np.testing.assert_allclose(shifted.box[:4], shot.boxes() - 1, atol=0.01)
    with pytest.raises(UserError, match="first_side"):
        penn_action.read(tmp_path, first_side="both")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("videos", "mirrored", "taken"),
    [(10, 10, "right"), (10, 8, "right"), (10, 7, "left"), (10, 0, "left"), (9, 9, "left")],
)
def test_shoulders_tell_which_side_comes_first(tmp_path: Path, videos: int, mirrored: int, taken: str) -> None:
    """Mirrored: the joint called left is the person's right one, as the picture of it shows."""
    shot = writer.example(frames=2)
    front = np.full((2, 13), 60.0)
    front[:, 1:] += np.tile([10.0, -10.0], 6)  # The left of whoever faces the camera is the picture's right.
    for number in range(videos):
        pose, x = ("front", front) if number % 2 else ("back", 120 - front)
        x = 120 - x if number < mirrored else x
        writer.write(tmp_path, number + 1, shot, writer.labels(shot, "squat", pose=pose, x=x))
    # From the side nothing can be told.
    writer.write(tmp_path, videos + 1, shot, writer.labels(shot, "squat", pose="left", x=front))
    index = penn_action.read(tmp_path)
    assert index.notes["first_side"] == taken
    known = penn_action.read(tmp_path, first_side=taken)  # type: ignore[arg-type]
    np.testing.assert_array_equal(index.joints_px, known.joints_px)
    first = penn_action.to_layout(shot.joints_px[:, KNOWN], shot.visible[:, KNOWN], index.layout, taken)[0]
    np.testing.assert_allclose(index.joints_px[-2:, KNOWN, 1], first[:, KNOWN, 1], atol=0.01)
    said = f"comes first in {mirrored} of {videos} videos from the front or from behind; the {taken} one is taken to"
    remarks = [line for line in differences(index) if said in line]
    assert len(remarks) == int(videos >= 10)


def test_zero_nan_and_corner_coordinates_are_missing_joints(tmp_path: Path) -> None:
    shot = writer.example()
    variables = writer.labels(shot, "squat")
    x, y, visibility = variables["x"].copy(), variables["y"].copy(), variables["visibility"].copy()
    visibility[0] = 1
    x[0, 0], y[0, 1], x[0, 2] = 0.0, 0.0, np.nan
    x[0, 3], y[0, 3], visibility[0, 3] = 1.0, 1.0, 0  # hidden, in the corner
    x[0, 4], y[0, 4], visibility[0, 4] = 1.0, 1.0, 1  # seen there
    visibility[0, 5] = 0
    writer.write(tmp_path, 1, shot, {**variables, "x": x, "y": y, "visibility": visibility})
    index = penn_action.read(tmp_path)
    known = np.isfinite(index.joints_px[0, KNOWN]).all(-1)
    assert known.tolist() == 4 * [False] + 9 * [True]
    assert index.visible[0, KNOWN].tolist() == 4 * [False] + [True, False] + 7 * [True]


def test_more_frames_than_boxes(tmp_path: Path) -> None:
    shot = write_one(tmp_path, bbox=writer.example().boxes()[:2])
    index = penn_action.read(tmp_path)
    np.testing.assert_allclose(index.box[:2], shot.boxes()[:2], atol=0.01)
    assert np.isnan(index.box[2:4]).all()
    assert index.num_frames(0) == 4
    assert index.notes["fewer_boxes_than_frames"] == ["penn/0007"]


def test_boxes_that_are_none(tmp_path: Path) -> None:
    boxes = writer.example().boxes().copy()
    boxes[0], boxes[1, 2] = 0.0, np.nan
    write_one(tmp_path, bbox=boxes)
    assert np.isnan(penn_action.read(tmp_path).box[:4]).any(axis=1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("missing", ["visibility", "bbox", "dimensions", "nframes", "pose"])
def test_fields_that_may_be_absent(tmp_path: Path, missing: str) -> None:
    shot = write_one(tmp_path, **{missing: None})
    index = penn_action.read(tmp_path)
    assert index.names == ["penn/0007", "penn/0008"]
    np.testing.assert_allclose(index.joints_px[:4, KNOWN], shot.joints_px[:, KNOWN], atol=0.01)
    if missing == "visibility":
        assert index.visible[:4, KNOWN].all()
    if missing == "bbox":
        assert np.isnan(index.box[:4]).all()


def test_labels_and_frames_that_disagree_in_number(tmp_path: Path) -> None:
    shot = writer.example()
    fewer = {k: v[:3] for k, v in writer.labels(shot, "squat").items() if k in ("x", "y", "visibility", "bbox")}
    writer.write(tmp_path, 1, shot, writer.labels(shot, "squat", **fewer))
    writer.write(tmp_path, 2, shot, writer.labels(shot, "squat"), pictures=shot.pictures[:2])
    index = penn_action.read(tmp_path)
    assert [index.num_frames(i) for i in range(2)] == [3, 2]
    assert index.notes["fewer_labels_than_frames"] == ["penn/0001"]
    assert index.notes["fewer_frames_than_labels"] == ["penn/0002"]
    np.testing.assert_allclose(index.joints_px[3:, KNOWN], shot.joints_px[:2, KNOWN], atol=0.01)


FOUR = (4, 13)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"action": None}, "labels without an action"),
        ({"action": "yoga"}, "unknown action 'yoga'"),
        ({"train": None}, "labels without a train flag"),
        ({"x": None}, "x and y are not 13 joints a frame"),
        ({"x": np.ones((4, 12)), "y": np.ones((4, 12))}, "x and y are not 13 joints a frame"),
        ({"x": np.ones((3, 13))}, "x and y are not 13 joints a frame"),
        ({"visibility": np.ones((4, 1))}, "visibility is not 13 joints a frame"),
        ({"bbox": np.ones((4, 3))}, "bbox is not four numbers a frame"),
        ({"x": np.zeros(FOUR), "y": np.zeros(FOUR), "bbox": None}, "neither joints nor boxes"),
        ({"dimensions": np.array([[270.0, 480.0, 4.0]])}, "frames are 160x120 pixels, labels are for 480x270"),
    ],
)
def test_labels_that_cannot_be_used_are_skipped_and_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_one(tmp_path, **changes)
    assert only_skipped(tmp_path) == {reason: ["penn/0007"]}


def test_dimensions_a_pixel_off_do_no_harm(tmp_path: Path) -> None:
    write_one(tmp_path, dimensions=np.array([[122.0, 161.0, 4.0]]))
    assert len(penn_action.read(tmp_path)) == 2


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_damaged_label_file(tmp_path: Path, version: str) -> None:
    write_one(tmp_path, version)
    path = tmp_path / "labels" / "0007.mat"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert only_skipped(tmp_path) == {"label file cannot be read": ["penn/0007"]}


def test_frames_that_are_missing_or_broken(tmp_path: Path) -> None:
    write_one(tmp_path)
    folder = tmp_path / "frames" / "0007"
    content = (folder / "000001.jpg").read_bytes()
    (folder / "000001.jpg").write_bytes(content[:10])
    assert only_skipped(tmp_path) == {"the first frame is not a picture": ["penn/0007"]}
    (folder / "000001.jpg").write_bytes(content)
    (folder / "000002.jpg").unlink()
    assert only_skipped(tmp_path) == {"frames missing in the middle": ["penn/0007"]}
    for path in folder.iterdir():
        path.unlink()
    assert only_skipped(tmp_path) == {"no frames": ["penn/0007"]}


def test_a_size_that_changes_within_a_video(tmp_path: Path) -> None:
    write_one(tmp_path)
    for number, reason in ((4, "frames differ in size"), (2, "its frames differ in size")):
        other, frame = tmp_path / "other.jpg", tmp_path / "frames" / "0007" / f"{number:06d}.jpg"
        whole = frame.read_bytes()
        write_jpeg(other, np.zeros((60, 80, 3), np.uint8))
        frame.write_bytes(other.read_bytes())
        # The last one is seen at once, those between the ends by looking at all.
        index, _ = prepare("penn", tmp_path, check=True, progress=False)
        assert index.names == ["penn/0008"]
        assert index.notes["skipped"] == {reason: ["penn/0007"]}
        frame.write_bytes(whole)
    assert len(prepare("penn", tmp_path, check=True, progress=False)[0]) == 2


def test_a_folder_with_a_percent_sign(tmp_path: Path) -> None:
    root = tmp_path / "100% of %d"
    write_one(root)
    index, _ = prepare("penn", root, check=True, progress=False)
    assert len(index) == 2
    clip = IndexedClips(index, root, "train", 32, 2, augment=False)[0]
    assert clip["frames"].float().std() > 5


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folders frames/ and labels/"):
        penn_action.read(tmp_path)
    (tmp_path / "frames").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match="no label files"):
        penn_action.read(tmp_path)
    shot = writer.example()
    writer.write(tmp_path, 1, shot, writer.labels(shot, "yoga"))
    with pytest.raises(UserError, match=r"nothing to index \(unknown action 'yoga': 1, first penn/0001\)"):
        penn_action.read(tmp_path)


def test_a_split_that_would_be_empty(tmp_path: Path) -> None:
    write_one(tmp_path)
    index = penn_action.read(tmp_path)
    assert len(index.of_split("train")) == 2
    with pytest.raises(UserError, match="the test split of penn is empty"):
        index.of_split("test")
