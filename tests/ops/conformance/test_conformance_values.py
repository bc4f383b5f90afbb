"""Values and gradients of every operator against NumPy in float64: by type, size, layout and option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, GRIDS, HALF, OPERATORS, assert_close, assert_conforms, call, flat, to_numpy, tolerance

from pyhar import ops
from pyhar.errors import UserError

# (B, J, C, Y, X). Planes of one pixel, one row or column, odd sizes, common heat maps; few joints and many.
SMALL = [
    (2, 3, 5, 1, 1),
    (2, 2, 3, 1, 6),
    (1, 4, 2, 5, 1),
    (3, 1, 1, 2, 2),
    (2, 17, 9, 3, 5),
    (1, 16, 33, 7, 9),
    (1, 5, 3, 31, 33),
    (1, 1, 2, 64, 48),
    (1, 2, 1, 96, 72),
    (1, 33, 4, 4, 4),
    (1, 3, 70, 5, 4),
]
SHAPES = [
    *SMALL,
    (3, 16, 288, 32, 32),
    (2, 17, 384, 16, 16),
    (2, 16, 480, 8, 8),
    (5, 17, 576, 4, 4),
    (2, 17, 32, 64, 48),
    (1, 133, 7, 96, 72),
    (1, 3, 5, 256, 192),
    (1, 2, 65, 96, 72),
    (1, 133, 64, 7, 9),
    (1, 512, 1, 20, 20),
    (2, 1, 288, 31, 33),
    (33, 2, 3, 7, 7),
]
LAYOUTS = ["contiguous", "channels_last", "slice", "expanded", "transposed"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_sizes_and_types(
    operator: str, dtype: torch.dtype, backend: str, shape: tuple[int, ...], make_inputs: Any
) -> None:
    # Half types tie often. Rounding breaks ties of windows, differently here and in the reference; "max" has no sums.
    # High peaks hide their neighbours from float32, so that the windows around them tie: hence the low scale.
    confidence = "max" if dtype in HALF else "window"
    b, j, c, y, x = shape
    inputs = make_inputs(b=b, j=j, c=c, y=y, x=x, dtype=dtype, scale=1.0)
    assert_conforms(operator, inputs, backend, grid="ndc_centers", confidence=confidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", ["decode_pose_and_appearance", "spatial_softmax"])
def test_channels_last_of_every_size(
    operator: str, dtype: torch.dtype, backend: str, shape: tuple[int, ...], make_inputs: Any
) -> None:
    b, j, c, y, x = shape
    assert_conforms(operator, make_inputs(b=b, j=j, c=c, y=y, x=x, dtype=dtype, layout="channels_last"), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_layouts(operator: str, layout: str, dtype: torch.dtype, backend: str, make_inputs: Any) -> None:
    assert_conforms(operator, make_inputs(layout=layout, dtype=dtype), backend)


@pytest.mark.parametrize("feature_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_logits_and_features_are_independent(
    layout: str, feature_layout: str, backend: str, make_inputs: Any
) -> None:
    inputs = make_inputs(j=5, c=18, layout=layout, feature_layout=feature_layout)
    assert_conforms("decode_pose_and_appearance", inputs, backend)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_keep_the_layout(operator: str, layout: str, compiled_backend: str, make_inputs: Any) -> None:
    inputs = make_inputs(layout=layout).leaves()
    outputs = call(operator, inputs, compiled_backend)
    taken = [getattr(inputs, name) for name in OPERATORS[operator].inputs]
    grads = torch.autograd.grad(sum(o.square().sum() for o in outputs.values()), taken)
    assert [g.stride() for g in grads] == [t.stride() for t in taken]
    if operator == "spatial_softmax":
        assert outputs["probs"].stride() == inputs.logits.stride()


@pytest.mark.parametrize("confidence", ["max", "window"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_grids_and_confidences(grid: str, confidence: str, layout: str, backend: str, make_inputs: Any) -> None:
    for operator in ("decode_pose_and_appearance", "expectation"):
        assert_conforms(operator, make_inputs(layout=layout), backend, grid=grid, confidence=confidence)


@pytest.mark.parametrize(
    "beta",
    [0.25, 4, 0.0, -1.5, torch.tensor(2.5), torch.tensor(0.0), torch.tensor([0.5]), torch.tensor([0.5, 0.0, -2.0])],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", ["decode_pose_and_appearance", "spatial_softmax", "pool_appearance"])
def test_beta(
    operator: str, layout: str, beta: Any, dtype: torch.dtype, backend: str, make_inputs: Any, device: str
) -> None:
    inputs = make_inputs(dtype=dtype, layout=layout)
    inputs.logits[inputs.logits > 4] = -torch.inf  # a mask stays a mask for every beta
    if isinstance(beta, torch.Tensor):
        beta = beta.to(device, dtype, copy=True).requires_grad_()
    assert_conforms(operator, inputs, backend, beta=beta)


@pytest.mark.parametrize("beta", [0.25, 0.0, -1.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", ["decode_pose", "soft_argmax"])
def test_masks_where_maps_alone_are_read(
    operator: str, layout: str, beta: float, dtype: torch.dtype, backend: str, make_inputs: Any
) -> None:
    """Without features and without a gradient of beta, kernels may take a shorter way."""
    inputs = make_inputs(dtype=dtype, layout=layout)
    inputs.logits[inputs.logits > 4] = -torch.inf
    assert_conforms(operator, inputs, backend, beta=beta)


@pytest.mark.parametrize("outputs", [["xy"], ["z"], ["confidence"], ["appearance"], ["xy", "appearance"]], ids=str)
@pytest.mark.parametrize("leaves", [["logits"], ["features"], ["depth_logits"], ["features", "depth_logits"]], ids=str)
def test_only_what_is_asked_for_is_differentiated(
    leaves: list[str], outputs: list[str], backend: str, make_inputs: Any
) -> None:
    inputs = make_inputs().leaves(*leaves)
    assert_conforms("decode_pose_and_appearance", inputs, backend, outputs=outputs, confidence="window")


def test_outputs_that_are_not_asked_for_are_absent(backend: str, make_inputs: Any) -> None:
    logits, features, _ = make_inputs()
    assert ops.decode_pose(logits, backend=backend).z is None
    pose, appearance = ops.decode_pose_and_appearance(logits, features, backend=backend)
    assert pose.z is None
    expected = reference.values(*(to_numpy(t) for t in (logits, features, logits)))
    assert_close(pose.xy, expected["xy"], 1e-5)
    assert_close(appearance, expected["appearance"], 1e-5)
    assert isinstance(ops.decode_pose(logits, backend=backend), ops.DecodedPose)


def test_maps_that_are_not_normalised_are_taken_as_they_are(backend: str, device: str) -> None:
    maps = torch.zeros(1, 1, 3, 5, device=device)
    maps[0, 0, 2, 4] = 2.0
    assert ops.expectation(maps, backend=backend).tolist() == [[[2.0, 2.0]]]
    features = torch.arange(15.0, device=device).reshape(1, 1, 3, 5)
    assert ops.pool_appearance_from_probs(maps, features, backend=backend).tolist() == [[[28.0]]]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_types_err_at_most_twice_as_much_as_plain_composition(
    dtype: torch.dtype, layout: str, backend: str, make_inputs: Any, device: str
) -> None:
    inputs = make_inputs(b=4, j=8, c=16, y=32, x=32, dtype=dtype, layout=layout).leaves()
    plain = inputs.leaves()
    h = plain.logits.flatten(2).softmax(-1).view(plain.logits.shape)
    line = torch.linspace(0, 1, 32, dtype=dtype, device=device)
    naive = {
        "xy": torch.stack([(h * line).sum((-2, -1)), (h * line[:, None]).sum((-2, -1))], -1),
        "z": (h * plain.depth_logits.sigmoid()).sum((-2, -1)),
        "confidence": h.amax((-2, -1)),
        "appearance": torch.einsum("bjyx,bcyx->bjc", h, plain.features),
    }
    ours = call("decode_pose_and_appearance", inputs, backend)
    arrays = [to_numpy(t) for t in inputs]
    expected = reference.values(*arrays)
    for name in naive:
        error, naive_error = (np.abs(to_numpy(v[name]) - expected[name]).max() for v in (ours, naive))
        assert error <= 2 * naive_error, name
    assert np.abs(to_numpy(ours["xy"]) - expected["xy"]).max() < 1e-5  # whatever the type

    upstream = {n: torch.ones_like(v) for n, v in ours.items()}
    expected = reference.gradients(*arrays, {n: to_numpy(u) for n, u in upstream.items()})
    grads = torch.autograd.grad(list(ours.values()), inputs, list(upstream.values()))
    naive_grads = torch.autograd.grad(list(naive.values()), plain, [torch.ones_like(v) for v in naive.values()])
    for name, grad, naive_grad in zip(inputs._fields, grads, naive_grads, strict=True):
        error, naive_error = (np.abs(to_numpy(g) - expected[name]).max() for g in (grad, naive_grad))
        assert error <= 2 * naive_error, name


@pytest.mark.parametrize("features_type", DTYPES, ids=str)
@pytest.mark.parametrize("logits_type", DTYPES, ids=str)
def test_mixed_types(logits_type: torch.dtype, features_type: torch.dtype, backend: str, make_inputs: Any) -> None:
    logits, features, depth = make_inputs()
    inputs = type(make_inputs())(logits.to(logits_type), features.to(features_type), depth)
    try:
        assert_conforms("decode_pose_and_appearance", inputs, backend)
    except UserError as refusal:
        if backend != "cuda":  # which is compiled ahead for the usual types; what it refuses, others serve
            raise
        pytest.skip(str(refusal))


def test_empty_batch(backend: str, make_inputs: Any, device: str) -> None:
    inputs = make_inputs(b=0).leaves()
    beta = torch.ones(3, requires_grad=True, device=device)
    pose, appearance = ops.decode_pose_and_appearance(*inputs, beta=beta, confidence="window", backend=backend)
    assert (pose.xy.shape, pose.z.shape, pose.confidence.shape) == ((0, 3, 2), (0, 3), (0, 3))
    assert appearance.shape == (0, 3, 4)
    probs = ops.spatial_softmax(inputs.logits, backend=backend)
    assert probs.shape == (0, 3, 7, 9)
    (pose.xy.sum() + pose.z.sum() + pose.confidence.sum() + appearance.sum() + probs.sum()).backward()
    assert [t.grad.shape for t in inputs] == [t.shape for t in inputs]
    assert beta.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("confidence", ["max", "window"])
def test_ties_share_the_gradient(confidence: str, dtype: torch.dtype, backend: str, device: str) -> None:
    logits = torch.zeros(1, 1, 3, 3, dtype=dtype, device=device)
    logits[0, 0, 0, 0] = logits[0, 0, 2, 2] = 2.0
    logits.requires_grad_()
    ops.decode_pose(logits, confidence=confidence, backend=backend).confidence.sum().backward()
    grad = logits.grad[0, 0]
    torch.testing.assert_close(grad, grad.flip(0, 1))
    assert grad[0, 0] > 0
    assert grad.sum().abs() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_are_the_same_bits_from_run_to_run(
    operator: str, layout: str, backend: str, make_inputs: Any, device: str
) -> None:
    def run() -> list[torch.Tensor]:
        inputs = make_inputs(b=3, j=5, c=32, y=31, x=33, layout=layout).leaves()
        beta = torch.linspace(0.5, 2, 5, device=device).requires_grad_()
        outputs = call(operator, inputs, backend, beta=beta)
        leaves = [*inputs, beta]
        total = sum(o.square().sum() for o in outputs.values())
        return [*outputs.values(), *torch.autograd.grad(total, leaves, materialize_grads=True)]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_nothing_but_two_numbers_a_plane_is_kept_beyond_inputs_and_outputs(
    compiled_backend: str, make_inputs: Any
) -> None:
    for operator in OPERATORS:
        inputs = make_inputs(j=4, layout="channels_last").leaves()
        kept: dict[int, int] = {}
        known = {t.untyped_storage().data_ptr() for t in inputs}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            outputs = call(operator, inputs, compiled_backend)
        assert kept.keys() & known, operator  # the inputs themselves are kept, so the hook saw the operator
        known |= {t.untyped_storage().data_ptr() for t in outputs.values()}
        extra = sum(n for address, n in kept.items() if address not in known)
        planes = inputs.logits.shape[0] * inputs.logits.shape[1]
        assert extra <= 8 * planes, operator


def test_tolerances_are_those_promised() -> None:
    assert tolerance(torch.float32) == 1e-5
    assert [tolerance(t) for t in HALF] == [2**-7, 2**-10]
    assert flat((ops.DecodedPose(torch.ones(1), None, torch.ones(2)), torch.ones(3)))[2].shape == (3,)
