"""NAME=VALUE words of a command line as options of the types that a function asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pyhar.errors import UserError

_UNIONS = (UnionType, Union)  # Python 3.10 makes the latter of an option whose default is None
_CALLED = {bool: "true or false", int: "a whole number", float: "a number"}


def read_options(words: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options that NAME=VALUE words give, by name; kinds: their types. Those of no known name stay text.

    A value is written as in JSON, text without quotes; lists may go without brackets, as in subjects=1,5. Raises
    UserError for a word of another form and for a value of another type.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise UserError(f"--set takes NAME=VALUE, not {word!r}")
        name = name.replace("-", "_")
        options[name] = _value(name, text, kinds[name]) if name in kinds else text
    return options


def _value(name: str, text: str, kind: Any) -> Any:
    meant: list[Any] = []
    for written in (text, text.lower(), f"[{text}]"):  # The second is for True, as Python writes it.
        with suppress(ValueError):
            meant.append(json.loads(written))
    meant.append(text)
    if not text.startswith("["):
        meant.append([part.strip() for part in text.split(",")])
    for value in meant:
        if _fits(value, kind):
            return value
    raise UserError(f"--set {name}: expected {_called(kind)}, not {text!r}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in _UNIONS:
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) in (Sequence, Iterable):
        return isinstance(value, list) and all(_fits(one, get_args(kind)[0]) for one in value)
    if kind in (bool, NoneType):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool) and math.isfinite(value)
    # Names and files: which names there are, the function itself says.
    return isinstance(value, str)


def _called(kind: Any) -> str:
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) in _UNIONS:
        return " or ".join(map(_called, parts))
    if get_origin(kind) in (Sequence, Iterable):
        return "a list of numbers" if parts[0] in (int, float) else "a list of names"
    return _CALLED.get(kind, "a name")
