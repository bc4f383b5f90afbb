"""What do the GPU kernels take of the machine: registers, shared memory, spills? No GPU is needed.

    python -m benchmarks.compilation

Compiles every Triton kernel, every CUDA kernel that is compiled ahead (by nvcc, where there is one) and a selection of
those compiled at run time (by NVRTC), for sm_80, sm_90 and sm_100, and writes one row for each to
`results/compilation.csv`, with the compilers' versions in `results/compilation.json`. Exit status 1 if any spills.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import RESULTS, write_csv
from pyhar import cli
from pyhar.errors import UserError
from pyhar.files import write_text
from pyhar.info import versions
from pyhar.kernels import cuda_report, cuda_variants
from pyhar.kernels.resources import Resources

# Of the kernels that NVRTC compiles, without a shape's constants.
AT_RUN_TIME = ("plane_forward", "plane_backward")


def rows() -> Iterator[Resources]:
    """Yield a row for every kernel, variant and architecture."""
    from pyhar.kernels.triton import compile as triton_compile

    yield from triton_compile.report()
    if cuda_report.find_nvcc() is not None:
        for storage in cuda_variants.STORAGES:
            yield from cuda_report.by_nvcc(cuda_variants.ahead_of_time(storage))
    for architecture in cuda_report.ARCHITECTURES:
        for storage in cuda_variants.STORAGES:
            kernels = [k for k in cuda_variants.ahead_of_time(storage) if k.function in AT_RUN_TIME]
            yield from cuda_report.by_nvrtc(kernels, None, architecture)


def main(argv: list[str] | None = None) -> int:
    """Compile, write, and say how many spill."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compilation", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("unset TRITON_INTERPRET: Triton compiles nothing while it interprets")
    found = sorted(rows())
    write_csv(args.out / "compilation.csv", [row._asdict() for row in found])
    spilling = [row for row in found if row.spill_bytes]
    nvcc = cuda_report.find_nvcc()
    toolkit = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout if nvcc else ""
    counts = {f"{b} {a}": n for (b, a), n in sorted(Counter((row.backend, row.arch) for row in found).items())}
    summary = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions() | {"nvcc": toolkit.strip().splitlines()[-1] if toolkit else None},
        "kernels": counts,
        "most_registers": max(row.registers for row in found),
        "spilling": [row._asdict() for row in spilling],
    }
    write_text(args.out / "compilation.json", json.dumps(summary, indent=1) + "\n")
    for key, count in counts.items():
        print(f"{key}: {count} kernels")
    print(f"spilling: {len(spilling)}")
    return 1 if spilling else 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
