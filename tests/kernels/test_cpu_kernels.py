"""The CPU kernels, called directly: every instruction set of this machine against the definition in float64."""

from __future__ import annotations

import mmap
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyhar import ops
from pyhar.kernels import cpu, native
from pyhar.ops.grid import GRIDS

NATIVE = native.load()
# AVX-512 with bfloat16 and the sets with VNNI differ from others in the convolution units alone.
UNITS_ALONE = ("avx512_bf16", "avx512_vnni", "avx2_vnni")
ISAS = [] if NATIVE is None else [isa for isa in NATIVE.cpu_isas() if isa not in UNITS_ALONE]
pytestmark = pytest.mark.skipif(NATIVE is None, reason=f"native module missing: {native.why_missing()}")
NAN = float("nan")
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    assert NATIVE is not None
    before = NATIVE.cpu_isa()
    NATIVE.use_cpu_isa(request.param)
    yield request.param
    NATIVE.use_cpu_isa(before)


def like(tensor: Tensor | None) -> Tensor | None:
    """Memory for a gradient: the shape and strides of `tensor`, unless its elements overlap; not a number anywhere."""
    return None if tensor is None else torch.empty_like(tensor).fill_(NAN)


def run(
    logits: Tensor,
    features: Tensor | None = None,
    depth: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    scale: float = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    softmax: bool = True,
    upstream: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return outputs, and gradients as "d_..." for the upstream gradients given, from the launchers."""
    b, j, y, x = logits.shape
    wide = any(t is not None and t.dtype == torch.float64 for t in (logits, features, depth))
    dtype = torch.float64 if wide else torch.float32
    (unit_x, first_x), (unit_y, first_y) = GRIDS[grid](x), GRIDS[grid](y)
    per_plane = None if beta is None else beta.expand(b, j)
    stats = torch.full((b, j, 2), NAN, dtype=dtype) if softmax else None
    shared = (
        logits,
        features,
        depth,
        per_plane,
        scale,
        (unit_x, first_x, unit_y, first_y),
        confidence == "window",
        stats,
    )
    out = {
        "xy": torch.full((b, j, 2), NAN, dtype=dtype),
        "z": None if depth is None else torch.full((b, j), NAN, dtype=dtype),
        "confidence": torch.full((b, j), NAN, dtype=dtype),
        "appearance": None if features is None else torch.full((b, j, features.shape[1]), NAN, dtype=features.dtype),
    }
    cpu.decode_forward(*shared, out["xy"], out["z"], out["confidence"], out["appearance"])
    if upstream is not None:
        g = [upstream.get(name) for name in ("xy", "z", "confidence", "appearance")]
        d = [like(t) for t in (logits, features, depth)]
        d_beta = torch.full((b, j), NAN, dtype=dtype) if softmax else None
        cpu.decode_backward(*shared, out["xy"], out["z"], *g, *d, d_beta)
        out |= {"d_logits": d[0], "d_features": d[1], "d_depth": d[2]}
        if beta is not None and d_beta is not None:
            out["d_beta"] = d_beta.sum(0)
    return {name: value for name, value in out.items() if value is not None}


def expected(
    logits: Tensor,
    features: Tensor | None = None,
    depth: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    scale: float = 1.0,
    grid: str = "corners",
    confidence: str = "max",
    upstream: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the same from the definition, in float64."""
    leaves = [None if t is None else t.double().detach().requires_grad_() for t in (logits, features, depth, beta)]
    h, f, d, t = leaves
    options: dict[str, Any] = {
        "beta": scale if t is None else t,
        "grid": grid,
        "confidence": confidence,
        "backend": "eager",
    }
    assert h is not None
    if f is None:
        pose, appearance = ops.decode_pose(h, d, **options), None
    else:
        pose, appearance = ops.decode_pose_and_appearance(h, f, d, **options)
    every = {"xy": pose.xy, "z": pose.z, "confidence": pose.confidence, "appearance": appearance}
    out = {name: value for name, value in every.items() if value is not None}
    if upstream is not None:
        total = sum((out[name] * g.double()).sum() for name, g in upstream.items())
        given = [leaf for leaf in leaves if leaf is not None]
        gradients = iter(torch.autograd.grad(total, given, materialize_grads=True))  # type: ignore[arg-type]
        for name, leaf in zip(("d_logits", "d_features", "d_depth", "d_beta"), leaves, strict=True):
            if leaf is not None:
                out[name] = next(gradients)
    return {name: value.detach() for name, value in out.items()}


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor], slack: float = 1.0) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        reference = wanted[name]
        assert value.shape == reference.shape, name
        assert torch.equal(value.isnan(), reference.isnan()), name
        value, reference = value.double().nan_to_num(), reference.nan_to_num()
        largest = reference.abs().max().item()
        error = (value - reference).abs()
        bound = 1e-5 * largest if found[name].dtype != torch.float64 else 1e-12 * largest
        if found[name].dtype in (torch.float16, torch.bfloat16):
            tiny = torch.finfo(found[name].dtype).smallest_normal
            assert (error <= bound + TOLERANCE[found[name].dtype] * reference.abs().clamp_min(tiny)).all(), name
        else:
            assert error.max().item() <= slack * bound, (name, error.max().item(), largest)


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def upstream_for(
    b: int, j: int, c: int | None, depth: bool, dtype: torch.dtype, feature_dtype: torch.dtype
) -> dict[str, Tensor]:
    g = {"xy": random((b, j, 2), dtype, 10), "confidence": random((b, j), dtype, 11)}
    if depth:
        g["z"] = random((b, j), dtype, 12)
    if c is not None:
        g["appearance"] = random((b, j, c), feature_dtype, 13)
    return g


def layout_as(tensor: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slice":
        whole = tensor.new_full([2 * n for n in tensor.shape], NAN)
        return whole[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)
    if layout == "cropped":
        whole = tensor.new_full([*tensor.shape[:2], tensor.shape[2] + 3, tensor.shape[3] + 5], NAN)
        return whole[:, :, 1 : 1 + tensor.shape[2], 2 : 2 + tensor.shape[3]].copy_(tensor)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor


SHAPES = [
    (2, 1, 1, 1, 1),
    (1, 3, 2, 1, 7),
    (2, 5, 17, 9, 1),
    (2, 17, 50, 7, 9),
    (3, 16, 33, 16, 16),
    (1, 16, 24, 31, 33),
    (1, 14, 7, 24, 18),
    (1, 29, 12, 3, 5),
    (1, 133, 19, 8, 8),
]


@pytest.mark.parametrize("confidence", ["max", "window"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(isa: str, shape: tuple[int, int, int, int, int], confidence: str) -> None:
    b, j, c, y, x = shape
    for dtype in (torch.float32, torch.float64):
        h, f, d = (random((b, n, y, x), dtype, i, 3) for i, n in enumerate((j, c, j)))
        beta = random((j,), dtype, 4).abs() + 0.2
        beta[0] *= -1
        options: dict[str, Any] = {"grid": "ndc_centers", "confidence": confidence}
        for layout in ("contiguous", "channels_last"):
            h, f, d = (layout_as(t, layout) for t in (h, f, d))
            g = upstream_for(b, j, c, True, dtype, dtype)
            compare(run(h, f, d, beta, upstream=g, **options), expected(h, f, d, beta, upstream=g, **options))
            del g["appearance"]
            compare(run(h, None, d, beta, upstream=g, **options), expected(h, None, d, beta, upstream=g, **options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "slice", "cropped", "expanded", "transposed"])
def test_types_and_layouts(isa: str, layout: str) -> None:
    b, j, c, y, x = 2, 18, 37, 9, 13
    types = [(torch.bfloat16,) * 3, (torch.float16,) * 3, (torch.float32, torch.bfloat16, torch.float16)]
    types += [(torch.float16, torch.float64, torch.float32), (torch.float32,) * 3, (torch.float64,) * 3]
    for dtypes in types:
        shapes = ((b, j, y, x), (b, c, y, x), (b, j, y, x))
        h, f, d = (layout_as(random(s, t, i, 2), layout) for i, (s, t) in enumerate(zip(shapes, dtypes, strict=True)))
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        g = upstream_for(b, j, c, True, dtype, dtypes[1])
        compare(run(h, f, d, scale=0.7, upstream=g), expected(h, f, d, scale=0.7, upstream=g))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 33, 70, 8, 4), (2, 16, 288, 12, 13)], ids=str)
def test_only_what_is_written_in_bfloat16_is_rounded(
    isa: str, shape: tuple[int, int, int, int, int], layout: str
) -> None:
    b, j, c, y, x = shape
    h, f, d = (random((b, n, y, x), torch.float32, i, 3) for i, n in enumerate((j, c, j)))
    f = layout_as(f.bfloat16(), layout)
    g = upstream_for(b, j, c, True, torch.float32, torch.bfloat16)
    found, wanted = run(h, f, d, upstream=g), expected(h, f, d, upstream=g)
    compare(found, wanted)  # the logits' gradient is float32
    for name in ("appearance", "d_features"):
        half_a_place = 2.0**-8 * wanted[name].abs()
        error = (found[name].double() - wanted[name]).abs()
        assert (error <= 1.001 * half_a_place + 1e-6 * wanted[name].abs().max()).all(), name


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_no_number_stays_so_in_bfloat16(isa: str, layout: str) -> None:
    h, f = random((2, 18, 7, 9), torch.float32, 0), random((2, 40, 7, 9), torch.bfloat16, 1)
    f[0, 3, 2, 4], f[1, 39, 6, 8], f[1, 0, 0, 0] = NAN, float("inf"), -float("inf")
    h[0, 1, 3, 3] = -float("inf")
    f = layout_as(f, layout)
    found, wanted = run(h, f), expected(h, f)
    infinite = wanted["appearance"].isinf()
    assert infinite.sum() == 2 * 18
    assert torch.equal(found["appearance"].double()[infinite], wanted["appearance"][infinite])
    found["appearance"][infinite], wanted["appearance"][infinite] = 0, 0
    compare(found, wanted)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "slice"])
def test_maps_that_are_probabilities(isa: str, layout: str) -> None:
    h = random((2, 5, 6, 7), torch.float32, 0).flatten(2).softmax(-1).view(2, 5, 6, 7)
    f, h = layout_as(random((2, 20, 6, 7), torch.float32, 1), layout), layout_as(h, layout)
    g = upstream_for(2, 5, 20, False, torch.float32, torch.float32)
    for confidence in ("max", "window"):
        found = run(h, f, softmax=False, grid="pixels", confidence=confidence, upstream=g)
        hd, fd = h.double().requires_grad_(), f.double().requires_grad_()
        pose = ops.decode.decode_probabilities(hd, None, "pixels", confidence)
        wanted = {"xy": pose.xy, "confidence": pose.confidence, "appearance": torch.einsum("bjyx,bcyx->bjc", hd, fd)}
        total = sum((wanted[name] * value.double()).sum() for name, value in g.items())
        wanted["d_logits"], wanted["d_features"] = torch.autograd.grad(total, (hd, fd))  # type: ignore[arg-type]
        compare(found, {name: value.detach() for name, value in wanted.items()})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_softmax(isa: str, dtype: torch.dtype, layout: str) -> None:
    h = layout_as(random((2, 5, 7, 9), dtype, 0, 2), layout)
    beta, g = random((5,), torch.float32, 1), layout_as(random((2, 5, 7, 9), dtype, 2), layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    stats, probs = torch.full((2, 5, 2), NAN, dtype=wide), torch.full_like(h, NAN)
    d_logits, d_beta = torch.full_like(h, NAN), torch.full((2, 5), NAN, dtype=wide)
    cpu.softmax_forward(h, beta.expand(2, 5), 1.0, stats, probs)
    cpu.softmax_backward(h, beta.expand(2, 5), 1.0, stats, probs, g, d_logits, d_beta)
    hd, bd = h.double().requires_grad_(), beta.double().requires_grad_()
    p = ops.spatial_softmax(hd, beta=bd, backend="eager")
    wanted = dict(zip(("d_logits", "d_beta"), torch.autograd.grad(p, (hd, bd), g.double()), strict=True))
    compare({"p": probs, "d_logits": d_logits, "d_beta": d_beta.sum(0)}, {"p": p.detach(), **wanted})


@pytest.mark.parametrize("beta", [1.0, 0.0, -0.5, 30.0])
def test_masks_extremes_and_ties(isa: str, beta: float) -> None:
    dtype = torch.float32
    h, d = random((2, 5, 6, 7), dtype, 0, 4), random((2, 5, 6, 7), dtype, 1)
    f = random((2, 6, 6, 7), dtype, 2)
    h[0, 0, 2:] = -torch.inf
    h[0, 1] = -torch.inf
    h[0, 2, 3, 3] = NAN
    h[0, 3] = torch.randint(0, 2, (6, 7), generator=torch.Generator().manual_seed(0)) * 2.0
    h[0, 4] = 1.5
    h[1, 0] = 1e4 * torch.sign(h[1, 0])
    h[1, 1, 0, 0], h[1, 1, 5, 6] = 1e4, -1e4
    if beta != 0:  # the lower would be masked
        h[1, 2] = torch.finfo(dtype).max * torch.sign(h[1, 2])
    g = upstream_for(2, 5, 6, True, dtype, dtype)
    for confidence in ("max", "window"):
        found = run(h, f, d, scale=beta, confidence=confidence, upstream=g)
        sane = torch.where(h.isnan(), h, h.clamp(-1e30, 1e30).where(~h.isneginf(), h))  # the same to float64
        wanted = expected(sane, f, d, scale=beta, confidence=confidence, upstream=g)
        wild = wanted.pop("d_features"), found.pop("d_features")
        assert torch.allclose(wild[0][1].float(), wild[1][1], atol=1e-5)  # image 0 has planes that are not numbers
        for name in ("d_logits", "d_depth"):  # a wholly masked plane has no gradient to speak of
            wanted[name][0, 1], found[name][0, 1] = 0.0, 0.0
            wanted[name][0, 2], found[name][0, 2] = 0.0, 0.0
        compare(found, wanted)
        tensor = torch.full((5,), beta)
        with_tensor = run(h, f, d, tensor, confidence=confidence, upstream=g)
        for name in ("xy", "z", "confidence", "appearance"):
            assert torch.equal(with_tensor[name].nan_to_num(7.0), found[name].nan_to_num(7.0))
        assert not with_tensor["d_beta"][[0, 3, 4]].isnan().any()


# Joints that fill a vector of every width, several, and all but one lane of the last; see csrc/cpu/plane_lanes.h.
FILLING = [16, 79, 80]


@pytest.mark.parametrize("joints", FILLING)
@pytest.mark.parametrize("beta", [1.0, 0.0, -0.5, 30.0])
def test_masks_extremes_and_ties_in_lanes(isa: str, beta: float, joints: int) -> None:
    dtype = torch.float32
    h, d = (random((2, joints, 6, 7), dtype, i, 3) for i in range(2))
    h[0, 0, 2:] = -torch.inf
    h[0, 1] = -torch.inf
    h[0, 2, 3, 3] = NAN
    h[0, 3] = torch.randint(0, 2, (6, 7), generator=torch.Generator().manual_seed(0)) * 2.0
    h[0, joints - 1] = 1.5
    h[1, joints - 2, 1:3] = -torch.inf
    h[1, 0] = 1e4 * torch.sign(h[1, 0])
    h, d = (layout_as(t, "channels_last") for t in (h, d))
    g = upstream_for(2, joints, None, True, dtype, dtype)
    slopes = torch.linspace(0.5, 1.5, joints) * beta
    for scales in (None, slopes):
        found = run(h, None, d, scales, scale=beta, upstream=g)
        wanted = expected(h, None, d, scales, scale=beta, upstream=g)
        assert torch.equal(found["confidence"][0, 1].isnan(), wanted["confidence"][0, 1].isnan())
        if scales is not None:  # of planes that are not numbers the sum over images is none
            assert not found["d_beta"][[0, 3, joints - 1, joints - 2]].isnan().any()
            wanted["d_beta"][1:3], found["d_beta"][1:3] = 0.0, 0.0
        for name in ("d_logits", "d_depth"):  # a wholly masked plane has no gradient to speak of
            wanted[name][0, 1:3], found[name][0, 1:3] = 0.0, 0.0
        compare(found, wanted)


@pytest.mark.parametrize("joints", FILLING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_gradients_that_are_not_wanted_or_do_not_flow_in_lanes(isa: str, joints: int, dtype: torch.dtype) -> None:
    h, d = (layout_as(random((2, joints, 5, 6), dtype, i), "channels_last") for i in range(2))
    every = upstream_for(2, joints, None, True, torch.float64 if dtype == torch.float64 else torch.float32, dtype)
    for kept in [(), ("xy",), ("z",), ("confidence",), ("xy", "z")]:
        g = {name: value if name in kept else torch.zeros_like(value) for name, value in every.items()}
        compare(run(h, None, d, upstream={name: every[name] for name in kept}), expected(h, None, d, upstream=g))


def test_gradients_that_are_not_wanted_or_do_not_flow(isa: str) -> None:
    b, j, c, y, x = 2, 3, 5, 4, 6
    h, f, d = (random((b, n, y, x), torch.float32, i) for i, n in enumerate((j, c, j)))
    for layout in ("contiguous", "channels_last"):
        h, f, d = (layout_as(t, layout) for t in (h, f, d))
        every = upstream_for(b, j, c, True, torch.float32, torch.float32)
        for kept in [(), ("xy",), ("z",), ("confidence",), ("appearance",), ("xy", "z")]:
            g = {name: value if name in kept else torch.zeros_like(value) for name, value in every.items()}
            some = {name: every[name] for name in kept}
            compare(run(h, f, d, upstream=some), expected(h, f, d, upstream=g))
            stats = torch.empty(b, j, 2)
            shared = (h, f, d, None, 1.0, (x - 1, 0.0, y - 1, 0.0), False, stats)
            cpu.decode_forward(*shared, None, torch.empty(b, j), None, torch.empty(b, j, c))
            whole = run(h, f, d, upstream=some)
            for i, name in enumerate(("d_logits", "d_features", "d_depth")):
                single = torch.full_like((h, f, d)[i], NAN)
                gradients = [single if k == i else None for k in range(3)]
                upstream = [some.get(n) for n in ("xy", "z", "confidence", "appearance")]
                cpu.decode_backward(*shared, whole["xy"], whole["z"], *upstream, *gradients, None)
                assert torch.equal(single, whole[name])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("joints", [17, 80])
def test_bits_do_not_depend_on_threads(isa: str, layout: str, batch: int, dtype: torch.dtype, joints: int) -> None:
    h, f, d = (layout_as(random((batch, n, 48, 40), dtype, i), layout) for i, n in enumerate((joints, 100, joints)))
    g = upstream_for(batch, joints, 100, True, torch.float32, dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append([run(h, f, d, upstream=g), run(h, None, d, upstream={k: g[k] for k in ("xy", "z")})])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_no_tensor_is_copied(layout: str) -> None:
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("needs Linux to tell the largest amount of memory used")
    h, f, d = (layout_as(random((4, n, 96, 96), torch.float32, i), layout) for i, n in enumerate((8, 256, 8)))
    g = upstream_for(4, 8, 256, True, torch.float32, torch.float32)
    shared = (h, f, d, None, 1.0, (95.0, 0.0, 95.0, 0.0), False, torch.zeros(4, 8, 2))
    out = (torch.zeros(4, 8, 2), torch.zeros(4, 8), torch.zeros(4, 8), torch.zeros(4, 8, 256))
    gradients = [torch.zeros_like(t) for t in (h, f, d)]

    def peak() -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) << 10

    reset.write_text("5")
    before = peak()
    cpu.decode_forward(*shared, *out)
    cpu.decode_backward(*shared, *out[:2], g["xy"], g["z"], g["confidence"], g["appearance"], *gradients, None)
    assert peak() - before < f.nbytes // 4


def test_what_cannot_be_served_is_explained() -> None:
    h = torch.zeros(1, 1, 2, 2)
    assert cpu.why_not(h, h, h, None) is None
    assert "meta" in (cpu.why_not(h, h.to("meta"), None, None) or "")
    assert "int64" in (cpu.why_not(h.long(), None, None, None) or "")
    assert "layout" in (cpu.why_not(h, h.to_sparse(), None, None) or "")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="flushed on x86 alone, where it matters")
@pytest.mark.parametrize("joints", [3, 64])
def test_subnormal_numbers_are_flushed_within_kernels_alone(isa: str, joints: int) -> None:
    """Sharp maps are full of them, and each takes longer than a hundred ordinary numbers."""
    distance = torch.linspace(0, 15, 40)[:, None].square() + torch.linspace(0, 15, 30).square()
    layout = {"memory_format": torch.channels_last} if joints > 3 else {}
    h = (-distance / 2 + random((2, joints, 40, 30), torch.float32, 1, 0.1)).contiguous(**layout)
    tiny = torch.finfo(torch.float32).smallest_normal
    exact = h.double().flatten(2).softmax(-1)
    assert ((exact > 0) & (exact < tiny / 2)).float().mean() > 0.05
    probs = torch.empty_like(h)
    cpu.softmax_forward(h, None, 1.0, torch.empty(2, joints, 2), probs)
    assert ((probs == 0) | (probs >= tiny)).all()
    torch.testing.assert_close(probs.flatten(2), exact.float(), rtol=1e-5, atol=tiny)
    leaf = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ops.soft_argmax(leaf, backend="cpu").sum(), leaf)
    assert ((gradient == 0) | (gradient.abs() >= tiny)).all()
    # What PyTorch then computes on the same threads.
    assert (torch.full((1 << 20,), tiny) * 0.5).all()


def huge_pages(address: int, size: int) -> int:
    """Return the bytes in huge pages of the mappings that `size` bytes at an address lie in."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) < address + size and address < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) << 10
    return total


def huge_pages_are_to_be_had() -> bool:
    if not Path("/proc/self/smaps").exists() or not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    with mmap.mmap(-1, 1 << 24, flags=PRIVATE) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        values = torch.frombuffer(memory, dtype=torch.uint8).fill_(1)
        found = huge_pages(values.data_ptr(), 1 << 24) > 0
        del values
    return found


@pytest.mark.skipif(not huge_pages_are_to_be_had(), reason="the system gives no huge pages")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_new_memory_gets_huge_pages_and_the_same_numbers(isa: str, dtype: torch.dtype) -> None:
    h, f = random((8, 5, 64, 64), torch.float32, 1), random((8, 130, 64, 64), torch.float32, 2).to(dtype)
    g = upstream_for(8, 5, 130, True, torch.float32, dtype)
    stats, xy, z = torch.zeros(8, 5, 2), torch.zeros(8, 5, 2), torch.zeros(8, 5)
    shared = (h, f, None, None, 1.0, (63.0, 0.0, 63.0, 0.0), False, stats)
    cpu.decode_forward(*shared, xy, None, None, torch.empty(8, 5, 130, dtype=dtype))
    with mmap.mmap(-1, f.nbytes, flags=PRIVATE) as memory:
        new, old = torch.frombuffer(memory, dtype=dtype).view_as(f), torch.zeros_like(f)
        for d_features in (new, old):
            cpu.decode_backward(*shared, xy, z, g["xy"], None, None, g["appearance"], None, d_features, None, None)
        assert huge_pages(new.data_ptr(), new.nbytes) > 0
        assert torch.equal(new, old)
        del new, d_features


def test_empty_batch(isa: str) -> None:
    h, f = torch.empty(0, 3, 4, 5), torch.empty(0, 2, 4, 5)
    g = upstream_for(0, 3, 2, True, torch.float32, torch.float32)
    assert run(h, f, h.clone(), upstream=g)["appearance"].shape == (0, 3, 2)


def test_a_tensor_whose_memory_was_freed_is_an_error_and_no_crash() -> None:
    """Sharded training frees memory so."""
    logits, features = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    features.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="a tensor has no memory: its storage was resized to 0"):
        ops.pool_appearance(logits, features, backend="cpu")


def test_isa_is_taken_from_the_environment() -> None:
    code = "from pyhar.kernels import cpu, native; print(cpu.why_unusable() or native.load().cpu_isa())"
    for asked, said in (("scalar", "scalar"), ("sse9", "sse9")):
        environment = {**os.environ, "PYHAR_CPU_ISA": asked}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert said in result.stdout
