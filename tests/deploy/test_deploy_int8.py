"""The deployed network in int8: close to float32, each picture for itself, refused where it cannot be served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_deploy import TINY, VARIANTS, clip, tensors, trained
from torch import Tensor

from pyhar import cli, ops, predict
from pyhar.deploy import DeployedSPNet, choose_dtype, deploy
from pyhar.errors import UserError
from pyhar.inference.export import export_network
from pyhar.kernels import native
from pyhar.models import ModelMeta, SPNet, save_model
from pyhar.ops import dispatch

CPU = torch.device("cpu")
needs_int8 = pytest.mark.skipif(
    native.load() is None or not native.load().cpu_has_int8_units(),  # type: ignore[union-attr]
    reason="this CPU multiplies no int8",
)


@pytest.fixture
def scalar() -> Iterator[None]:
    """The instruction set that every machine offers, which has no products of int8."""
    module = native.load()
    if module is None:
        pytest.skip("the native module is missing")
    before = module.cpu_isa()
    module.use_cpu_isa("scalar")
    yield
    module.use_cpu_isa(before)


def mean_off(network: DeployedSPNet, frames: Tensor, expected: list[Tensor]) -> float:
    found = list(tensors(network(frames)))
    assert all(value.dtype == torch.float32 for value in found)
    return sum(float((a - b).abs().mean()) for a, b in zip(found, expected, strict=True)) / len(found)


@needs_int8
@pytest.mark.parametrize("name", VARIANTS)
def test_close_to_float32(name: str) -> None:
    model, frames = trained(VARIANTS[name]), clip(VARIANTS[name])
    network = deploy(model, dtype=torch.int8)
    assert network.dtype == torch.int8
    with torch.no_grad():
        expected = list(tensors(model(frames)))
    off = mean_off(network, frames, expected)
    # Random networks magnify what is lost on the way, whatever the type.
    assert 1e-6 < off <= 3 * mean_off(deploy(model, dtype=torch.bfloat16), frames, expected)


@needs_int8
def test_its_products_are_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    run = dispatch.run

    def watched(operator: str, *args: object) -> object:
        called.add(operator)
        return run(operator, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("pyhar.ops.units.run", watched)
    network = deploy(trained(TINY), dtype=torch.int8)
    network(clip(TINY))
    assert {"int8_separable_unit", "int8_bottleneck_unit", "int8_convolution_unit"} <= called
    weights = {name: value for name, value in network.named_buffers() if value.dtype == torch.int8}
    assert len(weights) > 10
    assert all(network.get_buffer(f"{name}_scale").shape == (len(weight),) for name, weight in weights.items())


@needs_int8
@pytest.mark.parametrize("name", ["paper", "release decoupled 3D"])
def test_each_clip_alone_and_recorded_gives_the_same(name: str) -> None:
    model, frames = trained(VARIANTS[name]), clip(VARIANTS[name], batch=3)
    network = deploy(model, dtype=torch.int8)
    plain = list(tensors(deploy(model, dtype=torch.int8, graph=False)(frames)))
    for _ in range(3):  # as it is, recorded, repeated
        for a, b in zip(tensors(network(frames)), plain, strict=True):
            assert torch.equal(a, b)
    assert network.graphs.why_not is None
    for a, b in zip(tensors(network(frames[1:2])), plain, strict=True):
        torch.testing.assert_close(a, b[1:2], atol=1e-6, rtol=1e-5)


@needs_int8
def test_kernels_give_what_plain_pytorch_defines() -> None:
    network = deploy(trained(VARIANTS["release decoupled 3D"]), dtype=torch.int8, graph=False)
    frames = clip(TINY)
    with ops.use_backend("eager"):
        expected = list(tensors(network(frames)))
    assert mean_off(network, frames, expected) < 1e-2


def test_refused_where_it_cannot_be_served(scalar: None) -> None:
    reason = r"int8 cannot be served: .* scalar does not multiply it .*use bfloat16 or float32"
    with pytest.raises(UserError, match=reason):
        deploy(trained(TINY), dtype=torch.int8)
    with pytest.raises(UserError, match=reason):
        choose_dtype("int8", CPU)
    assert choose_dtype("auto", CPU) == torch.float32


def test_commands_say_so(scalar: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, picture = tmp_path / "model.safetensors", tmp_path / "picture.png"
    save_model(model, SPNet(TINY), ModelMeta.default(TINY))
    cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))
    assert cli.run(predict.main, [str(picture), "--model", str(model), "--dtype", "int8", "--device", "cpu"]) == 2
    assert "int8 cannot be served" in capsys.readouterr().err
    with pytest.raises(UserError, match="unknown export type 'int8'"):
        export_network(SPNet(TINY), ModelMeta.default(TINY), tmp_path / "network.onnx", "onnx", dtype="int8")


@needs_int8
def test_predicted_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model("model.safetensors", SPNet(TINY), ModelMeta.default(TINY))
    cv2.imwrite("picture.png", np.zeros((32, 32, 3), np.uint8))
    assert (
        cli.run(predict.main, ["picture.png", "--model", "model.safetensors", "--dtype", "int8", "--device", "cpu"])
        == 0
    )


def test_refused_on_gpus() -> None:
    with pytest.raises(UserError, match="int8 is served on CPUs, not on cuda: use bfloat16"):
        deploy(trained(TINY), dtype=torch.int8, device="cuda")
