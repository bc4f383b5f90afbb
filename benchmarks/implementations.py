"""What is compared: the operators in plain PyTorch, the same compiled, other libraries, and pyhar's backends."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import WITH_DEPTH, WITH_FEATURES, Case, Inputs
from pyhar import ops

Outputs = tuple[Tensor, ...]
Function = Callable[[Inputs], Outputs]


class Implementation(NamedTuple):
    """A way to compute a case; `grid` is that of its coordinates."""

    name: str
    function: Function
    grid: str = "corners"
    is_pyhar: bool = False


class Missing(NamedTuple):
    """A way to compute a case that this machine lacks, and why."""

    name: str
    reason: str


def output_names(case: Case) -> tuple[str, ...]:
    """Return the names of the outputs that every implementation of the case returns, in order."""
    names = {
        "spatial_softmax": ("probs",),
        "soft_argmax": ("xy",),
        "expectation": ("xy",),
        "pool_appearance": ("appearance",),
        "pool_appearance_from_probs": ("appearance",),
    }.get(case.operator, ("xy", "z", "confidence") if case.depth else ("xy", "confidence"))
    return (*names, "appearance") if case.operator == "decode_pose_and_appearance" else names


def gather(case: Case, only: tuple[str, ...] | None = None, device_type: str = "cpu") -> list[Implementation | Missing]:
    """Return all implementations of a case on a type of device, those missing here included, or those in `only`."""
    plain = functools.partial(_plain, case)
    found: list[Implementation | Missing] = [
        Implementation("plain", plain),
        # Made anew for each case: compiled for its shape and no other.
        Implementation("compile", torch.compile(plain, fullgraph=True, dynamic=False)),
    ]
    for library, by_operator in LIBRARIES.items():
        if case.operator in by_operator:
            try:
                importlib.import_module(library)
            except ImportError as error:
                found.append(Missing(library, f"{library} does not load: {error}"))
            else:
                function, grid = by_operator[case.operator]
                found.append(Implementation(library, function, grid))
    for backend, reason in ops.available_backends().items():
        if reason is None and backend != "eager" and (backend == "cpu") != (device_type == "cpu"):
            reason = f"it is not for a device of type {device_type}"
        if backend == "triton" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
            reason = "Triton's interpreter is on: it is for tests and its speed says nothing"
        if reason is None:
            found.append(Implementation(f"pyhar {backend}", functools.partial(_pyhar, case, backend), is_pyhar=True))
        else:
            found.append(Missing(f"pyhar {backend}", reason))
    return [one for one in found if only is None or one.name in only]


def reference(case: Case, grid: str, inputs: Inputs) -> Outputs:
    """Return the outputs by definition, pyhar's plain PyTorch form, in the type of the inputs."""
    return _pyhar(case, "eager", inputs, grid)


def _pyhar(case: Case, backend: str, inputs: Inputs, grid: str = "corners") -> Outputs:
    maps, features, depth_logits = inputs
    keywords: dict[str, Any] = {"backend": backend}
    if case.operator in (*WITH_DEPTH, "soft_argmax", "expectation"):
        keywords["grid"] = grid
    arguments: list[Tensor | None] = [maps]
    if case.operator in WITH_FEATURES:
        arguments.append(features)
    if case.operator in WITH_DEPTH:
        arguments.append(depth_logits)
    found = getattr(ops, case.operator)(*arguments, **keywords)
    if isinstance(found, Tensor):
        return (found,)
    if isinstance(found, ops.DecodedPose):
        return tuple(t for t in found if t is not None)
    pose, appearance = found
    return (*(t for t in pose if t is not None), appearance)


def _plain(case: Case, inputs: Inputs) -> Outputs:
    """The composition one writes: everything in the type of the inputs, coordinates from the marginal sums."""
    maps, features, depth_logits = inputs
    operator = case.operator
    from_probs = operator in ("expectation", "pool_appearance_from_probs")
    h = maps if from_probs else torch.softmax(maps.flatten(2), -1).view(maps.shape)
    outputs: list[Tensor] = []
    if operator == "spatial_softmax":
        outputs.append(h)
    if operator in ("soft_argmax", "expectation", *WITH_DEPTH):
        xs = torch.linspace(0, 1, h.shape[-1], dtype=h.dtype, device=h.device)
        ys = torch.linspace(0, 1, h.shape[-2], dtype=h.dtype, device=h.device)
        outputs.append(torch.stack((h.sum(-2) @ xs, h.sum(-1) @ ys), -1))
    if operator in WITH_DEPTH:
        if depth_logits is not None:
            outputs.append((h * depth_logits.sigmoid()).sum((-2, -1)))
        outputs.append(h.amax((-2, -1)))
    if features is not None:
        outputs.append(torch.bmm(h.flatten(2), features.flatten(2).transpose(1, 2)))
    return tuple(outputs)


def _kornia(name: str) -> Function:
    def call(inputs: Inputs) -> Outputs:
        return (getattr(importlib.import_module("kornia.geometry.subpix"), name)(inputs.maps),)

    return call


def _dsntnn(softmax: bool, coordinates: bool) -> Function:
    def call(inputs: Inputs) -> Outputs:
        dsntnn = importlib.import_module("dsntnn")
        maps = dsntnn.flat_softmax(inputs.maps) if softmax else inputs.maps
        return (dsntnn.dsnt(maps) if coordinates else maps,)

    return call


# library -> operator -> the function, and the grid of its coordinates
LIBRARIES: dict[str, dict[str, tuple[Function, str]]] = {
    "kornia": {
        "spatial_softmax": (_kornia("spatial_softmax2d"), "corners"),
        "soft_argmax": (_kornia("spatial_soft_argmax2d"), "ndc_corners"),
        "expectation": (_kornia("spatial_expectation2d"), "ndc_corners"),
    },
    "dsntnn": {
        "spatial_softmax": (_dsntnn(True, False), "corners"),
        "soft_argmax": (_dsntnn(True, True), "ndc_centers"),
        "expectation": (_dsntnn(False, True), "ndc_centers"),
    },
}
