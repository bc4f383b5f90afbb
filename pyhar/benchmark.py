"""`python -m pyhar.benchmark`: how fast networks run here, plain, compiled and deployed, and where the time goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pyhar import cli
from pyhar.errors import UserError, reason
from pyhar.files import check_folder

if TYPE_CHECKING:
    from pyhar.benchmarking.run import Row
    from pyhar.evaluation.results import Evaluation


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure frames per second and latency of networks in plain PyTorch, with torch.compile, and deployed.

    All take turns in one run; answers are compared with the plain float32 network's before any speed is shown. Of a
    stream, deployed networks compute the pose part of each new frame once, and the action part over the clip that it
    ends; the others compute that clip anew. Beside the times stand their shares of what this machine can do, measured
    in the same run: of the rate of matrix products in the type, and of the time that the convolutions need at least at
    the rates of products and of copies. Writes benchmark.json, benchmark.csv and, of an evaluated run cut after each
    pyramid, its accuracy against speed.
    """

    networks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NETWORK ...]")] = (
        "penn-release",
    )
    """Presets, with random weights, run directories or model files."""
    cuts: Literal["none", "pyramids"] = "none"
    """Measure the whole network, or cut after each pyramid."""
    dtype: tuple[Literal["float32", "bfloat16", "float16", "int8"], ...] = ("float32",)
    """Types to compute in; float32 is without TF32. Beside int8 stands the deployed network in its maps' type."""
    input: tuple[Literal["image", "images", "clip", "stream"], ...] = ("image", "images", "clip", "stream")
    """One still; 16 stills; one clip, of which actions are recognised too; a new frame of a stream, likewise."""
    compile: Literal["no", "default", "max-autotune"] = "no"
    """Also measure torch.compile, in this mode, with both memory layouts. Takes minutes and a C++ compiler."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """What to compute on."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Threads on a CPU; without it, PyTorch's choice."""
    seconds: Annotated[float, tyro.conf.arg(metavar="S")] = 5.0
    """Take turns for so long, at least five rounds, for each network, cut, type and input."""
    parts: bool = True
    """Also measure where the time goes."""
    mediapipe: Annotated[Path | None, tyro.conf.arg(metavar="PYTHON")] = None
    """Also measure MediaPipe's pose, in this interpreter, which has mediapipe 0.10.14 installed."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("speeds")
    """Where the results go."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line and measure; 1 if an answer of the deployed network was wrong, else 0."""
    rows = run(tyro.cli(BenchmarkConfig, prog="pyhar benchmark", args=argv))
    from pyhar.benchmarking.contenders import OURS

    return int(any(row.implementation.startswith(OURS) and not row.right for row in rows))


def run(config: BenchmarkConfig) -> list[Row]:
    """Measure, print and write. Raises UserError for what the user can mend."""
    import torch

    from pyhar.benchmarking import ceilings, mediapipe_pose, report
    from pyhar.benchmarking.run import Case, Plan, prepare
    from pyhar.benchmarking.run import run as measure
    from pyhar.deploy import choose_dtype
    from pyhar.devices import choose_device, why_no_compiler
    from pyhar.memory import keep_large_blocks

    if config.threads is not None and config.threads < 1:
        raise UserError(f"--threads must be at least 1, not {config.threads}")
    if not config.seconds > 0:  # nor NaN
        raise UserError(f"--seconds must be more than 0, not {config.seconds:g}")
    for option, values in (("--dtype", config.dtype), ("--input", config.input)):
        if not values:
            raise UserError(f"{option}: name at least one")
    device = choose_device(config.device)
    dtypes = [choose_dtype(name, device) for name in config.dtype]
    reason = why_no_compiler("--compile") if config.compile != "no" and device.type == "cpu" else None
    if reason is not None:
        raise UserError(reason)
    if config.mediapipe is not None:
        mediapipe_pose.check(config.mediapipe)
    check_folder(config.output)
    keep_large_blocks()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    plan = Plan(config.networks, config.cuts, dtypes, config.input, config.compile, config.seconds, config.parts)
    subjects = prepare(plan, device)
    evaluations = _evaluations(config.networks) if config.cuts == "pyramids" else {}
    about = report.machine(device)
    rates = ceilings.measure(dtypes, device)
    report.show_ceilings(about, rates)
    cases: list[Case] = []
    rows: list[Row] = []
    for case, found in measure(plan, subjects, rates):
        report.show(case, found)
        cases.append(case)
        rows += found
        report.save(config.output, about, rates, cases, rows)  # after each case: a long run may be stopped
    if config.mediapipe is not None:
        size = subjects[0].model.config.image_size
        peer = mediapipe_pose.measure(config.mediapipe, size, torch.get_num_threads(), config.seconds)
        about["mediapipe"] = peer
        report.save(config.output, about, rates, cases, rows)
        print(
            f"MediaPipe {peer['version']}: {peer['frames_per_second']:.1f} frames/s, "
            f"median {peer['median_ms']:.1f} ms, "
            f"95 % below {peer['p95_ms']:.1f} ms; a person found in {peer['person_found']:.0%} of the frames"
        )
    print(f"results: {config.output / 'benchmark.json'}")
    drawn: list[str] = []
    for name, evaluation in evaluations.items():
        stem = Path(name).resolve().name
        drawn.append(stem)
        if drawn.count(stem) > 1:  # runs of one name in several folders
            stem += f"-{drawn.count(stem)}"
        for dtype in config.dtype:
            picture = config.output / f"{stem}-{dtype}.svg"
            chosen = [row for row in rows if (row.network, row.dtype) == (name, dtype)]
            if report.accuracy_against_speed(picture, evaluation, chosen):
                print(f"accuracy against speed: {picture}")
    return rows


def _evaluations(networks: Sequence[str]) -> dict[str, Evaluation]:
    """By name, what is known of the networks that are evaluated runs."""
    from pyhar.evaluation.results import Evaluation

    found = {}
    for name in networks:
        path = Path(name) / "evaluation.json"
        if path.is_file():
            try:
                found[name] = Evaluation.from_json(path.read_text(encoding="utf-8"))
            except ValueError as error:  # of ours, or of other text than UTF-8
                raise UserError(f"{path}: {reason(error)}") from error
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main))
