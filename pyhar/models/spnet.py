"""SPNet: multi-task 3D pose estimation and action recognition from RGB (Luvizon, Picard, Tabia, TPAMI 2020)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from pyhar.errors import UserError
from pyhar.models.action import ActionInput, ActionPart
from pyhar.models.blocks import DownscalingUnit, EntryFlow, ResidualUnit, UpscalingUnit
from pyhar.models.config import Cut, SPNetConfig
from pyhar.models.prediction import BlockMaps, PredictionBlock


class FrameFeatures(NamedTuple):
    """What the network sees in N frames, each by itself. Earliest block first."""

    poses: list[Tensor]
    """Per prediction block (N, J, dim + 1), float32: x, y, (z), confidence in normalised crop coordinates."""
    actions: list[ActionInput]
    """Per action block: what it reads of each frame, N first."""
    maps: list[BlockMaps]
    """Per prediction block, if asked for."""


@dataclasses.dataclass
class SPNetOutput:
    """What the network says, earliest block first; the last is the best."""

    poses: list[Tensor] = dataclasses.field(default_factory=list)
    """Per prediction block (B, [T,] J, dim + 1), float32: x, y, (z), confidence in normalised crop coordinates."""
    action_logits: list[list[Tensor]] = dataclasses.field(default_factory=list)
    """Per action block, per action data set: (B, classes), float32."""
    maps: list[BlockMaps] = dataclasses.field(default_factory=list)
    """Per prediction block, if asked for."""

    @property
    def actions(self) -> list[list[Tensor]]:
        """Per action block, per action data set: probabilities (B, classes), float32."""
        return [[logits.softmax(dim=-1) for logits in block] for block in self.action_logits]


class Visit(nn.Module):
    """One stop at a level on the way down or up a pyramid: change of scale, then a prediction block."""

    def __init__(
        self,
        pyramid: int,
        level: int,
        scale: DownscalingUnit | UpscalingUnit,
        action_unit: ResidualUnit | None,
        block: PredictionBlock,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.level = level
        self.scale = scale
        self.action_unit = action_unit
        self.block = block


class Step(NamedTuple):
    """One visit as planned: pyramid from 1, level from 0, whether down, and the numbers of its blocks."""

    pyramid: int
    level: int
    down: bool
    pose_block: int
    action_block: int | None


def visiting_order(config: SPNetConfig) -> list[Step]:
    """All visits of the full network in order: odd pyramids go down the levels, even ones up."""
    steps: list[Step] = []
    actions = 0
    for pyramid in range(1, config.num_pyramids + 1):
        down = pyramid % 2 == 1
        for level in range(1, config.num_levels) if down else range(config.num_levels - 2, -1, -1):
            acts = pyramid in config.action_pyramids
            steps.append(Step(pyramid, level, down, len(steps), actions if acts else None))
            actions += acts
    return steps


class SPNet(nn.Module):
    """The network. `SPNet(config)` has random weights; see `pyhar.models.io` and `pyhar.convert` for trained ones."""

    def __init__(self, config: SPNetConfig) -> None:
        super().__init__()
        self.config = config
        self.entry = EntryFlow(config.growth, config.stem_features)
        self.visits = nn.ModuleList(self._build_visits(config))
        self._pose_frozen = False
        self.apply(_initialise)

    @staticmethod
    def _build_visits(config: SPNetConfig) -> Iterator[Visit]:
        order = visiting_order(config)
        cut = config.cut
        last_action = (
            (config.num_action_blocks - 1 if cut is None else cut.action_block) if config.num_actions else None
        )
        last_pose = config.num_pose_blocks - 1 if cut is None else cut.pose_block
        ends = [
            step.pose_block
            for step in order
            if step.pose_block == last_pose or (last_action is not None and step.action_block == last_action)
        ]
        n = max(config.pose_features, config.appearance_features)
        carried = False
        for step in order[: max(ends) + 1]:
            channels = (3 + step.level) * config.growth
            before = channels - config.growth if step.down else channels + config.growth
            scale = (DownscalingUnit if step.down else UpscalingUnit)(before, config.growth, config.kernel_size)
            action_unit = action = None
            if step.action_block is not None and last_action is not None and step.action_block <= last_action:
                action_unit = ResidualUnit(n, n, 3, "separable") if carried else None
                action = ActionPart(config, channels, carried=carried, reinject=step.action_block != last_action)
                carried = True
            block = PredictionBlock(
                config,
                channels,
                wants_pose=cut is None or step.pose_block == cut.pose_block,
                reinject=step.pose_block != max(ends),
                action=action,
            )
            yield Visit(step.pyramid, step.level, scale, action_unit, block)

    @property
    def path(self) -> list[Visit]:
        """The visits in the order in which they are made."""
        return cast("list[Visit]", list(self.visits))

    @property
    def num_pose_blocks(self) -> int:
        """Poses in the output."""
        return self.config.num_pose_blocks if self.config.cut is None else int(self.config.cut.pose_block is not None)

    @property
    def num_action_blocks(self) -> int:
        """Action predictions in the output of a clip."""
        return (
            self.config.num_action_blocks if self.config.cut is None else int(self.config.cut.action_block is not None)
        )

    def forward(self, frames: Tensor, *, keep_maps: bool = False) -> SPNetOutput:
        """frames: (B, 3, H, W) stills, for which only poses are computed, or (B, T, 3, H, W) clips; RGB in [-1, 1].

        H and W are multiples of `config.size_multiple`. Raises ValueError on a wrong shape, UserError on a wrong size.
        """
        if frames.ndim not in (4, 5) or frames.shape[-3] != 3:
            raise ValueError(f"frames: expected (B, 3, H, W) or (B, T, 3, H, W), got {tuple(frames.shape)}")
        if frames.ndim == 4:
            poses, _, maps = self.frame_features(frames, actions=False, keep_maps=keep_maps)
            return SPNetOutput(poses, [], maps)
        clip = frames.shape[:2]
        if clip[1] == 0:
            raise ValueError("frames: the clip is empty (T = 0)")
        poses, actions, maps = self.frame_features(frames.flatten(0, 1), keep_maps=keep_maps)
        logits = self.recognise([ActionInput(*(part.unflatten(0, clip) for part in seen)) for seen in actions])
        return SPNetOutput([pose.unflatten(0, clip) for pose in poses], logits, maps)

    def frame_features(self, frames: Tensor, *, actions: bool = True, keep_maps: bool = False) -> FrameFeatures:
        """The pose part, which knows nothing of time: frames (N, 3, H, W), RGB in [-1, 1].

        actions: whether what the action part reads is computed too. Raises ValueError on a wrong shape, UserError on a
        wrong size.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames: expected (N, 3, H, W), got {tuple(frames.shape)}")
        height, width = frames.shape[-2:]
        if height % self.config.size_multiple or width % self.config.size_multiple:
            raise UserError(
                f"pictures of {width}x{height} pixels do not fit: "
                f"both sides must be multiples of {self.config.size_multiple}"
            )
        found = FrameFeatures([], [], [])
        x = self.entry(frames)
        features: dict[int, Tensor] = {0: x}  # X of each level
        first: dict[int, Tensor] = {0: x}  # Z0 of each level
        for visit in self.path:
            level = visit.level
            x = visit.scale(x)
            first.setdefault(level, x)
            if level in features:
                x = x + features[level]
            x, pose, seen, maps = visit.block(x, first[level], actions=actions)
            features[level] = x
            if pose is not None:
                found.poses.append(pose)
            if seen is not None:
                found.actions.append(seen)
            if keep_maps and maps is not None:
                found.maps.append(maps)
        return found

    def recognise(self, clips: Sequence[ActionInput]) -> list[list[Tensor]]:
        """The action part: what `frame_features` says of the frames, stacked to clips (B, T, ...), per action block.

        Returns logits (B, classes), float32, per action block, per action data set; of the last block alone if the
        network is cut. Raises ValueError if there are not as many inputs as action blocks.
        """
        count = sum(visit.block.action is not None for visit in self.path)
        if len(clips) != count:
            raise ValueError(f"clips: expected the input of {count} action blocks, got {len(clips)}")
        waiting = iter(clips)
        logits: list[list[Tensor]] = []
        features: dict[int, Tensor | None] = {}  # Y of each level
        y: Tensor | None = None
        for visit in self.path:
            if visit.action_unit is not None and y is not None:
                y = visit.action_unit(y)
                earlier = features.get(visit.level)
                if earlier is not None:
                    y = y + earlier
            if visit.block.action is not None:
                y, scores = visit.block.action(next(waiting), y)
                logits.append([head.float() for head in scores])
            features[visit.level] = y
        return logits if self.config.cut is None else logits[-1:]

    def cut(self, pose_block: int | None = -1, action_block: int | None = -1) -> SPNet:
        """A network that ends at these blocks and computes nothing that they do not read (Sec. 4.5.4). It shares this
        one's parameters.

        Blocks count from 0, negative ones from the end; None leaves a task out. `action_block` is ignored by a network
        without actions.
        Its output lists hold one pose and one action prediction, equal to the full network's at these blocks.
        Raises UserError if there is no such block, or if this network is cut already.
        """
        if self.config.cut is not None:
            raise UserError("this network is cut already: cut the full one")
        if not self.config.num_actions:
            action_block = None
        pose = _block_number("pose", pose_block, self.config.num_pose_blocks)
        action = _block_number("action", action_block, self.config.num_action_blocks)
        with torch.device("meta"):
            shorter = SPNet(dataclasses.replace(self.config, cut=Cut(pose, action)))
        own = dict(self.named_modules())
        for name, module in shorter.named_modules():
            module._parameters = {key: own[name]._parameters[key] for key in module._parameters}
            module._buffers = {key: own[name]._buffers[key] for key in module._buffers}
            module.training = own[name].training
        shorter._pose_frozen = self._pose_frozen
        return shorter

    def decouple(self) -> SPNet:
        """Give every action block heat-map and depth convolutions of its own, as copies of the supervised ones (Sec.
        3.3.4). In place.

        Raises UserError if the network recognises no actions, is decoupled already, or is cut.
        """
        if not self.config.num_actions:
            raise UserError("this network recognises no actions: there is nothing to decouple")
        if self.config.decoupled:
            raise UserError("this network is decoupled already")
        if self.config.cut is not None:
            raise UserError("decouple the full network, then cut it")
        self.config = dataclasses.replace(self.config, decoupled=True)
        for visit in self.path:
            block = visit.block
            block.config = self.config
            if block.action is not None:
                assert block.heat is not None
                block.action.heat = copy.deepcopy(block.heat).requires_grad_(True)
                block.action.depth = (
                    copy.deepcopy(block.depth).requires_grad_(True) if block.depth is not None else None
                )
        return self

    def action_modules(self) -> Iterator[nn.Module]:
        """The modules of the action part, replicas included."""
        for visit in self.path:
            if visit.action_unit is not None:
                yield visit.action_unit
            if visit.block.action is not None:
                yield visit.block.action

    def action_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the action part, replicas included."""
        for module in self.action_modules():
            yield from module.parameters()

    def pose_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        of_action = {id(parameter) for parameter in self.action_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in of_action)

    def freeze_pose(self, frozen: bool = True) -> SPNet:
        """Stop (or resume) the training of the pose part: no gradients, and its batch norms keep their statistics in
        train mode too."""
        self._pose_frozen = frozen
        for parameter in self.pose_parameters():
            parameter.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> SPNet:
        super().train(mode)
        if mode and self._pose_frozen:
            of_action = {id(module) for part in self.action_modules() for module in part.modules()}
            for module in self.modules():
                if id(module) not in of_action and module is not self:
                    module.training = False
        return self


def _block_number(task: Literal["pose", "action"], block: int | None, count: int) -> int | None:
    if block is None:
        return None
    if not -count <= block < count:
        raise UserError(
            f"there is no {task} block {block}: this network has {count}, counted from 0 (or from -1 backwards)"
        )
    return block % count


def _initialise(module: nn.Module) -> None:
    """Keras' default for convolutions, which the authors trained from."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
