"""Device functions and launch arguments that the kernels of the convolution units share.

Maps are channels_last. A program owns a tile of pixels by output channels; its pixels p count over all pictures,
p = (n*Y + y)*X + x, so that several small pictures share a program.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl
from torch import Tensor

from pyhar.kernels.triton.blocks import INTERPRETED, device_function, rows_and_columns, to_storage
from pyhar.kernels.triton.launch import Layout


@device_function
def places(p, rows, columns):
    """Return the picture, y and x of pixels p."""
    line, x = rows_and_columns(p, columns)
    n, y = rows_and_columns(line, rows)
    return n, y, x


@device_function
def pixel_offsets(p, n, y, x, image, row, pixel, LINE: tl.constexpr):
    """Return the offsets of pixels in maps; with LINE they follow each other at one stride, pictures included."""
    return p.to(tl.int64) * pixel if LINE else n.to(tl.int64) * image + (y * row + x * pixel)


@device_function
def channel_values(vector, c, channels):
    """Return values c of a float32 vector."""
    return tl.load(vector + c, mask=c < channels, other=0.0)


@device_function
def relu(value):
    """Return max(value, 0), NaN of NaN."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@device_function
def activated(maps, offsets, inside, c, channels, scale, shift):
    """Return a = relu(scale*x + shift), a = x where those are None, of pixels by channels; 0 outside the picture.

    In float32, or as it is stored where nothing is computed.
    """
    known = inside[:, None] & (c < channels)[None, :]
    value = tl.load(maps + offsets[:, None] + c[None, :], mask=known, other=0.0)
    if scale is not None:
        value = tl.where(known, relu(value.to(tl.float32) * scale[None, :] + shift[None, :]), 0.0)
    return value


@device_function
def weight_tile(weight, o, out_channels, tap, taps, c, channels):
    """Return channels c by output channels o of one tap; 0 outside. Stored (O, taps, C)."""
    known = (c < channels)[:, None] & (o < out_channels)[None, :]
    lines = (o.to(tl.int64) * taps + tap) * channels
    return tl.load(weight + lines[None, :] + c[:, None], mask=known, other=0.0)


@device_function
def multiply(a, w, sums):
    """Return sums + a @ w; float32 is taken as three products of TF32, which keeps its precision."""
    a = to_storage(a, w.dtype)
    if INTERPRETED:
        a, w = a.to(tl.float32), w.to(tl.float32)
    return tl.dot(a, w, sums, input_precision="tf32x3")


@device_function
def added(sums, skip, offsets, inside, o, out_channels):
    """Return sums plus a map of the output's shape, where there is one."""
    if skip is not None:
        known = inside[:, None] & (o < out_channels)[None, :]
        sums += tl.load(skip + offsets[:, None] + o[None, :], mask=known, other=0.0).to(tl.float32)
    return sums


@device_function
def store_maps(out, offsets, inside, o, out_channels, sums):
    """Write pixels by output channels in the type of the maps."""
    known = inside[:, None] & (o < out_channels)[None, :]
    tl.store(out + offsets[:, None] + o[None, :], to_storage(sums, out.dtype.element_ty), mask=known)


def maps_arguments(columns: int, **maps: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments (tensors and strides) of channels_last maps of one plane size, and the constant LINE."""
    arguments: dict[str, Any] = {}
    line = True
    for name, tensor in maps.items():
        layout = Layout.of(tensor)
        arguments |= {name: tensor, f"{name}_image": layout.image, f"{name}_row": layout.row}
        arguments[f"{name}_pixel"] = layout.pixel
        if tensor is not None:
            line &= layout.is_line(columns) and (tensor.shape[0] == 1 or layout.image == tensor.shape[2] * layout.row)
    return arguments, {"LINE": line}


def contiguous(vector: Tensor | None) -> Tensor | None:
    """Return a vector whose values follow each other."""
    return None if vector is None else vector.contiguous()
