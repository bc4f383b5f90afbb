import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyhar.data.geometry import back_project, crop_map, pose_to_camera, project, world_to_camera
from pyhar.errors import UserError

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "camera_golden.json").read_text())
# The size of what Human3.6M's lenses do: two pixels in the middle of the picture, tens in its corners.
LENS = torch.tensor([[1145.0, 1144.0, 512.5, 515.5, -0.207, 0.248, -0.003, -0.001, -0.0014]], dtype=torch.float64)


@pytest.mark.parametrize("case", range(len(GOLDEN)))
def test_authors_projection(case: int) -> None:
    g = {name: np.array(value) for name, value in GOLDEN[case].items()}
    mm = world_to_camera(g["points_w"], g["R"], g["t"])
    camera = torch.from_numpy(np.concatenate([g["f"], g["c"], g["k"], g["p"]]))[None]
    px = project(torch.from_numpy(mm)[None], camera)[0]
    np.testing.assert_allclose(px, g["project"][:, :2], rtol=0, atol=1e-8)
    np.testing.assert_allclose(mm[:, 2], g["project"][:, 2], rtol=0, atol=1e-8)
    without = project(torch.from_numpy(mm)[None], camera[:, :4])[0]
    assert (g["k"].any() or g["p"].any()) == (abs(without.numpy() - g["project"][:, :2]).max() > 0.1)


def test_distortion_there_and_back() -> None:
    ticks = torch.linspace(-20.0, 1020.0, 41, dtype=torch.float64)
    px = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), dim=-1).reshape(1, -1, 2)
    depth = torch.linspace(2000.0, 8000.0, px.shape[1], dtype=torch.float64)[None]
    mm = back_project(px, depth, LENS)
    again = project(mm, LENS)
    assert (again - px).abs().max() < 1e-9
    assert (back_project(again, depth, LENS) - mm).abs().max() < 1e-6
    # The lens does something.
    assert (project(mm, LENS[:, :4]) - px).abs().max() > 10


def test_distortion_in_float32_and_with_unknown_joints() -> None:
    generator = torch.Generator().manual_seed(0)
    mm = torch.rand(2, 3, 17, 3, generator=generator) * 2000 + torch.tensor([-1000.0, -1000.0, 4000.0])
    mm[0, 0, 3] = torch.nan
    camera = LENS.float().repeat(2, 1)
    px = project(mm, camera)
    assert px.dtype == torch.float32
    back = back_project(px, mm[..., 2], camera)
    torch.testing.assert_close(back, mm, rtol=0, atol=0.01, equal_nan=True)
    assert back.isnan().sum() == 3


def test_distortion_has_the_derivatives_of_the_inverse() -> None:
    px = torch.tensor([[[100.0, 900.0], [600.0, 300.0]]], dtype=torch.float64, requires_grad=True)
    depth = torch.full((1, 2), 5000.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda xy: back_project(xy, depth, LENS), (px,))


def test_distortion_pose_to_camera() -> None:
    generator = torch.Generator().manual_seed(1)
    mm = torch.rand(1, 17, 3, generator=generator, dtype=torch.float64) * 1500 + torch.tensor([-700.0, -700.0, 4000.0])
    to_crop = torch.from_numpy(crop_map([100, 100, 900, 900], rotation=20))[None]
    xy = torch.cat([project(mm, LENS), torch.ones(1, 17, 1)], -1) @ to_crop.transpose(1, 2)
    pose = torch.cat([xy[..., :2], 0.5 + (mm[..., 2:] - mm[:, :1, 2:]) / 2000], dim=-1)
    torch.testing.assert_close(pose_to_camera(pose, to_crop, LENS, mm[:, 0, 2]), mm, rtol=0, atol=1e-6)


def test_camera_of_another_length() -> None:
    with pytest.raises(UserError, match=r"4 numbers .* or 9 .*, not 7"):
        project(torch.ones(1, 2, 3), torch.ones(1, 7))
    with pytest.raises(UserError, match="not 5"):
        back_project(torch.ones(1, 2, 2), torch.ones(1, 2), torch.ones(1, 5))
