"""How fast a network runs."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn


def frames_per_second(
    model: nn.Module, frames: Tensor, repeats: int = 10, warmup: int = 2, limit_s: float = 2.0
) -> float:
    """Frames a second of `model(frames)` alone, from the median time of at least 3 and at most `repeats` calls.

    frames: (B, 3, H, W) or (B, T, 3, H, W), already on the model's device. The first `warmup` calls do not count;
    after `limit_s` seconds no further call is begun. Waits for a GPU to finish before it reads the clock.
    """
    count = frames.shape[0] * (frames.shape[1] if frames.ndim == 5 else 1)
    on_gpu = frames.device.type == "cuda"
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(warmup):
            model(frames)
        while len(times) < 3 or (len(times) < repeats and sum(times) < limit_s):
            if on_gpu:
                torch.cuda.synchronize(frames.device)
            start = time.perf_counter()
            model(frames)
            if on_gpu:
                torch.cuda.synchronize(frames.device)
            times.append(time.perf_counter() - start)
    return count / statistics.median(times)
