"""Prediction and action blocks in inference form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyhar import ops
from pyhar.deploy.layers import Bottleneck, Layer, Numbers, Separable, fold
from pyhar.models.action import ActionInput, ActionPart, appearance_maps, shrinking, weighted_coordinates
from pyhar.models.blocks import ResidualUnit, SeparableConv
from pyhar.models.prediction import BlockMaps, PredictionBlock, join, look


class Heads(Layer):
    """All that is read from the features A of a block as one product, and what goes back from it as another.

    The release's re-injection takes rectified forwarded and heat maps beside depth maps as they are. Depth is read
    twice then, with either sign: relu(d) - relu(-d) = d lets one rectified product serve.
    """

    scale: Tensor
    shift: Tensor
    weight: Tensor
    back: Tensor | None
    ones: Tensor | None
    zeros: Tensor | None

    def __init__(self, block: PredictionBlock, dtype: torch.dtype, *, actions: bool) -> None:
        """actions: whether the action part's own maps, if it has any, are read too."""
        super().__init__()
        self.logits = block.config.reinjection == "logits"
        heads: dict[str, Tensor] = {}
        returned: list[Tensor] = []  # weights from the head's maps back to the features, in the order of the heads
        heat_back = None if block.heat_back is None else block.heat_back.weight
        depth_back = None if block.depth_back is None else block.depth_back.weight
        if block.forwarded is not None:
            heads["forwarded"] = block.forwarded.weight
        if block.heat is not None:
            heads["heat"] = block.heat.weight
        if block.depth is not None:
            heads["depth"] = block.depth.weight
        if heat_back is not None:
            returned.append(heat_back)
            if depth_back is not None and block.depth is not None:
                returned.append(depth_back)
                if self.logits:
                    heads["negated depth"] = -block.depth.weight
                    returned.append(-depth_back)
        if actions and block.action is not None:
            if block.action.heat is not None:
                heads["action heat"] = block.action.heat.weight
            if block.action.depth is not None:
                heads["action depth"] = block.action.depth.weight
        joints = block.config.num_joints
        self.places = {name: slice(n * joints, (n + 1) * joints) for n, name in enumerate(heads)}
        back = torch.cat(returned, dim=1) if returned else None
        if back is not None and self.logits:  # the product runs over all maps as they lie: zeros where it reads nothing
            back = F.pad(back, (0, 0, 0, 0, 0, joints * len(heads) - back.shape[1]))
        scale, shift = fold(block.norm2)
        self.hold(
            scale=scale,
            shift=shift,
            weight=torch.cat(list(heads.values())).to(dtype) if heads else scale.new_empty(0),
            back=None if back is None else back.to(dtype),
            ones=scale.new_ones(joints * len(heads)) if back is not None and self.logits else None,
            zeros=scale.new_zeros(joints * len(heads)) if back is not None and self.logits else None,
        )

    def forward(self, z: Tensor) -> Tensor:
        """All maps of the features z (N, F, h, w) before their norm: (N, heads * J, h, w)."""
        return ops.convolution_unit(z, self.scale, self.shift, self.weight)

    def split(self, maps: Tensor) -> dict[str, Tensor]:
        """The maps by what they mean, as views."""
        return {name: maps[:, place] for name, place in self.places.items()}

    def reinject(self, maps: Tensor, split: dict[str, Tensor], *skips: Tensor) -> Tensor:
        """Maps back to features, and the skips added: Eq. 10, or the release's form of it."""
        assert self.back is not None
        if self.logits:
            return ops.convolution_unit(maps, self.ones, self.zeros, self.back, skips=skips)
        parts = [ops.spatial_softmax(split["heat"])]
        if "depth" in split:
            parts.append(split["depth"].sigmoid())
        back = torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)
        return ops.convolution_unit(back, None, None, self.back, skips=skips)


class Block(nn.Module):
    """`pyhar.models.spnet.PredictionBlock` without its action part."""

    def __init__(self, block: PredictionBlock, numbers: Numbers) -> None:
        super().__init__()
        assert isinstance(block.unit, ResidualUnit)
        assert isinstance(block.features, SeparableConv)
        self.config = block.config
        self.wants_pose = block.wants_pose
        self.acts = block.action is not None
        self.unit = Separable.of(block.unit, numbers)
        self.features = Separable(block.norm1, block.features, numbers)
        self.heads = Heads(block, numbers.maps, actions=False)
        own_maps = self.acts and block.config.decoupled
        self.heads_with_actions = Heads(block, numbers.maps, actions=True) if own_maps else self.heads

    def forward(
        self, x: Tensor, first: Tensor, *, actions: bool, last: bool = False
    ) -> tuple[Tensor, Tensor | None, ActionInput | None, BlockMaps | None]:
        """As `PredictionBlock.forward`."""
        cfg = self.config
        z_prime = self.unit(x, x)
        z = self.features(z_prime)
        heads = self.heads_with_actions if actions else self.heads
        if not heads.places:
            return x, None, None, None
        maps = heads(z)
        split = heads.split(maps)
        heat, depth = split.get("heat"), split.get("depth")
        own_heat, own_depth = split.get("action heat"), split.get("action depth")
        pose: Tensor | None = None
        seen: ActionInput | None = None
        if actions and self.acts:
            seen_heat, seen_depth = (heat, depth) if own_heat is None else (own_heat, own_depth)
            assert seen_heat is not None
            source, answers = z if cfg.appearance_source == "same" else first, self.wants_pose and own_heat is None
            decoded, appearance = look(cfg, seen_heat, seen_depth, source, pose=answers)
            seen = ActionInput(None, None, appearance)
            if decoded is not None:
                joined = join(decoded)
                if cfg.reads_coordinates:
                    seen = ActionInput(joined[..., :-1], decoded.confidence, appearance)
                if answers:
                    pose = joined
        if self.wants_pose and pose is None:
            assert heat is not None
            pose = join(ops.decode_pose(heat, depth, grid=cfg.grid, confidence=cfg.confidence))
        if heads.back is not None and not last:
            x = heads.reinject(maps, split, z_prime, z)
        return x, pose, seen, None if heat is None else BlockMaps(heat, depth, own_heat, own_depth)


class Action(Layer):
    """`pyhar.models.action.ActionPart`. What reads coordinates is float32: motions lie in their last digits."""

    pose_convs: Tensor | None
    appearance_conv: Tensor | None
    scale1: Tensor
    shift1: Tensor
    conv1: Tensor
    scale2: Tensor
    shift2: Tensor
    heads: Tensor
    ones: Tensor
    zeros: Tensor
    reinjection: Tensor | None

    def __init__(self, action: ActionPart, dtype: torch.dtype) -> None:
        super().__init__()
        self.pose_unit = None if action.pose_unit is None else Bottleneck(action.pose_unit, Numbers(dtype))
        self.fusion = Bottleneck(action.fusion, Numbers(dtype))
        kernels = [layer.weight for layer in action.pose_convs or () if isinstance(layer, nn.Conv2d)]
        heads = [layer.weight for layer in action.heads if isinstance(layer, nn.Conv2d)]
        self.classes = [len(head) for head in heads]
        scale1, shift1 = fold(action.norm1)
        scale2, shift2 = fold(action.norm2)
        self.hold(
            pose_convs=torch.cat([_widened(kernel, 5) for kernel in kernels]).float() if kernels else None,
            appearance_conv=None if action.appearance_conv is None else action.appearance_conv.weight.to(dtype),
            scale1=scale1,
            shift1=shift1,
            conv1=action.conv1.weight.to(dtype),
            scale2=scale2,
            shift2=shift2,
            heads=torch.cat(heads).to(dtype),
            ones=scale2.new_ones(sum(self.classes)),
            zeros=scale2.new_zeros(sum(self.classes)),
            reinjection=None if action.reinjection is None else action.reinjection.weight.to(dtype),
        )

    def forward(self, clips: ActionInput, carried: Tensor | None) -> tuple[Tensor | None, list[Tensor]]:
        """As `ActionPart.forward`; the appearance and what is carried are of the type of the maps."""
        streams: list[Tensor] = []
        if self.pose_unit is not None and self.pose_convs is not None:
            p = ops.convolution_unit(weighted_coordinates(clips), None, None, self.pose_convs)
            streams.append(_shrink(self.pose_unit(p.to(self.conv1.dtype))))
        if self.appearance_conv is not None:
            v = ops.convolution_unit(appearance_maps(clips), None, None, self.appearance_conv)
            streams.append(_shrink(v))
        u = self.fusion(torch.cat(streams if carried is None else [*streams, carried], dim=1))
        c1 = ops.convolution_unit(u, self.scale1, self.shift1, self.conv1)
        pooled = ops.extremes_unit(c1, 2)  # an odd side is padded, as "same" does
        maps = ops.convolution_unit(pooled, self.scale2, self.shift2, self.heads)
        whole = maps.shape[2], maps.shape[3]
        logits = ops.extremes_unit(maps, max(whole), whole).flatten(1).split(self.classes, dim=1)
        if self.reinjection is None:
            return None, list(logits)
        back = ops.upsampling_unit(maps)
        return ops.convolution_unit(back, self.ones, self.zeros, self.reinjection, skips=(u, c1)), list(logits)


def _shrink(x: Tensor) -> Tensor:
    """As `pyhar.models.action.shrink`."""
    padding, stride = shrinking(x)
    return ops.pooling_unit(F.pad(x, padding) if any(padding) else x, 2, stride)


def _widened(kernel: Tensor, side: int) -> Tensor:
    """A kernel (O, C, y, x) of odd sides with zeros around it: (O, C, side, side)."""
    down, across = (side - kernel.shape[2]) // 2, (side - kernel.shape[3]) // 2
    return F.pad(kernel, (across, across, down, down))
