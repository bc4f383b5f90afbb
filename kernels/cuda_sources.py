"""Where the CUDA sources lie: in the clone of an editable install, else inside the installed package."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def folder() -> Path:
    """Return the folder of the kernels' headers."""
    here = Path(__file__).resolve()
    inside, clone = here.parent / "cuda_source", here.parents[1] / "csrc" / "cuda"
    return inside if inside.is_dir() else clone


@functools.cache
def headers() -> dict[str, str]:
    """Return the text of each header by its name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder().glob("*.cuh"))}


def digest(*more: str) -> str:
    """Return a name for the headers and `more`: another text, another name."""
    texts = [*(text for pair in headers().items() for text in pair), *more]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
