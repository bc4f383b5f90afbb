"""The error a user can mend, and the messages that several parts of the package share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake the user can mend: the message names the thing and the remedy. Command lines print it without a
    traceback."""


def reason(error: BaseException, most: int = 200) -> str:
    """What another library says is wrong, for a message of our own: on one line, and no longer than `most`. Some quote
    the whole of what they could not read, or say nothing."""
    return shortened(" ".join(str(error).split()) or type(error).__name__, most)


def shortened(text: str, most: int = 200) -> str:
    """The text, or its beginning."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(value: Any) -> str:
    """A value for a message: its repr, with the inner parts of what is long or deep left out."""
    return shortened(_SHORT.repr(value))


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for an unknown `name` of some `kind` ("preset", "grid", ...): it names the nearest of `choices`
    and lists all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {shortened(name)!r}{hint} (known: {shortened(', '.join(known), 1000)})")
