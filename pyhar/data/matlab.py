"""MATLAB files of every version as plain Python values.

One form for what MATLAB nests at will, whichever version of the format it was saved in:

* a struct, scalar or array, is a list of dictionaries (an empty one is an empty list);
* a cell array is a list, in MATLAB's order (down the columns);
* text is `str`; a matrix of characters is a list of `str`;
* numbers and logicals are arrays with MATLAB's shape, at least two dimensions.

Versions 4 to 7.2 are read with SciPy, version 7.3, which is HDF5, with h5py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyhar.data.hdf5 import check_extent
from pyhar.errors import UserError, reason

_DEEPEST = 32
"""Structs and cells lie within one another less often than this; damaged references may lead in a circle."""


def load(path: str | os.PathLike[str], names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The variables of a .mat file by name, in the form said above; names: only these, where there are any.

    Raises UserError if there is no such file or it cannot be read to its end.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        return _load_hdf5(file, names) if _is_hdf5(file) else _load_classic(file, names)
    except UserError:
        raise
    except Exception as error:  # A damaged file raises nearly anything: zlib.error, TypeError, OSError, ...
        raise UserError(
            f"{file}: not a MATLAB file, or damaged ({type(error).__name__}: {reason(error)}); fetch it again"
        ) from error


def struct(value: Any) -> list[dict[str, Any]]:
    """The elements of a struct array; of anything else (MATLAB's `[]` for "none") an empty list.

    A cell array of structs counts as one: SciPy writes struct arrays so that it read in its squeezed form.
    """
    if isinstance(value, dict):
        return [value]
    return [element for item in value for element in struct(item)] if isinstance(value, list) else []


def one(value: Any) -> dict[str, Any]:
    """The first element of a struct array, or an empty dictionary."""
    return next(iter(struct(value)), {})


def number(value: Any) -> float:
    """The first number in `value`, text that says a number included; NaN if there is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return float("nan")
    if isinstance(value, int) and abs(value) >= 2**1023:  # beyond floats: such lists say it in JSON
        return float("nan")
    if isinstance(value, np.ndarray):
        return float(value.flat[0].real) if value.size and value.dtype.kind in "biufc" else float("nan")
    if isinstance(value, list):
        return number(value[0]) if value else float("nan")
    return float(value) if isinstance(value, int | float) else float("nan")


def text(value: Any) -> str:
    """The first text in `value`; empty if there is none."""
    if isinstance(value, str):
        return value.strip()
    return text(value[0]) if isinstance(value, list) and value else ""


def matrix(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as float64 with MATLAB's shape; (0, 0) if `value` holds none."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.astype(np.float64)
    return np.zeros((0, 0))


def _is_hdf5(file: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(file))


def _load_classic(file: Path, names: tuple[str, ...] | None) -> dict[str, Any]:
    from scipy.io import loadmat

    variables = loadmat(file, variable_names=names, chars_as_strings=True, squeeze_me=False, struct_as_record=True)
    return {name: _classic(value) for name, value in variables.items() if not name.startswith("__")}


def _classic(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names is not None:
        return [{n: _classic(item[n]) for n in value.dtype.names} for item in value.ravel(order="F")]
    if value.dtype.kind == "O":
        return [_classic(item) for item in value.ravel(order="F")]
    if value.dtype.kind in "US":
        rows = [str(row) for row in value.ravel(order="F")]
        return rows[0] if len(rows) == 1 else rows or ""
    return np.atleast_2d(value)


def _load_hdf5(file: Path, names: tuple[str, ...] | None) -> dict[str, Any]:
    import h5py

    with h5py.File(file, "r") as content:
        chosen = [n for n in content if not n.startswith("#") and (names is None or n in names)]
        read = _Hdf5()
        return {name: read.value(content[name].id) for name in chosen}


class _Hdf5:
    """Reads what MATLAB keeps in HDF5.

    A file of many people has millions of items, each with one number: they are read by HDF5's plain interface, and what
    NumPy makes of a type is worked out but once for each type.
    """

    def __init__(self) -> None:
        import h5py

        self._h5: Any = h5py
        self._types: list[tuple[Any, np.dtype[Any], Any]] = []
        self._depth = 0

    def value(self, item: Any) -> Any:
        """A group or data set, in the form that the module says."""
        if isinstance(item, self._h5.h5g.GroupID):
            return self._struct(item)
        values = self._array(item, whole=True)
        if values.dtype.kind == "f":
            # What is empty has whole numbers in its place.
            return np.atleast_2d(values.T)
        kind = self._attribute(item, b"MATLAB_class", b"")
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if self._attribute(item, b"MATLAB_empty", 0):
            return {"char": "", "struct": [], "cell": []}.get(kind, np.zeros((0, 0)))
        if values.dtype.kind == "O":
            # HDF5 lists the dimensions the other way round, so its rows are MATLAB's columns.
            dereference = self._h5.h5r.dereference
            with self._within():
                return [self.value(dereference(reference, item)) for reference in values.ravel()]
        values = values.T
        if kind == "char":
            rows = ["".join(map(chr, row)) for row in np.atleast_2d(values)]
            return rows[0] if len(rows) == 1 else rows
        return np.atleast_2d(values.astype(np.bool_) if kind == "logical" else values)

    def _struct(self, group: Any) -> list[dict[str, Any]]:
        """A struct array keeps a list of references for each field; a scalar struct keeps the field itself."""
        items = {name.decode(): self._h5.h5o.open(group, name) for name in group}
        with self._within():
            fields = {name: self.value(item) for name, item in items.items()}
        if fields and all(self._of_array(item) for item in items.values()):
            length = len(next(iter(fields.values())))
            return [{name: values[i] for name, values in fields.items()} for i in range(length)]
        return [fields]

    @contextmanager
    def _within(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("an item lies within itself")
        yield
        self._depth -= 1

    def _of_array(self, field: Any) -> bool:
        return (
            isinstance(field, self._h5.h5d.DatasetID)
            and self._type(field)[0].kind == "O"
            and not self._h5.h5a.exists(field, b"MATLAB_class")
        )

    def _attribute(self, item: Any, name: bytes, default: Any) -> Any:
        if not self._h5.h5a.exists(item, name):
            return default
        return self._array(self._h5.h5a.open(item, name))[()]

    def _array(self, item: Any, whole: bool = False) -> np.ndarray[Any, Any]:
        dtype, in_memory = self._type(item)
        if whole:
            check_extent(item, dtype.itemsize)
        values = np.empty(item.shape, dtype)
        if whole:
            item.read(self._h5.h5s.ALL, self._h5.h5s.ALL, values, in_memory)
        else:
            item.read(values, in_memory)
        return values

    def _type(self, item: Any) -> tuple[np.dtype[Any], Any]:
        """NumPy's type for an item's, and HDF5's for that."""
        stored = item.get_type()
        for known, dtype, in_memory in self._types:
            if stored == known:
                return dtype, in_memory
        dtype = item.dtype
        self._types.append((stored, dtype, self._h5.h5t.py_create(dtype)))
        return dtype, self._types[-1][2]
