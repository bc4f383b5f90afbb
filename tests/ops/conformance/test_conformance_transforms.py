"""The operators under differentiation, autocast, compilation, export and vmap."""

from __future__ import annotations

import io
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checks import OPERATORS, call, flat
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pyhar import ops
from pyhar.ops import compiled, native_calls

SMALL = [(3, 5)]
SHAPES = [(1, 1), (1, 4), *SMALL]  # (Y, X)


@pytest.mark.parametrize("confidence", ["max", "window"])
def test_gradients_and_second_derivatives(
    confidence: str, backend: str, shape: tuple[int, int], make_inputs: Any, device: str, is_slow: bool
) -> None:
    y, x = shape
    inputs = make_inputs(b=2, j=2, c=2, y=y, x=x, dtype=torch.float64, scale=1.0)
    inputs.logits[0, 0, 0, 1:] = -torch.inf  # a mask has no gradient, first or second
    beta = torch.tensor([0.7, 1.4], dtype=torch.float64, device=device)

    def function(logits: Tensor, features: Tensor, depth: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        return flat(
            ops.decode_pose_and_appearance(
                logits, features, depth, beta=beta, grid="ndc_centers", confidence=confidence, backend=backend
            )
        )

    arguments = tuple(t.clone().requires_grad_() for t in (*inputs, beta))
    assert gradcheck(function, arguments, fast_mode=is_slow)
    assert gradgradcheck(function, arguments, fast_mode=is_slow)


def test_second_derivatives_of_the_single_operators(backend: str, make_inputs: Any, is_slow: bool) -> None:
    logits, features, _ = make_inputs(b=1, j=2, c=2, y=3, x=4, dtype=torch.float64, scale=1.0).leaves()
    for function, arguments in (
        (lambda h: ops.spatial_softmax(h, beta=2.0, backend=backend), (logits,)),
        (lambda h: ops.soft_argmax(h, backend=backend), (logits,)),
        (lambda h: ops.expectation(h, backend=backend), (logits,)),
        (lambda h, f: ops.pool_appearance(h, f, backend=backend), (logits, features)),
        (lambda h, f: ops.pool_appearance_from_probs(h, f, backend=backend), (logits, features)),
    ):
        assert gradcheck(function, arguments, fast_mode=is_slow)
        assert gradgradcheck(function, arguments, fast_mode=is_slow)


@pytest.mark.parametrize("autocast_type", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(autocast_type: torch.dtype, backend: str, make_inputs: Any, device: str) -> None:
    inputs = make_inputs(y=32, x=32)
    expected = flat(ops.decode_pose_and_appearance(*inputs, backend=backend))
    leaves = inputs.leaves()
    with torch.autocast(device, autocast_type):
        actual = flat(ops.decode_pose_and_appearance(*leaves, backend=backend))
        assert torch.is_autocast_enabled(device)
    for value, reference in zip(actual, expected, strict=True):
        assert torch.equal(value, reference)
    sum(t.sum() for t in actual).backward()
    assert all(t.grad.dtype == torch.float32 for t in leaves)


def test_compile_with_dynamic_shapes_as_one_graph(backend: str, make_inputs: Any, device: str) -> None:
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def function(logits: Tensor, features: Tensor, depth: Tensor, beta: Tensor) -> Any:
        return ops.decode_pose_and_appearance(
            logits, features, depth, beta=beta, grid="centers", confidence="window", backend=backend
        )

    for y, x, layout in ((7, 9, "contiguous"), (8, 6, "contiguous"), (12, 5, "channels_last")):
        inputs = make_inputs(b=y, y=y, x=x, layout=layout).leaves()
        beta = torch.tensor([0.5, 1.0, 2.0], requires_grad=True, device=device)
        plain = inputs.leaves()
        plain_beta = beta.detach().clone().requires_grad_()
        actual = flat(function(*inputs, beta))
        expected = flat(
            ops.decode_pose_and_appearance(
                *plain, beta=plain_beta, grid="centers", confidence="window", backend=backend
            )
        )
        torch.testing.assert_close(actual, expected)
        sum(t.sum() for t in actual).backward()
        sum(t.sum() for t in expected).backward()
        for ours, theirs in zip((*inputs, beta), (*plain, plain_beta), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, which torch.compile needs on the CPU")
def test_compile_with_static_shapes_to_native_code(backend: str, make_inputs: Any) -> None:
    logits, _, depth = make_inputs()

    @torch.compile(fullgraph=True, dynamic=False)
    def function(logits: Tensor, depth: Tensor) -> Any:
        return ops.decode_pose(logits, depth, beta=1.5, backend=backend)

    torch.testing.assert_close(
        tuple(function(logits, depth)), tuple(ops.decode_pose(logits, depth, beta=1.5, backend=backend))
    )


def test_compiled_code_follows_the_backend_asked_for(make_inputs: Any) -> None:
    logits = make_inputs().logits
    compiled = torch.compile(ops.soft_argmax, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), ops.soft_argmax(logits))
    with ops.use_backend("eager"):
        torch.testing.assert_close(compiled(logits), ops.soft_argmax(logits))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(logits), ops.soft_argmax(logits))


def test_export_with_dynamic_sizes(backend: str, make_inputs: Any) -> None:
    class Decoder(torch.nn.Module):
        def forward(self, logits: Tensor, features: Tensor, depth: Tensor) -> Any:
            return ops.decode_pose_and_appearance(
                logits, features, depth, beta=2.0, confidence="window", backend=backend
            )

    dims = {0: torch.export.Dim("b"), 2: torch.export.Dim("y", min=3), 3: torch.export.Dim("x", min=3)}
    program = torch.export.export(Decoder(), tuple(make_inputs()), dynamic_shapes=(dims, dims, dims))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert (f"pyhar.{backend}_decode.default" in called) == (backend != "eager")
    inputs = make_inputs(b=5, y=12, x=6)
    torch.testing.assert_close(flat(program.module()(*inputs)), flat(Decoder()(*inputs)))
    torch.export.save(program, file := io.BytesIO())
    pose, _ = torch.export.load(file).module()(*inputs)
    assert isinstance(pose, ops.DecodedPose)


def test_vmap(backend: str, make_inputs: Any, device: str) -> None:
    inputs = make_inputs(b=6)
    beta = torch.tensor([0.5, 1.0, 2.0], device=device)

    def function(logits: Tensor, features: Tensor, depth: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        return flat(ops.decode_pose_and_appearance(logits, features, depth, beta=beta, backend=backend))

    batched = torch.func.vmap(function)(*(t.unflatten(0, (3, 2)) for t in inputs), beta)
    for i, part in enumerate(zip(*(t.split(2) for t in inputs), strict=True)):
        torch.testing.assert_close(tuple(t[i] for t in batched), function(*part, beta[i]))


def test_gradients_per_sample(backend: str, make_inputs: Any) -> None:
    """vmap over a functional gradient, which runs the backward pass batched."""
    logits, features, _ = make_inputs(b=3)

    def loss(logits: Tensor, features: Tensor) -> Tensor:
        return ops.pool_appearance(logits[None], features[None], backend=backend).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss))(logits, features)
    leaf = logits.clone().requires_grad_()
    sum(loss(leaf[i], features[i]) for i in range(3)).backward()
    torch.testing.assert_close(grads, leaf.grad)


def test_vmap_over_nothing(backend: str, make_inputs: Any) -> None:
    logits = make_inputs(b=2).logits.expand(0, 2, 3, 7, 9)
    assert torch.func.vmap(lambda h: ops.soft_argmax(h, backend=backend))(logits).shape == (0, 2, 3, 2)


def test_a_pullback_outlives_its_transform(backend: str, make_inputs: Any) -> None:
    leaf = make_inputs().logits.requires_grad_()
    xy, pull = torch.func.vjp(lambda h: ops.soft_argmax(h, backend=backend), leaf.detach())
    (expected,) = torch.autograd.grad(ops.soft_argmax(leaf, backend="eager"), leaf, xy)
    torch.testing.assert_close(pull(xy)[0], expected)


def test_batched_gradients(backend: str, make_inputs: Any) -> None:
    inputs = make_inputs(b=1, j=2, c=2, y=3, x=4).leaves()

    def gradients(backend: str) -> tuple[Tensor, ...]:
        outputs = flat(ops.decode_pose_and_appearance(*inputs, backend=backend))
        many = [torch.stack([t.detach(), torch.ones_like(t)]) for t in outputs]
        return torch.autograd.grad(outputs, inputs, many, is_grads_batched=True)

    torch.testing.assert_close(gradients(backend), gradients("eager"))


def test_lazy_negations_are_seen(backend: str, make_inputs: Any, device: str) -> None:
    """PyTorch puts off some negations (of the imaginary part of a conjugate): memory holds the other sign."""
    beta = torch.tensor([0.5, 1.0, 2.0], device=device)
    values = [*make_inputs(), beta]
    plain = [(-value).requires_grad_() for value in values]
    lazy = [torch._neg_view(value).requires_grad_() for value in values]
    for value, other in zip(plain, lazy, strict=True):
        assert other.is_neg()
        assert torch.equal(value, other)

    def run(logits: Tensor, features: Tensor, depth: Tensor, beta: Tensor, lazy: bool) -> tuple[Tensor, ...]:
        outputs = (
            *flat(ops.decode_pose_and_appearance(logits, features, depth, beta=beta, backend=backend)),
            ops.spatial_softmax(logits, beta=beta, backend=backend),
        )
        negate = torch._neg_view if lazy else torch.neg
        grads = torch.autograd.grad(outputs, (logits, features, depth, beta), [negate(t.detach()) for t in outputs])
        return *outputs, *grads

    torch.testing.assert_close(run(*lazy, lazy=True), run(*plain, lazy=False))


def test_zeros_without_memory_are_zeros(backend: str, make_inputs: Any, device: str) -> None:
    """PyTorch's own derivatives make tensors that are known to be zero and have no memory."""
    inputs = make_inputs()

    def run(logits: Tensor, make: Any) -> tuple[Tensor, ...]:
        zeros = [make(tuple(value.shape), dtype=value.dtype, device=device) for value in inputs[1:]]
        outputs = flat(ops.decode_pose_and_appearance(logits, *zeros, backend=backend))
        leaf = inputs[0].clone().requires_grad_()
        probs = ops.spatial_softmax(leaf, backend=backend)
        (grad,) = torch.autograd.grad(probs, leaf, make(tuple(probs.shape), dtype=probs.dtype, device=device))
        return *outputs, grad

    lazy, plain = torch._efficientzerotensor, torch.zeros
    torch.testing.assert_close(run(inputs[0], lazy), run(inputs[0], plain))
    shape = tuple(inputs[0].shape)
    torch.testing.assert_close(run(lazy(shape, device=device), lazy), run(plain(shape, device=device), plain))


def test_a_functional_gradient_inside_a_compiled_function(make_inputs: Any) -> None:
    logits = make_inputs().logits

    def function(logits: Tensor) -> Tensor:
        return torch.func.grad(lambda h: ops.soft_argmax(h).square().sum())(logits)

    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(logits), function(logits))


def test_inference_mode_leaves_nothing_behind(backend: str, make_inputs: Any) -> None:
    logits = make_inputs(y=11, x=13).logits
    with torch.inference_mode():
        expected = ops.soft_argmax(logits, backend=backend).clone()
    leaf = logits.clone().requires_grad_()
    actual = ops.soft_argmax(leaf, backend=backend)
    actual.sum().backward()
    assert torch.equal(actual.detach(), expected)
    assert leaf.grad.isfinite().all()


def library_calls(backend: str, inputs: Any, device: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every operator of a backend with arguments it may be given."""
    logits, features, depth = inputs
    namespace = torch.ops.pyhar
    softmax, softmax_backward, decode, decode_backward = (
        getattr(namespace, f"{backend}_{name}").default
        for name in ("softmax", "softmax_backward", "decode", "decode_backward")
    )
    beta = torch.rand(logits.shape[:2], device=device, dtype=logits.dtype).requires_grad_()
    maps, stats = softmax(logits.detach(), beta.detach(), 1.0)
    none = logits.detach().new_empty(0)
    pose = (logits, None, depth, None, 2.0, "unit", "window", False)
    full = (logits, features, depth, beta, 1.0, "corners", "max", False)
    probs = (logits, features, None, None, 1.0, "pixels", None, True)
    xy, z, _, _, plain_stats = (t.detach() for t in decode(*pose))
    full_xy, full_z, confidence, appearance, full_stats = (t.detach() for t in decode(*full))
    g_xy, g_z, g_confidence, g_appearance = (torch.rand_like(t) for t in (xy, z, confidence, appearance))
    every, few = (g_xy, g_z, g_confidence, g_appearance), (g_xy, None, g_confidence, None)
    return [
        (softmax, (logits, beta, 1.0)),
        (softmax, (logits, None, 2.0)),
        (softmax_backward, (logits, beta, 1.0, stats, maps, torch.rand_like(logits), [True, True])),
        (decode, full),
        (decode, pose),
        (decode, probs),
        (decode_backward, (*full, full_stats, full_xy, full_z, *every, [True, True, True, True])),
        (decode_backward, (*pose, plain_stats, xy, z, *few, [True, False, True, False])),
        (decode_backward, (*probs, none, None, None, None, None, None, g_appearance, [False, True, False, False])),
    ]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(layout: str, compiled_backend: str, make_inputs: Any, device: str) -> None:
    inputs = make_inputs(y=4, x=5, layout=layout).leaves()
    # Strides are a matter of the schema and of the fake operator; the rest does not see them.
    checks = ["test_schema", "test_faketensor"]
    if layout == "contiguous":
        checks += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    for operator, arguments in library_calls(compiled_backend, inputs, device):
        torch.library.opcheck(operator, arguments, test_utils=checks)


def test_the_backend_asked_for_is_the_one_that_runs(
    compiled_backend: str, make_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operator reaches the launchers of its backend, forward and backward, and no other backend's."""
    ran = []
    for name, kernels in compiled.KERNELS.items():
        spies = {
            function: spy(getattr(kernels, function), (name, function), ran)
            for function in ("softmax_forward", "softmax_backward", "decode_forward", "decode_backward")
        }
        monkeypatch.setitem(
            compiled.KERNELS,
            name,
            SimpleNamespace(why_unusable=kernels.why_unusable, why_not=kernels.why_not, **spies),
        )
    for operator in OPERATORS:
        ran.clear()
        inputs = make_inputs().leaves()
        with native_calls.set_aside():
            outputs = call(operator, inputs, compiled_backend)
            torch.autograd.grad(sum(o.sum() for o in outputs.values()), inputs.logits)
        kind = "softmax" if operator == "spatial_softmax" else "decode"
        assert ran == [(compiled_backend, f"{kind}_forward"), (compiled_backend, f"{kind}_backward")], operator


def spy(function: Any, name: tuple[str, str], ran: list[tuple[str, str]]) -> Any:
    def spied(*args: Any) -> None:
        ran.append(name)
        function(*args)

    return spied


def test_a_network_compiled_for_a_backend_uses_it(compiled_backend: str, make_inputs: Any) -> None:
    logits = make_inputs().logits
    graphs = []

    def look(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.graph)
        return graph.forward

    with ops.use_backend(compiled_backend):
        torch.compile(ops.soft_argmax, fullgraph=True, backend=look)(logits)
    assert f"{compiled_backend}_decode" in str(graphs[0])
