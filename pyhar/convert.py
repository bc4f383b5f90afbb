"""The authors' weights: read their Keras HDF5 files and write model files.

    python -m pyhar.convert WEIGHTS.hdf5 --preset penn-release -o model.safetensors

No Keras is needed. Both the files of Keras 2.1 (byte strings in the attributes) and of later versions are read.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pyhar.data.hdf5 import DAMAGED, read_array
from pyhar.errors import UserError, reason
from pyhar.models.action import ActionPart
from pyhar.models.blocks import ResidualUnit, SeparableConv
from pyhar.models.config import PRESETS, SPNetConfig, get_preset
from pyhar.models.io import ModelMeta, listed, load_weights, save_model
from pyhar.models.prediction import PredictionBlock
from pyhar.models.spnet import SPNet

Layers = dict[str, dict[str, npt.NDArray[np.float32]]]

# The fixed grids of the soft-argmax are layers in the release, not weights.
_FIXED = re.compile(r"_xy2?_[xy]$")
# What nothing reads in the last blocks: absent from most files, harmless in the others.
_UNREAD = re.compile(r"_(heatmaps_(fw_maps|conv2)|depthmaps_conv2|action_pred_conv3)$")
_BLOCK = re.compile(r"(dp|up)(\d+)_pb(\d+)_conv1$")

OTHER_NETWORK = (
    "There is no layer dp1_pb1_conv1, as in weights_mpii+penn_ar_028.hdf5 and weights_3dp+ntu_ar_062.hdf5; "
    "the files of the authors' releases v0.1 to v0.4 are of an earlier network"
)


def load_release_weights(model: SPNet, path: str | os.PathLike[str]) -> SPNet:
    """Put the weights of one of the authors' HDF5 files into `model`, in place, and return it.

    The model's configuration says what is expected; presets `penn-release` and `ntu-release` fit the distributed files.
    Raises UserError if the file cannot be read, or, listing the layers, if its layers are not the network's; the
    message says which configuration would fit.
    """
    layers = read_layers(path)
    state: dict[str, torch.Tensor] = {}
    absent: list[str] = []
    broken: list[str] = []
    used: set[str] = set()
    for module_name, module, layer in _release_names(model):
        used.add(layer)
        if layer not in layers:
            absent.append(layer)
            continue
        for key, weight, order in _weights_of(module):
            if weight not in layers[layer]:
                absent.append(f"{layer}/{weight}")
                continue
            values = layers[layer][weight]
            if not np.isfinite(values).all():
                broken.append(f"{layer}/{weight}")
            state[f"{module_name}.{key}"] = torch.from_numpy(
                # An array of other dimensions is told of below, by its shape.
                np.ascontiguousarray(values.transpose(order) if order and values.ndim == len(order) else values)
            )
    extra = [layer for layer in layers if layer not in used and not _UNREAD.search(layer)]
    if absent or extra:
        parts = [
            f"{len(names)} {what}: {listed(names, 12)}"
            for names, what in ((absent, "layers missing from the file"), (extra, "layers unknown to the network"))
            if names
        ]
        raise UserError(f"{path} does not fit this network; {'; '.join(parts)}{_advice(layers, model.config)}")
    if broken:
        raise UserError(
            f"{path} holds NaN or infinite weights in the layers {listed(broken, 12)}: fetch the file again"
        )
    for name, buffer in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = buffer
    try:
        load_weights(model, state, str(path))
    except UserError as error:
        raise UserError(f"{error}{_advice(layers, model.config)}") from error
    return model


def read_layers(path: str | os.PathLike[str]) -> Layers:
    """Layer name -> weight name ("kernel", "gamma", ...) -> float32 array, without layers that hold no weights.

    Raises UserError if there is no such file, it is not HDF5, or it is not a Keras weight file.
    """
    import h5py

    if not Path(path).is_file():
        raise UserError(f"no weight file at {path}")
    layers: Layers = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            names = _names(root, "layer_names")
            if names is None:
                raise UserError(f"{path} is no Keras weight file: it has no attribute `layer_names`")
            for layer in names:
                group = root[layer]
                weights = {
                    name.split("/")[-1].split(":")[0]: read_array(group[name], np.float32)
                    for name in _names(group, "weight_names") or []
                }
                if weights and not _FIXED.search(layer):
                    layers[layer] = weights
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read as a Keras weight file: {reason(error)}") from error
    return layers


def infer_config(layers: Layers) -> SPNetConfig:
    """The configuration of the release's network that has these layers. Raises UserError if they are no such
    network's."""
    if not any(map(_BLOCK.match, layers)):
        raise UserError(f"these are not the layers of the authors' network. {OTHER_NETWORK}")
    try:
        blocks = [(m[1], int(m[2]), int(m[3])) for m in map(_BLOCK.match, layers) if m]
        visits = {
            (pyramid, level): k
            for k, (pyramid, level) in enumerate(
                sorted(((p, i) for _, p, i in blocks), key=lambda v: (v[0], v[1] if v[0] % 2 else -v[1]))
            )
        }
        numbers = [int(m[1]) for m in (re.match(r"act(\d+)_action_v_conv0$", name) for name in layers) if m]
        num_pyramids = max(p for p, _ in visits)
        num_levels = max(i for _, i in visits) + 1
        if num_pyramids * num_levels > len(layers):
            raise ValueError(f"{num_pyramids} pyramids of {num_levels} levels in {len(layers)} layers")
        heat = layers["dp1_pb1_heatmaps_conv1"]["kernel"]
        acting: dict[str, object] = {}
        if numbers:
            classes = [
                layers[f"act1_action_pred_conv2h{k}"]["kernel"].shape[-1]
                for k in range(sum(n.startswith("act1_action_pred_conv2h") for n in layers))
            ]
            count = len(numbers) // (num_levels - 1)
            # All action visits but the first have a unit for what is carried.
            pyramids = {
                int(m[1]) for m in (re.match(r"(?:dp|up)(\d+)_\w+_action_r0_conv1$", name) for name in layers) if m
            }
            if len(pyramids) < count:  # of two levels, the first pyramid has one visit
                pyramids.add(_first_acting(layers, min(pyramids, default=num_pyramids + 1)))
            acting = {
                "action_pyramids": tuple(sorted(pyramids)),
                "num_actions": tuple(classes),
                "pose_features": 16 * layers["act1_action_p_conv0a"]["kernel"].shape[-1],
                "appearance_features": layers["act1_action_v_conv0"]["kernel"].shape[-1],
            }
        dim = 3 if "dp1_pb1_depthmaps_conv1" in layers else 2
        return dataclasses.replace(
            PRESETS["penn-release"],
            num_joints=heat.shape[-1],
            dim=dim,
            layout={16: "pa16", 17: "pa17"}.get(heat.shape[-1], ""),
            num_pyramids=num_pyramids,
            num_levels=num_levels,
            growth=layers["res0_shortcut_conv"]["kernel"].shape[-1]
            if "res0_shortcut_conv" in layers
            else layers["res0_conv2"]["kernel"].shape[-1],
            stem_features=layers["conv1"]["kernel"].shape[-1],
            kernel_size=layers["dp1_pb1_conv1"]["depthwise_kernel"].shape[0],
            decoupled=any(name.endswith("_replica") for name in layers),
            **{"action_pyramids": (), "num_actions": (), **acting},  # type: ignore[arg-type]
        )
    except KeyError as error:
        raise UserError(f"these are not the layers of the authors' network: {error} is not there") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"these are not the layers of the authors' network: {reason(error)}") from error


def _first_acting(layers: Layers, before: int) -> int:
    """The first pyramid of two levels that acts, one before this number: it has a replica, or it is taken for the last
    whose features, of the lower level on the way down, are as many as the action part reads."""
    replicas = [
        int(m[1]) for m in (re.match(r"(?:dp|up)(\d+)_\w+_heatmaps_conv1_replica$", name) for name in layers) if m
    ]
    if replicas:
        return min(replicas)
    read = layers["act1_action_v_conv0"]["kernel"].shape[-2]
    down = read == layers["dp1_pb1_heatmaps_conv1"]["kernel"].shape[-2]
    return before - 1 if (before - 1) % 2 == down else before - 2


def _config_of(path: str) -> SPNetConfig:
    layers = read_layers(path)
    try:
        return infer_config(layers)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _advice(layers: Layers, config: SPNetConfig) -> str:
    try:
        fitting = infer_config(layers).to_dict()
    except UserError as error:
        return f". {OTHER_NETWORK}" if OTHER_NETWORK in str(error) else ""
    # What a weight file cannot tell does not count as a difference.
    silent = {"image_size", "clip_frames", "layout", "appearance_source", "confidence", "grid", "cut"}
    if not fitting["num_actions"]:
        silent |= {"pose_features", "appearance_features", "action_streams"}

    def differences(own: SPNetConfig) -> list[str]:
        values = own.to_dict()
        return [f"{key}={value!r}" for key, value in fitting.items() if key not in silent and values[key] != value]

    differing = differences(config)
    if not differing:
        return ""
    for name, preset in PRESETS.items():
        if not differences(preset):
            return f". The file fits the preset {name!r}"
    return (
        f". The file fits a configuration with {', '.join(differing)}; to convert it with that one, leave --preset out"
    )


def _names(group: Any, attribute: str) -> list[str] | None:
    """A list of names that Keras left with an HDF5 group; lists too long for HDF5 come in pieces, numbered from 0.
    None: there is no such list."""
    numbered = itertools.takewhile(group.attrs.__contains__, (f"{attribute}{k}" for k in itertools.count()))
    keys = [attribute] if attribute in group.attrs else list(numbered)
    return [_text(name) for key in keys for name in group.attrs[key]] if keys else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _weights_of(module: nn.Module) -> Iterator[tuple[str, str, tuple[int, ...] | None]]:
    """(our key, Keras' weight name, transposition) of one of the release's layers."""
    if isinstance(module, nn.BatchNorm2d):
        for key, weight in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            yield key, weight, None
    elif isinstance(module, SeparableConv):
        yield "depthwise.weight", "depthwise_kernel", (2, 3, 0, 1)
        yield "pointwise.weight", "pointwise_kernel", (3, 2, 0, 1)
    else:
        yield "weight", "kernel", (3, 2, 0, 1)


def _release_names(model: SPNet) -> Iterator[tuple[str, nn.Module, str]]:
    """(our module's name, module, the release's layer) for every layer that has weights."""
    names = {id(module): name for name, module in model.named_modules()}
    for module, layer in _layers_of(model):
        yield names[id(module)], module, layer


def _layers_of(model: SPNet) -> Iterator[tuple[nn.Module, str]]:
    yield model.entry.stem, "conv1"
    for k, unit in enumerate(model.entry.units):
        assert isinstance(unit, ResidualUnit)
        yield from _residual(unit, f"res{k}")
    acts = 0
    for visit in model.path:
        way, scale = ("dp", "du") if visit.pyramid % 2 else ("up", "uu")
        unit_name = f"{way}{visit.pyramid}_{scale}{visit.level}"
        yield from _residual(visit.scale.unit, f"{unit_name}_r0")
        if visit.action_unit is not None:
            yield from _residual(visit.action_unit, f"{unit_name}_action_r0")
        block = f"{way}{visit.pyramid}_pb{visit.level}"
        yield from _prediction_block(visit.block, block)
        if visit.block.action is not None:
            acts += 1
            yield from _action_part(visit.block.action, f"act{acts}_action", block)


def _residual(unit: ResidualUnit, prefix: str) -> Iterator[tuple[nn.Module, str]]:
    yield unit.norm, f"{prefix}_bn1"
    if unit.shortcut is not None:
        yield unit.shortcut, f"{prefix}_shortcut_conv"
    if isinstance(unit.main, (SeparableConv, nn.Conv2d)):
        yield unit.main, f"{prefix}_conv1"
    else:
        yield unit.main[0], f"{prefix}_conv1"
        yield unit.main[1], f"{prefix}_bn2"
        yield unit.main[3], f"{prefix}_conv2"


def _prediction_block(block: PredictionBlock, prefix: str) -> Iterator[tuple[nn.Module, str]]:
    yield from _residual(block.unit, f"{prefix}_r1")
    optional = {"heatmaps_conv1": block.heat, "heatmaps_fw_maps": block.forwarded, "heatmaps_conv2": block.heat_back}
    optional |= {"depthmaps_conv1": block.depth, "depthmaps_conv2": block.depth_back}
    always = {"bn1": block.norm1, "conv1": block.features, "bn2": block.norm2}
    for suffix, module in {**always, **optional}.items():
        if module is not None:
            yield module, f"{prefix}_{suffix}"


def _action_part(action: ActionPart, prefix: str, block: str) -> Iterator[tuple[nn.Module, str]]:
    if action.pose_convs is not None and action.pose_unit is not None:
        for letter, layer in zip("abc", action.pose_convs, strict=True):
            yield layer, f"{prefix}_p_conv0{letter}"
        yield from _residual(action.pose_unit, f"{prefix}_r1")
    if action.appearance_conv is not None:
        yield action.appearance_conv, f"{prefix}_v_conv0"
    yield from _residual(action.fusion, f"{prefix}_r2")
    for suffix, module in {"bn1": action.norm1, "conv1": action.conv1, "bn2": action.norm2}.items():
        yield module, f"{prefix}_pred_{suffix}"
    for k, head in enumerate(action.heads):
        yield head, f"{prefix}_pred_conv2h{k}"
    if action.reinjection is not None:
        yield action.reinjection, f"{prefix}_pred_conv3"
    if action.heat is not None:
        yield action.heat, f"{block}_heatmaps_conv1_replica"
    if action.depth is not None:
        yield action.depth, f"{block}_depthmaps_conv1_replica"


def _describe(config: SPNetConfig) -> ModelMeta:
    """What the numbers mean. The files do not name the classes; their order is that of the data sets."""
    from pyhar.data import ntu, penn_action

    meta, known = ModelMeta.default(config), {len(names): names for names in (penn_action.ACTION_NAMES, ntu.ACTIONS)}
    meta.action_names = [list(known.get(len(names), names)) for names in meta.action_names]
    return meta


def main(argv: list[str] | None = None) -> int:
    """The command `pyhar convert`."""
    parser = argparse.ArgumentParser(
        prog="pyhar convert", description="Turn one of the authors' Keras weight files into a model file."
    )
    parser.add_argument("weights", metavar="WEIGHTS.hdf5")
    parser.add_argument("--preset", help="configuration of the network (default: what the file's layers say)")
    parser.add_argument(
        "-o", "--output", default="model.safetensors", help="model file to write (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    config = get_preset(args.preset) if args.preset is not None else _config_of(args.weights)
    model = load_release_weights(SPNet(config), args.weights)
    save_model(args.output, model, _describe(config))
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.output}: {count:,} parameters, "
        f"{model.num_pose_blocks} prediction blocks, {model.num_action_blocks} action blocks"
    )
    return 0


if __name__ == "__main__":
    from pyhar import cli

    sys.exit(cli.run(main))
