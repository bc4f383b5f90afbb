"""What only a GPU can show: streams other than the default, CUDA graphs, nothing that waits for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import OPERATORS, call

pytestmark = pytest.mark.gpu


def outputs_and_gradients(operator: str, inputs: Any, backend: str) -> list[torch.Tensor]:
    outputs = call(operator, inputs, backend, confidence="window")
    taken = [getattr(inputs, name) for name in OPERATORS[operator].inputs]
    grads = torch.autograd.grad(list(outputs.values()), taken, [torch.ones_like(o) for o in outputs.values()])
    return [*outputs.values(), *grads]


@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_on_the_current_stream(operator: str, compiled_backend: str, make_inputs: Any, device: str) -> None:
    """The inputs are still being written on another stream when the call is made there."""
    if device != "cuda":
        pytest.skip(f"{compiled_backend} runs on the CPU")
    source = make_inputs(b=8, j=16, c=64, y=64, x=64)
    expected = outputs_and_gradients(operator, source.leaves(), compiled_backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = type(source)(*(torch.full_like(t, float("nan")) for t in source))
        torch.cuda._sleep(20_000_000)
        for target, value in zip(late, source, strict=True):
            target.copy_(value)
        actual = outputs_and_gradients(operator, late.leaves(), compiled_backend)
    stream.synchronize()
    for value, reference in zip(actual, expected, strict=True):
        assert torch.equal(value, reference)


@pytest.mark.parametrize("operator", OPERATORS)
def test_cuda_graph_capture(operator: str, compiled_backend: str, make_inputs: Any, device: str) -> None:
    if device != "cuda":
        pytest.skip(f"{compiled_backend} runs on the CPU")
    static = make_inputs(seed=1).leaves()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are compiled before the capture
        outputs_and_gradients(operator, static, compiled_backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outputs_and_gradients(operator, static, compiled_backend)
    fresh = make_inputs(seed=2)
    with torch.no_grad():
        for target, value in zip(static, fresh, strict=True):
            target.copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    for value, reference in zip(
        captured, outputs_and_gradients(operator, fresh.leaves(), compiled_backend), strict=True
    ):
        assert torch.equal(value, reference)


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_waits_for_the_device(operator: str, compiled_backend: str, make_inputs: Any, device: str) -> None:
    if device != "cuda":
        pytest.skip(f"{compiled_backend} runs on the CPU")
    inputs = make_inputs().leaves()
    outputs_and_gradients(operator, inputs, compiled_backend)
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs_and_gradients(operator, inputs, compiled_backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")
