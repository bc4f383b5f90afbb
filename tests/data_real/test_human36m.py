"""Human3.6M: what was written in each format is read back, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from writers import human36m as writer
from writers.videos import cut_off, write_video

from pyhar.data.geometry import back_project, project, world_to_camera
from pyhar.data.human36m import JOINTS, read
from pyhar.data.human36m_files import euler_rotation, read_cameras_h5, read_metadata
from pyhar.data.human36m_views import ACTIVITIES
from pyhar.data.index import SPLITS, Index
from pyhar.errors import UserError

TWO = ("54138969", "60457274")
SHORT = ("54138969",)
ACTIVITY = {2: "Directions", 12: "Photo", 15: "WalkDog", 16: "WalkTogether"}


def row_of(index: Index, name: str) -> int:
    return list(index.names).index(name)


def check(
    index: Index,
    data: writer.DataSet,
    rows: dict[str, np.ndarray],
    joints: str = "release",
    spelled: dict[str, str] | None = None,
    pixels: float = 0.01,
) -> None:
    """Everything that was written is there, and nothing else."""
    expected = {}
    for r in data.recordings:
        if (r.subject, r.name) != (11, "Directions"):
            for camera in data.cameras:
                name = (spelled or {}).get(r.name, r.name)
                expected[f"human36m/S{r.subject}/{name}.{camera}"] = (r, camera)
    assert set(index.names) == set(expected)
    order = list(JOINTS[joints])
    for name, (r, camera) in expected.items():
        i = row_of(index, name)
        split = "test" if r.subject in (9, 11) else "train"
        one, span = data.view(r, camera), slice(index.first_row[i], index.first_row[i + 1])
        mm = one.to_camera(r.world)[rows[split][rows[split] < len(r.world)]]
        np.testing.assert_allclose(index.joints_mm[span], mm[:, order], rtol=0, atol=0.01)
        np.testing.assert_allclose(index.joints_px[span], one.to_pixels(mm)[:, order], rtol=0, atol=pixels)
        assert index.visible[span].all()
        assert SPLITS[index.split[i]] == split
        assert index.action_names[index.action[i]] == ACTIVITY[r.action]
        assert index.subject[i] == r.subject
        np.testing.assert_allclose(index.camera[i], one.lens, rtol=0, atol=1e-9)
        half = 1125 * one.numbers[:2] / mm[:, 0, 2:]
        root = one.to_pixels(mm)[:, 0]
        np.testing.assert_allclose(index.box[span], np.concatenate([root - half, root + half], 1), rtol=0, atol=0.02)


def test_owners_files(tmp_path: Path) -> None:
    data = writer.example(frames=12)
    writer.write_owners(tmp_path / "h36m", data)
    index = read(tmp_path / "h36m", train_step=5, test_step=4, required=("train", "test"))
    check(index, data, {"train": np.arange(0, 99, 5), "test": np.arange(0, 99, 4)})
    assert index.notes["skipped"]["dropped by the protocol"] == ["S11/Directions"]
    assert index.notes["joint_convention"] == "release"
    assert index.notes["source"] == "owners"
    assert index.notes["image_sizes"] == {camera: list(size) for camera, size in writer.SIZES.items()}
    assert index.notes["reprojection_px"] < 0.01
    assert "disagree" not in index.notes
    i = row_of(index, "human36m/S5/WalkDog 1.55011271")
    assert index.media[i] == "S5/Videos/WalkDog 1.55011271.mp4"
    assert index.media_kind[i] == 2
    assert (index.first_frame[i], index.frame_step[i]) == (0, 5)
    assert (tmp_path / "h36m" / index.media[i]).is_file()
    # Back from the stored pixels to the stored millimetres through the stored camera.
    span = slice(index.first_row[i], index.first_row[i + 1])
    px, mm = (torch.from_numpy(np.array(a[span], dtype=np.float64)) for a in (index.joints_px, index.joints_mm))
    camera = torch.from_numpy(index.camera[i : i + 1])
    assert (back_project(px[None], mm[None, ..., 2], camera)[0] - mm).abs().max() < 0.01


def test_owners_default_steps_and_subjects(tmp_path: Path) -> None:
    data = writer.example(frames=70, cameras=SHORT)
    data.recordings = [data.recordings[0], data.recordings[3]]
    writer.write_owners(tmp_path / "h36m", data)
    index = read(tmp_path / "h36m", subjects=(1,))
    assert list(index.names) == ["human36m/S1/Directions 1.54138969"]
    assert len(index.joints_px) == 14
    check(read(tmp_path / "h36m"), data, {"train": np.arange(0, 99, 5), "test": np.array([0, 64])})


def test_world_joints_give_the_pixels(tmp_path: Path) -> None:
    # Without the camera-space files all comes from D3_Positions and metadata.xml; D2_Positions checks the projection.
    data = writer.example(frames=4, cameras=TWO)
    root = tmp_path / "h36m"
    writer.write_owners(root, data)
    for path in root.glob("S*/MyPoseFeatures/D3_Positions_mono/*.cdf"):
        path.unlink()
    index = read(root, train_step=1, test_step=1)
    check(index, data, {split: np.arange(99) for split in ("train", "test")})
    assert index.notes["reprojection_px"] < 0.01
    for path in root.glob("S*/MyPoseFeatures/D2_Positions/*.cdf"):
        path.unlink()
    check(read(root, train_step=1, test_step=1), data, {split: np.arange(99) for split in ("train", "test")})
    # What lies behind a camera has no pixels.
    r, one = data.recordings[0], data.view(data.recordings[0], TWO[0])
    world = r.world.copy()
    world[1, 27] = one.centre - 500 * one.rotation[2]
    writer.write_cdf(root / "S1/MyPoseFeatures/D3_Positions" / f"{r.name}.cdf", world)
    index = read(root, train_step=1)
    i, wrist = row_of(index, f"human36m/S1/{r.name}.{TWO[0]}"), index.layout.index("right wrist")
    row = index.first_row[i] + 1
    assert index.joints_mm[row, wrist, 2] == pytest.approx(-500, abs=0.01)
    assert np.isnan(index.joints_px[row, wrist]).all()
    assert not index.visible[row, wrist]


def test_joint_conventions(tmp_path: Path) -> None:
    usual = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    assert sorted(JOINTS["standard"]) == usual
    assert JOINTS["release"] == (0, 12, 13, 15, 25, 17, 26, 18, 27, 19, 1, 6, 2, 7, 3, 8, 11)
    data = writer.example(frames=3, cameras=SHORT)
    writer.write_owners(tmp_path / "h36m", data)
    index = read(tmp_path / "h36m", joints="standard", train_step=1, test_step=1)
    check(index, data, {split: np.arange(99) for split in ("train", "test")}, joints="standard")
    assert index.notes["joint_convention"] == "standard"
    assert sorted(index.notes["owners_joints"]) == usual
    with pytest.raises(UserError, match="did you mean 'standard'"):
        read(tmp_path / "h36m", joints="standart")


def test_universal_skeleton(tmp_path: Path) -> None:
    data = writer.example(frames=3, cameras=SHORT)
    writer.write_owners(tmp_path / "h36m", data)
    index = read(tmp_path / "h36m", skeleton="universal", train_step=1, test_step=1)
    r = data.recordings[0]
    mm = writer.universal_of(data.view(r, SHORT[0]).to_camera(r.world))[:, list(JOINTS["release"])]
    i = row_of(index, "human36m/S1/Directions 1.54138969")
    np.testing.assert_allclose(index.joints_mm[index.first_row[i] :][:3], mm, rtol=0, atol=0.01)
    assert index.notes["skeleton"] == "universal"


@pytest.mark.parametrize("cameras_from", ["metadata.xml", "cameras.h5"])
def test_videopose3d(tmp_path: Path, cameras_from: str) -> None:
    data, root = writer.example(frames=6, cameras=writer.CAMERAS), tmp_path / "h36m"
    writer.write_videos(root, data)
    writer.write_videopose3d(root / "data_3d_h36m.npz", data)
    if cameras_from == "metadata.xml":
        writer.write_metadata(root / "Release-v1.2" / "metadata.xml", data)
    else:
        writer.write_cameras_h5(root / "cameras.h5", data)
    index = read(root, train_step=1, test_step=2)
    rows = {"train": np.arange(99), "test": np.arange(0, 99, 2)}
    check(index, data, rows, spelled={"TakingPhoto": "Photo"})
    assert index.notes["source"] == "videopose3d"
    # The file calls it Photo, the owners' video is called TakingPhoto.
    assert index.media[row_of(index, "human36m/S1/Photo.54138969")] == "S1/Videos/TakingPhoto.54138969.mp4"


def test_owners_joints_with_community_cameras(tmp_path: Path) -> None:
    data, root = writer.example(frames=3, cameras=TWO), tmp_path / "h36m"
    writer.write_owners(root, data, metadata=False)
    writer.write_cameras_h5(tmp_path / "elsewhere.h5", data)
    index = read(root, metadata=tmp_path / "elsewhere.h5", train_step=1, test_step=1)
    check(index, data, {split: np.arange(99) for split in ("train", "test")})


def test_fetch(tmp_path: Path) -> None:
    # Training pictures lie where the subject moved; test pictures evenly.
    data = writer.example(frames=14, cameras=TWO)
    writer.write_fetch(tmp_path, data, {"train": [0, 1, 4, 9], "test": [0, 4, 8]})
    writer.write_metadata(tmp_path / "metadata.xml", data)
    index = read(tmp_path, test_step=8)
    assert index.notes["source"] == "fetch"
    r = data.recordings[3]
    i = row_of(index, "human36m/S9/TakingPhoto-1.60457274")
    assert index.media[i] == "processed/S9/TakingPhoto-1/imageSequence/60457274/img_%06d.jpg"
    # Pictures lie four frames apart: every second is what eight apart means.
    assert (index.first_frame[i], index.frame_step[i], index.num_frames(i)) == (1, 8, 2)
    one, order = data.view(r, "60457274"), list(JOINTS["release"])
    mm = one.to_camera(r.world[[0, 8]])
    span = slice(index.first_row[i], index.first_row[i + 1])
    np.testing.assert_allclose(index.joints_mm[span], mm[:, order], rtol=0, atol=0.01)
    np.testing.assert_allclose(index.joints_px[span], one.to_pixels(mm)[:, order], rtol=0, atol=0.01)
    np.testing.assert_allclose(index.camera[i], one.lens)
    for row in (0, 1, 4, 9):
        i = row_of(index, f"human36m/S1/Directions-1.54138969/{row + 1:06d}")
        assert index.media[i].endswith(f"/img_{row + 1:06d}.jpg")
        assert (tmp_path / index.media[i]).is_file()
        assert (index.media_kind[i], index.num_frames(i)) == (0, 1)
        assert SPLITS[index.split[i]] == "train"
        assert ACTIVITIES[index.action[i]] == "Directions"
        mm = data.view(data.recordings[0], "54138969").to_camera(data.recordings[0].world[row])
        np.testing.assert_allclose(index.joints_mm[index.first_row[i]], mm[order], rtol=0, atol=0.01)
    assert {index.action_names[action] for action in index.action} == set(ACTIVITY.values())
    # "Directions-2" of S11 is the owners' "Directions".
    assert {name.rpartition(".")[0] for name in index.notes["skipped"]["dropped by the protocol"]} == {
        "S11/Directions-2"
    }
    assert "human36m/S11/Directions-1.54138969" in list(index.names)


def test_fetch_without_metadata_has_pinhole_cameras(tmp_path: Path) -> None:
    data = writer.example(frames=3, cameras=SHORT)
    writer.write_fetch(tmp_path, data, {"train": [0, 1, 2], "test": [0, 1, 2]}, pinhole=True)
    index = read(tmp_path, train_step=1, test_step=1, joints="standard")
    i = row_of(index, "human36m/S1/Directions-1.54138969")
    np.testing.assert_allclose(index.camera[i], [*writer.INTRINSICS["54138969"][:4], 0, 0, 0, 0, 0])
    assert index.notes["reprojection_px"] < 0.01


def test_fetch_of_bad_files(tmp_path: Path) -> None:
    data = writer.example(frames=5, cameras=SHORT)
    writer.write_fetch(tmp_path, data, {"train": [0, 1, 2, 3], "test": [0]})
    writer.write_metadata(tmp_path / "metadata.xml", data)
    home = tmp_path / "processed"
    cut_off(home / "S1/TakingPhoto-2/annot.h5")
    (home / "S1/Directions-1/imageSequence/54138969/img_000002.jpg").unlink()
    (home / "S9/TakingPhoto-1/imageSequence/54138969/img_000001.jpg").unlink()
    with h5py.File(home / "S11/WalkingTogether-2/annot.h5", "a") as file:
        del file["pose/3d"]
    with h5py.File(home / "S11/Directions-1/annot.h5", "a") as file:
        del file["frame"]
        file["frame"] = np.arange(7)
    (home / "S5/WalkingDog-1").rename(home / "S5/Juggling-1")
    index = read(tmp_path, train_step=1, test_step=1)
    # One picture of four is missing, so the rest is no even sequence.
    assert list(index.names) == [f"human36m/S1/Directions-1.54138969/{n:06d}" for n in (1, 3, 4)]
    mm = data.view(data.recordings[0], "54138969").to_camera(data.recordings[0].world[[0, 2, 3]])
    np.testing.assert_allclose(index.joints_mm, mm[:, list(JOINTS["release"])], rtol=0, atol=0.01)
    assert index.notes["skipped"] == {
        "dropped by the protocol": ["S11/Directions-2.54138969"],
        "joints damaged": ["processed/S1/TakingPhoto-2", "processed/S11/Directions-1"],
        "picture missing": ["S1/Directions-1.54138969/000002"],
        "3D joints missing (skeleton 'mono')": ["S11/WalkingTogether-2.54138969"],
        "unknown activity": ["S5/Juggling-1.54138969"],
        "pictures missing": ["S9/TakingPhoto-1.54138969"],
    }
    pictures = home / "S1/Directions-1/imageSequence/54138969"
    (pictures / "img_000001.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="pictures damaged: 1, first S1/Directions-1"):
        read(tmp_path)
    cv2.imwrite(str(pictures / "img_000001.jpg"), np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(UserError, match="pictures of 640 x 480 pixels, which is not what the camera took: 1"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"split 'test' would be empty; left out were: .*pictures missing: 1"):
        read(tmp_path, required=("test",), check_media=False)


def test_unknown_joints(tmp_path: Path) -> None:
    data, root = writer.example(frames=4, cameras=SHORT), tmp_path / "h36m"
    data.recordings = data.recordings[:1]
    writer.write_owners(root, data)
    r, one = data.recordings[0], data.view(data.recordings[0], SHORT[0])
    mm = one.to_camera(r.world)
    px = one.to_pixels(mm)
    mm[0, 25], mm[1, 17], px[2, 3], mm[3, 0] = np.nan, 0, 0, 0
    folder = root / "S1" / "MyPoseFeatures"
    writer.write_cdf(folder / "D3_Positions_mono" / f"{r.name}.{SHORT[0]}.cdf", mm)
    writer.write_cdf(folder / "D2_Positions" / f"{r.name}.{SHORT[0]}.cdf", px)
    index = read(root, train_step=1)
    place = {joint: JOINTS["release"].index(joint) for joint in (25, 17, 3, 0)}
    unknown = np.zeros((4, 17), dtype=bool)
    unknown[0, place[25]] = unknown[1, place[17]] = unknown[3, place[0]] = True
    np.testing.assert_array_equal(np.isnan(index.joints_mm).any(-1), unknown)
    np.testing.assert_array_equal(np.isnan(index.joints_mm).all(-1), unknown)
    assert np.isnan(index.joints_px[2, place[3]]).all()
    assert np.isnan(index.joints_px).sum() == 2
    assert not index.visible[2, place[3]]
    assert index.visible.sum() == 4 * 17 - 1
    # No root, no window at its depth.
    np.testing.assert_array_equal(np.isnan(index.box).any(1), [False, False, False, True])


def test_lengths_that_disagree(tmp_path: Path) -> None:
    data, root = writer.example(frames=8, cameras=SHORT), tmp_path / "h36m"
    data.recordings = data.recordings[:2]
    writer.write_owners(root, data)
    first, second = data.recordings
    pixels = data.view(first, SHORT[0]).to_pixels(data.view(first, SHORT[0]).to_camera(first.world))
    writer.write_cdf(root / "S1/MyPoseFeatures/D2_Positions" / f"{first.name}.{SHORT[0]}.cdf", pixels[:6])
    write_video(root / "S1/Videos" / f"{second.name}.{SHORT[0]}.mp4", [np.empty((0, 2))] * 5, (1000, 1002), 50, "mp4v")
    index = read(root, train_step=1)
    assert [index.num_frames(row_of(index, f"human36m/S1/{r.name}.{SHORT[0]}")) for r in (first, second)] == [6, 5]
    assert index.notes["cut"] == {
        "2D and 3D joints of different length": ["S1/Directions 1.54138969"],
        "video shorter than its joints": ["S1/TakingPhoto.54138969"],
    }


def test_bad_recordings_are_named(tmp_path: Path) -> None:
    data, root = writer.example(frames=3, cameras=SHORT), tmp_path / "h36m"
    names = ["Directions 1", "Discussion 1", "Eating 1", "Greeting 1", "Phoning 1", "Posing 1", "Purchases 1"]
    names += ["Sitting 1", "SittingDown 1"]
    data.recordings = [writer.Recording(1, n, a, 1, writer.joints32(3, 0)) for a, n in enumerate(names, 2)]
    writer.write_owners(root, data)
    folder, camera = root / "S1" / "MyPoseFeatures", SHORT[0]
    (root / "S1/Videos" / f"Discussion 1.{camera}.mp4").unlink()
    cut_off(root / "S1/Videos" / f"Eating 1.{camera}.mp4")
    write_video(root / "S1/Videos" / f"Greeting 1.{camera}.mp4", [np.empty((0, 2))] * 3, (500, 502), 50, "mp4v")
    (folder / "D3_Positions_mono" / f"Phoning 1.{camera}.cdf").unlink()
    (folder / "D3_Positions" / "Phoning 1.cdf").unlink()
    cut_off(folder / "D2_Positions" / f"Posing 1.{camera}.cdf")
    writer.write_cdf(folder / "D2_Positions" / f"Purchases 1.{camera}.cdf", np.ones((3, 17, 2)))
    writer.write_cdf(folder / "D2_Positions" / f"Sitting 1.{camera}.cdf", np.ones((3, 32, 2)), variable="Other")
    writer.write_cdf(folder / "D3_Positions" / "Juggling 1.cdf", np.ones((3, 32, 3)))
    writer.write_cdf(folder / "D3_Positions" / "Sitting 3.cdf", np.ones((3, 32, 3)))
    writer.write_cdf(folder / "D3_Positions" / "_ALL 1.cdf", np.ones((3, 32, 3)))  # Never of use, so never named.
    (folder / "D3_Positions" / "._Sitting 1.cdf").write_text("made by macOS")  # Neither is this.
    one = writer.view(2, camera)  # Another subject's camera.
    sitting_down = one.to_pixels(one.to_camera(data.recordings[-1].world))
    writer.write_cdf(folder / "D2_Positions" / f"SittingDown 1.{camera}.cdf", sitting_down)
    index = read(root, train_step=1)
    assert list(index.names) == [f"human36m/S1/{name}.{camera}" for name in ("Directions 1", "SittingDown 1")]
    # The joints in the world are there for the three other cameras too, whose videos are not.
    skipped = {
        reason: [name for name in names if not name.endswith(writer.CAMERAS[1:])]
        for reason, names in index.notes["skipped"].items()
    }
    assert skipped["video missing from S<n>/Videos/"] == [f"S1/Discussion 1.{camera}"]
    assert skipped["video damaged"] == [f"S1/Eating 1.{camera}"]
    assert skipped["pictures of 500 x 502 pixels, which is not what the camera took"] == [f"S1/Greeting 1.{camera}"]
    assert skipped["3D joints missing"] == [f"S1/Phoning 1.{camera}"]
    assert sorted(skipped["joints damaged"]) == [f"S1/{n} 1.{camera}" for n in ("Posing", "Purchases", "Sitting")]
    assert skipped["not in the table of metadata.xml"] == ["S1/Juggling 1", "S1/Sitting 3"]
    assert "S1/Walking" in skipped["joints missing"]
    assert list(index.notes["disagree"]) == [f"S1/SittingDown 1.{camera}"]
    # Unchecked media are taken as they are said to be.
    unchecked = read(root, train_step=1, check_media=False)
    assert f"human36m/S1/Discussion 1.{camera}" in list(unchecked.names)


def test_splits_that_would_be_empty(tmp_path: Path) -> None:
    data, root = writer.example(frames=3, cameras=SHORT), tmp_path / "h36m"
    data.recordings = data.recordings[:2]
    writer.write_owners(root, data)
    read(root, required=("train",))
    with pytest.raises(UserError, match="split 'test' would be empty"):
        read(root, required=("train", "test"))
    with pytest.raises(UserError, match="unknown split of human36m 'trian'; did you mean 'train'"):
        read(root, required=("trian",))
    for path in root.glob("S1/Videos/*"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"nothing to index .*video missing from S<n>/Videos/: 8, first S1/Directions 1"
    ):
        read(root)


def test_options_and_places_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither S<n>/MyPoseFeatures of the owners"):
        read(tmp_path)
    with pytest.raises(UserError, match="every 0 and 64 frames"):
        read(tmp_path, train_step=0)
    with pytest.raises(UserError, match="window of 0 mm"):
        read(tmp_path, window_mm=0)
    with pytest.raises(UserError, match="no joints are published of subject 2"):
        read(tmp_path, subjects=(1, 2))
    with pytest.raises(UserError, match="did you mean 'fetch'"):
        read(tmp_path, source="fetsh")
    with pytest.raises(UserError, match=r"has no annot\.h5 of h36m-fetch, such as"):
        read(tmp_path, source="fetch")
    with pytest.raises(UserError, match="did you mean 'mono'"):
        read(tmp_path, skeleton="mon")
    data = writer.example(frames=3, cameras=SHORT)
    writer.write_owners(tmp_path / "h36m", data, metadata=False)
    with pytest.raises(UserError, match=r"neither metadata\.xml nor cameras\.h5: copy"):
        read(tmp_path / "h36m")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(tmp_path / "h36m", metadata=tmp_path / "metadata.xml")
    writer.write_metadata(tmp_path / "metadata.xml", data)
    with pytest.raises(UserError, match=r"has no joints of subjects 6, 7, such as S1/MyPoseFeatures"):
        read(tmp_path / "h36m", metadata=tmp_path / "metadata.xml", subjects=(6, 7))


def test_damaged_metadata(tmp_path: Path) -> None:
    path = tmp_path / "metadata.xml"
    data = writer.example(frames=1)
    writer.write_metadata(path, data)
    good = path.read_text()
    for bad, message in (
        (good[:500], "is damaged"),
        (good.replace("mapping>", "table>"), "no 'mapping'"),
        (good.replace("w0>", "w1>"), "no 'w0'"),
        (good[: good.index("<w0>[") + 5] + "1 2 3]</w0></metadata>", "has 3 numbers, expected 300"),
        (good.replace("<w0>[", "<w0>[x "), "no number"),
    ):
        path.write_text(bad)
        with pytest.raises(UserError, match=message):
            read_metadata(path)
    path.write_text(good.replace(" ", "\n ").replace("<?xml\n ", "<?xml "))  # Broken into lines, as some editors do.
    assert len(read_metadata(path).cameras) == 44


def test_damaged_cameras_and_community_files(tmp_path: Path) -> None:
    data = writer.example(frames=2)
    writer.write_cameras_h5(tmp_path / "cameras.h5", data)
    with h5py.File(tmp_path / "cameras.h5", "a") as file:
        del file["subject3/camera2/k"]
    with pytest.raises(UserError, match=r"not a readable cameras\.h5"):
        read_cameras_h5(tmp_path / "cameras.h5")
    writer.write_cameras_h5(tmp_path / "cameras.h5", data)
    content = (tmp_path / "cameras.h5").read_bytes()
    (tmp_path / "cameras.h5").write_bytes(content.replace(b"TREE", b"XREE"))
    with pytest.raises(UserError, match=r"not a readable cameras\.h5"):
        read_cameras_h5(tmp_path / "cameras.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="no groups subject"):
        read_cameras_h5(tmp_path / "empty.h5")
    writer.write_metadata(tmp_path / "metadata.xml", data)
    path = tmp_path / "data_3d_h36m.npz"
    np.savez(path, positions_2d=np.zeros(3))
    with pytest.raises(UserError, match="has no 'positions_3d', only positions_2d"):
        read(tmp_path)
    np.savez(path, positions_3d=np.array({"S1": {"Directions 1": np.zeros((4, 17, 3))}}, dtype=object))
    with pytest.raises(UserError, match=r"expected \(T, 32, 3\)"):
        read(tmp_path)
    np.savez(path, positions_3d=np.zeros((4, 32, 3)))
    with pytest.raises(UserError, match="should hold one object"):
        read(tmp_path)
    writer.write_videopose3d(path, data)
    whole = path.read_bytes()
    cut_off(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer.write_metadata(tmp_path / "metadata.xml", writer.example(frames=1))
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=np.array({"S1": _Trap()}, dtype=object))
    with pytest.raises(UserError, match=r"asks for builtins\.print"):
        read(tmp_path)
    assert capsys.readouterr().out == ""


def test_rotations_of_metadata() -> None:
    # About x, then the new y, then the new z; checked one axis at a time on a vector that it moves.
    np.testing.assert_allclose(euler_rotation(np.pi / 2, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(euler_rotation(0, np.pi / 2, 0) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(euler_rotation(0, 0, np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    both = euler_rotation(np.pi / 2, 0, np.pi / 2)
    np.testing.assert_allclose(both @ [1, 0, 0], [0, 0, 1], atol=1e-12)


PUBLISHED = json.loads((Path(__file__).parent.parent / "data" / "human36m_published.json").read_text())


@pytest.mark.parametrize("published", PUBLISHED, ids=[f"S{one['subject']}" for one in PUBLISHED])
def test_published_joints_come_back(tmp_path: Path, published: dict[str, Any]) -> None:
    subject, camera = published["subject"], published["camera"]
    extrinsics, intrinsics = np.array(published["extrinsics"]), np.array(published["intrinsics"])
    data = writer.example(frames=1)
    data.views[subject, camera] = writer.View(extrinsics[:3], extrinsics[3:], intrinsics)
    writer.write_metadata(tmp_path / "metadata.xml", data)
    text = (tmp_path / "metadata.xml").read_text()
    made_up = " ".join(f"{n:.15g}" for n in writer.INTRINSICS[camera])
    (tmp_path / "metadata.xml").write_text(text.replace(made_up, " ".join(str(n) for n in intrinsics)))
    writer.write_cameras_h5(tmp_path / "cameras.h5", data)
    for read_cameras, name in ((read_metadata, "metadata.xml"), (read_cameras_h5, "cameras.h5")):
        one = read_cameras(tmp_path / name).cameras[subject, camera]
        mm = world_to_camera(np.array(published["world_mm"]), one.rotation, one.centre)
        px = project(torch.from_numpy(mm)[None], torch.from_numpy(one.numbers)[None])[0]
        np.testing.assert_allclose(px, published["px"], rtol=0, atol=2e-4)


def test_projection_of_an_index_camera(tmp_path: Path) -> None:
    one = writer.view(7, "58860488")
    mm = one.to_camera(writer.joints32(2, 0))
    px = project(torch.from_numpy(mm)[None], torch.from_numpy(one.lens)[None])[0]
    np.testing.assert_allclose(px, one.to_pixels(mm), rtol=0, atol=1e-9)
