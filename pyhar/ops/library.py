"""How a compiled function becomes an operator of `torch.library`, and the second derivative of one.

Operators are made with `Library.define` and `impl`; a call with plain tensors does not go through them, but through an
`autograd.Function` around the launchers, or without Python at all (`pyhar.ops.native_calls`). By
`benchmarks/call_overhead.py` (forward and backward of a kernel that does nothing, one thread of an AMD EPYC):
`torch.library.custom_op` 65 us, `Library` with `register_autograd` 50 us, an `autograd.Function` with `setup_context`
around the operator 57 us, without it 35 us, around the launchers 28 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_autograd, register_fake, register_vmap

from pyhar.ops.dispatch import are_plain, is_traced

_library = Library("pyhar", "DEF")


def define(
    name: str,
    schema: str,
    function: Callable[..., Any],
    allocate: Callable[..., Any],
    save: Callable[..., None],
    differentiate: Callable[..., Any],
) -> Callable[..., Any]:
    """Define the operator `pyhar::<name>` with this schema and return what calls it.

    `function` computes it, whatever the device; `allocate` gives outputs as `function` does, not filled; `save` and
    `differentiate` are those of an autograd function with a separate `setup_context`. Outputs that are not wanted may
    be None; the operator of `torch.library`, which knows no such output, gives an empty tensor of one dimension.
    """
    _library.define(name + schema)
    _library.impl(name, lambda *args: _filled(args, function(*args)), "CompositeExplicitAutograd")
    overload = getattr(torch.ops.pyhar, name).default
    register_fake(overload, lambda *args: _filled(args, allocate(*args)), lib=_library)
    register_autograd(overload, differentiate, setup_context=save, lib=_library)
    register_vmap(overload, lambda info, dims, *args: _fold(overload, info.batch_size, dims, args), lib=_library)

    class Direct(torch.autograd.Function):
        """The operator for plain tensors: the dispatcher's way through `register_autograd` takes twice the time."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = function(*args)
            save(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor | None) -> Any:
            return differentiate(ctx, *upstream)

    # Not through the class: what it does first is for function transforms, which are not active where this is called.
    apply = super(torch.autograd.Function, Direct).apply

    class Transformed(torch.autograd.Function):
        """The operator for `torch.func.grad` and its kin, which do not see what `register_autograd` was given."""

        @staticmethod
        def forward(*args: Any) -> Any:
            return overload(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor | None) -> Any:
            return differentiate(ctx, *upstream)

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], *args: Any) -> Any:
            return _fold(lambda *folded: _filled(folded, call(*folded)), info.batch_size, dims, args)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return overload(*args)
        if torch._C._are_functorch_transforms_active():
            return Transformed.apply(*args)
        if is_traced() or not are_plain(args):  # traced, or fake
            return overload(*args)
        if forward_ad._current_level >= 0 and any(isinstance(a, Tensor) and _has_tangent(a) for a in args):
            raise NotImplementedError(
                f"pyhar::{name} has no forward-mode derivative; call its operator with backend='eager'"
            )
        if torch.is_grad_enabled():
            for value in args:
                if isinstance(value, Tensor) and value.requires_grad:
                    return apply(*args)
        return function(*args)

    return call


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def _filled(args: tuple[Any, ...], outputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(args[0].new_empty(0) if value is None else value for value in outputs)


def _fold(
    overload: Callable[..., tuple[Tensor, ...]], size: int, dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Run an operator over a dimension of vmap by making it part of the batch, which every tensor has in front."""

    def fold(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor) or (dim is None and value.dim() == 1):  # a place that holds nothing
            return value
        batched = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return batched.flatten(0, 1)

    outputs = overload(*(fold(value, dim) for value, dim in zip(args, dims, strict=True)))
    batch = args[0].shape[1 if dims[0] == 0 else 0]  # the same for all; not from the outputs, whose size may be 0
    unfolded = tuple(value if value.dim() == 1 else value.unflatten(0, (size, batch)) for value in outputs)
    return unfolded, tuple(None if value.dim() == 1 else 0 for value in outputs)


def second_order(
    function: Callable[..., tuple[Tensor | None, ...]],
    inputs: Sequence[Tensor | None],
    upstream: Sequence[Tensor | None],
    needs: Sequence[bool],
    second: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Differentiate the gradient of a function.

    Args:
        function: inputs -> outputs.
        inputs, upstream: its arguments, and the gradients of its outputs, None where nothing flows.
        needs: for which of the inputs the gradient was taken.
        second: upstream gradients of those gradients.

    Returns:
        The gradients of all inputs, then of all upstream gradients, None where there is none.
    """
    places = [i for i, value in enumerate((*inputs, *upstream)) if value is not None]
    values = [value for value in (*inputs, *upstream) if value is not None]
    targets = [i for i, needed in enumerate(needs) if needed]

    def first_order(*values: Tensor) -> tuple[Tensor, ...]:
        full: list[Tensor | None] = [None] * (len(inputs) + len(upstream))
        for place, value in zip(places, values, strict=True):
            full[place] = value
        arguments, gradients = full[: len(inputs)], full[len(inputs) :]

        def outputs(*moved: Tensor) -> tuple[Tensor, ...]:
            for place, value in zip(targets, moved, strict=True):
                arguments[place] = value
            found = function(*arguments)
            return tuple(o for o, g in zip(found, gradients, strict=True) if o is not None and g is not None)

        _, pull = _vjp(outputs, *(cast(Tensor, arguments[place]) for place in targets))
        return pull(tuple(g for g in gradients if g is not None))

    taken, pull = _vjp(first_order, *values)
    flowing = [second[place] for place in targets]
    grads = pull(tuple(torch.zeros_like(t) if g is None else g for t, g in zip(taken, flowing, strict=True)))
    result: list[Tensor | None] = [None] * (len(inputs) + len(upstream))
    for place, grad in zip(places, grads, strict=True):
        result[place] = grad
    return result


def _vjp(function: Callable[..., Any], *arguments: Tensor) -> tuple[Any, Callable[..., Any]]:
    result = torch.func.vjp(function, *arguments)
    return result[0], result[1]
