"""What the launchers share: strides, types and the start of a kernel.

A launcher first makes a `Launch`, which depends on shapes, types and strides alone, and then starts it. The compilation
report makes the same of tensors without memory, and so compiles exactly what would run.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

TYPES: dict[torch.dtype, Any] = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


class Launch(NamedTuple):
    """A kernel with everything that it is started with."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    stages: int = 2
    registers: int | None = None
    """Most a thread may take; None leaves it to the assembler, which may spill a few to have more programs at once."""

    def options(self) -> dict[str, int]:
        """Return the options that it is compiled with."""
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, "num_stages": self.stages} | limit

    def start(self, device: torch.device) -> None:
        """Run it on the current stream of `device`; on the CPU in Triton's interpreter."""
        if self.programs == 0:
            return
        with _on(device):
            self.kernel[(self.programs,)](**self.arguments, **self.constants, **self.options())


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if device.type != "cuda":
        return np.errstate(all="ignore")  # the interpreter is NumPy, which warns of 0/0 even where it is meant
    if device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


class Layout(NamedTuple):
    """Strides of maps (B, channels, Y, X)."""

    image: int
    channel: int
    row: int
    pixel: int

    @classmethod
    def of(cls, maps: Tensor | None) -> Layout:
        """Return the strides, where an axis of one pixel has the stride that lets the plane be one line."""
        if maps is None:
            return cls(0, 0, 0, 0)
        image, channel, row, pixel = maps.stride()
        if maps.shape[3] == 1:
            pixel = row
        if maps.shape[2] == 1 or maps.shape[3] == 1:
            row = maps.shape[3] * pixel
        return cls(image, channel, row, pixel)

    def arguments(self, prefix: str) -> dict[str, int]:
        """Return the kernel arguments that carry it."""
        return {
            f"{prefix}_image": self.image,
            f"{prefix}_channel": self.channel,
            f"{prefix}_row": self.row,
            f"{prefix}_pixel": self.pixel,
        }

    def is_line(self, columns: int) -> bool:
        """Tell whether the pixels of a plane follow each other at one stride."""
        return self.row == columns * self.pixel

    def joints_innermost(self) -> bool:
        """Tell whether neighbouring channels are nearer to each other in memory than neighbouring pixels."""
        return 0 < self.channel < self.pixel


def maps_arguments(**maps: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments (tensors and strides) of maps of one plane size, and the constants LINE and WIDE."""
    arguments: dict[str, Any] = {}
    line, wide = True, False
    for name, tensor in maps.items():
        layout = Layout.of(tensor)
        arguments[name] = tensor
        arguments |= layout.arguments(name)
        if tensor is not None:
            rows, columns = tensor.shape[2:]
            line = line and layout.is_line(columns)
            wide |= (rows - 1) * layout.row + (columns - 1) * layout.pixel >= 2**31
    return arguments, {"LINE": line, "WIDE": wide}


def beta_arguments(beta: Tensor | None, scale: float) -> dict[str, Any]:
    """Return the arguments that carry the inverse temperature."""
    image, joint = (0, 0) if beta is None else beta.stride()
    return {"beta": beta, "beta_image": image, "beta_joint": joint, "scale": float(scale)}


def grid_arguments(grid: tuple[float, float, float, float]) -> dict[str, float]:
    """Return the arguments that carry the grid convention."""
    return dict(zip(("unit_x", "first_x", "unit_y", "first_y"), map(float, grid), strict=True))


def size_arguments(maps: Tensor) -> dict[str, int]:
    """Return the arguments that carry the sizes of maps (B, J, Y, X)."""
    _, joints, rows, columns = maps.shape
    return {"joints": joints, "rows": rows, "columns": columns, "pixels": rows * columns}


def computing_type(*tensors: Tensor | None) -> torch.dtype:
    """Return float64 where a tensor has it, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def tiles(n: int, size: int) -> int:
    """Return the number of tiles of `size` that cover `n`."""
    return -(-n // size)
