"""The compiled backends as PyTorch operators: `torch.library` definitions and what each public operator asks of them.

Every backend is a module of launchers that meets the contract in `pyhar.kernels`. `add_backend` makes four operators of
it, which differ from backend to backend only in name:

    pyhar::<backend>_softmax    pyhar::<backend>_softmax_backward
    pyhar::<backend>_decode     pyhar::<backend>_decode_backward

`decode` serves every public operator but the softmax. They are known to autograd, `torch.func`, `torch.compile`,
`torch.export` and `vmap`. The backward operators are differentiable themselves: their derivative is that of the plain
PyTorch definition, so second derivatives are right, at its speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyhar.ops import native_calls
from pyhar.ops.appearance import pool
from pyhar.ops.decode import DecodedPose, coordinates, depth, peak
from pyhar.ops.dispatch import computing_type, register, register_backend
from pyhar.ops.grid import line
from pyhar.ops.library import define, second_order
from pyhar.ops.softmax import probabilities

SCHEMAS = {
    "softmax": "(Tensor logits, Tensor? beta, float scale) -> (Tensor probs, Tensor stats)",
    "softmax_backward": "(Tensor logits, Tensor? beta, float scale, Tensor stats, Tensor probs, Tensor g_probs,"
    " bool[] needs)"
    " -> (Tensor d_logits, Tensor d_beta)",
    "decode": "(Tensor logits, Tensor? features, Tensor? depth_logits, Tensor? beta, float scale, str? grid,"
    " str? confidence, bool normalised)"
    " -> (Tensor xy, Tensor z, Tensor confidence, Tensor appearance, Tensor stats)",
    "decode_backward": "(Tensor logits, Tensor? features, Tensor? depth_logits, Tensor? beta, float scale, str? grid,"
    " str? confidence, bool normalised, Tensor? stats, Tensor? xy, Tensor? z, Tensor? g_xy, Tensor? g_z,"
    " Tensor? g_confidence, Tensor? g_appearance, bool[] needs)"
    " -> (Tensor d_logits, Tensor d_features, Tensor d_depth_logits, Tensor d_beta)",
}

# The launchers of every backend; looked up at each call.
KERNELS: dict[str, ModuleType] = {}


def add_backend(backend: str, kernels: ModuleType) -> None:
    """Define the operators of `backend`, whose launchers are those of `kernels`, and register them for dispatch."""
    KERNELS[backend] = kernels
    softmax, differentiate_softmax = _softmax(backend)
    decode, differentiate_decode = _decode(backend)
    register_backend(backend, lambda: KERNELS[backend].why_unusable())

    def join(operator: str, function: Callable[..., Any], maps: Callable[..., tuple[Tensor | None, ...]]) -> None:
        """`maps(*args)`: logits, features and depth logits among the operator's arguments, and beta."""

        def why_not(*args: Any) -> str | None:
            logits, features, depth, beta = maps(*args)
            return KERNELS[backend].why_not(logits, features, depth, beta if isinstance(beta, Tensor) else None)

        register(operator, backend, function, why_not, whatever_is_here=backend == "cpu")

    join(
        "spatial_softmax",
        lambda logits, beta: softmax(logits, *_split(beta, logits))[0],
        lambda logits, beta: (logits, None, None, beta),
    )
    join(
        "soft_argmax",
        lambda logits, beta, grid: decode(logits, None, None, *_split(beta, logits), grid, None, False)[0],
        lambda logits, beta, grid: (logits, None, None, beta),
    )
    join(
        "expectation",
        lambda probs, grid: decode(probs, None, None, None, 1.0, grid, None, True)[0],
        lambda probs, grid: (probs, None, None, None),
    )
    join(
        "pool_appearance",
        lambda logits, features, beta: decode(
            logits, features, None, *_split(beta, logits, features), None, None, False
        )[3],
        lambda logits, features, beta: (logits, features, None, beta),
    )
    join(
        "pool_appearance_from_probs",
        lambda probs, features: decode(probs, features, None, None, 1.0, None, None, True)[3],
        lambda probs, features: (probs, features, None, None),
    )

    def decode_pose(logits: Tensor, depth_logits: Tensor | None, beta: Any, grid: str, confidence: str) -> DecodedPose:
        split = _split(beta, logits, depth_logits)
        xy, z, c, _, _ = decode(logits, None, depth_logits, *split, grid, confidence, False)
        return DecodedPose(xy, None if depth_logits is None else z, c)

    def decode_pose_and_appearance(
        logits: Tensor, features: Tensor, depth_logits: Tensor | None, beta: Any, grid: str, confidence: str
    ) -> tuple[DecodedPose, Tensor]:
        split = _split(beta, logits, features, depth_logits)
        xy, z, c, appearance, _ = decode(logits, features, depth_logits, *split, grid, confidence, False)
        return DecodedPose(xy, None if depth_logits is None else z, c), appearance

    if backend == "cpu":
        native_calls.bind(_lines, differentiate_decode, differentiate_softmax)

    join("decode_pose", decode_pose, lambda logits, depth, beta, *_: (logits, None, depth, beta))
    join(
        "decode_pose_and_appearance",
        decode_pose_and_appearance,
        lambda logits, features, depth, beta, *_: (logits, features, depth, beta),
    )


def _split(beta: float | Tensor, logits: Tensor, *others: Tensor | None) -> tuple[Tensor | None, float]:
    """Return beta as kernels take it: a tensor (B, J) in the computing type or None, and a number."""
    if not isinstance(beta, Tensor):
        return None, float(beta)
    return beta.to(computing_type(logits, *others)).expand(logits.shape[:2]), 1.0


# --- the softmax


def _softmax(backend: str) -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., tuple[Tensor | None, ...]]]:
    """Define the operators; return what calls them, and what `native_calls.bind` calls `differentiate_softmax`."""

    def allocate(logits: Tensor, beta: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(logits), _per_plane(logits, computing_type(logits), 2)

    def forward(logits: Tensor, beta: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        probs, stats = allocate(logits, beta, scale)
        KERNELS[backend].softmax_forward(logits, beta, scale, stats, probs)
        return probs, stats

    def allocate_backward(logits: Tensor, *args: Any) -> tuple[Tensor | None, Tensor | None]:
        *_, needs = args
        return (
            torch.empty_like(logits) if needs[0] else None,
            _per_plane(logits, computing_type(logits)) if needs[1] else None,
        )

    def backward(*args: Any) -> tuple[Tensor | None, Tensor | None]:
        out = allocate_backward(*args)
        KERNELS[backend].softmax_backward(*args[:-1], *out)
        return out

    def definition(logits: Tensor, beta: Tensor | None, scale: float) -> Tensor:
        return probabilities(logits, scale if beta is None else beta, computing_type(logits)).to(logits.dtype)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, beta, ctx.scale = inputs
        ctx.save_for_backward(logits, beta, output[1], output[0])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def differentiate(ctx: Any, g_probs: Tensor | None, _: None) -> tuple[Any, ...]:
        if g_probs is None:
            return None, None, None
        logits, beta, stats, probs = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:2])
        d_logits, d_beta = gradient(logits, beta, ctx.scale, stats, probs, g_probs, needs)
        return *_wanted((d_logits, d_beta), needs), None

    def differentiate_saved(
        saved: Sequence[Tensor | None], numbers: Sequence[float], names: Sequence[str], needs: Sequence[bool],
        upstream: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx = SimpleNamespace(saved_tensors=saved, scale=numbers[0], needs_input_grad=needs)
        return differentiate(ctx, upstream[0], None)[:2]

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, beta, ctx.scale, _, _, g_probs, ctx.needs = inputs
        ctx.save_for_backward(logits, beta, g_probs)
        ctx.set_materialize_grads(False)

    def differentiate_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Any, ...]:
        logits, beta, g_probs = ctx.saved_tensors
        d_logits, d_beta, d_g = second_order(
            lambda logits, beta: (definition(logits, beta, ctx.scale),), (logits, beta), (g_probs,), ctx.needs, upstream
        )
        return d_logits, d_beta, None, None, None, d_g, None

    function = define(f"{backend}_softmax", SCHEMAS["softmax"], forward, allocate, save, differentiate)
    gradient = define(
        f"{backend}_softmax_backward",
        SCHEMAS["softmax_backward"],
        backward,
        allocate_backward,
        save_backward,
        differentiate_backward,
    )
    return function, differentiate_saved


# --- everything that is read out of maps


class _Maps(NamedTuple):
    """What `decode` is given, and what begins the arguments of `decode_backward`."""

    logits: Tensor
    features: Tensor | None
    depth_logits: Tensor | None
    beta: Tensor | None
    scale: float
    grid: str | None
    confidence: str | None
    normalised: bool

    def definition(self) -> tuple[Tensor | None, ...]:
        """Return xy, z, confidence and appearance, each None where not asked for, in plain PyTorch."""
        logits, features, depth_logits, beta, scale, grid, confidence, normalised = self
        dtype = computing_type(logits, features, depth_logits)
        h = logits.to(dtype) if normalised else probabilities(logits, scale if beta is None else beta, dtype)
        return (
            None if grid is None else coordinates(h, grid),
            None if depth_logits is None else depth(h, depth_logits),
            None if confidence is None else peak(h, confidence),
            None if features is None else pool(h, features),
        )


_INPUTS = 4  # tensors that begin _Maps
_OPTIONS = len(_Maps._fields) - _INPUTS


@functools.lru_cache(1024)
def _lines(grid: str | None, y: int, x: int) -> tuple[float, float, float, float]:
    """Return the grid as kernels take it."""
    return (1.0, 0.0, 1.0, 0.0) if grid is None else (*line(grid, x), *line(grid, y))


def _decode(backend: str) -> tuple[Callable[..., tuple[Any, ...]], Callable[..., tuple[Tensor | None, ...]]]:
    """Define the operators; return what calls them, and what `native_calls.bind` calls `differentiate_decode`."""

    # What follows is written out, with few calls: once a kernel has filled the caches, each function that is called in
    # Python costs a microsecond or two.
    def allocate(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: str | None, confidence: str | None, normalised: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        dtype = computing_type(logits, features, depth_logits)
        b, j = logits.shape[:2]
        return (
            None if grid is None else logits.new_empty((b, j, 2), dtype=dtype),
            None if depth_logits is None else logits.new_empty((b, j), dtype=dtype),
            None if confidence is None else logits.new_empty((b, j), dtype=dtype),
            None if features is None else features.new_empty((b, j, features.shape[1])),
            None if normalised else logits.new_empty((b, j, 2), dtype=dtype),
        )

    def forward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: str | None, confidence: str | None, normalised: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        out = allocate(logits, features, depth_logits, beta, scale, grid, confidence, normalised)
        xy, z, c, appearance, stats = out
        _, _, y, x = logits.shape
        KERNELS[backend].decode_forward(
            logits, features, depth_logits, beta, scale, _lines(grid, y, x), confidence == "window", stats,
            xy, z, c, appearance,
        )  # fmt: skip
        return out

    def allocate_backward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, *others: Any
    ) -> tuple[Tensor | None, ...]:
        needs = others[-1]
        return (
            torch.empty_like(logits) if needs[0] else None,
            torch.empty_like(features) if needs[1] and features is not None else None,
            torch.empty_like(depth_logits) if needs[2] and depth_logits is not None else None,
            _per_plane(logits, computing_type(logits, features, depth_logits)) if needs[3] else None,
        )

    def backward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: str | None, confidence: str | None, normalised: bool, stats: Tensor | None, xy: Tensor | None,
        z: Tensor | None, g_xy: Tensor | None, g_z: Tensor | None, g_confidence: Tensor | None,
        g_appearance: Tensor | None, needs: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        out = allocate_backward(logits, features, depth_logits, needs)
        _, _, y, x = logits.shape
        KERNELS[backend].decode_backward(
            logits, features, depth_logits, beta, scale, _lines(grid, y, x), confidence == "window",
            None if normalised else stats, xy, z,
            None if g_xy is None else g_xy.contiguous(),
            None if g_z is None else g_z.contiguous(),
            None if g_confidence is None else g_confidence.contiguous(),
            None if g_appearance is None else g_appearance.contiguous(),
            *out,
        )  # fmt: skip
        return out

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.options = inputs[_INPUTS:]
        xy, z, _, _, stats = output
        ctx.save_for_backward(*inputs[:_INPUTS], stats, xy, z)
        if stats is not None:
            ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)

    def differentiate(ctx: Any, *upstream: Tensor | None) -> tuple[Any, ...]:
        *tensors, stats, xy, z = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:_INPUTS])
        # A compiler asks for the gradient of every output, those that hold nothing included.
        flowing = [g if g is not None and g.dim() > 1 else None for g in upstream[:4]]
        if all(g is None for g in flowing):
            return (None,) * len(_Maps._fields)
        needs[1] = needs[1] and flowing[3] is not None  # features reach the appearance alone,
        needs[2] = needs[2] and flowing[1] is not None  # depth logits the depth alone
        xy, z = (None if g is None else output for g, output in zip(flowing, (xy, z), strict=False))
        grads = gradient(*tensors, *ctx.options, stats, xy, z, *flowing, needs)
        return *_wanted(grads, needs), *(None,) * _OPTIONS

    def differentiate_saved(
        saved: Sequence[Tensor | None], numbers: Sequence[float], names: Sequence[str], needs: Sequence[bool],
        upstream: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        grid, confidence, normalised = names
        options = numbers[0], grid or None, confidence or None, bool(normalised)
        ctx = SimpleNamespace(saved_tensors=saved, options=options, needs_input_grad=needs)
        return differentiate(ctx, *upstream)[:_INPUTS]

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        maps, (_, _, _, *upstream, ctx.needs) = inputs[: len(_Maps._fields)], inputs[len(_Maps._fields) :]
        ctx.options = maps[_INPUTS:]
        ctx.save_for_backward(*maps[:_INPUTS], *upstream)
        ctx.set_materialize_grads(False)

    def differentiate_backward(ctx: Any, *second: Tensor | None) -> tuple[Any, ...]:
        inputs, upstream = ctx.saved_tensors[:_INPUTS], ctx.saved_tensors[_INPUTS:]
        grads = second_order(
            lambda *tensors: _Maps(*tensors, *ctx.options).definition(), inputs, upstream, ctx.needs, second
        )
        return *grads[:_INPUTS], *(None,) * _OPTIONS, None, None, None, *grads[_INPUTS:], None

    function = define(f"{backend}_decode", SCHEMAS["decode"], forward, allocate, save, differentiate)
    gradient = define(
        f"{backend}_decode_backward",
        SCHEMAS["decode_backward"],
        backward,
        allocate_backward,
        save_backward,
        differentiate_backward,
    )
    return function, differentiate_saved


# --- what both share


def _per_plane(logits: Tensor, dtype: torch.dtype, *more: int) -> Tensor:
    return torch.empty((*logits.shape[:2], *more), dtype=dtype, device=logits.device)


def _wanted(outputs: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [output if wants else None for output, wants in zip(outputs, wanted, strict=True)]
