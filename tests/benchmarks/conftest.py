"""The benchmarks are scripts in the repository's root, not part of the package: make them importable. And a backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pyhar.ops import dispatch, native_calls

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmarks set the number of threads: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    """A function (operator, change) that makes backend "cpu" serve the operator with `change(eager's result)`."""

    def register(operator: str, change: Callable[..., Any]) -> None:
        eager = dispatch._operators[operator]["eager"].function
        implementations = {
            "cpu": dispatch.Implementation(lambda *args: change(eager(*args)), lambda *args: None),
            "eager": dispatch._operators[operator]["eager"],
        }
        monkeypatch.setitem(dispatch._probes, "cpu", lambda: None)
        monkeypatch.setitem(dispatch._operators, operator, implementations)

    with native_calls.set_aside():  # it would not ask the dispatcher
        yield register
