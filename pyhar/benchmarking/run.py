"""A benchmark from networks to rows of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pyhar.benchmarking import ceilings, counting, networks
from pyhar.benchmarking.contenders import (
    ANEW,
    OURS,
    Call,
    CompileMode,
    Streamed,
    allowed,
    contenders,
    errors,
    of_last_frame,
)
from pyhar.benchmarking.networks import CutPlace, Inputs
from pyhar.benchmarking.parts import time_by_part
from pyhar.benchmarking.timing import Spread, ratio, take_turns
from pyhar.deploy import DeployedSPNet, deploy
from pyhar.devices import exact_float32
from pyhar.errors import UserError
from pyhar.models import SPNet


@dataclass
class Row:
    """One way of running one network on one input. Times are milliseconds of a call."""

    network: str
    pyramids: int
    actions: bool
    """Whether actions are recognised beside the poses."""
    dtype: str
    input: str
    frames: int
    """Answered by a call: one of a stream."""
    implementation: str
    error: float
    """Largest difference of any output from the plain float32 network's."""
    right: bool
    """Whether the error is allowed; if not, there are no times."""
    frames_per_second: float | None = None
    median_ms: float | None = None
    q1_ms: float | None = None
    q3_ms: float | None = None
    p95_ms: float | None = None
    samples: int = 0
    speedup: float | None = None
    """Of pyhar's row: how many times faster than the best of the others in the same round, the median."""
    share_of_rate: float | None = None
    """Operations per second, as the network defines them, of the measured rate of matrix products in this type. Of a
    clip computed anew for a frame of a stream, those of the clip."""
    share_of_bound: float | None = None
    """The least time that its convolutions, the same ones, need at the measured rates, of the time taken."""


@dataclass
class Case:
    """One network, cut, type and input."""

    network: str
    pyramids: int
    dtype: str
    input: str
    gigaoperations: float
    """Of the definition, a multiply-add counted as two; of a stream, of a new frame's pose part and its clip's action
    part."""
    deployed_gigaoperations: float
    """Of the deployed network, counted while it runs."""
    clip_gigaoperations: float | None = None
    """Of a stream, of the whole clip, computed anew."""
    work: dict[str, counting.Work] = field(default_factory=dict)
    """By kind of convolution."""
    parts_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """By implementation and part of the network."""


@dataclass(frozen=True)
class Plan:
    """What to measure; names as on the command line."""

    networks: Sequence[str]
    cuts: Literal["none", "pyramids"] = "none"
    dtypes: Sequence[torch.dtype] = (torch.float32,)
    inputs: Sequence[Inputs] = ("image", "images", "clip", "stream")
    compile_mode: CompileMode = "no"
    seconds: float = 5.0
    parts: bool = True


@dataclass(frozen=True)
class Subject:
    """A network to measure, where it is cut, and the inputs that it answers."""

    name: str
    model: SPNet
    places: Sequence[CutPlace]
    inputs: Sequence[Inputs]


def prepare(plan: Plan, device: torch.device) -> list[Subject]:
    """Load all networks before any is measured, and say which inputs are left out: streams without actions, stills
    without poses. Raises UserError for a network that cannot be measured as planned, and if nothing is left."""
    subjects = []
    for name in plan.networks:
        model = networks.load(name, device)
        try:
            places = networks.cut_places(model, plan.cuts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        silent = {"stream"} if not model.num_action_blocks else set()
        silent |= {"image", "images"} if not model.num_pose_blocks else set()
        inputs = [given for given in plan.inputs if given not in silent]
        left_out = ", ".join(given for given in plan.inputs if given in silent)
        if left_out:
            print(f"{name}: {left_out} left out, as it answers {'poses' if model.num_pose_blocks else 'actions'} alone")
        if inputs:
            subjects.append(Subject(name, model, places, inputs))
    if not subjects:
        raise UserError("nothing to measure: choose another --input, or a network that answers this one")
    return subjects


def run(plan: Plan, subjects: Sequence[Subject], rates: ceilings.Ceilings) -> Iterator[tuple[Case, list[Row]]]:
    """Measure case by case."""
    for subject in subjects:
        for place in subject.places:
            for given in subject.inputs:
                for dtype in plan.dtypes:
                    yield _measure(subject.name, subject.model, place, given, dtype, plan, rates)
                    torch.compiler.reset()


@exact_float32()
def _measure(
    name: str,
    full: SPNet,
    place: CutPlace,
    given: Inputs,
    dtype: torch.dtype,
    plan: Plan,
    rates: ceilings.Ceilings,
) -> tuple[Case, list[Row]]:
    model = place.apply(full, given)
    actions = given in ("clip", "stream") and model.num_action_blocks > 0
    streamed = given == "stream" and actions
    frames = networks.frames_for(model, given, next(full.parameters()).device)
    inputs = networks.clips_of_stream(frames) if streamed else [frames]

    def begun(network: SPNet | DeployedSPNet) -> SPNet | DeployedSPNet | Streamed:
        """As it is called for this input; of a stream there was a clip already."""
        if not streamed:
            return network
        stream = Streamed(network)
        stream(inputs[-1])
        return stream

    work = counting.count(begun(model), frames, dtype, rates)
    anew = counting.count(model, frames, dtype, rates) if streamed else work
    case = Case(
        name,
        place.pyramid,
        ceilings.name_of(dtype),
        given,
        _operations(work) / 1e9,
        counting.operations(begun(deploy(model, graph=False)), frames) / 1e9,
        _operations(anew) / 1e9 if streamed else None,
        work,
    )
    calls = contenders(model, dtype, plan.compile_mode, streamed=streamed)
    # Of a stream the first two clips: the second shows whether the first was kept.
    found = errors(calls, of_last_frame(model) if streamed else model, inputs[:2])
    limit = allowed(found, dtype)
    times = take_turns(
        {key: _call(call, inputs) for key, call in calls.items() if found[key] <= limit}, plan.seconds, frames.device
    )
    count = 1 if streamed else frames.shape[:-3].numel()
    rows = []
    for key in calls:
        row = Row(name, place.pyramid, actions, case.dtype, given, count, key, found[key], found[key] <= limit)
        if row.right:
            _fill(row, times, anew if key.endswith(ANEW) else work, rates)
        rows.append(row)
    if plan.parts:
        case.parts_ms[OURS] = _parts(begun(deploy(model, dtype=dtype, graph=False)), frames)
        if dtype == torch.float32:
            plain = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            case.parts_ms["PyTorch, channels_last" + (ANEW if streamed else "")] = _parts(plain, frames)
    return case, rows


def _call(call: Call, inputs: Sequence[Tensor]) -> Any:
    in_turn = itertools.cycle(inputs)
    return lambda: call(next(in_turn))


def _operations(work: dict[str, counting.Work]) -> float:
    return sum(kind.operations for kind in work.values())


def _parts(model: torch.nn.Module, frames: Tensor) -> dict[str, float]:
    return {part: 1e3 * seconds for part, seconds in time_by_part(model, frames).items()}


def _fill(row: Row, times: dict[str, list[float]], work: dict[str, counting.Work], rates: ceilings.Ceilings) -> None:
    spread = Spread.of(times[row.implementation])
    row.frames_per_second = row.frames / spread.median
    row.median_ms, row.q1_ms, row.q3_ms, row.p95_ms = (
        1e3 * value for value in (spread.median, spread.q1, spread.q3, spread.p95)
    )
    row.samples = spread.samples
    row.share_of_rate = _operations(work) / spread.median / rates.operations[row.dtype]
    row.share_of_bound = sum(kind.at_least_s for kind in work.values()) / spread.median
    others = [key for key in times if key != OURS]
    if row.implementation == OURS and others:
        best = min(others, key=lambda key: Spread.of(times[key]).median)
        row.speedup = ratio(times[best], times[OURS])
