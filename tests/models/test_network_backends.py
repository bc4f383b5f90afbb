"""The network decodes and pools its maps through the compiled operators, whichever backend is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyhar import ops
from pyhar.models import SPNet, SPNetConfig, get_preset
from pyhar.ops import compiled

CONFIG = dataclasses.replace(get_preset("small"), image_size=64, clip_frames=4)
LAUNCHERS = ("softmax_forward", "softmax_backward", "decode_forward", "decode_backward")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
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
    return calls


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
