"""What a benchmark found: tables in the terminal, JSON, CSV, and accuracy against speed as a picture."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyhar.benchmarking.ceilings import Ceilings
from pyhar.benchmarking.contenders import OURS
from pyhar.benchmarking.networks import IMAGES
from pyhar.benchmarking.run import Case, Row
from pyhar.evaluation.results import CutScores, Evaluation
from pyhar.files import atomic, write_text
from pyhar.info import collect
from pyhar.kernels.cpu_entry import instruction_set


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on, and when."""
    about = collect()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else about["cpu"]["name"],
        "threads": torch.get_num_threads(),
        "simd": about["cpu"]["simd"],
        "instruction_set": instruction_set(),
        "versions": about["versions"],
        "system": about["system"],
        "backends": [name for name, why in about["backends"].items() if why is None],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def save(folder: Path, about: dict[str, Any], rates: Ceilings, cases: Sequence[Case], rows: Sequence[Row]) -> None:
    """Write benchmark.json and benchmark.csv to `folder`."""
    plain = [dataclasses.asdict(row) for row in rows]
    content = {
        "machine": about,
        "ceilings": dataclasses.asdict(rates),
        "rows": plain,
        "cases": [dataclasses.asdict(case) for case in cases],
    }
    write_text(folder / "benchmark.json", json.dumps(_rounded(content), indent=1, allow_nan=False) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rounded(plain))
    write_text(folder / "benchmark.csv", text.getvalue())


def show_ceilings(about: dict[str, Any], rates: Ceilings) -> None:
    """Print what the machine can do."""
    products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {name}" for name, rate in rates.operations.items())
    print(f"{about['device']}, {about['threads']} threads: {products}; copies {rates.bandwidth / 1e9:,.1f} GB/s")


def show(case: Case, rows: Sequence[Row]) -> None:
    """Print one case as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    given = f"{case.input} of {rows[0].frames} frames, {case.gigaoperations:.2f} GFLOP"
    if case.input == "stream":
        given = f"a new frame of a stream, {case.gigaoperations:.2f} GFLOP"
    if case.clip_gigaoperations is not None:
        given += f" (its clip anew {case.clip_gigaoperations:.2f})"
    title = f"{case.network}, {case.pyramids} pyramids, {case.dtype}, {given}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in (
        "",
        "frames/s",
        "median ms",
        "quartiles",
        "95 % below",
        "of products",
        "of bound",
        "error",
        "speedup",
    ):
        table.add_column(column, justify="left" if not column else "right", no_wrap=bool(column))
    for row in rows:
        if row.median_ms is None or row.frames_per_second is None:
            table.add_row(row.implementation, *[""] * 6, f"{row.error:.1e}", "WRONG")
            continue
        table.add_row(
            row.implementation,
            f"{row.frames_per_second:.1f}",
            f"{row.median_ms:.2f}",
            f"{row.q1_ms:.2f}-{row.q3_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.share_of_rate:.0%}",
            f"{row.share_of_bound:.0%}",
            f"{row.error:.1e}",
            "" if row.speedup is None else f"{row.speedup:.2f}x",
        )
    console.print(table, "")
    if case.parts_ms:
        parts = Table(title="milliseconds by part", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for column in ("", *case.parts_ms):
            parts.add_column(column, justify="left" if not column else "right")
        for part in dict.fromkeys(part for times in case.parts_ms.values() for part in times):
            parts.add_row(part, *(f"{times.get(part, 0.0):.2f}" for times in case.parts_ms.values()))
        console.print(parts, "")


def accuracy_against_speed(path: Path, evaluation: Evaluation, rows: Sequence[Row]) -> bool:
    """Draw the evaluation's cuts (Fig. 9) at the speeds of the deployed network measured here, as SVG.

    `rows`: of one network and type, cut after every pyramid. Returns whether there was anything to draw.
    """
    from pyhar.evaluation import plots

    speeds = {(row.pyramids, row.input): row for row in rows if row.implementation == OURS and row.right}

    def fps(pyramid: int, given: str, actions: bool) -> float | None:
        row = speeds.get((pyramid, given))
        return row.frames_per_second if row is not None and row.actions == actions else None

    cuts: list[CutScores] = [
        dataclasses.replace(cut, pose_fps=fps(cut.pyramid, "images", False), action_fps=fps(cut.pyramid, "clip", True))
        for cut in evaluation.cuts
    ]
    if not any(cut.pose_fps or cut.action_fps for cut in cuts):
        return False
    with plots.style(), atomic(path) as temporary:
        figure = plots.speed(cuts, dataclasses.replace(evaluation, pose_batch=IMAGES))
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    return True


def _rounded(value: Any) -> Any:
    """Floats to six digits; infinities, of errors, as None."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) != float("inf") else None
    return value
