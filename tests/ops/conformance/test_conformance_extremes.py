"""Masks, huge logits and NaN: what must stay finite does, what must not be a number stays where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from checks import to_numpy

from pyhar import ops

HALF = [torch.bfloat16, torch.float16]
BETAS = [1.0, 2.0, 0.5, 0.0, -1.0, torch.tensor(3.0), torch.tensor([0.0, -2.0, 1.0])]


def decode(inputs: Any, backend: str, **options: Any) -> list[torch.Tensor]:
    pose, appearance = ops.decode_pose_and_appearance(*inputs, **options, backend=backend)
    return [*pose, appearance]


@pytest.mark.parametrize("confidence", ["max", "window"])
@pytest.mark.parametrize("beta", BETAS, ids=str)
def test_masked_pixels_are_as_if_absent(
    beta: Any, confidence: str, backend: str, make_inputs: Any, device: str
) -> None:
    """Masking all columns but the first four gives what the four columns alone give, in values and gradients."""
    inputs = make_inputs(dtype=torch.float64)
    options: Any = {"grid": "pixels", "confidence": confidence}
    grads = []
    values = []
    for masked in (True, False):
        if masked:
            leaves = inputs._replace(logits=inputs.logits.clone()).leaves()
            with torch.no_grad():
                leaves.logits[..., 4:] = -torch.inf
        else:
            leaves = type(inputs)(*(t[..., :4].clone() for t in inputs)).leaves()
        b = beta.to(device, torch.float64).requires_grad_() if isinstance(beta, torch.Tensor) else beta
        out = decode(leaves, backend, beta=b, **options)
        wrt = [*leaves, b] if isinstance(b, torch.Tensor) else [*leaves]
        grad = torch.autograd.grad(sum(o.square().sum() for o in out), wrt)
        if masked:
            assert all(not g[..., 4:].any() for g in grad[:3])  # nothing, and no NaN, flows into what is masked
        values.append(out)
        grads.append([*(g[..., :4] for g in grad[:3]), *grad[3:]])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("beta", [1.0, 3.0, torch.tensor(3.0)], ids=str)
def test_huge_float32_logits_keep_their_precision(beta: Any, backend: str, make_inputs: Any, device: str) -> None:
    inputs = make_inputs()
    inputs = inputs._replace(
        logits=inputs.logits + torch.tensor([1e4, -1e4, 0.0], device=device)[:, None, None]
    ).leaves()
    factor = float(beta)
    beta = beta.to(device, copy=True).requires_grad_() if isinstance(beta, torch.Tensor) else beta
    out = decode(inputs, backend, beta=beta)
    arrays = [to_numpy(t) for t in inputs]
    expected = reference.values(*arrays, beta=factor)
    for name, value in zip(("xy", "z", "confidence", "appearance"), out, strict=True):
        torch.testing.assert_close(value.double().cpu(), torch.from_numpy(expected[name]), rtol=1e-5, atol=1e-5)
    sum(o.sum() for o in out).backward()
    names = ("xy", "z", "confidence", "appearance")
    upstream = {n: to_numpy(torch.ones_like(v)) for n, v in zip(names, out, strict=True)}
    expected = reference.gradients(*arrays, upstream, beta=factor)
    grad = torch.from_numpy(expected["logits"])
    torch.testing.assert_close(inputs.logits.grad.double().cpu(), grad, rtol=1e-4, atol=1e-5)
    if isinstance(beta, torch.Tensor):
        torch.testing.assert_close(beta.grad.item(), expected["beta"].sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5, torch.tensor(2.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_largest_logits_of_a_type_do_not_overflow(
    dtype: torch.dtype, beta: Any, backend: str, make_inputs: Any, device: str
) -> None:
    inputs = make_inputs(dtype=dtype).leaves()
    largest = torch.finfo(dtype).max
    with torch.no_grad():
        inputs.logits.fill_(-largest)
        inputs.logits[..., 2, 8] = largest
        inputs.depth_logits.fill_(-largest)
        inputs.depth_logits[..., 2, 8] = largest
    beta = beta.to(device, copy=True).requires_grad_() if isinstance(beta, torch.Tensor) else beta
    xy, z, confidence, appearance = decode(inputs, backend, beta=beta, grid="pixels")
    assert xy.tolist() == [[[8.0, 2.0]] * 3] * 2
    assert (z == 1).all()
    assert (confidence == 1).all()
    assert torch.equal(appearance, inputs.features[:, None, :, 2, 8].expand_as(appearance))
    (xy.sum() + z.sum() + confidence.sum() + appearance.sum()).backward()
    assert all(t.grad.isfinite().all() for t in inputs)
    assert not isinstance(beta, torch.Tensor) or beta.grad.isfinite()


@pytest.mark.parametrize("beta", [1.0, 2.0, torch.tensor([1.0, 2.0, 0.0])], ids=str)
@pytest.mark.parametrize("kind", ["masked", "nan"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_bad_plane_spoils_itself_alone(
    kind: str, dtype: torch.dtype, beta: Any, layout: str, backend: str, make_inputs: Any, device: str
) -> None:
    beta = beta.to(device) if isinstance(beta, torch.Tensor) else beta
    inputs = make_inputs(dtype=dtype, layout=layout)
    good = decode(inputs, backend, beta=beta)
    leaves = inputs._replace(logits=inputs.logits.clone()).leaves()
    with torch.no_grad():
        if kind == "masked":
            leaves.logits[0, 1] = -torch.inf
        else:
            leaves.logits[0, 1, 3, 3] = torch.nan
    for bad, value in zip(decode(leaves, backend, beta=beta), good, strict=True):
        assert bad[0, 1].isnan().all()
        bad = bad.detach().clone()
        bad[0, 1] = value[0, 1]
        assert torch.equal(bad, value)
    probs = ops.spatial_softmax(leaves.logits, beta=beta, backend=backend)
    assert probs[0, 1].isnan().all()
    assert probs.isnan().sum() == probs[0, 1].numel()

    sum(o.sum() for o in ops.decode_pose(leaves.logits, leaves.depth_logits, beta=beta, backend=backend)).backward()
    for grad in (leaves.logits.grad, leaves.depth_logits.grad):
        finite = grad.isfinite().all(-1).all(-1)
        assert finite.sum() == finite.numel() - 1
        assert not finite[0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_the_gradient_of_probabilities_of_logits_far_below_0(
    dtype: torch.dtype, backend: str, make_inputs: Any, device: str
) -> None:
    """What stands in for pixels after the last of a plane must not weigh more than they do."""
    logits = (make_inputs(y=5, x=7).logits - 20000).to(dtype).requires_grad_()
    upstream = make_inputs(y=5, x=7, seed=1).logits.to(dtype)
    (grad,) = torch.autograd.grad(ops.spatial_softmax(logits, backend=backend), logits, upstream)
    expected = probabilities_gradient(logits.detach().double(), upstream.double())
    largest = expected.abs().max().item()
    torch.testing.assert_close(grad.double(), expected, rtol=0, atol=8 * largest * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_the_gradient_of_probabilities_from_planes_that_lie_apart(
    dtype: torch.dtype, backend: str, make_inputs: Any, device: str
) -> None:
    logits = make_inputs().logits.to(dtype).requires_grad_()
    upstream = make_inputs(j=6, seed=1).logits.to(dtype)[:, ::2]
    (grad,) = torch.autograd.grad(ops.spatial_softmax(logits, backend=backend), logits, upstream)
    expected = probabilities_gradient(logits.detach().double(), upstream.double())
    largest = expected.abs().max().item()
    torch.testing.assert_close(grad.double(), expected, rtol=0, atol=4 * largest * torch.finfo(dtype).eps)


def probabilities_gradient(logits: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    h = logits.flatten(2).softmax(-1).view(logits.shape)
    return h * (upstream - (h * upstream).sum((-2, -1), keepdim=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pixels_far_apart_share_the_gradient_of_a_confidence(
    layout: str, backend: str, make_inputs: Any, device: str
) -> None:
    logits = make_inputs(b=1, j=17, y=9, x=17, layout=layout).logits
    logits[0, :, 0, 0] = logits[0, :, 8, 16] = 20
    logits.requires_grad_()
    pose = ops.decode_pose(logits, backend=backend)
    (grad,) = torch.autograd.grad(pose.confidence.sum(), logits)
    with_ties = logits.detach().double().requires_grad_()
    h = with_ties.flatten(2).softmax(-1)
    (expected,) = torch.autograd.grad((h[..., 0] + h[..., -1]).sum() / 2, with_ties)
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-6)
