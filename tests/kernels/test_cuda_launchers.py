"""What stands between a plan and a device, with the device played by a recorder; and how the kernels get built in."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyhar import ops
from pyhar.kernels import cuda, cuda_calls, cuda_plan, cuda_sources, cuda_variants, native, nvrtc, triton
from pyhar.kernels.cuda_variants import Constants, Kernel

ROOT = Path(__file__).parents[2]
KERNEL = Kernel("plane_forward", ("float", "float", "float", "warp_of_plane", 4, 32))
PLAN = cuda_plan.Plan(
    (cuda_plan.Launch(KERNEL, 5, 128, 64), cuda_plan.Launch(KERNEL, 7, 128, 0)),
    b"parameters",
    Constants(1, 2, 3, 4, 5),
    torch.float32,
    0,
    0,
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device on which PyTorch's current stream is 99, while another is the current one."""
    now = [0]

    @contextlib.contextmanager
    def device(index: int) -> Iterator[None]:
        before, now[0] = now[0], index
        yield
        now[0] = before

    def stream(index: int) -> int:
        assert index == now[0]
        return 99

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=stream(index)))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", stream, raising=False)
    return torch.device("cuda", 1)


def test_kernels_compiled_ahead_are_loaded_once_and_queued_on_the_current_stream(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[Any, ...]] = []

    def record(name: str, result: int) -> Any:
        return lambda *arguments: said.append((name, *arguments)) or result

    fake = SimpleNamespace(
        cuda_load=record("load", 11), cuda_function=record("function", 12), cuda_launch=record("launch", 0)
    )
    monkeypatch.setattr(native, "load", lambda: fake)
    monkeypatch.setattr(cuda, "_functions", {})
    monkeypatch.setattr(cuda, "_modules", {})
    cuda._run(PLAN, b"struct", device)
    with torch.cuda.device(1):
        cuda._run(PLAN, b"struct", device)
    launches = [("launch", 1, 12, 99, b"struct", 5, 128, 64), ("launch", 1, 12, 99, b"struct", 7, 128, 0)]
    assert said == [("load", 1, "float"), ("function", 11, KERNEL.name), *launches, *launches]


def test_kernels_compiled_at_run_time_are_compiled_once_and_get_the_struct_by_value(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, tuple[str, ...]]] = []
    launched: list[tuple[Any, ...]] = []

    def launch(grid: tuple[int], block: tuple[int], arguments: tuple[np.ndarray], shared_mem: int) -> None:
        (struct,) = arguments
        assert struct.size == 1
        launched.append((grid, block, struct.tobytes(), shared_mem))

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
            compiled.append((code, options))

        def get_function(self, name: str) -> Any:
            assert name == KERNEL.name
            return launch

    streams: list[tuple[int, int]] = []

    def stream(address: int, index: int) -> Any:
        streams.append((address, index))
        return contextlib.nullcontext()

    fake: Any = ModuleType("cupy")
    fake.RawModule = RawModule
    fake.cuda = SimpleNamespace(Device=lambda index: contextlib.nullcontext(), ExternalStream=stream)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(nvrtc, "_functions", {})
    nvrtc._run(PLAN, b"struct", device)
    nvrtc._run(PLAN, b"struct", device)
    assert launched == 2 * [((5,), (128,), b"struct", 64), ((7,), (128,), b"struct", 0)]
    assert streams == [(99, 1), (99, 1)]
    ((code, options),) = compiled
    assert KERNEL.entry in code
    assert {"-DPYHAR_JOINTS=1", "-DPYHAR_CHANNELS=2", "-DPYHAR_ROWS=3", "-DPYHAR_COLUMNS=4"} < set(options)
    assert cuda_sources.digest() in code


def test_no_tensor_of_an_empty_batch_is_launched_on() -> None:
    ran = []
    calls = cuda_calls.calls(lambda plan, parameters, device: ran.append(plan), exact=False)
    empty = torch.empty(0, 3, 4, 5)
    stats = torch.empty(0, 3, 2)
    calls.softmax_forward(empty, None, 1.0, stats, torch.empty_like(empty))
    assert not ran
    calls.softmax_forward(torch.zeros(1, 3, 4, 5), None, 1.0, torch.empty(1, 3, 2), torch.empty(1, 3, 4, 5))
    assert len(ran) == 1


def test_what_is_not_served_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = torch.zeros(1, 1, 2, 2)
    for module in (cuda, nvrtc):
        assert "cpu" in (module.why_not(on_cpu, None, None, None) or "")
    monkeypatch.setattr(cuda, "_why_not_device", lambda device: None)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32, shape=(1, 1, 2**20, 2**11))
    for module in (cuda, nvrtc):
        assert "at most 2^30 pixels, these 1048576x2048" in (module.why_not(on_gpu, None, None, None) or "")
    assert "features are bfloat16 with logits float32" in cuda._mixed("features", on_cpu.bfloat16(), on_cpu)
    if not torch.cuda.is_available():
        assert cuda.why_unusable()
        assert nvrtc.why_unusable()


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_compiler_asks_for_the_device_s_capability_once(
    name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernels = {"cuda": cuda, "triton": triton}[name]
    monkeypatch.setattr(kernels, "why_unusable", lambda: None)
    monkeypatch.setattr(kernels, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)

    class Decoder(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return ops.soft_argmax(logits, backend=name)

    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(1, 2, 3, 4, device="cuda")
        program = torch.export.export(Decoder(), (logits,), strict=True)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called[0] == f"pyhar.{name}_decode.default"
    assert not [warning for warning in recwarn if "lru_cache" in str(warning.message)]


def test_a_missing_cupy_is_named_with_the_build_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install cupy-cuda12x" in (nvrtc.why_unusable.__wrapped__() or "")


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`csrc/cuda_images.py` with an nvcc that only writes down how it was called."""
    spec = importlib.util.spec_from_file_location("cuda_images", ROOT / "csrc" / "cuda_images.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "cuda_variants.py").write_text(Path(cuda_variants.__file__).read_text())
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) echo "release 13.0, V13.0.88";;\n'
        f'--list-gpu-code) printf "sm_80\\nsm_90\\n";;\n'
        f'*) echo "$*" >> "{tmp_path}/log"; for last; do :; done; touch "$last";;\nesac\n'
    )
    nvcc.chmod(0o755)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PYHAR_CUDA_ARCHS", "8.0;90")
    return module


def test_images_are_compiled_for_what_is_asked_for_and_kept(images: Any, tmp_path: Path) -> None:
    folder, toolkit = images.compile_images()
    assert toolkit == 13000
    assert sorted(path.stem for path in folder.glob("*.fatbin")) == sorted(cuda_variants.STORAGES)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == len(cuda_variants.STORAGES)
    assert all("arch=compute_80,code=[sm_80,sm_90,compute_80]" in line for line in lines)
    assert images.compile_images() == (folder, toolkit)
    assert len((tmp_path / "log").read_text().splitlines()) == len(lines)


def test_a_device_that_the_toolkit_does_not_know_leaves_the_kernels_out(
    images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYHAR_CUDA_ARCHS", "80 130")
    with pytest.raises(images.NoImagesError, match="130"):
        images.compile_images()


def test_no_compiler_is_a_reason_and_not_an_error(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(images.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(images.NoImagesError, match="no nvcc"):
        images.compile_images()


def test_the_compiler_is_found_where_installers_leave_it(
    images: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(images, "USUAL_HOME", tmp_path)
    assert images.find_nvcc() == str(tmp_path / "bin" / "nvcc")


def test_the_module_imports_without_a_driver_and_says_so() -> None:
    module = native.load()
    if module is None:
        pytest.skip(f"native module missing: {native.why_missing()}")
    code = "from pyhar import _native; print(_native.cuda_driver())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    version, missing = module.cuda_driver()
    assert said.strip() == str((version, missing))
    assert (version == 0) == bool(missing)
    if missing and sysconfig.get_platform().startswith("linux"):
        with pytest.raises((RuntimeError, ValueError)):
            module.cuda_load(0, "float")


DRIVER = """
#include <cstdio>
static int mode = 0;
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuGetErrorString(int, const char** text) { *text = "as asked"; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuCtxGetCurrent(void** context) { *context = nullptr; return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &mode; return 0; }
int cuThreadExchangeStreamCaptureMode(int* other) { const int old = mode; mode = *other, *other = old; return 0; }
int cuModuleLoadData(void**, const void*) { return 1; }
int cuModuleGetFunction(void** found, void*, const char* name) {
    std::printf("%s in mode %d\\n", name, mode);
    *found = &mode;
    return name[0] == '-';
}
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) {
    std::printf("launched in mode %d\\n", mode);
    return 0;
}
}
"""


def test_a_kernel_is_loaded_although_a_stream_is_captured(tmp_path: Path) -> None:
    if native.load() is None or shutil.which("g++") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs the native module and g++, on Linux")
    (tmp_path / "driver.cpp").write_text(DRIVER)
    command = ["g++", "-shared", "-fPIC", "-w", str(tmp_path / "driver.cpp"), "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run(command, check=True)
    code = """
from pyhar import _native
found = _native.cuda_function(0, "kernel")
_native.cuda_launch(0, found, 0, b"", 1, 32, 0)
try:
    _native.cuda_function(0, "-missing")
except RuntimeError as error:
    print(error)
_native.cuda_launch(0, found, 0, b"", 1, 32, 0)
"""
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    # What prints through C and what prints through Python come in an order of their own.
    assert sorted(done.stdout.splitlines()) == sorted(
        ["kernel in mode 2", "launched in mode 0", "-missing in mode 2", "cuModuleGetFunction: as asked"]
        + ["launched in mode 0"]
    )
