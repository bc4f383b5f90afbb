"""What is measured: operators, shapes, types and layouts by suite; their inputs; the bytes they cannot help moving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

OPERATORS = (
    "spatial_softmax",
    "soft_argmax",
    "expectation",
    "decode_pose",
    "pool_appearance",
    "pool_appearance_from_probs",
    "decode_pose_and_appearance",
)
WITH_PROBS = ("expectation", "pool_appearance_from_probs")
WITH_FEATURES = ("pool_appearance", "pool_appearance_from_probs", "decode_pose_and_appearance")
WITH_DEPTH = ("decode_pose", "decode_pose_and_appearance")
SUITES = ("acceptance", "network", "heatmaps", "robot", "sharp")
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("contiguous", "channels_last")
PASSES = ("forward", "backward", "both")


class Shape(NamedTuple):
    """Sizes of a case; `channels` are those of the features, 0 where there are none."""

    batch: int
    joints: int
    rows: int
    columns: int
    channels: int = 0

    @property
    def planes(self) -> int:
        """Heat maps in the batch."""
        return self.batch * self.joints


class Case(NamedTuple):
    """One operator on one shape, type and layout; where it can take depth logits, it does if `depth`.

    The softmax of the maps is a Gaussian of `sigma` pixels, or, if that is 0, noise with a peak.
    """

    operator: str
    shape: Shape
    dtype: str = "float32"
    layout: str = "contiguous"
    depth: bool = False
    sigma: float = 0.0

    @property
    def name(self) -> str:
        """The case in a few words."""
        b, j, y, x, c = self.shape
        maps = f"{b}x{j}x{y}x{x}" + (f" C={c}" if c else "") + (f" sigma {self.sigma:g}" if self.sigma else "")
        return f"{self.operator}{' with depth' if self.depth else ''} {maps} {self.dtype} {self.layout}"


class Inputs(NamedTuple):
    """Arguments of an operator: `maps` are logits or probabilities; those it does not take are None."""

    maps: Tensor
    features: Tensor | None
    depth_logits: Tensor | None

    def tensors(self) -> tuple[Tensor, ...]:
        """Those that are there."""
        return tuple(t for t in self if t is not None)

    def leaves(self) -> Inputs:
        """The same memory, requiring grad."""
        return self._each(lambda t: t.detach().requires_grad_())

    def plain(self) -> Inputs:
        """The same memory, not requiring grad."""
        return self._each(lambda t: t.detach())

    def double(self) -> Inputs:
        """The same values in float64, requiring grad."""
        return self._each(lambda t: t.detach().double().requires_grad_())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        features, depth_logits = (None if t is None else change(t) for t in self[1:])
        return Inputs(change(self.maps), features, depth_logits)


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """Return inputs of the case: noise with one clear peak on each heat map, so that no confidence is a near tie."""
    shape, dtype = case.shape, getattr(torch, case.dtype)
    generator = torch.Generator(device).manual_seed(seed)

    def noise(channels: int) -> Tensor:
        size = (shape.batch, channels, shape.rows, shape.columns)
        return torch.randn(size, generator=generator, device=device)

    def as_asked(values: Tensor) -> Tensor:
        form = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
        return values.to(dtype).contiguous(memory_format=form)

    maps = noise(shape.joints)
    pixels = shape.rows * shape.columns
    peaks = torch.randint(pixels, (shape.batch, shape.joints, 1), generator=generator, device=device)
    if case.sigma:
        y, x = (torch.arange(n, device=device, dtype=maps.dtype) for n in (shape.rows, shape.columns))
        above, beside = y[:, None] - (peaks // shape.columns)[..., None], x - (peaks % shape.columns)[..., None]
        maps = 0.01 * maps - (above**2 + beside**2) / (2 * case.sigma**2)
    else:
        maps.flatten(2).scatter_(2, peaks, 6.0)
    if case.operator in WITH_PROBS:
        maps = maps.flatten(2).softmax(-1).view_as(maps)
    features = as_asked(noise(shape.channels)) if case.operator in WITH_FEATURES else None
    return Inputs(as_asked(maps), features, as_asked(noise(shape.joints)) if case.depth else None)


def compulsory_bytes(case: Case) -> dict[str, int]:
    """Return the bytes that each pass must move if every tensor goes through memory once.

    Forward: inputs read, outputs written. Backward: inputs that the gradients depend on and upstream gradients read,
    gradients of all inputs written. Both: the sum. Outputs count as pyhar returns them.
    """
    shape = case.shape
    item = getattr(torch, case.dtype).itemsize
    wide = max(item, 4)  # coordinates, depth and confidence are float32 for half types
    maps = shape.planes * shape.rows * shape.columns * item
    features = shape.batch * shape.channels * shape.rows * shape.columns * item
    reads = maps * (2 if case.depth else 1) + (features if case.operator in WITH_FEATURES else 0)
    outputs = {
        "spatial_softmax": maps,
        "soft_argmax": 2 * shape.planes * wide,
        "expectation": 2 * shape.planes * wide,
        "decode_pose": 3 * shape.planes * wide,
        "pool_appearance": shape.planes * shape.channels * item,
        "pool_appearance_from_probs": shape.planes * shape.channels * item,
        "decode_pose_and_appearance": shape.planes * (3 * wide + shape.channels * item),
    }[case.operator] + (shape.planes * wide if case.depth else 0)
    needed = 0 if case.operator == "expectation" else reads  # it is linear: its gradient does not depend on the maps
    forward, backward = reads + outputs, needed + outputs + reads
    return {"forward": forward, "backward": backward, "both": forward + backward}


def suite(name: str, device_type: str, quick: bool = False) -> list[Case]:
    """Return the cases of a suite; `quick` leaves one type, one layout, and the batches that suit the device."""
    makers = (_acceptance, _network, _heatmaps, _robot, _sharp)
    cases = list(dict(zip(SUITES, makers, strict=True))[name]())
    gpu = device_type == "cuda"
    if name == "acceptance":  # what fills a CPU leaves a GPU idle
        return [case._replace(shape=case.shape._replace(batch=128)) if gpu else case for case in cases]
    if quick:
        largest = max(case.shape.batch for case in cases)
        cases = [case for case in cases if case.dtype == "float32" and case.layout == "contiguous"]
        cases = [case for case in cases if (case.shape.batch == largest if gpu else case.shape.batch <= 16)]
    return cases


def _acceptance() -> Iterator[Case]:
    yield Case("decode_pose_and_appearance", Shape(8, 16, 32, 32, 288), depth=True)
    yield Case("decode_pose_and_appearance", Shape(16, 17, 16, 16, 384), depth=True)
    yield Case("decode_pose", Shape(16, 17, 64, 48))
    yield Case("decode_pose", Shape(16, 17, 64, 48), depth=True)


def _network() -> Iterator[Case]:
    """The prediction blocks of the paper's network: the fused operator at all of them, the others at the largest."""
    levels = [(32, 288), (16, 384), (8, 480), (4, 576)]
    for batch, joints in ((8, 16), (32, 17), (128, 16)):
        shapes = [Shape(batch, joints, side, side, channels) for side, channels in levels]
        yield from _every(OPERATORS[-1:], shapes, DTYPES, LAYOUTS)
    for batch in (8, 128):
        yield from _every(OPERATORS[:-1], [Shape(batch, 16, 32, 32, 288)], DTYPES[:1], LAYOUTS[:1])


def _heatmaps() -> Iterator[Case]:
    """Heat maps of common top-down pose estimators, of bodies and of whole bodies."""
    shapes = [Shape(16, 17, 64, 48), Shape(16, 17, 96, 72), Shape(8, 133, 64, 48), Shape(8, 133, 96, 72)]
    yield from _every(("decode_pose", "soft_argmax"), shapes, DTYPES, LAYOUTS)
    yield from _every(("spatial_softmax", "expectation"), shapes[:1], DTYPES, LAYOUTS[:1])


def _robot() -> Iterator[Case]:
    """Feature maps that robot-learning policies reduce to keypoints."""
    shapes = [Shape(16, 512, 7, 7), Shape(16, 512, 10, 10), Shape(16, 512, 15, 20), Shape(64, 512, 7, 7)]
    yield from _every(("soft_argmax",), [*shapes, Shape(16, 512, 20, 20)], DTYPES, LAYOUTS)


def _sharp() -> Iterator[Case]:
    """Maps such as training makes them: much of the softmax is too small for a normal float32."""
    for sigma in (1.0, 2.0):
        for shape in (Shape(16, 17, 64, 48), Shape(16, 17, 96, 72)):
            yield Case("decode_pose", shape, sigma=sigma)
    yield Case("decode_pose_and_appearance", Shape(8, 16, 32, 32, 288), depth=True, sigma=1.0)


def _every(
    operators: Sequence[str], shapes: Sequence[Shape], dtypes: Sequence[str], layouts: Sequence[str]
) -> Iterator[Case]:
    for operator in operators:
        for shape in shapes:
            sizes = shape if operator in WITH_FEATURES else shape._replace(channels=0)
            for dtype in dtypes:
                for layout in layouts:
                    yield Case(operator, sizes, dtype, layout, operator in WITH_DEPTH)
