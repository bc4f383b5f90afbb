"""The backends that this machine can run, where they run, and which of them are slow."""

from __future__ import annotations

import host
import torch

from pyhar import ops
from pyhar.ops import dispatch

GPU = torch.cuda.is_available()
REASONS = ops.available_backends() | ({} if GPU else {"cuda": host.why_unusable()})
USABLE = [name for name, reason in REASONS.items() if reason is None]
SLOW = () if GPU else ("triton", "cuda")


def device_of(backend: str) -> str:
    return "cuda" if GPU and dispatch.BACKENDS[backend] == "cuda" else "cpu"
