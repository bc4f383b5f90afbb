"""The prediction block (Sec. 3.2): features to maps, maps to poses and to what the action part reads, and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyhar import ops
from pyhar.models.action import ActionInput, ActionPart
from pyhar.models.blocks import ResidualUnit, SeparableConv, batch_norm, conv
from pyhar.models.config import SPNetConfig


class BlockMaps(NamedTuple):
    """Logits of one prediction block for N frames, (N, J, h, w) each; the action maps are there if they are
    decoupled."""

    heat_logits: Tensor
    depth_logits: Tensor | None
    action_heat_logits: Tensor | None
    action_depth_logits: Tensor | None


class PredictionBlock(nn.Module):
    """One prediction block (Fig. 3, 6): pose heads on F channels, re-injection, and, where it has one, an action part.

    `wants_pose` and `reinject` say whether anybody reads the pose and the output features: what nobody reads is
    neither built nor computed.
    """

    def __init__(
        self, config: SPNetConfig, channels: int, *, wants_pose: bool, reinject: bool, action: ActionPart | None
    ) -> None:
        super().__init__()
        self.config = config
        self.wants_pose = wants_pose
        joints = config.num_joints
        self.unit = ResidualUnit(channels, channels, config.kernel_size, "separable")
        self.norm1 = batch_norm(channels)
        self.features = SeparableConv(channels, channels, config.kernel_size)
        self.norm2 = batch_norm(channels)
        answers, shared = wants_pose or reinject, action is not None and not config.decoupled
        needs_depth = config.dim == 3 and (answers or (shared and config.reads_coordinates))
        self.heat = conv(channels, joints) if answers or shared else None
        self.depth = conv(channels, joints) if needs_depth else None
        self.forwarded = conv(channels, joints) if reinject and config.reinjection == "logits" else None
        self.heat_back = conv(joints if config.reinjection == "maps" else 2 * joints, channels) if reinject else None
        self.depth_back = conv(joints, channels) if reinject and config.dim == 3 else None
        self.action = action
        if action is not None and config.decoupled:
            action.heat = conv(channels, joints)
            action.depth = conv(channels, joints) if config.dim == 3 and config.reads_coordinates else None

    def forward(
        self, x: Tensor, first: Tensor, *, actions: bool, last: bool = False
    ) -> tuple[Tensor, Tensor | None, ActionInput | None, BlockMaps | None]:
        """x (N, F, h, w); first: Z0 of this level; actions: whether the action part's input is wanted; last: whether
        nobody reads the output features of this call.

        Returns output features, pose (N, J, dim + 1), what the action part reads, maps; None for what is not wanted.
        """
        cfg = self.config
        z_prime = self.unit(x)
        z = self.features(F.relu(self.norm1(z_prime)))
        a = F.relu(self.norm2(z))
        heat = self.heat(a) if self.heat is not None else None
        depth = self.depth(a) if self.depth is not None else None

        pose: Tensor | None = None
        seen: ActionInput | None = None
        action_heat = action_depth = None
        if actions and self.action is not None:
            if self.action.heat is not None:
                action_heat = self.action.heat(a)
                action_depth = self.action.depth(a) if self.action.depth is not None else None
            map_heat, map_depth = (heat, depth) if action_heat is None else (action_heat, action_depth)
            assert map_heat is not None
            source, answers = z if cfg.appearance_source == "same" else first, self.wants_pose and action_heat is None
            decoded, appearance = look(cfg, map_heat, map_depth, source, pose=answers)
            seen = ActionInput(None, None, appearance)
            if decoded is not None:
                if cfg.reads_coordinates:
                    seen = ActionInput(coordinates(decoded), decoded.confidence, appearance)
                if answers:
                    pose = join(decoded)
        if self.wants_pose and pose is None:
            assert heat is not None
            pose = join(ops.decode_pose(heat, depth, grid=cfg.grid, confidence=cfg.confidence))

        if self.heat_back is not None and not last:
            assert heat is not None
            x = z_prime + z + self._reinject(a, heat, depth)
        maps = BlockMaps(heat, depth, action_heat, action_depth) if heat is not None else None
        return x, pose, seen, maps

    def _reinject(self, a: Tensor, heat: Tensor, depth: Tensor | None) -> Tensor:
        """Maps back to features: Eq. 10, or the release's form of it."""
        assert self.heat_back is not None
        if self.forwarded is None:
            back = self.heat_back(ops.spatial_softmax(heat))
        else:
            back = self.heat_back(F.relu(torch.cat([self.forwarded(a), heat], dim=1)))
        if self.depth_back is not None and depth is not None:
            back = back + self.depth_back(depth.sigmoid() if self.forwarded is None else depth)
        return back


def look(
    config: SPNetConfig, heat: Tensor, depth: Tensor | None, source: Tensor, *, pose: bool
) -> tuple[ops.DecodedPose | None, Tensor | None]:
    """What the maps (N, J, h, w) that the action part reads hold, as far as it reads it: the pose, also there if `pose`
    asks for it, and the features of source (N, F, h, w) under each joint's map."""
    pose = pose or config.reads_coordinates
    if pose and config.reads_appearance:
        return ops.decode_pose_and_appearance(heat, source, depth, grid=config.grid, confidence=config.confidence)
    if pose:
        return ops.decode_pose(heat, depth, grid=config.grid, confidence=config.confidence), None
    return None, ops.pool_appearance(heat, source)


def coordinates(decoded: ops.DecodedPose) -> Tensor:
    """x, y and, in 3D, z of each joint: (N, J, dim)."""
    return decoded.xy if decoded.z is None else torch.cat([decoded.xy, decoded.z.unsqueeze(-1)], dim=-1)


def join(decoded: ops.DecodedPose) -> Tensor:
    """The block's answer: coordinates and confidence, (N, J, dim + 1)."""
    last = [value.unsqueeze(-1) for value in (decoded.z, decoded.confidence) if value is not None]
    return torch.cat([decoded.xy, *last], dim=-1)
