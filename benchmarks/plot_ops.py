"""Pictures of what `benchmarks.ops` measured, and the README's table of it: `python -m benchmarks.plot_ops`.

For each benchmarks/results/<device>/ops.json it draws ops-<suite>.svg beside it, and it writes the table between the
markers `<!-- ops table -->` and `<!-- /ops table -->` of README.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.cases import PASSES, SUITES, Case
from benchmarks.machine import RESULTS, read_json
from benchmarks.readme import README, put_table
from benchmarks.report import by_case, by_implementation, duration, kernels, ratio
from pyhar import cli
from pyhar.evaluation.plots import BLUE, GREEN, GREY, INK, ORANGE, RED, SOFT, new_figure, style
from pyhar.files import atomic

COLOURS = {
    "plain": SOFT,
    "compile": "#c9a227",
    "kornia": "#a0522d",
    "dsntnn": "#6b4fa0",
    "pyhar eager": GREY,
    "pyhar cpu": BLUE,
    "pyhar triton": ORANGE,
    "pyhar nvrtc": "#27a3a3",
    "pyhar cuda": GREEN,
}


def find(results: Path = RESULTS) -> dict[Path, dict[str, Any]]:
    """Return the content of every ops.json below a folder of results, by its path."""
    return {path: read_json(path) for path in sorted(results.glob("*/ops.json"))}


def table(contents: Sequence[dict[str, Any]]) -> str:
    """Return the README's table, in Markdown: the acceptance suite on each device, and the other suites in a line each.

    Of pyhar's backends it shows the fastest over both passes; eager only where no kernel served the case.
    """
    lines = [
        "| device | operator | backend | forward | backward | both | kept a plane | plain PyTorch keeps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for content in contents:
        for suite, run in content["suites"].items():
            if suite == "acceptance":
                lines += _lines(run)
            else:
                notes += _summary(suite, run)
        notes += _conditions(content)
    return "\n".join([*lines, "", *notes])


def _lines(run: dict[str, Any]) -> Iterator[str]:
    threads = f", {run['threads']} threads" if run["device"]["type"] == "cpu" else ""
    for case, rows in by_case(run["rows"]).items():
        found = by_implementation(rows)
        names = [*kernels(rows), *(["pyhar eager"] if "pyhar eager" in found else [])]
        if not names:
            continue
        passes = found[names[0]]
        cells = [run["device"]["name"] + threads, _label(case, code=True), names[0].removeprefix("pyhar ")]
        for name in PASSES:
            row = passes[name]
            cells.append(duration(row["median_us"]) + (f" (**{ratio(row['speedup'])}**)" if "speedup" in row else ""))
        cells.append(_kept(passes))
        cells.append(_kept(found["plain"]) if "plain" in found else "")
        yield f"| {' | '.join(cells)} |"


def _kept(passes: dict[str, Any]) -> str:
    return f"{passes['both']['saved_bytes_per_plane']:,.0f} B"


def _summary(suite: str, run: dict[str, Any]) -> Iterator[str]:
    """One line: the gain over both passes in the cases of a suite."""
    gains = []
    for rows in by_case(run["rows"]).values():
        found, names = by_implementation(rows), kernels(rows)
        if names and "speedup" in found[names[0]]["both"]:
            gains.append(found[names[0]]["both"]["speedup"])
    if gains:
        middle, low, high = ratio(statistics.median(gains)), ratio(min(gains)), ratio(max(gains))
        cases = f"{len(gains)} case{'s' if len(gains) > 1 else ''}"
        yield f"{run['device']['name']}, suite {suite}: {middle} over both passes (median of {cases}; {low} to {high})."
        yield ""


def _conditions(content: dict[str, Any]) -> Iterator[str]:
    runs = content["suites"]
    if "acceptance" in runs:
        run = runs["acceptance"]
        samples = [row["samples"] for row in run["rows"] if "samples" in row]
        if samples:
            yield (
                f"{run['device']['name']}: PyTorch {run['versions']['torch']}, {run['date'][:10]}, medians of "
                f"{min(samples)} samples or more; in brackets, how many times faster than the better of plain PyTorch "
                "and `torch.compile` of it."
            )
            yield ""


def draw(suite: str, run: dict[str, Any]) -> Figure:
    """Gain over the better baseline of every implementation in every case: medians with quartiles, a panel per pass."""
    cases = by_case(run["rows"])
    figure = new_figure(11, max(0.26 * len(cases) + 1.5, 2.8))
    panels = figure.subplots(1, len(PASSES), sharey=True, squeeze=False)[0]
    shown: dict[str, Any] = {}
    for axes, name in zip(panels, PASSES, strict=True):
        middles = [1.0]
        for height, rows in enumerate(cases.values()):
            for implementation, passes in by_implementation(rows).items():
                row = passes[name]
                if "speedup" not in row:
                    continue
                low, middle, high = row["speedup_q1"], row["speedup"], row["speedup_q3"]
                middles.append(middle)
                colour = COLOURS.get(implementation, RED)
                axes.plot([low, high], [height, height], color=colour, lw=1.6, alpha=0.6, zorder=2)
                (shown[implementation],) = axes.plot(
                    middle, height, "o", color=colour, ms=6, mec="white", mew=0.6, zorder=3, label=implementation
                )
        axes.axvline(1, color=INK, lw=1, ls="--", zorder=1)
        axes.set_xscale("log")
        axes.set_xlim(min(middles) / 1.4, max(middles) * 1.4)  # quartiles of a disturbed run may leave the picture
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}×")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name)
    panels[0].set_yticks(range(len(cases)), [_label(case) for case in cases], fontsize=8)
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    panels[1].set_xlabel("times faster than the better of plain PyTorch and torch.compile")
    order = [name for name in COLOURS if name in shown]
    figure.legend([shown[n] for n in order], order, loc="outside lower center", ncols=max(len(order), 1), fontsize=9)
    return figure


def _label(case: Case, code: bool = False) -> str:
    """A case as a label; `code`: for the README's table, where all are float32 and contiguous."""
    b, j, y, x, c = case.shape
    operator = (
        f"`{case.operator}`" if code else case.operator.replace("decode_pose_and_appearance", "pose and appearance")
    )
    label = f"{operator} {b}×{j}×{y}×{x}" + (f", C = {c}" if c else "")
    label += f", σ = {case.sigma:g}" if case.sigma else ""
    if code:
        return label + (" with depth" if case.depth else "")
    return label + "".join(f", {what}" for what in (case.dtype, case.layout) if what not in ("float32", "contiguous"))


def main(argv: list[str] | None = None) -> int:
    """Draw the pictures and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot_ops", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the devices' folders")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    parser.add_argument("--print", action="store_true", help="print the table and write nothing")
    options = parser.parse_args(argv)
    contents = find(options.results)
    text = table(list(contents.values()))
    if options.print:
        print(text)
        return 0
    for path, content in contents.items():
        for suite in SUITES:
            if suite in content["suites"]:
                target = path.parent / f"ops-{suite}.svg"
                with style(), atomic(target) as temporary:
                    draw(suite, content["suites"][suite]).savefig(temporary, format="svg", metadata={"Date": None})
                print(target)
    put_table(options.readme, "ops", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
