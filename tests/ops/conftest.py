"""What the tests of operators share: their inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch


class Inputs(NamedTuple):
    """Arguments of `decode_pose_and_appearance`."""

    logits: torch.Tensor
    features: torch.Tensor
    depth_logits: torch.Tensor

    def leaves(self, *names: str) -> Inputs:
        """The same, detached, with their strides; those named require grad, all if none is."""
        return Inputs(
            *(t.detach().requires_grad_(not names or n in names) for n, t in zip(self._fields, self, strict=True))
        )


def layout_as(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slice":  # every second pixel of a larger tensor
        whole = tensor.new_full([2 * n for n in tensor.shape], float("nan"))
        part = whole[tuple(slice(None, None, 2) for _ in tensor.shape)]
        return part.copy_(tensor)
    if layout == "expanded":  # one batch element for all: stride 0
        return tensor[:1].expand_as(tensor)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert layout == "contiguous"
    return tensor


@pytest.fixture(scope="session")
def make_inputs() -> Any:
    """A function (b, j, c, y, x, dtype, layout, feature_layout, scale, seed, device) -> `Inputs`."""

    def make(
        b: int = 2,
        j: int = 3,
        c: int = 4,
        y: int = 7,
        x: int = 9,
        dtype: torch.dtype = torch.float32,
        layout: str = "contiguous",
        feature_layout: str | None = None,
        scale: float = 3.0,
        seed: int = 0,
        device: str = "cpu",
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def random(channels: int, layout: str) -> torch.Tensor:
            values = torch.randn(b, channels, y, x, generator=generator, dtype=torch.float64)
            return layout_as((scale * values).to(device, dtype), layout)

        return Inputs(random(j, layout), random(c, feature_layout or layout), random(j, layout))

    return make
