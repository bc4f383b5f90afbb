"""The gate before any time is taken: values and gradients of an implementation against float64 on the same input."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import Case, Inputs
from benchmarks.implementations import Implementation, output_names, reference

# Errors are relative to the largest magnitude of the output or gradient. The half types: one unit in the last place,
# which a value rounded once from float32 keeps.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: torch.finfo(torch.bfloat16).eps,
    torch.float16: torch.finfo(torch.float16).eps,
}
# Plain PyTorch loses more in half types, rounding after each step. It is what the others are compared with, so it is
# only asked to be the same function.
PLAIN_FACTOR = 8


class Verdict(NamedTuple):
    """The output or gradient that is worst for its tolerance, its error and that tolerance."""

    worst: str
    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the implementation may be timed."""
        return self.error <= self.tolerance

    @property
    def reason(self) -> str:
        """What is wrong, in words."""
        return f"{self.worst} is off by {self.error:.1e} of its largest value; {self.tolerance:.1e} is allowed"


class Gate:
    """Compares implementations of one case with its definition in float64. Judge "plain" first, where it takes part."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        self.case, self.inputs = case, inputs
        self._names = output_names(case)
        self._references: dict[str, dict[str, Tensor]] = {}  # grid -> output or gradient -> its value
        self._upstream: list[Tensor] = []
        self._plain: dict[str, float] = {}

    def judge(self, implementation: Implementation) -> Verdict:
        """Run forward and backward once and compare. What the implementation raises passes through."""
        outputs, gradients = self.run(implementation)
        found = self._named(outputs, gradients)
        true = self._reference(implementation.grid)
        errors = {name: relative_error(value, true[name]) for name, value in found.items()}
        if implementation.name == "plain":
            self._plain = errors
        limits = {name: self._tolerance(implementation, name, value.dtype) for name, value in found.items()}
        worst = max(errors, key=lambda name: errors[name] / limits[name])
        return Verdict(worst, errors[worst], limits[worst])

    def run(self, implementation: Implementation) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return outputs and gradients for the upstream gradients that every implementation gets."""
        leaves = self.inputs.leaves()
        outputs = implementation.function(leaves)
        return outputs, torch.autograd.grad(outputs, leaves.tensors(), self.upstream(outputs))

    def upstream(self, outputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Return upstream gradients like `outputs`: the same numbers for every implementation, exact in any type."""
        if not self._upstream:
            generator = torch.Generator(outputs[0].device).manual_seed(1)
            for output in outputs:
                noise = torch.randn(output.shape, generator=generator, device=output.device)
                # Many channels of features add up: scaled so that no output's gradient drowns the others'.
                scale = 2.0 ** -round(math.log2(output.shape[-1]) / 2) if output.dim() == 3 else 1.0
                self._upstream.append((noise * 16).round() / 16 * scale)
        # Laid out like the output, as what follows in a network would hand it back.
        return [torch.empty_like(o).copy_(g) for o, g in zip(outputs, self._upstream, strict=True)]

    def _named(self, outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
        inputs = [name for name, tensor in zip(Inputs._fields, self.inputs, strict=True) if tensor is not None]
        named = dict(zip(self._names, outputs, strict=True))
        return named | {f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True)}

    def _reference(self, grid: str) -> dict[str, Tensor]:
        if grid not in self._references:
            leaves = self.inputs.double()
            outputs = reference(self.case, grid, leaves)
            gradients = torch.autograd.grad(outputs, leaves.tensors(), self.upstream(outputs))
            self._references[grid] = self._named(tuple(o.detach() for o in outputs), gradients)
        return self._references[grid]

    def _tolerance(self, implementation: Implementation, name: str, dtype: torch.dtype) -> float:
        limit = TOLERANCES[dtype]
        if implementation.is_pyhar or getattr(torch, self.case.dtype).itemsize > 2:
            return limit
        if implementation.name == "plain":
            return PLAIN_FACTOR * limit
        return max(limit, 2 * self._plain.get(name, 0.0))


def relative_error(found: Tensor, true: Tensor, floor: float = torch.finfo(torch.float64).tiny) -> float:
    """Return the largest difference over the largest magnitude, which `floor` is taken for where it is smaller.

    Infinity where shapes differ or a number is missing.
    """
    if found.shape != true.shape:
        return math.inf
    if found.numel() == 0:
        return 0.0
    difference = (found.detach().double() - true).abs().max().item()
    error = difference / max(true.abs().max().item(), floor)
    return math.inf if math.isnan(error) else error
