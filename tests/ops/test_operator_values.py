"""Values and gradients of every operator against NumPy in float64, by type, size, layout and option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyhar import ops

GRIDS = ["corners", "unit", "centers", "pixels", "ndc_corners", "ndc_centers"]
SIZES = [(1, 1), (1, 6), (5, 1), (2, 2), (3, 5), (7, 9), (31, 33)]
LAYOUTS = ["contiguous", "channels_last", "slice", "expanded", "transposed"]
HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float64, torch.float32, *HALF]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def tolerance(dtype: torch.dtype) -> float:
    """Relative tolerance of a result stored in `dtype` and computed in float32 (float64 for float64)."""
    return {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, torch.finfo(dtype).eps)


def assert_close(actual: torch.Tensor, expected: np.ndarray, rtol: float) -> None:
    scale = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=rtol, atol=rtol * scale)


def assert_decoded(inputs: Any, reference: Any, backend: str, **options: Any) -> None:
    """Values and gradients of `decode_pose_and_appearance` are those of the reference, their types those promised."""
    inputs = inputs.leaves()
    dtype = inputs.logits.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    pose, appearance = ops.decode_pose_and_appearance(*inputs, **options, backend=backend)
    actual = {"xy": pose.xy, "z": pose.z, "confidence": pose.confidence, "appearance": appearance}
    arrays = [to_numpy(t) for t in inputs]
    beta = options.pop("beta", 1.0)
    options["beta"] = to_numpy(beta) if isinstance(beta, torch.Tensor) else beta
    expected = reference.decode(*arrays, **options)
    for name, value in actual.items():
        assert value.dtype == (dtype if name == "appearance" else wide), name
        assert value.shape == expected[name].shape, name
        assert_close(value, expected[name], tolerance(value.dtype))

    generator = torch.Generator().manual_seed(1)
    upstream = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in actual.items()}
    leaves = dict(zip(("logits", "features", "depth_logits"), inputs, strict=True))
    if isinstance(beta, torch.Tensor) and beta.requires_grad:
        leaves["beta"] = beta
    grads = torch.autograd.grad(list(actual.values()), list(leaves.values()), list(upstream.values()))
    expected = reference.gradients(*arrays, {n: to_numpy(u) for n, u in upstream.items()}, **options)
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        assert grad.dtype == leaf.dtype, name
        if name == "beta" and leaf.dim() == 0:
            expected[name] = expected[name].sum()
        assert_close(grad, expected[name], tolerance(leaf.dtype))


@pytest.mark.parametrize("confidence", ["max", "window"])
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_and_confidences(grid: str, confidence: str, backend: str, make_inputs: Any, reference: Any) -> None:
    assert_decoded(make_inputs(), reference, backend, grid=grid, confidence=confidence)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("y", "x"), SIZES)
def test_sizes_and_types(y: int, x: int, dtype: torch.dtype, backend: str, make_inputs: Any, reference: Any) -> None:
    # Half types tie often. Rounding breaks ties of windows, differently here and in the reference; "max" has no sums.
    confidence = "max" if dtype in HALF else "window"
    inputs = make_inputs(y=y, x=x, dtype=dtype)
    assert_decoded(inputs, reference, backend, grid="ndc_centers", confidence=confidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: torch.dtype, backend: str, make_inputs: Any, reference: Any) -> None:
    inputs = make_inputs(layout=layout, dtype=dtype)
    assert_decoded(inputs, reference, backend)
    expected = reference.decode(*(to_numpy(t) for t in inputs))["probs"]
    assert_close(ops.spatial_softmax(inputs.logits, backend=backend), expected, tolerance(dtype))


@pytest.mark.parametrize(
    "beta", [0.25, 4, 0.0, -1.5, torch.tensor(2.5), torch.tensor(0.0), torch.tensor([0.5, 0.0, -2.0])], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_beta(beta: Any, dtype: torch.dtype, backend: str, make_inputs: Any, reference: Any) -> None:
    inputs = make_inputs(dtype=dtype)
    inputs.logits[inputs.logits > 4] = -torch.inf  # a mask stays a mask for every beta
    if isinstance(beta, torch.Tensor):
        beta = beta.to(dtype, copy=True).requires_grad_()
    assert_decoded(inputs, reference, backend, beta=beta)


def test_single_operators_agree_with_the_fused_one(backend: str, make_inputs: Any) -> None:
    logits, features, depth = make_inputs()
    options: Any = {"beta": 1.5, "backend": backend}
    pose, appearance = ops.decode_pose_and_appearance(
        logits, features, depth, grid="unit", confidence="window", **options
    )
    alone = ops.decode_pose(logits, depth, grid="unit", confidence="window", **options)
    assert isinstance(alone, ops.DecodedPose)
    probs = ops.spatial_softmax(logits, **options)
    for value, expected in [
        (alone.xy, pose.xy),
        (alone.z, pose.z),
        (alone.confidence, pose.confidence),
        (ops.soft_argmax(logits, grid="unit", **options), pose.xy),
        (ops.expectation(probs, grid="unit", backend=backend), pose.xy),
        (ops.pool_appearance(logits, features, **options), appearance),
        (ops.pool_appearance_from_probs(probs, features, backend=backend), appearance),
    ]:
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert ops.decode_pose(logits, backend=backend).z is None
    assert ops.decode_pose_and_appearance(logits, features, backend=backend)[0].z is None


def test_maps_that_are_not_normalised_are_taken_as_they_are(backend: str) -> None:
    maps = torch.zeros(1, 1, 3, 5)
    maps[0, 0, 2, 4] = 2.0
    assert ops.expectation(maps, backend=backend).tolist() == [[[2.0, 2.0]]]
    features = torch.arange(15.0).reshape(1, 1, 3, 5)
    assert ops.pool_appearance_from_probs(maps, features, backend=backend).tolist() == [[[28.0]]]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_types_err_at_most_twice_as_much_as_plain_composition(
    dtype: torch.dtype, backend: str, make_inputs: Any, reference: Any
) -> None:
    inputs = make_inputs(b=4, j=8, c=16, y=32, x=32, dtype=dtype).leaves()
    plain = inputs.leaves()
    h = plain.logits.flatten(2).softmax(-1).view_as(plain.logits)
    line = torch.linspace(0, 1, 32, dtype=dtype)
    naive = {
        "xy": torch.stack([(h * line).sum((-2, -1)), (h * line[:, None]).sum((-2, -1))], -1),
        "z": (h * plain.depth_logits.sigmoid()).sum((-2, -1)),
        "confidence": h.amax((-2, -1)),
        "appearance": torch.einsum("bjyx,bcyx->bjc", h, plain.features),
    }
    pose, appearance = ops.decode_pose_and_appearance(*inputs, backend=backend)
    ours = {"xy": pose.xy, "z": pose.z, "confidence": pose.confidence, "appearance": appearance}
    arrays = [to_numpy(t) for t in inputs]
    expected = reference.decode(*arrays)
    for name in naive:
        error, naive_error = (np.abs(to_numpy(v[name]) - expected[name]).max() for v in (ours, naive))
        assert error <= 2 * naive_error, name
    assert np.abs(to_numpy(pose.xy) - expected["xy"]).max() < 1e-5  # whatever the type

    upstream = {n: torch.ones_like(v) for n, v in ours.items()}
    expected = reference.gradients(*arrays, {n: to_numpy(u) for n, u in upstream.items()})
    grads = torch.autograd.grad(list(ours.values()), inputs, list(upstream.values()))
    naive_grads = torch.autograd.grad(list(naive.values()), plain, [torch.ones_like(v) for v in naive.values()])
    for name, grad, naive_grad in zip(("logits", "features", "depth_logits"), grads, naive_grads, strict=True):
        error, naive_error = (np.abs(to_numpy(g) - expected[name]).max() for g in (grad, naive_grad))
        assert error <= 2 * naive_error, name


@pytest.mark.parametrize("features_type", DTYPES, ids=str)
@pytest.mark.parametrize("logits_type", DTYPES, ids=str)
def test_mixed_types(logits_type: torch.dtype, features_type: torch.dtype, backend: str, make_inputs: Any) -> None:
    logits, features, depth = make_inputs().leaves()
    pose, appearance = ops.decode_pose_and_appearance(
        logits.to(logits_type), features.to(features_type), depth, backend=backend
    )
    wide = torch.float64 if torch.float64 in (logits_type, features_type) else torch.float32
    assert pose.xy.dtype == pose.z.dtype == pose.confidence.dtype == wide
    assert appearance.dtype == features_type
    expected = ops.decode_pose_and_appearance(
        logits.to(logits_type).double(), features.to(features_type).double(), depth.double(), backend=backend
    )
    torch.testing.assert_close(pose.xy, expected[0].xy.to(wide), rtol=1e-5, atol=1e-6)
    rtol = max(1e-5, torch.finfo(features_type).eps)
    torch.testing.assert_close(appearance.double(), expected[1], rtol=rtol, atol=rtol)


def test_empty_batch(backend: str, make_inputs: Any) -> None:
    inputs = make_inputs(b=0).leaves()
    beta = torch.ones(3, requires_grad=True)
    pose, appearance = ops.decode_pose_and_appearance(*inputs, beta=beta, confidence="window", backend=backend)
    assert (pose.xy.shape, pose.z.shape, pose.confidence.shape) == ((0, 3, 2), (0, 3), (0, 3))
    assert appearance.shape == (0, 3, 4)
    assert ops.spatial_softmax(inputs.logits, backend=backend).shape == (0, 3, 7, 9)
    (pose.xy.sum() + pose.z.sum() + pose.confidence.sum() + appearance.sum()).backward()
    assert [t.grad.shape for t in inputs] == [t.shape for t in inputs]
    assert beta.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("confidence", ["max", "window"])
def test_ties_share_the_gradient(confidence: str, backend: str) -> None:
    logits = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    logits[0, 0, 0, 0] = logits[0, 0, 2, 2] = 2.0
    logits.requires_grad_()
    ops.decode_pose(logits, confidence=confidence, backend=backend).confidence.sum().backward()
    grad = logits.grad[0, 0]
    torch.testing.assert_close(grad, grad.flip(0, 1))
    assert grad[0, 0] > 0
    assert grad.sum().abs() < 1e-12


def test_gradients_are_the_same_bits_from_run_to_run(backend: str, make_inputs: Any) -> None:
    def gradients() -> list[torch.Tensor]:
        inputs = make_inputs(b=4, j=5, c=32, y=31, x=33).leaves()
        beta = torch.linspace(0.5, 2, 5).requires_grad_()
        pose, appearance = ops.decode_pose_and_appearance(*inputs, beta=beta, backend=backend)
        total = pose.xy.sum() + pose.z.sum() + pose.confidence.sum() + appearance.square().sum()
        return list(torch.autograd.grad(total, [*inputs, beta]))

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)
