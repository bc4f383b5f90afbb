"""The CPU kernels' functions in the native module, and the memory that recorded launches go on using."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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


class _Recording(threading.local):
    memory: dict[int, torch.UntypedStorage] | None = None


_recording = _Recording()


@contextmanager
def keeping() -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the memory, by its address, that this thread's launches are given addresses of."""
    memory: dict[int, torch.UntypedStorage] = {}
    _recording.memory = memory
    try:
        yield memory
    finally:
        _recording.memory = None


def keep(*tensors: Tensor | None) -> None:
    """Say that a launch is given the addresses of these tensors."""
    memory = _recording.memory
    if memory is not None:
        storages = (tensor.untyped_storage() for tensor in tensors if tensor is not None)
        memory.update((storage.data_ptr(), storage) for storage in storages)
