"""Which device to compute on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyhar.errors import UserError
from pyhar.kernels import native


def choose_device(name: str) -> torch.device:
    """The device called "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1"...

    Raises UserError if the name is unknown or this machine or this PyTorch has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not one that pyhar computes on: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"device {name!r} asked for, but PyTorch {torch.__version__} sees no CUDA GPU: "
                "use --device cpu, or check `pyhar info`"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device {name!r} asked for, but there are {torch.cuda.device_count()} CUDA GPUs, from cuda:0"
            )
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16; elsewhere that type costs time instead of saving
    it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    module = native.load()
    return module is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(module.cpu_features())


def why_no_compiler(program: str) -> str | None:
    """None if PyTorch finds the C++ compiler that it compiles networks for CPUs with; else the reason why `program`
    cannot be served, and the remedy."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return (
            f"{program} needs a C++ compiler, and none is found: "
            "install g++, or name yours in the environment variable CXX"
        )
    return None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Have a GPU compute convolutions of float32 maps in float32, where PyTorch lets it round their operands to TF32.

    Those have three digits: too few to tell by whether two networks give the same answers.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
