"""What the results of `benchmarks.ops` say: a table for each case, and the lines of the acceptance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.cases import PASSES, Case, Shape

Row = dict[str, Any]
MOST_SAVED = 16  # bytes per plane that a fused operator may keep for its backward


def case_of(row: Row) -> Case:
    """Return the case that a row is about."""
    shape = Shape(*(row[field] for field in Shape._fields))
    return Case(row["operator"], shape, row["dtype"], row["layout"], row["depth"], row.get("sigma", 0.0))


def by_case(rows: Sequence[Row]) -> dict[Case, list[Row]]:
    """Return the rows of each case, in their order."""
    cases: dict[Case, list[Row]] = {}
    for row in rows:
        cases.setdefault(case_of(row), []).append(row)
    return cases


def by_implementation(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return implementation -> pass -> row, for the rows with times."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            found.setdefault(row["implementation"], {})[row["pass"]] = row
    return found


def kernels(rows: Sequence[Row]) -> list[str]:
    """Return pyhar's backends with times in the rows of a case, fastest over both passes first, without its eager."""
    found = by_implementation(rows)
    names = [name for name in found if name.startswith("pyhar ") and name != "pyhar eager"]
    return sorted(names, key=lambda name: found[name]["both"]["median_us"])


def duration(us: float) -> str:
    """A time in microseconds as text with its unit, three digits."""
    if us < 1000:
        return f"{us:.3g} µs"
    return f"{us / 1000:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def ratio(value: float) -> str:
    """A speed-up as text."""
    return f"{value:.2f}×" if value < 9.95 else f"{value:.1f}×"


def show_case(case: Case, rows: Sequence[Row]) -> None:
    """Print the table of one case: time (speed-up over the better baseline) of each pass, and what goes with it."""
    table = Table(title=case.name, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("implementation", *PASSES):
        table.add_column(name, no_wrap=True)
    for name in ("of a copy, f/b", "saved B/plane", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for implementation, passes in by_implementation(rows).items():
        both = passes["both"]
        cells = [
            duration(passes[p]["median_us"]) + (f" ({ratio(passes[p]['speedup'])})" if "speedup" in both else "")
            for p in PASSES
        ]
        shares = [passes[p].get("share_of_copy") for p in PASSES[:2]]
        share = "" if None in shares else "/".join(f"{s:.0%}" for s in shares)
        saved = f"{both['saved_bytes_per_plane']:,.4g}"
        table.add_row(implementation, *cells, share, saved, f"{both['error']:.0e}")
    console = Console(highlight=False, width=None if Console().is_terminal else 150)
    console.print(table)
    for row in rows:
        if row["status"] != "ok":
            console.print(Text(f"{row['implementation']}: {row['status']}: {row['reason']}"))
    console.print()


def verdicts(suite: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield, for each case, what pyhar's backends gain, and whether they keep as little as they should."""
    for case, of_case in by_case(rows).items():
        found = by_implementation(of_case)
        names = kernels(of_case)
        for name in names:
            passes = found[name]
            gains = ", ".join(f"{p} {ratio(passes[p]['speedup'])}" for p in PASSES if "speedup" in passes[p])
            saved = passes["both"]["saved_bytes_per_plane"]
            verdict = "yes" if saved <= MOST_SAVED else "NO"
            keeps = f"keeps {saved:.4g} bytes a plane, at most {MOST_SAVED}: {verdict}"
            yield f"{suite}: {case.name}: {name}: {gains or 'no baseline'}; {keeps}"
        if not names:
            yield f"{suite}: {case.name}: no pyhar kernel was timed"
        for row in of_case:
            if row["status"] in ("wrong", "failed"):
                yield f"{suite}: {case.name}: {row['implementation']} {row['status']}: {row['reason']}"
