"""The error a user can mend, and the messages that several parts of the package share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend: the message names the thing and the remedy. Command lines print it without a
    traceback."""


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for an unknown `name` of some `kind` ("preset", "grid", ...): it names the nearest of `choices`
    and lists all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
