"""What a run says while it goes: means of losses over intervals, to a progress bar, TensorBoard and log.jsonl."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyhar.files import write_text
from pyhar.training.config import StageName
from pyhar.training.losses import Losses

LOG_FILE = "log.jsonl"

# The order of the numbers that one step reports.
_FIELDS = ("loss", "pose_loss", "confidence_loss", "action_loss")


def as_row(losses: Losses) -> Tensor:
    """The losses of a step as one float32 tensor (4,), NaN for what does not apply; it can be averaged over processes
    in one go.
    """
    missing = losses.total.new_full((), torch.nan)
    return torch.stack([missing if part is None else part.detach() for part in losses])


class Meter:
    """Sums of rows since the last reading. It stays on the device: adding waits for nothing, reading does."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(_FIELDS), device=device)
        self.counts = torch.zeros(len(_FIELDS), device=device)

    def add(self, row: Tensor) -> None:
        """Take in the losses of one step, as `as_row` makes them."""
        known = ~row.isnan()
        self.sums += torch.where(known, row, 0.0)
        self.counts += known

    def read(self) -> dict[str, float]:
        """The means by name, of what there was; begins anew."""
        values, counts = self.sums.tolist(), self.counts.tolist()
        self.sums.zero_()
        self.counts.zero_()
        return {name: value / count for name, value, count in zip(_FIELDS, values, counts, strict=True) if count}

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that a resumed run logs the same means."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])


class RunLog:
    """The log of a run from `global_step` on: lines of later steps, left by an interrupted run, are dropped. Silent
    unless `active`.
    """

    def __init__(self, run_dir: Path, global_step: int = 0, active: bool = True) -> None:
        self.path = run_dir / LOG_FILE
        self.active = active
        self._board: Any = None
        self._bar: tqdm[Any] | None = None
        self._frames = 0
        self._since = time.perf_counter()
        if active:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(run_dir / "tensorboard"), purge_step=global_step + 1 if global_step else None
            )
            write_text(self.path, "".join(line for line in _lines(self.path) if _step(line) <= global_step))

    def begin(self, stage: StageName, step: int, steps: int) -> None:
        """Show the bar of a stage of which `step` of `steps` are done."""
        self._frames, self._since = 0, time.perf_counter()
        if self.active:
            self._bar = tqdm(
                total=steps, initial=step, desc=f"{stage:>9}", unit="step", dynamic_ncols=True, smoothing=0.1
            )

    def advance(self, frames: int) -> None:
        """One step is done, which took in so many pictures."""
        self._frames += frames
        if self._bar is not None:
            self._bar.update()

    def write(self, stage: StageName, step: int, global_step: int, lr: float, losses: dict[str, float]) -> None:
        """Put one line of means into the log, TensorBoard and the bar."""
        now = time.perf_counter()
        rate, self._frames, self._since = self._frames / max(now - self._since, 1e-9), 0, now
        if not self.active:
            return
        values = {**losses, "lr": lr, "frames_per_s": round(rate, 2)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, "global_step": global_step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{stage}/{name}", value, global_step)
        if self._bar is not None:
            shown = {name.removesuffix("_loss"): f"{value:.4f}" for name, value in losses.items()}
            self._bar.set_postfix({**shown, "frames/s": f"{rate:.0f}"}, refresh=False)

    def say(self, message: str) -> None:
        """Print a line without tearing the bar."""
        if self.active:
            tqdm.write(message)

    def end(self) -> None:
        """Take the stage's bar down, leaving its last state."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Finish everything."""
        self.end()
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    """The global step that a line is of; infinite for one that was damaged."""
    try:
        return float(json.loads(line)["global_step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf


def _lines(path: Path) -> list[str]:
    """The whole lines of a log; a last one that was cut short is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
