"""The index: built, checked, saved, mapped, shared with other processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from marked_media import joints, small_index, three_media

from pyhar.data.index import ARRAYS, Index, Strings
from pyhar.data.layouts import PA16
from pyhar.errors import UserError


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return three_media(tmp_path / "root")


def same(a: Index, b: Index) -> bool:
    arrays = all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name not in ("visible",)) for name in ARRAYS
    )
    texts = list(a.media) == list(b.media) and list(a.names) == list(b.names)
    return arrays and texts and (a.data_set, a.layout, a.action_names) == (b.data_set, b.layout, b.action_names)


def test_what_is_saved_comes_back_mapped_and_read_only(index: Index, tmp_path: Path) -> None:
    index.notes["box_margin"] = np.float32(0.5)
    index.save(tmp_path / "index")
    back = Index.load(tmp_path / "index")
    assert same(index, back)
    assert back.notes == {"box_margin": 0.5}
    for name in ARRAYS:
        column = getattr(back, name)
        assert isinstance(column.base, np.memmap), name
        with pytest.raises(ValueError, match="read-only"):
            column[...] = 0


def test_a_loaded_index_travels_as_a_path(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    back = Index.load(tmp_path / "index")
    sent = pickle.dumps(back)
    assert len(sent) < 500
    assert same(pickle.loads(sent), index)
    # One that is only in memory travels whole.
    assert same(pickle.loads(pickle.dumps(index)), index)
    code = "import pickle, sys; index = pickle.load(sys.stdin.buffer); print(index.names[1], index.joints_px.shape)"
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True).stdout.decode()
    assert told.split(maxsplit=1) == ["fake/b", f"{index.joints_px.shape}\n"]


def test_an_index_replaced_meanwhile_is_noticed(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    sent = pickle.dumps(Index.load(tmp_path / "index"))
    index.select([0]).save(tmp_path / "index")
    with pytest.raises(UserError, match="was replaced while a run was using it"):
        pickle.loads(sent)


def test_saving_replaces_whole_or_not_at_all(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    index.save(folder)
    old = Index.load(folder)
    index.notes["thing"] = object()
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        index.save(folder)
    assert same(Index.load(folder), old)
    del index.notes["thing"]
    index.select([2, 0]).save(folder)
    assert Index.load(folder).names == ["fake/c", "fake/a"]
    assert len(list(folder.iterdir())) == 2  # index.json and one folder of columns
    assert list(old.names) == list(index.names)  # what is mapped stays

    def full(path: Path, array: np.ndarray) -> None:
        raise OSError("32928 requested and 2016 written")  # As NumPy says that a disk is full.

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"cannot be written to .*2016 written.*: is there room on the disk"):
        index.save(folder)
    assert len(list(folder.iterdir())) == 2


def test_damage_and_other_versions_are_named(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index at .*prepare"):
        Index.load(tmp_path / "nowhere")
    folder = tmp_path / "index"
    index.save(folder)
    file = folder / "index.json"
    facts = json.loads(file.read_text())
    (column,) = folder.glob("columns-*/joints_px.npy")
    whole = column.read_bytes()
    column.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)
    column.write_bytes(whole.replace(b"}", b" ", 1))  # Of its heading.
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)
    column.unlink()
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)
    file.write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(UserError, match="version 99, this pyhar reads version 2"):
        Index.load(folder)
    file.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("first_row", np.array([0, 1, 30, 25]), "first_row must rise"),
        ("joints_px", np.zeros((25, 15, 2), np.float32), r"joints_px should be float32 \(25, 16, 2\)"),
        ("box", np.zeros((25, 4)), "box should be float32"),
        ("action", np.array([0, 1, 2]), r"action holds 0\.\.2, outside -1\.\.1"),
        ("split", np.array([0, 1, 3], np.uint8), "split holds"),
        ("frame_step", np.array([1, 0, 1]), "frame_step holds"),
        ("names", ["a", "b"], "2 names for 3 sequences"),
    ],
)
def test_columns_that_do_not_fit_are_named(index: Index, column: str, value: object, words: str) -> None:
    index.check()
    with pytest.raises(UserError, match=words):
        replace(index, **{column: value}).check()


def test_splits_and_selections(index: Index) -> None:
    assert index.of_split("train").tolist() == [0, 1]
    assert index.of_split("test").tolist() == [2]
    with pytest.raises(UserError, match=r"the val split of fake is empty; it has train \(2\), test \(1\)"):
        index.of_split("val")
    with pytest.raises(UserError, match="did you mean 'train'"):
        index.of_split("trian")
    chosen = index.select([2, 1])
    chosen.check()
    assert chosen.names == ["fake/c", "fake/b"]
    assert [chosen.num_frames(i) for i in range(2)] == [4, 20]
    np.testing.assert_array_equal(chosen.joints_px[:4], index.joints_px[21:])
    np.testing.assert_array_equal(chosen.joints_px[4:], index.joints_px[1:21])
    shorter = index.select([1, 2], [3, 9])
    np.testing.assert_array_equal(shorter.joints_px, index.joints_px[[1, 2, 3, 21, 22, 23, 24]])
    with pytest.raises(IndexError):
        index.select([3])


def test_the_builder_makes_what_is_unknown_nan() -> None:
    builder = small_index()
    px, mm = np.full((2, 16, 2), 5.0), np.full((2, 16, 3), 5.0)
    px[0, 3], px[0, 4], px[1, 5] = [np.nan, 7], [0, 0], [0, 9]
    mm[0, 3], mm[1, 4] = [1, np.inf, 1], 0
    builder.add(
        name="x",
        media="x.avi",
        kind="video",
        split="val",
        joints_px=px,
        joints_mm=mm,
        visible=np.ones((2, 16)),
        box=[[1, 2, 1, 5], [1, 2, 3, 4]],
        head_size=[0, 3],
        camera=[1, 2, 3, 4],
    )
    builder.add(name="y", media="y.jpg", kind="picture", split="val", frames=1)
    index = builder.build(stills={"train": 5})
    assert np.isnan(index.joints_px[0, [3, 4]]).all()
    assert np.isfinite(index.joints_px[1]).all()  # 0 is a place, 0, 0 is none
    assert not index.visible[0, [3, 4]].any()
    assert index.visible[0].sum() == 14
    assert np.isnan(index.joints_mm[0, 3]).all()
    assert np.isnan(index.joints_mm[1, 4]).all()
    assert np.isnan(index.box[0]).all()
    assert index.box[1].tolist() == [1, 2, 3, 4]
    assert np.isnan(index.head_size[0])
    assert index.camera[0].tolist() == [1, 2, 3, 4, 0, 0, 0, 0, 0]
    assert np.isnan(index.camera[1]).all()
    assert np.isnan(index.joints_px[2]).all()
    assert not index.visible[2].any()
    assert index.notes == {"stills": {"train": 5}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "film"}, "unknown kind of medium 'film'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"action": 2}, "fake: x: action 2 of 2"),
        ({"joints_px": np.zeros((0, 16, 2))}, "fake: x has no frames"),
        ({"joints_px": np.zeros((2, 15, 2))}, r"joints_px has shape \(2, 15, 2\), expected \(2, 16, 2\)"),
        ({"visible": np.zeros((3, 16))}, "visible has shape"),
        ({"camera": [1, 2, 3]}, "4 or 9 numbers"),
        ({"first_frame": -1}, "first frame -1"),
    ],
)
def test_the_builder_names_what_does_not_fit(change: dict[str, object], words: str) -> None:
    given = {"name": "x", "media": "x.avi", "kind": "video", "split": "test", "joints_px": joints(2)}
    with pytest.raises(UserError, match=words):
        small_index().add(**{**given, **change})  # type: ignore[arg-type]


def test_what_was_skipped_is_noted_and_nothing_at_all_is_an_error() -> None:
    builder = small_index()
    builder.skip("no skeleton", "clip 7")
    builder.skip("no skeleton", "clip 9")
    with pytest.raises(UserError, match=r"fake: nothing to index .no skeleton: 2, first clip 7."):
        builder.build()
    builder.add(name="y", media="y.jpg", kind="picture", split="val", frames=1)
    assert builder.build().notes == {"skipped": {"no skeleton": ["clip 7", "clip 9"]}}


def test_strings_pack_any_text() -> None:
    texts = ["", "a/ü.jpg", "", "中文", "x" * 1000]
    packed = Strings.of(texts)
    assert packed == texts
    assert packed[-2] == "中文"
    assert packed[1:3] == ["a/ü.jpg", ""]
    with pytest.raises(IndexError):
        packed[5]
    assert len(Strings.of([])) == 0


def test_the_layout_travels_with_its_bones_and_root(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path)
    assert Index.load(tmp_path).layout == PA16


def test_damaged_strings_and_notes_are_named_with_their_folder(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index.save(folder)
    (columns,) = folder.glob("columns-*")
    for name, change in (
        ("names.starts", lambda a: a[::-1]),
        ("names.starts", lambda a: a.astype(float)),
        ("names", lambda a: np.where(np.arange(len(a)) == 1, 255, a).astype(np.uint8)),
        ("media", lambda a: a[:-1]),
        ("media_kind", lambda a: a.astype(complex)),
    ):
        good = (columns / f"{name}.npy").read_bytes()
        np.save(columns / f"{name}.npy", change(np.load(columns / f"{name}.npy")))
        with pytest.raises(UserError, match=rf"the index in {folder} is damaged"):
            Index.load(folder)
        (columns / f"{name}.npy").write_bytes(good)
    good_facts = (folder / "index.json").read_text()
    (columns / "camera.npy").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)
    for notes in ([], {"skipped": []}, {"cut": 1}):
        (folder / "index.json").write_text(json.dumps({**json.loads(good_facts), "notes": notes}))
        with pytest.raises(UserError, match="is damaged"):
            Index.load(folder)
    (folder / "index.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged"):
        Index.load(folder)


def test_a_camera_that_is_not_finite_is_unknown() -> None:
    builder = small_index()
    builder.add(
        name="a", media="a", kind="picture", split="train", joints_px=joints(1), camera=[500.0, np.nan, 1.0, 1.0]
    )
    assert np.isnan(builder.build().camera).all()
