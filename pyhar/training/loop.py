"""The training loop: stage after stage, step after step."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from pyhar import memory
from pyhar.data.sample import model_input
from pyhar.devices import computes_in_bfloat16, why_no_compiler
from pyhar.errors import UserError
from pyhar.models import ModelMeta, SPNet, save_model
from pyhar.models.io import MODEL_FILE
from pyhar.training import distributed
from pyhar.training.checkpoint import (
    CHECKPOINT_FILE,
    Progress,
    WeightAverage,
    check_network,
    content_of,
    progress_of,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from pyhar.training.config import CONFIG_FILE, StageName, TrainConfig, save_config
from pyhar.training.distributed import World
from pyhar.training.interrupt import Interrupted, Interrupts
from pyhar.training.logging import Meter, RunLog, as_row
from pyhar.training.losses import batch_losses
from pyhar.training.sampling import StepBatches, TrainingData, load
from pyhar.training.setup import build_data, describe, fit_to_data, start_from
from pyhar.training.stages import learning_rate, make_optimizer, prepare, task_at, tasks_of

_AMP_TYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TARGETS = ("pose", "pose_valid", "confidence", "action", "action_head")
_UNREADABLE_SHOWN = 10


class TrainingError(UserError):
    """Training cannot go on: a loss or gradient is not finite. The message names step, samples and the last good
    checkpoint.
    """


@dataclass
class Run:
    """What stays the same from the first step of a run to the last."""

    config: TrainConfig
    directory: Path
    world: World
    device: torch.device
    model: SPNet
    meta: ModelMeta
    data: TrainingData
    log: RunLog
    interrupts: Interrupts
    unreadable: Counter[str] = field(default_factory=Counter)
    """Why samples were replaced by others, and how often, in this process."""


def train(config: TrainConfig, directory: Path, world: World, device: torch.device, *, resume: bool = False) -> None:
    """Run the enabled stages, from the start or from the checkpoint in `directory`, and leave the trained model there.

    Raises UserError for what the user can mend, TrainingError if a loss is not finite, Interrupted after a signal.
    """
    memory.keep_large_blocks()
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(config.seed)
    _check_shares(config, world)
    if config.compile and device.type == "cpu" and (reason := why_no_compiler("--compile")) is not None:
        raise UserError(reason)
    if config.amp == "auto":  # written down, so that a resumed run keeps what it found
        config = dataclasses.replace(config, amp="bf16" if computes_in_bfloat16(device) else "off")
    data = build_data(config)
    config = fit_to_data(config, data)
    state, first = None, Progress(config.enabled_stages()[0])
    if resume:
        state = read_checkpoint(directory / CHECKPOINT_FILE)
        check_network(state, config.model, directory / CHECKPOINT_FILE)
        first = progress_of(state, directory / CHECKPOINT_FILE)
    if first.stage not in config.enabled_stages():
        raise UserError(f"{directory / CHECKPOINT_FILE} was made in stage {first.stage!r}, which is switched off")

    model = SPNet(config.model)
    left = start_from(model, config.init) if config.init and not resume else []
    model.to(device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.synchronise_batch_norms(model, device, world)
    if world.is_main:
        save_config(directory / CONFIG_FILE, config)
    log = RunLog(directory, first.global_step, active=world.is_main)
    if left:
        log.say(
            f"{len(left)} weights of the action part start anew: {config.init} has none that fit, the first {left[0]}"
        )

    stages = config.enabled_stages()
    with Interrupts(patient=world.size > 1) as interrupts:
        run = Run(config, directory, world, device, model, describe(config, data), data, log, interrupts)
        global_step = first.global_step - first.step
        try:
            for name in stages[stages.index(first.stage) :]:
                global_step = run_stage(run, name, global_step, state if name == first.stage else None)
            _tell_unreadable(run)
        finally:
            log.close()
    if world.is_main:
        save_model(directory / MODEL_FILE, model, run.meta)


def run_stage(run: Run, name: StageName, begun_at: int, state: dict[str, Any] | None) -> int:
    """Train one stage, which began at global step `begun_at`, from its start or from a checkpoint; returns the global
    step at its end.
    """
    config, stage, model, device = run.config, run.config.stage(name), run.model, run.device
    prepare(model, name)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(model, stage.optimizer)
    scaler = GradScaler(device.type, enabled=config.amp == "fp16")
    average = WeightAverage(model, stage.ema_decay) if stage.ema_decay else None
    meter, progress = Meter(device), Progress(name, 0, begun_at)
    if state is not None:
        source = run.directory / CHECKPOINT_FILE
        restore(state, source, model, optimizer, scaler, average)
        with content_of(source):
            meter.load_state_dict(state["meter"])
        progress = progress_of(state, source)
    forward: nn.Module = torch.compile(model, dynamic=False) if config.compile else model  # type: ignore[assignment]
    shares = config.data.pose_shares
    batches = StepBatches(name, stage, run.data, shares, config.seed, progress.step, run.world.rank, run.world.size)
    watch = Watch(run)

    def save() -> None:
        watch.check()
        if run.world.is_main:
            path = run.directory / CHECKPOINT_FILE
            save_checkpoint(path, progress, model, optimizer, scaler, average, meter.state_dict(), run.meta)

    run.log.begin(name, progress.step, stage.steps)
    with closing(load(run.data, batches, config.workers, device.type == "cuda")) as loader:
        for batch in loader:
            task, _ = task_at(name, progress.step)
            lr = learning_rate(stage.optimizer.lr, stage.schedule, progress.step, stage.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr

            frames = model_input(batch["frames"], device, colour_power=batch["colour_power"])
            with torch.autocast(device.type, _AMP_TYPES[config.amp], enabled=config.amp != "off"):
                output = forward(frames)
            targets = {key: batch[key].to(device, non_blocking=True) for key in _TARGETS}
            losses = batch_losses(task, output, targets, stage.loss)

            optimizer.zero_grad(set_to_none=True)
            scaler.scale(losses.total).backward()
            asked = losses.total.new_full((1,), float(run.interrupts.caught))
            row = distributed.average_gradients(parameters, torch.cat([as_row(losses), asked]), run.world)
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, stage.grad_clip or math.inf)
            progress.step += 1
            progress.global_step += 1
            due = progress.step % config.log_every == 0 or progress.step == stage.steps
            # An fp16 gradient may overflow now and then: the scaler leaves out that step. Lasting overflow is an error.
            watch.add(progress, batch["name"], row[0], norm if not scaler.is_enabled() else row[0])
            if due or device.type == "cpu":
                watch.check(overflow=scaler.is_enabled() and scaler.get_scale() < 1)
            scaler.step(optimizer)
            scaler.update()
            if average is not None:
                average.update(model)

            meter.add(row[:-1])
            run.log.advance(batch["frames"].shape[:-3].numel() * run.world.size)
            for problem in (line for reasons in batch["replaced"] for line in reasons.splitlines()):
                if problem not in run.unreadable and len(run.unreadable) < _UNREADABLE_SHOWN:
                    run.log.say(f"skipped a sample: {problem}")
                run.unreadable[problem] += 1
            if due:
                run.log.write(name, progress.step, progress.global_step, lr, meter.read())
            if progress.step % config.checkpoint_every == 0 and progress.step < stage.steps:
                save()
            if _must_stop(run, row[-1], due):
                save()
                run.log.end()
                raise Interrupted(
                    f"stopped after step {progress.step} of stage {name!r}; go on with: "
                    f"python -m pyhar.train --resume {run.directory}",
                    run.interrupts.caught,
                )

    run.log.end()
    if average is not None:
        average.copy_to(model)
    save()
    if run.world.is_main:
        save_model(run.directory / "stages" / f"{name}.safetensors", model, run.meta)
    return progress.global_step


def _tell_unreadable(run: Run) -> None:
    """Say at the end of a run what all its processes have skipped, each reason once."""
    found: Counter[str] = sum(distributed.gather(run.unreadable, run.world), Counter())
    if found:
        run.log.say(f"{found.total()} times a sample could not be read and was replaced by another:")
    for problem, times in found.most_common(_UNREADABLE_SHOWN):
        run.log.say(f"  {times} times: {problem}")
    if len(found) > _UNREADABLE_SHOWN:
        run.log.say(f"  and {len(found) - _UNREADABLE_SHOWN} other reasons")


class Watch:
    """Remembers the losses of steps until somebody looks, so that a GPU need not be waited for at every step."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps: list[tuple[str, int, list[str], Tensor]] = []

    def add(self, progress: Progress, names: list[str], loss: Tensor, norm: Tensor) -> None:
        """Remember the loss and the gradient's norm of a step on these samples."""
        self.steps.append((progress.stage, progress.step, names, torch.stack([loss, norm])))

    def check(self, overflow: bool = False) -> None:
        """Raise TrainingError at the first step since the last look that was not finite, or at the last if `overflow`.

        All processes see the same numbers, so all raise at the same step.
        """
        steps, self.steps = self.steps, []
        if not steps:
            return
        bad = (~torch.stack([value for *_, value in steps]).isfinite().all(dim=1)).nonzero()
        if len(bad) == 0 and not overflow:
            return
        stage, step, names, value = steps[int(bad[0]) if len(bad) else -1]
        samples = [name for share in distributed.gather(names, self.run.world) for name in share]
        checkpoint = self.run.directory / CHECKPOINT_FILE
        good = f"the last good one is {checkpoint}" if checkpoint.is_file() else "none had been written yet"
        what = (
            f"the loss is {value[0].item():g}, the norm of its gradient {value[1].item():g}"
            if len(bad)
            else "gradients overflow fp16 however little they are scaled"
        )
        raise TrainingError(
            f"step {step} of stage {stage!r}: {what}. Of the checkpoints, {good}. "
            "Try a lower learning rate, a grad-clip or --amp off. "
            f"The batch's samples: {', '.join(samples)}"
        )


def _must_stop(run: Run, asked: Tensor, due: bool) -> bool:
    """Whether a signal has come; several processes agree through the mean of what they `asked` for at the same step."""
    if run.world.size == 1:
        return bool(run.interrupts.caught)
    if not (due or run.device.type == "cpu") or asked.item() == 0:
        return False
    run.interrupts.caught = max(distributed.gather(run.interrupts.caught, run.world))
    return True


def _check_shares(config: TrainConfig, world: World) -> None:
    for name in config.enabled_stages():
        stage = config.stage(name)
        of_task = {"pose": ("images", stage.images), "action": ("clips", stage.clips)}
        for option, size in (of_task[task] for task in tasks_of(name)):
            if size % world.size:
                raise UserError(f"stages.{name}.{option} = {size} cannot be shared equally by {world.size} processes")
