"""The modules of `pyhar.nn` and the drop-ins for other people's functions and modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyhar import ops
from pyhar.errors import UserError
from pyhar.nn import (
    AppearancePooling,
    PoseDecoder,
    SoftArgmax2d,
    SpatialSoftmax,
    SpatialSoftmaxKeypoints,
    dsnt,
    spatial_soft_argmax2d,
)

# What kornia 0.9.0 and dsntnn 0.5.3 return for the maps of `waves`.
KORNIA: list[tuple[dict[str, Any], Any]] = [
    ({}, [[[-0.0185462795, -0.1976098597], [0.0763101930, 0.4952282779]]]),
    ({"temperature": 0.5}, [[[-0.0231421907, -0.2729236705], [0.0767890829, 0.7321554159]]]),
    ({"temperature": 3.0}, [[[-0.0123687680, -0.0825500321], [0.0345998194, 0.1921144677]]]),
    ({"normalized_coordinates": False}, [[[1.4721805808, 0.8023901403], [1.6144652895, 1.4952282779]]]),
]
DSNTNN: list[tuple[dict[str, Any], Any]] = [
    ({}, [[[-0.0139097096, -0.1317399064], [0.0572326447, 0.3301521853]]]),
    ({"normalized_coordinates": False}, [[[1.4721805808, 0.8023901403], [1.6144652895, 1.4952282779]]]),
]


def waves() -> torch.Tensor:
    return (torch.arange(24.0).reshape(1, 2, 3, 4) * 0.37).sin()


def plain_keypoints(maps: torch.Tensor, temperature: float) -> torch.Tensor:
    """The robot-learning spatial softmax in NumPy, as its users write it: linspace(-1, 1) and a meshgrid."""
    b, k, h, w = maps.shape
    px, py = np.meshgrid(np.linspace(-1, 1, w), np.linspace(-1, 1, h))
    flat = maps.detach().double().numpy().reshape(b, k, h * w) / temperature
    weights = np.exp(flat - flat.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return torch.from_numpy(np.stack([(weights * px.ravel()).sum(-1), (weights * py.ravel()).sum(-1)], -1)).float()


def test_modules_call_their_operators(make_inputs: Any) -> None:
    logits, features, depth = make_inputs()
    beta = torch.tensor([0.5, 1.0, 2.0])
    assert torch.equal(SpatialSoftmax(2.0)(logits), ops.spatial_softmax(logits, beta=2.0))
    assert torch.equal(SoftArgmax2d(beta, grid="pixels")(logits), ops.soft_argmax(logits, beta=beta, grid="pixels"))
    assert torch.equal(AppearancePooling()(logits, features), ops.pool_appearance(logits, features))
    actual = PoseDecoder(grid="unit", confidence="window")(logits, depth)
    expected = ops.decode_pose(logits, depth, grid="unit", confidence="window")
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert PoseDecoder()(logits).z is None


@pytest.mark.parametrize("kind", [SpatialSoftmax, SoftArgmax2d, PoseDecoder, AppearancePooling])
def test_modules_keep_beta_as_it_was_given(kind: Any) -> None:
    assert list(kind(2.0).state_dict()) == []
    fixed = kind(torch.ones(3))
    assert list(fixed.state_dict()) == ["beta"]
    assert list(fixed.parameters()) == []
    learnt = kind(nn.Parameter(torch.ones(3)))
    assert [name for name, _ in learnt.named_parameters()] == ["beta"]
    assert "beta=tensor (3,)" in repr(learnt)


def test_a_learnt_beta_learns(make_inputs: Any) -> None:
    decoder = SoftArgmax2d(nn.Parameter(torch.tensor(1.0)))
    decoder(make_inputs().logits).square().sum().backward()
    assert decoder.beta.grad.abs() > 1e-3


def test_modules_refuse_unknown_options_when_made() -> None:
    with pytest.raises(UserError, match=r"unknown grid 'pixel'; did you mean 'pixels'"):
        SoftArgmax2d(grid="pixel")
    with pytest.raises(UserError, match="unknown confidence 'maximum'"):
        PoseDecoder(confidence="maximum")
    with pytest.raises(UserError, match="backend 'cuda' cannot serve soft_argmax"):
        SoftArgmax2d(backend="cuda")(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(("options", "expected"), KORNIA)
def test_spatial_soft_argmax2d_has_the_values_of_kornia(options: dict[str, Any], expected: Any) -> None:
    torch.testing.assert_close(spatial_soft_argmax2d(waves(), **options), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_spatial_soft_argmax2d_learns_its_temperature() -> None:
    temperature = torch.tensor([0.5], requires_grad=True)
    actual = spatial_soft_argmax2d(waves(), temperature)
    torch.testing.assert_close(actual, spatial_soft_argmax2d(waves(), 0.5))
    actual.sum().backward()
    assert temperature.grad.abs() > 1e-3


@pytest.mark.parametrize(("options", "expected"), DSNTNN)
def test_dsnt_has_the_values_of_dsntnn(options: dict[str, Any], expected: Any) -> None:
    probs = ops.spatial_softmax(waves())
    torch.testing.assert_close(dsnt(probs, **options), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_dsnt_names_its_argument() -> None:
    with pytest.raises(ValueError, match=r"^heatmaps: expected shape \(B, L, Y, X\) .* got \(2, 3, 4, 5, 6\)"):
        dsnt(torch.zeros(2, 3, 4, 5, 6))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"normalized_coordinates": False}], ids=str)
def test_spatial_soft_argmax2d_beside_kornia(options: Any, make_inputs: Any) -> None:
    kornia = pytest.importorskip("kornia", minversion="0.9", exc_type=ImportError)
    logits = make_inputs().logits
    expected = kornia.geometry.subpix.spatial_soft_argmax2d(logits, **options)
    torch.testing.assert_close(spatial_soft_argmax2d(logits, **options), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalized", [True, False])
def test_dsnt_beside_dsntnn(normalized: bool, make_inputs: Any) -> None:
    dsntnn = pytest.importorskip("dsntnn")
    probs = ops.spatial_softmax(make_inputs().logits)
    expected = dsntnn.dsnt(probs, normalized_coordinates=normalized)
    torch.testing.assert_close(dsnt(probs, normalized_coordinates=normalized), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.ones(2)], ids=str)
def test_drop_ins_refuse_a_wrong_temperature(temperature: Any) -> None:
    with pytest.raises(ValueError, match=r"^temperature: expected"):
        spatial_soft_argmax2d(torch.zeros(1, 2, 3, 3), temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("num_kp", [None, 5])
def test_keypoints_are_those_of_robot_learning_code(num_kp: int | None, temperature: float, make_inputs: Any) -> None:
    features = make_inputs().features
    module = SpatialSoftmaxKeypoints(features.shape[1:], num_kp=num_kp, temperature=temperature)
    maps = features if module.nets is None else module.nets(features)
    torch.testing.assert_close(module(features), plain_keypoints(maps, temperature), rtol=1e-5, atol=1e-5)
    assert module.output_shape() == [num_kp or 4, 2] == list(module(features).shape[1:])


def test_keypoints_learn_their_temperature(make_inputs: Any) -> None:
    features = make_inputs().features
    module = SpatialSoftmaxKeypoints(features.shape[1:], temperature=0.7, learnable_temperature=True)
    module(features).square().sum().backward()
    assert module.temperature.grad.abs() > 1e-3
    fixed = SpatialSoftmaxKeypoints(features.shape[1:], temperature=0.7)
    assert list(fixed.parameters()) == []
    assert torch.equal(fixed(features), module(features))


@pytest.mark.parametrize("saved_by", ["robomimic", "lerobot"])
def test_keypoints_load_weights_of_other_modules(saved_by: str, make_inputs: Any) -> None:
    features = make_inputs().features
    saved = {"pool.nets.weight": torch.randn(5, 4, 1, 1), "pool.nets.bias": torch.randn(5)}
    if saved_by == "robomimic":
        saved |= {"pool.temperature": torch.tensor([0.4]), "pool.pos_x": torch.zeros(1, 63)}
        saved |= {"pool.pos_y": torch.zeros(1, 63)}
    else:
        saved |= {"pool.pos_grid": torch.zeros(63, 2)}
    policy = nn.ModuleDict({"pool": SpatialSoftmaxKeypoints((4, 7, 9), num_kp=5)})
    before = set(saved)
    policy.load_state_dict(saved)
    assert set(saved) == before
    maps = nn.functional.conv2d(features, saved["pool.nets.weight"], saved["pool.nets.bias"])
    expected = plain_keypoints(maps, 0.4 if saved_by == "robomimic" else 1.0)
    torch.testing.assert_close(policy["pool"](features), expected, rtol=1e-5, atol=1e-5)


def test_keypoints_refuse_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"input_shape: expected \(C, H, W\), got \(4, 7\)"):
        SpatialSoftmaxKeypoints((4, 7))
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        SpatialSoftmaxKeypoints((4, 7, 9), temperature=0)
    with pytest.raises(ValueError, match=r"features: expected \(B, 4, H, W\), got \(1, 3, 7, 9\)"):
        SpatialSoftmaxKeypoints((4, 7, 9))(torch.zeros(1, 3, 7, 9))
    with pytest.raises(TypeError, match=r"features: expected a tensor \(B, C, Y, X\), got NoneType"):
        SpatialSoftmaxKeypoints((4, 7, 9))(None)
    shapes: tuple[Any, ...] = (4, np.int64(4), None, (4.0, 7, 9), "479", (4, 7, 9, 1))
    for shape in shapes:
        with pytest.raises(ValueError, match="input_shape: expected"):
            SpatialSoftmaxKeypoints(shape)
    counts: tuple[Any, ...] = (0, 3.0, "3")
    for count in counts:
        with pytest.raises(ValueError, match="num_kp: expected 1 or more"):
            SpatialSoftmaxKeypoints((4, 7, 9), num_kp=count)
    with pytest.raises(TypeError, match="noise_std: expected a number, got NoneType"):
        SpatialSoftmaxKeypoints((4, 7, 9), noise_std=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="temperature: expected a number, got NoneType"):
        SpatialSoftmaxKeypoints((4, 7, 9), temperature=None)  # type: ignore[arg-type]
