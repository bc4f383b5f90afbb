"""The native module built from csrc/; it may be absent. Ask `pyhar.kernels.native.load()` for it."""

from typing import TypedDict

from torch import Tensor

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: str
    cuda_toolkit: int

def build_info() -> BuildInfo: ...
def cpu_features() -> list[str]: ...
def cpu_isa() -> str: ...
def cpu_isas() -> list[str]: ...
def use_cpu_isa(name: str, /) -> None: ...
def shares_threads() -> bool: ...
def max_threads() -> int: ...

# What the tensors are is in pyhar/kernels/__init__.py.
def cpu_forward(
    logits: Tensor,
    features: Tensor | None,
    depth: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    confidence: Tensor | None,
    appearance: Tensor | None,
    probs: Tensor | None,
    /,
) -> None: ...
def cpu_backward(
    logits: Tensor,
    features: Tensor | None,
    depth: Tensor | None,
    beta: Tensor | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: Tensor | None,
    xy: Tensor | None,
    z: Tensor | None,
    probs: Tensor | None,
    g_xy: Tensor | None,
    g_z: Tensor | None,
    g_confidence: Tensor | None,
    g_appearance: Tensor | None,
    g_probs: Tensor | None,
    d_logits: Tensor | None,
    d_features: Tensor | None,
    d_depth: Tensor | None,
    d_beta: Tensor | None,
    /,
) -> None: ...
def cpu_depthwise_backward(
    x: Tensor, weight: Tensor, g: Tensor, d_x: Tensor | None, d_weight: Tensor | None, /
) -> None: ...
def cpu_has_bfloat16_units() -> bool: ...
def cpu_has_int8_units() -> bool: ...

# Units: sizes are (N, C, outputs, Y, X); addresses are 0 where there is nothing; what they are is in csrc/cpu/unit.h.
def cpu_separable_unit(
    bfloat16: bool,
    int8: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    scale: int,
    shift: int,
    repeat: int,
    kernel: int,
    depthwise: int,
    pointwise: int,
    shortcut: int,
    skips: tuple[int, int],
    out: int,
    /,
) -> None: ...
def cpu_bottleneck_unit(
    bfloat16: bool,
    int8: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    scale: int,
    shift: int,
    middle: int,
    reduce: int,
    bias: int,
    kernel: int,
    winograd: bool,
    expand: int,
    shortcut: int,
    skips: tuple[int, int],
    out: int,
    /,
) -> None: ...
def cpu_convolution_unit(
    bfloat16: bool,
    int8: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    scale: int,
    shift: int,
    kernel: int,
    winograd: bool,
    weight: int,
    skips: tuple[int, int],
    out: int,
    /,
) -> None: ...
def cpu_unit_packing(bfloat16: bool, int8: bool, /) -> tuple[int, int, bool]: ...
def cpu_pooling_unit(
    bfloat16: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    scale: int,
    shift: int,
    kernel: int,
    stride: tuple[int, int],
    extremes: bool,
    skips: tuple[int, int],
    out: int,
    /,
) -> None: ...
def cpu_upsampling_unit(
    bfloat16: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    scale: int,
    shift: int,
    skips: tuple[int, int],
    out: int,
    /,
) -> None: ...
def cpu_stem_unit(
    bfloat16: bool,
    size: tuple[int, int, int, int, int],
    x: int,
    kernel: int,
    stride: tuple[int, int],
    weight: int,
    out: int,
    /,
) -> None: ...

class Recording:
    """The forwards and units above that one thread launches between begin() and end(), to be repeated."""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def run(self) -> None: ...
    def __len__(self) -> int: ...

def cuda_driver() -> tuple[int, str]: ...
def cuda_load(device: int, storage: str) -> int: ...
def cuda_function(module: int, name: str) -> int: ...
def cuda_launch(
    device: int, function: int, stream: int, parameters: bytes, blocks: int, threads: int, shared_bytes: int
) -> None: ...
