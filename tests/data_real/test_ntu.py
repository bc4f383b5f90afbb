"""NTU RGB+D: what was written in each format is read back, the person is found among bodies, bad files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from writers import ntu as writer
from writers.videos import cut_off

from pyhar.data import registry
from pyhar.data.geometry import project
from pyhar.data.index import SPLITS, Index
from pyhar.data.ntu import ACTIONS, read
from pyhar.data.ntu_bodies import fit_pinhole
from pyhar.data.ntu_files import read_missing, read_skeleton
from pyhar.data.prepare import prepare
from pyhar.errors import UserError

ONE = "S001C002P003R001A013"


def rows(index: Index, name: str) -> tuple[int, slice]:
    i = list(index.names).index(f"ntu/{name}")
    return i, slice(int(index.first_row[i]), int(index.first_row[i + 1]))


def check_track(index: Index, name: str, track: writer.Track, scale: float = 1.0) -> None:
    """The joints of one body, in the frames in which it was tracked, and unknown in the others."""
    _, span = rows(index, name)
    mm, px, visible = index.joints_mm[span], index.joints_px[span], index.visible[span]
    there = slice(track.start, track.start + len(track.xyz))
    order = writer.MIRRORED[: len(index.layout.joints)]
    xyz = track.xyz[:, order]
    count = len(mm[there])
    np.testing.assert_allclose(mm[there], 1000 * xyz[:count] * [1, -1, 1], rtol=0, atol=0.01)
    np.testing.assert_allclose(px[there], scale * track.pixels()[:count, order], rtol=0, atol=0.01)
    np.testing.assert_array_equal(visible[there], track.state[:count, order] == 2)
    elsewhere = np.ones(len(mm), dtype=bool)
    elsewhere[there] = False
    assert np.isnan(mm[elsewhere]).all()
    assert np.isnan(px[elsewhere]).all()
    assert not visible[elsewhere].any()


def test_owners_files(tmp_path: Path) -> None:
    # Subjects 1 and 3 train and test across subjects; cameras 2 and 1 train and test across views.
    made = {
        "S001C001P001R001A001": [writer.track(8, seed=1)],
        "S001C002P003R002A060": [writer.track(8, seed=2, action=3)],
        "S017C003P038R001A049": [writer.track(8, seed=3)],
        "S009C002P040R001A010": [writer.track(8, seed=4)],
    }
    made["S001C001P001R001A001"][0].state[2, 5] = 1  # Inferred: known, but not seen.
    writer.write_owners(tmp_path, made)
    splits = {
        "cross-subject": ["train", "test", "train", "test"],
        "cross-view": ["test", "train", "train", "train"],
    }
    for protocol, expected in splits.items():
        index = read(tmp_path, protocol=protocol, required=("train", "test"))
        assert sorted(index.names) == sorted(f"ntu/{name}" for name in made)
        for (name, tracks), split in zip(made.items(), expected, strict=True):
            check_track(index, name, tracks[0])
            i, _ = rows(index, name)
            assert SPLITS[index.split[i]] == split
            assert index.action[i] == int(name[-3:]) - 1
            assert index.subject[i] == int(name[9:12])
            assert index.media[i] == f"nturgb+d_rgb/{name}_rgb.avi"
            assert (index.media_kind[i], index.first_frame[i], index.frame_step[i]) == (2, 0, 1)
            np.testing.assert_allclose(index.camera[i], [*writer.COLOUR, 0, 0, 0, 0, 0], rtol=0, atol=1e-3)
        assert index.notes["reprojection_px"]["largest"] < 0.01
        assert index.notes["protocol"] == protocol
        assert "skipped" not in index.notes
    assert len(ACTIONS) == len(set(ACTIONS)) == 60
    assert index.action_names[42] == "falling"
    with pytest.raises(UserError, match="did you mean 'cross-view'"):
        read(tmp_path, protocol="crossview")


def test_one_folder_for_each_setup(tmp_path: Path) -> None:
    names = ["S001C001P001R001A001", "S002C002P003R002A060", "S003C003P008R001A049"]
    writer.write_owners(tmp_path, {name: [writer.track(8)] for name in names})
    # As archives are unpacked: each into a folder of its own name, with the owners' folder in it or without.
    for name, place in zip(names, ("nturgbd_rgb_s001/nturgb+d_rgb", "nturgbd_rgb_s002", "."), strict=True):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "nturgb+d_rgb" / f"{name}_rgb.avi").rename(tmp_path / place / f"{name}_rgb.avi")
    skeletons = tmp_path / "nturgbd_skeletons_s001_to_s017"
    skeletons.mkdir()
    (tmp_path / "nturgb+d_skeletons").rename(skeletons / "nturgb+d_skeletons")
    # Neither frames of a video nor what lies deeper is taken for a video.
    (tmp_path / "frames" / f"{names[0]}_rgb.avi").mkdir(parents=True)
    (tmp_path / names[0]).mkdir()
    (tmp_path / names[0] / f"{names[1]}_rgb.avi").touch()
    index = read(tmp_path)
    assert list(index.names) == [f"ntu/{name}" for name in names]
    assert list(index.media) == [
        f"nturgbd_rgb_s001/nturgb+d_rgb/{names[0]}_rgb.avi",
        f"nturgbd_rgb_s002/{names[1]}_rgb.avi",
        f"{names[2]}_rgb.avi",
    ]
    assert "skipped" not in index.notes


def test_crops_are_half_as_large_again_as_the_joints(tmp_path: Path) -> None:
    writer.write_owners(tmp_path, {ONE: [writer.track(8, seed=1)]})
    prepare("ntu", tmp_path, progress=False)
    for kind in ("pose", "clips"):
        sample = registry.build("ntu", "test", kind, root=tmp_path, image_size=32, augment=False)[0]
        x1, y1, x2, y2 = sample["box"].tolist()
        assert 1 / float(sample["to_crop"][0, 0]) == pytest.approx(1.5 * max(x2 - x1, y2 - y1))


def test_camera_is_the_pinhole_between_two_real_cameras(tmp_path: Path) -> None:
    # The colour camera stands 52 mm beside the other and is turned a little, as in a Kinect.
    track = writer.track(8, side=0.3)
    turned = track.xyz * [1, -1, 1] @ np.array([[1, 0, 0.01], [0, 1, -0.02], [-0.01, 0.02, 1]]) + [0.052, 0.0, 0.0]
    track.px = turned[..., :2] / turned[..., 2:] * writer.COLOUR[:2] + writer.COLOUR[2:]
    writer.write_owners(tmp_path, {ONE: [track]})
    index = read(tmp_path)
    i, span = rows(index, ONE)
    mm = torch.from_numpy(np.array(index.joints_mm[span], dtype=np.float64))
    px = project(mm[None], torch.from_numpy(index.camera[i : i + 1]))[0].numpy()
    error = np.linalg.norm(px - index.joints_px[span], axis=-1)
    assert error.max() < 3.0
    # Without the fit, what the colour camera's own numbers say is far off.
    naive = mm[..., :2] / mm[..., 2:] * torch.from_numpy(writer.COLOUR[:2]) + torch.from_numpy(writer.COLOUR[2:])
    assert np.linalg.norm(naive.numpy() - index.joints_px[span], axis=-1).min() > 10.0
    assert 0 < index.notes["reprojection_px"]["largest"] < 2.0


def test_pinhole_fit_of_little_and_of_wrong_data() -> None:
    rng = np.random.default_rng(0)
    mm = np.stack([rng.uniform(-600, 600, 200), rng.uniform(-900, 900, 200), rng.uniform(2500, 4000, 200)], -1)
    px = mm[:, :2] / mm[:, 2:] * [1000, 1010] + [950, 530]
    px[::20] += 300  # Outliers.
    mm[1], px[3] = np.nan, np.nan
    camera, error = fit_pinhole(mm, px)
    np.testing.assert_allclose(camera, [1000, 1010, 950, 530], atol=1e-6)
    assert error < 1e-6
    # All in one column: the horizontal focal length is the vertical one.
    mm[:, 0] = 0.001 * mm[:, 2]
    px = mm[:, :2] / mm[:, 2:] * [1000, 1000] + [950, 530]
    np.testing.assert_allclose(fit_pinhole(mm, px)[0], [1000, 1000, 950, 530], atol=1e-6)
    assert np.isnan(fit_pinhole(mm[:3], px[:3])[0]).all()
    assert np.isnan(fit_pinhole(mm, np.full_like(px, np.nan))[0]).all()


def test_sides_and_layouts(tmp_path: Path) -> None:
    track = writer.track(8)
    writer.write_owners(tmp_path, {ONE: [track]})
    mirrored, named = read(tmp_path), read(tmp_path, mirror=False)
    assert mirrored.notes["mirror"]
    joint = mirrored.layout.index
    left_shoulder = 1000 * track.xyz[:, 4] * [1, -1, 1]
    np.testing.assert_allclose(mirrored.joints_mm[:, joint("right shoulder")], left_shoulder, atol=0.01)
    np.testing.assert_allclose(named.joints_mm[:, joint("left shoulder")], left_shoulder, atol=0.01)
    # One is the other mirrored, joint for joint.
    np.testing.assert_array_equal(named.joints_mm, mirrored.joints_mm[:, list(mirrored.layout.flip)])
    np.testing.assert_array_equal(named.joints_px, mirrored.joints_px[:, list(mirrored.layout.flip)])
    # In the picture, what the default calls right lies where a frontal person's right side does: to the left.
    px = mirrored.joints_px[0]
    assert px[joint("right shoulder"), 0] < px[joint("left shoulder"), 0]
    short = read(tmp_path, layout="pa16")
    assert short.layout.name == "pa16"
    np.testing.assert_array_equal(short.joints_mm, mirrored.joints_mm[:, :16])
    check_track(short, ONE, track)
    with pytest.raises(UserError, match="did you mean 'pa17'"):
        read(tmp_path, layout="pa18")


def test_ghosts_and_third_bodies_are_not_the_person(tmp_path: Path) -> None:
    person = writer.track(8, seed=5)
    # Chair 1 comes first; chair 2 shakes more than the person moves, and has a number one apart from the person's,
    # which a float would take for the same.
    shaking = writer.chair(8, number=person.number + 1, jitter=0.5)
    writer.write_owners(tmp_path, {ONE: [writer.chair(8), person, shaking]})
    check_track(read(tmp_path), ONE, person)
    assert len({float(person.number), float(shaking.number)}) == 1
    # A body of impossible size is no person, however it moves.
    giant = writer.track(8, number=5, seed=6)
    giant.xyz = giant.xyz * 3 * np.linspace(0.8, 1.2, 8)[:, None, None]
    writer.write_owners(tmp_path, {ONE: [giant, person]})
    check_track(read(tmp_path), ONE, person)
    # Of two plausible ones, who moves; a person who stands still for the whole clip does not act.
    standing = writer.track(8, number=6, seed=7, side=-0.8)
    standing.xyz[:] = standing.xyz[0]
    writer.write_owners(tmp_path, {ONE: [standing, person]})
    check_track(read(tmp_path), ONE, person)


def test_extent_of_a_person(tmp_path: Path) -> None:
    # Each of these moves more than the person, and has all that makes a person but one thing.
    person, walk = writer.track(8, seed=5), np.linspace(0, 2, 8)[:, None, None] * [1, 0, 0]
    wide = writer.chair(8)
    wide.xyz = wide.xyz + walk
    long_armed = writer.track(8, number=5, seed=6)
    long_armed.xyz = long_armed.xyz + walk
    long_armed.xyz[:, 21] += [0, 2.5, 0]
    small = writer.track(8, number=6, seed=7)
    rod = np.linspace(0, 0.35, 25)[:, None] * [0, 1, 0]
    rod[20] = 0, 0.3, 0
    small.xyz = np.array([0.5, 0, 2.5]) + rod + walk
    stooped = writer.track(8, number=7, seed=8)
    stooped.xyz = stooped.xyz + walk
    stooped.xyz[:, 20] = stooped.xyz[:, 0] + [0, 0.1, 0]
    for ghost in (wide, long_armed, small, stooped):
        writer.write_owners(tmp_path, {ONE: [ghost, person]})
        check_track(read(tmp_path), ONE, person)
    # Zeros for a frame are no motion.
    still = writer.track(8, number=8, seed=9, side=-0.8)
    still.xyz[:] = still.xyz[0]
    still.xyz[4] = 0
    still.px = writer.to_colour(still.xyz + 1e-9)
    still.px[4] = 0
    writer.write_owners(tmp_path, {ONE: [still, person]})
    check_track(read(tmp_path), ONE, person)


def test_people_who_embrace_stay_two(tmp_path: Path) -> None:
    # One ends where the other begins, but for a frame both are there.
    first, second = writer.track(5, number=1, seed=1), writer.track(4, number=2, start=4)
    second.xyz = first.xyz[[4, 3, 2, 1]] + [0.1, 0, 0]
    hug = "S001C001P001R001A055"
    writer.write_owners(tmp_path, {hug: [first, second]})
    index = read(tmp_path, people=2)
    check_track(index, hug, first)
    check_track(index, f"{hug}#2", second)


def test_somebody_who_lies_is_still_a_person(tmp_path: Path) -> None:
    lying = writer.track(8, seed=8)
    lying.xyz = (lying.xyz - [0.1, 0, 3.2])[..., [1, 0, 2]] + [0.1, -0.6, 3.2]
    tiny = writer.track(8, number=5, seed=9)
    tiny.xyz = tiny.xyz * [0.1, 0.1, 1.0] + np.linspace(0, 2, 8)[:, None, None] * [1, 0, 0]
    writer.write_owners(tmp_path, {ONE: [tiny, lying]})
    check_track(read(tmp_path), ONE, lying)


def test_two_people(tmp_path: Path) -> None:
    first, second = writer.track(8, seed=1), writer.track(8, number=7, seed=2, side=-0.9)
    first.xyz = first.xyz + np.linspace(0, 0.5, 8)[:, None, None] * [1, 0, 0]
    ghost = writer.track(8, number=9, seed=3)
    ghost.xyz = ghost.xyz * 3
    handshake, drinking = "S001C001P001R001A058", "S001C001P001R001A001"
    writer.write_owners(tmp_path, {handshake: [second, first, ghost], drinking: [second, first]})
    index = read(tmp_path)
    assert sorted(index.names) == [f"ntu/{drinking}", f"ntu/{handshake}"]
    check_track(index, handshake, first)
    both = read(tmp_path, people=2)
    assert sorted(both.names) == [f"ntu/{drinking}", f"ntu/{handshake}", f"ntu/{handshake}#2"]
    check_track(both, handshake, first)
    check_track(both, f"{handshake}#2", second)
    # A ghost is not the second person.
    writer.write_owners(tmp_path, {handshake: [first, ghost]})
    assert f"ntu/{handshake}#2" not in list(read(tmp_path, people=2).names)
    with pytest.raises(UserError, match="1 or 2 people can be taken, not 3"):
        read(tmp_path, people=3)


def test_a_number_that_changes_within_the_clip(tmp_path: Path) -> None:
    whole = writer.track(8, seed=3)
    # Lost in frame 4, found again in frame 5 under another number; and somebody else comes in far away at the end.
    before = writer.Track(1, whole.xyz[:4], whole.state[:4])
    after = writer.Track(2, whole.xyz[5:], whole.state[5:], start=5)
    other = writer.track(3, number=3, start=5, side=-1.2, seed=4)
    writer.write_owners(tmp_path, {ONE: [before, after, other]})
    index = read(tmp_path)
    _, span = rows(index, ONE)
    order = writer.MIRRORED
    expected = 1000 * whole.xyz[:, order] * [1, -1, 1]
    np.testing.assert_allclose(index.joints_mm[span][[0, 1, 2, 3, 5, 6, 7]], np.delete(expected, 4, 0), atol=0.01)
    assert np.isnan(index.joints_mm[span][4]).all()
    # Somebody far from where the first was lost is another person.
    far = writer.track(4, number=2, start=4, side=-1.5, seed=3)
    writer.write_owners(tmp_path, {ONE: [writer.track(4, number=1, seed=3), far]})
    index = read(tmp_path)
    assert np.isfinite(index.joints_mm).all(axis=(1, 2)).sum() == 4


def test_unknown_joints_and_empty_frames(tmp_path: Path) -> None:
    track = writer.track(6, start=1)
    track.px = track.pixels()
    track.xyz[1, 5] = np.nan
    track.xyz[2, 6] = 0.0
    track.px[3, 9] = -np.inf, np.inf
    track.px[3, 10] = 0.0
    track.state[4, 12] = 0
    writer.write_owners(tmp_path, {ONE: [track]})
    # As Windows programs write what is not a number.
    path = tmp_path / "nturgb+d_skeletons" / f"{ONE}.skeleton"
    assert b"nan" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"nan", b"-1.#IND"))
    index = read(tmp_path)
    _, span = rows(index, ONE)
    mm, px, visible = index.joints_mm[span], index.joints_px[span], index.visible[span]
    unknown_mm, unknown_px = np.zeros((8, 17), dtype=bool), np.zeros((8, 17), dtype=bool)
    unknown_mm[[0, 7]] = unknown_px[[0, 7]] = True  # Frames without a body.
    place = {joint: writer.MIRRORED.index(joint) for joint in (5, 6, 9, 10, 12)}
    unknown_mm[2, place[5]] = unknown_mm[3, place[6]] = True
    unknown_px[4, place[9]] = unknown_px[4, place[10]] = True
    unknown_mm[5, place[12]] = unknown_px[5, place[12]] = True
    np.testing.assert_array_equal(np.isnan(mm).all(-1), unknown_mm)
    np.testing.assert_array_equal(np.isnan(mm).any(-1), unknown_mm)
    np.testing.assert_array_equal(np.isnan(px).all(-1), unknown_px)
    np.testing.assert_array_equal(np.isnan(px).any(-1), unknown_px)
    np.testing.assert_array_equal(visible, ~unknown_px)


def test_skeleton_and_video_of_different_length(tmp_path: Path) -> None:
    track = writer.track(8)
    writer.write_owners(tmp_path, {ONE: [track]})
    writer.write_rgb(tmp_path, ONE, 5)
    index = read(tmp_path)
    assert len(index.joints_px) == 5
    check_track(index, ONE, track)
    assert index.notes["cut"] == {"skeleton longer than its video": [ONE]}
    assert len(read(tmp_path, check_media=False).joints_px) == 8
    # Somebody who comes in after the video's end is not in it.
    writer.write_skeleton(tmp_path / "nturgb+d_skeletons" / f"{ONE}.skeleton", [writer.track(3, start=5)], 8)
    with pytest.raises(UserError, match=f"no body within its video: 1, first {ONE}"):
        read(tmp_path)


def test_videos_of_another_size(tmp_path: Path) -> None:
    track = writer.track(8, seed=1)
    writer.write_owners(tmp_path, {ONE: [track]})
    writer.write_rgb(tmp_path, ONE, 8, (480, 270))
    index = read(tmp_path)
    check_track(index, ONE, track, scale=0.25)
    np.testing.assert_allclose(index.camera[0, :4], 0.25 * writer.COLOUR, atol=1e-3)
    assert index.notes["scaled"] == {"480 x 270": 1}
    # Pixels that were scaled with the video are not scaled again.
    track.px = 0.25 * track.pixels()
    writer.write_skeleton(tmp_path / "nturgb+d_skeletons" / f"{ONE}.skeleton", [track], 8)
    index = read(tmp_path)
    check_track(index, ONE, track)
    assert "scaled" not in index.notes
    track.px = None
    writer.write_skeleton(tmp_path / "nturgb+d_skeletons" / f"{ONE}.skeleton", [track], 8)
    writer.write_rgb(tmp_path, ONE, 8, (340, 256))
    with pytest.raises(UserError, match="video of 340 x 256 pixels, another shape than its joints"):
        read(tmp_path)


def test_bad_recordings_are_named(tmp_path: Path) -> None:
    names = {action: f"S001C001P001R001A{action:03d}" for action in range(1, 12)}
    writer.write_owners(tmp_path, {name: [writer.track(8)] for name in names.values()})
    skeletons, videos = tmp_path / "nturgb+d_skeletons", tmp_path / "nturgb+d_rgb"
    (videos / f"{names[2]}_rgb.avi").unlink()
    cut_off(videos / f"{names[3]}_rgb.avi")
    cut_off(skeletons / f"{names[4]}.skeleton")
    path = skeletons / f"{names[5]}.skeleton"
    path.write_bytes(path.read_bytes().replace(b"\r\n25\r\n", b"\r\n20\r\n"))
    path = skeletons / f"{names[6]}.skeleton"
    path.write_bytes(path.read_bytes().replace(b"0.0574", b"x.0574").replace(b"-0.2059419", b"what", 1))
    writer.write_skeleton(skeletons / f"{names[7]}.skeleton", [], 8)
    (skeletons / f"{names[8]}.skeleton").write_bytes(b"")
    (skeletons / f"._{names[1]}.skeleton").write_text("made by macOS")
    writer.write_missing(tmp_path / "Matlab" / "NTU_RGBD_samples_with_missing_skeletons.txt", [names[9]])
    (skeletons / f"{names[10]}.skeleton").rename(skeletons / "S018C001P001R001A061.skeleton")
    (skeletons / f"{names[11]}.skeleton").rename(skeletons / "S001-A011.skeleton")
    index = read(tmp_path)
    assert list(index.names) == [f"ntu/{names[1]}"]
    assert index.notes["skipped"] == {
        "name is not SsssCcccPpppRrrrAaaa": ["S001-A011"],
        "video missing": [names[2]],
        "video damaged": [names[3]],
        "skeleton damaged": [names[4], names[5], names[6], names[8]],
        "no bodies": [names[7]],
        "on the list of recordings without skeletons": [names[9]],
        "unknown action": ["S018C001P001R001A061"],
    }
    for action, message in ((4, "ends early"), (5, "20 joints instead of 25"), (6, "could not convert"), (8, "early")):
        with pytest.raises(UserError, match=message):
            read_skeleton(skeletons / f"{names[action]}.skeleton")
    with pytest.raises(UserError, match="split 'test' would be empty"):
        read(tmp_path, required=("test",))


def test_list_of_missing_skeletons(tmp_path: Path) -> None:
    writer.write_missing(tmp_path / "list.txt", ["S001C002P005R002A008", "S017C003P020R001A059"])
    assert (tmp_path / "list.txt").read_text().splitlines()[3] == "S001C002P005R002A008"
    assert read_missing(tmp_path / "list.txt") == {"S001C002P005R002A008", "S017C003P020R001A059"}


@pytest.mark.parametrize(
    "place",
    [
        "samples_with_missing_skeletons.txt",
        "Matlab/NTU_RGBD120_samples_with_missing_skeletons.txt",
        "Matlab/samples_with_missing_skeletons_NTU_RGBD120.txt",
        "Python/ntu_rgb120_missings.txt",
        "ntu120_missing.txt",
    ],
)
def test_lists_of_missing_skeletons_under_their_names(tmp_path: Path, place: str) -> None:
    for name in (ONE, "S001C002P005R002A008"):
        writer.write_skeleton(tmp_path / "nturgb+d_skeletons" / f"{name}.skeleton", [writer.track(8)], 8)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("S001C002P005R002A008\nS017C003P020R001A059")
    assert list(read(tmp_path, check_media=False).names) == [f"ntu/{ONE}"]


def test_places_and_options_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither nturgb"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"has no nturgb\+d_skeletons"):
        read(tmp_path, source="owners")
    with pytest.raises(UserError, match="did you mean 'pickle'"):
        read(tmp_path, source="pickel")
