"""The native module built from csrc/; it may be absent. Ask `pyhar.kernels.native.load()` for it."""

from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: str
    openmp: bool

def build_info() -> BuildInfo: ...
def cpu_features() -> list[str]: ...
def max_threads() -> int: ...
