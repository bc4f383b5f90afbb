"""Which CUDA kernels serve a call, on how many threads, and what they are told: a pure function of the call."""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
from torch import Tensor

from pyhar.kernels import cuda_variants as variants
from pyhar.kernels.cuda_variants import Constants, Kernel

STORAGE = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "float", torch.float64: "double"}
SHARED_BYTES = 48 * 1024  # what every device gives a block without being asked
FEW_BLOCKS = 264  # two for each multiprocessor of a large device
MOST_PIXELS = 2**30  # of a plane: kernels count them with 32 bits
STAGING_BYTES = 32 * 1024  # more than that, and too few blocks would find room on a multiprocessor

# The fields of `Params` in csrc/cuda/params.cuh: addresses, then what a plan fixes.
ADDRESSES = (
    *("logits", "features", "depth_logits", "beta"),
    *("stats", "probs", "xy", "z", "confidence", "appearance"),
    *("g_probs", "g_xy", "g_z", "g_confidence", "g_appearance"),
    *("d_logits", "d_features", "d_depth_logits", "d_beta"),
    *("pooled_gradient", "staged"),
)
STRIDED = ("logits", "features", "depth_logits", "probs", "g_probs", "d_logits", "d_features", "d_depth_logits")
pack_addresses = struct.Struct(f"={len(ADDRESSES)}Q").pack
_pack_rest = struct.Struct(f"=5d{4 * len(STRIDED)}q3q8i").pack

# enum Flag
CONFIDENCE_OF_WINDOW, WITH_SOFTMAX, JOINT_IS_INNERMOST = 1, 2, 4
CHANNEL_IS_INNERMOST, CHANNEL_OF_GRADIENT, FEATURES_IN_PACKS = 8, 16, 32
STAGED_IN_SHARED, SLOPES_IN_SHARED = 64, 128


def why_not_sizes(logits: Tensor) -> str | None:
    """Return why no plan can serve maps of these sizes, or None."""
    if torch.compiler.is_compiling():  # sizes may be symbols: a limit here would become one of the exported program
        return None
    rows, columns = logits.shape[2:]
    if rows * columns > MOST_PIXELS:
        return f"its planes have at most 2^30 pixels, these {rows}x{columns}"
    return None


class Layout(NamedTuple):
    """Type and place of a tensor (B, channels, Y, X); strides in elements, made to fit where a dimension has size 1."""

    storage: str
    strides: tuple[int, int, int, int]
    aligned: bool
    """whether it starts at a multiple of 16 bytes"""

    @classmethod
    def of(cls, tensor: Tensor | None) -> Layout | None:
        """Return the layout of `tensor`."""
        if tensor is None:
            return None
        b, channels, y, x = tensor.shape
        image, channel, row, column = tensor.stride()
        if x == 1:
            column = row if y > 1 else 1
        if y == 1:
            row = column * x
        strides = (image if b > 1 else 0, channel if channels > 1 else 0, row, column)
        return cls(STORAGE[tensor.dtype], strides, tensor.data_ptr() % 16 == 0)

    def in_packs(self, columns: int, size: int) -> bool:
        """Whether the pixels of a plane can be read `size` at a time, given that their number is a multiple of it."""
        image, channel, row, column = self.strides
        gapless = column == 1 and row == columns
        return gapless and self.aligned and image % size == 0 and channel % size == 0

    def innermost(self) -> bool:
        """Whether the channels, and not the pixels of a row, lie next to each other."""
        return self.strides[1] == 1 and self.strides[3] != 1


class Call(NamedTuple):
    """All of a call but its addresses. Names of tensors as in `ADDRESSES`."""

    sizes: tuple[int, int, int, int, int]
    """B, J, C, Y, X; C is 0 without features"""
    layouts: tuple[Layout | None, ...]
    """of the tensors `STRIDED`"""
    beta: tuple[str, int, int] | None
    """type and strides"""
    scale: float
    grid: tuple[float, float, float, float]
    window: bool
    softmax: bool
    given: frozenset[str]
    """the tensors that are there"""


class Launch(NamedTuple):
    """One kernel on a row of blocks."""

    kernel: Kernel
    blocks: int
    threads: int
    shared_bytes: int


class Plan(NamedTuple):
    """The launches of a call, in order, and what they share."""

    launches: tuple[Launch, ...]
    parameters: bytes
    """`Params` without the addresses"""
    constants: Constants
    computing: torch.dtype
    pooled_gradient: int
    """values of workspace in the computing type; also the next"""
    staged: int


class _Planner:
    """Builds the plan of one call. `exact`: kernels are made for its sizes rather than taken from those made ahead."""

    def __init__(self, call: Call, exact: bool) -> None:
        self.call, self.exact = call, exact
        self.images, self.joints, self.channels, self.y, self.x = call.sizes
        self.pixels = self.y * self.x
        layouts = dict(zip(STRIDED, call.layouts, strict=True))
        logits, features, depth = (layouts[name] for name in STRIDED[:3])
        assert logits is not None
        self.layouts, self.logits, self.features = layouts, logits, features
        self.th = logits.storage
        self.tf = features.storage if features else self.th
        self.td = depth.storage if depth else self.th
        self.t = "double" if "double" in (self.th, self.tf, self.td) else "float"
        self.bytes = variants.SIZES[self.t]
        self.flags = CONFIDENCE_OF_WINDOW * call.window + WITH_SOFTMAX * call.softmax
        if self.lanes_of_joints:
            self.flags |= JOINT_IS_INNERMOST
        if features is not None:
            self._flag_features(features)
        gradient = layouts["d_features"]
        if gradient is not None and gradient.innermost():
            self.flags |= CHANNEL_OF_GRADIENT
        self.planes = 1
        self.staged = 0

    @property
    def lanes_of_joints(self) -> bool:
        return self.logits.innermost()

    def _flag_features(self, features: Layout) -> None:
        size = variants.pack(self.tf)
        image, _, row, column = features.strides
        if features.innermost():
            self.flags |= CHANNEL_IS_INNERMOST
            fits = self.channels % size == 0 and image % size == 0 and row % size == 0 and column % size == 0
            packs = fits and features.aligned
        else:
            packs = self.pixels % size == 0 and features.in_packs(self.x, size)
        self.flags |= FEATURES_IN_PACKS * packs

    def pack(self, backward: bool) -> int:
        """Return how many pixels a thread of a plane takes at a time."""
        size = variants.pack(self.th, self.td)
        involved = (layout for name, layout in self.layouts.items() if layout and "features" not in name)
        if self.pixels % size or not all(layout.in_packs(self.x, size) for layout in involved):
            return 1
        if backward and self.call.window and "g_confidence" in self.call.given:
            return 1
        return size if self.exact or self.t == "float" else 1

    def values(self, threads: int, pack: int) -> int:
        """Return how many pixels each of the threads of a plane keeps; 0 where they are too many."""
        most = variants.VALUES_SINGLE if pack == 1 else variants.VALUES_PACKED * 4 // self.bytes
        needed = -(-self.pixels // (threads * pack)) * pack
        if needed > most:
            return 0
        return needed if self.exact else most

    def in_shared(self, flag: int, needed: int, taken: int) -> int:
        """Return `needed` and set `flag` if that many more bytes of shared memory may be taken, else return 0."""
        if needed > STAGING_BYTES or taken + needed > SHARED_BYTES:
            return 0
        self.flags |= flag
        return needed

    def stage(self, planes: int, taken: int) -> int:
        """Return the shared memory for the window confidence of a block's planes, or arrange for some elsewhere."""
        if not self.call.window or not self.call.given & {"confidence", "g_confidence"}:
            return 0
        found = self.in_shared(STAGED_IN_SHARED, planes * (self.pixels | 1) * self.bytes, taken)
        if not found:
            self.staged = self.images * self.joints * self.pixels
        return found

    def of_planes(self, backward: bool) -> Launch:
        """Return the launch that goes over all planes."""
        pack = 1 if self.lanes_of_joints else self.pack(backward)
        in_warp = 32 * (variants.VALUES_SINGLE if pack == 1 else variants.VALUES_PACKED * 4 // self.bytes)
        if self.lanes_of_joints:
            mapping, threads = "lanes_of_joints", 256
            self.planes = min(32, 1 << (self.joints - 1).bit_length())
            blocks = self.images * -(-self.joints // self.planes)
        elif self.pixels <= in_warp:
            mapping, threads = "warp_of_plane", 128
            self.planes = threads // 32
            blocks = -(-self.images * self.joints // self.planes)
        else:
            mapping, self.planes, blocks = "block_of_plane", 1, self.images * self.joints
            threads = next((t for t in (128, 256) if self.pixels <= t * in_warp // 64), 512)
        sums = {"lanes_of_joints": threads, "block_of_plane": 32, "warp_of_plane": 0}[mapping]
        shared = sums * (3 if backward else 4) * self.bytes
        shared += self.stage(self.planes, shared)
        if backward:
            steps = -(-self.pixels // (threads // self.planes * pack))
            shared += self.in_shared(SLOPES_IN_SHARED, steps * pack * threads * self.bytes, shared)
            kernel = Kernel("plane_backward", (self.t, self.th, self.td, mapping, pack))
        else:
            kept = 0 if mapping == "lanes_of_joints" else self.values(threads // self.planes, pack)
            kernel = Kernel("plane_forward", (self.t, self.th, self.td, mapping, pack, kept))
        return Launch(kernel, blocks, threads, shared)

    def tile(self, across: int, columns: int | None = None) -> tuple[int, int, int]:
        """Return the tile (rows, columns, split) of a product with joints down and `across` columns."""
        choices = range(4, 33, 4) if self.exact else variants.ROWS
        rows = min(choices, key=lambda r: (-(-self.joints // r) * r, -r))
        if columns is None:
            wide = self.images * -(-across // 64) * -(-self.joints // rows)
            columns = 64 if wide >= FEW_BLOCKS // 2 else 16
        return rows, columns, variants.split(rows, columns)

    def product(self, function: str, types: tuple[str | int, ...], down: int, across: int, tile: tuple[int, int, int],
                more: int = 0) -> Launch:  # fmt: skip
        """Return the launch of a product whose outputs are `down` x `across` for each image."""
        rows, columns, _ = tile
        kernel = Kernel(function, (*types, *tile))
        blocks = self.images * -(-down // rows) * -(-across // columns)
        return Launch(kernel, blocks, kernel.threads, (rows + columns) * 32 * self.bytes + more)

    def forward(self) -> list[Launch]:
        given = self.call.given
        pose = bool(given & {"stats", "probs", "xy", "z", "confidence"})
        if "appearance" not in given:
            return [self.of_planes(backward=False)] if pose else []
        tile = self.tile(self.channels, 16)
        pack = self.pack(backward=False)
        values = self.values(32, pack)
        fits = values > 0 and not self.lanes_of_joints
        few = self.images * -(-self.joints // tile[0]) * -(-self.channels // tile[1]) <= FEW_BLOCKS
        if pose and fits and few:
            types = (self.t, self.th, self.tf, self.td, pack, values)
            launch = self.product(
                "pose_and_appearance", types, self.joints, self.channels, tile, 3 * tile[0] * self.bytes
            )
            staged = self.stage(-(-launch.threads // 32), launch.shared_bytes)
            return [launch._replace(shared_bytes=launch.shared_bytes + staged)]
        tile = self.tile(self.channels)
        facts = 3 * tile[0] * self.bytes
        pooling = self.product(
            "appearance_forward", (self.t, self.th, self.tf), self.joints, self.channels, tile, facts
        )
        return [self.of_planes(backward=False), pooling] if pose else [pooling]

    def backward(self) -> list[Launch]:
        given = self.call.given
        planes = bool(given & {"d_logits", "d_depth_logits", "d_beta"})
        launches = []
        if planes and "g_appearance" in given:
            tile = self.tile(self.pixels)
            launches.append(self.product("appearance_to_planes", (self.t, self.tf), self.joints, self.pixels, tile))
        if "d_features" in given and "g_appearance" in given:
            types, tile = (self.t, self.th, self.tf), (variants.FEATURE_ROWS, 64, 1)
            facts = 3 * 32 * self.bytes
            launches.append(self.product("appearance_to_features", types, self.channels, self.pixels, tile, facts))
        if planes:
            launches.append(self.of_planes(backward=True))
        return launches


def plan(call: Call, backward: bool, exact: bool) -> Plan:
    """Return how `call` is served; `exact` by kernels made for its sizes, else by those made ahead."""
    planner = _Planner(call, exact)
    launches = tuple(planner.backward() if backward else planner.forward()) if planner.images else ()
    pooled = any(launch.kernel.function == "appearance_to_planes" for launch in launches)
    strides = (layout.strides if layout else (0, 0, 0, 0) for layout in call.layouts)
    beta = call.beta or ("f16", 0, 0)
    images, joints, channels, y, x = call.sizes
    parameters = _pack_rest(
        *(call.scale, *call.grid),
        *(stride for four in strides for stride in four),
        *(beta[1], beta[2], images),
        *(joints, channels, y, x),
        *(planner.flags, variants.STORAGES.index(beta[0]), planner.planes, 0),
    )
    return Plan(
        launches,
        parameters,
        Constants(joints, channels, y, x, planner.flags),
        torch.float64 if planner.t == "double" else torch.float32,
        images * joints * y * x if pooled else 0,
        planner.staged,
    )
