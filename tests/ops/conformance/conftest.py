"""One suite for all backends: which there are here, memory full of NaN, and how many cases each passed.

A test that asks for `backend` runs on every backend this machine can run, one that asks for `compiled_backend` on all
but the plain one. Where there is no GPU, Triton runs in its interpreter and "cuda" is the CUDA source compiled for the
host: a test that asks for `shape` gives them its module's SMALL shapes instead of its SHAPES, and of a test with three
parameters or more they meet every pair of choices, not every combination.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# For the helpers beside this file and the CUDA kernels on the host.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "cuda_on_host")]

import host  # noqa: E402
from usable import GPU, LONGER_WAY, SLOW, USABLE, device_of  # noqa: E402

from pyhar.ops import compiled, native_calls  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, names in (("backend", USABLE), ("compiled_backend", [n for n in USABLE if n != "eager"])):
        if fixture not in metafunc.fixturenames:
            continue
        if "shape" not in metafunc.fixturenames:
            metafunc.parametrize(fixture, names, indirect=True)
            continue
        module = metafunc.module
        pairs = [(name, shape) for name in names for shape in (module.SMALL if name in SLOW else module.SHAPES)]
        ids = [f"{name}-{'x'.join(map(str, shape))}" for name, shape in pairs]
        metafunc.parametrize((fixture, "shape"), pairs, ids=ids, indirect=[fixture])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    emulated: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        backend = backend_of(item)
        if item.path.is_relative_to(Path(__file__).parent) and backend in SLOW:
            emulated.setdefault((item.nodeid.partition("[")[0], backend), []).append(item)
    kept = {item for cases in emulated.values() for item in pairs_of(cases)}
    left_out = {item for cases in emulated.values() for item in cases} - kept
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def backend_of(item: pytest.Item) -> str | None:
    """The backend that a test runs on, if it asks for one."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return next((parameters[n] for n in ("backend", "compiled_backend", "unit_backend") if n in parameters), None)


def pairs_of(cases: list[Any]) -> list[Any]:
    """Some of all cases of a test on a backend, which hold every pair of values of its parameters."""
    values: dict[str, list[int]] = {}  # parameter -> its values, by identity
    for case in cases:
        for name, value in case.callspec.params.items():
            if id(value) not in values.setdefault(name, []):
                values[name].append(id(value))
    free = [name for name in values if len(values[name]) > 1]
    if len(free) < 3:
        return cases
    fewest = min(len(values[name]) for name in free)

    def number(case: Any) -> int:
        return sum(values[name].index(id(case.callspec.params[name])) for name in free)

    return [case for case in cases if number(case) % fewest == 0]


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every backend that this machine can run."""
    if request.param == LONGER_WAY:
        with native_calls.set_aside():
            yield "cpu"
        return
    if request.param == "cuda" and not GPU:
        monkeypatch.setitem(compiled.KERNELS, "cuda", host)
        monkeypatch.setattr(host, "order", "warps ahead")  # what a missing barrier would let go wrong, does
    yield request.param


compiled_backend = backend


@pytest.fixture
def is_slow(backend: str) -> bool:
    """Whether the backend is emulated, so that a test had better ask less of it."""
    return backend in SLOW


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors of this test's backend live."""
    names = {"backend", "compiled_backend"} & set(request.fixturenames)
    return device_of(request.getfixturevalue(names.pop())) if names else "cpu"


@pytest.fixture
def make_inputs(make_inputs: Any, device: str) -> Any:
    return functools.partial(make_inputs, device=device)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN, so that what a kernel leaves out, or reads before it is written, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def pytest_runtest_setup(item: pytest.Item) -> None:
    name = backend_of(item)
    if name is not None:
        how = {"triton": " (interpreter)", "cuda": " (on the host)"}.get(name, "") if name in SLOW else ""
        item.user_properties.append(("backend", name + how))
