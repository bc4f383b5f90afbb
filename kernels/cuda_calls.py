"""The backend contract of `pyhar.kernels` in terms of CUDA launches, whoever carries them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyhar.kernels.cuda_plan import ADDRESSES, STORAGE, STRIDED, Call, Layout, Plan, pack_addresses, plan

Grid = tuple[float, float, float, float]
NO_GRID = (1.0, 0.0, 1.0, 0.0)
KEPT_PLANS = 4096


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
    plans: dict[tuple[Call, bool], Plan] = {}

    def serve(backward: bool, tensors: dict[str, Tensor | None], scale: float, grid: Grid, window: bool) -> None:
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        logits, features, beta = given["logits"], given.get("features"), given.get("beta")
        b, j, y, x = logits.shape
        call = Call(
            (b, j, 0 if features is None else features.shape[1], y, x),
            tuple(Layout.of(given.get(name)) for name in STRIDED),
            None if beta is None else (STORAGE[beta.dtype], *beta.stride()),
            scale,
            grid,
            window,
            "stats" in given,
            frozenset(given),
        )
        key = (call, backward)
        found = plans.get(key)
        if found is None:
            if len(plans) >= KEPT_PLANS:
                plans.clear()
            found = plans[key] = plan(call, backward, exact)
        if not found.launches:
            return
        workspace = {}  # held until the launches are queued; the memory then serves later work of the same stream
        computing = torch.float64 if any(t.dtype == torch.float64 for t in _inputs(given)) else torch.float32
        for name, values in (("pooled_gradient", found.pooled_gradient), ("staged", found.staged)):
            if values:
                workspace[name] = torch.empty(values, dtype=computing, device=logits.device)
        given |= workspace
        addresses = [given[name].data_ptr() if name in given else 0 for name in ADDRESSES]
        run(found, pack_addresses(*addresses) + found.parameters, logits.device)

    def softmax_forward(logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, probs: Tensor) -> None:
        tensors = {"logits": logits, "beta": beta, "stats": stats, "probs": probs}
        serve(False, tensors, scale, NO_GRID, False)

    def softmax_backward(
        logits: Tensor, beta: Tensor | None, scale: float, stats: Tensor, g_probs: Tensor | None,
        d_logits: Tensor | None, d_beta: Tensor | None,
    ) -> None:  # fmt: skip
        tensors = {"logits": logits, "beta": beta, "stats": stats, "g_probs": g_probs}
        serve(True, tensors | {"d_logits": d_logits, "d_beta": d_beta}, scale, NO_GRID, False)

    def decode_forward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: Grid, window: bool, stats: Tensor | None, xy: Tensor | None, z: Tensor | None,
        confidence: Tensor | None, appearance: Tensor | None,
    ) -> None:  # fmt: skip
        tensors = {"logits": logits, "features": features, "depth_logits": depth_logits, "beta": beta, "stats": stats}
        tensors |= {"xy": xy, "z": z, "confidence": confidence, "appearance": appearance}
        serve(False, tensors, scale, tuple(map(float, grid)), window)  # type: ignore[arg-type]

    def decode_backward(
        logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None, scale: float,
        grid: Grid, window: bool, stats: Tensor | None, g_xy: Tensor | None, g_z: Tensor | None,
        g_confidence: Tensor | None, g_appearance: Tensor | None, d_logits: Tensor | None, d_features: Tensor | None,
        d_depth_logits: Tensor | None, d_beta: Tensor | None,
    ) -> None:  # fmt: skip
        tensors = {"logits": logits, "features": features, "depth_logits": depth_logits, "beta": beta, "stats": stats}
        tensors |= {"g_xy": g_xy, "g_z": g_z, "g_confidence": g_confidence, "g_appearance": g_appearance}
        tensors |= {"d_logits": d_logits, "d_features": d_features, "d_depth_logits": d_depth_logits, "d_beta": d_beta}
        if d_features is not None and g_appearance is None:
            d_features.zero_()
        serve(True, tensors, scale, tuple(map(float, grid)), window)  # type: ignore[arg-type]

    return Calls(softmax_forward, softmax_backward, decode_forward, decode_backward)


def _inputs(given: dict[str, Tensor]) -> list[Tensor]:
    return [given[name] for name in ("logits", "features", "depth_logits") if name in given]
