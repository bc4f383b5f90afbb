"""What the machine can do at most, measured: products of matrices in each type, and copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pyhar.benchmarking.timing import Spread, take_turns

_COPIED = 256 * 2**20  # bytes, beyond any cache of a CPU
_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}


@dataclass(frozen=True)
class Ceilings:
    """Rates of one run."""

    operations: dict[str, float]
    """By type, operations a second of the fastest product of square matrices; a multiply-add is two."""
    bandwidth: float
    """Bytes a second of a large copy, reads and writes both counted."""


def measure(dtypes: list[torch.dtype], device: torch.device, seconds: float = 1.0) -> Ceilings:
    """Measure the rates; about `seconds` for each number."""
    rates: dict[str, float] = {}
    for dtype in dtypes:
        products = {}
        for side in _SIDES.get(device.type, _SIDES["cpu"]):
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            multiply = torch._int_mm if dtype == torch.int8 else torch.mm
            products[str(side)] = lambda a=a, b=b, multiply=multiply: multiply(a, b)
        times = take_turns(products, seconds, device)
        rates[name_of(dtype)] = max(2.0 * int(side) ** 3 / min(found) for side, found in times.items())
    source = torch.ones(_COPIED // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = take_turns({"copy": lambda: target.copy_(source)}, seconds, device)
    return Ceilings(rates, _COPIED / Spread.of(copies["copy"]).median)


def name_of(dtype: torch.dtype) -> str:
    """ "float32" and so on."""
    return str(dtype).removeprefix("torch.")
