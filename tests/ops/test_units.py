"""The convolution units in inference form against the network's own modules, and their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyhar import ops
from pyhar.models.blocks import EntryFlow, ResidualUnit, UpscalingUnit, _pad_same, batch_norm, max_min_pool


def folded(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def trained(module: nn.Module) -> nn.Module:
    """`module` in eval mode, float64, with statistics and affine parameters that are not the initial ones."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return module.double().eval().requires_grad_(False)


@pytest.mark.parametrize("out_channels", [12, 20])
@pytest.mark.parametrize("kernel", [3, 5])
def test_separable_unit_is_the_residual_unit_of_the_network(out_channels: int, kernel: int) -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(12, out_channels, kernel, "separable")
    trained(unit)
    x, lateral = torch.randn(2, 12, 7, 9).double(), torch.randn(2, out_channels, 7, 9).double()
    weights = [layer.weight for layer in unit.main if isinstance(layer, nn.Conv2d)]
    shortcut = None if unit.shortcut is None else unit.shortcut.weight
    skips = (x, lateral) if shortcut is None else (lateral,)
    y = ops.separable_unit(x, *folded(unit.norm), weights[0], weights[1], shortcut=shortcut, skips=skips)
    torch.testing.assert_close(y, unit(x) + lateral)


@pytest.mark.parametrize("kernel", [3, 5])
def test_upscaling_unit_is_that_of_the_network(kernel: int) -> None:
    torch.manual_seed(3)
    scaling = UpscalingUnit(12, 4, kernel)
    trained(scaling)
    unit = scaling.unit
    x, lateral = torch.randn(2, 12, 4, 5).double(), torch.randn(2, 8, 8, 10).double()
    weights = [layer.weight for layer in unit.main if isinstance(layer, nn.Conv2d)]
    assert unit.shortcut is not None
    beside = ops.convolution_unit(x, *folded(unit.norm), unit.shortcut.weight)
    y = ops.upscaling_unit(x, *folded(unit.norm), weights[0], weights[1], beside, skips=(lateral,))
    torch.testing.assert_close(y, scaling(x) + lateral)


@pytest.mark.parametrize("out_channels", [12, 20])
def test_bottleneck_unit_is_the_residual_unit_of_the_network(out_channels: int) -> None:
    torch.manual_seed(1)
    unit = ResidualUnit(12, out_channels, 3, "bottleneck")
    trained(unit)
    reduce, norm, _, expand = unit.main
    assert isinstance(norm, nn.BatchNorm2d)
    scale, bias = folded(norm)
    x = torch.randn(2, 12, 8, 6).double()
    y = ops.bottleneck_unit(
        x,
        *folded(unit.norm),
        reduce.weight * scale[:, None, None, None],  # type: ignore[operator]
        bias,
        expand.weight,  # type: ignore[arg-type]
        shortcut=None if unit.shortcut is None else unit.shortcut.weight,
        skips=(x,) if unit.shortcut is None else (),
    )
    torch.testing.assert_close(y, unit(x))


def test_convolution_unit_is_norm_relu_and_convolution() -> None:
    torch.manual_seed(2)
    norm = batch_norm(6)
    trained(norm)
    x, weight, skip = (
        torch.randn(3, 6, 5, 4).double(),
        torch.randn(7, 6, 1, 1).double(),
        torch.randn(3, 7, 5, 4).double(),
    )
    expected = nn.functional.conv2d(norm(x).relu(), weight) + skip
    torch.testing.assert_close(ops.convolution_unit(x, *folded(norm), weight, skips=(skip,)), expected)
    torch.testing.assert_close(ops.convolution_unit(x, None, None, weight), nn.functional.conv2d(x, weight))


@pytest.mark.parametrize("side", [1, 8, 9])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("backend", [None, "eager"])
def test_pooling_unit_takes_windows_at_every_so_many_pixels(
    kernel: int, stride: tuple[int, int], side: int, backend: str | None
) -> None:
    x = torch.randn(2, 3, side, side + 1)
    y = ops.pooling_unit(x, kernel, stride, backend=backend)
    assert y.shape == (2, 3, -(-side // stride[0]), -(-(side + 1) // stride[1]))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            top, left = stride[0] * i, stride[1] * j
            assert torch.equal(y[..., i, j], x[..., top : top + kernel, left : left + kernel].amax(dim=(2, 3)))


@pytest.mark.parametrize("shape", [(2, 5, 8, 6), (1, 3, 4, 7)], ids=str)
def test_extremes_unit_is_the_pooling_of_the_action_part(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(ops.extremes_unit(x, 2, backend="eager"), max_min_pool(x))
    whole = ops.extremes_unit(x, max(shape[2:]), (shape[2], shape[3]), backend="eager")
    assert torch.equal(whole.flatten(1), x.amax(dim=(2, 3)) + x.amin(dim=(2, 3)))
    with pytest.raises(ValueError, match="kernel: expected 1 or more"):
        ops.extremes_unit(x, 0)


@pytest.mark.parametrize(("kernel", "stride"), [(0, (2, 2)), (2, (2, 0))])
def test_pooling_without_windows_is_refused(kernel: int, stride: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{'stride' if kernel else 'kernel'}: expected 1 or more"):
        ops.pooling_unit(torch.randn(1, 3, 4, 6), kernel, stride)


@pytest.mark.parametrize(("kernel", "stride", "name"), [(2.0, (2, 2), "kernel"), (2, 2, "stride"), (2, (2,), "stride")])
def test_pooling_takes_whole_numbers(kernel: Any, stride: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected"):
        ops.pooling_unit(torch.randn(1, 3, 4, 6), kernel, stride)


def _call(**changes: object) -> Callable[[], Tensor]:
    x = torch.randn(2, 4, 5, 5)
    values: dict[str, object] = {
        "scale": torch.ones(4),
        "shift": torch.zeros(4),
        "depthwise": torch.randn(4, 1, 3, 3),
        "pointwise": torch.randn(6, 4, 1, 1),
        "skips": (torch.randn(2, 6, 5, 5),),
    }
    return lambda: ops.separable_unit(x, **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": None}, ValueError, "scale and shift: give both"),
        ({"scale": torch.ones(5)}, ValueError, r"scale: expected shape \(4,\), got \(5,\)"),
        ({"scale": torch.ones(4).half()}, TypeError, "scale: expected type torch.float32"),
        ({"depthwise": torch.randn(4, 1, 2, 2)}, ValueError, "depthwise: .* odd kernel"),
        ({"pointwise": torch.randn(6, 5, 1, 1)}, ValueError, "pointwise: expected shape"),
        ({"pointwise": torch.randn(6, 4, 1, 1).half()}, TypeError, "pointwise: expected the type of the maps"),
        ({"shortcut": torch.randn(5, 4, 1, 1)}, ValueError, "shortcut: expected shape"),
        ({"skips": (torch.randn(2, 5, 5, 5),)}, ValueError, "skips: expected shape"),
        ({"skips": (torch.randn(2, 6, 5, 5),) * 3}, ValueError, "skips: expected at most 2"),
        ({"skips": torch.randn(2, 6, 5, 5)}, TypeError, "skips: expected a tuple of maps, got Tensor"),
        ({"depthwise": None}, TypeError, "depthwise: expected a tensor of four dimensions, got NoneType"),
        ({"pointwise": torch.tensor(1.0)}, ValueError, r"pointwise: expected four dimensions, got shape \(\)"),
        ({"scale": [1.0] * 4}, TypeError, r"scale: expected a tensor \(4,\), got list"),
        ({"weight_scales": torch.ones(6)}, TypeError, "weight_scales: expected a tuple of tensors, got Tensor"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _call(**changes)()


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("backend", [None, "eager"])
def test_stem_unit_is_that_of_the_network(size: int, backend: str | None) -> None:
    torch.manual_seed(0)
    stem, frames = EntryFlow(8, 16).stem, torch.rand(2, 3, size, size + 3)
    with torch.no_grad():
        expected = stem(_pad_same(frames, 7, (2, 2), 0.0))
        torch.testing.assert_close(ops.stem_unit(frames, stem.weight, backend=backend), expected)
        mapped = torch.func.vmap(lambda picture: ops.stem_unit(picture[None], stem.weight)[0])(frames)
        torch.testing.assert_close(mapped, expected)


def test_wrong_arguments_of_a_stem_are_named() -> None:
    frames = torch.rand(1, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"weight: expected shape \(O, 3, k, k\) with an odd kernel, got \(4, 3, 2, 2\)"
    ):
        ops.stem_unit(frames, torch.rand(4, 3, 2, 2))
    with pytest.raises(ValueError, match=r"weight: expected shape .*, got \(4, 2, 3, 3\)"):
        ops.stem_unit(frames, torch.rand(4, 2, 3, 3))
    with pytest.raises(ValueError, match="stride: expected 1 or more, got"):
        ops.stem_unit(frames, torch.rand(4, 3, 3, 3), (0, 1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beside": torch.randn(2, 6, 10, 10)}, ValueError, r"beside: expected shape \(2, 6, 5, 5\)"),
        ({"beside": torch.randn(2, 6, 5, 5).half()}, TypeError, "beside: expected the type of the maps"),
        ({"beside": None}, TypeError, "beside: expected maps, got NoneType"),
        ({"skips": (torch.randn(2, 6, 5, 5),)}, ValueError, r"skips: expected shape \(2, 6, 10, 10\)"),
        ({"skips": (torch.randn(2, 6, 10, 10),) * 2}, ValueError, "skips: expected at most 1"),
    ],
)
def test_wrong_arguments_of_an_upscaling_unit(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    values: dict[str, Any] = {
        "scale": torch.ones(4),
        "shift": torch.zeros(4),
        "depthwise": torch.randn(4, 1, 3, 3),
        "pointwise": torch.randn(6, 4, 1, 1),
        "beside": torch.randn(2, 6, 5, 5),
        "skips": (torch.randn(2, 6, 10, 10),),
    }
    x = torch.randn(2, 4, 5, 5)
    assert ops.upscaling_unit(x, **values).shape == (2, 6, 10, 10)
    with pytest.raises(error, match=f"^{message}"):
        ops.upscaling_unit(x, **(values | changes))
