"""The console command `pyhar SUBCOMMAND ...`, and what all command lines do with errors.

Each subcommand is the module `pyhar.<subcommand>` with a function `main(argv) -> exit status`; `python -m pyhar.train`
is the same as `pyhar train`. A subcommand's module is imported only when it is called for.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from pyhar import __version__
from pyhar.errors import UserError, unknown_name
from pyhar.files import NO_ROOM

# An idle OpenMP thread spins for work for milliseconds before it sleeps, and so starves what shares the cores with it:
# processes that load data, threads that decode and draw video. One that sleeps at once wakes too late. This is some ten
# microseconds, about what lies between two operations. Read when PyTorch is first imported, which this module precedes
# on every command line.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

SUBCOMMANDS = {
    "train": "train a network in stages, by default on the embedded data, and evaluate it",
    "evaluate": "measure a trained network block by block and write a report with pictures",
    "predict": "find poses and actions in pictures, videos or a camera's stream",
    "convert": "turn the authors' Keras weights into a model file",
    "export": "write a trained network as ONNX, a torch.export program or an AOTInductor package",
    "prepare": "read a data set on disk once, check it, and write its index",
    "benchmark": "measure how fast networks run, plain, compiled and deployed",
    "info": "show versions, devices, usable operator backends and presets",
}


def run(main: Callable[[list[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a subcommand's `main(argv)` (None: the process's own arguments) and return the exit status.

    A mistake the user can mend, a file that cannot be read or written included, is printed as one line `error: ...`
    and gives 2. An interrupt gives 130, SIGTERM 143 and a reader that went away (`pyhar info | head`) 141, as a shell
    would say. Anything else is a fault of the program and keeps its traceback.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)  # so that half-written files are removed
    try:
        status = main(None if argv is None else list(argv))
        sys.stdout.flush()
        return status
    except UserError as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # as rich's tables tell of it
            return 141
        raise
    except OSError as error:
        if error.filename is None:
            if error.errno not in NO_ROOM:
                raise
            return _complain(f"a file cannot be written: {error.strerror}")
        return _complain(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def main(argv: list[str] | None = None) -> int:
    """Read the subcommand, the first word of `argv`, and hand it the rest."""
    words = sys.argv[1:] if argv is None else argv
    if not words:
        print(usage(), file=sys.stderr)
        return 2
    name, rest = words[0], words[1:]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"pyhar {__version__}")
        return 0
    if name not in SUBCOMMANDS:
        raise unknown_name("subcommand", name, SUBCOMMANDS)
    status: int = importlib.import_module(f"pyhar.{name}").main(rest)
    return status


def usage() -> str:
    """Return the text of `pyhar --help`."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: pyhar SUBCOMMAND [options]",
            "       pyhar SUBCOMMAND --help",
            "       pyhar --version",
            "",
            "3D human pose estimation and action recognition with one network.",
            "",
            "subcommands:",
            *lines,
        ]
    )


def console() -> int:
    """The console command's entry point."""
    return run(main)


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
