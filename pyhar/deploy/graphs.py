"""CUDA graphs of a network's calls, one for each shape of input."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

KEPT = 8
"""Graphs kept for one network; the one that was not used for longest goes first. They share their memory."""
_WARMUPS = 3
"""Calls before a capture: libraries choose their algorithms and kernels are compiled in them."""


class Captured(NamedTuple):
    """A graph, the tensors it reads, and what it writes."""

    replay: Callable[[], None]
    inputs: list[Tensor]
    result: Any


class Graphs:
    """Runs functions of tensors through CUDA graphs. Not safe to use from several threads at once."""

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        self.why_not: str | None = None
        """Why functions are called as they are; None if graphs are used."""
        if device.type != "cuda":
            self.why_not = f"CUDA graphs need a CUDA device, not {device.type}"
        elif not wanted:
            self.why_not = "they were not asked for"
        self._captured: OrderedDict[Any, Captured] = OrderedDict()
        self._pool: Any = None

    def run(self, name: str, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """`function(*inputs)`; the result, a tree of tensors, depends on nothing else and is the caller's to keep.

        The first call with these shapes captures. A function that cannot be captured is called as it is from then
        on, with a warning that says why.
        """
        if self.why_not is not None:
            return function(*inputs)
        key = (name, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in inputs))
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(function, inputs)
            except RuntimeError as error:
                self.why_not = f"the capture failed: {error}"
                self._captured.clear()
                warnings.warn(f"running without CUDA graphs: {self.why_not}", stacklevel=2)
                return function(*inputs)
            if len(self._captured) > KEPT:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        captured = self._captured[key]
        for kept, given in zip(captured.inputs, inputs, strict=True):
            kept.copy_(given)
        captured.replay()
        # The next replay, of this graph or of another in the same memory, writes over the result.
        result: Result = copied(captured.result)
        return result

    def _capture(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Captured:
        kept = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t) for t in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARMUPS):
                function(*kept)
        torch.cuda.current_stream().wait_stream(aside)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function(*kept)
        return Captured(graph.replay, kept, result)


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
