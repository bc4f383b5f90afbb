"""Triton's kernels, called as `pyhar.ops` calls them, against the definition: each way of cutting a call into programs.

Without a GPU they run in Triton's interpreter. Sizes are the smallest that reach each path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pyhar import ops
from pyhar.ops.grid import GRIDS

pytest.importorskip("triton", reason="Triton is not installed")

from pyhar.kernels import triton as backend
from pyhar.kernels.triton import plan
from pyhar.kernels.triton.launch import Layout

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRID = "centers"
NAN = float("nan")


@pytest.fixture(autouse=True)
def usable() -> None:
    reason = backend.why_unusable()
    if reason is not None:
        pytest.skip(reason)


def maps(b: int, channels: int, y: int, x: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    values = (3 * torch.randn(b, channels, y, x, dtype=torch.float64)).to(DEVICE, dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def like(tensor: Tensor) -> Tensor:
    """Return memory of the same strides that holds NaN: what is not written shows."""
    return torch.empty_like(tensor).fill_(NAN)


def beta_per_plane(b: int, j: int) -> Tensor:
    return torch.linspace(-1.0, 2.0, j, device=DEVICE).expand(b, j)


class Call:
    """A decode with all its outputs and gradients, by the kernels and by the definition in float64."""

    def __init__(
        self,
        shape: tuple[int, int, int, int, int],
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        window: bool = False,
        softmax: bool = True,
    ) -> None:
        b, j, c, y, x = shape
        self.H = maps(b, j, y, x, dtype, channels_last)
        if not softmax:
            self.H = self.H.flatten(2).softmax(-1).view_as(self.H)
        self.D, self.F = maps(b, j, y, x, dtype, channels_last), maps(b, c, y, x, dtype, channels_last)
        self.beta = beta_per_plane(b, j)
        self.window, self.softmax = window, softmax
        self.T = torch.float64 if dtype == torch.float64 else torch.float32
        outputs = {"xy": (b, j, 2), "z": (b, j), "confidence": (b, j), "appearance": (b, j, c)}
        types = dict.fromkeys(outputs, self.T) | {"appearance": dtype}
        self.upstream = {
            name: torch.randn(size, dtype=torch.float64).to(DEVICE, types[name]) for name, size in outputs.items()
        }

    def by_kernels(self) -> dict[str, Tensor]:
        shape = self.H.shape[:2]
        stats = torch.full((*shape, 2), NAN, dtype=self.T, device=DEVICE) if self.softmax else None
        out = {name: like(g) for name, g in self.upstream.items()}
        shared = (
            self.H,
            self.F,
            self.D,
            self.beta if self.softmax else None,
            1.0,
            GRIDS[GRID](shape_x(self.H)) + GRIDS[GRID](self.H.shape[2]),
            self.window,
            stats,
        )
        backend.decode_forward(*shared, **out)
        gradients = {"d_logits": like(self.H), "d_features": like(self.F), "d_depth_logits": like(self.D)}
        d_beta = torch.full(shape, NAN, dtype=self.T, device=DEVICE) if self.softmax else None
        upstream = {f"g_{name}": g for name, g in self.upstream.items()}
        backend.decode_backward(*shared, out["xy"], out["z"], **upstream, **gradients, d_beta=d_beta)
        return out | gradients | ({} if d_beta is None else {"d_beta": d_beta})

    def by_definition(self) -> dict[str, Tensor]:
        H, F, D, beta = (t.double().detach().requires_grad_() for t in (self.H, self.F, self.D, self.beta.contiguous()))
        b, j, y, x = H.shape
        h = H
        if self.softmax:  # a joint for each plane, for a beta of each plane
            h = ops.spatial_softmax(H.reshape(1, b * j, y, x), beta=beta.flatten(), backend="eager").view_as(H)
        windows = h
        if self.window:
            windows = (
                torch.nn.functional.unfold(h.reshape(b * j, 1, y, x), (min(2, y), min(2, x))).sum(1).view(b, j, -1)
            )
        out = {
            "xy": ops.expectation(h, grid=GRID, backend="eager"),
            "z": (h * D.sigmoid()).sum((-2, -1)),
            "confidence": windows.flatten(2).amax(-1),
            "appearance": ops.pool_appearance_from_probs(h, F, backend="eager"),
        }
        torch.autograd.backward(list(out.values()), [self.upstream[name].double() for name in out])
        gradients = {"d_logits": H.grad, "d_features": F.grad, "d_depth_logits": D.grad}
        return out | gradients | ({"d_beta": beta.grad} if self.softmax else {})


def shape_x(tensor: Tensor) -> int:
    return tensor.shape[3]


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Within rounding of the type of each output, relative to its largest value."""
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        half = value.dtype.itemsize == 2
        tolerance = torch.finfo(value.dtype).eps if half else {4: 1e-5, 8: 1e-12}[value.dtype.itemsize]
        reference = wanted[name].detach()
        error, size = (value.double() - reference).abs().max(), reference.abs().max()
        assert error <= tolerance * max(size, 1e-10), f"{name}: {error:.2e} of {size:.2e}"


# shape (B, J, C, Y, X), options of Call, path of the maps' gradient, path of the appearance's gradient
PATHS: dict[str, tuple[Any, ...]] = {
    "several planes a program": ((2, 3, 5, 7, 9), {}, plan.PLANES, plan.ONE_PASS),
    "one plane a program": ((1, 2, 3, 31, 33), {}, plan.PLANE, plan.ONE_PASS),
    "streamed": ((1, 2, 3, 65, 64), {}, plan.STREAMED, plan.ONE_PASS),
    "streamed, float64": ((1, 1, 3, 33, 64), {"dtype": torch.float64}, plan.STREAMED, plan.ONE_PASS),
    "streamed, window": ((1, 1, 3, 33, 32), {"window": True}, plan.STREAMED, plan.ONE_PASS),
    "several planes, window": ((2, 3, 5, 9, 7), {"window": True}, plan.PLANES, plan.ONE_PASS),
    "channels_last": ((2, 5, 4, 5, 7), {"channels_last": True}, plan.PLANES, plan.ONE_PASS),
    "channels_last, streamed": ((1, 9, 4, 12, 16), {"channels_last": True}, plan.STREAMED, plan.ONE_PASS),
    "more joints than a product holds": ((1, 33, 3, 3, 5), {}, plan.PLANES, plan.TWO_PASSES),
    "more channels than a product holds": ((1, 2, 70, 3, 5), {}, plan.PLANES, plan.ONE_PASS),
    "bfloat16": ((1, 18, 20, 8, 8), {"dtype": torch.bfloat16}, plan.PLANES, plan.ONE_PASS),
    "float16": ((1, 3, 5, 9, 8), {"dtype": torch.float16}, plan.PLANES, plan.ONE_PASS),
    "probabilities": ((1, 3, 5, 5, 6), {"softmax": False, "window": True}, plan.PLANES, plan.ONE_PASS),
    "one pixel": ((2, 1, 1, 1, 1), {"window": True}, plan.PLANE, plan.ONE_PASS),
    "one row": ((1, 2, 1, 1, 6), {"window": True}, plan.PLANES, plan.ONE_PASS),
    "one column, channels_last": ((1, 2, 2, 6, 1), {"window": True, "channels_last": True}, plan.PLANES, plan.ONE_PASS),
}


@pytest.mark.parametrize("name", PATHS)
def test_every_path_agrees_with_the_definition(name: str) -> None:
    shape, options, planes_path, pooling_path = PATHS[name]
    call = Call(shape, **options)
    _, j, c, y, x = shape
    tile = plan.plan_planes(
        j,
        y * x,
        joints_innermost=Layout.of(call.H).joints_innermost(),
        item_bytes=call.H.element_size(),
        double=call.T.itemsize == 8,
        neighbours=call.window,
    )
    half, double = call.H.element_size() == 2, call.T.itemsize == 8
    assert tile.path == planes_path
    assert plan.plan_features_gradient(j, c, y * x, half=half, double=double).path == pooling_path
    assert_close(call.by_kernels(), call.by_definition())


@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 2, 65, 64)], ids=["planes", "streamed"])
def test_softmax_agrees_with_the_definition(shape: tuple[int, int, int, int]) -> None:
    b, j, y, x = shape
    H, g = maps(*shape, torch.float32, False), maps(*shape, torch.float32, True)
    beta, stats = beta_per_plane(b, j), torch.full((b, j, 2), NAN, device=DEVICE)
    got = {"probs": like(H), "d_logits": like(H), "d_beta": torch.full((b, j), NAN, device=DEVICE)}
    backend.softmax_forward(H, beta, 1.0, stats, got["probs"])
    backend.softmax_backward(H, beta, 1.0, stats, got["probs"], g, got["d_logits"], got["d_beta"])
    leaf, slope = H.double().requires_grad_(), beta.double().contiguous().requires_grad_()
    probs = ops.spatial_softmax(leaf.view(1, b * j, y, x), beta=slope.flatten(), backend="eager").view_as(H)
    probs.backward(g.double())
    assert_close(got, {"probs": probs, "d_logits": leaf.grad, "d_beta": slope.grad})
    m = torch.where(beta < 0, H.amin((-2, -1)), H.amax((-2, -1)))
    assert torch.equal(stats[..., 0], m)


def test_same_bits_every_time() -> None:
    call = Call((1, 3, 5, 9, 9), window=True)
    first, second = call.by_kernels(), call.by_kernels()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradient_of_a_plane_that_is_one_pixel() -> None:
    """dH is far smaller than the slopes: it must not be what their rounding leaves."""
    call = Call((1, 2, 3, 8, 8))
    call.H[..., 3, 4] += 20.0
    call.beta = torch.ones(1, 2, device=DEVICE)
    assert_close(call.by_kernels(), call.by_definition())


def test_gradients_that_nothing_flows_into_are_written() -> None:
    call = Call((1, 2, 3, 4, 4))
    stats = torch.full((1, 2, 2), NAN, device=DEVICE)
    backend.softmax_forward(call.H, None, 1.0, stats, like(call.H))
    gradients = [like(call.H), like(call.F), like(call.D), torch.full((1, 2), NAN, device=DEVICE)]
    grid = (1.0, 0.0, 1.0, 0.0)
    backend.decode_backward(call.H, call.F, call.D, None, 1.0, grid, False, stats, *(None,) * 6, *gradients)
    assert all((g == 0).all() for g in gradients)


def test_an_empty_batch_starts_nothing() -> None:
    assert all(value.numel() == 0 for name, value in Call((0, 2, 3, 4, 4)).by_kernels().items())


def test_importing_the_backend_does_not_import_triton() -> None:
    code = "import sys, pyhar.kernels.triton as t; t.why_unusable(); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refusals_say_why() -> None:
    H = torch.empty(1, 1, 1, 1, device="meta")
    assert backend.why_not(H, None, None, None) == "it serves CUDA tensors, these are on meta"
    wide = torch.empty(1, device=DEVICE).expand(1, 1, 2**20, 2**11)
    assert backend.why_not(wide, None, None, None) == "its planes have at most 2^30 pixels, these 1048576x2048"
    many = torch.empty(1, device=DEVICE).expand(2**20, 2**12, 1, 1)
    assert backend.why_not(many, None, None, None) == "the tensors need more programs than a launch can have"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    code = "import pyhar.kernels.triton as t; print(t.why_unusable())"
    said = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert said.stdout.strip() == "there is no CUDA device, and TRITON_INTERPRET=1 is not set"


@pytest.mark.parametrize(("version", "usable"), [("3.4.0", False), ("3.5.1", True), ("4.0.0+git1", True)])
def test_an_old_triton_is_refused(version: str, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    reason = backend.why_unusable.__wrapped__()  # not the kept answer
    assert (reason is None) == usable
    assert usable or reason == "it needs Triton 3.5 or newer, which comes with PyTorch 2.9; this is 3.4"


@pytest.mark.parametrize("joints_innermost", [False, True])
def test_tiles_cover_any_size(joints_innermost: bool) -> None:
    for joints in (1, 16, 17, 133, 512):
        for pixels in (1, 15, 49, 63, 1023, 3072, 6912, 49152):
            for item_bytes, double in ((2, False), (4, False), (8, True)):
                tile = plan.plan_planes(
                    joints, pixels, joints_innermost=joints_innermost, item_bytes=item_bytes, double=double
                )
                assert (tile.pixels >= pixels) == (tile.path != plan.STREAMED)
                assert tile.planes * tile.pixels <= plan.TILE_VALUES
                assert all(n == plan.power_of_two(n) for n in tile[1:])
