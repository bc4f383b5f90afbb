"""Graphs: bookkeeping with a stand-in for the capture, recordings on the CPU, CUDA graphs where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyhar import ops
from pyhar.deploy import deploy
from pyhar.deploy.graphs import KEPT, Captured, Graphs
from pyhar.models import SPNet, SPNetConfig, SPNetOutput

CONFIG = SPNetConfig(
    num_joints=5,
    image_size=32,
    clip_frames=4,
    num_pyramids=2,
    action_pyramids=(2,),
    num_levels=3,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=16,
    num_actions=(4,),
)


def doubled(x: Tensor) -> list[Tensor]:
    return [2 * x]


def twice(graphs: Graphs, name: str, x: Tensor) -> None:
    """What captures, if nothing is kept."""
    for _ in range(2):
        graphs.run(name, doubled, x)


class StandIn(Graphs):
    """Captures by calling again: the result lies in the same memory every time, as a graph's does."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(torch.device("cuda"))
        self.captures = self.replays = 0
        self.fails = fails

    def _capture(self, function: Any, inputs: tuple[Tensor, ...]) -> Captured:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        kept = [tensor.clone() for tensor in inputs]
        result = function(*kept)

        def replay() -> None:
            self.replays += 1
            for old, new in zip(result, function(*kept), strict=True):
                old.copy_(new)

        return Captured(replay, result, tuple(kept))


def test_one_capture_for_each_shape_and_results_are_the_callers() -> None:
    graphs = StandIn()
    assert graphs.run("double", doubled, torch.zeros(3))[0].tolist() == [0, 0, 0]
    assert graphs.captures == 0  # the first call is as it is
    first = graphs.run("double", doubled, torch.ones(3))[0]
    second = graphs.run("double", doubled, torch.full((3,), 5.0))[0]
    assert (graphs.captures, graphs.replays) == (1, 2)
    assert first.tolist() == [2, 2, 2]  # the second call did not write over it
    assert second.tolist() == [10, 10, 10]
    twice(graphs, "double", torch.ones(4))
    twice(graphs, "other", torch.ones(4))
    assert graphs.captures == 3


def test_the_graph_not_used_for_longest_goes() -> None:
    graphs = StandIn()
    for size in range(1, KEPT + 1):
        twice(graphs, "double", torch.ones(size))
    graphs.run("double", doubled, torch.ones(1))
    twice(graphs, "double", torch.ones(KEPT + 1))
    assert graphs.captures == KEPT + 1
    graphs.run("double", doubled, torch.ones(1))
    assert graphs.captures == KEPT + 1
    twice(graphs, "double", torch.ones(2))
    assert graphs.captures == KEPT + 2


def test_what_cannot_be_captured_runs_as_it_is() -> None:
    graphs = StandIn(fails=True)
    graphs.run("double", doubled, torch.ones(2))
    with pytest.warns(UserWarning, match="without graphs: the capture failed: operation not permitted"):
        assert graphs.run("double", doubled, torch.ones(2))[0].tolist() == [2, 2]
    assert graphs.run("double", doubled, torch.ones(2))[0].tolist() == [2, 2]
    assert graphs.why_not is not None


def test_the_reason_without_graphs() -> None:
    assert "not on mps" in str(Graphs(torch.device("mps")).why_not)
    assert "not asked for" in str(Graphs(torch.device("cuda"), wanted=False).why_not)


def assert_same_answers(found: SPNetOutput, expected: SPNetOutput) -> None:
    """Bit for bit."""
    for a, b in zip(
        [*found.poses, *(x for y in found.action_logits for x in y)],
        [*expected.poses, *(x for y in expected.action_logits for x in y)],
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_recordings_give_the_answers_of_plain_calls(dtype: torch.dtype, backend: str) -> None:
    model = SPNet(CONFIG).eval()
    recorded, plain = deploy(model, dtype=dtype), deploy(model, dtype=dtype, graph=False)
    with ops.use_backend(backend):
        for seed, shape in enumerate([(2, 3, 64, 64), (1, 4, 3, 64, 64), (2, 3, 64, 64), (2, 4, 3, 32, 64)] * 2):
            torch.manual_seed(seed)
            frames = torch.rand(shape) * 2 - 1
            assert_same_answers(recorded(frames), plain(frames))
    assert recorded.graphs.why_not is None
    assert [captured is not None for captured in recorded.graphs._captured.values()] == [True] * 3


def test_a_recording_is_of_one_backend_and_one_instruction_set() -> None:
    model, frames = SPNet(CONFIG).eval(), torch.rand(1, 3, 32, 32)
    recorded, plain = deploy(model), deploy(model, graph=False)
    for backend in ("cpu", "eager", "cpu", "eager"):
        with ops.use_backend(backend):
            assert_same_answers(recorded(frames), plain(frames))
    assert len(recorded.graphs._captured) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_graphs_give_the_answers_of_plain_calls(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = SPNet(CONFIG).eval()
    graphed = deploy(model, dtype=dtype, device="cuda")
    plain = deploy(model, dtype=dtype, device="cuda", graph=False)
    for shape in [(2, 3, 64, 64), (1, 4, 3, 64, 64), (2, 3, 64, 64), (2, 4, 3, 32, 64)] * 2:
        frames = torch.rand(shape, device="cuda") * 2 - 1
        assert_same_answers(graphed(frames), plain(frames))
        assert graphed.graphs.why_not is None
    assert len(graphed.graphs._captured) == 3
