"""Writes MATLAB files in both formats from one description: dictionaries are scalar structs, `Structs` struct arrays,
`Cell` cell arrays, strings text, and anything else numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

EMPTY = np.zeros((0, 0))


@dataclass
class Structs:
    """A struct array. Fields that an element lacks are empty, as MATLAB has it."""

    items: list[dict[str, Any]]

    @property
    def fields(self) -> list[str]:
        return list(dict.fromkeys(field for item in self.items for field in item))


@dataclass
class Cell:
    items: list[Any]
    column: bool = False


def save(path: Path, variables: dict[str, Any], version: str = "5") -> None:
    """Write variables as MATLAB does with -v7 ("5": the format is that of version 5) or -v7.3 ("7.3")."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "5":
        savemat(path, {name: _classic(value) for name, value in variables.items()}, do_compression=True)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        store = _Store(file)
        for name, value in variables.items():
            store.put(file, name, value)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _classic(value: Any) -> Any:
    if isinstance(value, dict):
        return _classic(Structs([value]))
    if isinstance(value, Structs):
        out = np.zeros((1, len(value.items)), dtype=[(field, object) for field in value.fields])
        for i, item in enumerate(value.items):
            for field in value.fields:
                out[0, i][field] = _classic(item.get(field, EMPTY))
        return out
    if isinstance(value, Cell):
        out = np.empty(len(value.items), dtype=object)
        for i, item in enumerate(value.items):
            out[i] = _classic(item)
        return out.reshape(-1, 1) if value.column else out.reshape(1, -1)
    return value if isinstance(value, str) else np.atleast_2d(value)


class _Store:
    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.refs = file.create_group("#refs#")
        self.count = 0

    def reference(self, value: Any) -> Any:
        self.count += 1
        return self.put(self.refs, f"r{self.count}", value).ref

    def put(self, parent: Any, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            item = parent.create_group(name)
            for field, content in value.items():
                self.put(item, field, content)
            return self.mark(item, "struct")
        if isinstance(value, Structs):
            if not value.items:
                return self.empty(parent, name, "struct")
            if len(value.items) == 1:
                return self.put(parent, name, value.items[0])
            item = parent.create_group(name)
            for field in value.fields:
                refs = [[self.reference(element.get(field, EMPTY))] for element in value.items]
                item.create_dataset(field, data=np.array(refs, dtype=h5py.ref_dtype))
            return self.mark(item, "struct")
        if isinstance(value, Cell):
            if not value.items:
                return self.empty(parent, name, "cell")
            refs = np.array([self.reference(item) for item in value.items], dtype=h5py.ref_dtype)
            shape = (1, -1) if value.column else (-1, 1)
            return self.mark(parent.create_dataset(name, data=refs.reshape(shape)), "cell")
        if isinstance(value, str):
            if not value:
                return self.empty(parent, name, "char")
            codes = np.array([[ord(letter)] for letter in value], dtype=np.uint16)
            return self.mark(parent.create_dataset(name, data=codes), "char")
        array = np.atleast_2d(value)
        kind = "logical" if array.dtype == bool else "double" if array.dtype == np.float64 else str(array.dtype)
        if not array.size:
            return self.empty(parent, name, kind)
        array = array.astype(np.uint8) if kind == "logical" else array
        return self.mark(parent.create_dataset(name, data=array.T), kind)

    def empty(self, parent: Any, name: str, kind: str) -> Any:
        item = self.mark(parent.create_dataset(name, data=np.zeros(2, dtype=np.uint64)), kind)
        item.attrs["MATLAB_empty"] = np.uint8(1)
        return item

    @staticmethod
    def mark(item: Any, kind: str) -> Any:
        item.attrs["MATLAB_class"] = np.bytes_(kind)
        return item
