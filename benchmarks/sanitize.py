"""Is any kernel out of bounds, racing or reading what nobody wrote? Small odd calls to run under compute-sanitizer.

`compute-sanitizer --tool memcheck python -m benchmarks.sanitize --backend cuda` runs every operator forward and
backward on sizes, types and layouts that leave no tile whole, compares with float64 on the CPU, and returns 1 where
they differ. It also runs without a sanitizer, and with `--device cpu --backend cpu`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.accuracy import TOLERANCES, relative_error
from benchmarks.cases import OPERATORS, WITH_DEPTH, WITH_FEATURES
from pyhar import cli, ops
from pyhar.errors import UserError

SIZES = (  # B, J, C, Y, X
    (2, 3, 5, 7, 9),
    (1, 1, 1, 1, 1),
    (2, 17, 33, 3, 5),
    (1, 5, 7, 1, 13),
    (1, 4, 6, 11, 1),
    (1, 2, 9, 31, 33),
    (3, 16, 32, 8, 8),
    (0, 3, 4, 5, 5),
    (1, 65, 3, 7, 7),
    (1, 3, 130, 16, 12),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "slice", "transposed", "expanded")
BETAS = (1.0, "tensor", -0.5, 0.0)
GRIDS = ("corners", "pixels", "ndc_centers")
CONFIDENCES = ("max", "window")


class Call(NamedTuple):
    """One call; `beta` "tensor" is one number per joint that requires grad."""

    operator: str
    sizes: tuple[int, int, int, int, int]
    dtype: torch.dtype
    layout: str
    beta: float | str
    grid: str
    confidence: str


def calls() -> Iterator[Call]:
    """Yield the calls: each operator at all sizes, the other choices taking turns, in steps without common factors."""
    turn = itertools.count()
    for sizes in SIZES:
        for operator in OPERATORS:
            i = next(turn)
            yield Call(
                operator, sizes, DTYPES[i % 4], LAYOUTS[i % 5], BETAS[i // 3 % 4], GRIDS[i % 3], CONFIDENCES[i // 4 % 2]
            )


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the values in a layout; "expanded" repeats the first image with stride 0."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slice":  # every second pixel of a larger tensor that holds no numbers elsewhere
        whole = tensor.new_full([2 * n for n in tensor.shape], float("nan"))
        return whole[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor[:1].expand_as(tensor) if layout == "expanded" and len(tensor) else tensor


def arguments(call: Call, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the tensors of a call on the CPU, contiguous and in its type, some pixels masked."""
    b, j, c, y, x = call.sizes

    def noise(channels: int) -> Tensor:
        values = 3 * torch.randn(b, channels, y, x, generator=generator)
        return (values[:1].expand_as(values) if call.layout == "expanded" and b else values).to(call.dtype).contiguous()

    maps = noise(j)
    if call.operator in ("expectation", "pool_appearance_from_probs"):
        tensors = {"probs": maps.float().flatten(2).softmax(-1).view(maps.shape).to(call.dtype)}
    else:
        if y * x > 2:
            maps[..., 0, 0] = float("-inf")
        tensors = {"logits": maps}
    if call.operator in WITH_FEATURES:
        tensors["features"] = noise(c)
    if call.operator in WITH_DEPTH:
        tensors["depth_logits"] = noise(j)
    if "logits" in tensors and call.beta == "tensor":
        tensors["beta"] = torch.linspace(-0.5, 1.5, j)
    return tensors


def run(call: Call, tensors: dict[str, Tensor], backend: str, seed: int) -> dict[str, Tensor]:
    """Return outputs and gradients by name, for upstream gradients drawn from the seed."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    keywords: dict[str, Any] = {"backend": backend}
    if "logits" in leaves and call.beta != "tensor":
        keywords["beta"] = call.beta
    if call.operator in (*WITH_DEPTH, "soft_argmax", "expectation"):
        keywords["grid"] = call.grid
    if call.operator in WITH_DEPTH:
        keywords["confidence"] = call.confidence
    found = getattr(ops, call.operator)(**leaves, **keywords)
    if call.operator == "decode_pose_and_appearance":
        outputs = {**found[0]._asdict(), "appearance": found[1]}
    else:
        outputs = found._asdict() if isinstance(found, ops.DecodedPose) else {"output": found}
    generator = torch.Generator().manual_seed(seed)
    upstream = [
        ((torch.randn(o.shape, generator=generator) * 16).round() / 16).to(o.device, o.dtype) for o in outputs.values()
    ]
    gradients = torch.autograd.grad(list(outputs.values()), list(leaves.values()), upstream)
    named = {name: output.detach() for name, output in outputs.items()}
    return named | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}


def check(call: Call, backend: str, device: torch.device, seed: int = 0) -> str | None:
    """Run a call on the device and by definition; return what is wrong, None if nothing is."""
    tensors = arguments(call, torch.Generator().manual_seed(seed))
    placed = {n: t.to(device) if n == "beta" else laid_out(t.to(device), call.layout) for n, t in tensors.items()}
    found = run(call, placed, backend, seed + 1)
    true = run(call, {name: tensor.double() for name, tensor in tensors.items()}, "eager", seed + 1)
    for name, value in found.items():
        # With few pixels a gradient is the small difference of large numbers: those around 1 that it is made of count.
        error = relative_error(value.cpu(), true[name], floor=1.0)
        if error > TOLERANCES[value.dtype]:
            return f"{call}: {name} is off by {error:.1e}, allowed are {TOLERANCES[value.dtype]:.1e}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the calls; print a line for each that is wrong, and counts as JSON; return 1 if any was."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--backend", required=True, help="the backend that must serve the calls")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no call after so long")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu")
    reason = ops.available_backends().get(options.backend, "there is no backend of this name")
    if reason is not None:
        raise UserError(f"backend {options.backend!r} is not usable here: {reason}")
    end = time.monotonic() + options.seconds
    counts = {"backend": options.backend, "calls": 0, "wrong": 0, "refused": 0, "left_out": 0}
    for call in calls():
        if time.monotonic() > end:
            counts["left_out"] += 1
            continue
        try:
            wrong = check(call, options.backend, device)
        except UserError as error:
            counts["refused"] += 1
            print(f"{call}: {error}", flush=True)
            continue
        counts["calls"] += 1
        if wrong is not None:
            counts["wrong"] += 1
            print(wrong, flush=True)
    print(json.dumps(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
