"""Compiles the kernels for GPUs that need not be there, and says what they take of the machine.

What is compiled are launches made by the launchers themselves, from tensors without memory: the same arguments, types,
constants and specialisations as at run time. `python -m pyhar.kernels.triton.compile` prints the rows.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyhar.kernels.resources import Resources
from pyhar.kernels.triton.appearance import appearance_forward_launch
from pyhar.kernels.triton.backward import decode_backward_launches, softmax_backward_launch
from pyhar.kernels.triton.decode import decode_forward_launch
from pyhar.kernels.triton.launch import Launch, computing_type
from pyhar.kernels.triton.softmax import softmax_forward_launch
from pyhar.kernels.triton.unit_cases import UNIT_CASES, UnitCase, unit_launches

ARCHITECTURES = (80, 90, 100)
WARP = 32
ALIGNMENT = 16  # bytes of a pointer, and factor of an integer, that Triton specialises for
GRID = (1.0, 0.0, 1.0, 0.0)


class Case(NamedTuple):
    """A call to compile the kernels of."""

    name: str
    joints: int = 16
    channels: int = 576
    rows: int = 32
    columns: int = 32
    logits: torch.dtype = torch.float32
    features: torch.dtype = torch.float32
    channels_last: bool = False
    step: int = 1
    window: bool = False
    learnt_beta: bool = False
    softmax: bool = True


CASES = (
    Case("plane-float32"),
    Case("plane-float32-window-beta", window=True, learnt_beta=True),
    Case("plane-bfloat16", logits=torch.bfloat16, features=torch.bfloat16),
    Case("plane-float16-channels_last", logits=torch.float16, features=torch.float16, channels_last=True),
    Case("planes-float32", rows=7, columns=7, joints=512, channels=64),
    Case("planes-bfloat16-window", rows=9, columns=7, logits=torch.bfloat16, features=torch.bfloat16, window=True),
    Case("streamed-float32", rows=256, columns=192, joints=17),
    Case("streamed-float32-window-channels_last", rows=96, columns=72, joints=17, window=True, channels_last=True),
    Case("streamed-bfloat16", rows=96, columns=72, joints=133, logits=torch.bfloat16, features=torch.bfloat16),
    Case("plane-float64", logits=torch.float64, features=torch.float64),
    Case("plane-float64-window", logits=torch.float64, features=torch.float64, window=True, channels_last=True),
    Case("sliced-float32", step=2, window=True),
    Case("probabilities-float16", logits=torch.float16, features=torch.float16, softmax=False),
)


def launches(case: Case, batch: int = 32) -> Iterator[Launch]:
    """Yield the launches of all functions of the backend for a case."""

    def maps(channels: int, dtype: torch.dtype) -> Tensor:
        shape = (batch, channels, case.rows * case.step, case.columns * case.step)
        whole = torch.empty(shape, dtype=dtype, device="meta")
        if case.channels_last:
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole[..., :: case.step, :: case.step]

    H, D, F = maps(case.joints, case.logits), maps(case.joints, case.logits), maps(case.channels, case.features)
    T = computing_type(H, F, D)

    def values(*shape: int, dtype: torch.dtype = T) -> Tensor:
        return torch.empty(batch, case.joints, *shape, dtype=dtype, device="meta")

    beta = values().new_empty(case.joints).expand(batch, case.joints) if case.learnt_beta else None
    stats = values(2) if case.softmax else None
    xy, z, peak, pooled, d_beta = values(2), values(), values(), values(case.channels, dtype=case.features), None
    if case.softmax:
        d_beta = values() if case.learnt_beta else None
        yield softmax_forward_launch(H, beta, 1.0, values(2), H)
        yield softmax_backward_launch(H, beta, 1.0, values(2), H, H, d_beta)
    yield decode_forward_launch(H, D, beta, 1.0, GRID, case.window, stats, xy, z, peak)
    yield appearance_forward_launch(H, F, D, beta, 1.0, GRID, case.window, stats, xy, z, peak, pooled)
    yield from decode_backward_launches(
        H, F, D, beta, 1.0, GRID, case.window, stats, xy, z, peak, pooled, H, F, D, d_beta
    )


def source(launch: Launch) -> ASTSource:
    """Return a launch's kernel with the types and the specialisations that Triton chooses for its arguments."""
    kernel = launch.kernel
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, parameter in enumerate(kernel.params):
        name = parameter.name
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[name]
        fixed = parameter.do_not_specialize
        if value is None or (type(value) is int and value == 1 and not fixed):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = f"*{_name(value.dtype)}"
            attributes[(place,)] = [["tt.divisibility", ALIGNMENT]]
        elif isinstance(value, float):
            signature[name] = parameter.annotation_type or "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % ALIGNMENT == 0 and not fixed:
                attributes[(place,)] = [["tt.divisibility", ALIGNMENT]]
    return ASTSource(kernel, signature, constants, attributes)


def _name(dtype: torch.dtype) -> str:
    return {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}[dtype]


ALL_CASES: tuple[Case | UnitCase, ...] = (*CASES, *UNIT_CASES)


def report(
    cases: Iterable[Case | UnitCase] = ALL_CASES, architectures: Iterable[int] = ARCHITECTURES
) -> Iterator[Resources]:
    """Compile the launches of all cases; those that are the same kernel in the end are compiled once.

    Raises:
        RuntimeError: Triton was imported to interpret kernels, not to compile them; or ptxas gave no report.
    """
    if not isinstance(softmax_forward_launch.__globals__["softmax_forward_kernel"], triton.JITFunction):
        raise RuntimeError("kernels are interpreted here: unset TRITON_INTERPRET before Triton is imported")
    seen: set[str] = set()
    for case in cases:
        for launch in unit_launches(case) if isinstance(case, UnitCase) else launches(case):
            compiled = source(launch)
            key = f"{compiled.hash()}-{launch.options()}"
            if key in seen:
                continue
            seen.add(key)
            for architecture in architectures:
                yield _compile(compiled, launch, case.name, architecture)


def _compile(compiled: ASTSource, launch: Launch, variant: str, architecture: int) -> Resources:
    target = GPUTarget("cuda", architecture, WARP)
    knobs = triton.knobs
    with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(io.StringIO()) as said:
        knobs.compilation.always_compile = True  # what comes from the cache has no assembler's report
        knobs.nvidia.dump_ptxas_log = True
        binary = triton.compile(compiled, target=target, options=launch.options())
    registers = re.search(r"Used (\d+) registers", said.getvalue())
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said.getvalue())
    if registers is None or spilled is None:
        raise RuntimeError(f"ptxas did not say what the kernel takes: {said.getvalue()!r}")
    return Resources(
        "triton",
        launch.kernel.__name__.removesuffix("_kernel"),
        variant,
        f"sm_{architecture}",
        int(registers[1]),
        int(binary.metadata.shared),
        int(spilled[1]) + int(spilled[2]),
    )


if __name__ == "__main__":
    names = set(sys.argv[1:])
    for row in report([case for case in ALL_CASES if not names or case.name in names]):
        print(*row, sep="\t", flush=True)
