"""Ways to run one network: plain PyTorch, `torch.compile`, and the deployed form; and whether they agree."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyhar.benchmarking.ceilings import name_of
from pyhar.deploy import deploy
from pyhar.deploy.network import numbers_of
from pyhar.models import SPNet, SPNetOutput

CompileMode = Literal["no", "default", "max-autotune"]
Call = Callable[[Tensor], SPNetOutput]
OURS = "pyhar"
FLOAT32_ERROR = 1e-4
"""Largest difference allowed of any coordinate, depth, confidence or probability."""
INT8_ERROR = 0.5
"""Likewise: networks with random weights magnify what is rounded. `benchmarks/int8.py` judges a trained one."""


def contenders(model: SPNet, dtype: torch.dtype, compile_mode: CompileMode) -> dict[str, Call]:
    """By name, functions of float32 frames that say what `model` says, computing in `dtype`. Beside int8, which plain
    PyTorch does not have, stands the deployed network in the type of the maps."""
    calls: dict[str, Call] = {OURS: deploy(model, dtype=dtype)}
    if dtype == torch.int8:
        maps = numbers_of(dtype, next(model.parameters()).device).maps
        return calls | {f"{OURS}, {name_of(maps)}": deploy(model, dtype=maps)}
    for layout in (torch.contiguous_format, torch.channels_last):
        suffix = ", channels_last" if layout == torch.channels_last else ""
        plain = copy.deepcopy(model).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
        calls["PyTorch" + suffix] = _in_type(plain, dtype)
        if compile_mode != "no":
            mode, of_mode = (None, "") if compile_mode == "default" else (compile_mode, f", {compile_mode}")
            compiled = torch.compile(plain, mode=mode, dynamic=False)
            calls["torch.compile" + of_mode + suffix] = _in_type(compiled, dtype)
    return calls


def _in_type(model: Callable[[Tensor], SPNetOutput], dtype: torch.dtype) -> Call:
    def call(frames: Tensor) -> SPNetOutput:
        # Coordinates are float32, from which the action part goes on: autocast takes them to the half type there.
        with torch.autocast(frames.device.type, dtype, enabled=dtype != torch.float32):
            return model(frames.to(dtype))

    return call


@torch.inference_mode()
def errors(calls: dict[str, Call], model: SPNet, frames: Tensor) -> dict[str, float]:
    """Of each function, the largest difference of any output from the plain float32 network's; infinite where an
    answer is not a number or missing."""
    expected = _answers(model(frames))
    found: dict[str, float] = {}
    for name, call in calls.items():
        answers = _answers(call(frames))
        off = [float((a.float() - b).abs().max()) for a, b in zip(answers, expected, strict=False)]
        whole = len(answers) == len(expected) and all(value == value for value in off)
        found[name] = max(off) if whole and off else float("inf")
    return found


def allowed(found: dict[str, float], dtype: torch.dtype) -> float:
    """The error up to which a way is right: in a half type twice what plain PyTorch loses in it."""
    if dtype == torch.float32:
        return FLOAT32_ERROR
    if dtype == torch.int8:
        return INT8_ERROR
    return 2 * max(found["PyTorch"], found["PyTorch, channels_last"]) + FLOAT32_ERROR


def _answers(output: SPNetOutput) -> list[Tensor]:
    return [*output.poses, *(scores for block in output.actions for scores in block)]
