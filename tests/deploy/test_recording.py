"""Recordings of functions on the CPU: repeated on other values they give what the function gives."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyhar import ops
from pyhar.deploy.recording import Pool, Recorded, record
from pyhar.kernels import native

MAPS = (2, 8, 6, 5)
WEIGHT = torch.linspace(-1, 1, 8 * 8 * 9).view(8, 8, 3, 3)
SCALE = torch.linspace(0.5, 2, 8)


def maps(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MAPS, generator=generator).contiguous(memory_format=torch.channels_last)


def ours(x: Tensor) -> Tensor:
    """Kernels of the native module alone, the last reading what the first two wrote."""
    y = ops.convolution_unit(x, SCALE, SCALE, WEIGHT)
    return ops.convolution_unit(ops.pooling_unit(y, 2, (1, 1)), None, None, WEIGHT, skips=(x, y))


def mixed(x: Tensor) -> list[Tensor]:
    """Kernels and PyTorch in turns, with views, writes in place, several outputs, and tensors that end early."""
    y = x
    for _ in range(3):
        y = ops.convolution_unit(torch.cat([y[:, :4], y[:, 4:].relu()], dim=1), SCALE, SCALE, WEIGHT) / 8
        y[:, 0] += 1
        y.mul_(0.5).clamp_(max=2.0)
    largest, places = F.max_pool2d(y, 2, return_indices=True)
    decoded = ops.decode_pose(y)
    return [y.permute(0, 2, 3, 1), largest, places, decoded.xy, y.new_zeros(3) + x.amax(), F.pad(y, (1, 1, 0, 0))]


def leaves(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def recorded(function: Callable[[Tensor], Any], pool: Pool | None = None) -> tuple[Tensor, Recorded]:
    kept = maps(0).clone()
    with torch.inference_mode():
        function(kept)
        return kept, record(function, (kept,), Pool() if pool is None else pool)


@pytest.mark.parametrize("function", [ours, mixed])
def test_repeated_on_other_values(function: Callable[[Tensor], Any]) -> None:
    kept, found = recorded(function)
    gc.collect()
    with torch.inference_mode():
        for seed in (1, 2, 1):
            kept.copy_(maps(seed))
            found.repeat()
            for a, b in zip(leaves(found.result), leaves(function(maps(seed))), strict=True):
                assert a.stride() == b.stride()
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.skipif(native.load() is None, reason="needs the native module")
def test_kernels_that_follow_each_other_are_one_call() -> None:
    _, found = recorded(ours)
    assert len(found.steps) == 1
    _, found = recorded(lambda x: ours(ours(x).neg_()))
    assert len(found.steps) == 3


def test_memory_that_nobody_reads_any_more_is_used_again() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(20):
            x = x + 1
        return x

    def hoard(x: Tensor) -> list[Tensor]:
        found = [x]
        for _ in range(20):
            found.append(found[-1] + 1)
        return found[1:]

    sizes = []
    for function in (chain, hoard):
        pool = Pool()
        recorded(function, pool)
        sizes.append(pool.size)
    assert sizes == [2 * maps(0).nbytes, 20 * maps(0).nbytes]


def test_recordings_in_one_pool_share_its_memory() -> None:
    pool = Pool()
    first, second = recorded(ours, pool), recorded(ours, pool)
    single = Pool()
    recorded(ours, single)
    assert pool.size == single.size
    with torch.inference_mode():
        for seed, (kept, found) in enumerate([first, second, first]):
            kept.copy_(maps(seed))
            found.repeat()
            torch.testing.assert_close(found.result, ours(maps(seed)), rtol=0, atol=0)


def test_a_function_that_looks_at_values_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reads values of a tensor"):
        recorded(lambda x: x + 1 if x.amax() > 0 else x)
    kept, found = recorded(ours)  # nothing is left of the attempt
    found.repeat()
    torch.testing.assert_close(found.result, ours(kept), rtol=0, atol=0)


def test_an_error_of_the_function_passes_through() -> None:
    def fails(x: Tensor) -> Tensor:
        raise KeyError("joint")

    with torch.inference_mode(), pytest.raises(KeyError, match="joint"):
        record(fails, (maps(0),), Pool())
    recorded(ours)
