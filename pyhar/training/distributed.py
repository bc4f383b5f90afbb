"""Several processes, one global batch: `torchrun --nproc-per-node=2 -m pyhar.train` (gloo on a CPU, nccl on GPUs).

Each process takes an equal share of every batch. Batch norms see the whole batch, and gradients are averaged after the
backward pass, so the result is that of one process with the whole batch, up to rounding. Averaging by hand, not through
DistributedDataParallel, because pose batches leave the action part without gradients and the stages change what trains.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyhar.devices import choose_device


@dataclass(frozen=True)
class World:
    """This process's place: rank 0 writes files and shows progress."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def start(device_name: str) -> tuple[World, torch.device]:
    """Join the group that torchrun describes in the environment, or make a world of one; returns it and the device.

    "cuda" and "auto" give each process a GPU of its own. Raises UserError if there is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if device == torch.device("cuda"):
        device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return World(), device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device


def stop() -> None:
    """Leave the group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter], extra: Tensor, world: World) -> Tensor:
    """Replace every gradient by its mean over processes, in one exchange; returns the mean of `extra` (n,), which rides
    along.

    All processes must have gradients on the same parameters, which holds when they run the same task.
    """
    if world.size == 1:
        return extra
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [g.reshape(-1) for g in gradients] + [extra]
    flat = torch.cat(parts)
    dist.all_reduce(flat)
    flat.div_(world.size)
    *averaged, shared = flat.split([part.numel() for part in parts])
    for gradient, mean in zip(gradients, averaged, strict=True):
        gradient.copy_(mean.view(gradient.shape))
    return shared.to(extra.dtype, copy=True)


def gather(value: Any, world: World) -> list[Any]:
    """The values of all processes, in order of rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def synchronise_batch_norms(model: nn.Module, device: torch.device, world: World) -> None:
    """Make the batch norms of `model` take their statistics over all processes, in place. Parameters and buffers stay
    as they are.
    """
    if world.size == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, for the CPU (torch's own is for GPUs). Shares must be of equal
    size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape, normalised; in eval mode as any batch norm."""
        if not self.training:
            return super().forward(x)
        world = dist.get_world_size()
        inputs = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * world
        mean = _Sum.apply(inputs.sum((0, 2, 3))) / count
        centred = inputs - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
