"""The README's replacements: our import gives what the line it replaces gives, on the same input."""

from __future__ import annotations

import re
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(# from .*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


class PlainSpatialSoftmax(nn.Module):
    """The module of robot-learning code, as it is written there: a flat softmax and products with a meshgrid."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_kp: int,
        temperature: float,
        output_variance: bool = False,
        noise_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_variance = output_variance
        self.noise_std = noise_std
        channels, self.height, self.width = input_shape
        self.nets = nn.Conv2d(channels, num_kp, kernel_size=1)
        self.temperature = temperature
        y, x = torch.meshgrid(torch.linspace(-1, 1, self.height), torch.linspace(-1, 1, self.width), indexing="ij")
        self.register_buffer("pos_x", x.reshape(1, -1))
        self.register_buffer("pos_y", y.reshape(1, -1))

    def forward(self, features: Tensor) -> Any:
        maps = self.nets(features)
        weights = (maps.reshape(-1, self.height * self.width) / self.temperature).softmax(-1)
        x, y = ((weights * p).sum(1, keepdim=True) for p in (self.pos_x, self.pos_y))
        keypoints = torch.cat([x, y], 1).view(-1, maps.shape[1], 2)
        if self.training:
            keypoints = keypoints + torch.randn_like(keypoints) * self.noise_std
        if not self.output_variance:
            return keypoints
        xx, xy, yy = (
            (weights * p * q).sum(1, keepdim=True)
            - (weights * p).sum(1, keepdim=True) * (weights * q).sum(1, keepdim=True)
            for p, q in ((self.pos_x, self.pos_x), (self.pos_x, self.pos_y), (self.pos_y, self.pos_y))
        )
        return keypoints, torch.cat([xx, xy, xy, yy], 1).view(-1, maps.shape[1], 2, 2)


@pytest.fixture
def robomimic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in where the package would be imported from."""
    module: Any = ModuleType("robomimic.models.base_nets")
    module.SpatialSoftmax = PlainSpatialSoftmax
    for name in ("robomimic", "robomimic.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "robomimic.models.base_nets", module)


def run(block: str) -> dict[str, Any]:
    torch.manual_seed(0)
    names: dict[str, Any] = {"torch": torch}
    exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.usefixtures("robomimic")
@pytest.mark.parametrize("block", BLOCKS, ids=[b.split()[2].split(".")[0] for b in BLOCKS])
def test_the_replacement_gives_the_values_of_what_it_replaces(block: str) -> None:
    comment, *rest = block.splitlines()
    assert len([line for line in rest if line]) <= 5
    theirs = [comment.removeprefix("# "), *(line for line in rest if not line.startswith("from pyhar"))]
    library = comment.split()[2].split(".")[0]
    oldest = {"kornia": "0.9"}  # before, its temperature was another
    pytest.importorskip(library, oldest.get(library), exc_type=ImportError)
    ours = run(block)
    assert any(getattr(value, "__module__", "").startswith("pyhar.") for value in ours.values())
    torch.testing.assert_close(ours["keypoints"], run("\n".join(theirs))["keypoints"], rtol=1e-5, atol=1e-6)


def test_all_three_are_shown() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.usefixtures("robomimic")
def test_saved_weights_of_the_robot_learning_module_load() -> None:
    from pyhar.nn import SpatialSoftmaxKeypoints

    plain = PlainSpatialSoftmax((8, 5, 6), 4, 2.0)
    ours = SpatialSoftmaxKeypoints((8, 5, 6), num_kp=4, temperature=2.0)
    ours.load_state_dict(plain.state_dict())
    features = torch.randn(3, 8, 5, 6)
    torch.testing.assert_close(ours(features), plain(features), rtol=1e-5, atol=1e-6)


def test_noise_and_covariances_of_the_robot_learning_module() -> None:
    from pyhar.nn import SpatialSoftmaxKeypoints

    options: Any = {"num_kp": 4, "temperature": 0.5, "output_variance": True, "noise_std": 0.1}
    plain, ours = PlainSpatialSoftmax((8, 5, 6), **options), SpatialSoftmaxKeypoints((8, 5, 6), **options)
    ours.load_state_dict(plain.state_dict())
    features = torch.randn(3, 8, 5, 6)
    for training in (True, False):
        found, expected = [], []
        for module, values in ((ours, found), (plain, expected)):
            torch.manual_seed(0)
            leaf = features.clone().requires_grad_()
            values += module.train(training)(leaf)
            values += torch.autograd.grad([value.square().sum() for value in values], [leaf, *module.parameters()])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="noise_std: expected 0 or more, got -1"):
        SpatialSoftmaxKeypoints((8, 5, 6), noise_std=-1)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dynamo", [True, False])
def test_the_robot_learning_module_is_written_to_onnx(dynamo: bool) -> None:
    from pyhar.nn import SpatialSoftmaxKeypoints

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = SpatialSoftmaxKeypoints((8, 5, 6), num_kp=4, learnable_temperature=True).eval()
    features, file = torch.randn(3, 8, 5, 6), BytesIO()
    torch.onnx.export(module, (features,), file, dynamo=dynamo, input_names=["features"], verbose=False)
    (found,) = onnxruntime.InferenceSession(file.getvalue()).run(None, {"features": features.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(features).detach(), rtol=1e-5, atol=1e-6)
