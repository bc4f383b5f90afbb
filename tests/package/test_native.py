"""The native module tells the truth about the machine, and its absence is explained."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import pyhar
from pyhar import ops
from pyhar.kernels import native

ROOT = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")
# Every name that csrc/cpu/features.h looks for.
LOOKED_FOR = {
    "x86_64": "avx f16c fma avx2 avx_vnni avx512f avx512dq avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16"
    " amx_tile amx_bf16 amx_int8",
    "aarch64": "asimd asimdhp asimddp sve sve2 i8mm bf16",
}


@pytest.fixture
def core() -> ModuleType:
    module = native.load()
    if module is None:
        pytest.skip(f"native module missing: {native.why_missing()}")
    return module


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The loader looks afresh in this test, and again after it."""
    native._find.cache_clear()
    yield
    native._find.cache_clear()


def test_build_info_names_this_version_and_a_compiler(core: ModuleType) -> None:
    info = core.build_info()
    assert info["version"] == pyhar.__version__
    assert info["cpp_standard"] in ("C++17", "C++20", "C++23")
    assert info["compiler"] != "unknown"


def test_features_are_those_the_operating_system_names(core: ModuleType) -> None:
    if not CPUINFO.exists() or os.uname().machine not in LOOKED_FOR:
        pytest.skip("no /proc/cpuinfo to compare with, or another processor family")
    label = "flags" if os.uname().machine == "x86_64" else "Features"
    line = next(line for line in CPUINFO.read_text().splitlines() if line.startswith(label))
    offered = set(line.partition(":")[2].split())
    assert set(core.cpu_features()) == offered & set(LOOKED_FOR[os.uname().machine].split())


def test_threads_are_shared_with_pytorch(core: ModuleType) -> None:
    assert core.shares_threads() == ("OpenMP" in torch.__config__.parallel_info())
    before = torch.get_num_threads()
    try:
        for count in (3, 1):
            torch.set_num_threads(count)
            ops.decode_pose(torch.zeros(1, 1, 2, 2), backend="cpu")  # without OpenMP a launch asks PyTorch
            assert core.max_threads() == count
    finally:
        torch.set_num_threads(before)


def test_load_and_reason_exclude_each_other() -> None:
    assert (native.load() is None) == (native.why_missing() is not None)


@pytest.mark.usefixtures("forgotten")
def test_a_module_that_was_not_built_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyhar._native", None)
    assert native.load() is None
    assert "not built" in (native.why_missing() or "")
    assert "C++17 compiler" in (native.why_missing() or "")


@pytest.mark.usefixtures("forgotten")
def test_a_module_that_does_not_load_gives_the_loaders_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert native.load() is None
    assert "libgomp.so.1" in (native.why_missing() or "")


@pytest.mark.usefixtures("forgotten")
def test_a_module_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = SimpleNamespace(build_info=lambda: {"version": "0.0.1"})
    monkeypatch.setitem(sys.modules, "pyhar._native", stale)  # type: ignore[arg-type]
    assert native.load() is None
    assert "0.0.1" in (native.why_missing() or "")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CC": "/bin/false", "CXX": "/bin/false"}, "build failed"),
        ({"CC": "no-such-compiler", "CXX": "no-such-compiler"}, "no-such-compiler"),
        ({"PYHAR_NO_NATIVE": "1"}, "PYHAR_NO_NATIVE is set"),
    ],
)
def test_building_without_a_compiler_goes_on_and_says_so_in_one_line(
    environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    pytest.importorskip("pybind11")
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *folders],
        cwd=ROOT,
        env={**os.environ, "PYHAR_NO_CUDA": "1", **environment},  # nvcc would take a minute
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("pyhar: ")]
    assert len(said) == 2
    for module, line in zip(("pyhar._native: ", "pyhar._autograd: "), said, strict=True):
        assert module in line
        assert reason in line
    assert not [*tmp_path.rglob("_native*"), *tmp_path.rglob("_autograd*")]


def test_building_before_pytorch_is_installed_leaves_out_what_needs_it(tmp_path: Path) -> None:
    """As in a build of its own environment, which has the build's requirements alone."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for name in ("setuptools", "_distutils_hack", "pybind11"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.skip(f"{name} is not installed")
        (requirements / name).symlink_to(Path(spec.origin).parent)
    venv.create(tmp_path / "empty", symlinks=True)
    result = subprocess.run(
        [tmp_path / "empty" / "bin" / "python", "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path / "lib")],
        cwd=ROOT,
        env={**os.environ, "PYHAR_NO_CUDA": "1", "CXX": "/bin/false", "PYTHONPATH": str(requirements)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "without the native module pyhar._autograd: PyTorch is not installed yet" in result.stderr
