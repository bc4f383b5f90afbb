"""Every Triton kernel compiles for the GPUs that pyhar is made for, and keeps its values in registers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

# Half of the cases for each of two processes, about equal in time; together all of them, which a test below asserts.
HALVES = (
    "plane-float32 plane-float16-channels_last planes-float32 planes-bfloat16-window streamed-float32 plane-bfloat16"
    " unit-bfloat16-32x32 unit-float16-4x4 unit-float32-16x16",
    "plane-float32-window-beta streamed-float32-window-channels_last streamed-bfloat16 plane-float64"
    " plane-float64-window sliced-float32 probabilities-float16"
    " unit-bfloat16-16x16 unit-float16-odd unit-float32-128x128",
)
KERNELS = {
    "softmax_forward",
    "decode_forward",
    "appearance_forward",
    "features_pass",
    "d_features",
    "plane_backward",
    "unit_separable",
    "unit_depthwise",
    "unit_product",
    "unit_pooling",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What the compilation report prints, in processes where Triton compiles: here it may interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "pyhar.kernels.triton.compile"]
    processes = [
        subprocess.Popen(
            [*command, *names.split()], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for names in HALVES
    ]
    printed = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors[-4000:]
    return [line.split("\t") for out, _ in printed for line in out.splitlines()]


def test_all_kernels_compile_for_all_architectures(rows: list[list[str]]) -> None:
    """Each kernel, in each case, for each architecture; no case is left out."""
    assert {(kernel, arch) for _, kernel, _, arch, *_ in rows} == {
        (kernel, arch) for kernel in KERNELS for arch in ("sm_80", "sm_90", "sm_100")
    }
    folder = Path(__file__).parents[2] / "kernels" / "triton"
    source = "".join((folder / name).read_text() for name in ("compile.py", "unit_cases.py"))
    names = " ".join(HALVES).split()
    assert {variant for _, _, variant, *_ in rows} == set(names)
    assert len(re.findall(r'^    (?:Unit)?Case\("', source, re.MULTILINE)) == len(names)


def test_no_kernel_spills_registers(rows: list[list[str]]) -> None:
    """A spilled register is memory traffic that the kernels were fused to avoid."""
    assert [row for row in rows if row[-1] != "0"] == []


def test_shared_memory_fits_two_programs(rows: list[list[str]]) -> None:
    """At most half of the 163 KiB that the smallest of these GPUs has, so that two programs hide each other's waits."""
    assert max(int(row[-2]) for row in rows) <= 163 * 1024 // 2
