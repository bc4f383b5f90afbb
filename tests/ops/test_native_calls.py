"""Calls that go to the C++ kernels without Python: which they are, and that autograd sees them as it sees others.

Their values and gradients are those of the conformance suite's backend "cpu".
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from pyhar import ops
from pyhar.kernels import cpu
from pyhar.ops import native_calls

pytestmark = pytest.mark.skipif(
    native_calls.why_missing() is not None, reason=f"pyhar._autograd: {native_calls.why_missing()}"
)


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, graph: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape or (2, 3, 5, 7), generator=generator, dtype=torch.float64).to(dtype)
    return values.requires_grad_(graph)


def served(logits: Any, *, beta: Any = 1.0, backend: Any = None, features: Any = None, depth: Any = None) -> bool:
    """Whether both functions of the module serve the call; they agree."""
    decoded = native_calls.decode(backend, logits, features, depth, beta, False, "corners", "max") is not None
    if features is None and depth is None:
        assert decoded == (native_calls.softmax(backend, logits, beta) is not None)
    return decoded


# --- which calls are served


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_plain_calls_are_served(dtype: torch.dtype) -> None:
    logits, features = maps(dtype=dtype), maps(2, 4, 5, 7)
    for beta in (1.0, 2, torch.tensor(0.5), torch.ones(1), torch.ones(3, dtype=torch.float64)):
        assert served(logits, beta=beta, features=features, depth=logits)
        assert served(logits, beta=beta)
    assert served(logits, backend="cpu")
    assert served(torch.nn.Parameter(logits))
    assert served(logits[:0])
    assert served(logits.transpose(2, 3))
    with torch.inference_mode():
        assert served(logits)
        assert served(logits.clone())
    with ops.use_backend("cpu"):
        assert served(logits)


def test_another_backend_is_left_to_dispatch() -> None:
    for backend in ("eager", "triton", "nonsense", 3, ""):
        assert not served(maps(), backend=backend)
    with ops.use_backend("eager"):
        assert not served(maps())
        assert served(maps(), backend="cpu")


class Subclass(torch.Tensor):
    pass


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


WRONG: dict[str, Callable[[], dict[str, Any]]] = {
    "no tensor": lambda: {"logits": [1.0]},
    "nothing": lambda: {"logits": None},
    "integers": lambda: {"logits": maps().long()},
    "three dimensions": lambda: {"logits": maps()[0]},
    "no rows": lambda: {"logits": maps()[:, :, :0]},
    "no joints": lambda: {"logits": maps()[:, :0]},
    "another device": lambda: {"logits": maps().to("meta")},
    "another layout": lambda: {"logits": maps().to_sparse()},
    "depth of another shape": lambda: {"depth": maps(2, 3, 5, 6)},
    "features of another plane": lambda: {"features": maps(2, 3, 5, 6)},
    "features of another batch": lambda: {"features": maps(1, 3, 5, 7)},
    "beta of another length": lambda: {"beta": torch.ones(2)},
    "beta of two dimensions": lambda: {"beta": torch.ones(2, 3)},
    "an integer tensor for beta": lambda: {"beta": torch.ones(3, dtype=torch.int64)},
    "an infinite beta": lambda: {"beta": float("inf")},
    "a large integer for beta": lambda: {"beta": 10**400},
    "no beta": lambda: {"beta": None},
    "a truth value for beta": lambda: {"beta": True},
    "a text for beta": lambda: {"beta": "1"},
    "a subclass": lambda: {"logits": maps().as_subclass(Subclass)},
    "a negation put off": lambda: {"logits": torch._neg_view(maps())},
    "zeros without memory": lambda: {"logits": torch._efficientzerotensor((2, 3, 5, 7))},
    "memory that was given back": lambda: {"logits": without_memory()},
}


def without_memory() -> Tensor:
    tensor = maps()
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_or_unusual_is_not_served_and_leaves_no_error(kind: str) -> None:
    assert not served(**({"logits": maps()} | WRONG[kind]()))


@pytest.mark.parametrize("names", [("nonsense",), (None,), (3,), ("",), ("corners", "nonsense"), ("corners", None)])
def test_unknown_names_are_not_served(names: tuple[Any, ...]) -> None:
    assert native_calls.decode(None, maps(), None, None, 1.0, False, *names) is None


def traced(call: Callable[[Tensor], Any]) -> None:
    torch.jit.trace(lambda x: (call(x), x + 1)[1], maps(), check_trace=False)


DISTURBED: dict[str, Callable[[Callable[[Tensor], Any]], Any]] = {
    "vmap": lambda call: torch.vmap(lambda x: (call(x), x)[1])(maps(2, 2, 3, 5, 7)),
    "vmap over another": lambda call: beside(maps(), call),
    "grad": lambda call: torch.func.grad(lambda x: (call(x), x.sum())[1])(maps()),
    "autocast": lambda call: inside(torch.autocast("cpu", torch.bfloat16), call),
    "a mode": lambda call: inside(Watching(), call),
    "a trace": traced,
}


def beside(other: Tensor, call: Callable[[Tensor], Any]) -> None:
    torch.vmap(lambda x: (call(other), x)[1])(maps(2, 2, 3, 5, 7))


def inside(context: AbstractContextManager[Any], call: Callable[[Tensor], Any]) -> None:
    with context:
        call(maps())


@pytest.mark.parametrize("kind", DISTURBED)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_what_watches_or_transforms_is_not_passed_by(kind: str) -> None:
    seen: list[bool] = []
    DISTURBED[kind](lambda x: seen.append(served(x)))
    assert seen
    assert not any(seen)
    assert served(maps())


def test_tangents_are_not_passed_by() -> None:
    with forward_ad.dual_level():
        assert not served(forward_ad.make_dual(maps(), maps()))
        assert not served(maps(), beta=forward_ad.make_dual(torch.ones(3), torch.ones(3)))


def test_a_compiler_sees_the_operator_whole() -> None:
    graphs: list[str] = []

    def look(graph: Any, inputs: Any) -> Any:
        graphs.append(str(graph.graph))
        return graph.forward

    found = torch.compile(ops.soft_argmax, fullgraph=True, backend=look)(maps())
    assert "cpu_decode" in graphs[0]
    assert torch.equal(found, ops.soft_argmax(maps()))


# --- autograd


def everything(logits: Tensor, features: Tensor, depth: Tensor, beta: Any = 1.5) -> tuple[Tensor, ...]:
    pose, appearance = ops.decode_pose_and_appearance(logits, features, depth, beta=beta)
    assert pose.z is not None
    return pose.xy, pose.z, pose.confidence, appearance, ops.spatial_softmax(logits, beta=beta)


def weighted(outputs: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([(o.double().sin() * (i + 1)).sum() for i, o in enumerate(outputs)]).sum()


@pytest.mark.parametrize("wanted", range(1, 16))
def test_gradients_of_any_of_the_inputs_are_those_of_the_longer_way(wanted: int) -> None:
    """Bit for bit: the kernels are the same."""

    def gradients() -> tuple[Tensor, ...]:
        values = (maps(), maps(2, 4, 5, 7, seed=1), maps(seed=2), maps(3, seed=3))
        inputs = [v.requires_grad_(bool(wanted >> i & 1)) for i, v in enumerate(values)]
        loss = weighted(everything(*inputs))
        return torch.autograd.grad(loss, [v for v in inputs if v.requires_grad])

    found = gradients()
    with native_calls.set_aside():
        for one, other in zip(found, gradients(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("flowing", range(1, 32))
def test_gradients_from_any_of_the_outputs_are_those_of_the_longer_way(flowing: int) -> None:
    def gradients() -> tuple[Tensor | None, ...]:
        inputs = maps(graph=True), maps(2, 4, 5, 7, seed=1, graph=True), maps(seed=2, graph=True)
        outputs = tuple(o for i, o in enumerate(everything(*inputs)) if flowing >> i & 1)
        return torch.autograd.grad(weighted(outputs), inputs, allow_unused=True)

    found = gradients()
    with native_calls.set_aside():
        for one, other in zip(found, gradients(), strict=True):
            assert one is None or (other is not None and torch.equal(one, other))
            assert one is not None or other is None or not other.any()


def test_no_graph_where_none_is_wanted() -> None:
    logits = maps(graph=True)
    with torch.no_grad():
        assert not ops.soft_argmax(logits).requires_grad
    assert not ops.soft_argmax(logits.detach()).requires_grad
    assert ops.soft_argmax(logits).requires_grad
    assert ops.soft_argmax(logits.detach(), beta=torch.ones(3, requires_grad=True)).requires_grad


def test_second_derivatives_are_right() -> None:
    inputs = [
        maps(2, 2, 3, 4, seed=i, dtype=torch.float64, graph=True) if i < 3 else torch.rand(2).double().requires_grad_()
        for i in range(4)
    ]
    assert torch.autograd.gradgradcheck(everything, inputs)


def test_a_graph_of_the_gradient_leaves_no_kernel_without_one() -> None:
    logits = maps(graph=True)
    (first,) = torch.autograd.grad(weighted((ops.soft_argmax(logits),)), logits, create_graph=True)
    assert first.requires_grad
    with native_calls.set_aside():
        (other,) = torch.autograd.grad(weighted((ops.soft_argmax(logits),)), logits)
    assert torch.equal(first, other)


@pytest.mark.parametrize("operator", ["soft_argmax", "spatial_softmax"])
def test_what_is_kept_may_not_change(operator: str) -> None:
    logits = maps(graph=True)
    inner = logits * 1
    out = getattr(ops, operator)(inner)
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_result_that_is_kept_may_not_change_either() -> None:
    out = ops.soft_argmax(maps(graph=True))
    out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_graph_serves_once_unless_kept() -> None:
    logits = maps(graph=True)
    out = ops.soft_argmax(logits).sum()
    out.backward(retain_graph=True)
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_hooks_of_saved_tensors_see_them() -> None:
    logits = maps(graph=True)
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        packed.append(tensor)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda i: packed[i]):
        out = ops.decode_pose(logits).xy
    assert any(t.data_ptr() == logits.data_ptr() for t in packed)
    plain = sum(t.numel() for t in packed if t.data_ptr() not in (logits.data_ptr(), out.data_ptr()))
    assert plain == 2 * 6  # two numbers a plane
    out.sum().backward()
    assert logits.grad is not None


def test_checkpointing_goes_through() -> None:
    from torch.utils.checkpoint import checkpoint

    logits = maps(graph=True)
    (found,) = torch.autograd.grad(checkpoint(ops.soft_argmax, logits, use_reentrant=False).sin().sum(), logits)
    (expected,) = torch.autograd.grad(ops.soft_argmax(logits).sin().sum(), logits)
    assert torch.equal(found, expected)


def test_batched_gradients_are_right() -> None:
    """Upstream gradients that are a batch of `vmap` hold no memory that a kernel could read."""
    logits = maps(graph=True)
    out = ops.soft_argmax(logits)
    upstream = maps(4, *out.shape, seed=5)
    (batched,) = torch.autograd.grad(out, logits, upstream, is_grads_batched=True, retain_graph=True)
    for one, g in zip(batched, upstream, strict=True):
        assert torch.allclose(one, torch.autograd.grad(out, logits, g, retain_graph=True)[0], atol=1e-6)


@pytest.mark.parametrize("operator", ["soft_argmax", "spatial_softmax"])
def test_an_upstream_gradient_whose_negation_is_put_off(operator: str) -> None:
    logits = maps(graph=True)
    out = getattr(ops, operator)(logits)
    upstream = maps(*out.shape, seed=5)
    (expected,) = torch.autograd.grad(out, logits, -upstream, retain_graph=True)
    (found,) = torch.autograd.grad(out, logits, torch._neg_view(upstream))
    assert torch.equal(found, expected)


def test_a_mode_sees_the_backward() -> None:
    names: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    logits = maps(graph=True)
    out = ops.soft_argmax(logits).sum()
    with Names():
        out.backward()
    assert "pyhar.cpu_decode_backward.default" in names


def test_the_profiler_sees_every_launch() -> None:
    logits = maps(graph=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ops.soft_argmax(logits).sum().backward()
        ops.spatial_softmax(logits).sum().backward()
    seen = {event.name for event in profile.events()}
    kernels = {f"pyhar::cpu_{name}{suffix}" for name in ("decode", "softmax") for suffix in ("", "_backward")}
    assert kernels <= seen


def test_an_error_in_a_gradients_hook_arrives() -> None:
    """From below the engine, through C++, to the caller."""
    logits = maps(graph=True)
    out = ops.soft_argmax(logits)

    def fail(grad: Tensor) -> None:
        raise ZeroDivisionError("from the hook")

    out.register_hook(fail)
    with pytest.raises(ZeroDivisionError, match="from the hook"):
        out.sum().backward()


def test_an_error_of_python_below_a_node_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = maps(graph=True)
    out = ops.soft_argmax(logits)
    with ops.use_backend("cpu"):
        broken = SimpleNamespace(**{n: getattr(cpu, n) for n in cpu.__all__})

        def fail(*args: Any) -> None:
            raise ZeroDivisionError("from the launcher")

        broken.decode_backward = fail
        monkeypatch.setitem(ops.compiled.KERNELS, "cpu", broken)
        with pytest.raises(ZeroDivisionError, match="from the launcher"):
            torch.autograd.grad(out.sum(), logits, create_graph=True)


def test_threads_call_at_once() -> None:
    logits = maps(4, 3, 16, 16)
    expected = ops.soft_argmax(logits)
    wrong: list[int] = []

    def work() -> None:
        for _ in range(200):
            leaf = logits.clone().requires_grad_()
            found = ops.soft_argmax(leaf)
            found.sum().backward()
            if not torch.equal(found, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_left_behind() -> None:
    """Neither a tensor nor a reference."""
    logits, grid = maps(graph=True), "".join(("cor", "ners"))

    def call() -> None:
        out = ops.decode_pose(logits, logits, grid=grid, confidence="window")
        torch.autograd.grad(out.xy.sum(), logits)
        ops.spatial_softmax(logits).sum().backward()
        native_calls.decode(None, logits, None, None, None, False, grid)
        logits.grad = None

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def counts() -> tuple[int, int, int]:
        return tensors(), sys.getrefcount(logits), sys.getrefcount(grid)

    call()
    before, nones_before = counts(), sys.getrefcount(None)
    for _ in range(1000):
        call()
    after, nones_after = counts(), sys.getrefcount(None)
    assert after == before
    assert abs(nones_after - nones_before) < 500  # others come and go; where None is immortal the number is fixed


# --- the module itself


@pytest.fixture
def bound_anew() -> Iterator[None]:
    before = native_calls._decode, native_calls._softmax, native_calls._missing
    yield
    native_calls._decode, native_calls._softmax, native_calls._missing = before


@pytest.mark.usefixtures("bound_anew")
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "it was not built when pyhar was installed"),
        (SimpleNamespace(torch_version="2.0.1"), f"it was built for PyTorch 2.0.1 and this is {torch.__version__}"),
        ("another build", "it was not built together with pyhar._native"),
    ],
)
def test_a_module_that_does_not_fit_is_explained_and_not_called(
    module: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "another build":
        real = sys.modules["pyhar._autograd"]
        module = SimpleNamespace(
            torch_version=torch.__version__, bind=lambda lent, *functions: real.bind(object(), *functions)
        )
    monkeypatch.setitem(sys.modules, "pyhar._autograd", module)
    native_calls._decode = native_calls._softmax = native_calls._nothing
    native_calls.bind(*(lambda *args: None,) * 3)
    assert (native_calls.why_missing() or "").startswith(reason)
    assert "install pyhar again" in (native_calls.why_missing() or "")
    assert not served(maps())
    assert ops.soft_argmax(maps()).shape == (2, 3, 2)
