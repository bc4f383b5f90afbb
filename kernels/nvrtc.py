"""Backend "nvrtc": the CUDA kernels compiled at run time, by NVRTC through CuPy, for the sizes and types of each call.

A new shape is compiled when it is first met, in about a second, and kept; CuPy keeps it on disk as well. Any mixture of
types is served. A call queues its launches on PyTorch's current stream. Compiling may not happen while a stream is
captured for a CUDA graph: as for every kernel compiled when needed, run once before capturing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyhar.kernels import cuda_sources, cuda_variants
from pyhar.kernels.cuda_calls import calls
from pyhar.kernels.cuda_plan import Plan, why_not_sizes
from pyhar.kernels.cuda_variants import Constants, Kernel


@functools.cache
def why_unusable() -> str | None:
    """Return why this machine cannot compile and run the kernels, or None."""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    major = torch.version.cuda.partition(".")[0]
    remedy = f"`pip install cupy-cuda{major}x`"
    if importlib.util.find_spec("cupy") is None:
        return f"needs CuPy: {remedy}"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA driver or no CUDA device"
    try:
        cupy = importlib.import_module("cupy")
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy and what it loads fail in many ways
        return f"CuPy does not start ({type(error).__name__}: {error}); {remedy} fits this PyTorch"
    try:
        nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        nvrtc.getVersion()
    except Exception as error:
        return f"CuPy finds no NVRTC ({type(error).__name__}: {error}); `pip install nvidia-cuda-nvrtc{_suffix(major)}`"
    return None


def _suffix(major: str) -> str:
    """Return what follows the name of NVIDIA's packages; from CUDA 13 on nothing does."""
    return f"-cu{major}" if int(major) < 13 else ""


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why tensors like these cannot be served, or None."""
    if logits.device.type != "cuda":
        return f"serves tensors on a CUDA device, these are on {logits.device}"
    return why_not_sizes(logits)


def options(constants: Constants) -> tuple[str, ...]:
    """Return how the compiler is called, but for the architecture."""
    return ("-std=c++17", f"-I{cuda_sources.folder()}", *constants.options)


# By device, kernel and constants.
_functions: dict[tuple[int, Kernel, Constants], Any] = {}


def _compile(kernels: list[Kernel], constants: Constants, device: int) -> None:
    """Compile `kernels` as one module for the current device."""
    cupy = importlib.import_module("cupy")
    # CuPy's own cache knows a module by its text: the headers' digest makes other headers another text.
    text = f"// {cuda_sources.digest()}\n" + cuda_variants.source(kernels)
    module = cupy.RawModule(code=text, options=options(constants), backend="nvrtc")
    for kernel in kernels:
        _functions[device, kernel, constants] = module.get_function(kernel.name)


def _run(plan: Plan, parameters: bytes, device: torch.device) -> None:
    cupy = importlib.import_module("cupy")
    index = device.index
    # An array of one element is passed by value: the struct that the kernels take.
    struct = np.frombuffer(parameters, dtype=f"V{len(parameters)}")
    with torch.cuda.device(index), cupy.cuda.Device(index):
        kernels = (launch.kernel for launch in plan.launches)
        missing = [kernel for kernel in kernels if (index, kernel, plan.constants) not in _functions]
        if missing:
            _compile(missing, plan.constants, index)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream(index).cuda_stream, index):
            for launch in plan.launches:
                function = _functions[index, launch.kernel, plan.constants]
                function((launch.blocks,), (launch.threads,), (struct,), shared_mem=launch.shared_bytes)


_calls = calls(_run, exact=True)
softmax_forward = _calls.softmax_forward
softmax_backward = _calls.softmax_backward
decode_forward = _calls.decode_forward
decode_backward = _calls.decode_backward
