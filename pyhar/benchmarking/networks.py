"""The networks that are measured: presets with random weights, and trained ones; whole or cut after a pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pyhar.errors import UserError, unknown_name
from pyhar.models import PRESETS, SPNet, get_preset, load_model
from pyhar.models.spnet import visiting_order

Inputs = Literal["image", "images", "clip", "stream"]
IMAGES = 16


@dataclass(frozen=True)
class CutPlace:
    """Where a network ends: after which pyramid, and the numbers of the blocks whose answers are its own."""

    pyramid: int
    pose_block: int | None
    action_block: int | None

    def apply(self, model: SPNet, given: Inputs) -> SPNet:
        """The network that ends here, made for this input: stills have no actions."""
        if model.config.cut is not None:
            return model
        return model.cut(self.pose_block, self.action_block if given in ("clip", "stream") else None)


def load(name: str, device: torch.device) -> SPNet:
    """A preset with random weights, or the network of a run directory or model file; in eval mode.

    Raises UserError if there is neither, or for a file that is no model.
    """
    if name in PRESETS:
        return random_network(name).to(device)
    if not Path(name).exists():
        raise unknown_name("preset (and no model file or run directory)", name, PRESETS)
    return load_model(name, device)[0]


def random_network(preset: str) -> SPNet:
    """A preset's network with random weights, always the same, and norms that keep activations of order 1."""
    torch.manual_seed(0)
    model = SPNet(get_preset(preset)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    side = model.config.size_multiple * 2
    with torch.no_grad():
        model(torch.rand(2, 8, 3, side, side) * 2 - 1)
    return model.eval()


def cut_places(model: SPNet, which: Literal["none", "pyramids"]) -> list[CutPlace]:
    """Where to cut: not at all, so that the last answers alone are computed, or after every pyramid in turn.

    Raises UserError for a network that is cut already and should be cut again.
    """
    config = model.config
    if config.cut is not None:
        if which == "pyramids":
            raise UserError("this network is cut already: measure cuts on the full one")
        return [CutPlace(config.num_pyramids, config.cut.pose_block, config.cut.action_block)]
    last = {step.pyramid: step for step in visiting_order(config)}
    places = [CutPlace(step.pyramid, step.pose_block, step.action_block) for step in last.values()]
    if which == "pyramids":
        return places
    actions = config.num_action_blocks
    return [CutPlace(config.num_pyramids, config.num_pose_blocks - 1, actions - 1 if actions else None)]


def frames_for(model: SPNet, given: Inputs, device: torch.device) -> Tensor:
    """Random frames in [-1, 1], always the same: (1, 3, S, S), (16, 3, S, S) or (1, T, 3, S, S).

    Of a stream the first clip; one frame for a network that recognises no actions, which needs no other.
    """
    size = (3, model.config.image_size, model.config.image_size)
    image, clip = (1, *size), (1, model.config.clip_frames, *size)
    stream = clip if model.num_action_blocks else image
    shape = {"image": image, "images": (IMAGES, *size), "clip": clip, "stream": stream}[given]
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=generator) * 2 - 1).to(device)


def clips_of_stream(clip: Tensor) -> list[Tensor]:
    """The clips (1, T, 3, H, W) that end with each new frame of a stream, which shows this clip again and again; after
    the last comes the first."""
    frames = clip.shape[1]
    twice = clip.repeat(1, 2, 1, 1, 1)
    return [twice[:, first : first + frames] for first in range(frames)]
