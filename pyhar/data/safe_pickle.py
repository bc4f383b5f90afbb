"""Reading community files that are pickles without running what a pickle may ask for.

A pickle names functions to call. Here it may name only those that rebuild NumPy arrays, numbers and plain containers;
anything else is refused before it is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyhar.errors import UserError, reason

_ARRAYS = {
    f"{core}.{name}"
    for core in ("numpy.core", "numpy._core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_ALLOWED = _ARRAYS | {
    "numpy.ndarray",
    "numpy.dtype",
    "collections.OrderedDict",
    "_codecs.encode",
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray")),
}
_CORE = "numpy._core" if int(np.__version__.partition(".")[0]) >= 2 else "numpy.core"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")
        # NumPy 2 renamed its inside: files of either version are read under either.
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = f"{_CORE}.{module.rpartition('.')[2]}"
        return super().find_class(module, name)


def _load(stream: BinaryIO, what: str) -> Any:
    try:
        # Files written by Python 2 hold byte strings: latin1 is what NumPy's arrays in them need.
        return _Unpickler(stream, encoding="latin1").load()
    except Exception as error:  # Damaged bytes lead to nearly any, MemoryError and struct.error among them.
        raise UserError(f"{what} cannot be read ({reason(error)}): get it again from where it came") from error


def load_pickle(path: Path) -> Any:
    """The arrays, numbers, strings and containers of a pickle. Raises UserError if it is missing, damaged, or holds
    anything that is not data."""
    try:
        with path.open("rb") as stream:
            return _load(stream, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def load_object_array(path: Path, name: str) -> Any:
    """What the object array `name` of shape () in an .npz file holds, e.g. a dictionary of arrays.

    Raises UserError if the file is missing or damaged, has no such array, or the array holds anything that is not data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
            if name not in members:
                raise UserError(f"{path} has no {name!r}, only {', '.join(members) or 'nothing'}: is it another file?")
            data = archive.read(f"{name}.npy")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    # RuntimeError: encrypted, or compressed in a way that is not known.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): get it again from where it came") from error
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(stream)
    except ValueError as error:
        raise UserError(f"{name!r} in {path} cannot be read ({reason(error)}): get the file again") from error
    if not kind.hasobject or shape != ():
        raise UserError(f"{name!r} in {path} should hold one object, not {kind} of shape {shape}: is it another file?")
    return np.asarray(_load(stream, f"{name!r} in {path}"), dtype=object)[()]
