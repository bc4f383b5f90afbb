"""MPII: what was written in the owners' and the community's formats is read back; broken files say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from writers import mpii as writer
from writers.matlab_files import EMPTY, Cell, Structs, save
from writers.mpii import FROM_PA16, Picture, Subject

from pyhar.data import mpii
from pyhar.data.index import SPLITS, Index
from pyhar.data.prepare import differences
from pyhar.errors import UserError

NAN = float("nan")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    return writer.example(tmp_path)


def people(pictures: list[Picture]) -> dict[str, Subject]:
    """Who the index should hold, by name; without the owners' test pictures."""
    return {f"mpii/{Path(p.image).stem}/{i}": s for p in pictures for i, s in enumerate(p.subjects, 1)}


def check_person(index: Index, row: int, person: Subject, head: bool = True) -> None:
    """Everything about a person but the split. The window is computed as in the release, in 1-based pixels."""
    np.testing.assert_allclose(index.joints_px[row, list(FROM_PA16)], person.joints, atol=0.01)
    np.testing.assert_array_equal(index.visible[row, list(FROM_PA16)], person.visible)
    s = 1.25 * person.scale
    x, y = person.centre + 1
    window = np.array([x - 100 * s, y + 12 * s - 100 * s, x + 100 * s, y + 12 * s + 100 * s]) - 1
    np.testing.assert_allclose(index.box[row], window, atol=0.01)
    size = 0.6 * np.linalg.norm(person.head[2:] - person.head[:2])
    np.testing.assert_allclose(index.head_size[row], size if head else NAN, rtol=1e-5)


def splits(index: Index) -> dict[str, str]:
    return {name: SPLITS[s] for name, s in zip(index.names, index.split, strict=True)}


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("folder", [".", "mpii_human_pose_v1_u12_2", "annot"])
def test_the_owners_file_is_read_back(tmp_path: Path, pictures: list[Picture], version: str, folder: str) -> None:
    writer.write_mat(tmp_path / folder, pictures, version)
    index = mpii.read(tmp_path)
    wanted = people(pictures)
    assert index.names == [*wanted, "mpii/000000008/1"]
    for row, person in enumerate(wanted.values()):
        check_person(index, row, person)
        assert (tmp_path / index.media[row]).is_file()
    assert index.layout.name == "pa16"
    assert (index.action == -1).all()
    assert np.isnan(index.joints_mm).all()
    assert index.action_names == ()
    np.testing.assert_array_equal(index.first_row, np.arange(len(index) + 1))
    # Videos 10 and 20 are held out; the picture with img_train 0 is for testing and has a window alone.
    held_out = ("mpii/000000002/1", "mpii/000000003/1")
    assert splits(index) == {n: "val" if n in held_out else "train" for n in wanted} | {"mpii/000000008/1": "test"}
    assert np.isnan(index.joints_px[-1]).all()
    np.testing.assert_allclose(index.box[-1], [-22.5, 5.0, 102.5, 130.0], atol=0.01)
    assert index.notes["skipped"] == {
        "no joints": ["mpii/000000007/1"],
        "test picture without a position": ["mpii/000000008/2"],
    }
    assert index.notes["activity"]["mpii/000000002/1"] == "activity 1"
    assert [index.notes["video"][name] for name in index.names] == [
        "video1",
        "video1",
        "video10",
        "video20",
        "video2",
        "video3",
        "video6",
    ]
    assert "box_margin" not in index.notes  # The window is shown as it is.


def test_a_file_written_again_by_scipy(tmp_path: Path, pictures: list[Picture]) -> None:
    """It turns struct arrays that it read squeezed into cell arrays, and drops dimensions."""
    path = writer.write_mat(tmp_path, pictures)
    release = loadmat(path, struct_as_record=False, squeeze_me=True)["RELEASE"]
    assert release.annolist.dtype == object
    before = mpii.read(tmp_path)
    savemat(path, {"RELEASE": release})
    after = mpii.read(tmp_path)
    assert after.names == before.names
    for row, person in enumerate(people(pictures).values()):
        check_person(after, row, person)
    np.testing.assert_array_equal(after.split, before.split)
    assert mpii.read(tmp_path, people="single").notes["skipped"]["not apart from other people"]


def test_pa17_has_no_spine(tmp_path: Path, pictures: list[Picture]) -> None:
    writer.write_mat(tmp_path, pictures)
    index = mpii.read(tmp_path, layout="pa17")
    assert index.joints_px.shape[1] == 17
    assert np.isnan(index.joints_px[:, 16]).all()
    check_person(index, 0, pictures[0].subjects[0])


def test_people_who_stand_apart(tmp_path: Path, pictures: list[Picture]) -> None:
    writer.write_mat(tmp_path, pictures)
    index = mpii.read(tmp_path, people="single")
    assert [n for n in index.names if "00001/" in n or "00005/" in n] == ["mpii/000000001/2"]
    assert index.notes["skipped"]["not apart from other people"] == [
        "mpii/000000001/1",
        "mpii/000000005/1",
        "mpii/000000008/2",
    ]
    writer.write_mat(tmp_path, pictures, single_person=EMPTY)
    with pytest.raises(UserError, match="single_person"):
        mpii.read(tmp_path, people="single")


@pytest.mark.parametrize("field", ["scale", "objpos", "x1", "annopoints"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_any_field_may_be_missing(tmp_path: Path, pictures: list[Picture], field: str, how: str) -> None:
    rect = pictures[0].subjects[0].rect()
    if how == "absent":
        del rect[field]
    else:
        rect[field] = EMPTY
    pictures[0].rects = Structs([rect])
    writer.write_mat(tmp_path, pictures)
    index = mpii.read(tmp_path)
    if field == "annopoints":
        assert "mpii/000000001/1" in index.notes["skipped"]["no joints"]
        return
    assert np.isnan(index.box[0]).all() == (field in ("scale", "objpos"))
    assert np.isnan(index.head_size[0]) == (field == "x1")
    np.testing.assert_allclose(index.joints_px[0, list(FROM_PA16)], pictures[0].subjects[0].joints, atol=0.01)


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"x": 5.0, "y": 6.0, "id": 16.0}, "point without an id from 0 to 15"),
        ({"x": 5.0, "y": 6.0}, "point without an id from 0 to 15"),
        ({"x": NAN, "y": 6.0, "id": 3.0}, "no joints"),
        ({"x": EMPTY, "y": 6.0, "id": 3.0}, "no joints"),
        ({"x": 0.0, "y": 0.0, "id": 3.0}, "no joints"),
    ],
)
def test_points_that_are_none(tmp_path: Path, pictures: list[Picture], point: dict[str, Any], reason: str) -> None:
    pictures[0].rects = Structs([{**pictures[0].subjects[0].rect(), "annopoints": {"point": Structs([point])}}])
    writer.write_mat(tmp_path, pictures)
    assert "mpii/000000001/1" in mpii.read(tmp_path).notes["skipped"][reason]


def listed(pictures: list[Picture], *images: int) -> list[tuple[str, Subject]]:
    return [(pictures[i].image, person) for i in images for person in pictures[i].subjects]


@pytest.mark.parametrize(
    ("folder", "train", "val", "truth"),
    [
        ("annot", "train.json", "valid.json", "gt_valid.mat"),
        ("annotations", "mpii_train.json", "mpii_val.json", "mpii_gt_val.mat"),
    ],
)
def test_the_communitys_lists_are_read_back(
    tmp_path: Path, pictures: list[Picture], folder: str, train: str, val: str, truth: str
) -> None:
    training, validation = listed(pictures, 0, 3), listed(pictures, 1, 2, 4)
    writer.write_list(tmp_path / folder / train, training)
    writer.write_list(tmp_path / folder / val, validation)
    index = mpii.read(tmp_path)
    for row, (image, person) in enumerate([*training, *validation]):
        check_person(index, row, person, head=False)
        assert index.media[row] == f"images/{image}"
    assert [SPLITS[s] for s in index.split] == 3 * ["train"] + 3 * ["val"]
    assert index.names[:2] == ["mpii/train/000000001/1", "mpii/train/000000001/2"]

    # With the ground truth, whatever the order of its joints, there are head sizes, and it decides on joints.
    moved = [Subject(**{**vars(person), "joints": person.joints + 0.5}) for _, person in validation]
    writer.write_truth(tmp_path / folder / truth, moved, order=list(np.random.default_rng(0).permutation(16)))
    index = mpii.read(tmp_path)
    for row, person in enumerate(moved, start=len(training)):
        check_person(index, row, person)
    assert np.isnan(index.head_size[: len(training)]).all()
    assert index.notes["ground_truth"] == truth


def test_lists_without_head_sizes_are_said(tmp_path: Path, pictures: list[Picture]) -> None:
    def said() -> int:
        return sum("no head sizes in the val split" in line for line in differences(mpii.read(tmp_path)))

    writer.write_list(tmp_path / "train.json", listed(pictures, 0, 3))
    assert said() == 0
    writer.write_list(tmp_path / "valid.json", listed(pictures, 1, 2))
    assert said() == 1
    writer.write_truth(tmp_path / "gt_valid.mat", [person for _, person in listed(pictures, 1, 2)])
    assert said() == 0
    (tmp_path / "gt_valid.mat").unlink()
    writer.write_mat(tmp_path, pictures)
    assert said() == 0


def test_one_validation_person(tmp_path: Path, pictures: list[Picture]) -> None:
    writer.write_list(tmp_path / "valid.json", listed(pictures, 1))
    person = pictures[1].subjects[0]
    writer.write_truth(
        tmp_path / "gt_valid.mat",
        [person],
        pos_gt_src=np.nan_to_num(person.joints + 1),
        headboxes_src=person.head.reshape(2, 2) + 1,
    )
    check_person(mpii.read(tmp_path), 0, person)


def test_a_joint_without_place_is_missing_whatever_its_flag(tmp_path: Path, pictures: list[Picture]) -> None:
    entry = pictures[0].subjects[0].listed(pictures[0].image)
    entry["joints"][3], entry["joints"][4], entry["joints"][5] = [0, 0], [-1, -1], [None, 5.0]
    entry["joints_vis"] = [[1]] * 16
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    index = mpii.read(tmp_path)
    known = np.isfinite(index.joints_px[0]).all(-1)[list(FROM_PA16)]
    assert (~known).nonzero()[0].tolist() == [3, 4, 5]
    np.testing.assert_array_equal(index.visible[0, list(FROM_PA16)], known)
    for centre, scale in (([-1.0, -1.0], 0.5), ([50.0, 60.0], -1.0), ([None, 60.0], 0.5)):
        entry["center"], entry["scale"] = centre, scale
        (tmp_path / "train.json").write_text(json.dumps([entry]))
        assert np.isnan(mpii.read(tmp_path).box).all()


def test_one_list_of_both_splits(tmp_path: Path, pictures: list[Picture]) -> None:
    training, validation = listed(pictures, 0, 2), listed(pictures, 1)
    mixed = [(image, person, False) for image, person in training] + [(i, p, True) for i, p in validation]
    mixed = [mixed[k] for k in (0, 3, 1, 2)]
    writer.write_joint_list(tmp_path / "mpii_annotations.json", mixed)
    writer.write_truth(tmp_path / "gt_valid.mat", [person for _, person in validation])
    index = mpii.read(tmp_path)
    for row, (_, person, validates) in enumerate(mixed):
        check_person(index, row, person, head=validates)
        assert SPLITS[index.split[row]] == ("val" if validates else "train")


@pytest.mark.parametrize("value", [[1.0], "1", True])
def test_a_flag_of_validation_in_another_form(tmp_path: Path, pictures: list[Picture], value: Any) -> None:
    path = tmp_path / "mpii_annotations.json"
    writer.write_joint_list(path, [(*person, True) for person in listed(pictures, 1, 2)])
    entries = json.loads(path.read_text())
    entries[0]["isValidation"], entries[1]["isValidation"] = value, {}
    # As an editor on Windows saves it.
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    index = mpii.read(tmp_path)
    assert [SPLITS[split] for split in index.split] == ["val", "train"]


def test_lists_beside_the_owners_file_decide_on_splits(tmp_path: Path, pictures: list[Picture]) -> None:
    writer.write_mat(tmp_path, pictures)
    writer.write_list(tmp_path / "annot" / "train.json", [*listed(pictures, 1, 2), listed(pictures, 0)[1]])
    writer.write_list(tmp_path / "annot" / "valid.json", listed(pictures, 4))
    index = mpii.read(tmp_path)
    assert splits(index) == {
        "mpii/000000001/2": "train",
        "mpii/000000002/1": "train",
        "mpii/000000003/1": "train",
        "mpii/000000005/1": "val",
        "mpii/000000008/1": "test",
    }
    assert index.notes["skipped"]["in neither list of people"] == [
        "mpii/000000001/1",
        "mpii/000000004/1",
        "mpii/000000007/1",
    ]
    # Head boxes come from the owners' file, also for training.
    assert np.isfinite(index.head_size[:4]).all()
    assert len(mpii.read(tmp_path, annotations="json")) == 4


def test_test_lists_have_no_joints(tmp_path: Path, pictures: list[Picture]) -> None:
    entry = {"image": pictures[7].image, "center": [41.0, 61.0], "scale": 0.5}
    (tmp_path / "test.json").write_text(json.dumps([entry]))
    index = mpii.read(tmp_path)
    assert splits(index) == {"mpii/test/000000008/1": "test"}
    assert np.isnan(index.joints_px).all()


def test_a_missing_picture_is_skipped_and_named(tmp_path: Path, pictures: list[Picture]) -> None:
    (tmp_path / "images" / pictures[1].image).unlink()
    writer.write_mat(tmp_path, pictures)
    index = mpii.read(tmp_path)
    assert index.notes["skipped"]["picture missing from images/"] == ["mpii/000000002/1"]
    assert "mpii/000000002/1" not in index.names
    # What is kept for each person is so by name, whoever is left out later.
    assert list(index.notes["activity"]) == list(index.notes["video"]) == list(index.names)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("a person", "entry that is not an object"),
        ({"image": None}, "entry without image"),
        ({"center": "here"}, "entry without center and scale"),
        ({"scale": None}, "entry without center and scale"),
        ({"joints": [[1, 2]] * 15}, "entry without 16 joints and as many joints_vis"),
        ({"joints_vis": None}, "entry without 16 joints and as many joints_vis"),
    ],
)
def test_entries_that_are_no_people_are_skipped(
    tmp_path: Path, pictures: list[Picture], entry: Any, reason: str
) -> None:
    good = pictures[0].subjects[0].listed(pictures[0].image)
    bad = {**good, **entry} if isinstance(entry, dict) else entry
    (tmp_path / "valid.json").write_text(json.dumps([bad, good]))
    person = pictures[0].subjects[0]
    other = Subject(**{**vars(person), "joints": person.joints + 3})
    writer.write_truth(tmp_path / "gt_valid.mat", [other, person])
    index = mpii.read(tmp_path)
    assert index.notes["skipped"] == {reason: ["valid.json[0]"]}
    check_person(index, 0, person)  # The ground truth is still matched by the place in the list.


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        mpii.read(tmp_path / "mpii")
    with pytest.raises(UserError, match="no folder images/"):
        mpii.read(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"neither mpii_human_pose_v1_u12_1\.mat nor train\.json"):
        mpii.read(tmp_path)
    with pytest.raises(UserError, match="unpack the owners' annotations"):
        mpii.read(tmp_path, annotations="mat")
    with pytest.raises(UserError, match=r": no train\.json and valid\.json: unpack"):
        mpii.read(tmp_path, annotations="json")
    with pytest.raises(UserError, match="people 'all' or 'single', not 'auto' and 'alone'"):
        mpii.read(tmp_path, people="alone")  # type: ignore[arg-type]
    (tmp_path / "train.json").write_text("[{}]")
    with pytest.raises(UserError, match="people='single' needs the owners'"):
        mpii.read(tmp_path, people="single")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_damaged_mat_file(tmp_path: Path, pictures: list[Picture], version: str) -> None:
    path = writer.write_mat(tmp_path, pictures, version)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"mpii_human_pose_v1_u12_1\.mat: not a MATLAB file, or damaged"):
        mpii.read(tmp_path)


def test_a_mat_file_of_something_else(tmp_path: Path, pictures: list[Picture]) -> None:
    path = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    save(path, {"RELEASE": {"version": "12"}})
    with pytest.raises(UserError, match="not MPII's annotation file"):
        mpii.read(tmp_path)
    writer.write_mat(tmp_path, pictures, img_train=np.ones((1, 3)))
    with pytest.raises(UserError, match="8 pictures, but img_train says of 3"):
        mpii.read(tmp_path)


def test_damaged_lists(tmp_path: Path, pictures: list[Picture]) -> None:
    path = tmp_path / "train.json"
    writer.write_list(path, listed(pictures, 0))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"train\.json: not JSON, or cut short"):
        mpii.read(tmp_path)
    path.write_text("{}")
    with pytest.raises(UserError, match="expected a list of people"):
        mpii.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jnt_missing": np.zeros((16, 3))}, "jnt_missing is of 3 people, but valid.json lists 1 to validate"),
        ({"headboxes_src": np.zeros((4, 2, 1))}, "headboxes_src should be"),
        ({"pos_gt_src": EMPTY}, "pos_gt_src should be"),
        ({"dataset_joints": Cell(["head"] * 16)}, "dataset_joints are head, head"),
    ],
)
def test_ground_truth_that_does_not_fit(
    tmp_path: Path, pictures: list[Picture], changes: dict[str, Any], message: str
) -> None:
    writer.write_list(tmp_path / "valid.json", listed(pictures, 1))
    writer.write_truth(tmp_path / "gt_valid.mat", pictures[1].subjects, **changes)
    with pytest.raises(UserError, match=message):
        mpii.read(tmp_path)


def test_a_split_that_would_be_empty(tmp_path: Path, pictures: list[Picture]) -> None:
    writer.write_list(tmp_path / "train.json", listed(pictures, 0))
    with pytest.raises(UserError, match=r"the val split of mpii is empty; it has train \(2\)"):
        mpii.read(tmp_path).of_split("val")
    # A list is there, but none of its people can be used.
    writer.write_list(tmp_path / "valid.json", listed(pictures, 1))
    (tmp_path / "images" / pictures[1].image).unlink()
    with pytest.raises(
        UserError, match=r"nobody on the list for val .*picture missing from images/ \(1, such as mpii/val"
    ):
        mpii.read(tmp_path)
