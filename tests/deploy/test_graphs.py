"""Graphs: bookkeeping with a stand-in for the capture, recordings on the CPU, CUDA graphs where there is a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
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


def twice(graphs: Graphs, name: str, x: Tensor, function: Callable[[Tensor], list[Tensor]] = doubled) -> None:
    """What captures, if nothing is kept."""
    for _ in range(2):
        graphs.run(name, function, x)


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


def test_a_device_without_graphs_runs_as_it_is() -> None:
    """A network is moved; what was said of its first device does not hold for the next."""
    graphs = Graphs(torch.device("cpu"))
    on_meta = torch.ones(3, device="meta")
    for _ in range(3):
        assert graphs.run("double", doubled, on_meta)[0].device.type == "meta"
    assert not graphs._captured


class FakeCuda:
    """Writes down what is asked of `torch.cuda`."""

    def __init__(self) -> None:
        self.captures: list[dict[str, Any]] = []
        self.pools = 0
        self.now: Any = SimpleNamespace(wait_stream=lambda other: None)

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    def graph(self, graph: Any, **options: Any) -> Any:
        self.captures.append(options | {"device": self.device_now})
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def device(self, device: Any) -> Any:
        self.device_now = device
        yield
        self.device_now = None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in ("graph_pool_handle", "graph", "device"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: fake.now)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    return fake


class OnGpu:
    """As much of a tensor on the second GPU as `Graphs` looks at."""

    device, shape, dtype = torch.device("cuda", 1), torch.Size((3,)), torch.float32

    def stride(self) -> tuple[int, ...]:
        return (1,)

    def copy_(self, other: Any) -> OnGpu:
        return self


def test_captures_share_memory_on_their_network_s_gpu_beside_other_threads(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty_like", lambda tensor: tensor)
    graphs, x = Graphs(torch.device("cuda")), OnGpu()
    for name in ("one", "two"):
        twice(graphs, name, x, lambda x: [])  # type: ignore[arg-type]
    first, second = cuda.captures
    assert first == second
    assert first["device"] == x.device
    assert first["capture_error_mode"] == "thread_local"
    assert first["stream"] is not None
    graphs.clear()  # PyTorch refuses memory whose graphs are all gone
    twice(graphs, "one", x, lambda x: [])  # type: ignore[arg-type]
    assert cuda.captures[-1]["pool"] != first["pool"]


def test_a_stream_waits_for_the_one_before_it(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty_like", lambda tensor: tensor)
    graphs, x = Graphs(torch.device("cuda")), OnGpu()
    waits: list[tuple[str, str]] = []

    def stream(name: str) -> Any:
        return SimpleNamespace(
            name=name, wait_stream=lambda other: waits.append((name, getattr(other, "name", "aside")))
        )

    one, other = stream("one"), stream("other")
    cuda.now = one
    twice(graphs, "double", x, lambda x: [])  # type: ignore[arg-type]
    waits.clear()
    for cuda.now in (one, other, other, one):
        graphs.run("double", lambda x: [], x)  # type: ignore[arg-type]
    assert waits == [("other", "one"), ("one", "other")]


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_graphs_are_captured_anew_after_other_weights_and_on_another_device() -> None:
    model = SPNet(CONFIG).eval()
    network, frames = deploy(model, device="cpu"), torch.rand(1, 3, 32, 32) * 2 - 1
    for device in ("cpu", "cuda", "cpu", "cuda"):
        network = network.to(device)
        plain = deploy(model, device=device, graph=False)
        for _ in range(3):
            assert_same_answers(network(frames.to(device)), plain(frames.to(device)))
        network.load_state_dict(plain.state_dict())
        for _ in range(3):
            assert_same_answers(network(frames.to(device)), plain(frames.to(device)))
        assert network.graphs.why_not is None
        assert len(network.graphs._captured) == 1
