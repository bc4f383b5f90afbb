"""Preparing a data set on disk, and building it by name from its index."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marked_media import WHITE, centroid, joints, picture, small_index, three_media, write_video

from pyhar import cli
from pyhar.data import prepare as preparing
from pyhar.data import registry
from pyhar.data.index import MEDIA_KINDS, Index
from pyhar.data.prepare import Count, differences, main, prepare, summary
from pyhar.data.registry import OnDisk, build, index_of, root_of
from pyhar.data.video_reader import VideoReader
from pyhar.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a data set called "fake", its module registered."""

    def read(root: Path, joint_set: str = "usual", scale: float = 1.0) -> Index:
        index = Index.load(root / "as-shipped")
        index.notes.update(joint_set=joint_set, scale=scale)
        return index

    module = types.ModuleType("fake_data_set")
    module.read = read  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_data_set", module)
    monkeypatch.setitem(registry.ON_DISK, "fake", OnDisk("fake_data_set", subsample=4))
    monkeypatch.setitem(registry.DATASETS, "fake", registry._on_disk("fake"))
    for variable in ("PYHAR_DATA", "PYHAR_DATA_FAKE", "PYHAR_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "fake"
    three_media(folder).save(folder / "as-shipped")
    return folder


def quietly(root: Path, **options: Any) -> Index:
    return prepare("fake", root, progress=False, **options)[0]


def test_prepared_once_and_built_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has no index in .*/fake: run `python -m pyhar.data.prepare fake .*fake`, or"):
        build("fake", "train", "pose", root=root)
    quietly(root)
    assert (root / ".pyhar-index/fake/index.json").is_file()
    stills = build("fake", "train", "pose", root=root, image_size=32, augment=False, seed=3, size=1)
    assert len(stills) == 1
    clips = build("fake", "train", "clips", root=root, image_size=32, augment=True, clip_frames=3, layout="pa17")
    assert clips[0]["frames"].shape == (3, 32, 32, 3)
    assert len(clips) == 1  # The other sequence has no action.
    assert clips.layout.name == "pa17"
    assert clips.subsample == 4
    assert build("fake", "train", "clips", root=root, subsample=2).subsample == 2
    with pytest.raises(UserError, match=r"where is the data set fake. Set PYHAR_DATA_FAKE"):
        build("fake", "train", "pose")
    monkeypatch.setenv("PYHAR_DATA", str(root.parent))
    assert len(build("fake", "train", "pose")) == 2
    with pytest.raises(UserError, match="the val split of fake is empty"):
        build("fake", "val", "pose")


def test_folders_by_option_and_variable(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root_of("fake", root) == root
    monkeypatch.setenv("PYHAR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"is not there: .*nowhere/fake; PYHAR_DATA_FAKE can name it"):
        root_of("fake")
    monkeypatch.setenv("PYHAR_DATA_FAKE", str(root))
    assert root_of("fake") == root
    assert index_of("fake", root) == root / ".pyhar-index/fake"
    monkeypatch.setenv("PYHAR_INDEX", str(tmp_path / "indices"))
    assert index_of("fake", root) == tmp_path / "indices/fake"
    assert index_of("fake", root, tmp_path / "other") == tmp_path / "other"
    quietly(root)
    assert (tmp_path / "indices/fake/index.json").is_file()
    assert len(build("fake", "train", "pose")) == 2
    quietly(root, index=tmp_path / "mine")
    assert len(build("fake", "test", "clips", index=tmp_path / "mine")) == 1


def test_an_index_of_another_data_set_is_refused(root: Path, tmp_path: Path) -> None:
    small = three_media(tmp_path / "x", "other")
    small.save(index_of("fake", root))
    with pytest.raises(UserError, match="is the index of other, not of fake"):
        build("fake", "train", "pose", root=root)


def test_every_name_on_disk_is_built_by_the_registry() -> None:
    assert set(registry.ON_DISK) == {"mpii", "penn", "human36m", "ntu", "folder"}
    assert set(registry.ON_DISK) < set(registry.DATASETS)
    for name in registry.ON_DISK:
        with pytest.raises(UserError, match=f"data set {name}"):
            build(name, "train", "pose", root="no/such/folder")


def test_what_is_missing_is_left_out_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "videos/b.avi").unlink()
    (root / "frames/c/000008.jpg").unlink()
    index = quietly(root)
    assert list(index.names) == ["fake/a"]
    assert index.notes["skipped"] == {"the file is missing": ["fake/b"], "frames are missing": ["fake/c"]}
    assert main(["fake", str(root), "--no-progress"]) == 0
    told, beside = capsys.readouterr()
    assert beside == ""
    assert "fake: 1 sequences, 1 frames, index in" in told
    assert "train: 1 sequences (1 picture), 1 frames" in told
    assert "left out, the file is missing: 1 (fake/b)" in told
    assert main(["fake", str(root)]) == 0
    assert f"reading the annotations of fake in {root}" in capsys.readouterr().err


def test_checking_looks_inside(root: Path) -> None:
    for name in ("images/a.jpg", "frames/c/000006.jpg"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
    assert len(quietly(root)) == 3  # all there
    index = quietly(root, check=True)
    assert list(index.names) == ["fake/b"]
    assert index.notes["skipped"] == {"the file is cut off or damaged": ["fake/a", "fake/c"]}
    (root / "images/a.jpg").write_bytes(b"")
    assert quietly(root, check=True, workers=1).notes["skipped"]["the file is empty"] == ["fake/a"]
    (root / "videos/b.avi").write_bytes(b"RIFF")
    with pytest.raises(
        UserError, match=r"fake: not one of its 3 sequences has usable files; images/a.jpg: the file is empty"
    ):
        quietly(root, check=True)


def test_videos_shorter_than_their_annotation_are_cut(root: Path) -> None:
    write_video(root / "videos/b.avi", [picture(128, 96, [(30, 40, WHITE)], 3.0)] * 7)
    index = quietly(root, check=True)
    assert [index.num_frames(i) for i in range(3)] == [1, 7, 4]
    assert index.notes["skipped"] == {"the video is shorter than its annotation: its last frames": ["fake/b"]}
    np.testing.assert_array_equal(index.joints_px[8:], Index.load(root / "as-shipped").joints_px[21:])
    assert quietly(root, extract=True).num_frames(1) == 7


def test_the_last_frames_of_a_video_that_is_cut_off(root: Path) -> None:
    path = write_video(root / "videos/b.avi", [picture(128, 96, [(30 + i, 40, WHITE)]) for i in range(20)], b_frames=2)
    data = path.read_bytes()
    path.write_bytes(data[:-500])
    reader = VideoReader(path)
    count = reader.num_frames
    with pytest.raises(UserError, match="cannot be decoded"):
        list(reader.read(range(count)))
    index = quietly(root, check=True)
    assert count - 4 < index.num_frames(1) < count
    assert len(list(VideoReader(path).read(range(index.num_frames(1))))) == index.num_frames(1)
    assert "fake/b" in index.notes["skipped"]["the video is shorter than its annotation: its last frames"]


def test_sequences_behind_the_end_of_a_video_are_left_out(root: Path) -> None:
    builder = small_index()
    for name, first, step in (("early", 3, 4), ("late", 30, 1)):
        builder.add(
            name=name,
            media="videos/b.avi",
            kind="video",
            split="test",
            joints_px=joints(8),
            box=[20, 10, 100, 80],
            first_frame=first,
            frame_step=step,
        )
    builder.build().save(root / "as-shipped")
    index = quietly(root, check=True)
    assert list(index.names) == ["early"]
    assert index.num_frames(0) == 5  # 3, 7, 11, 15, 19 of 20
    assert index.notes["skipped"] == {
        "the video is shorter than its annotation": ["late"],
        "the video is shorter than its annotation: its last frames": ["early"],
    }


def test_extracted_frames_are_those_of_the_video(root: Path, tmp_path: Path) -> None:
    for index_folder in (None, tmp_path / "elsewhere"):
        quietly(root, index=index_folder)
        video = build("fake", "train", "clips", root=root, index=index_folder, image_size=48, augment=False)
        index = quietly(root, index=index_folder, extract=True)
        assert MEDIA_KINDS[index.media_kind[1]] == "frames"
        assert index.media[0] == "images/a.jpg"
        shown = build("fake", "train", "clips", root=root, index=index_folder, image_size=48, augment=False)
        for one, other in zip(video[0]["frames"], shown[0]["frames"], strict=True):
            np.testing.assert_allclose(centroid(one.numpy()), centroid(other.numpy()), atol=0.3)
    assert len(list((tmp_path / "elsewhere/frames/videos/b.avi").glob("*.jpg"))) == 20


def test_extracting_goes_on_where_it_was_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(root / "videos/b.avi", root / "videos/d.avi")
    builder = small_index()
    for name in "bd":
        builder.add(name=name, media=f"videos/{name}.avi", kind="video", split="test", frames=5, box=[20, 10, 100, 80])
    builder.build().save(root / "as-shipped")
    folder = index_of("fake", root) / "frames/videos"
    read, opened = preparing.extract_frames.__globals__["read_frames"], []

    def stopping(path: Path, numbers: list[int]) -> Any:
        opened.append(path.name)
        for place, item in enumerate(read(path, numbers)):
            if path.name == "d.avi" and place == 2 and len(opened) < 3:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setitem(preparing.extract_frames.__globals__, "read_frames", stopping)
    with pytest.raises(KeyboardInterrupt):
        quietly(root, extract=True, workers=1)
    assert [path.name for path in folder.iterdir()] == ["b.avi"]  # nothing by halves
    opened[:] = [*opened, "again"]
    index = quietly(root, extract=True, workers=1)
    assert opened == ["b.avi", "d.avi", "again", "d.avi"]
    assert [len(list((folder / name).glob("*.jpg"))) for name in ("b.avi", "d.avi")] == [5, 5]
    assert index.media[1].endswith("videos/d.avi/%06d.jpg")
    # A video that changed is extracted anew.
    write_video(root / "videos/b.avi", [picture(128, 96, [(30, 40, WHITE)], 3.0)] * 6)
    quietly(root, extract=True, workers=1)
    assert opened[4:] == ["b.avi"]


def test_videos_that_cannot_be_extracted_are_left_out(root: Path) -> None:
    data = (root / "videos/b.avi").read_bytes()
    (root / "videos/b.avi").write_bytes(data[:-700])
    index = quietly(root, extract=True)
    assert list(index.names) == ["fake/a", "fake/c"]
    assert index.notes["skipped"] == {"the file is cut off or damaged": ["fake/b"]}
    assert not list((index_of("fake", root) / "frames/videos").iterdir())  # nothing by halves


def test_no_room_for_frames(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imwrite", lambda *_: False)
    with pytest.raises(UserError, match=r"frames cannot be written to .*000000\.jpg of b\.avi.*room on the disk"):
        quietly(root, extract=True)
    assert not (index_of("fake", root) / "index.json").exists()


def test_published_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = quietly(root)
    assert differences(index) == []
    complete = (Count("sequences", 2, "train"), Count("media", 1, "test"), Count("actions", 2), Count("subjects", 1))
    monkeypatch.setitem(preparing.PUBLISHED, "fake", complete)
    assert differences(index) == []
    # Of recordings that are there as single pictures, no number of media is right.
    monkeypatch.setitem(preparing.PUBLISHED, "fake", (Count("media", 9, "train"),))
    assert differences(index) == []
    monkeypatch.setitem(preparing.PUBLISHED, "fake", (Count("sequences", 9, "train"), Count("actions", 3)))
    said = ["2 sequences of the train split, where a complete copy has 9", "2 actions, where a complete copy has 3"]
    assert differences(index) == said
    assert all(f"note: {one}" in summary(index, root) for one in said)
    assert set(preparing.PUBLISHED) < set(registry.ON_DISK) | {"fake"}


def test_people_who_are_nowhere_are_left_out(root: Path) -> None:
    index = Index.load(root / "as-shipped")
    px, box = index.joints_px.copy(), np.full_like(index.box, np.nan)
    px[:21] = np.nan
    px[7, 3] = index.joints_px[21, 8]  # One joint in all.
    replace(index, joints_px=px, box=box).save(root / "as-shipped")
    assert quietly(root).notes["skipped"] == {"neither a box nor two joints in pixels": ["fake/a", "fake/b"]}
    px[8, 3] = px[7, 3]
    box[0] = [1, 1, 9, 9]
    replace(index, joints_px=px, box=box).save(root / "as-shipped")
    assert len(quietly(root)) == 3
    replace(index, joints_px=px * np.nan, box=box * np.nan).save(root / "as-shipped")
    with pytest.raises(UserError, match="fake: neither a box nor two joints in pixels in any of its 3 sequences"):
        quietly(root)


def test_an_index_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").touch()
    monkeypatch.setattr(OnDisk, "read", None)  # It is said before anything is read.
    with pytest.raises(UserError, match=r"file/deep/er cannot be written to, since .*file is no folder.*PYHAR_INDEX"):
        quietly(root, index=root / "file/deep/er")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != root)
    with pytest.raises(UserError, match="is no folder that you may write to"):
        quietly(root)


def test_what_loaders_found_odd_is_said(root: Path) -> None:
    index = quietly(root)
    assert "note" not in summary(index, root)
    index.notes |= {
        "cut": {"video shorter than its joints": ["a", "b"]},
        "fewer_boxes_than_frames": ["c"],
        "fewer_frames_than_labels": [],
        "disagree": {"d": 7.2, "e": 401.6},
    }
    said = [line for line in summary(index, root).splitlines() if "note" in line]
    assert said == [
        "  note: video shorter than its joints: 2 (a, b)",
        "  note: fewer boxes than frames: 1 (c)",
        "  note: joints in space are up to 402 pixels from those in the picture, as with wrong cameras or "
        "without their distortion: 2 (d, e)",
    ]


def test_options_of_the_data_set(root: Path) -> None:
    assert main(["fake", str(root), "--no-progress", "--set", "joint-set=release", "--set", "scale=2.5"]) == 0
    notes = Index.load(index_of("fake", root)).notes
    assert (notes["joint_set"], notes["scale"]) == ("release", 2.5)
    with pytest.raises(UserError, match="unknown option of fake_data_set 'joint_sets'; did you mean 'joint_set'"):
        main(["fake", str(root), "--set", "joint_sets=release"])
    with pytest.raises(UserError, match="NAME=VALUE, not 'release'"):
        main(["fake", str(root), "--set", "release"])
    with pytest.raises(UserError, match="--set scale: expected a number, not 'large'"):
        main(["fake", str(root), "--set", "scale=large"])


def test_a_check_only_reports(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (root / "images/a.jpg").read_bytes()
    (root / "images/a.jpg").write_bytes(data[: len(data) // 2])
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    assert main(["fake", str(root), "--no-progress", "--check"]) == 0
    told = capsys.readouterr().out
    assert "fake: 2 sequences, 24 frames, only checked, no index written" in told
    assert "left out, the file is cut off or damaged: 1 (fake/a)" in told
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before
    with pytest.raises(UserError, match="leave out --check or --extract"):
        main(["fake", str(root), "--check", "--extract"])
    assert main(["fake", str(root), "--no-progress", "--whole"]) == 0
    assert list(Index.load(index_of("fake", root)).names) == ["fake/b", "fake/c"]


def test_help_names_the_options_of_every_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "fake joint_set=usual scale=1.0" in told
    assert "protocol=cross-subject mirror=true" in told
    assert "pyhar.data.human36m" in told
    for data_set in registry.ON_DISK.values():
        assert all(f"{option}=" in told for option in data_set.options)


def test_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.main, ["prepare", "fake", str(root), "--whole", "--workers", "1", "--no-progress"]) == 0
    assert "fake: 3 sequences" in capsys.readouterr().out
    for words, message in (
        (["fack", str(root)], "did you mean 'fake'"),
        (["fake", str(root / "none")], "the folder of the data set fake is not there"),
        (["fake", str(root), "--workers", "0"], "workers must be at least 1"),
    ):
        assert cli.run(main, words) == 2
        assert message in capsys.readouterr().err


def test_notes_survive(root: Path) -> None:
    index = Index.load(root / "as-shipped")
    builder = small_index()
    builder.skip("no skeleton", "fake/x")
    builder.add(name="fake/a", media="images/a.jpg", kind="picture", split="train", joints_px=index.joints_px[:1])
    builder.add(name="fake/z", media="images/z.jpg", kind="picture", split="train", joints_px=index.joints_px[:1])
    builder.build(box_margin=0.25).save(root / "as-shipped")
    notes = json.loads((quietly(root) and index_of("fake", root) / "index.json").read_text())["notes"]
    assert notes["skipped"] == {"no skeleton": ["fake/x"], "the file is missing": ["fake/z"]}
    assert notes["box_margin"] == 0.25
