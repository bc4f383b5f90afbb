"""A network under judgement: what the protocols of poses, actions and speed share."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyhar.data.sample import model_input
from pyhar.deploy import DeployedSPNet, deploy
from pyhar.errors import UserError
from pyhar.evaluation.loading import Skipped, batches
from pyhar.evaluation.results import SampleScore
from pyhar.models import SPNet, SPNetOutput
from pyhar.models.spnet import Step, visiting_order

SHOWN = 6
"""How many of the best and of the worst samples are remembered."""


@dataclass
class Judge:
    """What all protocols share."""

    model: SPNet
    device: torch.device
    batch_size: int
    workers: int
    progress: bool
    action_head: int
    dtype: torch.dtype | None
    skipped: Skipped = field(default_factory=Skipped)

    def in_form(self, model: SPNet) -> SPNet | DeployedSPNet:
        """The network in the form that is judged."""
        return model if self.dtype is None else deploy(model, dtype=self.dtype)

    @cached_property
    def network(self) -> SPNet | DeployedSPNet:
        """What is judged."""
        return self.in_form(self.model)

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> SPNetOutput:
        """The network on uint8 frames of a batch."""
        output: SPNetOutput = self.network(model_input(frames, self.device))
        return output

    @property
    def clips_at_once(self) -> int:
        """Clips in a batch of as many frames."""
        return max(self.batch_size // self.model.config.clip_frames, 1)

    def bar(self, total: int, what: str) -> Any:
        return tqdm(total=total, desc=f"evaluating {what}", leave=False, disable=not self.progress)

    def batches(self, read: Any, keys: list[Any], batch_size: int, what: str) -> Iterable[tuple[list[Any], Any]]:
        """Batches of samples that could be read; the rest is counted. Raises UserError if none could."""
        read_any, first = False, ""
        with self.bar(len(keys), what) as bar:
            for good, batch, bad in batches(read, keys, batch_size, self.workers, pin=self.device.type == "cuda"):
                for _, reason in bad:
                    self.skipped.add(reason)
                    first = first or reason
                if good:
                    read_any = True
                    yield good, batch
                bar.update(len(good) + len(bad))
        if keys and not read_any:
            raise UserError(f"none of the {len(keys)} samples ({what}) could be read; the first: {first}")


def places(model: SPNet, kind: Literal["pose_block", "action_block"]) -> list[Step]:
    """Where the network's blocks of a kind lie, in the order of its output."""
    steps = [step for step in visiting_order(model.config) if getattr(step, kind) is not None]
    if model.config.cut is None:
        return steps
    number = getattr(model.config.cut, kind)
    return [step for step in steps if getattr(step, kind) == number]


def extremes(ranked: list[tuple[float, int, str]]) -> tuple[list[SampleScore], list[SampleScore]]:
    """The best (smallest) and the worst, from the outermost inwards; none is in both."""

    def scores(chosen: list[tuple[float, int, str]]) -> list[SampleScore]:
        return [SampleScore(index, name, error if np.isfinite(error) else None) for error, index, name in chosen]

    count = min(SHOWN, len(ranked) // 2)
    return scores(heapq.nsmallest(count, ranked)), scores(heapq.nlargest(count, ranked))
