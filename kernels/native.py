"""The native module `pyhar._native` (built from csrc/), or the reason it is missing."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch  # noqa: F401  its wheel carries the OpenMP runtime that the module then shares

from pyhar import __version__

REMEDY = "with a C++17 compiler at hand, install pyhar again (`pip install -v -e .` in a clone shows the build)"


@functools.cache
def _find() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("pyhar._native")
    except ModuleNotFoundError:
        return None, f"it was not built when pyhar was installed; {REMEDY}"
    except ImportError as error:
        return None, f"it was built but does not load ({error}); {REMEDY}"
    built = module.build_info()["version"]
    if built != __version__:
        return None, f"it was built from pyhar {built} and this is {__version__}; {REMEDY}"
    return module, None


def load() -> ModuleType | None:
    """Return the native module, or None where it is missing; `why_missing()` then says why."""
    return _find()[0]


def why_missing() -> str | None:
    """Return why `load()` gives None and what to do about it, or None where the module is there."""
    return _find()[1]
