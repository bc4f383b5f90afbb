"""Every CUDA kernel compiles for every architecture, and none keeps in memory what should be in registers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pyhar.kernels import cuda_report, cuda_variants
from pyhar.kernels.cuda_variants import Constants, Kernel
from pyhar.kernels.resources import Resources

# What one multiprocessor has for a block.
REGISTERS = 65536


def assert_fits(rows: list[Resources], kernels: list[Kernel], architectures: tuple[str, ...]) -> None:
    named = {(row.kernel, row.variant, row.arch) for row in rows}
    wanted = {(k.function, " ".join(map(str, k.arguments)), arch) for k in kernels for arch in architectures}
    assert named == wanted
    threads = {(k.function, " ".join(map(str, k.arguments))): k.threads for k in kernels}
    for row in rows:
        assert row.spill_bytes == 0, row
        assert row.registers * threads[row.kernel, row.variant] <= REGISTERS, row


@pytest.fixture(scope="module")
def ahead() -> Iterator[dict[str, Future[list[Resources]]]]:
    """What nvcc says of the kernels compiled ahead, by storage type; two of its processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            storage: pool.submit(cuda_report.by_nvcc, cuda_variants.ahead_of_time(storage))
            for storage in cuda_variants.STORAGES
        }


@pytest.mark.skipif(cuda_report.find_nvcc() is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("storage", cuda_variants.STORAGES)
def test_kernels_compiled_ahead(storage: str, ahead: dict[str, Future[list[Resources]]]) -> None:
    kernels = cuda_variants.ahead_of_time(storage)
    assert_fits(ahead[storage].result(), kernels, cuda_report.ARCHITECTURES)


def kernels_of(storage: str, packed: int, values: int) -> list[Kernel]:
    """What a call on tensors of one type takes at run time."""
    types = ("float", storage, storage)
    return [
        Kernel("plane_forward", (*types, "warp_of_plane", packed, values)),
        Kernel("plane_backward", (*types, "warp_of_plane", packed)),
        Kernel("pose_and_appearance", (*types, storage, packed, values, 20, 16, 8)),
        Kernel("appearance_forward", (*types, 20, 64, 2)),
        Kernel("appearance_to_planes", ("float", storage, 20, 64, 2)),
        Kernel("appearance_to_features", (*types, 64, 64, 1)),
    ]


@pytest.mark.parametrize(
    ("architecture", "kernels", "constants"),
    [
        ("sm_80", kernels_of("f16", 8, 32), Constants(20, 576, 32, 32, 2 | 32)),
        ("sm_90", kernels_of("bf16", 8, 8), Constants(17, 64, 16, 16, 2 | 32 | 64 | 128)),
        ("sm_100", kernels_of("float", 1, 2), Constants(20, 33, 7, 7, 3)),
        ("sm_90", [
            Kernel("plane_forward", ("double", "bf16", "double", "lanes_of_joints", 1, 0)),
            Kernel("plane_backward", ("double", "bf16", "double", "lanes_of_joints", 1)),
        ], Constants(512, 0, 7, 7, 2 | 4)),
    ],
)  # fmt: skip
def test_kernels_compiled_at_run_time(architecture: str, kernels: list[Kernel], constants: Constants) -> None:
    assert cuda_report.nvrtc() is not None, "the test extra brings NVRTC"
    assert_fits(cuda_report.by_nvrtc(kernels, constants, architecture), kernels, (architecture,))
