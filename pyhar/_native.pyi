"""The native module built from csrc/; it may be absent. Ask `pyhar.kernels.native.load()` for it."""

from typing import TypeAlias, TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: str
    openmp: bool
    cuda_toolkit: int

# A tensor: address, type (0 float16, 1 bfloat16, 2 float32, 3 float64), strides in elements.
Map: TypeAlias = tuple[int, int, tuple[int, ...]]

def build_info() -> BuildInfo: ...
def cpu_features() -> list[str]: ...
def cpu_isa() -> str: ...
def cpu_isas() -> list[str]: ...
def use_cpu_isa(name: str, /) -> None: ...
def max_threads() -> int: ...

# Sizes are (B, J, C, Y, X); addresses are 0 where there is nothing; what they are is in pyhar/kernels/__init__.py.
def cpu_forward(
    size: tuple[int, int, int, int, int],
    wide: bool,
    logits: Map,
    features: Map | None,
    depth: Map | None,
    beta: Map | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: int,
    xy: int,
    z: int,
    confidence: int,
    appearance: Map | None,
    probs: Map | None,
    /,
) -> None: ...
def cpu_backward(
    size: tuple[int, int, int, int, int],
    wide: bool,
    logits: Map,
    features: Map | None,
    depth: Map | None,
    beta: Map | None,
    scale: float,
    grid: tuple[float, float, float, float],
    window: bool,
    stats: int,
    xy: int,
    z: int,
    probs: Map | None,
    g_xy: int,
    g_z: int,
    g_confidence: int,
    g_appearance: Map | None,
    g_probs: Map | None,
    d_logits: Map | None,
    d_features: Map | None,
    d_depth: Map | None,
    d_beta: int,
    /,
) -> None: ...

# A size is (B, C, Y, X, k).
def cpu_depthwise_backward(
    size: tuple[int, int, int, int, int],
    wide: bool,
    x: Map,
    weight: Map,
    g: Map,
    d_x: Map | None,
    d_weight: Map | None,
    /,
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
