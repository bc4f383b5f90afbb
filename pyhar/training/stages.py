"""The four stages (Sec. 4.2.3, 3.3.4): what each trains on in turn, how it prepares the network, its optimiser and
learning rate.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.optim import Optimizer

from pyhar.models import SPNet
from pyhar.training.config import OptimizerConfig, ScheduleConfig, StageName

Task = Literal["pose", "action"]

# One-cycle begins at this share of the full rate.
_ONE_CYCLE_START = 1 / 25


def tasks_of(name: StageName) -> tuple[Task, ...]:
    """The tasks that a stage's batches take in turn."""
    if name in ("pose", "action"):
        return (name,)
    return ("pose", "action")


def task_at(name: StageName, step: int) -> tuple[Task, int]:
    """The task of a step of the stage, and which of that task's batches it is, from 0."""
    tasks = tasks_of(name)
    turn, place = divmod(step, len(tasks))
    return tasks[place], turn


def prepare(model: SPNet, name: StageName) -> None:
    """Freeze or release the pose part, make the replicas of the decoupled stage, and set train mode."""
    if name == "decoupled" and not model.config.decoupled:
        model.decouple()
    model.freeze_pose(name == "action")
    model.train()


def make_optimizer(model: SPNet, config: OptimizerConfig) -> Optimizer:
    """The optimiser over all weights that train in this stage.

    A weight without a gradient at a step (the action part on a pose batch) is left as it is by that step. The tasks of
    a stage share its running means, so that RMSprop weighs their losses as configured. In the authors' code each task
    has its own, and RMSprop does not feel the weight of the action loss.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.kind == "rmsprop":
        return torch.optim.RMSprop(
            groups, lr=config.lr, alpha=config.decay, eps=config.eps, momentum=config.momentum, foreach=True
        )
    if config.kind == "sgd":
        # Not fused: that fails where some weights have their first gradient later than others, as the action part has.
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True
        )
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(lr: float, schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate at `step` (from 0) of a stage of `steps`; full rate `lr`."""
    rising = schedule.warmup * steps
    if step < rising:
        share = (step + 1) / (rising + 1)
        if schedule.kind == "one-cycle":
            return lr * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * (1 - math.cos(math.pi * share)) / 2)
        return lr * share
    if schedule.kind == "constant":
        return lr
    if schedule.kind == "step":
        return lr * schedule.factor ** sum(step >= place * steps for place in schedule.milestones)
    done = (step - rising) / max(steps - rising, 1)
    return lr * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2)
