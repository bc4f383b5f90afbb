"""NTU RGB+D by the community's pickles: joints of a Kinect and of COCO, and what is wrong with such files."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from writers import ntu as writer
from writers.videos import cut_off

from pyhar.data import registry
from pyhar.data.index import SPLITS, Index
from pyhar.data.ntu import ACTIONS, read
from pyhar.data.prepare import prepare
from pyhar.errors import UserError

ONE = "S001C002P003R001A013"


def rows(index: Index, name: str) -> tuple[int, slice]:
    i = list(index.names).index(f"ntu/{name}")
    return i, slice(int(index.first_row[i]), int(index.first_row[i + 1]))


def test_pickle_of_kinect_joints(tmp_path: Path) -> None:
    train, test = "S001C001P001R001A001", "S001C002P003R002A060"
    person, ghost = writer.kinect(8, seed=1), writer.chair(8).xyz
    none = np.zeros_like(person)
    annotations = [writer.annotation_3d(train, [ghost, person]), writer.annotation_3d(test, [person, none])]
    for protocol, split in (
        # The pickle's splits count, even where they are not the owners'.
        ("cross-subject", {"xsub_train": [test], "xsub_val": [train]}),
        ("cross-view", {"xview_train": [test], "xview_val": [train]}),
        ("cross-subject", None),
    ):
        for pickle_protocol in (2, 4, 5):
            writer.write_pickle(tmp_path / "ntu60_3danno.pkl", annotations, split, pickle_protocol)
            index = read(tmp_path, check_media=False, protocol=protocol)
            assert index.notes["source"] == "pickle"
            for name in (train, test):
                i, span = rows(index, name)
                expected = 1000 * person[:, writer.MIRRORED] * [1, -1, 1]
                np.testing.assert_allclose(index.joints_mm[span], expected, rtol=0, atol=0.01)
                in_train = (name == test) == (split is not None)
                assert SPLITS[index.split[i]] == ("train" if in_train else "test")
                assert index.action[i] == int(name[-3:]) - 1
            assert np.isnan(index.joints_px).all()
            assert np.isnan(index.camera).all()


@pytest.mark.parametrize("size", [(1920, 1080), (480, 270)])
def test_clips_of_a_pickle_without_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    person = writer.kinect(8)
    writer.write_pickle(tmp_path / "a.pkl", [writer.annotation_3d(ONE, [person])], None)
    writer.write_rgb(tmp_path, ONE, 8, size)
    prepare("ntu", tmp_path, progress=False)
    clips = registry.build("ntu", "test", "clips", root=tmp_path, image_size=32, clip_frames=8, augment=False)
    sample, px = clips[0], writer.to_colour(person)[:, writer.MIRRORED] * size[0] / 1920
    np.testing.assert_allclose(sample["box"], [*px.min((0, 1)), *px.max((0, 1))], rtol=0, atol=30 * size[0] / 1920)
    normalised = px @ sample["to_crop"].numpy()[:2, :2].T + sample["to_crop"].numpy()[:2, 2]
    assert ((normalised > 0.03) & (normalised < 0.97)).all()
    x1, y1, x2, y2 = sample["box"].tolist()
    assert 1 / float(sample["to_crop"][0, 0]) == pytest.approx(1.5 * max(x2 - x1, y2 - y1))
    with pytest.raises(UserError, match="no joints of layout 'pa17' in pixels"):
        registry.build("ntu", "test", "pose", root=tmp_path, augment=True)


def test_pickles_of_other_versions(tmp_path: Path) -> None:
    path, person = tmp_path / "a.pkl", writer.kinect(8)
    expected = 1000 * person[:, writer.MIRRORED] * [1, -1, 1]
    # A list without splits, as mmaction2 once had.
    path.write_bytes(pickle.dumps([writer.annotation_3d(ONE, [person])]))
    np.testing.assert_allclose(read(tmp_path, check_media=False).joints_mm, expected, rtol=0, atol=0.01)
    # NumPy's inside is called numpy.core in version 1 and numpy._core in version 2.
    writer.write_pickle(path, [writer.annotation_3d(ONE, [person])], None, protocol=2)
    for name in (b"numpy.core", b"numpy._core"):
        data = path.read_bytes()
        path.write_bytes(data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", name))
        assert name + b".multiarray" in path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy 2 warns of the old name, and will drop it.
            index = read(tmp_path, check_media=False)
        np.testing.assert_allclose(index.joints_mm, expected, rtol=0, atol=0.01)


def test_pickle_of_coco_joints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    still, moving = (np.round(rng.uniform(300, 800, (1, 17, 2)) + m * rng.normal(0, 30, (6, 17, 2))) for m in (0.01, 1))
    scores = rng.uniform(0.3, 0.9, (6, 17))
    scores[2, 9] = 0
    name = "S001C001P001R001A001"
    writer.write_pickle(tmp_path / "ntu60_hrnet.pkl", [writer.annotation_2d(name, [still, moving], [scores] * 2)], None)
    writer.write_rgb(tmp_path, name, 6)
    index = read(tmp_path)
    joint = index.layout.index
    px = index.joints_px
    np.testing.assert_allclose(px[:, joint("left shoulder")], moving[:, 5], atol=0.01)
    np.testing.assert_allclose(px[:, joint("right ankle")], moving[:, 16], atol=0.01)
    np.testing.assert_allclose(px[:, joint("pelvis")], moving[:, 11:13].mean(1), atol=0.01)
    np.testing.assert_allclose(px[:, joint("thorax")], moving[:, 5:7].mean(1), atol=0.01)
    for unknown in ("neck", "head top", "spine"):
        assert np.isnan(px[:, joint(unknown)]).all()
    assert np.isnan(px[2, joint("left wrist")]).all()
    assert index.visible.sum() == 6 * 14 - 1
    assert np.isnan(index.joints_mm).all()
    assert np.isnan(index.camera).all()


def test_pickle_of_coco_joints_has_actions_and_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["S001C001P001R001A007", "S001C002P003R002A060", "S002C003P002R001A001"]
    body, scores = rng.uniform(300, 800, (6, 17, 2)), np.ones((6, 17))
    made = [writer.annotation_2d(name, [body], [scores]) for name in names]
    split = {
        "xsub_train": [names[0], names[2]],
        "xsub_val": [names[1]],
        "xview_train": names[1:],
        "xview_val": names[:1],
    }
    writer.write_pickle(tmp_path / "ntu60_hrnet.pkl", made, split)
    for protocol, train in (("cross-subject", (0, 2)), ("cross-view", (1, 2))):
        index = read(tmp_path, check_media=False, protocol=protocol, required=("train", "test"))
        assert list(index.names) == [f"ntu/{name}" for name in names]
        assert index.action.tolist() == [6, 59, 0]
        assert [index.action_names[action] for action in index.action] == [ACTIONS[6], ACTIONS[59], ACTIONS[0]]
        assert index.subject.tolist() == [1, 3, 2]
        assert [SPLITS[one] for one in index.split] == ["train" if i in train else "test" for i in range(3)]


def test_one_pickle_for_each_split(tmp_path: Path) -> None:
    # mmaction2 once gave each split a file of its own: a list without splits.
    train, test = "S001C001P001R001A001", "S001C002P003R002A060"
    body, scores = np.random.default_rng(0).uniform(300, 800, (6, 17, 2)), np.ones((6, 17))
    for half, name in (("train", train), ("val", test)):
        (tmp_path / f"ntu60_xsub_{half}.pkl").write_bytes(pickle.dumps([writer.annotation_2d(name, [body], [scores])]))
    index = read(tmp_path, check_media=False, required=("train", "test"))
    assert list(index.names) == [f"ntu/{train}", f"ntu/{test}"]
    assert [SPLITS[one] for one in index.split] == ["train", "test"]
    with pytest.raises(UserError, match="several pickles"):
        read(tmp_path, check_media=False, protocol="cross-view")


def test_pickle_that_is_named_after_the_videos(tmp_path: Path) -> None:
    # mmaction2's ntu_pose_extraction.py calls a recording S001C001P001R001A007_rgb.
    names = ["S001C001P001R001A007_rgb", "videos/S001C002P003R002A060_rgb"]
    body, scores = np.random.default_rng(0).uniform(300, 800, (6, 17, 2)), np.ones((6, 17))
    made = [writer.annotation_2d(name.removesuffix("_rgb"), [body], [scores]) | {"frame_dir": name} for name in names]
    writer.write_pickle(tmp_path / "a.pkl", made, {"xsub_train": names[:1], "xsub_val": names[1:]})
    index = read(tmp_path, check_media=False)
    assert list(index.names) == ["ntu/S001C001P001R001A007", "ntu/S001C002P003R002A060"]
    assert list(index.media) == [f"nturgb+d_rgb/{name.rpartition('/')[2]}.avi" for name in names]
    assert [SPLITS[one] for one in index.split] == ["train", "test"]


def test_three_bodies_in_a_pickle(tmp_path: Path) -> None:
    alone, together = "S001C001P001R001A001", "S001C001P001R001A055"
    person, second, ghost = writer.kinect(8, seed=1), writer.kinect(8, seed=2), writer.chair(8).xyz
    second = second + [0.8, 0.0, 0.0]
    second[1:] = second[:1] + 0.3 * (second[1:] - second[:1])  # Moves less.
    made = [writer.annotation_3d(name, [ghost, second, person]) for name in (alone, together)]
    writer.write_pickle(tmp_path / "ntu60_3danno.pkl", made, None)

    def expected(body: np.ndarray) -> np.ndarray:
        return np.asarray(1000 * body[:, writer.MIRRORED] * [1, -1, 1])

    index = read(tmp_path, check_media=False)
    assert list(index.names) == [f"ntu/{alone}", f"ntu/{together}"]
    for name in (alone, together):
        np.testing.assert_allclose(index.joints_mm[rows(index, name)[1]], expected(person), rtol=0, atol=0.01)
    index = read(tmp_path, check_media=False, people=2)
    assert list(index.names) == [f"ntu/{alone}", f"ntu/{together}", f"ntu/{together}#2"]
    np.testing.assert_allclose(index.joints_mm[16:], expected(second), rtol=0, atol=0.01)


def test_pickles_with_bad_recordings(tmp_path: Path) -> None:
    person = writer.kinect(8)
    names = [f"S001C001P001R001A{action:03d}" for action in range(1, 9)]
    made = [writer.annotation_3d(name, [person]) for name in names]
    made[1]["total_frames"] = 9
    del made[2]["keypoint"]
    made[3]["keypoint"] = made[3]["keypoint"][..., :2]
    made[4]["label"] = 77
    made[5]["label"] = 0
    made[6]["keypoint"] *= 0
    other = {"label": ["one"], "total_frames": "x", "img_shape": (0, 0), "keypoint": np.full((1, 8, 25, 3), "x")}
    odd = [
        {**writer.annotation_3d(f"S001C001P001R002A{a:03d}", [person]), k: v} for a, (k, v) in enumerate(other.items())
    ]
    split = {"xsub_train": names[:7], "xsub_val": []}
    writer.write_pickle(tmp_path / "a.pkl", [*made, {"label": 3}, *odd], split)
    index = read(tmp_path, check_media=False)
    assert list(index.names) == [f"ntu/{names[0]}"]
    assert index.notes["skipped"] == {
        "counts of frames or joints disagree": [names[1]],
        "no field 'keypoint'": [names[2]],
        "keypoints of another shape than (M, T, 25, 3) or (M, T, 17, 2)": [names[3]],
        "unknown action": [names[4]],
        "label and name disagree": [names[5]],
        "no bodies": [names[6]],
        "in no split": [names[7]],
        "no field 'frame_dir'": ["annotation 8"],
        "a field holds something else than it should": [one["frame_dir"] for one in odd],
    }
    with pytest.raises(UserError, match="has no splits xview_train and xview_val, only xsub_train, xsub_val"):
        read(tmp_path, check_media=False, protocol="cross-view")
    writer.write_pickle(tmp_path / "a.pkl", made[:1], {"xsub_train": names[:1], "xsub_val": []})
    with pytest.raises(UserError, match="split 'test' would be empty"):
        read(tmp_path, check_media=False, required=("train", "test"))


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def test_pickles_that_are_damaged_or_run_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"annotations": [_Trap()]}))
    with pytest.raises(UserError, match=r"asks for builtins\.print"):
        read(tmp_path)
    assert capsys.readouterr().out == ""
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="no list 'annotations'"):
        read(tmp_path)
    writer.write_pickle(path, [writer.annotation_3d(ONE, [writer.kinect(8)])], None)
    cut_off(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path, annotations=tmp_path / "b.pkl")
    path.write_bytes(pickle.dumps({"split": ["xsub_train"], "annotations": []}))
    with pytest.raises(UserError, match="'split' should hold a list of names"):
        read(tmp_path)


def test_several_pickles(tmp_path: Path) -> None:
    for name in ("S001C001P001R001A001", "S001C001P001R001A002"):
        writer.write_pickle(tmp_path / f"{name[-4:]}.pkl", [writer.annotation_3d(name, [writer.kinect(8)])], None)
    with pytest.raises(UserError, match=r"several pickles \(A001\.pkl, A002\.pkl\): name one .*annotations="):
        read(tmp_path, check_media=False)
    assert list(read(tmp_path, check_media=False, annotations=tmp_path / "A002.pkl").action) == [1]
    (tmp_path / "A001.pkl").rename(tmp_path / "._A002.pkl")
    assert list(read(tmp_path, check_media=False).action) == [1]
