"""A user's own data: both forms of annotations are read back, and mistakes in them are named by place and field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import folder as writer
from writers.folder import ACTIONS, Clip
from writers.rendered import shoot, write_jpeg, write_video

from pyhar.data import folder, folder_csv, folder_json
from pyhar.data.index import MEDIA_KINDS, SPLITS, Index
from pyhar.data.layouts import PA16, PA17
from pyhar.data.parsing import read_video_header
from pyhar.errors import UserError


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return writer.example(tmp_path)


def check(index: Index, clips: list[Clip]) -> None:
    assert index.names == [f"folder/{clip.media}" for clip in clips]
    assert index.media == [clip.pattern for clip in clips]
    assert [MEDIA_KINDS[k] for k in index.media_kind] == [clip.kind for clip in clips]
    assert [SPLITS[s] for s in index.split] == [clip.split for clip in clips]
    assert index.subject.tolist() == [clip.subject for clip in clips]
    assert index.first_frame.tolist() == [clip.first for clip in clips]
    assert index.frame_step.tolist() == [clip.step for clip in clips]
    names = index.action_names
    assert [names[a] if a >= 0 else None for a in index.action] == [clip.action for clip in clips]
    for i, clip in enumerate(clips):
        rows, shot = slice(index.first_row[i], index.first_row[i + 1]), clip.shot
        known = clip.known[..., None]
        np.testing.assert_allclose(index.joints_px[rows], np.where(known, shot.joints_px, np.nan), atol=0.01)
        np.testing.assert_allclose(index.joints_mm[rows], np.where(known, shot.joints_mm, np.nan), atol=0.01)
        np.testing.assert_array_equal(index.visible[rows], clip.known & shot.visible)
        np.testing.assert_allclose(index.box[rows], shot.boxes(), atol=0.01)
        np.testing.assert_allclose(index.head_size[rows], shot.head_size, rtol=1e-5)
        np.testing.assert_allclose(index.camera[i], [*shot.camera, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("by_name", [False, True])
def test_json_is_read_back(tmp_path: Path, clips: list[Clip], by_name: bool) -> None:
    writer.write_json(tmp_path, [writer.as_json(clip, by_name) for clip in clips])
    index = folder.read(tmp_path)
    check(index, clips)
    assert index.layout == PA17
    assert index.action_names == ACTIONS
    assert "skipped" not in index.notes


def test_csv_is_read_back(tmp_path: Path, clips: list[Clip]) -> None:
    rows = [row for clip in clips for row in writer.as_rows(clip)]
    order = np.random.default_rng(0).permutation(len(rows))
    media = [clip.media for clip in clips]
    # Rows may come in any order; sequences come in that of their first rows.
    writer.write_csv(tmp_path, sorted((rows[i] for i in order), key=lambda row: media.index(row["video"])))
    index = folder.read(tmp_path)
    check(index, clips)
    assert index.layout == PA17
    assert index.action_names == tuple(sorted(ACTIONS))
    assert folder.read(tmp_path, actions=ACTIONS).action_names == ACTIONS


def test_own_joints(tmp_path: Path, clips: list[Clip]) -> None:
    layout = {"name": "arm", "joints": ["hub", "left tip", "right tip"], "bones": [["hub", "left tip"], [0, 2]]}
    frames = [{"joints": [[1, 2], [3, 4, 0], [0, 0]]}, {"joints": {"right tip": [5, 6]}, "box": [0, 0, 0, 0]}]
    sequence = {"media": "clips/a.mp4", "first_frame": 1, "frame_step": 2, "frames": frames, "split": "test"}
    writer.write_json(tmp_path, [sequence], layout=layout, actions=None)
    index = folder.read(tmp_path)
    assert index.layout.joints == ("hub", "left tip", "right tip")
    assert index.layout.bones == ((0, 1), (0, 2))
    assert index.layout.flip == (0, 2, 1)
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(index.joints_px, [[[1, 2], [3, 4], nan], [nan, nan, [5, 6]]])
    assert index.visible.tolist() == [[True, False, False], [False, False, True]]
    assert (index.first_frame[0], index.frame_step[0]) == (1, 2)
    assert np.isnan(index.box).all()
    assert index.action_names == ()

    (tmp_path / "annotations.json").unlink()
    writer.write_csv(
        tmp_path, [{"video": "one.jpg", "frame": 0, "hub_x": 1, "hub_y": 2, "left_tip_x": 3, "left_tip_y": 4}]
    )
    index = folder.read(tmp_path)
    assert index.layout.joints == ("hub", "left tip")
    np.testing.assert_array_equal(index.joints_px, [[[1, 2], [3, 4]]])


def test_csv_of_some_common_joints(tmp_path: Path, clips: list[Clip]) -> None:
    writer.write_csv(
        tmp_path, [{"video": "one.jpg", "frame": 0, "left_knee_x": 5, "left_knee_y": 6, "left_knee_z": 2000}]
    )
    index = folder.read(tmp_path)
    assert index.layout == PA16
    np.testing.assert_array_equal(index.joints_px[0, 13], [5, 6])
    assert np.isfinite(index.joints_px).sum() == 2
    assert folder.read(tmp_path, layout="pa17").layout == PA17


def test_a_joint_at_zero_is_unknown_in_space_too(tmp_path: Path, clips: list[Clip]) -> None:
    row = {"video": "one.jpg", "frame": 0, "fx": 100, "fy": 100, "cx": 80, "cy": 60}
    row |= {"neck_x": 0, "neck_y": 0, "neck_z": 2000, "pelvis_x": 80, "pelvis_y": 70, "pelvis_z": 2000}
    writer.write_csv(tmp_path, [row])
    index = folder.read(tmp_path)
    np.testing.assert_array_equal(index.joints_mm[0, 0], [0, 200, 2000])
    assert np.isnan(index.joints_mm[0, 2]).all()
    assert not index.visible[0, 2]


def test_joints_that_are_no_numbers_in_json_are_unknown(tmp_path: Path, clips: list[Clip]) -> None:
    joints = {"neck": [float("nan"), 5], "pelvis": [7, 8], "thorax": None, "head top": [0, 0]}
    writer.write_json(tmp_path, [{"media": "one.jpg", "frames": [{"joints": joints}]}])
    index = folder.read(tmp_path)
    known = np.isfinite(index.joints_px[0]).all(-1)
    assert known.nonzero()[0].tolist() == [index.layout.index("pelvis")]
    np.testing.assert_array_equal(index.visible[0], known)


def test_numbers_of_another_width_are_not_of_the_pattern(tmp_path: Path, clips: list[Clip]) -> None:
    write_jpeg(tmp_path / "shots/c/img_0012.jpg", clips[0].shot.pictures[0])
    writer.write_json(tmp_path, [{"media": "shots/c/img_%03d.jpg", "action": "wave"}])
    index = folder.read(tmp_path)
    assert index.num_frames(0) == 5  # 7 to 11


def test_labels_alone_take_all_frames_and_the_whole_picture(tmp_path: Path, clips: list[Clip]) -> None:
    sequences = [{"media": clip.media, "action": ACTIONS[0]} for clip in clips]
    sequences[1] |= {"box": [1, 2, 3, 4], "first_frame": 1, "frame_step": 2}
    writer.write_json(tmp_path, sequences)
    from_json = folder.read(tmp_path)
    assert np.diff(from_json.first_row).tolist() == [7, 3, 5, 5, 1]
    assert from_json.first_frame.tolist() == [0, 1, 7, 9, 0]
    np.testing.assert_array_equal(from_json.box[0], [-0.5, -0.5, 159.5, 119.5])
    np.testing.assert_array_equal(from_json.box[7:10], [[1, 2, 3, 4]] * 3)
    (tmp_path / "annotations.json").unlink()
    writer.write_csv(tmp_path, [{"video": clip.media, "action": "wave"} for clip in clips])
    index = folder.read(tmp_path)
    assert np.diff(index.first_row).tolist() == [7, 7, 5, 5, 1]
    assert index.action.tolist() == [0] * 5


def test_frames_between_annotated_ones_have_no_joints(tmp_path: Path, clips: list[Clip]) -> None:
    entry = writer.as_json(clips[0])
    entry["frames"][1]["frame"] = 6  # 2, 4 and 6 of which 4 will be annotated last
    entry["frames"][2]["frame"] = 4
    del entry["frames"][2]
    entry["frames"].append({"frame": 3, "joints": None})
    writer.write_json(tmp_path, [entry])
    index = folder.read(tmp_path)
    assert np.isfinite(index.joints_px).any(axis=(1, 2)).tolist() == [True, False, False, False, True]
    assert index.frame_step[0] == 1


def test_two_people_and_two_actions_in_one_video(tmp_path: Path, clips: list[Clip]) -> None:
    rows = [{**row, "person": p} for p in ("ann", "bob") for row in writer.as_rows(clips[0])]
    rows[2]["action"] = "bow"
    writer.write_csv(tmp_path, rows)
    index = folder.read(tmp_path)
    assert index.names == ["folder/clips/a.mp4/ann@0", "folder/clips/a.mp4/ann@2", "folder/clips/a.mp4/bob"]
    assert [index.action_names[a] for a in index.action] == ["wave", "bow", "wave"]
    assert index.first_frame.tolist() == [2, 4, 2]


def test_a_video_whose_name_looks_like_a_protocol(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips/a.mp4").rename("12:30.mp4")
    writer.write_json(Path(), [{"media": "12:30.mp4", "action": "wave"}])
    assert folder.read(Path()).num_frames(0) == 7
    assert read_video_header(Path("12:30.mp4")).frames == 7


def test_splits_where_the_file_gives_none(tmp_path: Path) -> None:
    picture = shoot(0, 1).pictures[0]
    sequences = []
    for i in range(20):
        write_jpeg(tmp_path / f"{i}.jpg", picture)
        sequences.append({"media": f"{i}.jpg", "action": ACTIONS[i % 2], "subject": i if i < 16 else 3})
    writer.write_json(tmp_path, sequences)
    index = folder.read(tmp_path)
    again = folder.read(tmp_path)
    np.testing.assert_array_equal(index.split, again.split)
    for action in (0, 1):
        assert (index.split[index.action == action] == SPLITS.index("test")).sum() >= 1
    assert 2 <= (index.split == SPLITS.index("test")).sum() <= 8
    assert len(set(index.split[index.subject == 3])) == 1
    assert (folder.read(tmp_path, test_share=0.0).split == SPLITS.index("train")).all()
    assert index.notes["splits"] == "share"
    with pytest.raises(UserError, match="test_share"):
        folder.read(tmp_path, test_share=1.0)
    with pytest.raises(UserError, match="box_margin must be at least 0, not -1"):
        folder.read(tmp_path, box_margin=-1)
    # If the file gives some, the rest trains.
    sequences[0]["split"] = "val"
    writer.write_json(tmp_path, sequences)
    assert folder.read(tmp_path).split.tolist() == [1] + 19 * [0]
    with pytest.raises(UserError, match="the test split of folder is empty"):
        folder.read(tmp_path).of_split("test")


def test_media_that_cannot_be_used_are_skipped_and_named(tmp_path: Path, clips: list[Clip]) -> None:
    sequences = [writer.as_json(clip) for clip in clips]
    broken = {
        "gone.mp4": "no such file or folder",
        "cut.mp4": "not a video, or damaged",
        "cut.jpg": "not a picture, or damaged",
        "notes.txt": "neither a picture nor a video by its ending '.txt'",
        "empty": "no pictures in the folder",
        "mixed": "the folder's pictures are not named by one pattern and a number",
        "shots/c/x%03d.jpg": "no pictures of this pattern",
        "shots/c/%d_%d.jpg": "a pattern has one number, such as %06d",
    }
    video = (tmp_path / "clips/a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(video[: len(video) // 2])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "one.jpg").read_bytes()[:8])
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "empty").mkdir()
    for name in ("front1.jpg", "back2.jpg"):
        write_jpeg(tmp_path / "mixed" / name, clips[0].shot.pictures[0])
    sequences += [{"media": media, "action": "wave"} for media in broken]
    # Frames that the media have not got.
    late = writer.as_json(clips[1], name="late")
    late["frames"] = [{**frame, "frame": frame["frame"] + 100} for frame in late["frames"]]
    tail = writer.as_json(clips[1], name="tail")
    tail["frames"][2]["frame"] = 100
    (tmp_path / "shots/d/11.png").unlink()
    hole = writer.as_json(clips[3], name="hole", frames=[{"frame": 9}, {"frame": 11}, {"frame": 13}])
    writer.write_json(tmp_path, [*sequences, late, tail, hole])
    index = folder.read(tmp_path)
    skipped = index.notes["skipped"]
    for media, reason in broken.items():
        assert skipped[reason] == [f"folder/{media}"]
    assert skipped["none of the annotated frames is in the medium"] == ["late"]
    assert skipped["frames beyond the end of the medium"] == ["folder/shots/d/%d.png, 1 frames", "tail, 1 frames"]
    assert skipped["annotated frames are missing in the middle of the medium"] == ["hole"]
    assert index.num_frames(index.names.index("tail")) == 2


SEQUENCE = {"media": "one.jpg", "frames": [{"frame": 0}]}


def frame(**fields: Any) -> dict[str, Any]:
    return {"media": "one.jpg", "frames": [{"frame": 0, **fields}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "annotations.json: expected an object with layout, actions, sequences, not []"),
        ({"sequences": [SEQUENCE]}, "say which joints these are"),
        ({"layout": "pa15", "sequences": []}, "layout: unknown joint layout 'pa15'; did you mean"),
        ({"layout": {"joints": ["a", "a"]}, "sequences": []}, "joint names repeat"),
        ({"layout": {"joints": ["a"], "bones": [["a", "b"]]}, "sequences": []}, "layout: no joint 'b'"),
        ({"layout": {"joints": ["a"], "bones": [["a"]]}, "sequences": []}, "layout.bones[0]: a bone is two joints"),
        ({"layout": "pa16", "sequences": []}, "names no sequences"),
        ({"layout": "pa16", "sequences": {}}, "sequences: expected a list, not {}"),
        ({"layout": "pa16", "sequence": []}, "unknown field 'sequence'; did you mean 'sequences'"),
        ([{}], "sequences[0].media: expected the name of a file or folder, not nothing"),
        ([{"media": "../a.jpg"}], "sequences[0].media: give '../a.jpg' relative to the folder"),
        ([SEQUENCE, {**SEQUENCE, "action": 3}], "sequences[1].action: expected a name, not 3"),
        ([{**SEQUENCE, "action": "jump"}], "sequences[0]: action 'jump' is not in the list: wave"),
        ([{**SEQUENCE, "split": "tain"}], "sequences[0].split: unknown split 'tain'; did you mean 'train'"),
        ([{**SEQUENCE, "subject": -1}], "sequences[0].subject: expected a whole number from 0 on, not -1"),
        ([{**SEQUENCE, "frame_step": 0}], "sequences[0].frame_step: expected a whole number from 1 on"),
        ([{**SEQUENCE, "first_frame": 10**20}], "sequences[0].first_frame: expected a whole number from 0 on"),
        ([{**SEQUENCE, "camera": [1, 2, 3]}], "sequences[0].camera: expected fx, fy, cx, cy"),
        ([{**SEQUENCE, "frames": []}], "sequences[0].frames: empty"),
        ([{**SEQUENCE, "frames": [{"frame": 1}, {}]}], 'give the number "frame" in all of them or in none'),
        ([{**SEQUENCE, "frames": [{"frame": 1}, {"frame": 1}]}], "two have the same number"),
        ([SEQUENCE, SEQUENCE], "sequences[1]: the name 'folder/one.jpg' is taken by sequences[0]"),
        ([frame(joint=[])], "sequences[0].frames[0]: unknown field 'joint'; did you mean 'joints'"),
        ([frame(box=[1, 2, 3])], "sequences[0].frames[0].box: expected x1, y1, x2, y2, not [1, 2, 3]"),
        ([frame(box=[5, 5, 1, 9])], "frames[0].box: the box must be x1, y1, x2, y2 with x1 < x2"),
        ([frame(joints=[[1, 2]])], "frames[0].joints: 1 joints, but the layout 'pa16' has 16"),
        ([frame(joints=7)], "frames[0].joints: expected a list of joints or an object"),
        ([frame(joints={"nose": [1, 2]})], "frames[0].joints: unknown joint 'nose'"),
        ([frame(joints={"neck": [1, "2"]})], "frames[0].joints, neck: expected x, y or x, y, visible"),
        ([frame(joints={"neck": [1, 2, 2]})], "the third number of a joint is 1 for visible and 0 for hidden"),
        ([frame(joints_mm={"neck": [1, 2]})], "frames[0].joints_mm, neck: expected X, Y, Z in millimetres"),
        ([frame(head_size="big")], "frames[0].head_size: expected a number of pixels"),
    ],
)
def test_mistakes_in_json_are_named(tmp_path: Path, content: Any, message: str) -> None:
    write_jpeg(tmp_path / "one.jpg", shoot(0, 1).pictures[0])
    if isinstance(content, list) and content:
        content = {"layout": "pa16", "actions": ["wave"], "sequences": content}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as raised:
        folder.read(tmp_path)
    assert message in str(raised.value)
    assert str(raised.value).count("annotations.json") == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "the first line must name the columns"),
        ("video;frame\na;0\n", "separated by commas: video,frame"),
        ("frame,x1\n0,1\n", "the first line must name the columns"),
        ("video,frame,frame\na,0,0\n", "a column is named twice: 'frame'"),
        ("video,frame\n", "names no sequences"),
        ("video,frame,actoin\na,0,b\n", "unknown column 'actoin'; did you mean 'action'"),
        ("video,frame,knee_x\na,0,1\n", "unknown column 'knee_x'"),
        ("video,frame\na,0\nb\n", "line 3: 1 cells, but there are 2 columns"),
        ("video,frame\n,0\n", "line 2, video: empty"),
        ("video,frame\n/a.jpg,0\n", "line 2, video: give '/a.jpg' relative"),
        ("video,frame\na,1.5\n", "line 2, frame: expected a whole number from 0 on, not '1.5'"),
        ("video,frame\na,inf\n", "line 2, frame: expected a whole number from 0 on, not 'inf'"),
        ("video,frame\na,1\na,1\n", "line 3, frame: a has two rows for frame 1"),
        ("video,frame\na,1\na,\n", "line 3, frame: empty, but other rows of a have numbers"),
        ("video,action\na,x\na,x\n", "line 3, frame: a has two rows without a number"),
        ("video,frame,split\na,1,tset\n", "line 2, split: unknown split 'tset'; did you mean 'test'"),
        ("video,frame,split\na,1,test\na,2,train\n", "line 3, split: differs from the row before"),
        ("video,frame,knee_x,knee_y\na,1,here,2\n", "line 2, knee_x: expected a number, not 'here'"),
        ("video,frame,knee_x,knee_y,knee_v\na,1,1,2,2\n", "line 2, knee_v: expected 1 for visible or 0"),
        ("video,frame,x1,y1,x2,y2\na,1,5,5,1,9\n", "line 2: the box must be x1, y1, x2, y2"),
    ],
)
def test_mistakes_in_csv_are_named(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "annotations.csv").write_text(table)
    with pytest.raises(UserError) as raised:
        folder.read(tmp_path)
    assert message in str(raised.value)
    assert "annotations.csv" in str(raised.value)


def test_joints_that_a_given_layout_lacks(tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text("video,frame,nose_x,nose_y\na,0,1,2\n")
    with pytest.raises(UserError, match="unknown joint in the column nose_x 'nose'"):
        folder.read(tmp_path, layout="pa16")


def test_damaged_annotations(tmp_path: Path, clips: list[Clip]) -> None:
    writer.write_json(tmp_path, [writer.as_json(clips[0])])
    path = tmp_path / "annotations.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"annotations\.json: not JSON: .* in line 1"):
        folder.read(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text in UTF-8"):
        folder.read(tmp_path)


def test_nothing_to_read(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        folder.read(tmp_path / "none")
    with pytest.raises(UserError, match=r"no annotations\.json or annotations\.csv; docs/own-data\.md"):
        folder.read(tmp_path)
    with pytest.raises(UserError, match=r"no labels\.csv"):
        folder.read(tmp_path, annotations="labels.csv")
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(UserError, match=r"a \.json or a \.csv file"):
        folder.read(tmp_path, annotations="labels.txt")
    writer.write_json(tmp_path, [{"media": "gone.mp4", "action": "wave"}])
    with pytest.raises(UserError, match=r"nothing to index \(no such file or folder: 1, first folder/gone\.mp4\)"):
        folder.read(tmp_path)
    writer.write_csv(tmp_path, writer.as_rows(clips[0]))
    with pytest.raises(UserError, match="keep one, or name the one to read"):
        folder.read(tmp_path)
    assert len(folder.read(tmp_path, annotations="annotations.csv")) == 1


def test_a_folder_of_numbers_without_zeros_and_with_percent_signs(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write_jpeg(tmp_path / "50%" / f"a%{number}.jpg", shoot(0, 1).pictures[0])
    writer.write_json(tmp_path, [{"media": "50%", "action": "wave"}])
    index = folder.read(tmp_path)
    assert index.first_frame.tolist() == [8]
    assert index.num_frames(0) == 3
    assert (tmp_path / (index.media[0] % 10)).is_file()


def test_the_examples_in_the_guide_are_read(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^## (JSON|CSV)\n.*?```\w*\n(.*?)```", guide, re.MULTILINE | re.DOTALL))
    pictures = shoot(0, 2).pictures
    write_video(tmp_path / "clips/a.mp4", pictures)
    for i, picture in enumerate(pictures):
        write_jpeg(tmp_path / f"shots/b/img_{i:04d}.jpg", picture)
    write_jpeg(tmp_path / "portrait.png", pictures[0])
    (tmp_path / "annotations.json").write_text(blocks["JSON"])
    index = folder.read(tmp_path)
    assert index.names == ["folder/clips/a.mp4", "folder/shots/b", "folder/portrait.png"]
    assert "skipped" not in index.notes
    (tmp_path / "annotations.csv").write_text(blocks["CSV"])
    index = folder.read(tmp_path, annotations="annotations.csv")
    np.testing.assert_allclose(index.joints_px[:, 2], [[271.5, 96.0], [271.9, 96.2]])
    assert not index.visible[0, 9]
    # Every field and column that the guide names exists, and the other way round.
    fields = {*folder_json.TOP, *folder_json.SEQUENCE, *folder_json.FRAME}
    for name in fields:
        assert re.search(rf"^\|[^|]*`{name}`", guide, re.MULTILINE), name
    for name in folder_csv.OTHER:
        assert re.search(rf"\b{name}\b", guide), name
