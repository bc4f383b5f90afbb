"""Depthwise convolution on the CPU: values and gradients of every instruction set against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pyhar import ops
from pyhar.errors import UserError
from pyhar.kernels import native

NATIVE = native.load()
# Those called after bfloat16 differ in the convolution units alone.
ISAS = [] if NATIVE is None else [isa for isa in NATIVE.cpu_isas() if not isa.endswith(("_bf16", "_vnni"))]
needs_native = pytest.mark.skipif(NATIVE is None, reason=f"native module missing: {native.why_missing()}")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    assert NATIVE is not None
    before = NATIVE.cpu_isa()
    NATIVE.use_cpu_isa(request.param)
    yield request.param
    NATIVE.use_cpu_isa(before)


def case(b: int, c: int, y: int, x: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, float32 weights (float64 for float64 maps) and an upstream gradient."""
    generator = torch.Generator().manual_seed(c * 100 + k)
    maps, g = (torch.randn(b, c, y, x, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(c, 1, k, k, generator=generator, dtype=torch.float64)
    layout = torch.channels_last
    return (
        maps.to(dtype).contiguous(memory_format=layout),
        weight.to(torch.promote_types(dtype, torch.float32)),
        g.to(dtype).contiguous(memory_format=layout),
    )


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert error <= TOLERANCE[dtype], error


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2, 32, 12, 12, 5), (3, 40, 7, 9, 3), (1, 5, 1, 1, 5), (17, 33, 3, 5, 5), (2, 16, 70, 33, 7), (1, 64, 2, 2, 9)],
)
def test_values_and_gradients_are_those_of_the_definition(
    isa: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    x, weight, g = case(*shape, dtype)
    x.requires_grad_()
    weight.requires_grad_()
    y = ops.depthwise_conv(x, weight, backend="cpu")
    assert y.dtype == dtype
    d_x, d_weight = torch.autograd.grad(y, (x, weight), g)
    wide_x, wide_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    expected = ops.depthwise_conv(wide_x, wide_weight, backend="eager")
    e_x, e_weight = torch.autograd.grad(expected, (wide_x, wide_weight), g.double())
    assert_near(y.detach(), expected.detach(), dtype)
    assert_near(d_x, e_x, dtype)
    assert_near(d_weight, e_weight, weight.dtype)


@needs_native
def test_bits_do_not_depend_on_threads() -> None:
    x, weight, g = case(20, 70, 13, 11, 5, torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            y = ops.depthwise_conv(*leaves, backend="cpu")
            found.append((y.detach(), *torch.autograd.grad(y, leaves, g)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)


@needs_native
def test_second_derivatives_slices_and_empty_batches() -> None:
    x, weight, _ = case(2, 6, 5, 4, 3, torch.float64)
    leaves = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: ops.depthwise_conv(*a, backend="cpu"), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: ops.depthwise_conv(*a, backend="cpu"), leaves)
    part = x.detach()[1:, 2:5, 1:4, :]
    torch.testing.assert_close(
        ops.depthwise_conv(part, weight[2:5], backend="cpu"), ops.depthwise_conv(part, weight[2:5], backend="eager")
    )
    empty = x.detach()[:0].requires_grad_()
    y = ops.depthwise_conv(empty, weight, backend="cpu")
    assert y.shape == empty.shape
    assert torch.equal(torch.autograd.grad(y.sum(), weight)[0], torch.zeros_like(weight))


@needs_native
def test_a_nan_stays_in_its_picture_and_channel() -> None:
    x, weight, _ = case(2, 40, 8, 8, 5, torch.float32)
    x[1, 3, 4, 4] = float("nan")
    y = ops.depthwise_conv(x, weight, backend="cpu")
    assert y[1, 3].isnan().any()
    y[1, 3] = 0
    assert y.isfinite().all()


@needs_native
def test_tracing_and_transforms_see_plain_pytorch() -> None:
    x, weight, _ = case(2, 8, 6, 6, 3, torch.float32)
    expected = ops.depthwise_conv(x, weight, backend="eager")
    torch.testing.assert_close(torch.func.vmap(lambda one: ops.depthwise_conv(one[None], weight)[0])(x), expected)
    graph = torch.export.export(_Module(weight), (x,)).module()
    torch.testing.assert_close(graph(x), expected)
    with pytest.raises(UserError, match="channels_last"):
        ops.depthwise_conv(x.contiguous(), weight, backend="cpu")


@needs_native
def test_batched_gradients_and_lazy_negations() -> None:
    x, weight, g = (t.requires_grad_(i < 2) for i, t in enumerate(case(2, 8, 6, 6, 3, torch.float64)))
    many = torch.stack([g, -g])
    found = [
        torch.autograd.grad(ops.depthwise_conv(x, weight, backend=backend), (x, weight), many, is_grads_batched=True)
        for backend in (None, "eager")
    ]
    torch.testing.assert_close(*found)
    negated = [torch.autograd.grad(ops.depthwise_conv(x, weight), x, t)[0] for t in (-g, torch._neg_view(g))]
    torch.testing.assert_close(*negated)


class _Module(torch.nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return ops.depthwise_conv(x, self.weight)


def test_autocast_takes_maps_in_its_type() -> None:
    x, weight, _ = case(2, 8, 6, 6, 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.depthwise_conv(x, weight)
    assert y.dtype == torch.bfloat16
    assert_near(y, ops.depthwise_conv(x.bfloat16().double(), weight.double()), torch.bfloat16)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.ones(8, 1, 2, 2), ValueError, r"weight: expected shape \(8, 1, k, k\) with odd k"),
        (torch.ones(7, 1, 3, 3), ValueError, "weight: expected shape"),
        (torch.ones(8, 1, 3, 3, dtype=torch.int32), TypeError, "weight: expected a floating-point tensor"),
        (None, TypeError, r"weight: expected a tensor \(C, 1, k, k\), got NoneType"),
    ],
)
def test_wrong_weights_are_named(weight: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.depthwise_conv(torch.ones(1, 8, 4, 4), weight)
