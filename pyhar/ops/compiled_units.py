"""The convolution units of the compiled backends.

`add_units` registers, for a module of launchers that meets the second half of the contract in `pyhar.kernels`, the
operators of `pyhar.ops.units`. They have no derivatives and are not known to PyTorch's compilers and transforms: where
those are at work they refuse, and plain PyTorch serves.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pyhar.ops.compiled import KERNELS
from pyhar.ops.dispatch import are_plain, is_traced, register
from pyhar.ops.units import pooled_sides, repeated


def add_units(backend: str) -> None:
    """Register the units of `backend`, which `pyhar.ops.compiled.add_backend` has been given."""

    def join(operator: str, out_weight: int, weights: tuple[int, ...], beside: int | None = None) -> None:
        """`out_weight`, `weights`, `beside`: places of the weight with the output's channels, of all weights, and of
        maps that are repeated as x is, among the arguments. With `beside`, the output has twice the sides of x."""
        sides = 1 if beside is None else 2

        def launch(*args: Any, **scales: Any) -> None:
            kernels = KERNELS[backend]
            if beside is None or hasattr(kernels, operator):
                getattr(kernels, operator)(*args, **scales)
                return
            x, *unit, low, skips, out = args
            x, low = (repeated(maps).contiguous(memory_format=torch.channels_last) for maps in (x, low))
            kernels.separable_unit(x, *unit, None, (low, *skips), out)

        def function(*args: Any, **scales: Any) -> Tensor:
            x = args[0]
            shape = (x.shape[0], args[out_weight].shape[0], sides * x.shape[2], sides * x.shape[3])
            out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            if out.numel():
                launch(*args, out, **scales)
            return out

        def given(args: tuple[Any, ...]) -> tuple[Tensor, ...]:
            return tuple(args[place] for place in weights if args[place] is not None)

        def added(args: tuple[Any, ...]) -> tuple[Tensor, ...]:
            return args[-1] if beside is None else (args[beside], *args[-1])

        def why_not(*args: Any) -> str | None:
            reason = _needs_plain(args)
            if reason is not None:
                return reason
            return KERNELS[backend].units_why_not(args[0], given(args), added(args))

        def int8(*args: Any) -> Tensor:
            *unit, scales, skips = args
            return function(*unit, skips, scales=scales)

        def int8_why_not(*args: Any) -> str | None:
            *unit, scales, skips = args
            reason = _needs_plain((*unit, *scales, skips))
            if reason is not None:
                return reason
            return KERNELS[backend].int8_units_why_not(args[0], given(args), scales, added((*unit, skips)))

        register(operator, backend, function, why_not)
        if hasattr(KERNELS[backend], "int8_units_why_not"):
            register(f"int8_{operator}", backend, int8, int8_why_not)

    def pooled(operator: str, x: Tensor, kernel: int, stride: tuple[int, int]) -> Tensor:
        rows, columns = pooled_sides(x, stride)
        out = torch.empty(
            (*x.shape[:2], rows, columns), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        if out.numel():
            getattr(KERNELS[backend], operator)(x, kernel, stride, out)
        return out

    def pooling_why_not(x: Tensor, kernel: int, stride: tuple[int, int]) -> str | None:
        return _needs_plain((x, ())) or KERNELS[backend].units_why_not(x, (), ())

    def upsampling(x: Tensor) -> Tensor:
        shape = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        if out.numel():
            KERNELS[backend].upsampling_unit(x, out)
        return out

    def upsampling_why_not(x: Tensor) -> str | None:
        return _needs_plain((x, ())) or KERNELS[backend].units_why_not(x, (), ())

    if hasattr(KERNELS[backend], "upsampling_unit"):
        register("upsampling_unit", backend, upsampling, upsampling_why_not)

    def stem(frames: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        shape = (frames.shape[0], weight.shape[0], *pooled_sides(frames, stride))
        out = torch.empty(shape, dtype=weight.dtype, device=frames.device, memory_format=torch.channels_last)
        if out.numel():
            KERNELS[backend].stem_unit(frames, weight, stride, out)
        return out

    def stem_why_not(frames: Tensor, weight: Tensor, stride: tuple[int, int]) -> str | None:
        return _needs_plain((frames, weight, ())) or KERNELS[backend].units_why_not(weight, (frames,), ())

    if hasattr(KERNELS[backend], "stem_unit"):
        register("stem_unit", backend, stem, stem_why_not)
    for operator in ("pooling_unit", "extremes_unit"):
        if hasattr(KERNELS[backend], operator):
            register(operator, backend, functools.partial(pooled, operator), pooling_why_not)
    join("separable_unit", 4, (3, 4, 5))
    join("upscaling_unit", 4, (3, 4), beside=5)
    join("bottleneck_unit", 5, (3, 5, 6))
    join("convolution_unit", 3, (3,))


def _needs_plain(args: tuple[Any, ...]) -> str | None:
    """Return why only plain PyTorch can serve a call of a unit, or None."""
    if torch.compiler.is_compiling():
        return "its convolution units cannot be compiled or exported"
    tensors = [value for value in (*args[:-1], *args[-1]) if value is not None]
    if torch._C._are_functorch_transforms_active():
        return "its convolution units do not work inside torch.func transforms"
    if is_traced() or not are_plain(tensors):
        return "its convolution units take plain tensors only"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "its convolution units have no gradient: call them under torch.no_grad()"
    return None
