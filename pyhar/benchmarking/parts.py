"""Where the time of a network goes, by its parts: for `SPNet` and its deployed form alike, streamed or not."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

REST = "norms before features, heads, decoding, re-injection, sums"
# Names of modules within the network and the part that they are; the deployed network's are the same.
_PARTS = {
    r"entry\.stem": "stem",
    r"entry\.units\.0": "entry flow, 1/2",
    r"entry\.units\.[12]": "entry flow, 1/4",
    r"entry\.units\.[34]": "entry flow, 1/8",
    r"visits\.\d+\.scale": "change of scale",
    r"visits\.\d+\.block\.unit": "residual unit",
    r"visits\.\d+\.block\.features": "features",
    r"visits\.\d+\.(action_unit|action|block\.action)": "action part",
}


def time_by_part(model: nn.Module, frames: Tensor, repeats: int = 7) -> dict[str, float]:
    """Seconds of each part of `model(frames)`, the medians over `repeats` calls; the rest under `REST`.

    Waits for a GPU after every part, so that its parts sum up to more than the whole. A deployed network must be
    without graphs, which do not go through its modules.
    """
    spent: dict[str, float] = {}
    begun: list[float] = []

    def begin(*_: Any) -> None:
        _wait(frames)
        begun.append(time.perf_counter())

    hooks = []
    for name, module in model.named_modules():
        inner = re.sub(r"^(network\.)?(parts\.)?", "", name)
        part = next((part for pattern, part in _PARTS.items() if re.fullmatch(pattern, inner)), None)
        if part is None:
            continue

        def end(*_: Any, part: str = part) -> None:
            _wait(frames)
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - begun.pop()

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    rounds: list[dict[str, float]] = []
    try:
        with torch.inference_mode():
            for number in range(repeats + 1):
                spent.clear()
                _wait(frames)
                start = time.perf_counter()
                model(frames)
                _wait(frames)
                total = time.perf_counter() - start
                if number:  # the first call is a warm-up
                    rounds.append({**spent, REST: total - sum(spent.values())})
    finally:
        for hook in hooks:
            hook.remove()
    return {part: float(np.median([found[part] for found in rounds])) for part in rounds[0]}


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
