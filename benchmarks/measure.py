"""Times and memory: many functions in turn, so that what disturbs the machine disturbs all of them alike.

On a CPU a turn is a short block of calls, the first few of which are not timed. A program that trains or predicts calls
one implementation again and again; single calls in turn would find in the caches what the others left there, their data
and the interpreter's code pushed out, and measure that instead.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
WARM_UP, BLOCK = 3, 10  # calls not timed, and samples, of a turn on a CPU
SHORTEST_SAMPLE = 5e-4  # seconds on a CPU; shorter calls are repeated within a sample
WAIT_CYCLES = 2_000_000  # of the GPU, about a millisecond: more than the program needs to submit any case


class Runnable(NamedTuple):
    """What is timed is `call(state)`, and `state = prepare()` before it is not."""

    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class Sample(NamedTuple):
    """Seconds of one call: until the device has done it, and until the program goes on."""

    device: float
    host: float


class Stopwatch:
    """Times calls on a device.

    On a GPU the second-level cache is overwritten before each call, and the device is kept busy until the call's
    kernels have been submitted, so that the events around them measure the device's work and not Python's.
    `program_only` leaves the device out: what was submitted to it is waited for after the time is taken.
    """

    def __init__(self, device: torch.device, program_only: bool = False) -> None:
        self.device = device
        self._flush: Tensor | None = None
        self._wait = device.type == "cuda" and program_only
        if device.type == "cuda" and not program_only:
            size = max(2 * torch.cuda.get_device_properties(device).L2_cache_size, 1 << 27)
            self._flush = torch.empty(size, dtype=torch.uint8, device=device)

    def repeats(self, runnable: Runnable) -> int:
        """Warm up, and return how many calls make a sample that is long enough."""
        quickest = min(self.time(runnable, 1).host for _ in range(3))
        if self._flush is not None:
            return 1
        return max(1, min(1000, math.ceil(SHORTEST_SAMPLE / max(quickest, 1e-9))))

    def time(self, runnable: Runnable, repeats: int) -> Sample:
        """Return the mean over `repeats` calls."""
        host = device = 0.0
        for _ in range(repeats):
            state = runnable.prepare()
            if self._flush is None:
                begin = time.perf_counter()
                result = runnable.call(state)
                host += time.perf_counter() - begin
                if self._wait:
                    torch.cuda.synchronize(self.device)
            else:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                torch.cuda._sleep(WAIT_CYCLES)
                first.record()
                begin = time.perf_counter()
                result = runnable.call(state)
                host += time.perf_counter() - begin
                last.record()
                last.synchronize()
                device += first.elapsed_time(last) / 1e3
            del state, result
        return Sample((device if self._flush is not None else host) / repeats, host / repeats)


def interleave(
    stopwatch: Stopwatch, runnables: Mapping[Key, Runnable], seconds: float, least: int = 5, most: int = 200
) -> dict[Key, list[Sample]]:
    """Return samples of every runnable, as many of each: round by round, in an order drawn anew each time.

    A round gives `BLOCK` samples on a CPU, after `WARM_UP` calls that are not counted, and one on a GPU, whose cache is
    overwritten before each call. At least `least` rounds are made, and then more until `seconds` have passed or there
    are `most` of them.
    """
    warm_up, block = (0, 1) if stopwatch.device.type == "cuda" else (WARM_UP, BLOCK)
    order = random.Random(0)
    repeats = {key: stopwatch.repeats(runnable) for key, runnable in runnables.items()}
    samples: dict[Key, list[Sample]] = {key: [] for key in runnables}
    keys = list(runnables)
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        begin = time.perf_counter()
        for done in range(most):
            if done >= least and time.perf_counter() - begin > seconds:
                break
            order.shuffle(keys)
            for key in keys:
                for _ in range(warm_up):
                    stopwatch.time(runnables[key], 1)
                samples[key] += [stopwatch.time(runnables[key], repeats[key]) for _ in range(block)]
    finally:
        if enabled:
            gc.enable()
    return samples


def quantiles(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the median, the quartiles and the minimum."""
    q1, median, q3 = (float(v) for v in np.percentile(values, (25, 50, 75)))
    return median, q1, q3, min(values)


def copy(size: int, device: torch.device) -> Runnable:
    """Return a copy that reads and writes `size` bytes together."""
    source = torch.ones(max(size // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Runnable(lambda _: target.copy_(source))


def saved_bytes(function: Callable[[], Sequence[Tensor]], known: Sequence[Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward of `function()` beyond `known` tensors and the outputs.

    Counted by storage, each once and whole, be it saved as autograd asks or put on the context. `function` should have
    run before: a compiled one compiles at its first call.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = function()
    for value in _on_contexts(outputs):
        pack(value)
    for tensor in (*known, *outputs):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def _on_contexts(outputs: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that functions written in Python keep as attributes of their contexts, lists included."""
    seen: set[Any] = set()
    nodes = [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        for value in getattr(node, "__dict__", {}).values():
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from (one for one in values if isinstance(one, Tensor))


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int | None:
    """Return the most device memory that `function()` had allocated at once, beyond what was; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before
