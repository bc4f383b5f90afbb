"""The network in its inference form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyhar.deploy.blocks import Action, Block
from pyhar.deploy.graphs import Graphs
from pyhar.deploy.layers import Entry, Numbers, Separable, Standard, deploy_scale
from pyhar.errors import UserError, unknown_name
from pyhar.kernels import native
from pyhar.kernels.cpu_entry import entry, instruction_set, why_unusable
from pyhar.models.action import ActionInput
from pyhar.models.spnet import SPNet, Visit
from pyhar.models.two_parts import FrameFeatures, SPNetOutput, TwoPartNetwork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


def deploy(
    model: SPNet,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    graph: bool = True,
) -> DeployedSPNet:
    """The inference form of `model`, cut or not, with its weights copied and its running statistics folded.

    dtype: of maps and weights: float32, bfloat16 or float16; or int8, on a CPU that multiplies it: the products of the
    entry flow and of the separable units of prediction blocks and changes of scale are int8 then (`pyhar.ops.int8`),
    and all else is bfloat16 where the CPU multiplies that too, else float32. Coordinates, depth, confidence and scores
    are float32 always. device: where it runs; None: where the model is. graph: keep the calls that the network makes
    for each shape of input and repeat them, on a CUDA device as a CUDA graph; of several threads one computes at a time
    then. Raises UserError on another dtype, where int8 cannot be served, and of a network that is deployed already.
    """
    if not isinstance(model, SPNet):
        raise UserError(f"only an SPNet can be deployed, not a {type(model).__name__}: keep the one it was made of")
    if dtype not in DTYPES.values():
        raise UserError(f"cannot deploy in {dtype}: use float32, bfloat16, float16 or int8")
    where = next(model.parameters()).device if device is None else torch.device(device)
    if dtype == torch.int8:
        _check_int8(where)
    return DeployedSPNet(model, dtype, where, graph=graph)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type called "float32", "bfloat16", "float16", "int8", or "auto": bfloat16 where `device` multiplies it in
    hardware, else float32.

    Raises UserError if the name is unknown, and if `device` does not multiply int8.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise unknown_name("dtype", name, [*DTYPES, "auto"])
    if name == "int8":
        _check_int8(device)
    return DTYPES[name]


def _check_int8(device: torch.device) -> None:
    remedy = "use bfloat16 or float32 ('auto' chooses)"
    if device.type != "cpu":
        raise UserError(f"int8 is served on CPUs, not on {device.type}: {remedy}")
    reason = why_unusable()
    if reason is None and not entry("cpu_has_int8_units")():
        reason = f"the CPU's instruction set {instruction_set()} does not multiply it (VNNI or AMX does)"
    if reason is not None:
        raise UserError(f"int8 cannot be served: {reason}; {remedy}")


def numbers_of(dtype: torch.dtype, device: torch.device) -> Numbers:
    """What a network deployed in `dtype` on `device` computes in."""
    if dtype != torch.int8:
        return Numbers(dtype)
    return Numbers(torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32, int8=True)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    module = native.load()
    return module is not None and module.cpu_has_bfloat16_units()


class DeployedVisit(nn.Module):
    """`pyhar.models.spnet.Visit` in inference form."""

    def __init__(self, visit: Visit, numbers: Numbers) -> None:
        super().__init__()
        self.level = visit.level
        self.scale = deploy_scale(visit.scale, numbers)
        self.block = Block(visit.block, numbers)
        unit, action = visit.action_unit, visit.block.action
        self.action_unit: Separable | Standard | None = None
        if unit is not None and visit.block.config.action_layers == "standard":
            self.action_unit = Standard(unit, numbers.maps)
        elif unit is not None:
            self.action_unit = Separable.of(unit, Numbers(numbers.maps))
        self.action = None if action is None else Action(action, numbers.maps)

    @property
    def acts(self) -> bool:
        """As `Visit.acts`."""
        return self.action is not None

    def arrive(self, x: Tensor, lateral: Tensor | None) -> Tensor:
        """As `Visit.arrive`."""
        arrived: Tensor = self.scale(x) if lateral is None else self.scale(x, lateral)
        return arrived

    def recognise(
        self, clips: ActionInput, y: Tensor | None, earlier: Tensor | None
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As `Visit.recognise`."""
        assert self.action is not None
        if self.action_unit is not None and y is not None:
            y = self.action_unit(y, y) if earlier is None else self.action_unit(y, y, earlier)
        carried: tuple[Tensor | None, list[Tensor]] = self.action(clips, y)
        return carried


class DeployedParts(TwoPartNetwork):
    """The deployed network's computation."""

    def __init__(self, model: SPNet, numbers: Numbers) -> None:
        super().__init__()
        self.config = model.config
        self.entry = Entry(model.entry, numbers)
        self.visits = nn.ModuleList(DeployedVisit(visit, numbers) for visit in model.path)

    @property
    def path(self) -> list[DeployedVisit]:
        """The visits in the order in which they are made."""
        return cast("list[DeployedVisit]", list(self.visits))


class DeployedSPNet(nn.Module):
    """What `deploy` makes: takes and gives what an `SPNet` does, without gradients.

    Weights are constants: who changes one in place has the calls recorded anew by `graphs.clear()`. It can be copied,
    pickled and moved to another device, but keeps its type.
    """

    def __init__(self, model: SPNet, dtype: torch.dtype, device: torch.device, *, graph: bool = True) -> None:
        super().__init__()
        self.config = model.config
        self.dtype = dtype
        self.num_pose_blocks = model.num_pose_blocks
        self.num_action_blocks = model.num_action_blocks
        # Tensors made in inference mode count no versions, by which backends know the weights they have packed.
        with torch.inference_mode(False), torch.no_grad():
            self.parts = DeployedParts(model, numbers_of(dtype, device)).to(device)
        self.graphs = Graphs(device, wanted=graph)
        """The graphs; `graphs.why_not` says why there are none."""
        self.eval()

    def train(self, mode: bool = True) -> DeployedSPNet:
        """Raises UserError if asked to train."""
        if mode:
            raise UserError("a deployed network only predicts: train the SPNet that it was made of and deploy it again")
        return super().train(False)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """As of every module; graphs of the old weights are forgotten."""
        self.graphs.clear()
        return super().load_state_dict(*args, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> DeployedSPNet:
        if any(fn(torch.empty(0, dtype=kind)).dtype != kind for kind in {buffer.dtype for buffer in self.buffers()}):
            raise UserError("a deployed network keeps its type: deploy the SPNet that it was made of in another one")
        self.graphs.clear()
        super()._apply(fn, *args, **options)
        return self

    @torch.inference_mode()
    def forward(self, frames: Tensor, *, keep_maps: bool = False) -> SPNetOutput:
        """As `SPNet.forward`: frames (B, 3, H, W) or (B, T, 3, H, W) in [-1, 1], of any floating type."""
        if keep_maps:  # they are large, and wanted to be looked at: not kept in a graph
            output: SPNetOutput = self.parts(frames, keep_maps=True)
            return output
        return self.graphs.run("forward", self.parts, frames)

    @torch.inference_mode()
    def frame_features(self, frames: Tensor, *, actions: bool = True, keep_maps: bool = False) -> FrameFeatures:
        """As `SPNet.frame_features`."""
        if keep_maps:
            return self.parts.frame_features(frames, actions=actions, keep_maps=True)
        return self.graphs.run(
            f"frames, actions {actions}", lambda x: self.parts.frame_features(x, actions=actions), frames
        )

    @torch.inference_mode()
    def recognise(self, clips: Sequence[ActionInput]) -> list[list[Tensor]]:
        """As `SPNet.recognise`."""
        inputs = [part for seen in clips for part in seen if part is not None]
        if not inputs:  # it says what is missing
            return self.parts.recognise(clips)
        return self.graphs.run("clips", lambda *flat: self.parts.recognise(_regrouped(flat, clips)), *inputs)


def _regrouped(flat: Sequence[Tensor], like: Sequence[ActionInput]) -> list[ActionInput]:
    parts = iter(flat)
    return [seen.each(lambda _: next(parts)) for seen in like]
