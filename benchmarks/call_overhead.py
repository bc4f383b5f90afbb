"""What does a call cost before any work is done? A kernel that only allocates its result, behind every kind of door.

`python -m benchmarks.call_overhead` measures the ways to make a function an operator with a gradient, and pyhar's
`soft_argmax` by backend, on a tensor of 1x4x8x8, and writes benchmarks/results/<device>/call_overhead.json. On a GPU
the times are the program's, not the device's; on a CPU one thread is used, since waiting for a second one is no part of
a call's cost.

Calls are timed one after the other, and each by itself after `SWEEP` bytes have been read, as a network's layers would
between two calls of an operator: then the interpreter's code and data have to come back into the caches first.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import describe, results_folder, write_json
from benchmarks.measure import Runnable, Stopwatch, interleave, quantiles
from benchmarks.report import duration
from pyhar import cli, ops
from pyhar.errors import UserError
from pyhar.ops import dispatch, native_calls

Call = Callable[[Tensor], Tensor]
KINDS = ("no_grad", "forward", "forward_and_backward", "no_grad_after_work", "forward_and_backward_after_work")
SWEEP = 1 << 23  # bytes
SHAPE = (1, 4, 8, 8)


def kernel(x: Tensor) -> Tensor:
    """The forward: allocate a result."""
    return x.new_empty(x.shape[0], x.shape[1], 2)


def kernel_backward(g: Tensor, x: Tensor) -> Tensor:
    """The backward: allocate a gradient."""
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


class Direct(torch.autograd.Function):
    """A function with a context around a direct call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return kernel(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return kernel_backward(g, *ctx.saved_tensors)


@functools.cache
def doors() -> dict[str, Call]:
    """Return the ways to call the kernel; all but "direct" have a gradient."""
    library = torch.library.Library("pyhar_call_overhead", "FRAGMENT")
    for name in ("plain", "registered"):
        library.define(f"{name}(Tensor x) -> Tensor")
        library.define(f"{name}_backward(Tensor g, Tensor x) -> Tensor")
        library.impl(name, kernel, "CompositeExplicitAutograd")
        library.impl(f"{name}_backward", kernel_backward, "CompositeExplicitAutograd")
    _kept.append(library)  # its operators go when it does
    operators = torch.ops.pyhar_call_overhead
    plain, plain_backward = operators.plain.default, operators.plain_backward.default
    registered, registered_backward = operators.registered.default, operators.registered_backward.default
    torch.library.register_autograd(
        "pyhar_call_overhead::registered",
        lambda ctx, g: registered_backward(g, *ctx.saved_tensors),
        setup_context=_save,
        lib=library,
    )
    custom = torch.library.custom_op("pyhar_call_overhead::custom", kernel, mutates_args=())
    custom_backward = torch.library.custom_op("pyhar_call_overhead::custom_backward", kernel_backward, mutates_args=())
    custom.register_autograd(lambda ctx, g: custom_backward(g, *ctx.saved_tensors), setup_context=_save)

    class WithSetup(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return plain(x)

        setup_context = staticmethod(_save)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return plain_backward(g, *ctx.saved_tensors)

    class WithContext(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return plain(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return plain_backward(g, *ctx.saved_tensors)

    return {
        "direct": kernel,
        "custom_op": custom,
        "Library op, register_autograd": registered,
        "Function with setup_context around a Library op": WithSetup.apply,
        "Function with ctx around a Library op": WithContext.apply,
        "Function with ctx around a direct call": Direct.apply,
    }


_kept: list[torch.library.Library] = []


def backends(device: torch.device) -> tuple[dict[str, Call], dict[str, str]]:
    """Return pyhar's `soft_argmax` by backend, and for the backends that cannot serve it here the reason."""
    usable: dict[str, Call] = {"pyhar soft_argmax, any backend": ops.soft_argmax}
    missing: dict[str, str] = {}
    for name, reason in ops.available_backends().items():
        if name == "triton" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
            reason = "Triton's interpreter is on"
        if reason is None:
            call = functools.partial(ops.soft_argmax, backend=name)
            try:
                call(torch.randn(SHAPE, device=device))
            except UserError as error:
                reason = str(error)
            else:
                usable[f"pyhar soft_argmax, {name}"] = call
                if name == "cpu" and native_calls.why_missing() is None:
                    usable["pyhar soft_argmax, cpu through Python"] = through_python
        if reason is not None:
            missing[f"pyhar soft_argmax, {name}"] = reason
    return usable, missing


def through_python(logits: Tensor) -> Tensor:
    """Call `soft_argmax` as where pyhar._autograd is missing, save that its arguments are not checked."""
    xy: Tensor = dispatch.run("soft_argmax", "cpu", logits, 1.0, "corners")
    return xy


def measure(device: torch.device, seconds: float, calls: int = 200) -> dict[str, dict[str, dict[str, float]]]:
    """Return way -> kind of call -> quantiles of the microseconds of one call, over samples of `calls` calls."""
    leaf = torch.randn(SHAPE, device=device, requires_grad=True)
    values = leaf.detach()
    upstream = torch.ones(SHAPE[0], SHAPE[1], 2, device=device)
    work = torch.ones(SWEEP // 4)  # it is the program's caches that matter, wherever the device is
    runnables: dict[tuple[str, str], Runnable] = {}
    for name, call in (doors() | backends(device)[0]).items():

        def no_grad(call: Call = call) -> object:
            return call(values)

        def forward(call: Call = call) -> object:
            return call(leaf)

        def forward_and_backward(call: Call = call) -> object:
            return torch.autograd.grad(call(leaf), leaf, upstream)

        # "direct" has no gradient.
        for kind, run in (("no_grad", no_grad), ("forward", forward), ("forward_and_backward", forward_and_backward)):
            if kind == "no_grad" or call is not kernel:
                runnables[name, kind] = Runnable(functools.partial(_repeat, run, calls))
                if kind != "forward":
                    runnables[name, f"{kind}_after_work"] = Runnable(functools.partial(_repeat, run, 1), work.sum)
    found = interleave(Stopwatch(device, program_only=True), runnables, seconds, most=100)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (name, kind), samples in found.items():
        of_sample = 1 if kind.endswith("after_work") else calls
        median, q1, q3, least = (round(1e6 * v / of_sample, 3) for v in quantiles([s.host for s in samples]))
        results.setdefault(name, {})[kind] = {"median_us": median, "q1_us": q1, "q3_us": q3, "min_us": least}
    return results


def _repeat(run: Callable[[], object], calls: int, _: object) -> None:
    for _ in range(calls):
        run()


def show(results: dict[str, dict[str, dict[str, float]]], missing: dict[str, str]) -> None:
    """Print the table: medians, the least in brackets."""
    table = Table(title="time of one call: median (least)", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("way", *(kind.replace("_", " ") for kind in KINDS)):
        table.add_column(name)
    for name, kinds in results.items():
        values = [
            f"{duration(kinds[kind]['median_us'])} ({duration(kinds[kind]['min_us'])})" if kind in kinds else ""
            for kind in KINDS
        ]
        table.add_row(name, *values)
    console = Console(highlight=False, width=None if Console().is_terminal else 150)
    console.print(table)
    for name, reason in missing.items():
        console.print(f"{name}: {reason}", markup=False)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.call_overhead", description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="default: cuda where there is one")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to spend (default: 10)")
    parser.add_argument("--calls", type=int, default=200, help="calls in each sample (default: 200)")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: benchmarks/results/<device>)")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device: PyTorch finds no CUDA device; use --device cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    results, (_, missing) = measure(device, options.seconds, options.calls), backends(device)
    show(results, missing)
    path = (options.out or results_folder(device)) / "call_overhead.json"
    about = {"shape": list(SHAPE), "unit": "microseconds of one call", "missing": missing, "calls": results}
    write_json(path, describe(device) | about)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
