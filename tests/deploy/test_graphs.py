"""CUDA graphs: bookkeeping with a stand-in for the capture, and the real thing where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyhar.deploy import deploy
from pyhar.deploy.graphs import KEPT, Captured, Graphs
from pyhar.models import SPNet, SPNetConfig

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

        return Captured(replay, kept, result)


def test_one_capture_for_each_shape_and_results_are_the_callers() -> None:
    graphs = StandIn()
    first = graphs.run("double", doubled, torch.ones(3))[0]
    second = graphs.run("double", doubled, torch.full((3,), 5.0))[0]
    assert (graphs.captures, graphs.replays) == (1, 2)
    assert first.tolist() == [2, 2, 2]  # the second call did not write over it
    assert second.tolist() == [10, 10, 10]
    graphs.run("double", doubled, torch.ones(4))
    graphs.run("other", doubled, torch.ones(4))
    assert graphs.captures == 3


def test_the_graph_not_used_for_longest_goes() -> None:
    graphs = StandIn()
    for size in range(1, KEPT + 1):
        graphs.run("double", doubled, torch.ones(size))
    graphs.run("double", doubled, torch.ones(1))
    graphs.run("double", doubled, torch.ones(KEPT + 1))
    assert graphs.captures == KEPT + 1
    graphs.run("double", doubled, torch.ones(1))
    assert graphs.captures == KEPT + 1
    graphs.run("double", doubled, torch.ones(2))
    assert graphs.captures == KEPT + 2


def test_what_cannot_be_captured_runs_as_it_is() -> None:
    graphs = StandIn(fails=True)
    with pytest.warns(UserWarning, match="without CUDA graphs: the capture failed: operation not permitted"):
        assert graphs.run("double", doubled, torch.ones(2))[0].tolist() == [2, 2]
    assert graphs.run("double", doubled, torch.ones(2))[0].tolist() == [2, 2]
    assert graphs.why_not is not None


def test_the_reason_without_graphs() -> None:
    assert "need a CUDA device" in str(deploy(SPNet(CONFIG)).graphs.why_not)
    assert "not asked for" in str(Graphs(torch.device("cuda"), wanted=False).why_not)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_graphs_give_the_answers_of_plain_calls(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = SPNet(CONFIG).eval()
    graphed = deploy(model, dtype=dtype, device="cuda")
    plain = deploy(model, dtype=dtype, device="cuda", cuda_graph=False)
    for shape in [(2, 3, 64, 64), (1, 4, 3, 64, 64), (2, 3, 64, 64), (2, 4, 3, 32, 64)]:
        frames = torch.rand(shape, device="cuda") * 2 - 1
        found, expected = graphed(frames), plain(frames)
        assert graphed.graphs.why_not is None
        for a, b in zip(
            [*found.poses, *(x for y in found.action_logits for x in y)],
            [*expected.poses, *(x for y in expected.action_logits for x in y)],
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert len(graphed.graphs._captured) == 3
