"""Model files whose header or weights were changed: one error that names the file, before anything large is built."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save

from pyhar import convert
from pyhar.errors import UserError
from pyhar.models import ModelMeta, SPNet, SPNetConfig, load_model

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TINY = SPNetConfig(
    num_pyramids=1,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1,),
    num_actions=(3,),
    pose_features=16,
    appearance_features=16,
)


def write(path: Path, config: dict[str, Any], meta: dict[str, Any], **weights: torch.Tensor) -> None:
    header = {
        "config": {**TINY.to_dict(), **config},
        "meta": {**dataclasses.asdict(ModelMeta.default(TINY)), **meta},
    }
    path.write_bytes(save({**SPNet(TINY).state_dict(), **weights}, metadata={"pyhar": json.dumps(header)}))


@pytest.mark.parametrize(
    ("config", "meta"),
    [
        ({"num_joints": 16.0}, {}),
        ({"num_joints": True}, {}),
        ({"layout": 3}, {}),
        ({"num_actions": [3.0]}, {}),
        ({"num_actions": "ab"}, {}),
        ({"cut": [1, 2]}, {}),
        ({"cut": {"pose_block": "0", "action_block": None}}, {}),
        ({"num_pyramids": 10**9}, {}),
        ({"stem_features": 2**62}, {}),
        ({"stem_features": 10**400}, {}),
        ({}, {"joints": [["a"]] * 16}),
        ({}, {"joints": ["a"]}),
        ({}, {"action_names": "abc"}),
        ({}, {"action_names": [["a", "b"]]}),
        ({}, {"depth_range_mm": "far"}),
        ({}, {"depth_range_mm": float("nan")}),
        ({}, {"extra": []}),
        ({}, {"extra": {"stage": 1}}),
        ({}, {"bones": [[0]]}),
        ({}, {"bones": [[0, 99]]}),
        ({}, {"root": None}),
        ({}, {"layout": []}),
    ],
)
def test_headers_that_say_something_else(tmp_path: Path, config: dict[str, Any], meta: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {}, {})
    load_model(path)
    write(path, config, meta)
    with pytest.raises(UserError, match=r"^the header of .*model\.safetensors cannot be read"):
        load_model(path)


def test_weights_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    name = "entry.stem.weight"
    write(path, {}, {}, **{name: torch.zeros_like(SPNet(TINY).state_dict()[name], dtype=torch.int64)})
    with pytest.raises(UserError, match=r"model\.safetensors .*entry\.stem\.weight is of torch\.int64"):
        load_model(path)


@pytest.mark.parametrize("values", [np.array([1, 2]), np.array(7.5)])
def test_keras_names_that_are_none(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "w.hdf5"
    for attribute in ("layer_names", "weight_names"):
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            file.create_group("conv1").attrs["weight_names"] = [b"conv1/kernel:0"]
            file["conv1/conv1/kernel:0"] = np.zeros(3)
            (file if attribute == "layer_names" else file["conv1"]).attrs[attribute] = values
        with pytest.raises(UserError, match=r"w\.hdf5 cannot be read as a Keras weight file"):
            convert.read_layers(path)


def test_keras_weights_larger_than_their_file(tmp_path: Path) -> None:
    path = tmp_path / "w.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file.create_group("conv1").attrs["weight_names"] = [b"kernel:0"]
        file["conv1"].create_dataset("kernel:0", shape=(10**6, 10**6), dtype="f4", chunks=True)
    with pytest.raises(UserError, match=r"w\.hdf5 cannot be read as a Keras weight file: a data set of \d+ bytes"):
        convert.read_layers(path)


def test_keras_layers_of_a_network_that_cannot_be(tmp_path: Path) -> None:
    layers = convert.read_layers(GOLDEN / "A_tiny2d.hdf5")
    convert.infer_config(layers)
    scalar = {"kernel": np.zeros((), np.float32)}
    # Numbers in names, which a few damaged bytes make large: nothing is built of them.
    for changed in (
        {"dp999999999_pb1_conv1": layers["dp1_pb1_conv1"]},
        {"conv1": scalar},
        {"act1_action_v_conv0": scalar},
    ):
        with pytest.raises(UserError, match="not the layers of the authors' network"):
            convert.infer_config({**layers, **changed})
