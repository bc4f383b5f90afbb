"""The Triton backend: the functions that `pyhar.kernels` asks of a backend.

Triton is imported by the first function that needs it. With TRITON_INTERPRET=1 in the environment at that time, the
kernels run on the CPU, in Triton's interpreter: slow, and meant for tests.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os

import torch
from torch import Tensor

Grid = tuple[float, float, float, float]

MOST_PIXELS = 2**30
MOST_PROGRAMS = 2**31 - 1
MOST_TAPS = 7  # of a side of a convolution kernel: the depthwise kernel unrolls one
LEAST_VERSION = (3, 5)  # products of float64
LEAST_CAPABILITY = (8, 0)  # bfloat16 in hardware; older GPUs are not compiled for


def interpreted() -> bool:
    """Tell whether Triton is asked to interpret kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def why_unusable() -> str | None:
    """Return why this machine cannot run the backend, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; `pip install triton` installs it"
    version = _version()
    if version is not None and version < LEAST_VERSION:
        return f"it needs Triton 3.5 or newer, which comes with PyTorch 2.9; this is {version[0]}.{version[1]}"
    if not interpreted() and not torch.cuda.is_available():
        return "there is no CUDA device, and TRITON_INTERPRET=1 is not set"
    return None


def _version() -> tuple[int, int] | None:
    try:
        major, minor = importlib.metadata.version("triton").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:  # a build of another name
        return None
    return int(major), int(minor)


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why the backend cannot serve tensors like these, or None."""
    reason = _wrong_device(logits.device)
    if reason is not None:
        return reason
    if torch.compiler.is_compiling():  # sizes may be symbols: a limit here would become one of the exported program
        return None
    batch, joints, rows, columns = logits.shape
    pixels = rows * columns
    if pixels > MOST_PIXELS:
        return f"its planes have at most 2^30 pixels, these {rows}x{columns}"
    channels = 1 if features is None else features.shape[1]
    # The least tiles of any kernel: 1 plane; 16 joints by 16 channels; 16 pixels.
    if batch * max(joints, joints * channels // 16, (joints + channels) * pixels // 256) > MOST_PROGRAMS:
        return "the tensors need more programs than a launch can have"
    return None


def _wrong_device(device: torch.device) -> str | None:
    if device.type == "cuda":
        capability = _capability(device.index)
        if capability < LEAST_CAPABILITY:
            return f"it needs a GPU of compute capability 8.0 or higher, this one has {capability[0]}.{capability[1]}"
    elif device.type != "cpu" or not interpreted():
        return f"it serves CUDA tensors, these are on {device.type}"
    return None


# torch.compile takes the answer as it is: it warns of functions that remember theirs.
_wrong_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def softmax_forward(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> None:
    """Write `probs` and `stats`."""
    from pyhar.kernels.triton.softmax import softmax_forward_launch

    softmax_forward_launch(logits, beta, scale, stats, probs).start(logits.device)


def softmax_backward(
    logits: Tensor,
    beta: Tensor | None,
    scale: float,
    stats: Tensor,
    probs: Tensor,
    g_probs: Tensor | None,
    d_logits: Tensor | None,
    d_beta: Tensor | None,
) -> None:
    """Write the gradients that are not None."""
    from pyhar.kernels.triton.backward import softmax_backward_launch

    if d_logits is not None or d_beta is not None:
        softmax_backward_launch(logits, beta, scale, stats, g_probs, d_logits, d_beta).start(logits.device)


def decode_forward(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: Grid,
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    confidence: Tensor | None,
    appearance: Tensor | None,
) -> None:
    """Write `stats` and the outputs that are not None."""
    from pyhar.kernels.triton.appearance import appearance_forward_launch
    from pyhar.kernels.triton.decode import decode_forward_launch

    if features is not None and appearance is not None:
        launch = appearance_forward_launch(
            logits, features, depth_logits, beta, scale, grid, window, stats, xy, z, confidence, appearance
        )
    else:
        launch = decode_forward_launch(logits, depth_logits, beta, scale, grid, window, stats, xy, z, confidence)
    launch.start(logits.device)


def decode_backward(
    logits: Tensor,
    features: Tensor | None,
    depth_logits: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: Grid,
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    g_xy: Tensor | None,
    g_z: Tensor | None,
    g_confidence: Tensor | None,
    g_appearance: Tensor | None,
    d_logits: Tensor | None,
    d_features: Tensor | None,
    d_depth_logits: Tensor | None,
    d_beta: Tensor | None,
) -> None:
    """Write the gradients that are not None."""
    from pyhar.kernels.triton.backward import decode_backward_launches

    if d_features is not None and g_appearance is None:
        d_features.zero_()
    if d_depth_logits is not None and g_z is None:
        d_depth_logits.zero_()
        d_depth_logits = None
    launches = decode_backward_launches(
        logits, features, depth_logits, beta, scale, grid, window, stats, g_xy, g_z, g_confidence, g_appearance,
        d_logits, d_features, d_depth_logits, d_beta,
    )  # fmt: skip
    for launch in launches:
        launch.start(logits.device)


def units_why_not(x: Tensor, weights: tuple[Tensor, ...], skips: tuple[Tensor, ...]) -> str | None:
    """Return why the backend cannot serve a convolution unit of tensors like these, or None."""
    reason = _wrong_device(x.device)
    if reason is not None:
        return reason
    if x.dtype == torch.float64:
        return "its convolution units take float16, bfloat16 and float32 maps, these are float64"
    if any(maps.shape[1] > 1 and maps.stride(1) != 1 for maps in (x, *skips)):
        return "its convolution units take channels_last maps: x.contiguous(memory_format=torch.channels_last)"
    batch, _, rows, columns = x.shape
    kernel = max((weight.shape[-1] for weight in weights), default=1)
    if kernel > MOST_TAPS:
        return f"its convolution kernels have at most {MOST_TAPS}x{MOST_TAPS} taps, this one {kernel}x{kernel}"
    widest = max(maps.shape[1] for maps in (x, *skips))
    pitch = max(max(maps.stride(2), columns * maps.stride(3)) for maps in (x, *skips))
    pitch = max(pitch, columns * max(widest, *(max(weight.shape[:2]) for weight in weights), 1))
    if batch * rows * columns > MOST_PIXELS or (rows + kernel) * pitch >= 2**31:
        return "its convolution units take pictures of less than 2^31 values and calls of at most 2^30 pixels"
    return None


def separable_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    depthwise: Tensor,
    pointwise: Tensor,
    shortcut: Tensor | None,
    skips: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    """Write `out`."""
    from pyhar.kernels.triton.units import separable_launches

    for launch in separable_launches(x, scale, shift, depthwise, pointwise, shortcut, skips, out):
        launch.start(x.device)


def bottleneck_unit(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    reduce: Tensor,
    bias: Tensor,
    expand: Tensor,
    shortcut: Tensor | None,
    skips: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    """Write `out`."""
    from pyhar.kernels.triton.units import bottleneck_launches

    for launch in bottleneck_launches(x, scale, shift, reduce, bias, expand, shortcut, skips, out):
        launch.start(x.device)


def convolution_unit(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, skips: tuple[Tensor, ...], out: Tensor
) -> None:
    """Write `out`."""
    from pyhar.kernels.triton.units import convolution_launches

    for launch in convolution_launches(x, scale, shift, weight, skips, out):
        launch.start(x.device)


def pooling_unit(x: Tensor, kernel: int, stride: tuple[int, int], out: Tensor) -> None:
    """Write `out`."""
    from pyhar.kernels.triton.units import pooling_launches

    for launch in pooling_launches(x, kernel, stride, out):
        launch.start(x.device)
