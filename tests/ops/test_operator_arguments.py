"""Wrong arguments: one error that names the argument, what it should be and what it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyhar import ops
from pyhar.errors import UserError
from pyhar.ops.grid import GRIDS

H = torch.zeros(2, 3, 4, 5)
F = torch.zeros(2, 6, 4, 5)
TYPES = "float16, bfloat16, float32 or float64"

ON_LOGITS: dict[str, Callable[..., Any]] = {
    "spatial_softmax": ops.spatial_softmax,
    "soft_argmax": ops.soft_argmax,
    "decode_pose": ops.decode_pose,
    "pool_appearance": lambda logits, **options: ops.pool_appearance(logits, F, **options),
    "decode_pose_and_appearance": lambda logits, **options: ops.decode_pose_and_appearance(logits, F, **options),
}
ON_PROBS: dict[str, Callable[..., Any]] = {
    "expectation": ops.expectation,
    "pool_appearance_from_probs": lambda probs, **options: ops.pool_appearance_from_probs(probs, F, **options),
}
WITH_DEPTH: dict[str, Callable[..., Any]] = {
    "decode_pose": lambda depth: ops.decode_pose(H, depth),
    "decode_pose_and_appearance": lambda depth: ops.decode_pose_and_appearance(H, F, depth),
}
WITH_FEATURES: dict[str, Callable[..., Any]] = {
    "pool_appearance": lambda features: ops.pool_appearance(H, features),
    "pool_appearance_from_probs": lambda features: ops.pool_appearance_from_probs(H, features),
    "decode_pose_and_appearance": lambda features: ops.decode_pose_and_appearance(H, features),
}


def check(function: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        function()
    assert str(raised.value) == message


@pytest.mark.parametrize("operator", [*ON_LOGITS, *ON_PROBS])
@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        ([[1.0]], TypeError, "expected a tensor (B, J, Y, X), got list"),
        (H.long(), TypeError, f"expected type {TYPES}, got int64"),
        (H.to(torch.complex64), TypeError, f"expected type {TYPES}, got complex64"),
        (H.to_sparse(), TypeError, "expected a dense tensor, got layout torch.sparse_coo; NAME.to_dense() makes one"),
        (H[0], ValueError, "expected shape (B, J, Y, X) with J, Y, X >= 1, got (3, 4, 5)"),
        (H[:, :0], ValueError, "expected shape (B, J, Y, X) with J, Y, X >= 1, got (2, 0, 4, 5)"),
        (H[..., :0], ValueError, "expected shape (B, J, Y, X) with J, Y, X >= 1, got (2, 3, 4, 0)"),
    ],
    ids=["list", "integer", "complex", "sparse", "3-dimensional", "no-joint", "empty-plane"],
)
def test_maps(operator: str, maps: Any, error: type[Exception], message: str) -> None:
    name = "logits" if operator in ON_LOGITS else "probs"
    check(lambda: (ON_LOGITS | ON_PROBS)[operator](maps), error, f"{name}: {message.replace('NAME', name)}")


@pytest.mark.parametrize("operator", WITH_DEPTH)
@pytest.mark.parametrize(
    ("depth", "error", "message"),
    [
        (0.5, TypeError, "expected a tensor (B, J, Y, X), got float"),
        (H.int(), TypeError, f"expected type {TYPES}, got int32"),
        (H[:, :2], ValueError, "expected shape (2, 3, 4, 5), that of the logits, got (2, 2, 4, 5)"),
        (H.to("meta"), ValueError, "expected device cpu, that of the maps, got meta"),
    ],
    ids=["number", "integer", "shape", "device"],
)
def test_depth_logits(operator: str, depth: Any, error: type[Exception], message: str) -> None:
    check(lambda: WITH_DEPTH[operator](depth), error, f"depth_logits: {message}")


@pytest.mark.parametrize("operator", WITH_FEATURES)
@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (None, TypeError, "expected a tensor (B, C, Y, X), got NoneType"),
        (F.bool(), TypeError, f"expected type {TYPES}, got bool"),
        (F[:, :0], ValueError, "expected shape (B, C, Y, X) with C, Y, X >= 1, got (2, 0, 4, 5)"),
        (F[:1], ValueError, "expected shape (2, C, 4, 5), to fit maps (2, 3, 4, 5), got (1, 6, 4, 5)"),
        (F.mT, ValueError, "expected shape (2, C, 4, 5), to fit maps (2, 3, 4, 5), got (2, 6, 5, 4)"),
        (F.to("meta"), ValueError, "expected device cpu, that of the maps, got meta"),
    ],
    ids=["none", "boolean", "no-channel", "batch", "plane", "device"],
)
def test_features(operator: str, features: Any, error: type[Exception], message: str) -> None:
    check(lambda: WITH_FEATURES[operator](features), error, f"features: {message}")


@pytest.mark.parametrize("operator", ON_LOGITS)
@pytest.mark.parametrize(
    ("beta", "error", "message"),
    [
        ("1", TypeError, "expected a number or a tensor (), (1,) or (J,), got str"),
        (True, TypeError, "expected a number or a tensor (), (1,) or (J,), got bool"),
        (None, TypeError, "expected a number or a tensor (), (1,) or (J,), got NoneType"),
        (math.nan, ValueError, "expected a finite number, got nan"),
        (-math.inf, ValueError, "expected a finite number, got -inf"),
        (10**400, ValueError, "expected a finite number, got one beyond the range of float64"),
        (torch.tensor(1), TypeError, f"expected type {TYPES}, got int64"),
        (torch.ones(2), ValueError, "expected shape (), (1,) or (J,) = (3,), got (2,)"),
        (torch.ones(3, 1), ValueError, "expected shape (), (1,) or (J,) = (3,), got (3, 1)"),
        (torch.ones(3, device="meta"), ValueError, "expected device cpu, that of the maps, got meta"),
    ],
    ids=str,
)
def test_beta(operator: str, beta: Any, error: type[Exception], message: str) -> None:
    check(lambda: ON_LOGITS[operator](H, beta=beta), error, f"beta: {message}")


@pytest.mark.parametrize("operator", ["soft_argmax", "expectation", "decode_pose", "decode_pose_and_appearance"])
def test_grid(operator: str) -> None:
    function = (ON_LOGITS | ON_PROBS)[operator]
    known = "known: centers, corners, ndc_centers, ndc_corners, pixels, unit"
    check(lambda: function(H, grid="corner"), UserError, f"unknown grid 'corner'; did you mean 'corners'? ({known})")
    check(
        lambda: function(H, grid=None),
        TypeError,
        "grid: expected one of corners, unit, centers, pixels, ndc_corners, ndc_centers, got None",
    )


def test_the_documented_grids_are_those_computed() -> None:
    documented = dict(re.findall(r'^- "(\w+)": ([^,;]+)', ops.__doc__, re.MULTILINE))
    assert documented.keys() == GRIDS.keys()
    one_pixel = torch.full((1, 1, 4, 5), -math.inf)
    one_pixel[..., 2, 3] = 0
    for grid, formula in documented.items():
        expected = [eval(formula, {"i": i, "n": n}) for i, n in ((3, 5), (2, 4))]
        torch.testing.assert_close(ops.soft_argmax(one_pixel, grid=grid)[0, 0], torch.tensor(expected).float())


@pytest.mark.parametrize("operator", ["decode_pose", "decode_pose_and_appearance"])
def test_confidence(operator: str) -> None:
    function = ON_LOGITS[operator]
    check(
        lambda: function(H, confidence="windows"),
        UserError,
        "unknown confidence 'windows'; did you mean 'window'? (known: max, window)",
    )
    check(lambda: function(H, confidence=2), TypeError, "confidence: expected one of max, window, got 2")


def test_a_number_of_any_kind_is_a_beta() -> None:
    logits = torch.arange(60.0).reshape(1, 3, 4, 5)
    expected = ops.spatial_softmax(logits, beta=2.0)
    for beta in (2, torch.tensor(2.0).numpy()[()], torch.tensor(2.0)):
        assert torch.equal(ops.spatial_softmax(logits, beta=beta), expected)
