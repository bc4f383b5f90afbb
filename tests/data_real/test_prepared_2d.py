"""MPII, Penn Action and a user's folder from their own files to samples: prepared, built by name, read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from writers import folder as folder_writer
from writers import mpii as mpii_writer
from writers import penn_action as penn_writer
from writers.rendered import write_jpeg

from pyhar.data import registry
from pyhar.data.prepare import main, prepare


def crops_show_the_people(sample: dict[str, np.ndarray], picture: Path) -> None:
    """The crop's colours at the joints are the picture's, within what scaling and JPEG do."""
    pixels = cv2.imread(str(picture))[..., ::-1].astype(float)
    to_crop = sample["to_crop"].numpy()
    size = sample["frames"].shape[0]
    seen = []
    for joint, px in zip(sample["pose"].numpy(), sample["joints_px"].numpy(), strict=True):
        x, y = (round(v) for v in px) if np.isfinite(px).all() else (-1, -1)
        if not (1 <= x < pixels.shape[1] - 1 and 1 <= y < pixels.shape[0] - 1) or not (joint[:2] >= 0).all():
            continue
        np.testing.assert_allclose(to_crop[:2] @ [*px, 1], joint[:2], atol=1e-4)
        u, v = np.minimum((to_crop[:2] @ [x, y, 1]) * size, size - 1).astype(int)
        seen.append(np.abs(sample["frames"][v, u].numpy().astype(float) - pixels[y, x]).mean())
    assert len(seen) > 5
    assert np.median(seen) < 25


def test_mpii(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = mpii_writer.example(tmp_path)
    mpii_writer.write_mat(tmp_path, pictures)
    assert main(["mpii", str(tmp_path), "--no-progress", "--whole", "--set", "layout=pa17"]) == 0
    printed = capsys.readouterr().out
    assert "left out, no joints: 1 (mpii/000000007/1)" in printed
    # What a complete copy holds is known of the community's lists alone.
    assert "note: without train.json and valid.json, 'val' is of every 10th video" in printed
    assert "complete copy" not in printed
    for split, count in {"train": 4, "val": 2, "test": 1}.items():
        data = registry.build("mpii", split, "pose", root=tmp_path, image_size=128, augment=False)
        assert len(data) == count
        assert len(data.layout.joints) == 17
    data = registry.build("mpii", "train", "pose", root=tmp_path, image_size=128, augment=False)
    sample = data[0]
    crops_show_the_people(sample, tmp_path / "images" / pictures[0].image)
    # The authors' window, neither larger nor moved.
    s = 1.25 * pictures[0].subjects[0].scale
    np.testing.assert_allclose(1 / sample["to_crop"][0, 0], 200 * s, rtol=1e-5)
    assert not sample["pose_valid"][:, 2].any()
    assert sample["head_size"] > 0
    assert sample["action"] == -1


def test_penn_action(tmp_path: Path) -> None:
    for i, label in enumerate(("squat", "bowl"), start=1):
        shot = penn_writer.example(i, frames=5)
        penn_writer.write(tmp_path, i, shot, penn_writer.labels(shot, label, (1, -1)[i - 1]))
    index, _ = prepare("penn", tmp_path, progress=False)
    assert index.notes["viewpoint"] == {"penn/0001": "front", "penn/0002": "front"}
    clips = registry.build("penn", "test", "clips", root=tmp_path, image_size=128, clip_frames=4)
    assert clips.subsample == 6
    assert clips.action_names[int(clips[0]["action"])] == "bowling"
    assert clips.num_frames(0) == 5
    assert clips.clip(0, range(5))["frames"].shape == (5, 128, 128, 3)
    still = registry.build("penn", "train", "pose", root=tmp_path, image_size=128, augment=False)[0]
    crops_show_the_people(still, tmp_path / "frames/0001/000003.jpg")


def test_a_folder(tmp_path: Path) -> None:
    clips = folder_writer.example(tmp_path)
    folder_writer.write_json(tmp_path, [folder_writer.as_json(clip, split="train") for clip in clips])
    prepare("folder", tmp_path, progress=False, check=True)
    options = {"root": tmp_path, "image_size": 128, "clip_frames": 2, "augment": False}
    assert len(registry.build("folder", "train", "clips", **options)) == sum(c.action is not None for c in clips)
    data = registry.build("folder", "train", "clips", labelled=False, **options)
    assert len(data) == len(clips)
    for i, clip in enumerate(clips):
        sample = data.clip(i, [0])
        still = {key: value[0] if key in ("frames", "pose", "joints_px") else value for key, value in sample.items()}
        write_jpeg(tmp_path / "compare.jpg", clip.shot.pictures[0])
        crops_show_the_people(still, tmp_path / "compare.jpg")
        depth = clip.shot.joints_mm[0, :, 2]
        if clip.known[0, 0]:
            z = 0.5 + (depth - depth[0]) / 2000
            np.testing.assert_allclose(sample["pose"][0, clip.known[0], 2], z[clip.known[0]], atol=1e-4)
        assert sample["pose_valid"][0, :, 2].numpy().tolist() == (clip.known[0] & clip.known[0, 0]).tolist()
