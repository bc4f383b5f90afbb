"""The backend contract of `pyhar.kernels` in terms of CUDA launches, whoever carries them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyhar.kernels.cuda_plan import ADDRESSES, STORAGE, STRIDED, Call, Layout, Plan, pack_addresses, plan

Grid = tuple[float, float, float, float]
NO_GRID = (1.0, 0.0, 1.0, 0.0)
KEPT_PLANS = 4096

# The tensors of a call are given in the order of `ADDRESSES`, without the workspace at its end.
NAMES = ADDRESSES[:-2]
_strided = [NAMES.index(name) for name in STRIDED]
_contiguous = [i for i, name in enumerate(NAMES) if name not in (*STRIDED, "beta")]
_beta = NAMES.index("beta")


class Runner(Protocol):
    """Carries out the launches of a plan, told `parameters` (`Params` in csrc/cuda/params.cuh), on a device."""

    def __call__(self, plan: Plan, parameters: bytes, device: torch.device) -> None: ...


class Calls(NamedTuple):
    """The functions of the contract that compute."""

    softmax_forward: Callable[..., None]
    softmax_backward: Callable[..., None]
    decode_forward: Callable[..., None]
    decode_backward: Callable[..., None]


def calls(run: Runner, exact: bool) -> Calls:
    """Return the functions of the contract, served by `run`; `exact` as in `plan`."""
    plans: dict[tuple[Any, ...], Plan] = {}

    def serve(backward: bool, tensors: tuple[Tensor | None, ...], scale: float, grid: Grid, window: bool) -> None:
        logits, features, beta = tensors[0], tensors[1], tensors[_beta]
        assert logits is not None
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        # All that the plan depends on, as it is found: that is quicker than describing it.
        key: tuple[Any, ...] = (
            backward,
            scale,
            grid,
            window,
            logits.shape,
            0 if features is None else features.shape[1],
        )
        for i in _strided:
            if (t := tensors[i]) is not None:
                key += (i, t.dtype, t.stride(), addresses[i] % 16)
        key += (None if beta is None else (beta.dtype, beta.stride()), *(tensors[i] is None for i in _contiguous))
        found = plans.get(key)
        if found is None:
            if len(plans) >= KEPT_PLANS:
                plans.clear()
            found = plans[key] = plan(_describe(tensors, scale, grid, window), backward, exact)
        if not found.launches:
            return
        workspace = []  # held until the launches are queued; the memory then serves later work of the same stream
        for values in (found.pooled_gradient, found.staged):
            if values:
                workspace.append(torch.empty(values, dtype=found.computing, device=logits.device))
            addresses.append(workspace[-1].data_ptr() if values else 0)
        run(found, pack_addresses(*addresses) + found.parameters, logits.device)

    def softmax_forward(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> None:
        tensors = (logits, None, None, beta, stats, probs, *(None,) * 13)
        serve(False, tensors, scale, NO_GRID, False)

    def softmax_backward(
        logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor,
        g_probs: Tensor | None, d_logits: Tensor | None, d_beta: Tensor | None,
    ) -> None:  # fmt: skip
        tensors = (logits, None, None, beta, stats, *(None,) * 5, g_probs, *(None,) * 4, d_logits, None, None, d_beta)
        serve(True, tensors, scale, NO_GRID, False)

    def decode_forward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: Grid, window: bool, stats: Tensor | None, xy: Tensor | None, z: Tensor | None,
        confidence: Tensor | None, appearance: Tensor | None,
    ) -> None:  # fmt: skip
        inputs = (logits, features, depth_logits, beta, stats)
        serve(False, (*inputs, None, xy, z, confidence, appearance, *(None,) * 9), scale, grid, window)

    def decode_backward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: Grid, window: bool, stats: Tensor | None, xy: Tensor | None, z: Tensor | None, g_xy: Tensor | None,
        g_z: Tensor | None, g_confidence: Tensor | None, g_appearance: Tensor | None, d_logits: Tensor | None,
        d_features: Tensor | None, d_depth_logits: Tensor | None, d_beta: Tensor | None,
    ) -> None:  # fmt: skip
        if d_features is not None and g_appearance is None:
            d_features.zero_()
        inputs = (logits, features, depth_logits, beta, stats, *(None,) * 5, None, g_xy, g_z, g_confidence)
        serve(True, (*inputs, g_appearance, d_logits, d_features, d_depth_logits, d_beta), scale, grid, window)

    return Calls(softmax_forward, softmax_backward, decode_forward, decode_backward)


def _describe(tensors: tuple[Tensor | None, ...], scale: float, grid: Grid, window: bool) -> Call:
    """Return what `plan` wants to know of a call."""
    given = {name: tensor for name, tensor in zip(NAMES, tensors, strict=True) if tensor is not None}
    b, j, y, x = given["logits"].shape
    features, beta = given.get("features"), given.get("beta")
    return Call(
        (b, j, 0 if features is None else features.shape[1], y, x),
        tuple(Layout.of(given.get(name)) for name in STRIDED),
        None if beta is None else (STORAGE[beta.dtype], *beta.stride()),
        scale,
        grid,
        window,
        "stats" in given,
        frozenset(given),
    )
