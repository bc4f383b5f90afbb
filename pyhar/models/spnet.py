"""SPNet: multi-task 3D pose estimation and action recognition from RGB (Luvizon, Picard, Tabia, TPAMI 2020)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from pyhar.errors import UserError
from pyhar.models.action import ActionInput, ActionPart
from pyhar.models.blocks import DownscalingUnit, EntryFlow, ResidualUnit, UpscalingUnit
from pyhar.models.config import Cut, SPNetConfig
from pyhar.models.prediction import PredictionBlock
from pyhar.models.two_parts import TwoPartNetwork


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

    @property
    def acts(self) -> bool:
        """Whether an action block is here."""
        return self.block.action is not None

    def arrive(self, x: Tensor, lateral: Tensor | None) -> Tensor:
        """Change the scale of x and add the features that this level had before, if it had any."""
        x = self.scale(x)
        return x if lateral is None else x + lateral

    def recognise(
        self, clips: ActionInput, y: Tensor | None, earlier: Tensor | None
    ) -> tuple[Tensor | None, list[Tensor]]:
        """`ActionPart.forward`; y: what was carried here, earlier: what this level carried on before, if there was."""
        assert self.block.action is not None
        if self.action_unit is not None and y is not None:
            y = self.action_unit(y)
            if earlier is not None:
                y = y + earlier
        carried: tuple[Tensor | None, list[Tensor]] = self.block.action(clips, y)
        return carried


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


class SPNet(TwoPartNetwork):
    """The network. `SPNet(config)` has random weights; see `pyhar.models.io` and `pyhar.convert` for trained ones."""

    entry: EntryFlow

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
        n = config.action_features
        carried = False
        for step in order[: max(ends) + 1]:
            channels = (3 + step.level) * config.growth
            before = channels - config.growth if step.down else channels + config.growth
            scale = (DownscalingUnit if step.down else UpscalingUnit)(before, config.growth, config.kernel_size)
            action_unit = action = None
            if step.action_block is not None and last_action is not None and step.action_block <= last_action:
                action_unit = ResidualUnit(n, n, 3, config.action_layers) if carried else None
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

    def cut(self, pose_block: int | None = -1, action_block: int | None = -1) -> SPNet:
        """A network that ends at these blocks and computes nothing that they do not read (Sec. 4.5.4). It shares this
        one's parameters.

        Blocks count from 0, negative ones from the end; None leaves a task out. `action_block` is ignored by a network
        without actions. Its output lists hold one pose and one action prediction, equal to the full network's at these
        blocks. Raises UserError if there is no such block, or if this network is cut already.
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
                if block.depth is not None and self.config.reads_coordinates:
                    block.action.depth = copy.deepcopy(block.depth).requires_grad_(True)
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
