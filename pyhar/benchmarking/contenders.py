"""Ways to run one network: plain PyTorch, `torch.compile`, and the deployed form; and whether they agree."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyhar.benchmarking.ceilings import name_of
from pyhar.deploy import DeployedSPNet, deploy
from pyhar.deploy.network import numbers_of
from pyhar.inference.ring import FeatureRing
from pyhar.models import SPNet, SPNetOutput

CompileMode = Literal["no", "default", "max-autotune"]
Call = Callable[[Tensor], SPNetOutput]
OURS = "pyhar"
ANEW = ", clip anew"
"""Ends the names of those that compute the whole clip for each new frame of a stream."""
FLOAT32_ERROR = 1e-4
"""Largest difference allowed of any coordinate, depth, confidence or probability."""
ROUGH_ERROR = 0.5
"""Likewise in int8: networks with random weights magnify what is rounded. `benchmarks/int8.py` judges a trained one."""


class Streamed(nn.Module):
    """A network as `StreamingPredictor` runs it: the pose part of each new frame once, and the action part over what
    the ring keeps of the clip."""

    def __init__(self, network: SPNet | DeployedSPNet) -> None:
        super().__init__()
        self.network = network
        self.ring = FeatureRing(network.config.clip_frames, subsample=1)

    @torch.inference_mode()
    def forward(self, clip: Tensor) -> SPNetOutput:
        """The pose in the last frame of a clip (1, T, 3, H, W), (1, J, dim + 1), and the clip's action. The frames
        before it are looked at in the first call alone: a stream's clips follow each other frame by frame."""
        for frame in clip[0, -1 if self.ring.count else 0 :].split(1):
            seen = self.network.frame_features(frame)
            self.ring.append(seen.actions)
        return SPNetOutput(seen.poses, self.network.recognise(self.ring.clip()))


def of_last_frame(call: Call) -> Call:
    """What the function says of whole clips, but the pose in the last frame alone."""

    def answer(clip: Tensor) -> SPNetOutput:
        output = call(clip)
        return dataclasses.replace(output, poses=[pose[:, -1] for pose in output.poses])

    return answer


def contenders(
    model: SPNet, dtype: torch.dtype, compile_mode: CompileMode, *, streamed: bool = False
) -> dict[str, Call]:
    """By name, functions of float32 frames that say what `model` says, computing in `dtype`. Beside int8, which plain
    PyTorch does not have, stands the deployed network in the type of the maps.

    streamed: of the clips of a stream they say the last pose and the action; the deployed network sees each frame once,
    the others compute every clip anew and are called so.
    """

    def deployed(dtype: torch.dtype) -> Call:
        network = deploy(model, dtype=dtype)
        return Streamed(network) if streamed else network

    calls: dict[str, Call] = {OURS: deployed(dtype)}
    if dtype == torch.int8:
        maps = numbers_of(dtype, next(model.parameters()).device).maps
        return calls | {f"{OURS}, {name_of(maps)}": deployed(maps)}
    for layout in (torch.contiguous_format, torch.channels_last):
        suffix = (", channels_last" if layout == torch.channels_last else "") + (ANEW if streamed else "")
        plain = copy.deepcopy(model).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
        calls["PyTorch" + suffix] = _in_type(plain, dtype)
        if compile_mode != "no":
            mode, of_mode = (None, "") if compile_mode == "default" else (compile_mode, f", {compile_mode}")
            compiled = torch.compile(plain, mode=mode, dynamic=False)
            calls["torch.compile" + of_mode + suffix] = _in_type(compiled, dtype)
    return {name: of_last_frame(call) if name.endswith(ANEW) else call for name, call in calls.items()}


def _in_type(model: Callable[[Tensor], SPNetOutput], dtype: torch.dtype) -> Call:
    def call(frames: Tensor) -> SPNetOutput:
        # Coordinates are float32, from which the action part goes on: autocast takes them to the half type there.
        with torch.autocast(frames.device.type, dtype, enabled=dtype != torch.float32):
            return model(frames.to(dtype))

    return call


@torch.inference_mode()
def errors(calls: dict[str, Call], plain: Call, inputs: Sequence[Tensor]) -> dict[str, float]:
    """Of each function, called with each of the inputs in turn, the largest difference of any output from that of
    `plain`, the float32 network; infinite where an answer is not a number or missing."""
    found = dict.fromkeys(calls, 0.0)
    for frames in inputs:
        expected = _answers(plain(frames))
        for name, call in calls.items():
            answers = _answers(call(frames))
            off = [float((a.float() - b).abs().max()) for a, b in zip(answers, expected, strict=False)]
            whole = len(answers) == len(expected) and all(value == value for value in off)
            found[name] = max(found[name], max(off) if whole and off else float("inf"))
    return found


def allowed(found: dict[str, float], dtype: torch.dtype) -> float:
    """The error up to which a way is right, never infinite: in a half type twice what plain PyTorch loses in it, or
    that of int8 where it has no answer itself."""
    if dtype == torch.float32:
        return FLOAT32_ERROR
    lost = [error for name, error in found.items() if name.startswith("PyTorch") and math.isfinite(error)]
    return 2 * max(lost) + FLOAT32_ERROR if lost else ROUGH_ERROR


def _answers(output: SPNetOutput) -> list[Tensor]:
    return [*output.poses, *(scores for block in output.actions for scores in block)]
