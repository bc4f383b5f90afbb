"""Calls of the CPU's operators without a step of Python: the module `pyhar._autograd`, built from csrc/autograd/.

It serves plain calls: tensors on the CPU, no mode, transform, compiler or autocast at work, arguments that are right.
Of all others it gives None, upon which an operator checks its arguments and goes through `pyhar.ops.dispatch`; so does
every call where the module is missing. By `benchmarks/call_overhead.py` (one thread of a Xeon) `soft_argmax` of maps of
1x4x8x8 takes 2.2 us instead of 11, with its backward 29 us instead of 66.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyhar.kernels import cpu, native
from pyhar.ops.dispatch import asked_backend

REMEDY = "install pyhar again where PyTorch is installed already (`pip install -v -e .` in a clone shows the build)"

_missing: str | None = "nothing has bound it"


def _nothing(*args: object) -> None:
    return None


_decode: Callable[..., Any] = _nothing
_softmax: Callable[..., Any] = _nothing


def decode(
    backend: str | None,
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: float | Tensor,
    normalised: bool,
    *names: str,
) -> tuple[Any, Any, Any, Any] | None:
    """Return xy, z, confidence and appearance, each None where not asked for; None if the call is not served here.

    The arguments, not yet checked, are those of the operators; `normalised` says that the logits are probabilities. Of
    `names` the first is the grid, the second the confidence: where one is not given, it is not asked for.
    """
    if torch.compiler.is_compiling():
        return None
    asked = asked_backend() if backend is None else backend
    found: tuple[Any, Any, Any, Any] | None = _decode(asked, logits, features, depth_logits, beta, normalised, *names)
    return found


def softmax(backend: str | None, logits: Tensor, beta: float | Tensor) -> Tensor | None:
    """Return the probability maps; None if the call is not served here."""
    if torch.compiler.is_compiling():
        return None
    found: Tensor | None = _softmax(asked_backend() if backend is None else backend, logits, beta)
    return found


def why_missing() -> str | None:
    """Return why no call is served here, or None."""
    return _missing


@contextmanager
def set_aside() -> Iterator[None]:
    """Have every call go the longer way inside, by any thread of the process: to compare the two."""
    global _decode, _softmax
    before = _decode, _softmax
    _decode = _softmax = _nothing
    try:
        yield
    finally:
        _decode, _softmax = before


def bind(
    lines: Callable[[str, int, int], tuple[float, float, float, float]],
    differentiate_decode: Callable[..., tuple[Tensor | None, ...]],
    differentiate_softmax: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Find the module and give it what it calls; where it is missing, or of another build, do without.

    Args:
        lines: (grid, rows, columns) -> the grid as kernels take it.
        differentiate_decode: (saved tensors, numbers, names, needs, upstream) -> the gradients of logits, features,
            depth logits and beta, where the gradients themselves shall be differentiable.
        differentiate_softmax: the same for the softmax: of logits and beta.
    """
    global _decode, _softmax, _missing
    _missing = cpu.why_unusable()
    if _missing is not None:
        return
    try:
        module = importlib.import_module("pyhar._autograd")
    except ModuleNotFoundError:
        _missing = f"it was not built when pyhar was installed; {REMEDY}"
        return
    except ImportError as error:
        _missing = f"it was built but does not load ({error}); {REMEDY}"
        return
    if module.torch_version != torch.__version__:
        _missing = f"it was built for PyTorch {module.torch_version} and this is {torch.__version__}; {REMEDY}"
        return
    core: Any = native.load()
    try:
        module.bind(core.lent, lines, differentiate_decode, differentiate_softmax)
    except ValueError:  # the capsule is another's
        _missing = f"it was not built together with pyhar._native; {REMEDY}"
        return
    _decode, _softmax = module.decode, module.softmax
