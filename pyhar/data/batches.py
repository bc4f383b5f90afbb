"""Samples put together into a batch that is cheap to hand from a worker process to the one that trains.

PyTorch hands over every tensor as a file of shared memory of its own, for which the processes shake hands: of sixteen
small tensors that costs as much as decoding a few pictures. Here pixels alone go that way, and all the rest in the
message itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

_IN_THE_MESSAGE = 1 << 16
"""Bytes of the largest tensor of a sample that travels with the message rather than through shared memory."""


class Batch(dict[str, Any]):
    """A dictionary of tensors and lists; on the other side of a process boundary it is a plain one."""

    def __reduce__(self) -> Any:
        small = {k: v.numpy() for k, v in self.items() if isinstance(v, Tensor) and not v.is_shared()}
        return _arrived, (list(self), small, {k: v for k, v in self.items() if k not in small})


def _arrived(order: list[str], small: dict[str, np.ndarray[Any, Any]], rest: dict[str, Any]) -> dict[str, Any]:
    return {key: torch.from_numpy(small[key]) if key in small else rest[key] for key in order}


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """What `torch.utils.data.default_collate` makes of samples (see `pyhar.data.sample`), as a `Batch`."""
    batch = Batch()
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        small = isinstance(first, Tensor) and first.nbytes <= _IN_THE_MESSAGE
        # In a worker process, default_collate stacks into shared memory at once.
        batch[key] = torch.stack(values) if small else default_collate(values)
    return batch
