"""Which backend serves a call: the argument, `use_backend`, PYHAR_BACKEND, else the fastest that can."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from pyhar import ops
from pyhar.errors import UserError
from pyhar.ops import dispatch, native_calls

H = torch.zeros(1, 2, 3, 4)
CHOICES: dict[str, Any] = {
    "argument": lambda name, monkeypatch: ops.soft_argmax(H, backend=name),
    "context": lambda name, monkeypatch: call_inside(name),
    "environment": lambda name, monkeypatch: (ask_from_outside(name, monkeypatch), ops.soft_argmax(H))[1],
}


def ask_from_outside(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PYHAR_BACKEND had been `name` when pyhar was imported."""
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", name)
    monkeypatch.setattr(dispatch, "_asked", name)


def call_inside(name: str) -> Tensor:
    with ops.use_backend(name):
        return ops.soft_argmax(H)


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_from_outside(None, monkeypatch)


@pytest.fixture
def cpu_for_small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """A stand-in for the backend "cpu" that has `soft_argmax` for batches of one; yields the logits it was given."""
    seen: list[Tensor] = []

    def serve(logits: Tensor, beta: float | Tensor, grid: str) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(logits)
        return logits.new_full((1, 2, 2), 7.0)

    def can_serve(logits: Tensor, beta: float | Tensor, grid: str) -> str | None:
        return None if logits.shape[0] == 1 else f"it takes one picture, not {logits.shape[0]}"

    monkeypatch.setattr(dispatch, "_probes", dict(dispatch._probes))
    plain = {operator: {"eager": found["eager"]} for operator, found in dispatch._operators.items()}
    monkeypatch.setattr(dispatch, "_operators", plain)
    dispatch.register_backend("cpu", lambda: None)
    dispatch.register("soft_argmax", "cpu", serve, can_serve)
    with native_calls.set_aside():
        yield seen


def test_every_backend_is_listed_with_a_reason() -> None:
    backends = ops.available_backends()
    assert set(backends) == {"eager", "cpu", "triton", "cuda", "nvrtc"}
    assert backends["eager"] is None
    assert all(reason is None or len(reason) > 10 for reason in backends.values())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_backend_that_is_not_usable_fails_with_its_reason(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_probes", dispatch._probes | {"cuda": lambda: "no CUDA device was found"})
    kind = "PYHAR_BACKEND" if choice == "environment" else "backend"
    with pytest.raises(UserError) as raised:
        CHOICES[choice]("cuda", monkeypatch)
    assert str(raised.value).startswith(
        f"{kind} 'cuda' cannot serve soft_argmax: no CUDA device was found; these can: "
    )
    assert "eager" in str(raised.value)


@pytest.mark.parametrize("choice", CHOICES)
def test_an_unknown_backend_fails_with_the_nearest(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "PYHAR_BACKEND" if choice == "environment" else "backend"
    with pytest.raises(UserError, match=f"^unknown {kind} 'tritton'; did you mean 'triton'\\?"):
        CHOICES[choice]("tritton", monkeypatch)


def test_a_backend_is_a_name() -> None:
    with pytest.raises(TypeError, match="backend: expected one of cuda, nvrtc, triton, cpu, eager, got 3"):
        ops.soft_argmax(H, backend=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", CHOICES)
def test_the_backend_asked_for_serves(
    choice: str, cpu_for_small_batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHOICES[choice]("eager", monkeypatch).max() == 0.5
    assert cpu_for_small_batches == []
    assert (CHOICES[choice]("cpu", monkeypatch) == 7).all()
    assert cpu_for_small_batches[0] is H


def test_the_fastest_that_can_serves_unasked(cpu_for_small_batches: list[Tensor]) -> None:
    assert (ops.soft_argmax(H) == 7).all()
    assert (ops.soft_argmax(H.expand(2, -1, -1, -1)) == 0.5).all()
    assert len(cpu_for_small_batches) == 1
    with torch.autocast("cpu", torch.bfloat16):
        ops.soft_argmax(H)
    assert len(cpu_for_small_batches) == 2


def test_a_call_that_the_backend_asked_for_cannot_serve(cpu_for_small_batches: list[Tensor]) -> None:
    with pytest.raises(UserError, match="'cpu' cannot serve soft_argmax: it takes one picture, not 2; these can: "):
        ops.soft_argmax(H.expand(2, -1, -1, -1), backend="cpu")
    with pytest.raises(UserError, match="'cpu' cannot serve spatial_softmax: it has no spatial_softmax; these can: "):
        ops.spatial_softmax(H, backend="cpu")


def test_the_argument_beats_the_context_and_the_context_the_environment(
    cpu_for_small_batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_from_outside("cuda", monkeypatch)
    with ops.use_backend("eager"):
        assert (ops.soft_argmax(H) == 0.5).all()
        assert (ops.soft_argmax(H, backend="cpu") == 7).all()
        with ops.use_backend("cpu"):
            assert (ops.soft_argmax(H) == 7).all()
        assert (ops.soft_argmax(H) == 0.5).all()
    ask_from_outside(None, monkeypatch)
    assert (ops.soft_argmax(H) == 7).all()


@pytest.mark.parametrize(("value", "asked"), [("eager", "eager"), ("", None)])
def test_the_environment_is_read_when_pyhar_is_imported(value: str, asked: str | None) -> None:
    code = "from pyhar.ops import dispatch; print(repr(dispatch.asked_backend()))"
    environment = os.environ | {"PYHAR_BACKEND": value}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == repr(asked)


@pytest.mark.parametrize("function", [torch.func.jvp, "dual"], ids=["torch.func", "dual tensors"])
def test_forward_derivatives_are_plain_pytorchs(function: Any) -> None:
    logits, tangent = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64)

    def derivative(backend: str | None) -> Tensor:
        if function != "dual":
            return function(lambda h: ops.soft_argmax(h, backend=backend), (logits,), (tangent,))[1]
        with forward_ad.dual_level():
            dual = ops.soft_argmax(forward_ad.make_dual(logits, tangent), backend=backend)
            return forward_ad.unpack_dual(dual).tangent

    step = 1e-6 * tangent
    expected = (ops.soft_argmax(logits + step) - ops.soft_argmax(logits - step)) / 2e-6
    torch.testing.assert_close(derivative(None), expected)
    if ops.available_backends()["cpu"] is None:
        with pytest.raises(UserError, match="'cpu' cannot serve soft_argmax: it has no forward-mode derivatives"):
            derivative("cpu")


def test_a_forward_derivative_of_a_gradient_is_refused_not_lost() -> None:
    if ops.available_backends()["cpu"] is not None:
        pytest.skip("the backend cpu is not there")
    leaf = torch.randn(1, 2, 3, 4, requires_grad=True)
    xy = ops.soft_argmax(leaf, backend="cpu")
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.autograd.grad(xy, leaf, forward_ad.make_dual(torch.ones_like(xy), torch.ones_like(xy)))


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_module_is_computed_anew() -> None:
    traced = torch.jit.trace(lambda h: ops.soft_argmax(h), H)
    other = torch.randn(H.shape)
    torch.testing.assert_close(traced(other), ops.soft_argmax(other))


def test_meta_tensors_give_shapes() -> None:
    assert ops.soft_argmax(H.to("meta")).shape == (1, 2, 2)
    assert ops.depthwise_conv(H.to("meta"), torch.ones(2, 1, 3, 3, device="meta")).shape == H.shape


def test_use_backend_is_undone_by_an_error() -> None:
    with pytest.raises(KeyError), ops.use_backend("cuda"):
        raise KeyError
    torch.testing.assert_close(ops.soft_argmax(H), torch.full((1, 2, 2), 0.5))


def test_arguments_are_checked_before_the_backend() -> None:
    with pytest.raises(ValueError, match="logits: "):
        ops.soft_argmax(H[0], backend="cuda")


def test_importing_is_light() -> None:
    """The operators load neither optional packages nor a GPU."""
    program = (
        "import sys, torch, pyhar.ops, pyhar.nn;"
        "heavy = {'cv2', 'matplotlib', 'h5py', 'tyro', 'tensorboard', 'triton', 'cupy'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
