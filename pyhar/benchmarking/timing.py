"""Times of several functions that take turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LEAST = 5
"""Rounds at least, however long they take."""
MOST = 500
_WARMUPS = 2


@dataclass(frozen=True)
class Spread:
    """Seconds of one call over all rounds."""

    median: float
    q1: float
    q3: float
    p95: float
    samples: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """Of the times of all rounds, which are not none."""
        q1, median, q3, p95 = (float(value) for value in np.percentile(times, (25, 50, 75, 95)))
        return cls(median, q1, q3, p95, len(times))


def take_turns(
    calls: Mapping[str, Callable[[], Any]], seconds: float, device: torch.device, most: int = MOST
) -> dict[str, list[float]]:
    """Seconds of each call, round by round, in an order drawn anew each time; each was called twice before.

    At least `LEAST` rounds are made, then more until `seconds` have passed or there are `most`. A GPU is waited for.
    """

    def timed(call: Callable[[], Any]) -> float:
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - begin

    order, names = random.Random(0), list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    with torch.inference_mode():
        for call in calls.values():
            for _ in range(_WARMUPS):
                call()
        gc.collect()
        gc.disable()
        try:
            begin = time.perf_counter()
            for done in range(max(most, LEAST)):
                if done >= LEAST and time.perf_counter() - begin > seconds:
                    break
                order.shuffle(names)
                for name in names:
                    times[name].append(timed(calls[name]))
        finally:
            if collecting:
                gc.enable()
    return times


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """How many times faster, from the rounds' pairs: the median."""
    return float(np.median(np.array(slower) / np.array(faster)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
