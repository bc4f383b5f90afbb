"""What every test starts from: pyhar installed, fixed seeds, a known number of threads, GPU tests only with a GPU."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from collections import Counter

# As on the command lines (pyhar/cli.py), and for the same reason; read when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
import torch

# Without a GPU, Triton's kernels run in its interpreter; read when Triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# On a GPU convolutions of float32 maps are compared with exact ones, too.
torch.backends.cudnn.allow_tf32 = False


def pytest_configure(config: pytest.Config) -> None:
    if importlib.util.find_spec("pyhar.kernels") is None:
        raise pytest.UsageError(
            "pyhar is not installed for this Python; run `pip install -c constraints.txt -e .` first"
        )
    # A shell's `&` and nohup have it ignored, and so would the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(2, os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device and this machine offers none"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases of the conformance suite each backend had, or why it had none."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            counts.update((value, outcome) for name, value in report.user_properties if name == "backend")
    if not counts:
        return
    from pyhar import ops

    terminalreporter.section("conformance by backend")
    names = dict.fromkeys(name for name, _ in counts)
    for name in names:
        terminalreporter.line(
            f"{name}: " + ", ".join(f"{n} {o}" for (of, o), n in sorted(counts.items()) if of == name)
        )
    for name, reason in ops.available_backends().items():
        if name not in {known.partition(" ")[0] for known in names}:
            terminalreporter.line(f"{name}: {reason or 'none ran'}")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test draws the same numbers, alone or among others."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  for code that uses NumPy's global generator
    torch.manual_seed(0)
