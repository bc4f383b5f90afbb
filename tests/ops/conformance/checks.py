"""How a backend is held against the reference: every operator by name, its inputs, outputs and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import reference
import torch
from torch import Tensor

from pyhar import ops

HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float64, torch.float32, *HALF]
GRIDS = ["corners", "unit", "centers", "pixels", "ndc_corners", "ndc_centers"]


class Operator(NamedTuple):
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: tuple[str, ...]
    normalised: bool = False


POSE = ("xy", "z", "confidence")
ALL = ("beta", "grid", "confidence")
OPERATORS = {
    "spatial_softmax": Operator(ops.spatial_softmax, ("logits",), ("probs",), ("beta",)),
    "soft_argmax": Operator(ops.soft_argmax, ("logits",), ("xy",), ("beta", "grid")),
    "decode_pose": Operator(ops.decode_pose, ("logits", "depth_logits"), POSE, ALL),
    "pool_appearance": Operator(ops.pool_appearance, ("logits", "features"), ("appearance",), ("beta",)),
    "decode_pose_and_appearance": Operator(
        ops.decode_pose_and_appearance, ("logits", "features", "depth_logits"), (*POSE, "appearance"), ALL
    ),
    "expectation": Operator(ops.expectation, ("logits",), ("xy",), ("grid",), True),
    "pool_appearance_from_probs": Operator(
        ops.pool_appearance_from_probs, ("logits", "features"), ("appearance",), (), True
    ),
}


def call(operator: str, inputs: Any, backend: str, **options: Any) -> dict[str, Tensor]:
    """Call an operator with its share of the inputs and options; return its outputs by name."""
    entry = OPERATORS[operator]
    arguments = {name: value for name, value in options.items() if name in entry.options}
    result = entry.function(*(getattr(inputs, name) for name in entry.inputs), **arguments, backend=backend)
    return dict(zip(entry.outputs, flat(result), strict=True))


def flat(result: Any) -> tuple[Tensor, ...]:
    """Every tensor an operator returned, in order."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(t for part in result if part is not None for t in flat(part))


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def tolerance(dtype: torch.dtype) -> float:
    """Relative tolerance of a result stored in `dtype` and computed in float32 (float64 for float64)."""
    return {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, torch.finfo(dtype).eps)


def assert_close(actual: Tensor, expected: np.ndarray, rtol: float, name: str = "") -> None:
    """Elementwise, relative to the largest magnitude expected; of coordinates, to one unit of their grid at least."""
    scale = np.abs(expected).max(initial=1.0 if name == "xy" else 0.0)
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=rtol, atol=rtol * scale, err_msg=name)


def assert_conforms(
    operator: str, inputs: Any, backend: str, outputs: Sequence[str] | None = None, **options: Any
) -> dict[str, Tensor]:
    """Values and gradients are those of the reference, in the promised types and shapes; return the values.

    Args:
        operator: its name in `OPERATORS`.
        inputs: `Inputs`; those that require grad are differentiated by, all if none does.
        backend: which must serve the call.
        outputs: names of the outputs to differentiate; None for all.
        options: beta, grid, confidence; those the operator does not have are ignored.
    """
    entry = OPERATORS[operator]
    if not any(t.requires_grad for t in inputs):
        inputs = inputs.leaves()
    taken = [getattr(inputs, name) for name in entry.inputs]
    wide = torch.float64 if any(t.dtype == torch.float64 for t in taken) else torch.float32
    actual = call(operator, inputs, backend, **options)

    beta = options.get("beta", 1.0)
    known = {name: value for name, value in options.items() if name in entry.options}
    known |= {"normalised": entry.normalised}
    if isinstance(known.get("beta"), Tensor):
        known["beta"] = to_numpy(beta)
    arrays = [to_numpy(t) for t in inputs]
    expected = reference.values(*arrays, **known)
    for name, value in actual.items():
        storage = {"probs": inputs.logits.dtype, "appearance": inputs.features.dtype}.get(name, wide)
        assert value.dtype == storage, name
        assert value.shape == expected[name].shape, name
        assert_close(value, expected[name], tolerance(value.dtype), name)

    generator = torch.Generator().manual_seed(1)
    upstream = {
        name: torch.randn(actual[name].shape, generator=generator, dtype=torch.float64).to(actual[name])
        for name in (entry.outputs if outputs is None else outputs)
    }
    leaves = {name: t for name, t in zip(entry.inputs, taken, strict=True) if t.requires_grad}
    if "beta" in entry.options and isinstance(beta, Tensor) and beta.requires_grad:
        leaves["beta"] = beta
    flowing = [name for name in upstream if actual[name].requires_grad]
    grads: Sequence[Tensor] = [torch.zeros_like(leaf) for leaf in leaves.values()]
    if flowing:
        grads = torch.autograd.grad(
            [actual[name] for name in flowing],
            list(leaves.values()),
            [upstream[name] for name in flowing],
            materialize_grads=True,
        )
    expected = reference.gradients(*arrays, {n: to_numpy(u) for n, u in upstream.items()}, **known)
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        assert grad.dtype == leaf.dtype, name
        assert grad.shape == leaf.shape, name
        if name == "beta" and leaf.numel() == 1:
            expected[name] = expected[name].sum()
        assert_close(grad, expected[name], tolerance(leaf.dtype), f"gradient of {name}")
    return actual
