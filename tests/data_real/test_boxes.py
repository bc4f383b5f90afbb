"""Boxes from poses: as the authors' release computes them, and found in whole pictures by predicting twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from writers import folder as writer
from writers.rendered import write_jpeg, write_video

from pyhar.data import folder
from pyhar.data.boxes import SHARE, find_boxes, pose_box, save_boxes
from pyhar.data.index import Index
from pyhar.data.indexed import IndexedClips, IndexedPoses
from pyhar.errors import UserError

GOLDEN = Path(__file__).parents[1] / "data" / "boxes_golden.json"


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()))
def test_boxes_as_in_the_release(case: dict) -> None:
    points = np.array(case["points"], dtype=np.float64)
    box = pose_box(points, case["confidence"], share=case["share"], square=case["square"])
    np.testing.assert_allclose(box, case["box"], atol=1e-9)


def test_no_joint_no_box() -> None:
    assert pose_box(np.full((3, 2), np.nan)) is None
    assert pose_box(np.ones((3, 2)), np.full(3, 0.5)) is None


PEOPLE = {"a.mp4": (100, 60, 141, 161), "b": (220, 40, 301, 81), "c.png": (20, 120, 61, 201)}
"""Where there is a bright rectangle, the "person": first and last pixels."""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for media, (x1, y1, x2, y2) in PEOPLE.items():
        pictures = np.zeros((5, 240, 320, 3), np.uint8)
        pictures[:, y1 : y2 + 1, x1 : x2 + 1] = 255
        if media == "a.mp4":
            write_video(tmp_path / media, pictures)
        elif media == "b":
            for i, picture in enumerate(pictures):
                write_jpeg(tmp_path / f"b/{i + 1}.jpg", picture)
        else:
            write_jpeg(tmp_path / media, pictures[0])
    writer.write_json(tmp_path, [{"media": media, "action": "wave", "split": "test"} for media in PEOPLE])
    return folder.read(tmp_path)


def corners(frames: Tensor) -> tuple[Tensor, Tensor]:
    """A network that sees bright corners, and a third joint that it is not sure of."""
    joints = torch.zeros(len(frames), 3, 2)
    sure = torch.tensor([0.9, 0.9, 0.1]).expand(len(frames), 3).clone()
    for i, frame in enumerate(frames):
        y, x = torch.nonzero(frame.float().mean(-1) > 128, as_tuple=True)
        if len(x):
            size = frame.shape[0]
            joints[i, 0] = torch.tensor([x.min(), y.min()]) / size
            joints[i, 1] = torch.tensor([x.max() + 1, y.max() + 1]) / size
        else:
            sure[i] = 0.0
    return joints, sure


def largest_error(index: Index, root: Path, rounds: int) -> float:
    """Of the middle and the crop's side, pixels."""
    boxes = find_boxes(index, root, "test", corners, rounds=rounds, image_size=48)
    save_boxes(root / "boxes.json", boxes)
    assert set(boxes) == {f"folder/{media}" for media in PEOPLE}
    off = []
    data = IndexedClips(index, root, "test", image_size=48, clip_frames=1, boxes=root / "boxes.json")
    for sample in (data[i] for i in range(len(PEOPLE))):
        x1, y1, x2, y2 = PEOPLE[sample["name"].split("/")[1]]
        to_crop = sample["to_crop"].numpy()
        middle = to_crop[:2] @ [(x1 + x2) / 2, (y1 + y2) / 2, 1]
        side = 1 / to_crop[0, 0]
        off += [np.abs(middle - 0.5).max() * side, abs(side - SHARE * max(x2 - x1 + 1, y2 - y1 + 1))]
    return float(max(off))


def test_two_rounds_find_people_in_whole_pictures(index: Index, tmp_path: Path) -> None:
    one, two = largest_error(index, tmp_path, 1), largest_error(index, tmp_path, 2)
    assert two < 0.7 * one
    assert two < 6.0  # One pixel of a small crop of such a person is 2 to 4 of the picture.


def test_a_box_holds_the_person_in_all_frames(tmp_path: Path) -> None:
    for i in range(20):
        picture = np.zeros((240, 320, 3), np.uint8)
        picture[100:140, 40 + 10 * i : 60 + 10 * i] = 255
        write_jpeg(tmp_path / f"walk/{i}.jpg", picture)
    writer.write_json(tmp_path, [{"media": "walk", "action": "wave", "split": "test"}])
    box = find_boxes(folder.read(tmp_path), tmp_path, "test", corners, frames=10)["folder/walk"]
    # Frames 1, 3, ..., 19 are seen: from x = 50 to 250 and, after the index's margin, half as much again.
    np.testing.assert_allclose(box[2] - box[0], 200 * SHARE / 1.25, rtol=0.05)


def test_stills_have_boxes_of_their_own(tmp_path: Path) -> None:
    """As on Human3.6M, where a person crosses the picture from one still to the next."""
    for i in range(21):
        picture = np.zeros((240, 320, 3), np.uint8)
        picture[100:141, 40 + 10 * i : 61 + 10 * i] = 255
        write_jpeg(tmp_path / f"walk/{i}.jpg", picture)
    writer.write_json(tmp_path, [{"media": "walk", "action": "wave", "split": "test"}])
    index = folder.read(tmp_path)
    index.notes["stills"] = {"test": 10}
    boxes = find_boxes(index, tmp_path, "test", corners, rounds=3)
    assert set(boxes) == {"folder/walk", "folder/walk#0", "folder/walk#10", "folder/walk#20"}
    save_boxes(tmp_path / "boxes.json", boxes)
    stills = IndexedPoses(index, tmp_path, "test", image_size=32, boxes=tmp_path / "boxes.json")
    for sample, left in zip([stills[i] for i in range(3)], (40, 140, 240), strict=True):
        to_crop = sample["to_crop"].numpy()
        np.testing.assert_allclose(to_crop[:2] @ [left + 10, 120, 1], [0.5, 0.5], atol=0.05)
        np.testing.assert_allclose(1 / to_crop[0, 0], 41 * SHARE, rtol=0.1)
    # A clip shows all of the way.
    clip = IndexedClips(index, tmp_path, "test", image_size=32, boxes=tmp_path / "boxes.json")[0]
    np.testing.assert_allclose(1 / clip["to_crop"][0, 0], 1.25 * 200 + 41 * SHARE, rtol=0.05)


def test_a_sequence_may_be_named_as_a_still_is(tmp_path: Path) -> None:
    """The second person of a recording of NTU is a sequence of its own."""
    for i in range(3):
        write_jpeg(tmp_path / f"a/{i}.jpg", np.zeros((100, 100, 3), np.uint8))
    sequences = [{"media": "a", "name": name, "action": "wave", "split": "test"} for name in ("a", "a#1")]
    writer.write_json(tmp_path, sequences)
    save_boxes(tmp_path / "boxes.json", {"a": [0, 0, 50, 50], "a#1": [50, 50, 90, 90]})
    data = IndexedClips(folder.read(tmp_path), tmp_path, "test", boxes=tmp_path / "boxes.json")
    assert data.clip(0, [1])["box"].tolist() == [0, 0, 50, 50]
    assert data.clip(1, [1])["box"].tolist() == [50, 50, 90, 90]


def test_what_cannot_be_read_is_left_out(index: Index, tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:20])
    assert set(find_boxes(index, tmp_path, "test", corners)) == {"folder/a.mp4", "folder/b"}
    for path in (tmp_path / "a.mp4", tmp_path / "b/1.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="not one medium of the test split of folder can be read"):
        find_boxes(index, tmp_path, "test", corners)


def test_nobody_is_found(index: Index, tmp_path: Path) -> None:
    def nothing(frames: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(frames), 2, 2), torch.nan), torch.ones(len(frames), 2)

    boxes = find_boxes(index, tmp_path, "test", nothing)
    # The whole picture, with the index's margin on top.
    np.testing.assert_allclose(boxes["folder/a.mp4"], [31.5, 23.5, 287.5, 215.5])


def test_mistakes_are_named(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rounds and frames"):
        find_boxes(index, tmp_path, "test", corners, rounds=0)
    with pytest.raises(UserError, match="the train split of folder is empty"):
        find_boxes(index, tmp_path, "train", corners)
