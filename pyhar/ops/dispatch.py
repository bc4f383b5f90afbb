"""Which implementation of an operator serves a call.

An operator is a name and a fixed row of arguments; a backend is a set of implementations of operators. Every operator
has the backend "eager", plain PyTorch, which defines it and can serve every call. Another backend joins by

    register_backend("triton", probe)
    register("soft_argmax", "triton", function, can_serve)       # for each operator that it has

where `probe()` returns None if this machine can run it, else the reason why not; `function(*args)` takes the arguments
of the operator, already checked and with autocast off; and `can_serve(*args)` returns None or the reason why it cannot
serve that call. Probe and `can_serve` are asked at every call (the latter not where `whatever_is_here` says that it
cannot refuse): they must be cheap (a probe keeps its answer) and must not wait for a device. `pyhar.ops.compiled` does
all this for a module of kernels.

The backend of a call: the argument `backend`, else the one asked for by `use_backend`, else by the environment variable
PYHAR_BACKEND (read when pyhar is imported), else the first of `BACKENDS` that is made for the tensors' device and can
serve it. A backend that was asked for and cannot serve the call is an error; but for the operators of `LAYERS`, which
not every backend has: asked for from outside of the call, it serves those that it can. Forward-mode derivatives,
`torch.jit.trace`, `torch.onnx.export` and transforms of `torch.func` inside `torch.compile` know "eager" alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pyhar.errors import UserError, unknown_name

# Every backend, fastest first, and the device it is made for. "cuda" is compiled ahead, "nvrtc" the same source at run
# time, "cpu" is C++. A backend may serve other devices when asked to: Triton's interpreter runs on the CPU.
BACKENDS: dict[str, str | None] = {"cuda": "cuda", "nvrtc": "cuda", "triton": "cuda", "cpu": "cpu", "eager": None}

# The network's convolutions, beside what reads maps.
LAYERS = frozenset(
    (
        "bottleneck_unit",
        "convolution_unit",
        "depthwise_conv",
        "extremes_unit",
        "pooling_unit",
        "separable_unit",
        "stem_unit",
        "upsampling_unit",
        "upscaling_unit",
    )
)

Probe = Callable[[], str | None]


class Implementation(NamedTuple):
    """One backend's implementation of one operator; see the module's docstring."""

    function: Callable[..., Any]
    can_serve: Callable[..., str | None]
    whatever_is_here: bool = False
    """whether it can serve every call with tensors on the device it is made for"""


def _always(*args: object) -> None:
    return None


_probes: dict[str, Probe] = {"eager": _always}
_operators: dict[str, dict[str, Implementation]] = {}  # operator -> backend, fastest first -> implementation
# A plain global: torch.compile guards on it, and so compiles anew when it changes. It does not see changes of a context
# variable. The environment is read once: at every call that would cost more than all else here.
_FROM_ENVIRONMENT = os.environ.get("PYHAR_BACKEND") or None
_asked = _FROM_ENVIRONMENT


def register_backend(backend: str, probe: Probe) -> None:
    """Make `backend` known; `probe()` returns None if it is usable on this machine, else the reason why it is not."""
    _check_name(backend)
    _probes[backend] = probe


def register(
    operator: str,
    backend: str,
    function: Callable[..., Any],
    can_serve: Callable[..., str | None] = _always,
    whatever_is_here: bool = False,
) -> None:
    """Add the implementation of `operator` by `backend`; arguments as the fields of `Implementation`."""
    _check_name(backend)
    others = _operators.get(operator, {}) | {backend: Implementation(function, can_serve, whatever_is_here)}
    _operators[operator] = {name: others[name] for name in BACKENDS if name in others}


def available_backends() -> dict[str, str | None]:
    """Return, for every backend, None if it is usable on this machine, else the reason why it is not."""
    return {name: _unusable(name) for name in BACKENDS}


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Have every operator called inside (by any thread of the process) served by `backend`, or fail with the reason;
    the network's convolutions (`LAYERS`) where it can.

    Raises:
        UserError: no backend has this name.
    """
    global _asked
    _check_name(backend)
    before, _asked = _asked, backend
    try:
        yield
    finally:
        _asked = before


def asked_backend() -> str | None:
    """Return the backend asked for by `use_backend`, else by PYHAR_BACKEND, or None."""
    return _asked


def is_traced() -> bool:
    """Whether a dispatch mode of PyTorch's wants to see operators, not what they do.

    One that has `takes_kernels` does not, and is taken for absent.
    """
    if not torch._C._len_torch_dispatch_stack():
        return False
    return not all(getattr(mode, "takes_kernels", False) for mode in _get_current_dispatch_mode_stack())


_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_OTHERS = frozenset((type(None), bool, int, float, str, list, tuple))


def are_plain(values: Iterable[Any]) -> bool:
    """Whether the memory of every tensor among arguments holds its numbers.

    That of a subclass, of a batch of gradients, of what a transform of `torch.func` leaves behind, of a negation that
    PyTorch has put off and of zeros that it knows without memory does not.
    """
    for value in values:
        if value is None:
            continue
        kind = type(value)
        if kind in _TENSORS:
            if not torch._C._has_storage(value) or value.is_neg() or value._is_zerotensor():
                return False
        elif kind not in _OTHERS:
            return False
    return True


def autocast_type(device: torch.device) -> torch.dtype | None:
    """Return the type that `torch.autocast` takes on a device now; None where it is off, or not known there (meta)."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def run(operator: str, backend: str | None, *args: Any) -> Any:
    """Serve a call of `operator` with checked arguments `args`, the first a tensor, by `backend` if not None.

    Raises:
        UserError: the backend asked for does not exist or cannot serve the call.
    """
    function = _select(operator, backend, args)
    if torch._C._is_any_autocast_enabled():  # it would take products of float32 tensors in half precision
        device: torch.device = args[0].device
        if autocast_type(device) is not None:
            with torch.autocast(device.type, enabled=False):
                return function(*args)
    return function(*args)


def _select(operator: str, backend: str | None, args: tuple[Any, ...]) -> Callable[..., Any]:
    implementations = _operators[operator]
    asked = backend if backend is not None else _asked
    if asked is not None:
        kind = "PYHAR_BACKEND" if backend is None and asked is _FROM_ENVIRONMENT else "backend"
        _check_name(asked, kind)
        reason = _refusal(operator, asked, args)
        if reason is None:
            return implementations[asked].function
        if backend is not None or operator not in LAYERS or _unusable(asked) is not None:
            able = ", ".join(name for name in implementations if _refusal(operator, name, args) is None)
            raise UserError(f"{kind} {asked!r} cannot serve {operator}: {reason}; these can: {able}")
    if _needs_eager(torch.compiler.is_compiling()) is None:
        here = "cpu" if args[0].is_cpu else args[0].device.type
        for name, implementation in implementations.items():
            serves = BACKENDS[name] == here and _unusable(name) is None
            if serves and (implementation.whatever_is_here or implementation.can_serve(*args) is None):
                return implementation.function
    return implementations["eager"].function


def _refusal(operator: str, backend: str, args: tuple[Any, ...]) -> str | None:
    """Return None if `backend` can serve this call, else the reason why it cannot."""
    reason = _unusable(backend)
    if reason is None and backend != "eager":
        reason = _needs_eager(torch.compiler.is_compiling())
    if reason is not None:
        return reason
    implementation = _operators[operator].get(backend)
    return f"it has no {operator}" if implementation is None else implementation.can_serve(*args)


def _unusable(backend: str) -> str | None:
    probe = _probes.get(backend)
    return "not part of this version of pyhar" if probe is None else probe()


def _needs_eager(compiling: bool) -> str | None:
    """Return why only plain PyTorch can serve a call just now, whatever its arguments, or None."""
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivatives"
    if torch._C._is_tracing():
        return "torch.jit.trace would take its results for constants"
    if compiling and torch.onnx.is_in_onnx_export():
        return "ONNX has no such operator"
    if compiling and torch._C._are_functorch_transforms_active():
        return "torch.compile does not take it inside a transform of torch.func"
    return None


# Probes look for packages and devices, which torch.compile cannot trace: it takes the answer as it is (and compiles
# anew for other transforms). This is what torch.compiler.assume_constant_result does, which would import the whole
# compiler.
_unusable._dynamo_marked_constant = True  # type: ignore[attr-defined]
_needs_eager._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_name(backend: str, kind: str = "backend") -> None:
    if not isinstance(backend, str):
        raise TypeError(f"{kind}: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend not in BACKENDS:
        raise unknown_name(kind, backend, BACKENDS)


def computing_type(*tensors: Tensor | None) -> torch.dtype:
    """Return the type a call is computed in: float64 if any tensor has it, else float32."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32
