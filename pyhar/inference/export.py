"""A trained network as a file that runs without pyhar: ONNX, a `torch.export` program, or an AOTInductor package.

What is exported is a function of one tensor. `frames` is float32 in [-1, 1], (B, T, 3, H, W) where actions are
recognised, else (B, 3, H, W); it returns `poses`, those of the last prediction block left, and `action_0`,
`action_1`..., the probabilities of each classifier. The operators that decode the maps are written out as plain ones.
In bfloat16 or float16 it is the inference form of the network: weights and maps have that type, while decoding and the
action part stay float32, as do `frames` and the answers.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pyhar import __version__, ops
from pyhar.deploy.layers import Numbers
from pyhar.deploy.network import DTYPES, DeployedParts, DeployedSPNet
from pyhar.devices import exact_float32
from pyhar.errors import UserError, unknown_name
from pyhar.files import atomic
from pyhar.inference.export_formats import FORMATS, Program, Run
from pyhar.inference.tracking import CROP_MARGIN
from pyhar.models import ModelMeta, SPNet, SPNetConfig

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The most that an exported network's answers may differ from those of the network in float32; all of them are of the
size of 1."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    inputs: dict[str, tuple[int | str, ...]]
    """Names and shapes; a batch of any size is "batch"."""
    outputs: dict[str, tuple[int | str, ...]]
    difference: float
    """The largest between its answers and the network's."""


class LastAnswers(nn.Module):
    """The network as a function of one tensor: poses of its last block if it has any, then, for clips, the
    probabilities of each classifier; float32."""

    def __init__(self, model: SPNet | DeployedParts | DeployedSPNet, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        """Of the answers, in order."""

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        out = self.model(frames)
        poses = [out.poses[-1].float()] if out.poses else []
        return (*poses, *(out.actions[-1] if out.action_logits else []))


@exact_float32()
def export_network(
    model: SPNet,
    meta: ModelMeta,
    path: str | os.PathLike[str],
    format: str = "onnx",
    *,
    stills: bool = False,
    pose_block: int | None = -1,
    action_block: int | None = -1,
    image_size: int | None = None,
    clip_frames: int | None = None,
    batch: int | None = None,
    dtype: str = "float32",
) -> Exported:
    """Write `model`, of whose answers `meta` tells the meaning, to the file `path`, compare its answers on random
    frames with the network's, and only then put it in place.

    format: "onnx", "torch" (`torch.export`) or "aoti" (AOTInductor, for the device that the model is on and, of CPUs,
    for this one's kind). pose_block, action_block: where the network is cut, None leaves the task out. stills: poses in
    single pictures, no actions. image_size, clip_frames: those the network is made for, if not given. batch: None takes
    any. dtype: of weights and maps, "float32", "bfloat16" or "float16". The model itself is left as it is.
    Raises UserError if a block, the format or the type does not exist, the format has no such type, the picture size or
    the names do not fit, the folder or what the format needs is missing, or the answers differ by more than
    `TOLERANCES` allows.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    if dtype not in TOLERANCES:
        raise unknown_name("export type", dtype, TOLERANCES)
    kind, path = FORMATS[format], Path(path)
    if dtype not in kind.dtypes:
        raise UserError(
            f"nothing runs files of format {format} in {dtype} on a CPU: "
            f"use {' or '.join(kind.dtypes)}, or another format"
        )
    if path.suffix != kind.suffix:
        raise UserError(f"a file of format {format} is called *{kind.suffix}, not {path.name}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    network = last_answers(model, pose_block, action_block, stills=stills)
    config = _sized(network.model.config, image_size, clip_frames)
    _check_names(meta, config)
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, not {batch}")
    reason = kind.why_not()
    if reason is not None:
        raise UserError(reason)

    clips = not stills and network.model.num_action_blocks > 0
    shape = (*((config.clip_frames,) if clips else ()), 3, config.image_size, config.image_size)
    device = next(network.parameters()).device
    sizes = (1, 3) if batch is None else (batch,)
    tests = [_random_frames((size, *shape), device) for size in sizes]
    with torch.inference_mode():
        expected = [network(frames) for frames in tests]
    for name, answer in zip(network.names, expected[0], strict=True):
        if not torch.isfinite(answer).all():
            raise UserError(f"the network's {name} are not finite: its weights are damaged or its training diverged")

    first: int | str = "batch" if batch is None else batch
    shapes = {name: (first, *answer.shape[1:]) for name, answer in zip(network.names, expected[0], strict=True)}
    if dtype != "float32":
        assert isinstance(network.model, SPNet)
        with torch.no_grad():
            network.model = DeployedParts(network.model, Numbers(DTYPES[dtype]))
    program = Program(
        _trace(network, _random_frames((batch or 2, *shape), device), dynamic=batch is None),
        "frames",
        network.names,
        describe(config, meta, {"frames": (first, *shape)} | shapes),
    )
    with atomic(path) as temporary:
        kind.write(program, temporary)
        difference = _largest_difference(kind.load(temporary), tests, expected)
        if not difference <= TOLERANCES[dtype]:
            raise UserError(
                f"the exported network's answers differ from the network's by {difference:.1e}, more than "
                f"{TOLERANCES[dtype]:g}: nothing was written; try another format or another version of what runs it"
            )
    return Exported(path, {"frames": (first, *shape)}, shapes, difference)


def last_answers(model: SPNet, pose_block: int | None, action_block: int | None, *, stills: bool) -> LastAnswers:
    """A copy of the network that ends at these blocks, in eval mode, as the function that is exported.

    Raises UserError if there is no such block, or nothing is left to answer.
    """
    if stills:
        action_block = None
    if model.config.cut is None:
        model = model.cut(pose_block, action_block)
    elif (pose_block, action_block) != (-1, None if stills else -1):
        raise UserError("this network is cut already: leave the blocks out, or export the full one")
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    names = ["poses"] if model.num_pose_blocks else []
    if not stills and model.num_action_blocks:
        names += [f"action_{k}" for k in range(len(model.config.num_actions))]
    if not names:
        raise UserError("this network predicts no poses, and nothing else is asked of stills: export it for clips")
    return LastAnswers(model, names)


def describe(config: SPNetConfig, meta: ModelMeta, shapes: dict[str, tuple[int | str, ...]]) -> dict[str, str]:
    """What a reader must know to use the file, by name: texts, and JSON where there is more than one value."""
    z, depth = "", ""
    if config.dim == 3:
        z = "z, "
        root = meta.joints[meta.joint_layout.root]
        depth = f"; depth behind the root joint, {root}, in millimetres is (z - 0.5) * {meta.depth_range_mm:g}"
    meaning = {
        "frames": "float32, RGB / 127.5 - 1, channels before rows before columns, of the crop around the person; "
        "the frames of a clip have one crop",
        "poses": f"float32, by joint: x, y, {z}confidence; x and y go from 0 to 1 between the crop's edges, right and "
        f"down, so that pixel i of W has its centre at (i + 0.5) / W{depth}",
    }
    values = {
        name: {"shape": shape, "meaning": meaning.get(name, "float32, probability by class")}
        for name, shape in shapes.items()
    }
    description: dict[str, object] = {
        "inputs": {"frames": values.pop("frames")},
        "outputs": values,
        "joints": meta.joints,
        "actions": {name: meta.action_names[int(name[7:])] for name in shapes if name.startswith("action_")},
        "config": config.to_dict(),
        "layout": meta.layout,
        "depth_range_mm": meta.depth_range_mm,
    }
    texts = {key: text if isinstance(text, str) else json.dumps(text) for key, text in description.items()}
    return texts | {
        "crop": "a square with the centre of the person's box, its side "
        f"{1 + CROP_MARGIN:g} times the box's longer one; black outside the picture",
        "pyhar": __version__,
    }


def _sized(config: SPNetConfig, image_size: int | None, clip_frames: int | None) -> SPNetConfig:
    """The configuration for pictures and clips of this size. Raises UserError if they do not fit the network."""
    config = dataclasses.replace(
        config,
        image_size=config.image_size if image_size is None else image_size,
        clip_frames=config.clip_frames if clip_frames is None else clip_frames,
    )
    if config.image_size % config.size_multiple:
        raise UserError(
            f"image_size must be a multiple of {config.size_multiple} for this network, not {config.image_size}"
        )
    return config


def _check_names(meta: ModelMeta, config: SPNetConfig) -> None:
    named = len(meta.joints), tuple(map(len, meta.action_names))
    if named != (config.num_joints, config.num_actions):
        raise UserError(
            f"the model names {named[0]} joints and {named[1]} actions, its network has {config.num_joints} and "
            f"{config.num_actions}: they do not belong together"
        )


def _random_frames(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def _trace(network: LastAnswers, frames: Tensor, *, dynamic: bool) -> torch.export.ExportedProgram:
    """The network as a program of PyTorch's own operators."""
    shapes = {"frames": {0: torch.export.Dim("batch", min=1)} if dynamic else None}
    with ops.use_backend("eager"), torch.no_grad():
        program = torch.export.export(network, (frames,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where in whose folders the line is that made it
    return program


def _largest_difference(run: Run, tests: list[Tensor], expected: list[tuple[Tensor, ...]]) -> float:
    """Between what `run` answers and what is expected; infinite where shapes or types differ, NaN where numbers are
    missing."""
    difference = 0.0
    for frames, answers in zip(tests, expected, strict=True):
        found = run(frames)
        if [(v.shape, v.dtype) for v in found] != [(v.shape, v.dtype) for v in answers]:
            return float("inf")
        for value, answer in zip(found, answers, strict=True):
            difference = float(torch.maximum((value.to(answer) - answer).abs().max().cpu(), torch.tensor(difference)))
    return difference
