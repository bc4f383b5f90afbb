"""Which samples make up which batch: a pure function of (seed, stage, task, step), so a run resumes at any step without
stored state.

A stream is endless: it passes over its data set again and again, each pass in another order, and hands out keys (index,
draw); the draw number seeds the sample's augmentation. Several data sets are mixed by fixed shares.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pyhar.data.batches import collate
from pyhar.data.registry import PoseData
from pyhar.errors import UserError
from pyhar.training.config import STAGES, StageConfig, StageName
from pyhar.training.stages import Task, task_at

# Shares hold exactly within every so many samples of a mixed stream.
_MIX_BLOCK = 200
# An unreadable sample is replaced by the next of its pass; so many in a row mean that something else is wrong.
_MAX_REPLACED = 20


Key = tuple[Task, int, int, int]
"""(task, source, index, draw): one sample of the training data."""


class TrainingData(Dataset[dict[str, Any]]):
    """All data sets of a run as one, reached by (task, source, index, draw).

    The place of an action data set in `sources["action"]` is its classifier's number. A sample that cannot be read is
    replaced by its successor, and the reasons are left in `sample["replaced"]`, one a line, otherwise "".
    """

    def __init__(self, sources: dict[Task, Sequence[PoseData]]) -> None:
        self.sources = sources

    def __getitem__(self, key: Key) -> dict[str, Any]:
        task, number, index, draw = key
        source = self.sources[task][number]
        problems: list[str] = []
        while True:
            try:
                return _labelled(source[index % len(source), draw], key, problems)
            except UserError as error:
                problems.append(str(error))
                index += 1
                if len(problems) == _MAX_REPLACED:
                    raise UserError(f"{_MAX_REPLACED} samples in a row cannot be read; the last: {error}") from error

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """The samples of a batch, those of one data set together where it offers that (`pyhar.data.indexed`)."""
        samples: dict[Key, dict[str, Any]] = {}
        for task, number in dict.fromkeys(key[:2] for key in keys):
            source, own = self.sources[task][number], [key for key in keys if key[:2] == (task, number)]
            if hasattr(source, "__getitems__"):
                # One by one, below, for a batch with a sample that cannot be read.
                with contextlib.suppress(UserError):
                    read = source.__getitems__([(index % len(source), draw) for _, _, index, draw in own])
                    samples |= {key: _labelled(sample, key) for key, sample in zip(own, read, strict=True)}
        return [samples[key] if key in samples else self[key] for key in keys]


def _labelled(sample: Mapping[str, Any], key: Key, problems: Sequence[str] = ()) -> dict[str, Any]:
    task, number, _, _ = key
    classifier = {"action_head": torch.tensor(number)} if task == "action" else {}
    return {**sample, **classifier, "replaced": "\n".join(problems)}


class Stream:
    """The endless sequence of keys of one task in one stage."""

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.seed = list(seed)
        self.slots = _slots(shares or [1.0] * len(sizes))
        self._orders: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}

    def key(self, position: int) -> tuple[int, int, int]:
        """(source, index, draw) of the sample at `position`, 0, 1, 2..."""
        block, place = divmod(position, len(self.slots))
        mixed = (
            np.random.default_rng([*self.seed, 0, block]).permutation(self.slots) if len(self.sizes) > 1 else self.slots
        )
        source = int(mixed[place])
        used = block * int((self.slots == source).sum()) + int((mixed[:place] == source).sum())
        epoch, step = divmod(used, self.sizes[source])
        if source not in self._orders or self._orders[source][0] != epoch:
            rng = np.random.default_rng([*self.seed, 1, source, epoch])
            size = self.sizes[source]
            self._orders[source] = (epoch, rng.permutation(size), rng.integers(1 << 31, size=size))
        _, order, draws = self._orders[source]
        return source, int(order[step]), int(draws[step])


def _slots(shares: Sequence[float]) -> np.ndarray:
    """Source numbers in proportion to `shares`, rounded by largest remainder, each at least once."""
    if len(shares) == 1:
        return np.zeros(1, int)
    ideal = np.asarray(shares, float) / sum(shares) * _MIX_BLOCK
    counts = np.maximum(np.floor(ideal).astype(int), 1)
    for source in np.argsort(counts - ideal, kind="stable")[: max(_MIX_BLOCK - int(counts.sum()), 0)]:
        counts[source] += 1
    return np.repeat(np.arange(len(shares)), counts)


class StepBatches(Sampler[list[Key]]):
    """The batches of one stage from step `start` on; of each batch the share of process `rank` out of `world`."""

    def __init__(
        self,
        name: StageName,
        stage: StageConfig,
        data: TrainingData,
        shares: Sequence[float],
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.name, self.stage, self.start, self.rank, self.world = name, stage, start, rank, world
        self.streams: dict[Task, Stream] = {
            task: Stream(
                [len(source) for source in sources],
                shares if task == "pose" else (),
                (seed, STAGES.index(name), number),
            )
            for number, (task, sources) in enumerate(data.sources.items())
        }
        self.sizes: dict[Task, int] = {"pose": stage.images, "action": stage.clips}

    def keys(self, step: int) -> list[Key]:
        """This process's keys at one step of the stage."""
        task, turn = task_at(self.name, step)
        size, share = self.sizes[task], self.sizes[task] // self.world
        first = turn * size + self.rank * share
        return [(task, *self.streams[task].key(position)) for position in range(first, first + share)]

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.keys(step) for step in range(self.start, self.stage.steps))

    def __len__(self) -> int:
        return self.stage.steps - self.start


def load(data: TrainingData, batches: StepBatches, workers: int, pin_memory: bool) -> Generator[dict[str, Any]]:
    """Yield one collated batch per step, prepared by `workers` processes. Raises UserError if data cannot be read.

    Close it (`contextlib.closing`) when leaving early: its workers end then.
    """
    loader = DataLoader(
        data,
        batch_sampler=cast("Sampler[list[int]]", batches),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        # Its own, so that making a loader draws nothing from the training's generator.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except UserError as error:
        # A worker's error arrives with its whole traceback as the message.
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from error


def _start_worker(worker: int) -> None:
    """One thread per worker, and out of the process group, whose signals are the training process's to answer."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if os.name == "posix":
        os.setpgid(0, 0)
        # Computation goes first: samples are prepared in the time that it leaves, or waits for them.
        os.nice(10)
