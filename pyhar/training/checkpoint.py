"""The state of a run between two steps, in one file, and the running mean of weights.

Nothing is stored for the order of samples or the learning rate: both follow from the step.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from pyhar.errors import UserError, reason
from pyhar.files import write_bytes
from pyhar.models import ModelMeta, SPNet, SPNetConfig
from pyhar.models.io import describe, load_weights
from pyhar.training.config import StageName

CHECKPOINT_FILE = "last.pt"

_FORMAT = 1


@dataclasses.dataclass
class Progress:
    """Where a run stands: `step` steps of `stage` are done, `global_step` in all."""

    stage: StageName
    step: int = 0
    global_step: int = 0


class WeightAverage:
    """An exponential running mean of a network's weights; buffers (batch-norm statistics) are not averaged but taken as
    they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.names = [name for name, _ in model.named_parameters()]
        self.mean = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step. Early means are shorter, so that the first weights do not linger."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        torch._foreach_lerp_(self.mean, [p.detach() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model` the mean weights."""
        for parameter, mean in zip(model.parameters(), self.mean, strict=True):
            parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "mean": dict(zip(self.names, self.mean, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.updates = state["updates"]
        for name, mean in zip(self.names, self.mean, strict=True):
            mean.copy_(state["mean"][name])


def save_checkpoint(
    path: Path,
    progress: Progress,
    model: SPNet,
    optimizer: Optimizer,
    scaler: GradScaler,
    average: WeightAverage | None,
    meter: dict[str, Any],
    meta: ModelMeta | None = None,
) -> None:
    """Write everything that the next step depends on, atomically; meta: what the network's numbers mean."""
    state = {
        "format": _FORMAT,
        "progress": dataclasses.asdict(progress),
        "config": model.config.to_dict(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer_kind": type(optimizer).__name__,
        "scaler": scaler.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "meter": meter,
        "meta": None if meta is None else dataclasses.asdict(meta),
        "rng": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if _on_cuda(model.parameters()) else None,
        },
    }
    content = io.BytesIO()  # torch.save does not say that a disk is full
    torch.save(state, content)
    write_bytes(path, content.getvalue())  # shares the memory; freeing a view of it crashes Python 3.12.1


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint to the CPU; raises UserError if it is missing or damaged."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"nothing to resume at {file}: there is no such checkpoint")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever reading other bytes as a pickle ends in
        raise UserError(
            f"{file} is not a whole checkpoint: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] != _FORMAT:
        raise UserError(f"{file} is not a checkpoint of this version of pyhar")
    return state


def load_network(path: str | os.PathLike[str]) -> tuple[SPNet, ModelMeta]:
    """The network in a checkpoint, on the CPU and in eval mode, as its stage would leave it: with the running mean of
    weights, where one is kept. Raises UserError as `read_checkpoint` does.
    """
    state = read_checkpoint(path)
    with content_of(path):
        model, meta = describe(state["config"], state.get("meta"), state["model"])
        load_weights(model, state["model"], str(path), assign=True)
        if state["average"] is not None:
            average = WeightAverage(model, 0.0)
            average.load_state_dict(state["average"])
            average.copy_to(model)
        return model.float().eval(), meta


@contextmanager
def content_of(source: str | os.PathLike[str]) -> Iterator[None]:
    """Where what a checkpoint holds is taken apart, and is not what it should be: raises UserError that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, UserError) and str(source) in str(error):
            raise
        raise UserError(f"{source} is damaged, or no checkpoint of pyhar's ({reason(error)})") from error


def check_network(state: dict[str, Any], config: SPNetConfig, source: Path) -> None:
    """Raise UserError if a checkpoint's network is not `config`'s; whether it is decoupled is a matter of the stage."""
    with content_of(source):
        kept = SPNetConfig.from_dict(state["config"])
    for field in dataclasses.fields(config):
        here, there = getattr(config, field.name), getattr(kept, field.name)
        if here != there and field.name != "decoupled":
            raise UserError(f"the network of {source} has {field.name} {there}, this configuration's {here}")


def progress_of(state: dict[str, Any], source: str | os.PathLike[str]) -> Progress:
    """Where the run stood that wrote this checkpoint. Raises UserError if it does not say."""
    with content_of(source):
        made = Progress(**state["progress"])
        if made.stage not in get_args(StageName) or type(made.step) is not int or type(made.global_step) is not int:
            raise ValueError(f"it stands at {made}")
        return made


def restore(
    state: dict[str, Any],
    source: str | os.PathLike[str],
    model: SPNet,
    optimizer: Optimizer,
    scaler: GradScaler,
    average: WeightAverage | None,
) -> None:
    """Put the content of the checkpoint read from `source` where it came from. The network must be prepared for the
    checkpoint's stage."""
    with content_of(source):
        if state["optimizer_kind"] != type(optimizer).__name__:
            raise UserError(f"{source} was made by {state['optimizer_kind']}, not by {type(optimizer).__name__}")
        load_weights(model, state["model"], str(source))
        constants = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(optimizer.param_groups, constants, strict=True):  # they may have been changed since
            group.update(own)
            if isinstance(optimizer, torch.optim.RMSprop) and group["momentum"]:
                for kept in (optimizer.state[p] for p in group["params"] if p in optimizer.state):
                    kept.setdefault("momentum_buffer", torch.zeros_like(kept["square_avg"]))
        if state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        if average is not None:
            if state["average"] is None:
                raise UserError(f"{source} holds no mean of weights: resume with the ema-decay it was made with")
            average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"]["cpu"])
        if state["rng"]["cuda"] is not None and _on_cuda(model.parameters()):
            torch.cuda.set_rng_state(state["rng"]["cuda"])


def _on_cuda(parameters: Iterable[Tensor]) -> bool:
    return next(iter(parameters)).is_cuda
