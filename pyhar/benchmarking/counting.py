"""What a network has to do: operations and bytes of its convolutions, by kind, and the time they need at least.

Operations are those of the definition, a multiply-add counted as two; bytes are input, output and weights of each
convolution, once each. Norms, activations, sums and poolings can be fused into convolutions: they count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pyhar import ops
from pyhar.benchmarking.ceilings import Ceilings, name_of
from pyhar.deploy.network import numbers_of


@dataclass
class Work:
    """Of all convolutions of one kind."""

    operations: float = 0.0
    bytes: float = 0.0
    at_least_s: float = 0.0
    """Seconds at the ceilings: of each convolution the longer of computing and moving."""


def count(model: nn.Module, frames: Tensor, dtype: torch.dtype, ceilings: Ceilings | None = None) -> dict[str, Work]:
    """The work of `model(frames)`, an `SPNet`'s or a `Streamed` one's, by kind of convolution, if it computed in
    `dtype`."""
    found: dict[str, Work] = {}
    size = numbers_of(dtype, frames.device).maps.itemsize

    def add(kind: str, layer: nn.Conv2d, given: tuple[Tensor, ...], made: Tensor) -> None:
        operations = 2.0 * made.numel() * layer.weight[0].numel()
        moved = float(size * (given[0].numel() + made.numel() + layer.weight.numel()))
        work = found.setdefault(kind, Work())
        work.operations += operations
        work.bytes += moved
        if ceilings is not None:
            work.at_least_s += max(operations / ceilings.operations[name_of(dtype)], moved / ceilings.bandwidth)

    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):

            def hook(layer: Any, given: tuple[Tensor, ...], made: Tensor, kind: str = _kind(name, layer)) -> None:
                add(kind, layer, given, made)

            hooks.append(layer.register_forward_hook(hook))
    try:
        with torch.inference_mode():
            model(frames)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _kind(name: str, layer: nn.Conv2d) -> str:
    if ".action" in name:
        return "action part"
    rows, columns = layer.kernel_size
    kind = "depthwise" if layer.groups > 1 else "stem" if name.endswith("entry.stem") else "convolution"
    return f"{kind} {rows}x{columns}"


def operations(model: nn.Module, frames: Tensor) -> int:
    """Operations that a network really does, counted by PyTorch while it runs in plain PyTorch."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter, ops.use_backend("eager"):
        model(frames)
    return int(counter.get_total_flops())
