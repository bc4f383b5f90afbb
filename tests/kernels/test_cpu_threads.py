"""Parallel loops, csrc/cpu_threads.cpp: in the OpenMP runtime that PyTorch brought, and by threads of our own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[2] / "csrc" / "cpu_threads.cpp"
# A loop that says by which thread each index was done. A range waits, for ten seconds at most, until `meet` of them are
# under way. With `nested` it is a loop itself, whose threads are said.
DRIVER = """
#include <chrono>

namespace {
std::atomic<int> names{0};
thread_local const int name = ++names;

struct Call {
    int *done_by, *times;
    int meet;
    bool nested;
    std::atomic<int> under_way{0};
};

void note(void* context, std::int64_t begin, std::int64_t end) {
    Call& call = *static_cast<Call*>(context);
    ++call.under_way;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (call.under_way < call.meet && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    for (std::int64_t i = begin; i < end; ++i) {
        ++call.times[i];
        if (!call.nested) {
            call.done_by[i] = name;
            continue;
        }
        int done_by[8], times[8] = {};
        Call inner{done_by, times, 0, false};
        pyhar::run_ranges(8, 1, 4, note, &inner);
        call.done_by[i] = name;
        for (int by : done_by) call.done_by[i] = by == name ? call.done_by[i] : -1;
    }
}
}

extern "C" int loop(long count, long grain, int threads, int meet, int nested, int* done_by, int* times) {
    Call call{done_by, times, meet, nested != 0};
    pyhar::run_ranges(count, grain, threads, note, &call);
    return call.under_way;
}

extern "C" int shares() { return pyhar::shares_threads(); }
"""


# As if the process had no OpenMP runtime.
WITHOUT_OPENMP = "#include <dlfcn.h>\n#define dlsym(place, name) static_cast<void*>(nullptr)\n"


def compiled(folder: Path, before: str) -> ctypes.CDLL:
    if os.name != "posix" or shutil.which("g++") is None:
        pytest.skip("needs a POSIX system with g++")
    (folder / "driver.cpp").write_text(f'{before}#include "{SOURCE}"\n{DRIVER}')
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", f"-I{SOURCE.parent}"]
    subprocess.run(["g++", *flags, folder / "driver.cpp", "-o", folder / "driver.so"], check=True)
    return ctypes.CDLL(str(folder / "driver.so"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compiled(tmp_path_factory.mktemp("own"), WITHOUT_OPENMP)
    assert not library.shares()
    return library


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this PyTorch was built without OpenMP")
    library = compiled(tmp_path_factory.mktemp("shared"), "")
    assert library.shares()
    return library


@pytest.fixture(params=["own", "shared"])
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return request.getfixturevalue(request.param)


def loop(library: ctypes.CDLL, count: int, grain: int, threads: int, meet: int = 0, nested: int = 0) -> list[int]:
    """Which thread did each index; every one was done once."""
    done_by, times = (ctypes.c_int * count)(), (ctypes.c_int * count)()
    ranges = library.loop(ctypes.c_long(count), ctypes.c_long(grain), threads, meet, nested, done_by, times)
    assert list(times) == [1] * count
    assert ranges == -(-count // grain)
    return list(done_by)


@pytest.mark.parametrize(("count", "grain"), [(0, 1), (1, 1), (7, 2), (8, 1), (100, 9), (1000, 1)])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_index_is_done_once(library: ctypes.CDLL, count: int, grain: int, threads: int) -> None:
    for _ in range(20):
        assert len(set(loop(library, count, grain, threads))) <= threads


def test_ranges_run_at_the_same_time(library: ctypes.CDLL) -> None:
    """None goes on before all have begun, each in a thread of its own."""
    assert len(set(loop(library, 4, 1, 4, meet=4))) == 4


def test_threads_have_the_same_range_every_time(library: ctypes.CDLL) -> None:
    first = loop(library, 40, 10, 4)
    assert all(loop(library, 40, 10, 4) == first for _ in range(50))


def test_fewer_threads_serve_after_more_did(library: ctypes.CDLL) -> None:
    loop(library, 64, 1, 8)
    assert len(set(loop(library, 4, 1, 2))) <= 2


def test_a_loop_within_a_loop_stays_in_its_thread(library: ctypes.CDLL) -> None:
    for _ in range(20):
        assert -1 not in loop(library, 8, 1, 4, nested=1)


def test_several_threads_may_begin_loops(library: ctypes.CDLL) -> None:
    """Of threads of our own one caller has the team; the loops of the others are done by themselves."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(200):
                loop(library, 16, 1, 4)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not failures
    assert not any(caller.is_alive() for caller in callers)


def test_a_forked_process_has_threads_of_its_own(own: ctypes.CDLL) -> None:
    loop(own, 4, 1, 4, meet=4)
    child = os.fork()
    if child == 0:  # its threads are gone: who waited for them would wait for ever
        signal.alarm(20)
        try:
            os._exit(0 if len(set(loop(own, 4, 1, 4, meet=4))) == 4 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
