"""The CUDA backend on a CPU: the contract of `pyhar.kernels`, by the real kernels and plans, run as plain C++.

`stand_in.hpp` says how. Each kernel is compiled when it is first asked for; what was compiled is kept in a folder for
temporary files, under a name made of the source, so that another source is never mistaken for it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyhar.kernels import cuda_sources, cuda_variants
from pyhar.kernels.cuda_calls import calls
from pyhar.kernels.cuda_plan import Launch, Plan
from pyhar.kernels.cuda_variants import Constants

HERE = Path(__file__).resolve().parent
# No jump threading: it copies barriers, and threads would seem to wait at different ones.
FLAGS = ("-std=c++20", "-O1", "-fno-thread-jumps", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-w")
ORDERS = ("ascending", "descending", "shuffled", "warps ahead")
OUTCOMES = {
    1: "a barrier that some threads never reach, or wait at elsewhere",
    2: "a write outside the shared memory that was asked for",
}

# In which order the threads of a block run between barriers; see `stand_in.hpp`.
order = "ascending"
seed = 0


class KernelError(RuntimeError):
    """A kernel did what would be undefined on a device."""


@functools.cache
def why_unusable() -> str | None:
    """Return why this machine cannot compile the kernels for its CPU, or None."""
    if os.name != "posix":
        return "needs a POSIX system"
    if shutil.which("g++") is None:
        return "needs g++ with C++20"
    try:
        _runner()
    except KernelError as error:
        return str(error)
    return None


def why_not(logits: Tensor, features: Tensor | None, depth_logits: Tensor | None, beta: Tensor | None) -> str | None:
    """Return why tensors like these cannot be served, or None."""
    if any(t is not None and t.device.type != "cpu" for t in (logits, features, depth_logits, beta)):
        return "serves tensors on the CPU"
    return None


def compile_library(text: str, *options: str, shared: bool = False) -> ctypes.CDLL:
    """Return the library made of `text`, from the cache if it is there.

    Only with `shared` do other libraries see its symbols: kernels for other sizes have the same names.
    """
    own = [(HERE / name).read_text() for name in ("stand_in.hpp", "runner.cpp")]
    name = cuda_sources.digest(text, *options, *FLAGS, *own)
    cache = Path(tempfile.gettempdir()) / f"pyhar-cuda-on-host-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    library = cache / f"{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            source, made = Path(folder, "source.cpp"), Path(folder, "made.so")
            source.write_text(text)
            includes = [f"-I{HERE}", f"-I{cuda_sources.folder()}"]
            command = ["g++", *FLAGS, *options, *includes, str(source), "-o", str(made)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise KernelError(f"g++ fails: {result.stderr[:2000]}")
            made.replace(library)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL if shared else ctypes.RTLD_LOCAL)


@functools.cache
def _runner() -> Any:
    run = compile_library((HERE / "runner.cpp").read_text(), shared=True).run_kernel
    run.argtypes = (*(ctypes.c_void_p,) * 2, ctypes.c_longlong, *(ctypes.c_int,) * 3, ctypes.c_uint)
    return run


@functools.cache
def _kernel(kernel: cuda_variants.Kernel, constants: Constants | None) -> Any:
    _runner()  # the kernels' libraries use its symbols
    text = '#include "stand_in.hpp"\n' + cuda_variants.source([kernel])
    return compile_library(text, *(constants.options if constants else ()))[kernel.name]


def run_kernel(kernel: Any, parameters: bytes, blocks: int, threads: int, shared_bytes: int) -> None:
    """Run a compiled kernel in the order now set."""
    outcome = _runner()(kernel, parameters, blocks, threads, shared_bytes, ORDERS.index(order), seed)
    if outcome:
        raise KernelError(OUTCOMES.get(outcome, f"the runner fails with {outcome}"))


def _run(exact: bool, plan: Plan, parameters: bytes, device: torch.device) -> None:
    for launch in plan.launches:
        compiled = _kernel(launch.kernel, plan.constants if exact else None)
        try:
            run_kernel(compiled, parameters, launch.blocks, launch.threads, launch.shared_bytes)
        except KernelError as error:
            raise KernelError(f"{launch.kernel.name}: {error}") from error
        launches.append(launch)
        del launches[:-100]


# The last launches, for tests that must know which kernels ran.
launches: list[Launch] = []

# With the kernels compiled ahead, and with those made for the sizes of a call, as at run time.
ahead = calls(functools.partial(_run, False), exact=False)
exact = calls(functools.partial(_run, True), exact=True)

softmax_forward = ahead.softmax_forward
softmax_backward = ahead.softmax_backward
decode_forward = ahead.decode_forward
decode_backward = ahead.decode_backward
