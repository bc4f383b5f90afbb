"""Triton's compilations take minutes: they are started with the tests and done beside those that come first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Half of the cases for each of two processes, about equal in time; together all of them, which a test asserts.
HALVES = (
    "plane-float32 plane-float16-channels_last planes-float32 planes-bfloat16-window streamed-float32 plane-bfloat16"
    " unit-bfloat16-32x32 unit-float16-4x4 unit-float32-16x16",
    "plane-float32-window-beta streamed-float32-window-channels_last streamed-bfloat16 plane-float64"
    " plane-float64-window sliced-float32 probabilities-float16"
    " unit-bfloat16-16x16 unit-float16-odd unit-float32-128x128",
)


class Compilation:
    """The compilation report of the cases, in processes where Triton compiles: here it may interpret."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="triton-")
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = self._folder.name
        command = ["nice", sys.executable, "-m", "pyhar.kernels.triton.compile"]
        self._processes = []
        for number, names in enumerate(HALVES):  # they print into files, since nobody reads before the end
            with self._printed(number).open("w") as out, self._errors(number).open("w") as errors:
                process = subprocess.Popen([*command, *names.split()], env=environment, stdout=out, stderr=errors)
            self._processes.append(process)

    def rows(self) -> list[list[str]]:
        """What was printed, by line and column, when all is compiled."""
        for number, process in enumerate(self._processes):
            assert process.wait() == 0, self._errors(number).read_text()[-4000:]
        printed = "".join(self._printed(number).read_text() for number in range(len(HALVES)))
        return [line.split("\t") for line in printed.splitlines()]

    def end(self) -> None:
        """Stop what is still going on and clean up."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()

    def _printed(self, number: int) -> Path:
        return Path(self._folder.name, f"printed-{number}")

    def _errors(self, number: int) -> Path:
        return Path(self._folder.name, f"errors-{number}")


_STARTED = pytest.StashKey[Compilation]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start, if a test that was asked for wants the report."""
    wanted = any("rows" in getattr(item, "fixturenames", ()) and "triton" in item.nodeid for item in session.items)
    if wanted and not session.config.option.collectonly and importlib.util.find_spec("triton") is not None:
        session.config.stash[_STARTED] = Compilation()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was started."""
    started = config.stash.get(_STARTED, None)
    if started is not None:
        started.end()


@pytest.fixture(scope="session")
def cases() -> list[str]:
    """The names of all cases."""
    return " ".join(HALVES).split()


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> list[list[str]]:
    """The lines of the compilation report."""
    return pytestconfig.stash[_STARTED].rows()
