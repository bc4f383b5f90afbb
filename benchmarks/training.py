"""What does a training step cost, and what do layout, our kernels and half precision make of it?

`python -m benchmarks.training` takes steps of the joint stage (a batch of stills and a batch of clips: forward, losses,
backward, clipping, optimiser) on random batches and writes benchmarks/results/<device>/training.json. Each
implementation lives in a process of its own, since what `pyhar.memory` tells the C library cannot be taken back; they
take turns, step by step, in an order drawn anew each round. Before any of that the losses of all, and the norms of
their gradients, must agree with plain PyTorch's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import describe, results_folder, write_json
from benchmarks.measure import quantiles
from benchmarks.report import ratio
from pyhar import cli, memory, ops
from pyhar.devices import exact_float32
from pyhar.errors import UserError
from pyhar.models import SPNet
from pyhar.training.config import get_train_preset
from pyhar.training.losses import batch_losses
from pyhar.training.stages import Task, make_optimizer, prepare

TASKS: tuple[Task, ...] = ("pose", "action")


@dataclasses.dataclass(frozen=True)
class Implementation:
    """How a step is computed."""

    ours: bool = True
    """pyhar's kernels, channels_last, and memory kept between steps; else plain PyTorch as it comes."""
    half: bool = False
    """bfloat16 autocast."""
    compiled: bool = False
    tolerance: float = 1e-3
    """Of losses, relative; of the norms of gradients ten times as much."""


IMPLEMENTATIONS = {
    "plain PyTorch": Implementation(ours=False),
    "plain PyTorch, bfloat16": Implementation(ours=False, half=True, tolerance=0.05),
    "torch.compile": Implementation(ours=False, compiled=True),
    "pyhar": Implementation(),
    "pyhar, bfloat16": Implementation(half=True, tolerance=0.05),
    "pyhar, torch.compile": Implementation(compiled=True),
}
PLAIN = "plain PyTorch"
BATCHES = {"small": (16, 4)}  # stills, clips; of the other presets a clip, and as many stills as it has frames


class Steps:
    """Training steps of the joint stage on two random batches."""

    def __init__(self, preset: str, how: Implementation, device: torch.device) -> None:
        config, self.device, self.how = get_train_preset(preset), device, how
        if how.ours:
            memory.keep_large_blocks()
        torch.manual_seed(0)
        self.stage = config.stages.joint
        self.model = SPNet(config.model).to(device)
        if how.ours:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        prepare(self.model, "joint")
        self.forward: Any = torch.compile(self.model, dynamic=False) if how.compiled else self.model
        self.optimizer = make_optimizer(self.model, self.stage.optimizer)
        stills, clips = BATCHES.get(preset, (config.model.clip_frames, 1))
        self.batches = {
            "pose": self._batch((stills,), config.model.image_size, config.model.num_joints),
            "action": self._batch((clips, config.model.clip_frames), config.model.image_size, config.model.num_joints),
        }

    def _batch(self, lead: tuple[int, ...], size: int, joints: int) -> tuple[Tensor, dict[str, Tensor]]:
        frames = torch.rand(*lead, 3, size, size) * 2 - 1
        targets = {
            "pose": torch.rand(*lead, joints, 3),
            "pose_valid": torch.ones(*lead, joints, 3, dtype=torch.bool),
            "confidence": torch.ones(*lead, joints),
            "action": torch.zeros(lead[0], dtype=torch.long),
            "action_head": torch.zeros(lead[0], dtype=torch.long),
        }
        return frames.to(self.device), {name: value.to(self.device) for name, value in targets.items()}

    def step(self, task: Task, update: bool) -> tuple[float, float, float]:
        """Return the seconds of a step, its loss and the norm of its gradient; without `update` the weights stay, and
        float32 is exact on a GPU too, for the numbers to be compared.
        """
        frames, targets = self.batches[task]
        begin = time.perf_counter()
        with contextlib.ExitStack() as stack:
            if not self.how.ours:
                stack.enter_context(ops.use_backend("eager"))
            if not update:
                stack.enter_context(exact_float32())
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.how.half):
                output = self.forward(frames)
            loss = batch_losses(task, output, targets, self.stage.loss).total
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.stage.grad_clip or float("inf"))
            if update:
                self.optimizer.step()
        value = loss.item()
        return time.perf_counter() - begin, value, norm.item()


def work(pipe: Connection, preset: str, how: Implementation, device: str, threads: int) -> None:
    """Take the steps that are asked for through `pipe`, until None is."""
    if device == "cpu":
        torch.set_num_threads(threads)
    steps = Steps(preset, how, torch.device(device))
    while (asked := pipe.recv()) is not None:
        pipe.send(steps.step(*asked))


def measure(preset: str, names: list[str], device: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return implementation -> task -> quantiles of the seconds of a step, or the reason why it has none."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    for name in names:
        pipes[name], other = context.Pipe()
        arguments = (other, preset, IMPLEMENTATIONS[name], device, threads)
        workers.append(context.Process(target=work, args=arguments, daemon=True))
        workers[-1].start()

    def ask(name: str, task: Task, update: bool = True) -> tuple[float, float, float]:
        pipes[name].send((task, update))
        answer: tuple[float, float, float] = pipes[name].recv()
        return answer

    first = {name: {task: ask(name, task, update=False)[1:] for task in TASKS} for name in names}
    wrong: dict[str, str] = {}
    for name in names:
        for task in TASKS:
            for what, factor, value, expected in zip(
                ("loss", "gradient's norm"), (1, 10), first[name][task], first[names[0]][task], strict=True
            ):
                if not abs(value - expected) <= factor * IMPLEMENTATIONS[name].tolerance * abs(expected):
                    wrong[name] = f"its {task} {what} is {value:.6g}, plain PyTorch's {expected:.6g}"
    timed = [name for name in names if name not in wrong]
    times: dict[str, dict[Task, list[float]]] = {name: {task: [] for task in TASKS} for name in timed}
    order = random.Random(0)
    for done in range(-2, rounds):
        order.shuffle(timed)
        for name in timed:
            for task in TASKS:
                seconds, *_ = ask(name, task)
                if done >= 0:
                    times[name][task].append(seconds)
    for name, worker in zip(names, workers, strict=True):
        pipes[name].send(None)
        worker.join()

    results: dict[str, Any] = {}
    for name in names:
        if name in wrong:
            results[name] = {"status": "wrong", "reason": wrong[name]}
            continue
        results[name] = {"status": "ok"}
        for kind in (*TASKS, "both"):
            values, plain = (
                [sum(one) for one in zip(*times[n].values(), strict=True)]
                if kind == "both"
                else times[n][cast(Task, kind)]
                for n in (name, names[0])
            )
            median, q1, q3, least = (round(v, 4) for v in quantiles(values))
            speedup = quantiles([p / v for p, v in zip(plain, values, strict=True)])[0]
            results[name][kind] = {
                "median_s": median, "q1_s": q1, "q3_s": q3, "min_s": least, "speedup": round(speedup, 3)
            }  # fmt: skip
    return results


def show(preset: str, results: dict[str, Any]) -> None:
    """Print the table of one preset."""
    table = Table(title=f"{preset}: seconds of a step", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("implementation", *TASKS, "both"):
        table.add_column(column, no_wrap=True)
    for name, found in results.items():
        if found["status"] != "ok":
            table.add_row(name, found["reason"])
            continue
        table.add_row(name, *(f"{found[t]['median_s']:.3f} ({ratio(found[t]['speedup'])})" for t in (*TASKS, "both")))
    Console(highlight=False, width=None if Console().is_terminal else 150).print(table)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write. Returns 1 if an implementation of ours is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["small", "penn"], help="default: small penn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU (default: 2)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each kind (default: 7)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; it takes minutes")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: benchmarks/results/<device>)")
    options = parser.parse_args(argv)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu")
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    names = [name for name, how in IMPLEMENTATIONS.items() if options.compile or not how.compiled]
    results = {}
    for preset in options.presets:
        results[preset] = measure(preset, names, options.device, options.threads, options.rounds)
        show(preset, results[preset])
    path = (options.out or results_folder(device)) / "training.json"
    write_json(path, describe(device) | {"rounds": options.rounds, "presets": results})
    print(f"written: {path}")
    wrong = [name for found in results.values() for name in found if found[name]["status"] == "wrong"]
    return int(any(IMPLEMENTATIONS[name].ours for name in wrong))


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
