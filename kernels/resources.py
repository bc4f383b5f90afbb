"""What a compiled GPU kernel takes of the machine."""

from __future__ import annotations

from typing import NamedTuple


class Resources(NamedTuple):
    """Registers and memory of one kernel variant on one architecture."""

    backend: str
    kernel: str
    variant: str
    arch: str
    registers: int
    shared_bytes: int
    spill_bytes: int
