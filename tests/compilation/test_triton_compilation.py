"""Every Triton kernel compiles for the GPUs that pyhar is made for, and keeps its values in registers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]
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


def test_all_kernels_compile_for_all_architectures(rows: list[list[str]]) -> None:
    """Each kernel, in each case, for each architecture; no case is left out."""
    assert {(kernel, arch) for _, kernel, _, arch, *_ in rows} == {
        (kernel, arch) for kernel in KERNELS for arch in ("sm_80", "sm_90", "sm_100")
    }
    source = "".join((ROOT / "kernels" / "triton" / name).read_text() for name in ("compile.py", "unit_cases.py"))
    cases = re.findall(r'^    (?:Unit)?Case\("([^"]+)"', source, re.MULTILINE)
    assert {variant for _, _, variant, *_ in rows} == set(cases)


@pytest.mark.skipif(
    f"triton=={triton.__version__}" not in (ROOT / "constraints.txt").read_text().splitlines(),
    reason="other versions' assemblers may spill a few bytes to have more programs at once",
)
def test_no_kernel_spills_registers(rows: list[list[str]]) -> None:
    """A spilled register is memory traffic that the kernels were fused to avoid."""
    assert [row for row in rows if row[-1] != "0"] == []


def test_shared_memory_fits_two_programs(rows: list[list[str]]) -> None:
    """At most half of the 163 KiB that the smallest of these GPUs has, so that two programs hide each other's waits."""
    assert max(int(row[-2]) for row in rows) <= 163 * 1024 // 2
