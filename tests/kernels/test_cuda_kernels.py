"""The CUDA kernels, run on the CPU: their values against plain PyTorch in float64, and that they are race-free."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pyhar.kernels import cuda_plan, cuda_variants
from pyhar.kernels.cuda_calls import Calls
from pyhar.kernels.cuda_plan import Layout
from pyhar.ops.decode import decode_probabilities
from pyhar.ops.grid import GRIDS
from pyhar.ops.softmax import probabilities

ON_HOST = Path(__file__).parents[1] / "cuda_on_host" / "host.py"
NAN = float("nan")


def load_host() -> ModuleType:
    """The backend on the CPU, the same module for all who load it."""
    if "cuda_on_host" not in sys.modules:
        spec = importlib.util.spec_from_file_location("cuda_on_host", ON_HOST)
        assert spec
        assert spec.loader
        sys.modules["cuda_on_host"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["cuda_on_host"])
    return sys.modules["cuda_on_host"]


@pytest.fixture
def host() -> Iterator[ModuleType]:
    module = load_host()
    if reason := module.why_unusable():
        pytest.skip(reason)
    module.launches.clear()
    yield module
    module.order, module.seed = "ascending", 0


class Case(NamedTuple):
    """Arguments of one call."""

    logits: Tensor
    features: Tensor | None
    depth: Tensor | None
    beta: Tensor | None
    grid: str
    window: bool


def laid_out(values: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "slice":
        whole = values.new_full([2 * n for n in values.shape], NAN)
        return whole[tuple(slice(None, None, 2) for _ in values.shape)].copy_(values)
    if layout == "transposed":
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert layout == "contiguous"
    return values


def make(
    b: int, j: int, c: int, y: int, x: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous",
    grid: str = "corners", window: bool = False, beta: bool = True,
) -> Case:  # fmt: skip
    """Random arguments; c = 0 leaves out features and depth."""

    def random(channels: int, scale: float = 1.0) -> Tensor:
        return laid_out((scale * torch.randn(b, channels, y, x, dtype=torch.float64)).to(dtype), layout)

    betas = (1 + 0.3 * torch.randn(j)).expand(b, j) if beta else None
    return Case(random(j, 3), random(c) if c else None, random(j) if c else None, betas, grid, window)


def unwritten(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(tuple(shape), NAN, dtype=dtype)


def unwritten_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).fill_(NAN)


def run(calls: Calls, case: Case, upstream: dict[str, Tensor]) -> dict[str, Tensor]:
    """All outputs and gradients of a call, by the contract's functions."""
    logits, features, depth, beta, grid, window = case
    b, j, y, x = logits.shape
    computing = torch.float64 if logits.dtype == torch.float64 else torch.float32
    line = (*GRIDS[grid](x), *GRIDS[grid](y))
    out = {"stats": unwritten((b, j, 2), computing), "xy": unwritten((b, j, 2), computing)}
    out["confidence"] = unwritten((b, j), computing)
    if features is not None:
        out["z"] = unwritten((b, j), computing)
        out["appearance"] = unwritten((b, j, features.shape[1]), features.dtype)
    scale = 1.0 if beta is not None else 0.7
    shared = (logits, features, depth, beta, scale, line, window, out["stats"])
    calls.decode_forward(*shared, out["xy"], out.get("z"), out["confidence"], out.get("appearance"))
    d = {name: unwritten_like(tensor) for name, tensor in zip(("logits", "features", "depth"), case, strict=False)
         if tensor is not None}  # fmt: skip
    if beta is not None:
        d["beta"] = unwritten((b, j), computing)
    g = {name: gradient.to(out[name].dtype) for name, gradient in upstream.items()}
    calls.decode_backward(
        *shared, out["xy"], out.get("z"), g["xy"], g.get("z"), g["confidence"], g.get("appearance"),
        d["logits"], d.get("features"), d.get("depth"), d.get("beta"),
    )  # fmt: skip
    return out | {f"d_{name}": tensor for name, tensor in d.items()}


def expected(case: Case, upstream: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by plain PyTorch in float64, differentiated by autograd."""
    leaves = {name: None if t is None else t.double().requires_grad_() for name, t in case._asdict().items()
              if name not in ("grid", "window")}  # fmt: skip
    logits, features, depth = leaves["logits"], leaves["features"], leaves["depth"]
    assert logits is not None
    beta = leaves["beta"]
    t = logits - logits.detach().amax((-2, -1), keepdim=True)
    h = torch.softmax(((0.7 if beta is None else beta[..., None, None]) * t).flatten(2), -1).view(logits.shape)
    pose = decode_probabilities(h, depth, case.grid, "window" if case.window else "max")
    out = {"xy": pose.xy, "confidence": pose.confidence}
    if features is not None:
        assert pose.z is not None
        out |= {"z": pose.z, "appearance": torch.bmm(h.flatten(2), features.flatten(2).mT)}
    torch.autograd.backward(list(out.values()), [upstream[name] for name in out])
    return {name: tensor.detach() for name, tensor in out.items()} | {
        f"d_{name}": leaf.grad for name, leaf in leaves.items() if leaf is not None and leaf.grad is not None
    }


def upstream_of(case: Case) -> dict[str, Tensor]:
    b, j = case.logits.shape[:2]
    shapes: dict[str, tuple[int, ...]] = {"xy": (b, j, 2), "confidence": (b, j)}
    if case.features is not None:
        shapes |= {"z": (b, j), "appearance": (b, j, case.features.shape[1])}
    # Rounded to what every type holds, so that all start from the same.
    return {name: torch.randn(shape).to(torch.bfloat16).half().double() for name, shape in shapes.items()}


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], computing: torch.dtype) -> None:
    for name, want in wanted.items():
        have = got[name].double()
        error = (have - want).abs()
        allowed = (1e-12 if computing == torch.float64 else 1e-5) * want.abs().max()
        if got[name].dtype in (torch.float16, torch.bfloat16):
            allowed = allowed + torch.finfo(got[name].dtype).eps * want.abs() + 1e-7
        assert bool((error <= allowed).all()), (
            f"{name}: off by {float(error.max()):.3g}, largest {want.abs().max():.3g}"
        )


PLANES = [
    # variant of the forward, of the backward, and a call that takes them
    ("warp_of_plane 1 8", "warp_of_plane 1", {"y": 7, "x": 7}),
    ("warp_of_plane 4 32", "warp_of_plane 4", {"y": 12, "x": 25}),
    ("block_of_plane 1 8", "block_of_plane 1", {"y": 31, "x": 33}),
    ("block_of_plane 1 0", "block_of_plane 1", {"y": 73, "x": 61}),
    ("block_of_plane 4 32", "block_of_plane 4", {"y": 40, "x": 30}),
    ("block_of_plane 4 0", "block_of_plane 4", {"y": 128, "x": 132}),
    ("lanes_of_joints 1 0", "lanes_of_joints 1", {"y": 7, "x": 9, "layout": "channels_last"}),
    ("warp_of_plane 1 8", "warp_of_plane 1", {"y": 16, "x": 16, "layout": "slice"}),
    ("block_of_plane 1 8", "block_of_plane 1", {"y": 16, "x": 17, "layout": "transposed"}),
    ("warp_of_plane 8 32", "warp_of_plane 8", {"y": 16, "x": 16, "dtype": torch.bfloat16}),
    ("warp_of_plane 8 32", "warp_of_plane 8", {"y": 32, "x": 32, "dtype": torch.float16}),
    ("block_of_plane 1 8", "block_of_plane 1", {"y": 20, "x": 20, "dtype": torch.float64}),
]


@pytest.mark.parametrize(("forward", "backward", "sizes"), PLANES)
@pytest.mark.parametrize("window", [False, True])
def test_every_way_over_a_plane(
    host: ModuleType, forward: str, backward: str, sizes: dict[str, Any], window: bool
) -> None:
    case = make(2, 3, 0, **sizes, window=window)
    upstream = upstream_of(case)
    got = run(host.ahead, case, upstream)
    ran = [f"{' '.join(map(str, launch.kernel.arguments[3:]))}" for launch in host.launches]
    if window:  # windows reach over the packs' ends
        backward = backward.rpartition(" ")[0] + " 1"
        backward = "block_of_plane 1" if case.logits[0, 0].numel() > 256 and "lanes" not in backward else backward
    assert ran == [forward, backward]
    assert_close(got, expected(case, upstream), got["xy"].dtype)


PRODUCTS = [
    ({"b": 1, "j": 5, "c": 9, "y": 5, "x": 7}, "pose_and_appearance"),
    ({"b": 1, "j": 17, "c": 40, "y": 16, "x": 16}, "pose_and_appearance"),
    ({"b": 1, "j": 17, "c": 40, "y": 16, "x": 16, "dtype": torch.bfloat16}, "pose_and_appearance"),
    ({"b": 2, "j": 20, "c": 24, "y": 8, "x": 8, "layout": "channels_last"}, "appearance_forward"),
    (
        {"b": 2, "j": 16, "c": 24, "y": 8, "x": 8, "layout": "channels_last", "dtype": torch.float16},
        "appearance_forward",
    ),
    ({"b": 1, "j": 16, "c": 3, "y": 20, "x": 21, "layout": "transposed"}, "appearance_forward"),
    ({"b": 1, "j": 133, "c": 65, "y": 3, "x": 5, "dtype": torch.float64}, "pose_and_appearance"),
    ({"b": 1, "j": 2, "c": 4, "y": 9, "x": 8, "layout": "slice"}, "pose_and_appearance"),
    ({"b": 140, "j": 3, "c": 2, "y": 3, "x": 3}, "pose_and_appearance"),
    ({"b": 300, "j": 2, "c": 2, "y": 2, "x": 3}, "appearance_forward"),
]


@pytest.mark.parametrize(("sizes", "forward"), PRODUCTS)
def test_appearance(host: ModuleType, sizes: dict[str, Any], forward: str) -> None:
    case = make(**sizes, grid="ndc_centers", window=True)
    upstream = upstream_of(case)
    got = run(host.ahead, case, upstream)
    functions = [launch.kernel.function for launch in host.launches]
    fused = forward == "pose_and_appearance"
    assert functions[: 1 if fused else 2] == ([forward] if fused else ["plane_forward", forward])
    assert functions[-3:] == ["appearance_to_planes", "appearance_to_features", "plane_backward"]
    columns = {
        int(launch.kernel.arguments[-2]) for launch in host.launches if "appearance_to_planes" in launch.kernel.name
    }
    assert columns == ({64} if sizes["b"] >= 140 else {16})
    assert_close(got, expected(case, upstream), got["xy"].dtype)


@pytest.mark.parametrize(
    "sizes",
    [
        {"b": 2, "j": 3, "c": 5, "y": 7, "x": 9},
        {"b": 1, "j": 20, "c": 16, "y": 16, "x": 16, "dtype": torch.bfloat16},
        {"b": 1, "j": 6, "c": 8, "y": 6, "x": 6, "layout": "channels_last", "window": True},
        {"b": 1, "j": 2, "c": 2, "y": 8, "x": 8, "dtype": torch.float64},
    ],
)
def test_kernels_that_know_their_sizes(host: ModuleType, sizes: dict[str, Any]) -> None:
    case = make(**sizes)
    upstream = upstream_of(case)
    got = run(host.exact, case, upstream)
    assert_close(got, expected(case, upstream), got["xy"].dtype)


@pytest.mark.parametrize("types", [("float32", "bfloat16", "float16"), ("bfloat16", "float32", "float64")])
def test_mixed_types(host: ModuleType, types: tuple[str, str, str]) -> None:
    case = make(1, 3, 5, 7, 9, beta=False)
    assert case.features is not None
    assert case.depth is not None
    logits, features, depth = (
        t.to(getattr(torch, name)) for t, name in zip((case.logits, case.features, case.depth), types, strict=True)
    )
    computing = torch.float64 if "float64" in types else torch.float32
    stats, xy, z = (unwritten((1, 3, n), computing) for n in (2, 2, 1))
    confidence, appearance = unwritten((1, 3), computing), unwritten((1, 3, 5), features.dtype)
    line = (*GRIDS["unit"](9), *GRIDS["unit"](7))
    host.exact.decode_forward(logits, features, depth, None, 0.7, line, False, stats, xy, z, confidence, appearance)
    wanted = expected(Case(logits, features, depth, None, "unit", False), upstream_of(case))
    got = {"xy": xy, "z": z[..., 0], "confidence": confidence}
    assert_close(got, {name: wanted[name] for name in got}, computing)
    rounding = max(torch.finfo(features.dtype).eps, 1e-5) if computing == torch.float32 else 1e-7
    assert float((appearance.double() - wanted["appearance"]).abs().max()) <= rounding * float(
        wanted["appearance"].abs().max()
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_both_signs_of_beta_in_one_image(host: ModuleType, layout: str) -> None:
    case = make(2, 6, 4, 5, 7, layout=layout)._replace(beta=torch.linspace(-1.5, 1.5, 6).expand(2, 6))
    upstream = upstream_of(case)
    assert_close(run(host.ahead, case, upstream), expected(case, upstream), torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_softmax_and_its_gradient(host: ModuleType, layout: str) -> None:
    logits = laid_out(3 * torch.randn(2, 3, 7, 9), layout)
    beta = torch.tensor([1.5, -0.5, 0.0])
    stats, probs = unwritten((2, 3, 2), torch.float32), unwritten_like(logits)
    host.softmax_forward(logits, beta.expand(2, 3), 1.0, stats, probs)
    g_probs = torch.randn(2, 3, 7, 9)
    d_logits, d_beta = unwritten_like(logits), unwritten((2, 3), torch.float32)
    host.softmax_backward(logits, beta.expand(2, 3), 1.0, stats, probs, g_probs, d_logits, d_beta)
    exact, exact_beta = logits.double().requires_grad_(), beta.double().requires_grad_()
    wanted = probabilities(exact, exact_beta, torch.float64)
    wanted.backward(g_probs.double())
    got = {"probs": probs, "d_logits": d_logits, "d_beta": d_beta.sum(0)}
    assert exact.grad is not None
    assert exact_beta.grad is not None
    assert_close(got, {"probs": wanted.detach(), "d_logits": exact.grad, "d_beta": exact_beta.grad}, torch.float32)


def test_masks_and_planes_without_a_number(host: ModuleType) -> None:
    case = make(1, 4, 6, 7, 9, beta=False)
    with torch.no_grad():
        case.logits[0, 0, :3] = -float("inf")
        case.logits[0, 1] = -float("inf")
        case.logits[0, 2, 3, 3] = NAN
    got = run(host.ahead, case, upstream_of(case))
    for name in ("xy", "z", "confidence", "appearance", "d_logits"):
        empty = got[name][0].reshape(4, -1).isnan()
        assert empty.all(1).tolist() == [False, True, True, False], name
        assert empty.any(1).tolist() == [False, True, True, False], name
    assert not got["d_logits"][0, 0, :3].any()


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {"b": 1, "j": 9, "c": 5, "y": 7, "x": 9},
        {"b": 1, "j": 9, "c": 5, "y": 7, "x": 9, "layout": "channels_last"},
        {"b": 1, "j": 2, "c": 5, "y": 20, "x": 30},
    ],
)
def test_the_order_of_threads_changes_no_bit(host: ModuleType, sizes: dict[str, Any], window: bool) -> None:
    case = make(**sizes, window=window)
    upstream = upstream_of(case)
    first = run(host.ahead, case, upstream)
    for order, seed in (("descending", 0), ("shuffled", 1), ("warps ahead", 2), ("warps ahead", 3)):
        host.order, host.seed = order, seed
        again = run(host.ahead, case, upstream)
        for name, tensor in first.items():
            assert torch.equal(again[name], tensor), (order, name)


def test_the_struct_is_packed_as_the_kernels_read_it(host: ModuleType) -> None:
    text = """
        #include "stand_in.hpp"
        #include "entry.cuh"
        #include <cstddef>
        extern "C" long size() { return sizeof(pyhar::Params); }
        extern "C" long rest() { return offsetof(pyhar::Params, scale); }
    """
    library = host.compile_library(text)
    addresses = cuda_plan.pack_addresses(*range(len(cuda_plan.ADDRESSES)))
    case = make(1, 1, 0, 1, 1)
    call = cuda_plan.Call(
        (1, 1, 0, 1, 1), (Layout.of(case.logits), *(None,) * 7), None, 1.0, (1.0, 0.0, 1.0, 0.0), False, True,
        frozenset(("logits", "stats")),
    )  # fmt: skip
    assert library.rest() == len(addresses)
    assert library.size() == len(addresses) + len(cuda_plan.plan(call, backward=False, exact=False).parameters)


def test_plans_ask_only_for_kernels_that_are_compiled_ahead() -> None:
    made = {kernel for storage in cuda_variants.STORAGES for kernel in cuda_variants.ahead_of_time(storage)}
    asked = set()
    shapes = [(1, 1), (7, 7), (8, 8), (16, 16), (32, 32), (31, 33), (64, 48), (96, 72), (256, 192), (512, 512)]
    given = frozenset(("logits", "features", "depth_logits", "stats", "xy", "z", "confidence", "appearance"))
    gradients = frozenset(("g_xy", "g_z", "g_confidence", "g_appearance", "d_logits", "d_features", "d_depth_logits"))
    for storage in cuda_variants.STORAGES:
        for y, x in shapes:
            for b, j, c in ((1, 1, 1), (1, 16, 64), (2, 20, 576), (300, 17, 128), (3, 133, 40), (1, 512, 512)):
                for innermost in (False, True):

                    def layout(n: int, s: str = storage, y: int = y, x: int = x, last: bool = innermost) -> Layout:
                        return Layout(s, (n * y * x, 1, n * x, n) if last else (n * y * x, y * x, x, 1), True)

                    for backward in (False, True):
                        names = given | gradients if backward else given
                        layouts = tuple(
                            layout(c if "features" in name else j) if name in names else None
                            for name in cuda_plan.STRIDED
                        )
                        for window in (False, True):
                            call = cuda_plan.Call(
                                (b, j, c, y, x), layouts, None, 1.0, (1.0, 0.0, 1.0, 0.0), window, True, names
                            )
                            plan = cuda_plan.plan(call, backward, exact=False)
                            asked |= {launch.kernel for launch in plan.launches}
                            for launch in plan.launches:
                                assert launch.threads <= launch.kernel.threads
                                assert launch.threads % 32 == 0
                                assert launch.shared_bytes <= cuda_plan.SHARED_BYTES
    assert asked <= made
    unused = {kernel.name for kernel in made - asked}
    assert not unused
