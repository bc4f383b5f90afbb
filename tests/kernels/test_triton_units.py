"""The convolution units' Triton kernels at the tiles that a GPU gets, and the plans that choose them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pyhar.kernels import triton as backend
from pyhar.kernels.triton.unit_plan import (
    DepthwiseTile,
    ProductTile,
    SeparableTile,
    out_tile,
    plan_depthwise,
    plan_product,
    plan_separable,
)
from pyhar.kernels.triton.unit_product import unit_product_launch
from pyhar.kernels.triton.unit_separable import unit_depthwise_launch, unit_separable_launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")


@pytest.fixture(autouse=True)
def usable() -> None:
    reason = backend.why_unusable()
    if reason is not None:
        pytest.skip(reason)


def maps(n: int, c: int, y: int, x: int) -> Tensor:
    return torch.randn(n, c, y, x).to(DEVICE).contiguous(memory_format=torch.channels_last)


def unwritten(n: int, c: int, y: int, x: int) -> Tensor:
    return torch.full_like(maps(n, c, y, x), NAN)


def weight(*shape: int) -> Tensor:
    return (torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5).to(DEVICE)


def activated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.relu(x.double() * scale.double()[:, None, None] + shift.double()[:, None, None])


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "tile",
    [SeparableTile(16, 16, 2, 16, 4, 168), SeparableTile(16, 32, 1, 32, 4, 168), SeparableTile(32, 16, 3, 16, 8, 255)],
)
def test_separable_in_one_kernel(tile: SeparableTile) -> None:
    """Tiles that end inside pictures, channels and output channels; several of each."""
    x, scale, shift = maps(3, 19, 3, 4), torch.randn(19).to(DEVICE), torch.randn(19).to(DEVICE)
    depthwise, pointwise, shortcut = weight(19, 1, 5, 5), weight(41, 19, 1, 1), weight(41, 19, 1, 1)
    skips, out = (maps(3, 41, 3, 4), maps(3, 41, 3, 4)), unwritten(3, 41, 3, 4)
    launch = unit_separable_launch(x, scale, shift, depthwise, pointwise, shortcut, skips, out, tile)
    launch.start(x.device)
    a = activated(x, scale, shift)
    y = F.conv2d(F.conv2d(a, depthwise.double(), padding=2, groups=19), pointwise.double())
    assert_close(out, y + F.conv2d(a, shortcut.double()) + skips[0].double() + skips[1].double())


@pytest.mark.parametrize("tile", [DepthwiseTile(4, 4, 16, 4), DepthwiseTile(1, 16, 8, 4), DepthwiseTile(3, 2, 32, 4)])
def test_depthwise(tile: DepthwiseTile) -> None:
    x, scale, shift = maps(2, 19, 5, 7), torch.randn(19).to(DEVICE), torch.randn(19).to(DEVICE)
    depthwise, out = weight(19, 1, 3, 3), unwritten(2, 19, 5, 7)
    unit_depthwise_launch(x, scale, shift, depthwise, out, tile).start(x.device)
    assert_close(out, F.conv2d(activated(x, scale, shift), depthwise.double(), padding=1, groups=19))


@pytest.mark.parametrize(
    "tile", [ProductTile(16, 16, 16, 4, 3), ProductTile(32, 32, 16, 4, 3), ProductTile(16, 64, 32, 8, 3)]
)
def test_product(tile: ProductTile) -> None:
    """Taps, the side product, bias with relu, and skips after it."""
    x, side = maps(2, 19, 4, 5), maps(2, 7, 4, 5)
    scale, shift, bias = torch.randn(7).to(DEVICE), torch.randn(7).to(DEVICE), torch.randn(41).to(DEVICE)
    taps, side_weight = weight(41, 19, 3, 3), weight(41, 7, 1, 1)
    skip, out = maps(2, 41, 4, 5), unwritten(2, 41, 4, 5)
    launch = unit_product_launch(
        x, None, None, taps, out, bias=bias, side=side, side_scale=scale, side_shift=shift,
        side_weight=side_weight, skips=(skip,), tile=tile,
    )  # fmt: skip
    launch.start(x.device)
    y = F.conv2d(x.double(), taps.double(), padding=1)
    y = y + F.conv2d(activated(side, scale, shift), side_weight.double()) + bias.double()[:, None, None]
    assert_close(out, torch.relu(y) + skip.double())


def test_three_products_of_tf32_keep_float32() -> None:
    """What the GPU makes of float32 products: high and low parts of 11 bits, without low times low."""

    def rounded(values: Tensor) -> Tensor:
        bits = values.view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

    a, w = torch.randn(64, 2304), torch.randn(2304, 64)
    a_high, w_high = rounded(a), rounded(w)
    a_low, w_low = rounded(a - a_high), rounded(w - w_high)
    found = a_high.double() @ w_high.double() + a_high.double() @ w_low.double() + a_low.double() @ w_high.double()
    expected = a.double() @ w.double()
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < 1e-6
    plain = ((a_high.double() @ w_high.double() - expected).abs().max() / expected.abs().max()).item()
    assert plain > 1e-5  # one product of TF32 would not do


def test_out_tiles_waste_little() -> None:
    assert {o: out_tile(o) for o in (16, 17, 48, 96, 160, 192, 288, 384, 480, 576)} == {
        16: 16, 17: 32, 48: 64, 96: 128, 160: 64, 192: 64, 288: 64, 384: 128, 480: 128, 576: 128,
    }  # fmt: skip


@pytest.mark.parametrize("pixels", [0, 1, 128, 2048, 8192, 131072])
@pytest.mark.parametrize("out_channels", [1, 17, 48, 288, 576, 2048])
@pytest.mark.parametrize("item_bytes", [2, 4])
def test_tiles_are_what_tensor_cores_and_memory_take(pixels: int, out_channels: int, item_bytes: int) -> None:
    for channels in (3, 84, 576):
        product = plan_product(pixels, channels, out_channels, item_bytes)
        for side in product[:3]:
            assert side >= 16
            assert side & (side - 1) == 0
        assert product.stages * (product.pixels + product.out) * product.depth * item_bytes <= 48 * 1024
        assert product.pixels * product.out / (32 * product.warps) <= 64
        separable = plan_separable(pixels, channels, out_channels, item_bytes)
        if separable is not None:
            assert min(separable.pixels, separable.out, separable.depth) >= 16
            assert separable.pixels * separable.out * separable.tiles / (32 * separable.warps) <= 40


def test_few_pixels_make_one_kernel_and_no_idle_multiprocessors() -> None:
    assert plan_separable(8 * 32 * 32, 288, 288, 2) is None
    whole = plan_separable(8 * 16 * 16, 384, 384, 2)
    assert whole is not None
    assert whole.out * whole.tiles >= 384  # 128 programs already
    shared = plan_separable(8 * 4 * 4, 576, 576, 2)
    assert shared is not None
    assert shared.tiles == 1  # 8 programs of all output channels would leave most multiprocessors idle


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (7, 9), (32, 32), (33, 17)])
def test_depthwise_tiles_hold_the_same_number_of_values(rows: int, columns: int) -> None:
    tile = plan_depthwise(288, rows, columns)
    assert tile.rows == min(4, rows)
    assert tile.columns * tile.channels == 1024
    assert tile.columns <= 16


def test_no_device_function_makes_a_none() -> None:
    """Triton 3.6 does not compile one that may return it."""
    for file in sorted(Path(backend.__file__).parent.glob("*.py")):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef) or "device_function" not in map(
                ast.unparse, function.decorator_list
            ):
                continue
            made = [node.value for node in ast.walk(function) if isinstance(node, (ast.Assign, ast.Return))]
            assert not [value for value in made if isinstance(value, ast.Constant) and value.value is None], (
                function.name
            )


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 2, 3, 3, dtype=torch.float64), "float64"),
        (torch.zeros(1, 2, 3, 3), "channels_last"),
        (torch.zeros(1, device="meta").expand(1, 1, 2**20, 2**20), "2\\^31"),
    ],
)
def test_what_it_cannot_serve_is_named(x: Tensor, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(backend, "_wrong_device", lambda device: None)
    reason = backend.units_why_not(x, (torch.zeros(4, x.shape[1], 1, 1),), ())
    assert reason is not None
    assert re.search(words, reason)
    assert backend.units_why_not(torch.zeros(1, 2, 1, 1), (torch.zeros(4, 2, 1, 1),), ()) is None
    taps = backend.units_why_not(torch.zeros(1, 2, 1, 1), (torch.zeros(2, 1, 9, 9),), ())
    assert taps is not None
    assert "7x7" in taps
