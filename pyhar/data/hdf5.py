"""Data sets of HDF5 files that others wrote: what is read is no larger than what the file can hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DAMAGED = (OSError, KeyError, AttributeError, RuntimeError, TypeError, ValueError, IndexError, OverflowError)
"""What h5py raises where bytes of a file are lost, and what fields of another kind than expected lead to."""

_ALWAYS = 1 << 20
"""So many bytes are read whatever the file holds of them: an empty matrix may be filled with zeros."""
MOST_DEFLATED = 1032
"""Times as large as its compressed form is what deflate gives back at most."""


def check_extent(dataset: Any, item_size: int) -> None:
    """Raise ValueError if a data set (h5py's low-level identifier) of items of so many bytes claims more of them than
    the file can hold: a few damaged bytes would fill the memory."""
    claimed = math.prod(dataset.shape or ()) * item_size
    if claimed > _ALWAYS and claimed > MOST_DEFLATED * dataset.get_storage_size():
        raise ValueError(f"a data set of {claimed} bytes, of which the file holds {dataset.get_storage_size()}")


def read_array(dataset: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """All values of h5py's data set. Raises TypeError if it is something else or empty, or ValueError as `check_extent`
    does."""
    if getattr(dataset, "shape", None) is None:
        raise TypeError(f"{getattr(dataset, 'name', 'an item')} holds no values")
    check_extent(dataset.id, dataset.dtype.itemsize)
    return np.asarray(dataset[()], dtype=dtype)
