"""Tables of results in README.md, each between its markers: `<!-- NAME table -->` and `<!-- /NAME table -->`."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.machine import ROOT
from pyhar.errors import UserError
from pyhar.files import write_text

README = ROOT / "README.md"


def markers(name: str) -> tuple[str, str]:
    """The lines before and after a table."""
    return f"<!-- {name} table -->", f"<!-- /{name} table -->"


def put_table(readme: Path, name: str, table: str) -> None:
    """Write the table between its markers in `readme`, in place of what is there. Raises UserError if they are not."""
    begin, end = markers(name)
    before = readme.read_text(encoding="utf-8")
    if begin not in before or end not in before:
        raise UserError(f"{readme} has no lines {begin} and {end} to put the table between")
    text = f"{begin}\n{table.strip()}\n{end}"
    write_text(readme, re.sub(f"{begin}.*?{end}", lambda _: text, before, flags=re.DOTALL))
    print(readme)
