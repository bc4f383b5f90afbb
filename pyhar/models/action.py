"""The action part of a prediction block (Sec. 3.3): poses and appearance of a clip to class scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyhar.models.blocks import ResidualUnit, batch_norm, conv, max_min_pool, max_pool
from pyhar.models.config import SPNetConfig


class ActionInput(NamedTuple):
    """What an action block reads of each frame; (...) is N for frames, (B, T) for clips. None: of a stream that the
    network does not have (`SPNetConfig.action_streams`)."""

    coordinates: Tensor | None
    """(..., J, dim), float32, normalised crop coordinates."""
    confidence: Tensor | None
    """(..., J), float32."""
    appearance: Tensor | None
    """(..., J, C): the features under each joint's map."""

    def each(self, change: Callable[[Tensor], Tensor]) -> ActionInput:
        """The same with every tensor changed."""
        return ActionInput(*(None if part is None else change(part) for part in self))


class ActionPart(nn.Module):
    """Recognises actions from joint coordinates and appearance features over time.

    Maps have time down and joints across (Fig. 5). `carried` marks that features of an earlier action block are
    concatenated, `reinject` that a later one reads this block's.
    """

    def __init__(self, config: SPNetConfig, source_channels: int, *, carried: bool, reinject: bool) -> None:
        super().__init__()
        n, inputs = config.action_features, 0
        self.pose_convs: nn.ModuleList | None = None
        self.pose_unit: ResidualUnit | None = None
        if config.reads_coordinates:
            n_pose = config.pose_features
            widths = {(3, 1): n_pose // 16, (3, 3): n_pose // 8, (3, 5): n_pose // 4}
            self.pose_convs = nn.ModuleList(conv(config.dim, width, kernel) for kernel, width in widths.items())
            self.pose_unit = ResidualUnit(sum(widths.values()), n_pose, 3, "bottleneck")
            inputs += n_pose
        self.appearance_conv: nn.Conv2d | None = None
        if config.reads_appearance:
            self.appearance_conv = conv(source_channels, config.appearance_features)
            inputs += config.appearance_features
        self.fusion = ResidualUnit(inputs + (n if carried else 0), n, 3, "bottleneck", divisor=4)
        self.norm1 = batch_norm(n)
        self.conv1 = conv(n, n, 3)
        self.norm2 = batch_norm(n)
        self.heads = nn.ModuleList(conv(n, classes, 3) for classes in config.num_actions)
        self.reinjection = conv(sum(config.num_actions), n, 3) if reinject else None
        # The replica of the heat-map and depth convolutions (Sec. 3.3.4), made by `decouple`.
        self.heat: nn.Conv2d | None = None
        self.depth: nn.Conv2d | None = None

    def forward(self, clips: ActionInput, carried: Tensor | None) -> tuple[Tensor | None, list[Tensor]]:
        """clips: (B, T, ...); carried (B, N, T', J') or None.

        Returns the features to carry on, (B, N, T', J') or None if nothing reads them, and the logits (B, classes) per
        data set.
        """
        streams: list[Tensor] = []
        if self.pose_convs is not None and self.pose_unit is not None:
            p = weighted_coordinates(clips).to(self.norm1.weight.dtype)  # float32, whatever the network is
            streams.append(shrink(self.pose_unit(torch.cat([layer(p) for layer in self.pose_convs], dim=1))))
        if self.appearance_conv is not None:
            streams.append(shrink(self.appearance_conv(appearance_maps(clips))))
        u = self.fusion(torch.cat(streams if carried is None else [*streams, carried], dim=1))
        c1 = self.conv1(F.relu(self.norm1(u)))
        w = F.relu(self.norm2(max_min_pool(c1)))
        maps = [head(w) for head in self.heads]
        logits = [a.amax(dim=(2, 3)) + a.amin(dim=(2, 3)) for a in maps]
        if self.reinjection is None:
            return None, logits
        back = F.interpolate(torch.cat(maps, dim=1), scale_factor=2, mode="nearest")
        return u + c1 + self.reinjection(F.relu(back)), logits


def weighted_coordinates(clips: ActionInput) -> Tensor:
    """What the pose stream reads of clips (B, T, ...): (B, dim, T, J)."""
    if clips.coordinates is None or clips.confidence is None:
        raise ValueError("clips: the network reads coordinates and confidence, which are not there")
    return (clips.coordinates * clips.confidence.unsqueeze(-1)).permute(0, 3, 1, 2)


def appearance_maps(clips: ActionInput) -> Tensor:
    """What the appearance stream reads of clips (B, T, ...): (B, C, T, J)."""
    if clips.appearance is None:
        raise ValueError("clips: the network reads appearance, which is not there")
    return clips.appearance.permute(0, 3, 1, 2)


def shrink(x: Tensor) -> Tensor:
    """Zero-pad (B, C, T, J) so that joints divide by 4 and time by twice its stride, then max-pool 2x2; long clips
    shrink in time too."""
    (left, right, top, bottom), stride = shrinking(x)
    return max_pool(_join_zeros(_join_zeros(x, 3, left, right), 2, top, bottom), 2, stride)


def _join_zeros(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zero-pad along a dimension. Not by F.pad: exported to ONNX, that and the max-pool after it are taken for one pool
    by onnxruntime before 1.32 (and by onnxsim), in which what was padded never wins."""
    shape = list(x.shape)
    parts = [x]
    for place, count in ((0, before), (2, after)):
        if count:
            shape[dim] = count
            parts.insert(place, x.new_zeros(shape))
    return torch.cat(parts, dim) if len(parts) > 1 else x


def shrinking(x: Tensor) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """How `shrink` pads (left, right, top, bottom) and strides (down, across) over (B, C, T, J)."""
    stride = 2 if x.shape[-2] >= 16 else 1
    time, joints = -x.shape[-2] % (2 * stride), -x.shape[-1] % 4
    return (joints // 2, joints - joints // 2, time // 2, time - time // 2), (stride, 2)
