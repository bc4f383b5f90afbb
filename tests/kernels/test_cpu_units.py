"""The CPU kernels of the convolution units: every instruction set of this machine against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pyhar import ops
from pyhar.errors import UserError
from pyhar.kernels import cpu, cpu_units, native

NATIVE = native.load()
ISAS = [] if NATIVE is None else NATIVE.cpu_isas()
pytestmark = pytest.mark.skipif(NATIVE is None, reason=f"native module missing: {native.why_missing()}")
UNITS = ("separable_unit", "upscaling_unit", "bottleneck_unit", "convolution_unit")
WITH_SHORTCUT = ("separable_unit", "bottleneck_unit")
# The largest error over the largest value of the output: sums in float32, a few roundings to bfloat16, one to float16.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 8e-3, torch.float16: 5e-4}

# Prologue, shortcut, number of skips: every pair of them.
OPTIONS = [(True, True, 0), (True, False, 1), (True, False, 2), (False, True, 1), (False, True, 2), (False, False, 0)]

# (N, C, outputs, Y, X, kernel)
SIZES = [
    (2, 16, 16, 8, 8, 5),
    (1, 5, 7, 3, 4, 3),  # less than a vector
    (2, 20, 33, 13, 6, 3),  # patches that the picture does not fill
    (3, 33, 49, 9, 7, 5),  # vectors and what is left over
    (2, 48, 100, 1, 1, 3),  # one pixel
    (8, 96, 96, 4, 4, 5),  # several pictures in a task
    (1, 8, 16, 70, 128, 3),  # pieces that take over rows of the middle from the one before
    (1, 8, 16, 70, 128, 5),
    (2, 17, 31, 5, 33, 7),  # a kernel without a loop of its own
    (1, 20, 50, 6, 13, 1),
    (3, 33, 49, 9, 7, 1),
    (8, 96, 96, 4, 4, 1),
    (1, 3, 40, 70, 2, 3),
]


# Instruction sets called after bfloat16 or int8 (VNNI) have kernels of their own for that type alone; those without
# bfloat16 compute it in float32.
FLOAT32 = [(isa, torch.float32) for isa in ISAS if not isa.endswith(("_bf16", "_vnni"))]
BFLOAT16 = [(isa, torch.bfloat16) for isa in ISAS if isa.endswith("_bf16")]
WIDENED = [(isa, dtype) for isa in ISAS[-1:] for dtype in (torch.bfloat16, torch.float16)]


@pytest.fixture(params=FLOAT32 + BFLOAT16, ids=lambda kernels: f"{kernels[0]}-{kernels[1]}".replace("torch.", ""))
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """A type of maps, and the kernels of one instruction set in use for it."""
    assert NATIVE is not None
    isa, dtype = request.param
    before = NATIVE.cpu_isa()
    NATIVE.use_cpu_isa(isa)
    yield dtype
    NATIVE.use_cpu_isa(before)


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def arguments(
    unit: str,
    size: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    prologue: bool = True,
    shortcut: bool = False,
    skips: int = 0,
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of `unit` whose products have outputs of order one."""
    n, c, o, y, x, k = size

    def weight(outputs: int, depth: int, kernel: int, terms: int) -> Tensor:
        return (torch.randn(outputs, depth, kernel, kernel) / terms**0.5).to(dtype)

    args: list[Any] = [channels_last(n, c, y, x, dtype=dtype)]
    args += [torch.randn(c), torch.randn(c)] if prologue else [None, None]
    middle = max(o // 2, 1)
    sides = 2 if unit == "upscaling_unit" else 1  # of the output
    if sides == 2:
        args += [weight(c, 1, k, k * k), weight(o, c, 1, c), channels_last(n, o, y, x, dtype=dtype)]
        skips = min(skips, 1)
    elif unit == "separable_unit":
        args += [weight(c, 1, k, k * k), weight(o, c, 1, c)]
    elif unit == "bottleneck_unit":
        args += [weight(middle, c, 1, c), torch.randn(middle), weight(o, middle, k, middle * k * k)]
    else:
        args.append(weight(o, c, k, c * k * k))
    added = tuple(channels_last(n, o, sides * y, sides * x, dtype=dtype) for _ in range(skips))
    options: dict[str, Any] = {"skips": added}
    if unit in WITH_SHORTCUT:
        options["shortcut"] = weight(o, c, 1, c) if shortcut else None
    return args, options


def double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(double(v) for v in value)
    return value.double() if isinstance(value, Tensor) else value


def expected(unit: str, args: list[Any], options: dict[str, Any]) -> Tensor:
    wide = {name: double(value) for name, value in options.items()}
    result: Tensor = getattr(ops, unit)(*map(double, args), **wide, backend="eager")
    return result


def call(unit: str, args: list[Any], options: dict[str, Any]) -> Tensor:
    result: Tensor = getattr(ops, unit)(*args, **options, backend="cpu")
    return result


def check(unit: str, args: list[Any], options: dict[str, Any]) -> None:
    y, wide = call(unit, args, options), expected(unit, args, options)
    assert y.dtype == args[0].dtype
    assert y.shape == wide.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y.double() - wide).abs().max() <= TOLERANCE[y.dtype] * wide.abs().max()


@pytest.mark.parametrize("dtype", FLOAT32 + BFLOAT16 + WIDENED, indirect=True)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(dtype: torch.dtype, unit: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for prologue, shortcut, skips in OPTIONS:
        if unit in WITH_SHORTCUT or not shortcut:
            check(unit, *arguments(unit, size, dtype=dtype, prologue=prologue, shortcut=shortcut, skips=skips))


@pytest.mark.parametrize("dtype", FLOAT32 + BFLOAT16 + WIDENED, indirect=True)
@pytest.mark.parametrize("shape", [(2, 5, 7, 8), (1, 33, 9, 6), (3, 48, 128, 3)], ids=str)
def test_pooling(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = channels_last(*shape, dtype=dtype)
    x[0, 1, 2, 2], x[0, :, :, 1] = float("nan"), float("-inf")
    for kernel, stride in ((2, (2, 2)), (3, (2, 2)), (2, (1, 2)), (3, (2, 1))):
        expected = ops.pooling_unit(x, kernel, stride, backend="eager")
        assert expected.isnan().any()
        pooled = ops.pooling_unit(x, kernel, stride, backend="cpu")
        torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOAT32 + BFLOAT16 + WIDENED, indirect=True)
@pytest.mark.parametrize("shape", [(2, 5, 7, 8), (1, 33, 9, 6), (3, 48, 128, 3)], ids=str)
def test_extremes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = channels_last(*shape, dtype=dtype)
    x[0, 1, 2, 2], x[0, 0, :, 1] = float("nan"), float("inf")
    for kernel, stride in ((2, (2, 2)), (3, (2, 2)), (2, (1, 2)), (max(shape), shape[2:])):
        expected = ops.extremes_unit(x.double(), kernel, stride, backend="eager")
        assert expected.isnan().any()
        found = ops.extremes_unit(x, kernel, stride, backend="cpu")
        torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0, equal_nan=True)
    whole = ops.extremes_unit(x, max(shape), shape[2:], backend="cpu")
    torch.testing.assert_close(whole[..., 0, 0], x.amax(dim=(2, 3)) + x.amin(dim=(2, 3)), equal_nan=True)


@pytest.mark.parametrize("dtype", FLOAT32 + BFLOAT16 + WIDENED, indirect=True)
@pytest.mark.parametrize("shape", [(2, 5, 7, 8), (1, 33, 1, 1), (3, 48, 64, 3)], ids=str)
def test_upsampling(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = channels_last(*shape, dtype=dtype)
    y = ops.upsampling_unit(x, backend="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


@pytest.mark.parametrize("dtype", FLOAT32 + BFLOAT16 + WIDENED, indirect=True)
@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "stride"),
    [
        ((2, 3, 32, 40), 64, 7, (2, 2)),
        ((1, 3, 9, 7), 5, 7, (2, 2)),  # odd sides, a picture no larger than the kernel
        ((3, 1, 6, 50), 33, 3, (1, 2)),
        ((1, 5, 70, 4), 48, 5, (3, 1)),
        ((2, 4, 5, 5), 16, 1, (2, 2)),  # rows that no window reads
    ],
    ids=str,
)
def test_stem(dtype: torch.dtype, shape: tuple[int, ...], outputs: int, kernel: int, stride: tuple[int, int]) -> None:
    torch.manual_seed(0)
    frames = torch.rand(shape) * 2 - 1
    weight = (torch.randn(outputs, shape[1], kernel, kernel) / (shape[1] * kernel**2) ** 0.5).to(dtype)
    y = ops.stem_unit(frames, weight, stride, backend="cpu")
    wide = ops.stem_unit(frames.to(dtype).double(), weight.double(), stride, backend="eager")
    assert y.dtype == dtype
    assert y.shape == wide.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y.double() - wide).abs().max() <= TOLERANCE[dtype] * wide.abs().max()


@pytest.mark.parametrize("dtype", FLOAT32, indirect=True)
def test_winograd_loses_no_more_than_a_plain_sum_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    args, options = arguments("bottleneck_unit", (1, 96, 192, 16, 16, 3), dtype=dtype, prologue=False)
    wide = expected("bottleneck_unit", args, options)
    error = call("bottleneck_unit", args, options).double() - wide
    assert error.square().mean().sqrt() < 1e-6 * wide.square().mean().sqrt()


@pytest.mark.parametrize("unit", UNITS)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, unit: str) -> None:
    torch.manual_seed(3)
    before = torch.get_num_threads()
    try:
        for size in ((3, 48, 64, 17, 32, 3), (5, 64, 50, 4, 4, 5), (1, 96, 160, 8, 8, 3)):
            args, options = arguments(unit, size, dtype=dtype, shortcut=unit in WITH_SHORTCUT, skips=1)
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(call(unit, args, options))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("unit", UNITS)
def test_a_picture_does_not_depend_on_the_batch_it_is_in(dtype: torch.dtype, unit: str) -> None:
    torch.manual_seed(4)
    args, options = arguments(unit, (5, 20, 24, 9, 11, 3), dtype=dtype, shortcut=unit in WITH_SHORTCUT, skips=1)
    whole = call(unit, args, options)
    for n in range(5):
        one = [args[0][n : n + 1], *args[1:]]
        if unit == "upscaling_unit":
            one[-1] = one[-1][n : n + 1]
        alone = call(unit, one, options | {"skips": (options["skips"][0][n : n + 1],)})
        assert torch.equal(alone, whole[n : n + 1])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_picture(dtype: torch.dtype, unit: str, value: float) -> None:
    torch.manual_seed(5)
    args, options = arguments(unit, (4, 20, 24, 5, 6, 3), dtype=dtype, prologue=False)
    args[0][1, 3, 2, 2] = value
    y = call(unit, args, options)
    assert not y[1].isfinite().all()
    assert y[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("unit", UNITS)
def test_working_memory_is_cleared_of_what_was_no_number(dtype: torch.dtype, unit: str) -> None:
    """Channels are filled up to what a product reads at once: zeros times what an earlier call left would stay NaN."""
    torch.manual_seed(8)
    for channels in (5, 20, 40):
        large, options = arguments(unit, (1, 64, 64, 16, 16, 3), dtype=dtype)
        large[0].fill_(float("nan"))
        assert call(unit, large, options).isnan().all()
        check(unit, *arguments(unit, (1, channels, 24, 5, 6, 3), dtype=dtype))


@pytest.mark.parametrize("unit", UNITS)
def test_the_prologue_keeps_what_is_no_number(dtype: torch.dtype, unit: str) -> None:
    torch.manual_seed(6)
    args, options = arguments(unit, (1, 20, 24, 1, 1, 1), dtype=dtype)
    args[0][0, 7] = float("nan")
    assert call(unit, args, options).isnan().all()


@pytest.mark.parametrize("unit", UNITS)
def test_empty_batches(dtype: torch.dtype, unit: str) -> None:
    args, options = arguments(unit, (0, 20, 24, 5, 6, 3), dtype=dtype, skips=1)
    assert call(unit, args, options).shape == (0, 24, *((10, 12) if unit == "upscaling_unit" else (5, 6)))


@pytest.mark.parametrize("unit", UNITS)
def test_maps_in_any_order(unit: str) -> None:
    torch.manual_seed(7)
    args, options = arguments(unit, (2, 20, 24, 5, 6, 3), skips=2)
    y = call(unit, args, options)
    planar = [args[0].contiguous(), *args[1:]]
    first, *rest = options["skips"]
    strided = (first.contiguous(), *(torch.stack([skip] * 2, -1)[..., 0] for skip in rest))
    assert torch.equal(call(unit, planar, options | {"skips": strided}), y)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_is_written_beside_the_output(unit: str, dtype: torch.dtype) -> None:
    for outputs in (7, 24, 50):
        args, options = arguments(unit, (2, 20, outputs, 5, 6, 3), dtype=dtype)
        sides = (10, 12) if unit == "upscaling_unit" else (5, 6)
        whole = torch.full((4, outputs, *sides), 7.0, dtype=dtype).contiguous(memory_format=torch.channels_last)
        rest = (options["shortcut"], options["skips"]) if unit in WITH_SHORTCUT else (options["skips"],)
        getattr(cpu, unit)(*args, *rest, whole[1:3])
        assert (whole[[0, 3]] == 7).all()
        assert torch.equal(whole[1:3], call(unit, args, options))


def test_weights_are_packed_once_and_again_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Tensor] = []

    def matrices(weights: Tensor, form: Any, pack: Callable[[Tensor, Any], Tensor] = cpu_units._matrices) -> Tensor:
        packed.append(weights)
        return pack(weights, form)

    monkeypatch.setattr(cpu_units, "_matrices", matrices)
    args, options = arguments("convolution_unit", (1, 20, 24, 2, 3, 1))
    first = call("convolution_unit", args, options)
    assert torch.equal(call("convolution_unit", args, options), first)
    assert len(packed) == 1
    args[3].mul_(2)
    assert torch.equal(call("convolution_unit", args, options), 2 * first)
    assert len(packed) == 2
    weight = args.pop()
    assert weight in cpu_units._kept
    kept = len(cpu_units._kept)
    del weight
    packed.clear()
    assert len(cpu_units._kept) == kept - 1


def test_weights_without_a_version_are_packed_at_every_call() -> None:
    with torch.inference_mode():
        args, options = arguments("separable_unit", (1, 20, 24, 2, 3, 3), shortcut=True)
        first = call("separable_unit", args, options)
        args[4].mul_(2)
        options["shortcut"].mul_(2)
        assert torch.equal(call("separable_unit", args, options), 2 * first)


@pytest.mark.parametrize("unit", UNITS)
def test_plain_pytorch_serves_where_a_gradient_is_wanted(unit: str) -> None:
    args, options = arguments(unit, (1, 20, 24, 2, 3, 3))
    args[3].requires_grad_()
    with pytest.raises(UserError, match="gradient"):
        call(unit, args, options)
    getattr(ops, unit)(*args, **options).sum().backward()
    assert args[3].grad is not None
    with torch.no_grad():
        assert call(unit, args, options).shape == (1, 24, *((4, 6) if unit == "upscaling_unit" else (2, 3)))


def test_float64_is_refused() -> None:
    x, weight = torch.randn(1, 4, 2, 2, dtype=torch.float64), torch.randn(3, 4, 1, 1, dtype=torch.float64)
    with pytest.raises(UserError, match="maps have type"):
        ops.convolution_unit(x, None, None, weight, backend="cpu")
