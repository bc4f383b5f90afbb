"""The README's table of the whole network's speed: `python -m benchmarks.network_table`.

It is made of the files that `pyhar benchmark` and the benchmarks `streaming`, `live`, `export` and `training` left in
benchmarks/results/<device>/, and put between the markers `<!-- network table -->` and `<!-- /network table -->`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, read_json
from benchmarks.readme import README, put_table
from benchmarks.report import ratio
from pyhar import cli


def table(folders: Sequence[Path]) -> str:
    """Return, in Markdown, what the results in `folders`, one a device, say; what has no file is left out."""
    lines = [line for part in (_streaming, _live, _exports, _training) for folder in folders for line in part(folder)]
    return "\n".join([*_clips(folders), *lines])


def _clips(folders: Sequence[Path]) -> Iterator[str]:
    lines = []
    for folder, dtype in itertools.product(folders, ("float32", "bfloat16")):
        content = read_json(folder / f"network-{dtype}.json")
        rows = {
            row["implementation"]: row for row in content.get("rows", ()) if row["right"] and row["input"] == "clip"
        }
        compiled = [row for name, row in rows.items() if name.startswith("torch.compile")]
        if "pyhar" not in rows or not compiled:
            continue
        ours, best = rows["pyhar"], min(compiled, key=lambda row: row["median_ms"])
        plain = rows["PyTorch"]
        lines.append(
            f"| {_machine(content)} | {dtype} | {_cell(plain)} "
            f"| {_cell(best)}{', max-autotune' if 'max-autotune' in best['implementation'] else ''} | {_cell(ours)} "
            f"| **{ratio(ours['speedup'])}** | {ours['share_of_rate']:.0%} |"
        )
    if lines:
        yield "One clip of 8 frames of 256x256 through the release's Penn network (`penn-release`), median:"
        yield ""
        yield (
            "| device | type | PyTorch | `torch.compile`, best layout | pyhar | times as fast as compiled "
            "| share of the matrix product's rate |"
        )
        yield "|---|---|---|---|---|---|---|"
        yield from lines
        yield ""
        yield "The share counts operations as the network defines them; Winograd's 3x3 convolutions need fewer."
        yield ""


def _cell(row: dict[str, Any]) -> str:
    return f"{row['median_ms']:.0f} ms, {row['frames_per_second']:.1f} frames/s"


def _machine(content: dict[str, Any]) -> str:
    about = content["machine"]
    return f"{about['device']}, {about['threads']} threads"


def _streaming(folder: Path) -> Iterator[str]:
    content = read_json(folder / "streaming.json")
    for preset, cases in _by_preset(content.get("cases", ())).items():
        times = [f"{case['median_ms']:.3g} ms ({case['what']})" for case in cases]
        where = f"{content['device']['name']}, streaming, `{preset}`, float32"
        yield f"- {where}: a new frame takes, cropping included, {', '.join(times)}."


def _live(folder: Path) -> Iterator[str]:
    content = read_json(folder / "live.json")
    speeds: dict[str, dict[str, dict[str, float]]] = {}  # model -> type -> way -> frames/s
    for case in content.get("cases", ()):
        ways = speeds.setdefault(case["model"], {}).setdefault(case["dtype"], {})
        ways[case["way"]] = case["frames_per_second"]
    for model, by_type in speeds.items():
        found = [f"{ways['file']:.1f} and {ways['file, drawn']:.1f} ({dtype})" for dtype, ways in by_type.items()]
        size = f"{content['video']['width']}x{content['video']['height']}"
        yield (
            f"- {content['device']['name']}, `pyhar predict --stream` on a real video of {size}, decoding included, "
            f"`{model}`: frames/s without and with the drawn video written {', '.join(found)}."
        )


def _exports(folder: Path) -> Iterator[str]:
    for preset, content in read_json(folder / "export.json").items():
        times = [
            f"{run['median_ms']:.3g} ms ({name})"
            for name, run in content["runs"].items()
            if name != "network" and "median_ms" in run
        ]
        yield f"- {content['device']['name']}, one clip in float32, `{preset}`, exported: {', '.join(times)}."


def _by_preset(cases: Any) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        found.setdefault(case["preset"], []).append(case)
    return found


def _training(folder: Path) -> Iterator[str]:
    content = read_json(folder / "training.json")
    for preset, found in content.get("presets", {}).items():
        gains = [
            f"{ratio(result['both']['speedup'])} ({name})"
            for name, result in found.items()
            if name.startswith("pyhar") and result["status"] == "ok"
        ]
        where = f"{content['device']['name']}, a training step of the joint stage, `{preset}`"
        yield f"- {where}, beside plain PyTorch in float32: {', '.join(gains)}."


def main(argv: list[str] | None = None) -> int:
    """Write the table, or print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_table", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", help="folders of devices (default: all)")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    parser.add_argument("--print", action="store_true", help="print the table and write nothing")
    options = parser.parse_args(argv)
    text = table(options.results or sorted(path for path in RESULTS.iterdir() if path.is_dir()))
    if options.print:
        print(text)
        return 0
    put_table(options.readme, "network", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
