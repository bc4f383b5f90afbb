"""The backends that this machine can run, where they run, and which of them are slow."""

from __future__ import annotations

import host
import torch

from pyhar import ops
from pyhar.ops import dispatch, native_calls

GPU = torch.cuda.is_available()
REASONS = ops.available_backends() | ({} if GPU else {"cuda": host.why_unusable()})
USABLE = [name for name, reason in REASONS.items() if reason is None]
# "cpu" as it is where its calls are not served without Python: the same kernels by another way.
LONGER_WAY = "cpu by the longer way"
if native_calls.why_missing() is None:
    USABLE.append(LONGER_WAY)
SLOW = () if GPU else ("triton", "cuda")


def device_of(backend: str) -> str:
    return "cuda" if GPU and dispatch.BACKENDS[backend] == "cuda" else "cpu"
