"""Exported files, run by what they are made for, answer as the network does, on batches they have not seen."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pyhar import __version__, ops
from pyhar.errors import UserError
from pyhar.inference.export import export_network
from pyhar.inference.export_formats import FORMATS
from pyhar.models import ModelMeta, SPNet, SPNetConfig

PAPER = SPNetConfig(
    image_size=32,
    clip_frames=3,
    num_pyramids=2,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1, 2),
    num_actions=(3, 5),
    pose_features=16,
    appearance_features=32,
)
RELEASE = dataclasses.replace(
    PAPER,
    num_joints=17,
    dim=3,
    layout="pa17",
    num_actions=(4,),
    appearance_source="first",
    confidence="window",
    grid="corners",
    reinjection="logits",
)
SHORT = dataclasses.replace(PAPER, num_pyramids=1, action_pyramids=(1,))
POSE = dataclasses.replace(PAPER, action_pyramids=(), num_actions=())
VARIANTS: dict[str, tuple[SPNetConfig, dict[str, Any]]] = {
    "paper": (PAPER, {}),
    "paper, 3D, cut": (dataclasses.replace(PAPER, dim=3, grid="centers"), {"pose_block": 0, "action_block": 0}),
    "release, actions alone": (dataclasses.replace(RELEASE, dim=2, num_joints=16), {"pose_block": None}),
    "release, 3D, decoupled, long clips": (dataclasses.replace(RELEASE, decoupled=True), {"clip_frames": 17}),
    "pose features": (dataclasses.replace(SHORT, action_streams="pose"), {}),
    "appearance features": (dataclasses.replace(SHORT, action_streams="appearance"), {"pose_block": None}),
    "pose network": (POSE, {}),
    "stills": (RELEASE, {"stills": True, "image_size": 48}),
    "one clip": (RELEASE, {"batch": 1}),
}


def make(config: SPNetConfig) -> SPNet:
    """A network whose batch norms have seen something, so that none of them is the identity."""
    model = SPNet(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def inputs_and_answers(
    model: SPNet, options: dict[str, Any], batch: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Random frames, and the answers that the full network gives to them at the blocks that are asked for."""
    config = model.config
    size = options.get("image_size", config.image_size)
    clips = bool(config.num_actions) and not options.get("stills") and options.get("action_block", -1) is not None
    length = (options.get("clip_frames", config.clip_frames),) if clips else ()
    frames = torch.rand(batch, *length, 3, size, size) * 2 - 1
    with torch.no_grad(), ops.use_backend("eager"):
        out = model(frames)
    answers = {}
    if (pose_block := options.get("pose_block", -1)) is not None:
        answers["poses"] = out.poses[pose_block]
    if clips:
        logits = out.action_logits[options.get("action_block", -1)]
        answers |= {f"action_{k}": scores.softmax(-1) for k, scores in enumerate(logits)}
    return frames, answers


def compare(run: Callable[[torch.Tensor], list[Any]], model: SPNet, options: dict[str, Any], names: list[str]) -> None:
    for batch in (1, 2, 5) if options.get("batch") is None else (options["batch"],):
        frames, expected = inputs_and_answers(model, options, batch)
        assert names == list(expected)
        for found, answer in zip(run(frames), expected.values(), strict=True):
            assert answer.std() > 1e-4
            torch.testing.assert_close(torch.as_tensor(found), answer, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "one clip"])
def test_onnx(variant: str, tmp_path: Path) -> None:
    config, options = VARIANTS[variant]
    model = make(config)
    done = export_network(model, ModelMeta.default(config), tmp_path / "model.onnx", "onnx", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert 0 <= done.difference < 1e-4

    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    compare(lambda frames: session.run(None, {"frames": frames.numpy()}), model, options, names)
    assert {value.name: tuple(value.shape) for value in session.get_inputs()} == done.inputs
    assert {value.name: tuple(value.shape) for value in session.get_outputs()} == done.outputs
    assert done.inputs["frames"][0] == options.get("batch", "batch")
    graph = onnx.load(done.path)
    onnx.checker.check_model(graph, full_check=True)
    assert {opset.domain for opset in graph.opset_import} == {""}
    check_pools(graph.graph)


def check_pools(graph: Any) -> None:
    """What is padded before a max-pool never wins; onnxruntime before 1.32 takes any padding there for that."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for pool in (node for node in graph.node if node.op_type == "MaxPool"):
        pad = makers[pool.input[0]]
        if pad.op_type == "Pad":
            assert len(pad.input) > 2
            assert constants[pad.input[2]] == -np.inf


@pytest.mark.parametrize("variant", ["paper", "release, 3D, decoupled, long clips", "one clip"])
def test_torch_program(variant: str, tmp_path: Path) -> None:
    config, options = VARIANTS[variant]
    model = make(config)
    done = export_network(model, ModelMeta.default(config), tmp_path / "model.pt2", "torch", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    program = torch.export.load(done.path)
    compare(lambda frames: list(program.module()(frames)), model, options, list(done.outputs))
    operators = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert {operator.namespace for operator in operators} == {"aten"}


@pytest.mark.parametrize(("format", "dtype"), [("onnx", "float16"), ("torch", "float16"), ("torch", "bfloat16")])
def test_half_types(format: str, dtype: str, tmp_path: Path) -> None:
    config = dataclasses.replace(RELEASE, num_pyramids=1, action_pyramids=(1,), decoupled=True)
    model = make(config)
    path = tmp_path / f"model{FORMATS[format].suffix}"
    done = export_network(model, ModelMeta.default(config), path, format, dtype=dtype)
    error = 2e-3 if dtype == "float16" else 2e-2
    assert 0 < done.difference < error
    frames, expected = inputs_and_answers(model, {}, 4)
    for found, answer in zip(FORMATS[format].load(path)(frames), expected.values(), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, answer, rtol=0, atol=error)
    if format == "onnx":
        types = [tensor.data_type for tensor in onnx.load(path).graph.initializer]
        wide, narrow = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    else:
        types = [tensor.dtype for tensor in torch.export.load(path).state_dict.values()]
        wide, narrow = torch.float32, getattr(torch, dtype)
    assert types.count(narrow) > 10  # the pose part
    assert types.count(wide) > 10  # norms and the action part


def test_aoti_package_in_a_half_type(tmp_path: Path) -> None:
    if FORMATS["aoti"].why_not() is not None:
        pytest.skip(str(FORMATS["aoti"].why_not()))
    config = dataclasses.replace(RELEASE, num_pyramids=1, action_pyramids=(1,))
    model, path = make(config), tmp_path / "model.pt2"
    options: dict[str, Any] = {"stills": True}
    done = export_network(model, ModelMeta.default(config), path, "aoti", dtype="bfloat16", **options)
    error = 2e-2
    assert 1e-5 < done.difference < error  # compiled in float32 it would be smaller
    loaded = torch._inductor.aoti_load_package(str(path))
    for batch in (1, 4):
        frames, expected = inputs_and_answers(model, options, batch)
        for found, answer in zip(loaded(frames), expected.values(), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, answer, rtol=0, atol=error)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[SPNet, Path]:
    """The smallest network that recognises actions: compiling takes half a minute."""
    if FORMATS["aoti"].why_not() is not None:
        pytest.skip(str(FORMATS["aoti"].why_not()))
    config = dataclasses.replace(RELEASE, num_pyramids=1, action_pyramids=(1,))
    path = tmp_path_factory.mktemp("aoti") / "model.pt2"
    model = make(config)
    export_network(model, ModelMeta.default(config), path, "aoti")
    return model, path


def test_aoti_package(package: tuple[SPNet, Path]) -> None:
    model, path = package
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]
    loaded = torch._inductor.aoti_load_package(str(path))
    compare(lambda frames: list(loaded(frames)), model, {}, ["poses", "action_0"])
    metadata = loaded.loader.get_metadata()
    assert json.loads(metadata["outputs"])["poses"]["shape"] == ["batch", 3, 17, 4]


READERS = {
    "onnx": "session = onnxruntime.InferenceSession(path); answers = session.run(None, {'frames': frames})",
    "torch": "answers = torch.export.load(path).module()(torch.from_numpy(frames))",
    "aoti": "answers = torch._inductor.aoti_load_package(path)(torch.from_numpy(frames))",
}


@pytest.mark.parametrize("format", READERS)
def test_files_are_read_without_pyhar(format: str, package: tuple[SPNet, Path], tmp_path: Path) -> None:
    model, path = package
    if format != "aoti":
        path = tmp_path / f"model{FORMATS[format].suffix}"
        export_network(model, ModelMeta.default(model.config), path, format)
    frames, expected = inputs_and_answers(model, {}, 2)
    np.save(tmp_path / "frames.npy", frames.numpy())
    code = (
        "import sys; sys.modules['pyhar'] = None\n"
        f"import numpy; import {'onnxruntime' if format == 'onnx' else 'torch, torch._inductor'}\n"
        f"path = {str(path)!r}; frames = numpy.load('frames.npy')\n"
        f"{READERS[format]}\n"
        "numpy.savez('answers.npz', *map(numpy.asarray, answers))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "answers.npz") as answers:
        for found, answer in zip(answers.values(), expected.values(), strict=True):
            np.testing.assert_allclose(found, answer.numpy(), rtol=0, atol=1e-4)


def test_the_file_says_what_its_numbers_mean(tmp_path: Path) -> None:
    config = dataclasses.replace(RELEASE, num_pyramids=1, action_pyramids=(1,))
    meta = ModelMeta("mine", [f"j{k}" for k in range(17)], [["run", "sit", "wave", "fall"]], 1500.0, root=4)
    texts = []
    for options in ({}, {"stills": True, "image_size": 48}):
        export_network(make(config), meta, tmp_path / "model.onnx", "onnx", **options)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        texts.append(session.get_modelmeta().custom_metadata_map)
    export_network(make(config), meta, tmp_path / "model.pt2", "torch")
    extra = {"pyhar.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    clips, stills = texts
    assert json.loads(extra["pyhar.json"]) == clips
    assert clips["pyhar"] == __version__
    assert json.loads(clips["joints"]) == meta.joints
    assert json.loads(clips["actions"]) == {"action_0": ["run", "sit", "wave", "fall"]}
    assert json.loads(stills["actions"]) == {}
    assert json.loads(clips["depth_range_mm"]) == 1500.0
    meaning = json.loads(clips["outputs"])["poses"]["meaning"]
    assert "behind the root joint, j4, in millimetres is (z - 0.5) * 1500" in meaning
    assert "RGB / 127.5 - 1" in json.loads(clips["inputs"])["frames"]["meaning"]
    assert json.loads(stills["inputs"])["frames"]["shape"] == ["batch", 3, 48, 48]
    assert SPNetConfig.from_dict(json.loads(clips["config"])).num_actions == (4,)
    assert SPNetConfig.from_dict(json.loads(stills["config"])).image_size == 48


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_files_tell_nothing_of_the_machine(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{FORMATS[format].suffix}"
    export_network(make(POSE), ModelMeta.default(POSE), path, format)
    data = path.read_bytes()
    for word in ("site-packages", "spnet.py", str(Path.cwd()), str(tmp_path)):
        assert word.encode() not in data


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    model = SPNet(POSE).train()
    export_network(model, ModelMeta.default(POSE), tmp_path / "model.pt2", "torch")
    assert model.training
    assert model.config == POSE
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_file_that_answers_otherwise_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("the file before")
    true = FORMATS["torch"]

    def load_wrong(file: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        run = true.load(file)
        return lambda frames: [value + (2e-4 if frames.shape[0] == 3 else 0) for value in run(frames)]

    monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(true, load=load_wrong))
    with pytest.raises(UserError, match=r"answers differ from the network's by 2\.0e-04.*nothing was written"):
        export_network(make(POSE), ModelMeta.default(POSE), path, "torch")
    assert path.read_text() == "the file before"
    assert list(tmp_path.iterdir()) == [path]


def test_answers_are_compared_without_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    true, allowed = FORMATS["torch"], []

    def load(file: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return true.load(file)

    monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(true, load=load))
    export_network(make(POSE), ModelMeta.default(POSE), tmp_path / "model.pt2", "torch")
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["onnx", "torch", "aoti"])
def test_export_from_a_gpu(format: str, tmp_path: Path) -> None:
    config, options = VARIANTS["release, 3D, decoupled, long clips"]
    model = make(config)
    path = tmp_path / f"model{FORMATS[format].suffix}"
    done = export_network(model.cuda(), ModelMeta.default(config), path, format, **options)
    run = FORMATS[format].load(path)
    compare(lambda frames: [value.cpu() for value in run(frames.cuda())], model.cpu(), options, list(done.outputs))
