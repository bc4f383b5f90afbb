"""The CUDA kernels by name: every variant that can be asked for, and the source text that makes it.

Nothing here needs PyTorch: `setup.py` uses it too, to compile the variants of `ahead_of_time`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# The types as csrc/cuda/types.cuh names them, and their bytes.
SIZES = {"f16": 2, "bf16": 2, "float": 4, "double": 8}
STORAGES = tuple(SIZES)
# What a variant compiled ahead can have; at run time the values follow the sizes.
# Pixels that a thread keeps in registers in the forward: read one by one, and in packs. More would take too long to
# compile, and leave room for too few threads.
VALUES_SINGLE, VALUES_PACKED = 8, 32
ROWS = (16, 24)  # joints of a tile
FEATURE_ROWS = 64  # channels of a tile, in the gradient of the features
COLUMNS = (16, 64)
# The most threads of a block, as the kernel is compiled for.
THREADS = {"warp_of_plane": 128, "block_of_plane": 512, "lanes_of_joints": 256}


class Kernel(NamedTuple):
    """A function of csrc/cuda and its template arguments."""

    function: str
    arguments: tuple[str | int, ...]

    @property
    def name(self) -> str:
        """What the compiled kernel is called."""
        return "_".join(("pyhar", self.function, *map(str, self.arguments)))

    @property
    def threads(self) -> int:
        """The most threads that a block of it can have."""
        if self.function.startswith("plane_"):
            return THREADS[str(self.arguments[3])]
        rows, columns, split = map(int, self.arguments[-3:])
        return rows // 4 * (columns // 4) * split

    @property
    def entry(self) -> str:
        """The line of source that makes it."""
        arguments = ", ".join(
            f"pyhar::{a}" if isinstance(a, str) and a not in BUILT_IN else str(a) for a in self.arguments
        )
        return f"PYHAR_KERNEL({self.name}, {self.threads}, {self.function}<{arguments}>)"


BUILT_IN = ("float", "double")


class Constants(NamedTuple):
    """What a kernel compiled for one shape takes as given."""

    joints: int
    channels: int
    rows: int
    columns: int
    flags: int

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the compiler that say so."""
        return tuple(f"-DPYHAR_{name.upper()}={value}" for name, value in self._asdict().items())


def source(kernels: Iterable[Kernel]) -> str:
    """Return a source file that holds `kernels`."""
    return "\n".join(('#include "entry.cuh"', *(kernel.entry for kernel in kernels))) + "\n"


def split(rows: int, columns: int) -> int:
    """Return how many teams of threads share the depth of a product: as many as make up to 256 threads, at most 8."""
    team = rows // 4 * (columns // 4)
    return max(s for s in (1, 2, 4, 8) if s == 1 or team * s <= 256)


def pack(*storages: str) -> int:
    """Return how many pixels a thread reads at once, 16 bytes of the widest type."""
    return 16 // max(SIZES[s] for s in storages)


def ahead_of_time(storage: str) -> list[Kernel]:
    """Return the kernels that `pyhar._native` holds for tensors that all have the type `storage`."""
    computing = "double" if storage == "double" else "float"
    packed = () if storage == "double" else ((pack(storage), VALUES_PACKED),)
    variants = ((1, VALUES_SINGLE), *packed)
    types: tuple[str, ...] = (computing, storage, storage)
    kernels = []
    for size, values in variants:
        kernels.append(Kernel("plane_forward", (*types, "warp_of_plane", size, values)))
        kernels += [Kernel("plane_forward", (*types, "block_of_plane", size, kept)) for kept in (values, 0)]
        kernels += [Kernel("plane_backward", (*types, m, size)) for m in ("warp_of_plane", "block_of_plane")]
    kernels.append(Kernel("plane_forward", (*types, "lanes_of_joints", 1, 0)))
    kernels.append(Kernel("plane_backward", (*types, "lanes_of_joints", 1)))
    for rows in ROWS:
        for columns in COLUMNS:
            tile = (rows, columns, split(rows, columns))
            kernels.append(Kernel("appearance_forward", (computing, storage, storage, *tile)))
            kernels.append(Kernel("appearance_to_planes", (computing, storage, *tile)))
        tile = (rows, 16, split(rows, 16))
        kernels += [Kernel("pose_and_appearance", (*types, storage, *kept, *tile)) for kept in variants]
    kernels.append(Kernel("appearance_to_features", (computing, storage, storage, FEATURE_ROWS, 64, 1)))
    return kernels
