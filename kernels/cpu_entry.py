"""The CPU kernels' functions in the native module."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pyhar.kernels import native


@functools.cache
def why_unusable() -> str | None:
    """Return why this machine cannot run the backend, or None."""
    module = native.load()
    if module is None:
        return f"the native module is missing: {native.why_missing()}"
    try:
        module.cpu_isa()
    except ValueError as error:
        return str(error)
    return None


@functools.cache
def entry(name: str) -> Callable[..., Any]:
    reason = why_unusable()
    if reason is not None:
        raise RuntimeError(reason)
    function: Callable[..., Any] = getattr(native.load(), name)
    return function


def instruction_set() -> str | None:
    """Return the name of the instruction set in use, or None where the backend is unusable."""
    return None if why_unusable() is not None else entry("cpu_isa")()
