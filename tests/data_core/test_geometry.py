import numpy as np
import pytest
import torch

from pyhar.data.geometry import (
    apply_map,
    back_project,
    crop_map,
    normalised_to_picture,
    pose_to_camera,
    project,
    square_box,
    to_crop_pixels,
)
from pyhar.data.layouts import PA16, PA17, custom_layout, get_layout
from pyhar.data.sample import model_input
from pyhar.errors import UserError


def test_square_box() -> None:
    np.testing.assert_allclose(square_box([10, 20, 30, 30], margin=0.5), [5, 10, 35, 40])
    for box in ([0, 0, 0, 5], [3, 0, 1, 5], [0, 0, np.nan, 5]):
        with pytest.raises(UserError, match="has no area"):
            square_box(box)


def test_plain_crop_maps_edges_to_0_and_1() -> None:
    # A picture of 100 pixels: pixel 0 begins at -0.5, pixel 99 ends at 99.5.
    to_crop = crop_map([-0.5, -0.5, 99.5, 99.5])
    np.testing.assert_allclose(to_crop @ [0, 99, 1], [0.005, 0.995, 1])
    np.testing.assert_allclose(to_crop_pixels(to_crop, 100), np.eye(3), atol=1e-12)


def test_augmented_crop() -> None:
    box = [10, 20, 50, 60]
    centre = np.array([30, 40, 1])
    np.testing.assert_allclose(crop_map(box, rotation=33, scale=1.7, flip=True) @ centre, [0.5, 0.5, 1])
    # Clockwise on the screen: what was to the right is then below.
    np.testing.assert_allclose(crop_map(box, rotation=90) @ [50, 40, 1], [0.5, 1.0, 1], atol=1e-12)
    np.testing.assert_allclose(crop_map(box, scale=2) @ [40, 40, 1], [1.0, 0.5, 1])
    np.testing.assert_allclose(crop_map(box, shift=(0.1, -0.2)) @ centre, [0.6, 0.3, 1])
    np.testing.assert_allclose(crop_map(box, flip=True) @ [50, 40, 1], [0.0, 0.5, 1], atol=1e-12)
    np.testing.assert_allclose(crop_map(box, shift=(0.1, 0), flip=True) @ centre, [0.4, 0.5, 1])


def test_there_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    mm = torch.rand(2, 3, 17, 3, generator=generator) * 2000 + torch.tensor([-1000.0, -1000.0, 3000.0])
    camera = torch.tensor([[1100.0, 1120.0, 500.0, 510.0], [900.0, 900.0, 320.0, 240.0]])
    to_crop = torch.from_numpy(
        np.stack([crop_map([100, 100, 900, 900], rotation=20, flip=True), crop_map([0, 0, 640, 640], scale=1.2)])
    )
    px = project(mm, camera)
    torch.testing.assert_close(back_project(px, mm[..., 2], camera), mm, rtol=1e-4, atol=0.01)
    xy = apply_map(to_crop[:, None, None], px)
    torch.testing.assert_close(normalised_to_picture(xy, to_crop), px, rtol=0, atol=1e-2)
    root = mm[..., 0, 2]
    pose = torch.cat([xy, (0.5 + (mm[..., 2:] - root[..., None, None]) / 2000)], dim=-1)
    torch.testing.assert_close(
        pose_to_camera(pose.double(), to_crop, camera.double(), root.double()), mm.double(), rtol=0, atol=0.05
    )


def test_layouts() -> None:
    assert PA16.joints[:6] == ("pelvis", "thorax", "neck", "head top", "right shoulder", "left shoulder")
    assert PA16.flip == (0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
    assert PA17.flip == (*PA16.flip, 16)
    assert PA17.joints[16] == "spine"
    for layout in (PA16, PA17):
        # Bones make one tree over all joints.
        assert len(layout.bones) == len(layout.joints) - 1
        assert {layout.root, *(child for _, child in layout.bones)} == set(range(len(layout.joints)))
        named = {(layout.joints[a], layout.joints[b]) for a, b in layout.bones}
        assert ("right elbow", "right wrist") in named
        assert ("left hip", "left knee") in named
    assert get_layout("pa16").index("left ankle") == 15
    with pytest.raises(UserError, match="did you mean 'pa16'"):
        get_layout("pa-16")
    with pytest.raises(UserError, match="did you mean 'left knee'"):
        PA16.index("leftknee")
    with pytest.raises(UserError, match="joint index 5"):
        custom_layout("mine", ["a", "b"], [(0, 5)])


def test_model_input() -> None:
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 8, 8, 3)
    x = model_input(frames)
    assert x.shape == (2, 4, 3, 8, 8)
    torch.testing.assert_close(x[0, 0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    assert x.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(TypeError, match="uint8"):
        model_input(frames.float())
    with pytest.raises(ValueError, match="expected shape"):
        model_input(frames[..., :2])


@pytest.mark.parametrize("time", [(), (2,)])
def test_each_channel_gets_its_power(time: tuple[int, ...]) -> None:
    frames = torch.arange(256, dtype=torch.uint8)[:, None].expand(3, *time, 1, 256, 3)
    power = torch.tensor([[0.9, 1.0, 1.1], [1.0, 1.0, 1.0], [1.3, 0.7, 1.0]])
    x = model_input(frames, colour_power=power)
    of_sample = power.double().reshape(3, *(1,) * len(time), 3, 1, 1)
    expected = 2 * (frames.movedim(-1, -3) / 255.0).double() ** of_sample - 1
    torch.testing.assert_close(x.double(), expected, atol=2e-6, rtol=0)
    assert (x[..., 0] == -1).all()
    assert x.flatten(0, -4).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model_input(frames, colour_power=torch.ones_like(power)), model_input(frames))


@pytest.mark.parametrize("box", [(0, 0, 1e30, 5), (-1e8, 0, 4, 5)])
def test_a_box_beyond_any_picture_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="beyond any picture"):
        square_box(box)
