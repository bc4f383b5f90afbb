"""The stand-in for a CUDA device finds what a device would leave undefined."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def host() -> Iterator[ModuleType]:
    """The backend on the CPU, the same module for all who load it."""
    if "cuda_on_host" not in sys.modules:
        spec = importlib.util.spec_from_file_location("cuda_on_host", Path(__file__).parent / "host.py")
        assert spec
        assert spec.loader
        sys.modules["cuda_on_host"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["cuda_on_host"])
    module = sys.modules["cuda_on_host"]
    if reason := module.why_unusable():
        pytest.skip(reason)
    yield module
    module.order, module.seed = "ascending", 0


TOY = """
#include "stand_in.hpp"
extern "C" void toy(const void* address) {
    int* const out = *static_cast<int* const*>(address);
    int* const memory = reinterpret_cast<int*>(host::shared_memory());
    const int thread = threadIdx.x, threads = blockDim.x;
    %s
}
"""
SHARED = "memory[thread] = thread; {barrier} out[thread] = memory[threads - 1 - thread];"

# What a thread of one warp has yet to read, another warp writes anew.
AHEAD = (
    "memory[thread] = thread; __syncthreads(); out[thread] = memory[threads - 1 - thread];"
    "__shfl_xor_sync(0xffffffffu, thread, 1); {barrier} memory[thread] = -1;"
)


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (SHARED.format(barrier="__syncthreads();"), None),
        (SHARED.format(barrier=""), "orders differ"),
        (AHEAD.format(barrier="__syncthreads();"), None),
        (AHEAD.format(barrier=""), "orders differ"),
        ("if (thread < 8) __syncthreads(); out[thread] = 0;", "never reach"),
        ("if (thread < 8) __syncwarp(); else __syncthreads(); out[thread] = 0;", "never reach"),
        (
            "if (thread % 2) { __syncthreads(); out[thread] = 1; } else { out[thread] = 0; __syncthreads(); }",
            "elsewhere",
        ),
        ("if (thread != 5) out[thread] = __shfl_xor_sync(0xffffffffu, thread, 1);", "never reach"),
        ("out[thread] = __shfl_xor_sync(0xffffffffu, thread, thread < 32 ? 1 : 2);", None),
        ("memory[thread + 1] = thread; out[thread] = 0;", "outside the shared memory"),
    ],
)
def test_the_stand_in_finds_what_a_device_leaves_undefined(host: ModuleType, body: str, finding: str | None) -> None:
    toy = host.compile_library(TOY % body).toy
    found = set()
    for order in host.ORDERS:
        host.order = order
        out = torch.full((64,), -1, dtype=torch.int32)
        address = bytes(ctypes.c_void_p(out.data_ptr()))
        try:
            host.run_kernel(toy, address, 1, 64, 64 * 4)
        except host.KernelError as error:
            found.add(str(error))
        else:
            found.add(str(out.tolist()))
    if finding == "orders differ":
        assert len(found) > 1
    else:
        (only,) = found
        assert only.startswith("[") if finding is None else finding in only
