"""Weight files as the authors distribute them, at full size and with what their writers differ in.

The writer here knows the release's names and layouts by itself; two golden files, which the authors' code wrote, say
that it is right.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from pyhar import cli, convert
from pyhar.errors import UserError
from pyhar.models import PRESETS, SPNet, SPNetConfig, load_model

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SMALL: dict[str, Any] = {
    "num_pyramids": 3,
    "num_levels": 3,
    "growth": 8,
    "stem_features": 6,
    "pose_features": 16,
    "appearance_features": 32,
}
TINY = {
    "penn-release": dataclasses.replace(PRESETS["penn-release"], action_pyramids=(2, 3), **SMALL),
    "ntu-release": dataclasses.replace(PRESETS["ntu-release"], action_pyramids=(2, 3), **SMALL),
}
PENN, NTU = TINY.values()
# What Keras calls the attributes' largest size; longer lists are cut into numbered pieces.
LARGEST_ATTRIBUTE = 64512

Weights = dict[str, dict[str, npt.NDArray[np.float32]]]


def random_network(config: SPNetConfig) -> SPNet:
    """A network whose every weight and statistic differs from the others and from its initial value."""
    torch.manual_seed(0)
    model = SPNet(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def residual(name: str, unit: Any) -> Iterator[tuple[str, nn.Module]]:
    yield f"{name}_bn1", unit.norm
    if unit.norm.num_features != unit.main[-1].out_channels:
        yield f"{name}_shortcut_conv", unit.shortcut
    if len(unit.main) == 2:
        yield f"{name}_conv1", unit.main
    else:
        conv1, norm, _, conv2 = unit.main
        yield from {f"{name}_conv1": conv1, f"{name}_bn2": norm, f"{name}_conv2": conv2}.items()


def named_layers(model: SPNet) -> Iterator[tuple[str, nn.Module]]:
    """The release's name of every layer that has weights, and our module."""
    cfg: SPNetConfig = model.config
    visits: Any = iter(model.visits)
    yield "conv1", model.entry.stem
    for k in range(5):
        yield from residual(f"res{k}", model.entry.units[k])
    acts = 0
    for p in range(1, cfg.num_pyramids + 1):
        down = p % 2 == 1
        way, scaling = (f"dp{p}", "du") if down else (f"up{p}", "uu")
        for i in [*range(1, cfg.num_levels)] if down else [*range(cfg.num_levels - 1)][::-1]:
            visit = next(visits)
            block, last = visit.block, (p, i) == (cfg.num_pyramids, cfg.num_levels - 1 if down else 0)
            yield from residual(f"{way}_{scaling}{i}_r0", visit.scale.unit)
            name = f"{way}_pb{i}"
            yield from residual(f"{name}_r1", block.unit)
            yield from {f"{name}_bn1": block.norm1, f"{name}_conv1": block.features, f"{name}_bn2": block.norm2}.items()
            for maps, conv, back in (
                ("heatmaps", block.heat, block.heat_back),
                ("depthmaps", block.depth, block.depth_back),
            )[: cfg.dim - 1]:
                yield f"{name}_{maps}_conv1", conv
                if not last:
                    yield f"{name}_{maps}_conv2", back
            if not last:
                yield f"{name}_heatmaps_fw_maps", block.forwarded
            if p not in cfg.action_pyramids:
                continue
            acts += 1
            act = f"act{acts}_action"
            if acts > 1:
                yield from residual(f"{way}_{scaling}{i}_action_r0", visit.action_unit)
            if cfg.decoupled:
                yield f"{name}_heatmaps_conv1_replica", block.action.heat
                if cfg.dim == 3:
                    yield f"{name}_depthmaps_conv1_replica", block.action.depth
            for letter, conv in zip("abc", block.action.pose_convs, strict=True):
                yield f"{act}_p_conv0{letter}", conv
            yield from residual(f"{act}_r1", block.action.pose_unit)
            yield f"{act}_v_conv0", block.action.appearance_conv
            yield from residual(f"{act}_r2", block.action.fusion)
            yield f"{act}_pred_bn1", block.action.norm1
            yield f"{act}_pred_conv1", block.action.conv1
            yield f"{act}_pred_bn2", block.action.norm2
            for k in range(len(cfg.num_actions)):
                yield f"{act}_pred_conv2h{k}", block.action.heads[k]
            if acts < cfg.num_action_blocks:
                yield f"{act}_pred_conv3", block.action.reinjection


def keras_weights(module: Any) -> dict[str, npt.NDArray[np.float32]]:
    if isinstance(module, nn.BatchNorm2d):
        tensors = {
            "gamma": module.weight,
            "beta": module.bias,
            "moving_mean": module.running_mean,
            "moving_variance": module.running_var,
        }
    elif isinstance(module, nn.Conv2d):
        tensors = {"kernel": torch.einsum("oihw->hwio", module.weight)}
    else:
        depthwise, pointwise = module
        tensors = {
            "depthwise_kernel": torch.einsum("cihw->hwci", depthwise.weight),
            "pointwise_kernel": torch.einsum("oihw->hwio", pointwise.weight),
        }
    return {name: tensor.detach().numpy() for name, tensor in tensors.items() if tensor is not None}


def release_weights(model: SPNet) -> Weights:
    return {name: keras_weights(module) for name, module in named_layers(model)}


def weightless(weights: Weights) -> list[str]:
    """Layers that Keras lists beside those with weights: about as many, and named as by the release."""
    names = ["input_1"]
    for name in weights:
        names += [re.sub("bn([12])$", r"act\1", name)] if "_bn" in name else []
        if match := re.match(r"(?:dp|up)\d+_pb\d+(?=_conv1$)", name):
            names += [f"lambda_{len(names)}", f"add_{len(names)}", match[0]]
        if match := re.match(r"(act\d+_action)_pred_conv2h(\d+)$", name):
            # The first seven letters of the part's name; from the tenth block on, one of them is another digit.
            names += [f"{match[1]}_softmax{match[2]}", f"{match[1][:7]}_a{match[2]}"]
    return names


def write(path: Path, weights: Weights, *, text: bool, root: str = "/", largest: int = LARGEST_ATTRIBUTE) -> Path:
    """What Keras' `save_weights` makes of them; attributes are text or, as by Keras 2.1, byte strings."""

    def attribute(group: h5py.Group, name: str, values: list[str]) -> None:
        whole = np.array(values) if text else np.array([value.encode() for value in values])
        count = -(-whole.nbytes // largest)
        for k, piece in enumerate(np.array_split(whole, count)) if count else ():
            key = name if count == 1 else f"{name}{k}"
            group.attrs.create(
                key, piece.astype(object) if text else piece, dtype=h5py.string_dtype() if text else None
            )
        if not count:
            group.attrs[name] = np.array([])

    with h5py.File(path, "w") as file:
        top = file.require_group(root)
        layers: Weights = {}
        # The soft-argmax is a convolution there; its grids are of the size of the picture.
        for name in (n for n in weights if re.search(r"pb\d+_heatmaps_conv1$", n)):
            joints = weights[name]["kernel"].shape[-1]
            for grid in ("xy_x", "xy_y"):
                fixed = name.replace("heatmaps_conv1", grid)
                layers[fixed] = {"depthwise_kernel": np.zeros((8, 8, joints, 1), np.float32)}
                layers[fixed]["pointwise_kernel"] = np.eye(joints, dtype=np.float32)[None, None]
        layers |= {name: {} for name in weightless(weights)}
        layers |= weights
        attribute(top, "layer_names", list(layers))
        top.attrs["backend"] = "tensorflow" if text else np.bytes_("tensorflow")
        for name, values in layers.items():
            group = top.create_group(name)
            attribute(group, "weight_names", [f"{name}/{weight}:0" for weight in values])
            for weight, value in values.items():
                group[f"{name}/{weight}:0"] = value
    return path


def assert_same(loaded: SPNet, source: SPNet) -> None:
    """Weight by weight, and in what they answer."""
    state = loaded.state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(state[name], value), name
    side = source.config.size_multiple
    frames = torch.rand(1, 4, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        answers, expected = loaded.eval()(frames), source(frames)
    for a, b in zip(answers.poses, expected.poses, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert len(answers.actions) == source.num_action_blocks
    for block, of_source in zip(answers.actions, expected.actions, strict=True):
        for a, b in zip(block, of_source, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["A_tiny2d", "C_tiny3d_singleframe"])
def test_the_writer_writes_what_the_release_does(name: str) -> None:
    """The same layers, weights and shapes; and put into our modules by the writer's names, the same values."""
    path = GOLDEN / f"{name}.hdf5"
    expected: Weights = {}
    with h5py.File(path) as file:
        for layer in file.attrs["layer_names"]:
            for weight in file[layer].attrs["weight_names"]:
                if "_xy" not in layer:
                    expected.setdefault(layer, {})[weight.split("/")[1].split(":")[0]] = file[layer][weight][()]
    model = SPNet(convert.infer_config(convert.read_layers(path)))
    written = release_weights(convert.load_release_weights(model, path))
    assert written.keys() == expected.keys()
    for layer, weights in expected.items():
        assert written[layer].keys() == weights.keys()
        for weight, value in weights.items():
            np.testing.assert_array_equal(written[layer][weight], value, err_msg=f"{layer}/{weight}")


@pytest.fixture(scope="module", params=[("penn-release", False), ("ntu-release", True)], ids=lambda p: p[0])
def full_size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    preset, text = request.param
    source = random_network(PRESETS[preset])
    path = write(tmp_path_factory.mktemp("release") / f"{preset}.hdf5", release_weights(source), text=text)
    yield preset, source, path
    path.unlink()


def test_a_distributed_file_is_converted_and_loaded(
    full_size: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, source, path = full_size
    assert convert.main([str(path), "--preset", preset, "-o", str(tmp_path / "model.safetensors")]) == 0
    count = sum(parameter.numel() for parameter in source.parameters())
    assert f"{count:,} parameters, {source.num_pose_blocks} prediction blocks" in capsys.readouterr().out
    loaded, meta = load_model(tmp_path / "model.safetensors")
    assert loaded.config == PRESETS[preset]
    assert len(meta.joints) == source.config.num_joints
    (names,) = meta.action_names
    assert (len(names), names[0], names[-1]) == {
        "penn-release": (15, "baseball_pitch", "tennis_serve"),
        "ntu-release": (60, "drink water", "walking apart from each other"),
    }[preset]
    assert_same(loaded, source)


def test_the_preset_of_a_distributed_file_is_found(full_size: Any) -> None:
    preset, _, path = full_size
    layers = convert.read_layers(path)
    assert convert.infer_config(layers) == PRESETS[preset]
    other = "ntu-release" if preset == "penn-release" else "penn-release"
    with torch.device("meta"), pytest.raises(UserError, match=f"The file fits the preset '{preset}'"):
        convert.load_release_weights(SPNet(PRESETS[other]), path)


@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("largest", [LARGEST_ATTRIBUTE, 100], ids=["whole", "in pieces"])
def test_forms_of_the_attributes(tmp_path: Path, text: bool, largest: int) -> None:
    source = random_network(NTU)
    path = write(tmp_path / "weights.hdf5", release_weights(source), text=text, largest=largest)
    with h5py.File(path) as file:
        assert ("layer_names" in file.attrs) == (largest == LARGEST_ATTRIBUTE)
        assert ("layer_names1" in file.attrs) == (largest == 100)
        first = next(iter(file.attrs[key] for key in file.attrs if key.startswith("layer_names")))[0]
        assert isinstance(first, str if text else bytes)
    assert_same(convert.load_release_weights(SPNet(source.config), path), source)
    assert convert.infer_config(convert.read_layers(path)) == source.config


def test_a_file_of_the_whole_model(tmp_path: Path) -> None:
    """`Model.save` puts the same into a group of its own."""
    source = random_network(PENN)
    path = write(tmp_path / "weights.hdf5", release_weights(source), text=True, root="model_weights")
    assert_same(convert.load_release_weights(SPNet(PENN), path), source)


@pytest.mark.parametrize("name", TINY)
def test_layers_of_the_last_blocks_that_nothing_reads(tmp_path: Path, name: str) -> None:
    source = random_network(TINY[name])
    weights = release_weights(source)
    unread = {"dp3_pb2_heatmaps_fw_maps", "dp3_pb2_heatmaps_conv2", "act4_action_pred_conv3"}
    unread |= {"dp3_pb2_depthmaps_conv2"} if source.config.dim == 3 else set()
    assert not unread & weights.keys()
    fuller = weights | {layer: {"kernel": np.ones((1, 1, 3, 5), np.float32)} for layer in unread}
    for k, held in enumerate((weights, fuller)):
        path = write(tmp_path / f"{k}.hdf5", held, text=False)
        assert_same(convert.load_release_weights(SPNet(source.config), path), source)
        assert convert.infer_config(convert.read_layers(path)) == source.config
    # In any other block they are needed.
    needed = {layer: values for layer, values in weights.items() if layer != "dp1_pb2_heatmaps_conv2"}
    path = write(tmp_path / "less.hdf5", needed, text=False)
    with pytest.raises(UserError, match=r"1 layers missing from the file: dp1_pb2_heatmaps_conv2"):
        convert.load_release_weights(SPNet(source.config), path)


def test_more_than_nine_action_blocks(tmp_path: Path) -> None:
    config = dataclasses.replace(PENN, num_pyramids=6, action_pyramids=(1, 2, 3, 4, 5, 6))
    source = random_network(config)
    weights = release_weights(source)
    assert {"act10_action_v_conv0", "act12_action_pred_conv2h0"} < weights.keys()
    assert {"act9_ac_a0", "act10_a_a0", "act12_a_a0"} < set(weightless(weights))
    path = write(tmp_path / "weights.hdf5", weights, text=True)
    assert convert.infer_config(convert.read_layers(path)) == config
    assert_same(convert.load_release_weights(SPNet(config), path), source)


# What is shared and of one pyramid, or of several with a gap behind the first, the file does not tell.
@pytest.mark.parametrize(
    ("acting", "decoupled"),
    [((5,), False), ((1, 2), False), ((2, 3, 4), False), ((2,), True), ((1, 4), True), ((2, 3, 4), True)],
)
def test_which_pyramids_act_of_two_levels(acting: tuple[int, ...], decoupled: bool) -> None:
    """Nothing is carried into the only visit of the first."""
    config = dataclasses.replace(PENN, num_levels=2, num_pyramids=5, action_pyramids=acting, decoupled=decoupled)
    assert convert.infer_config(release_weights(random_network(config))) == config


OTHERS: dict[str, dict[str, Any]] = {
    "fewer pyramids": {"num_pyramids": 2, "action_pyramids": (1, 2)},
    "more pyramids": {"num_pyramids": 5},
    "other acting pyramids": {"action_pyramids": (1, 2)},
    "fewer acting pyramids": {"action_pyramids": (3,)},
    "other classes": {"num_actions": (60,)},
    "one class more": {"num_actions": (16,)},
    "classes of two data sets": {"num_actions": (15, 60)},
    "no actions": {"num_actions": (), "action_pyramids": (), "decoupled": False},
    "not decoupled": {"decoupled": False},
    "other joints": {"num_joints": 17},
    "depth": {"dim": 3},
    "other levels": {"num_levels": 4},
    "other growth": {"growth": 16},
    "other stem": {"stem_features": 8},
    "other kernels": {"kernel_size": 3},
    "other features": {"pose_features": 32, "appearance_features": 48},
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_networks_say_what_they_fit(tmp_path: Path, name: str) -> None:
    fitting = dataclasses.replace(PENN, **OTHERS[name])
    source = random_network(fitting)
    path = write(tmp_path / "weights.hdf5", release_weights(source), text=False)
    model = random_network(PENN)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        convert.load_release_weights(model, path)
    message = str(error.value)
    assert str(path) in message
    advice = message.split("The file fits a configuration with ")[1]
    for field in dataclasses.fields(SPNetConfig):
        stated = f"{field.name}={getattr(fitting, field.name)!r}"
        assert (stated in advice) == (field.name in OTHERS[name]), (field.name, advice)
    assert "leave --preset out" in advice
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    # And it does.
    assert_same(convert.load_release_weights(SPNet(fitting), path), source)


def test_files_of_the_authors_earlier_network_say_which_are_meant(tmp_path: Path) -> None:
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    weights = {"conv2d_1": {"kernel": kernel}, "Stem": {"kernel": kernel}, "rBlock1": {"kernel": kernel}}
    path = write(tmp_path / "weights_PE_MPII_cvpr18_19-09-2017.h5", weights, text=False)
    for options in ([], ["--preset", "penn-release"]):
        with torch.device("meta"), pytest.raises(UserError) as error:
            convert.main([str(path), *options, "-o", str(tmp_path / "model.safetensors")])
        assert str(path) in str(error.value)
        assert str(error.value).endswith(convert.OTHER_NETWORK)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files(tmp_path: Path, kept: float) -> None:
    whole = write(tmp_path / "whole.hdf5", release_weights(random_network(PENN)), text=False).read_bytes()
    path = tmp_path / "cut.hdf5"
    path.write_bytes(whole[: int(len(whole) * kept)])
    for options in ([], ["--preset", "penn-release"]):
        with torch.device("meta"), pytest.raises(UserError, match=r"cut\.hdf5 cannot be read as a Keras weight file"):
            convert.main([str(path), *options, "-o", str(tmp_path / "model.safetensors")])
    assert not (tmp_path / "model.safetensors").exists()


def test_damaged_files(tmp_path: Path) -> None:
    """Wherever bytes are lost, the file is read or an error names it."""
    whole = write(tmp_path / "whole.hdf5", release_weights(random_network(PENN)), text=False).read_bytes()
    path = tmp_path / "damaged.hdf5"
    errors: list[str] = []
    for start in range(0, len(whole), len(whole) // 16):
        path.write_bytes(whole[:start] + b"\xff" * 512 + whole[start + 512 :])
        try:
            convert.load_release_weights(SPNet(PENN), path)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 3
    assert all(str(path) in error and "\n" not in error for error in errors)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    weights = release_weights(random_network(PENN))
    for layer, weight in (("conv1", "kernel"), ("dp1_pb1_bn1", "moving_variance")):
        weights[layer] = {**weights[layer], weight: weights[layer][weight].copy()}
        weights[layer][weight].flat[-1] = value
    path = write(tmp_path / "weights.hdf5", weights, text=False)
    with pytest.raises(UserError, match=r"weights\.hdf5 holds NaN or infinite weights .*: fetch the file") as error:
        convert.load_release_weights(SPNet(PENN), path)
    assert "conv1/kernel, dp1_pb1_bn1/moving_variance" in str(error.value)


def dense(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.array([b"dense_1", b"conv1"])
    for name in ("dense_1", "conv1"):
        file.create_group(name).attrs["weight_names"] = np.array([f"{name}/kernel:0".encode()])
        file[name][f"{name}/kernel:0"] = np.zeros((3, 3), np.float32)


def no_attributes(file: h5py.File) -> None:
    file["x"] = np.zeros(3)


def a_layer_is_not_there(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.array([b"conv1"])


def no_weight_names(file: h5py.File) -> None:
    a_layer_is_not_there(file)
    file.create_group("conv1")


def a_weight_is_not_there(file: h5py.File) -> None:
    no_weight_names(file)
    file["conv1"].attrs["weight_names"] = np.array([b"conv1/kernel:0"])


def a_weight_is_a_group(file: h5py.File) -> None:
    a_weight_is_not_there(file)
    file["conv1"].create_group("conv1/kernel:0")


def weights_are_text(file: h5py.File) -> None:
    a_weight_is_not_there(file)
    file["conv1"]["conv1/kernel:0"] = "seven"


def names_are_numbers(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.arange(3)


def one_name(file: h5py.File) -> None:
    file.attrs["layer_names"] = 7


def the_model_is_an_array(file: h5py.File) -> None:
    file["model_weights"] = np.zeros(3)


def nothing_has_weights(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.array([b"input_1"])
    file.create_group("input_1").attrs["weight_names"] = np.array([])


FILES = [
    dense,
    no_attributes,
    a_layer_is_not_there,
    no_weight_names,
    a_weight_is_not_there,
    a_weight_is_a_group,
    weights_are_text,
    names_are_numbers,
    one_name,
    the_model_is_an_array,
    nothing_has_weights,
]


@pytest.mark.parametrize("content", FILES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("options", [[], ["--preset", "penn-release"]], ids=["found", "given"])
def test_other_hdf5_files(tmp_path: Path, content: Any, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        content(file)
    output = tmp_path / "model.safetensors"
    with torch.device("meta"), pytest.raises(UserError) as error:
        convert.main([str(path), *options, "-o", str(output)])
    assert re.search(r"other\.h5.* (cannot be read|no Keras weight file|does not fit|not the layers)", str(error.value))
    assert "\n" not in str(error.value)
    assert "empty sequence" not in str(error.value)  # That is Python talking.
    assert not output.exists()


@pytest.mark.parametrize("name", ["none.hdf5", "", "picture.jpg", "empty.hdf5"])
def test_files_that_are_no_hdf5(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0" * 100)
    (tmp_path / "empty.hdf5").touch()
    assert cli.run(convert.main, [str(tmp_path / name), "-o", str(tmp_path / "model.safetensors")]) == 2
    printed = capsys.readouterr().err
    assert str(tmp_path / name) in printed
    assert ("no weight file at" if name in ("none.hdf5", "") else "cannot be read") in printed
