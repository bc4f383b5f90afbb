"""The convolution units of every backend that has them against their definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from checks import HALF
from torch import Tensor
from usable import USABLE, device_of

from pyhar import ops
from pyhar.errors import UserError
from pyhar.ops import dispatch

UNITS = ("separable_unit", "upscaling_unit", "bottleneck_unit", "convolution_unit")
DTYPES = [torch.float32, *HALF]
# Of the result, relative to its largest magnitude. A half type rounds what is kept between the steps, and the result.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


class Sizes(NamedTuple):
    """Sizes and options of a call."""

    n: int = 2
    c: int = 32
    o: int = 48
    y: int = 3
    x: int = 5
    kernel: int = 3
    norm: bool = True
    shortcut: bool = False
    skips: int = 0


SIZES = (
    Sizes(n=3, c=96, o=96, y=1, x=1, shortcut=True, skips=1),
    Sizes(n=1, c=288, o=96, y=3, x=5, kernel=5, shortcut=True),
    Sizes(c=48, o=48, y=7, x=9, kernel=5, skips=2),
    Sizes(n=1, c=3, o=16, y=16, x=16, norm=False, shortcut=True, skips=1),
    Sizes(n=1, c=33, o=17, y=33, x=17, skips=2),
    Sizes(n=5, c=17, o=32, y=2, x=2, kernel=5, norm=False),
    Sizes(n=2, c=35, o=33, y=7, x=5, kernel=1, skips=2),
    Sizes(n=2, c=19, o=35, y=4, x=18, kernel=7, skips=1),
)


class Call:
    """Arguments of a unit, random, and calls with them."""

    def __init__(self, unit: str, sizes: Sizes, dtype: torch.dtype, device: str) -> None:
        n, c, o, y, x, k, norm, shortcut, skips = sizes
        self.unit = unit
        middle = max(1, o // 2)
        sides = 2 if unit == "upscaling_unit" else 1  # of the output

        def weight(*shape: int) -> Tensor:
            return (torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5).to(device, dtype)

        def maps(channels: int, sides: int = 1) -> Tensor:
            values = torch.randn(n, channels, sides * y, sides * x).to(device, dtype)
            return values.contiguous(memory_format=torch.channels_last)

        self.x = maps(c)
        self.norm = [torch.randn(c, device=device), torch.randn(c, device=device)] if norm else [None, None]
        self.weights = {
            "separable_unit": lambda: [weight(c, 1, k, k), weight(o, c, 1, 1)],
            "upscaling_unit": lambda: [weight(c, 1, k, k), weight(o, c, 1, 1), maps(o)],
            "bottleneck_unit": lambda: [
                weight(middle, c, 1, 1),
                torch.randn(middle, device=device),
                weight(o, middle, k, k),
            ],
            "convolution_unit": lambda: [weight(o, c, k, k)],
        }[unit]()
        self.options: dict[str, Any] = {"skips": tuple(maps(o, sides) for _ in range(min(skips, 3 - sides)))}
        if unit in ("separable_unit", "bottleneck_unit"):
            self.options["shortcut"] = weight(o, c, 1, 1) if shortcut else None

    def by(self, backend: str) -> Tensor:
        with torch.no_grad():
            return getattr(ops, self.unit)(self.x, *self.norm, *self.weights, **self.options, backend=backend)

    def truth(self) -> Tensor:
        def wide(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return [wide(one) for one in value]
            return value if value is None else value.double()

        options = {name: wide(value) for name, value in self.options.items()}
        options["skips"] = tuple(options["skips"])
        with torch.no_grad():
            return getattr(ops, self.unit)(
                wide(self.x), *wide(self.norm), *wide(self.weights), **options, backend="eager"
            )


def assert_right(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    error = (actual.double() - expected).abs().max().item()
    assert error <= TOLERANCE[dtype] * expected.abs().max().item()


@pytest.fixture(params=[b for b in USABLE if b != "eager" and b in dispatch._operators[UNITS[0]]])
def unit_backend(request: pytest.FixtureRequest) -> str:
    """Every usable backend that has the units."""
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s.n}x{s.c}-{s.o}x{s.y}x{s.x}")
@pytest.mark.parametrize("unit", UNITS)
def test_values(unit: str, sizes: Sizes, dtype: torch.dtype, unit_backend: str) -> None:
    call = Call(unit, sizes, dtype, device_of(unit_backend))
    assert_right(call.by(unit_backend), call.truth(), dtype)


@pytest.mark.parametrize("unit", UNITS)
def test_no_pictures(unit: str, unit_backend: str) -> None:
    call = Call(unit, Sizes(n=0, skips=1), torch.float32, device_of(unit_backend))
    assert call.by(unit_backend).shape == (0, 48, *((6, 10) if unit == "upscaling_unit" else (3, 5)))


@pytest.mark.parametrize("unit", UNITS)
def test_the_same_input_gives_the_same_bits(unit: str, unit_backend: str) -> None:
    call = Call(unit, Sizes(shortcut=True, skips=1), torch.float16, device_of(unit_backend))
    assert torch.equal(call.by(unit_backend), call.by(unit_backend))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("unit", UNITS)
def test_nan_stays_in_its_picture(unit: str, norm: bool, unit_backend: str) -> None:
    call = Call(unit, Sizes(n=3, norm=norm, shortcut=True), torch.float32, device_of(unit_backend))
    clean = call.by(unit_backend)
    call.x[1, 3, 1, 2] = float("nan")
    y = call.by(unit_backend)
    row, column = (2, 4) if unit == "upscaling_unit" else (1, 2)
    assert y[1, :, row, column].isnan().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("unit", UNITS)
def test_parts_of_larger_maps(unit: str, unit_backend: str) -> None:
    """Every second picture, a window of it, channels behind others: offsets and strides of all kinds."""
    sizes = Sizes(n=2, shortcut=True, skips=1)
    call = Call(unit, sizes, torch.float32, device_of(unit_backend))
    expected = call.by(unit_backend)

    def part(maps: Tensor) -> Tensor:
        n, c, y, x = maps.shape
        whole = maps.new_full((2 * n + 1, c + 5, y + 3, 2 * x + 1), float("nan"))
        whole = whole.contiguous(memory_format=torch.channels_last)
        return whole[1::2, 3 : c + 3, 2 : y + 2, 1::2].copy_(maps)

    call.x = part(call.x)
    call.options["skips"] = tuple(map(part, call.options["skips"]))
    if unit == "upscaling_unit":
        call.weights[2] = part(call.weights[2])  # what is added beside
    torch.testing.assert_close(call.by(unit_backend), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_weights_in_channels_last(unit: str, unit_backend: str) -> None:
    call = Call(unit, Sizes(shortcut=True), torch.float32, device_of(unit_backend))
    expected = call.by(unit_backend)
    # Channels innermost for depthwise weights too, which have one channel in PyTorch's eyes.
    call.weights = [
        w if w.dim() == 1 else w.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1) if w.shape[1] == 1
        else w.contiguous(memory_format=torch.channels_last)
        for w in call.weights
    ]  # fmt: skip
    assert torch.equal(call.by(unit_backend), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 33, 8, 6), (1, 16, 7, 9), (3, 5, 3, 4), (1, 100, 33, 17), (0, 8, 4, 4)], ids=str)
@pytest.mark.parametrize(("kernel", "stride"), [(2, (2, 2)), (3, (2, 2)), (2, (1, 2))])
def test_pooling(
    kernel: int, stride: tuple[int, int], shape: tuple[int, ...], dtype: torch.dtype, unit_backend: str
) -> None:
    """Values bit for bit; also of a window of a larger map, whose surroundings are not read."""
    n, c, y, x = shape
    whole = torch.full((n, c + 3, y + 2, x + 1), float("inf"), dtype=dtype)
    whole = whole.to(device_of(unit_backend)).contiguous(memory_format=torch.channels_last)
    maps = whole[:, 1 : c + 1, 1 : y + 1, :x].copy_(torch.randn(shape))
    if n > 1:
        maps[1, 2, 1, 1] = float("nan")
        maps[1, 3] = float("-inf")
    pooled = ops.pooling_unit(maps, kernel, stride, backend=unit_backend)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    expected = ops.pooling_unit(maps, kernel, stride, backend="eager")
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    assert pooled.isnan().any() == (n > 1)


def test_maps_that_are_not_channels_last_are_right_or_refused(unit_backend: str) -> None:
    call = Call("convolution_unit", Sizes(), torch.float32, device_of(unit_backend))
    call.x = call.x.contiguous()
    reason = dispatch._refusal("convolution_unit", unit_backend, (call.x, *call.norm, *call.weights, ()))
    if reason is None:
        assert_right(call.by(unit_backend), call.truth(), torch.float32)
    else:
        assert "channels_last" in reason
        with pytest.raises(UserError, match="channels_last"):
            call.by(unit_backend)


@pytest.mark.parametrize("unit", UNITS)
def test_refused_where_a_gradient_is_wanted(unit: str, unit_backend: str) -> None:
    call = Call(unit, Sizes(), torch.float32, device_of(unit_backend))
    call.x.requires_grad_()
    assert call.by(unit_backend).grad_fn is None  # under no_grad it serves
    with pytest.raises(UserError, match="no gradient"):
        getattr(ops, unit)(call.x, *call.norm, *call.weights, **call.options, backend=unit_backend)
    y = getattr(ops, unit)(call.x, *call.norm, *call.weights, **call.options)
    assert y.requires_grad


class Wrapped(torch.nn.Module):
    """A function as a module, which is what an export starts from."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_compilers_and_transforms_get_plain_pytorch(unit_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call("separable_unit", Sizes(shortcut=True), torch.float32, device_of(unit_backend))
    # As if it were made for these tensors, wherever they live.
    monkeypatch.setitem(dispatch.BACKENDS, unit_backend, call.x.device.type)

    def unit(x: Tensor) -> Tensor:
        return ops.separable_unit(x, *call.norm, *call.weights, **call.options)

    with torch.no_grad():
        assert dispatch._refusal("separable_unit", unit_backend, (call.x, *call.norm, *call.weights, None, ())) is None
        compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(call.x), call.by("eager"))
        exported = torch.export.export(Wrapped(unit), (call.x,)).module()
        torch.testing.assert_close(exported(call.x), call.by("eager"))
        torch.testing.assert_close(unit(torch._neg_view(call.x)), unit(-call.x))
        mapped = torch.func.vmap(unit)(torch.stack([call.x, call.x]))
        torch.testing.assert_close(mapped[1], call.by("eager"))
