"""The convolution units in inference form against the network's own modules, and their arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyhar import ops
from pyhar.models.blocks import ResidualUnit, batch_norm


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


def test_pointwise_unit_is_norm_relu_and_convolution() -> None:
    torch.manual_seed(2)
    norm = batch_norm(6)
    trained(norm)
    x, weight, skip = (
        torch.randn(3, 6, 5, 4).double(),
        torch.randn(7, 6, 1, 1).double(),
        torch.randn(3, 7, 5, 4).double(),
    )
    expected = nn.functional.conv2d(norm(x).relu(), weight) + skip
    torch.testing.assert_close(ops.pointwise_unit(x, *folded(norm), weight, skips=(skip,)), expected)
    torch.testing.assert_close(ops.pointwise_unit(x, None, None, weight), nn.functional.conv2d(x, weight))


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("kernel", [2, 3])
def test_pooling_unit_takes_windows_at_every_second_pixel(kernel: int, side: int) -> None:
    x = torch.randn(2, 3, side, side + 1)
    y = ops.pooling_unit(x, kernel)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            window = x[..., 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
            assert torch.equal(y[..., i, j], window.amax(dim=(2, 3)))
    assert (y.shape[2] - 1) * 2 + kernel >= side  # the last window reaches the edge


@pytest.mark.parametrize("kernel", [1, 5])
def test_pooling_windows_larger_than_the_maps_are_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"kernel: expected 2 to 4, the shorter side of the maps, got {kernel}"):
        ops.pooling_unit(torch.randn(1, 3, 4, 6), kernel)


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
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _call(**changes)()
