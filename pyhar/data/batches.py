"""Samples put together into a batch that is cheap to hand from a worker process to the one that trains.

PyTorch hands over every tensor as a file of shared memory of its own, for which the processes shake hands: of sixteen
small tensors that costs as much as decoding a few pictures. Here pixels alone go that way, and all the rest in the
message itself. Nor is a new file made for every batch, whose pages the system would have to find and clear: a worker
writes the next one over a batch that is no longer in use, in memory that it handed over once.
"""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_IN_THE_MESSAGE = 1 << 16
"""Bytes of the largest tensor of a sample that travels with the message rather than through shared memory."""

_blocks: list[Tensor] = []
"""This worker's shared memory, uint8; the last byte of each says whether its batch is in use, in whatever process."""
_handed_over: set[int] = set()
"""Which of them the process that trains has."""
_received: dict[tuple[int, int], Bytes] = {}
"""The shared memory of this process's workers, by process and place in its list."""


class Batch(dict[str, Any]):
    """A dictionary of tensors and lists; on the other side of a process boundary it is a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: dict[str, int] = {}
        """The place in the worker's list of the shared memory that a tensor lies in."""

    def __reduce__(self) -> Any:
        small = {key: value.numpy() for key, value in self.items() if _is_own(value)}
        shared = {}
        for key, place in self.blocks.items():
            block = None if place in _handed_over else _blocks[place]
            _handed_over.add(place)
            shared[key] = place, block, self[key].nbytes, self[key].dtype, self[key].shape
        rest = {key: value for key, value in self.items() if key not in small and key not in shared}
        return _arrived, (os.getpid(), list(self), small, shared, rest)


def _is_own(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_shared()


def _arrived(
    worker: int,
    order: list[str],
    small: dict[str, np.ndarray[Any, Any]],
    shared: dict[str, tuple[int, Tensor | None, int, torch.dtype, torch.Size]],
    rest: dict[str, Any],
) -> dict[str, Any]:
    values = {key: torch.from_numpy(array) for key, array in small.items()} | rest
    for key, (place, block, size, dtype, shape) in shared.items():
        if block is not None:
            _forget_ended_workers()
            _received[worker, place] = block.numpy()
        everything = _received[worker, place]
        # Whatever views there are of a tensor made of an array, the array lives as long as the last.
        part = everything[:size]
        weakref.finalize(part, _release, everything[-1:], os.getpid()).atexit = False
        values[key] = torch.from_numpy(part).view(dtype).view(shape)
    return {key: values[key] for key in order}


def _forget_ended_workers() -> None:
    running = {child.pid for child in multiprocessing.active_children()}
    for worker, place in list(_received):
        if worker not in running:
            del _received[worker, place]


def _release(in_use: Bytes, process: int) -> None:
    # What a forked process drops, its parent may still use.
    if os.getpid() == process:
        in_use[:] = 0


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """What `torch.utils.data.default_collate` makes of samples (see `pyhar.data.sample`), as a `Batch`."""
    batch = Batch()
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if not isinstance(first, Tensor):
            batch[key] = default_collate(values)
        elif first.nbytes <= _IN_THE_MESSAGE or get_worker_info() is None:
            batch[key] = _whole(values)
        else:
            size, shape = len(values) * first.nbytes, (len(values), *first.shape)
            batch.blocks[key] = place = _unused_block(size)
            batch[key] = torch.stack(values, out=_blocks[place][:size].view(first.dtype).view(shape))
    return batch


def _whole(values: list[Tensor]) -> Tensor:
    """The tensor of which `values` are the parts in order, if there is one, else a new one."""
    whole, size = values[0]._base, values[0].numel()
    if (
        whole is not None
        and whole.shape == (len(values), *values[0].shape)
        and whole.is_contiguous()
        and all(part._base is whole and part.storage_offset() == n * size for n, part in enumerate(values))
    ):
        return whole
    return torch.stack(values)


def _unused_block(size: int) -> int:
    """The place of shared memory of at least so many bytes, from here on in use."""
    unused = (place for place, block in enumerate(_blocks) if len(block) > size and not block[-1])
    place = next(unused, len(_blocks))
    if place == len(_blocks):
        _blocks.append(torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size + 1)))
    _blocks[place][-1] = 1
    return place
