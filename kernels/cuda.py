"""Backend "cuda": the kernels that were compiled into `pyhar._native` when pyhar was installed.

They hold tensors whose storage types are all the same; the same source serves mixtures when compiled at run time
(`pyhar.kernels.nvrtc`). A call queues its launches on PyTorch's current stream and waits for nothing.
"""

from __future__ import annotations

import functools
import threading
from types import ModuleType

import torch
from torch import Tensor

from pyhar.kernels import native
from pyhar.kernels.cuda_calls import calls
from pyhar.kernels.cuda_plan import STORAGE, Launch, Plan, why_not_sizes

OLDEST = (8, 0)
REMEDY = "install pyhar again where nvcc is found (`pip install -v -e .` in a clone shows the build)"


@functools.cache
def why_unusable() -> str | None:
    """Return why this machine cannot run the kernels compiled ahead, or None."""
    module = native.load()
    if module is None:
        return f"the native module is missing: {native.why_missing()}"
    toolkit = module.build_info()["cuda_toolkit"]
    if not toolkit:
        return f"the native module was built without CUDA kernels; {REMEDY}"
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    driver, missing = module.cuda_driver()
    if missing:
        return missing
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if driver // 1000 < toolkit // 1000:
        return (
            f"the driver is for CUDA {_version(driver)} and the kernels were compiled with {_version(toolkit)}; "
            f"update the driver, or {REMEDY}"
        )
    return None


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why tensors like these cannot be served, or None."""
    if logits.device.type != "cuda":
        return f"serves tensors on a CUDA device, these are on {logits.device}"
    if features is not None and features.dtype != logits.dtype:
        return _mixed("features", features, logits)
    if depth_logits is not None and depth_logits.dtype != logits.dtype:
        return _mixed("depth_logits", depth_logits, logits)
    return _why_not_device(logits.device) or why_not_sizes(logits)


def _mixed(name: str, tensor: Tensor, logits: Tensor) -> str:
    types = f"{str(tensor.dtype).removeprefix('torch.')} with logits {str(logits.dtype).removeprefix('torch.')}"
    return f"compiled for tensors of one type, and {name} are {types}; the backends nvrtc and triton take mixtures"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _why_not_device(device: torch.device) -> str | None:
    capability = _capability(device)
    if capability < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"compiled for compute capability {oldest} and later, and {device} has {capability[0]}.{capability[1]}"
    return None


# torch.compile takes the answer as it is: it warns of functions that remember theirs.
_why_not_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _native() -> ModuleType:
    module = native.load()
    if module is None:
        raise RuntimeError(f"the native module is missing: {native.why_missing()}")
    return module


_functions: dict[tuple[int, str], int] = {}
_modules: dict[tuple[int, str], int] = {}
_loading = threading.Lock()


def _function(device: int, launch: Launch) -> int:
    """Return the kernel of `launch` on the current device, loading its image when that is first wanted there."""
    kernel = launch.kernel
    with _loading:
        storage = next(a for a in kernel.arguments[1:] if a in STORAGE.values())
        image = (device, str(storage))
        if image not in _modules:
            _modules[image] = _native().cuda_load(*image)
        found = _functions[device, kernel.name] = _native().cuda_function(_modules[image], kernel.name)
    return found


def _run(plan: Plan, parameters: bytes, device: torch.device) -> None:
    index = device.index
    if torch.cuda.current_device() == index:
        return _queue(plan, parameters, index)
    with torch.cuda.device(index):
        _queue(plan, parameters, index)


def _queue(plan: Plan, parameters: bytes, index: int) -> None:
    """Queue the launches on the current stream of the current device, which is `index`."""
    launch_kernel = _native().cuda_launch
    stream = torch._C._cuda_getCurrentRawStream(index)  # half the time of torch.cuda.current_stream
    for launch in plan.launches:
        function = _functions.get((index, launch.kernel.name)) or _function(index, launch)
        launch_kernel(index, function, stream, parameters, launch.blocks, launch.threads, launch.shared_bytes)


_calls = calls(_run, exact=False)
softmax_forward = _calls.softmax_forward
softmax_backward = _calls.softmax_backward
decode_forward = _calls.decode_forward
decode_backward = _calls.decode_backward
