import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pyhar import convert
from pyhar.errors import UserError
from pyhar.models import ModelMeta, SPNet, SPNetConfig, get_preset, load_model, save_model

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
WEIGHTS = GOLDEN / "A_tiny2d.hdf5"
TINY = SPNetConfig(
    num_joints=16,
    num_pyramids=1,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1,),
    num_actions=(3,),
    pose_features=16,
    appearance_features=16,
)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = SPNet(TINY).eval().decouple()
    meta = ModelMeta("pa16", ["a"] * 16, [["x", "y", "z"]], extra={"stage": "pose"})
    for saved in (model, model.cut(0, None)):
        save_model(tmp_path / "model.safetensors", saved, meta)
        loaded, loaded_meta = load_model(tmp_path)
        assert loaded_meta == meta
        assert loaded.config == saved.config
        assert not loaded.training
        frames = torch.rand(1, 2, 3, 16, 16)
        torch.testing.assert_close(loaded(frames).poses, saved(frames).poses, rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_in_other_types_make_a_float32_network(tmp_path: Path, dtype: torch.dtype) -> None:
    model = SPNet(TINY).eval().to(dtype)
    save_model(tmp_path / "model.safetensors", model, ModelMeta.default(TINY))
    loaded, _ = load_model(tmp_path)
    frames = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded(frames).poses, model.float()(frames).poses, rtol=0, atol=0)


def test_unusable_model_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model at .*train one"):
        load_model(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_model(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="carries no pyhar configuration"):
        load_model(tmp_path / "other.safetensors")
    meta = {"layout": "pa16", "joints": ["a"] * 16}
    for header in (
        "no JSON",
        "[]",
        json.dumps({"config": {}}),
        json.dumps({"config": {"new field": 1}, "meta": meta}),
        json.dumps({"config": {"growth": "8"}, "meta": meta}),
        json.dumps({"config": {}, "meta": meta | {"new field": 1}}),
    ):
        save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"pyhar": header})
        with pytest.raises(UserError, match=r"header of .*new\.safetensors cannot be read .*another version of pyhar"):
            load_model(tmp_path / "new.safetensors")
    model = SPNet(TINY)
    model.config = dataclasses.replace(TINY, growth=16)
    save_model(tmp_path / "wrong.safetensors", model, ModelMeta.default(TINY))
    with pytest.raises(UserError, match=r"another configuration.*entry.units.0"):
        load_model(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    model = SPNet(TINY)
    with torch.no_grad():
        model.entry.stem.weight[0, 0, 0, 0] = value
    save_model(tmp_path / "broken.safetensors", model, ModelMeta.default(TINY))
    with pytest.raises(UserError, match=r"broken\.safetensors holds NaN or infinite weights in entry\.stem\.weight: "):
        load_model(tmp_path / "broken.safetensors")


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match="did you mean 'penn-release'"):
        get_preset("pen-release")


def test_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny.safetensors"
    assert convert.main([str(WEIGHTS), "-o", str(output)]) == 0
    assert "275,888 parameters, 4 prediction blocks, 4 action blocks" in capsys.readouterr().out
    model, meta = load_model(output)
    assert model.config.num_actions == (15,)
    assert meta.joints[0] == "pelvis"


def test_a_file_of_another_configuration() -> None:
    config = convert.infer_config(convert.read_layers(WEIGHTS))
    with pytest.raises(UserError, match=r"layers missing from the file: up4.*|num_pyramids=2") as error:
        convert.load_release_weights(SPNet(dataclasses.replace(config, num_pyramids=4)), WEIGHTS)
    assert "fits a configuration with num_pyramids=2" in str(error.value)
    with pytest.raises(UserError, match=r"layers missing.*_replica.*decoupled=False"):
        convert.load_release_weights(SPNet(dataclasses.replace(config, decoupled=True)), WEIGHTS)
    with pytest.raises(UserError, match=r"layers unknown to the network: .*act1_action.*num_actions=\(15,\)"):
        convert.load_release_weights(SPNet(dataclasses.replace(config, action_pyramids=(), num_actions=())), WEIGHTS)
    with pytest.raises(UserError, match=r"layers unknown to the network: .*_v_conv0.*action_streams='both'"):
        convert.load_release_weights(SPNet(dataclasses.replace(config, action_streams="pose")), WEIGHTS)
    with pytest.raises(UserError, match=r"another configuration.*growth=16"):
        convert.load_release_weights(SPNet(dataclasses.replace(config, growth=8)), WEIGHTS)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weight file at"):
        convert.read_layers(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        convert.read_layers(tmp_path / "text.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(UserError, match="no Keras weight file"):
        convert.read_layers(tmp_path / "other.hdf5")


def test_older_and_fuller_files(tmp_path: Path) -> None:
    """Byte strings in the attributes, and layers in the last block that nothing reads."""
    with h5py.File(WEIGHTS) as source, h5py.File(tmp_path / "old.hdf5", "w") as target:
        names = [str(name) for name in source.attrs["layer_names"]]
        for name in names:
            source.copy(name, target)
            target[name].attrs["weight_names"] = np.array(
                [str(w).encode() for w in source[name].attrs["weight_names"]], dtype="S"
            )
        group = (
            target.create_group("up2_pb0_heatmaps_conv2")
            if "up2_pb0_heatmaps_conv2" not in names
            else target["up2_pb0_heatmaps_conv2"]
        )
        group["up2_pb0_heatmaps_conv2/kernel:0"] = np.zeros((1, 1, 32, 48), np.float32)
        group.attrs["weight_names"] = np.array([b"up2_pb0_heatmaps_conv2/kernel:0"])
        target.attrs["layer_names"] = np.array(
            [name.encode() for name in {*names, "up2_pb0_heatmaps_conv2"}], dtype="S"
        )
    config = convert.infer_config(convert.read_layers(WEIGHTS))
    old = convert.load_release_weights(SPNet(config), tmp_path / "old.hdf5").state_dict()
    new = convert.load_release_weights(SPNet(config), WEIGHTS).state_dict()
    assert all(torch.equal(old[name], new[name]) for name in new)


@pytest.mark.parametrize("pyramids", [(1, 2), (2,), (1,), (2, 3)])
def test_the_acting_pyramids_are_found(pyramids: tuple[int, ...], tmp_path: Path) -> None:
    """Whatever pyramids recognise actions, a file of these layers is recognised and read back."""
    config = dataclasses.replace(
        get_preset("penn-release"),
        num_pyramids=3,
        action_pyramids=pyramids,
        num_levels=3,
        growth=8,
        stem_features=8,
        pose_features=16,
        appearance_features=32,
        num_actions=(3, 4),
    )
    model = SPNet(config)
    path = write_release_file(tmp_path / "weights.hdf5", model)
    assert convert.infer_config(convert.read_layers(path)) == config
    loaded = convert.load_release_weights(SPNet(config), path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def write_release_file(path: Path, model: SPNet) -> Path:
    """Write `model` as the authors' code would."""
    inverse = {(2, 3, 0, 1): (2, 3, 0, 1), (3, 2, 0, 1): (2, 3, 1, 0), None: None}
    with h5py.File(path, "w") as file:
        names = []
        for module, layer in convert._layers_of(model):
            group, weights = file.create_group(layer), []
            for key, weight, order in convert._weights_of(module):
                value = module.get_parameter(key) if "running" not in key else module.get_buffer(key)
                array = value.detach().numpy()
                back = inverse[order]
                group[f"{layer}/{weight}:0"] = array.transpose(back) if back else array
                weights.append(f"{layer}/{weight}:0")
            group.attrs["weight_names"] = weights
            names.append(layer)
        file.attrs["layer_names"] = names
    return path
