"""The network decodes and pools its maps through the compiled operators, whichever backend is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyhar import ops
from pyhar.errors import UserError
from pyhar.models import SPNet, SPNetConfig, get_preset
from pyhar.ops import compiled, dispatch, native_calls

CONFIG = dataclasses.replace(get_preset("small"), image_size=64, clip_frames=4)
LAUNCHERS = ("softmax_forward", "softmax_backward", "decode_forward", "decode_backward")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the launchers of the C++ backend that were called, in order."""
    kernels = compiled.KERNELS["cpu"]
    if kernels.why_unusable() is not None:
        pytest.skip(kernels.why_unusable())
    calls: list[str] = []

    def spy(name: str) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            calls.append(name)
            getattr(kernels, name)(*args)

        return launch

    spies = {name: spy(name) for name in LAUNCHERS}
    spied = SimpleNamespace(why_unusable=kernels.why_unusable, why_not=kernels.why_not, **spies)
    monkeypatch.setitem(compiled.KERNELS, "cpu", spied)
    with native_calls.set_aside():
        yield calls


def outputs(model: SPNet, frames: torch.Tensor) -> list[torch.Tensor]:
    out = model(frames)
    return [*out.poses, *(scores for block in out.actions for scores in block)]


@pytest.mark.parametrize("reinjection", ["maps", "logits"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_every_block_goes_through_the_backend(reinjection: Any, decoupled: bool, ran: list[str]) -> None:
    config: SPNetConfig = dataclasses.replace(CONFIG, reinjection=reinjection, decoupled=decoupled)
    model = SPNet(config).double()
    frames = torch.rand(2, 4, 3, 64, 64, dtype=torch.float64) * 2 - 1
    blocks = len(model(frames[:, 0]).poses)
    assert blocks > 1
    assert ran.count("decode_forward") == blocks

    ran.clear()
    found = outputs(model, frames)
    actions = len(found) - blocks
    assert actions > 0
    decodes = ran.count("decode_forward")
    assert decodes == (blocks + actions if decoupled else blocks)
    assert ("softmax_forward" in ran) == (reinjection == "maps")

    ran.clear()
    sum(value.square().sum() for value in found).backward()
    assert ran.count("decode_backward") == decodes

    ran.clear()
    grads = [p.grad for p in model.parameters()]
    model.zero_grad()
    with ops.use_backend("eager"):
        expected = outputs(model, frames)
        sum(value.square().sum() for value in expected).backward()
    assert ran == []
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-9)
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        if grad is not None:
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("from_outside", ["use_backend", "PYHAR_BACKEND"])
def test_a_backend_that_lacks_convolutions_serves_the_maps(
    from_outside: str, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C++ backend has no depthwise convolution of contiguous maps, others have none at all."""
    model, frames = SPNet(CONFIG), torch.rand(1, 3, 64, 64) * 2 - 1
    x, weight = torch.rand(1, 2, 3, 4), torch.rand(2, 1, 3, 3)
    expected = model(frames).poses
    ran.clear()
    with pytest.raises(UserError, match="'cpu' cannot serve depthwise_conv: x is not in memory format channels_last"):
        ops.depthwise_conv(x, weight, backend="cpu")
    monkeypatch.setattr(dispatch, "_asked", "cpu")
    if from_outside == "PYHAR_BACKEND":
        monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "cpu")
    poses = model(frames).poses
    sum(pose.sum() for pose in poses).backward()
    assert ran.count("decode_forward") == ran.count("decode_backward") == len(poses)
    torch.testing.assert_close(poses, expected)
    torch.testing.assert_close(ops.depthwise_conv(x, weight), torch.conv2d(x, weight, padding=1, groups=2))
    monkeypatch.setattr(dispatch, "_asked", "cuda")
    monkeypatch.setitem(dispatch._probes, "cuda", lambda: "no CUDA device was found")
    with pytest.raises(UserError, match="'cuda' cannot serve depthwise_conv: no CUDA device was found; these can: "):
        ops.depthwise_conv(x, weight)
