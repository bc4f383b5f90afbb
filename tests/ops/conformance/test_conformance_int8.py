"""The convolution units with int8 weights: on every instruction set that multiplies them, against whole numbers,
against the definition in float64, and against the product that is not rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_conformance_units import SIZES, UNITS, Sizes
from torch import Tensor

from pyhar import ops
from pyhar.errors import UserError
from pyhar.kernels import native
from pyhar.kernels.cpu_entry import instruction_set
from pyhar.ops import dispatch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPSILON = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def sets_with_int8() -> list[str]:
    module, found = native.load(), []
    if module is None:
        return []
    before = module.cpu_isa()
    for name in module.cpu_isas():
        module.use_cpu_isa(name)
        found += [name] * module.cpu_has_int8_units()
    module.use_cpu_isa(before)
    return found


@pytest.fixture(params=sets_with_int8() or [pytest.param(None, marks=pytest.mark.skip("this CPU multiplies no int8"))])
def with_int8(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that multiplies int8, in use."""
    module = native.load()
    assert module is not None
    before = module.cpu_isa()
    module.use_cpu_isa(request.param)
    yield request.param
    module.use_cpu_isa(before)


class Call:
    """Arguments of a unit with int8 weights, random, and calls with them."""

    def __init__(self, unit: str, sizes: Sizes, dtype: torch.dtype = torch.float32) -> None:
        n, c, o, y, x, k, norm, shortcut, skips = sizes
        self.unit, middle = unit, max(1, o // 2)

        sides = 2 if unit == "upscaling_unit" else 1  # of the output

        def maps(channels: int, sides: int = 1) -> Tensor:
            values = torch.randn(n, channels, sides * y, sides * x).to(dtype)
            return values.contiguous(memory_format=torch.channels_last)

        self.x = maps(c)
        self.norm = [torch.randn(c), torch.randn(c)] if norm else [None, None]
        self.skips = tuple(maps(o, sides) for _ in range(min(skips, 3 - sides)))
        self.beside = maps(o)
        self.depthwise = (torch.randn(c, 1, k, k) / k).to(dtype)
        self.bias = torch.randn(middle)
        shapes = {
            "separable_unit": {"pointwise": (o, c, 1, 1)},
            "upscaling_unit": {"pointwise": (o, c, 1, 1)},
            "bottleneck_unit": {"reduce": (middle, c, 1, 1), "expand": (o, middle, k, k)},
            "convolution_unit": {"weight": (o, c, k, k)},
        }[unit]
        if shortcut and unit in ("separable_unit", "bottleneck_unit"):
            shapes["shortcut"] = (o, c, 1, 1)
        self.weights: dict[str, Tensor] = {}
        self.scales: tuple[Tensor, ...] = ()
        for name, shape in shapes.items():
            self.weights[name], scale = ops.quantise(torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5)
            self.scales += (scale,)

    def arguments(self, convert: Callable[[Tensor], Tensor] = lambda value: value) -> tuple[list[Any], dict[str, Any]]:
        def given(value: Tensor | None) -> Tensor | None:
            return None if value is None else convert(value)

        positional = [given(self.x), *map(given, self.norm)]
        if self.unit in ("separable_unit", "upscaling_unit"):
            positional.append(given(self.depthwise))
        for name, weight in self.weights.items():
            if name != "shortcut":
                positional.append(weight)
            if name == "reduce":
                positional.append(given(self.bias))
        if self.unit == "upscaling_unit":
            positional.append(given(self.beside))
        options: dict[str, Any] = {"skips": tuple(map(convert, self.skips))}
        if "shortcut" in self.weights:
            options["shortcut"] = self.weights["shortcut"]
        return positional, options

    def by(self, backend: str | None) -> Tensor:
        positional, options = self.arguments()
        with torch.no_grad():
            return getattr(ops, self.unit)(*positional, **options, weight_scales=self.scales, backend=backend)

    def defined(self) -> Tensor:
        """In float64."""
        positional, options = self.arguments(Tensor.double)
        scales = tuple(scale.double() for scale in self.scales)
        return getattr(ops, self.unit)(*positional, **options, weight_scales=scales, backend="eager")

    def not_rounded(self) -> Tensor:
        """With the same weights, the pixels as they are."""
        positional, options = self.arguments(Tensor.double)
        for (_, weight), scale in zip(self.weights.items(), self.scales, strict=True):
            wide = weight.double() * scale.double()[:, None, None, None]
            positional = [wide if value is weight else value for value in positional]
            options = {name: wide if value is weight else value for name, value in options.items()}
        return getattr(ops, self.unit)(*positional, **options, backend="eager")


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [3, 32, 100])
def test_whole_numbers_are_exact(channels: int, norm: bool, kernel: int, with_int8: str) -> None:
    """Pixels whose scale is 1, weights likewise: a convolution of whole numbers."""
    low, high = (0, 255) if norm else (-127, 127)
    x = torch.randint(low, high + 1, (2, channels, 6, 7)).float()
    x[:, 1] = high
    prologue = (torch.ones(channels), torch.zeros(channels)) if norm else (None, None)
    weight = torch.randint(-127, 128, (21, channels, kernel, kernel))
    if not norm:
        weight[0] = 127  # the largest sums
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), padding="same")
    scales = torch.full((21,), 0.5)
    y = ops.convolution_unit(x, *prologue, weight.to(torch.int8), weight_scales=(scales,), backend="cpu")
    torch.testing.assert_close(y.double(), 0.5 * expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s.n}x{s.c}-{s.o}x{s.y}x{s.x}")
@pytest.mark.parametrize("unit", UNITS)
def test_values(unit: str, sizes: Sizes, dtype: torch.dtype, with_int8: str) -> None:
    call = Call(unit, sizes, dtype)
    y, expected = call.by("cpu"), call.defined()
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    largest = expected.abs().max().item()
    off = (y.double() - expected).abs()
    # A value near the middle between two numbers may be rounded to the other: seldom, and by one step.
    assert off.mean().item() <= (EPSILON[dtype] + 2e-5) * largest
    assert off.max().item() <= (EPSILON[dtype] + 1e-2) * largest
    assert (expected - call.not_rounded()).abs().mean().item() <= 0.02 * largest


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", [True, False])
def test_what_is_not_finite_stays_so_and_in_its_picture(norm: bool, bad: float, unit: str, with_int8: str) -> None:
    call = Call(unit, Sizes(n=3, norm=norm, shortcut=True))
    if norm:
        call.norm[0] = call.norm[0].abs()  # infinity stays positive
    clean = call.by("cpu")
    call.x[1, 3, 1, 2] = bad
    y = call.by("cpu")
    row, column = (2, 4) if unit == "upscaling_unit" else (1, 2)
    assert y[1, :, row, column].isnan().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.equal(y.isnan(), call.by("eager").isnan())


@pytest.mark.parametrize("value", [0.0, 1e-35])
@pytest.mark.parametrize("unit", UNITS)
def test_pixels_of_zeros(unit: str, value: float, with_int8: str) -> None:
    call = Call(unit, Sizes(norm=False, shortcut=True, skips=1))
    call.x.fill_(value)
    call.bias.zero_()
    call.beside.zero_()
    assert torch.equal(call.by("cpu"), call.skips[0])


@pytest.mark.parametrize("unit", UNITS)
def test_a_picture_alone_and_any_threads_give_the_same_bits(unit: str, with_int8: str) -> None:
    call = Call(unit, Sizes(n=3, c=96, o=96, y=20, x=20, shortcut=True, skips=1))
    y, threads = call.by("cpu"), torch.get_num_threads()
    call.x, call.skips = call.x[1:2], tuple(skip[1:2] for skip in call.skips)
    call.beside = call.beside[1:2]
    try:
        torch.set_num_threads(1)
        assert torch.equal(call.by("cpu"), y[1:2])
    finally:
        torch.set_num_threads(threads)


def test_a_change_of_weights_or_scales_is_seen(with_int8: str) -> None:
    call = Call("convolution_unit", Sizes())
    before = call.by("cpu")
    call.scales[0].mul_(2)
    torch.testing.assert_close(call.by("cpu"), 2 * before)
    call.weights["weight"].neg_()
    torch.testing.assert_close(call.by("cpu"), -2 * before)


def test_refused_where_there_are_no_products_of_int8() -> None:
    module = native.load()
    if module is None:
        pytest.skip("the native module is missing")
    call, before = Call("separable_unit", Sizes()), instruction_set()
    module.use_cpu_isa("scalar")
    try:
        with pytest.raises(UserError, match="scalar has no products of int8"):
            call.by("cpu")
        assert torch.equal(call.by(None), call.by("eager"))
    finally:
        module.use_cpu_isa(before)


def test_sums_that_may_not_fit_are_refused(with_int8: str) -> None:
    weight = torch.ones(1, 70_000, 1, 1, dtype=torch.int8)
    with pytest.raises(UserError, match="more than 65536 weights"):
        ops.convolution_unit(
            torch.ones(1, 70_000, 1, 1), None, None, weight, weight_scales=(torch.ones(1),), backend="cpu"
        )


@pytest.mark.parametrize("unit", UNITS)
def test_compilers_get_plain_pytorch(unit: str) -> None:
    call = Call(unit, Sizes(n=1, c=8, o=8, shortcut=True))
    positional, options = call.arguments()

    def function(x: Tensor) -> Tensor:
        return getattr(ops, unit)(x, *positional[1:], **options, weight_scales=call.scales)

    with torch.no_grad():
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(call.x), call.by("eager"))


def test_quantise_halves_a_step_at_most() -> None:
    weight = torch.randn(5, 7, 3, 3)
    weight[2] = 0
    rounded, scale = ops.quantise(torch.nn.Parameter(weight))
    assert rounded.dtype == torch.int8
    assert not scale.requires_grad
    assert rounded.abs().amax(dim=(1, 2, 3)).tolist() == [127, 127, 0, 127, 127]
    off = (rounded * scale[:, None, None, None] - weight).abs()
    assert (off <= 0.5001 * scale[:, None, None, None]).all()


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.ones(2, 3, 1, 1, dtype=torch.int8), TypeError, "weight: expected a floating type"),
        ([1.0], TypeError, "weight: expected a tensor, got list"),
        (torch.ones(2, 0, 1, 1), ValueError, r"weight: expected shape \(O, C, k, k\), got \(2, 0, 1, 1\)"),
        (torch.ones(2, 3), ValueError, r"weight: expected shape \(O, C, k, k\), got \(2, 3\)"),
        (torch.full((2, 3, 1, 1), float("nan")), ValueError, "weight: holds NaN"),
        (torch.full((2, 3, 1, 1), float("inf")), ValueError, "weight: holds NaN or an infinity"),
    ],
    ids=["type", "list", "empty", "shape", "nan", "inf"],
)
def test_quantise_refuses(weight: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.quantise(weight)


@pytest.mark.parametrize(
    ("scales", "error", "message"),
    [
        ((), TypeError, "weight: expected the type of the maps"),
        ((torch.ones(6), torch.ones(6)), ValueError, "weight_scales: expected 1, for weight, got 2"),
        ((torch.ones(5),), ValueError, r"weight_scales, of weight: expected shape \(6,\)"),
        ((torch.ones(6).half(),), TypeError, "weight_scales, of weight: expected type torch.float32"),
    ],
)
def test_wrong_arguments_are_named(scales: tuple[Tensor, ...], error: type[Exception], message: str) -> None:
    weight = torch.ones(6, 4, 1, 1, dtype=torch.int8)
    with pytest.raises(error, match=message):
        ops.convolution_unit(torch.ones(1, 4, 2, 2), None, None, weight, weight_scales=scales)
    with pytest.raises(TypeError, match=r"weight: expected with weight_scales, torch.int8"):
        ops.convolution_unit(torch.ones(1, 4, 2, 2), None, None, weight.float(), weight_scales=(torch.ones(6),))


def test_other_backends_say_that_they_have_none() -> None:
    assert set(dispatch._operators["int8_separable_unit"]) == {"cpu", "eager"}
