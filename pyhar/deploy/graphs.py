"""A network's calls as graphs, one for each shape of input: CUDA graphs, and on the CPU recordings."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyhar.deploy.recording import Pool, record
from pyhar.kernels.cpu_entry import instruction_set
from pyhar.ops.dispatch import asked_backend

Result = TypeVar("Result")

KEPT = 8
"""Graphs kept for one network; the one that was not used for longest goes first. They share their memory."""
_SERVED = ("cpu", "cuda")
_RECORDABLE = (None, "cpu", "eager")
"""Backends asked for whose calls on the CPU a recording sees; the others run as interpreters there."""
_WARMUPS = 3
"""Calls before a capture: libraries choose their algorithms and kernels are compiled in them."""


class Captured(NamedTuple):
    """A graph, what it writes, and the tensors it reads."""

    replay: Callable[[], None]
    result: Any
    inputs: tuple[Tensor, ...]


class Graphs:
    """Runs functions of tensors through graphs; of several threads one at a time."""

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        self.why_not: str | None = None
        """Why functions are called as they are; None if graphs are used."""
        if device.type not in _SERVED:
            self.why_not = f"there are graphs on the CPU and on CUDA devices, not on {device.type}"
        elif not wanted:
            self.why_not = "they were not asked for"
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._captured: OrderedDict[Any, Captured | None] = OrderedDict()  # None: called once
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None  # on which a graph ran last
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures its own."""
        return {"why_not": self.why_not}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.why_not = state["why_not"]
        self._begin_anew()

    def run(self, name: str, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """`function(*inputs)`; the result, a tree of tensors, depends on nothing else and is the caller's to keep.

        The second call with these shapes captures; the first packs weights and compiles kernels. A function that cannot
        be captured is called as it is from then on, with a warning that says why.
        """
        backend, kind = asked_backend(), inputs[0].device.type  # not the device of the beginning: networks move
        if self.why_not is not None or kind not in _SERVED or (kind == "cpu" and backend not in _RECORDABLE):
            return function(*inputs)
        with self._lock:
            return self._run((name, backend, instruction_set()), function, *inputs)

    def _run(self, way: tuple[str | None, ...], function: Callable[..., Result], *inputs: Tensor) -> Result:
        device = inputs[0].device
        key = (way, device, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in inputs))
        if key not in self._captured:
            self._keep(key, None)
            return function(*inputs)
        captured = self._captured[key]
        if captured is None:
            try:
                captured = self._capture(function, inputs)
            except RuntimeError as error:
                self.why_not = f"the capture failed: {error}"
                self._forget()
                warnings.warn(f"running without graphs: {self.why_not}", stacklevel=3)
                return function(*inputs)
        self._keep(key, captured)
        if device.type == "cuda":
            self._wait_for_the_last(torch.cuda.current_stream(device))
        for kept, given in zip(captured.inputs, inputs, strict=True):
            kept.copy_(given)
        captured.replay()
        # The next replay, of this graph or of another in the same memory, writes over the result.
        result: Result = copied(captured.result)
        return result

    def clear(self) -> None:
        """Forget all graphs, because what the functions read beside their inputs lies elsewhere or has changed."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._captured.clear()
        self._pool = None  # PyTorch takes no more graphs into memory whose graphs are all gone

    def _wait_for_the_last(self, stream: torch.cuda.Stream) -> None:
        """Have a stream wait for the one that used the graphs' memory before it, if that is another."""
        if self._stream is not None and self._stream != stream:
            stream.wait_stream(self._stream)
        self._stream = stream

    def _keep(self, key: Any, captured: Captured | None) -> None:
        """As the newest."""
        self._captured[key] = captured
        self._captured.move_to_end(key)
        if len(self._captured) > KEPT:
            self._captured.popitem(last=False)

    def _capture(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Captured:
        if inputs[0].device.type == "cpu":
            return self._capture_on_cpu(function, inputs)
        with torch.cuda.device(inputs[0].device):  # streams and captures are of the current one
            return self._capture_on_cuda(function, inputs)

    def _capture_on_cpu(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Captured:
        kept = _like(inputs)
        if self._pool is None:
            self._pool = Pool()
        recorded = record(function, kept, self._pool)
        return Captured(recorded.repeat, recorded.result, kept)  # the method holds the memory

    def _capture_on_cuda(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Captured:
        kept = _like(inputs)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        memory, aside = self._pool  # graphs share memory only if they are captured on one stream
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARMUPS):
                function(*kept)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on: one that pins memory for a data loader would else fail, and the capture with it.
        with torch.cuda.graph(graph, pool=memory, stream=aside, capture_error_mode="thread_local"):
            result = function(*kept)
        return Captured(graph.replay, result, kept)


def _like(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor).copy_(tensor) for tensor in tensors)


def copied(value: Any) -> Any:
    """The same tree of lists, tuples and dataclasses with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, tuple):
        items = [copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{f.name: copied(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value
