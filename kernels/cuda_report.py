"""What the CUDA kernels take of the machine, from the compilers themselves; no device is needed.

`python -m pyhar.kernels.cuda_report` prints a table for the kernels compiled ahead.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pyhar.kernels import cuda_sources, cuda_variants
from pyhar.kernels.cuda_variants import Constants, Kernel
from pyhar.kernels.resources import Resources

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
_COMPILED = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


class CompilationError(RuntimeError):
    """A compiler refuses the kernels; the message is its own."""


def parse(log: str, backend: str, kernels: Iterable[Kernel]) -> list[Resources]:
    """Return the figures in what the assembler says under `-v`, for each kernel and architecture it names."""
    known = {kernel.name: kernel for kernel in kernels}
    found, current, spilled = [], None, 0
    for line in log.splitlines():
        if match := _COMPILED.search(line):
            current, spilled = (known[match[1]], match[2]), 0
        elif match := _SPILLED.search(line):
            spilled = int(match[1]) + int(match[2])
        elif current and (match := _USED.search(line)):
            kernel, arch = current
            variant = " ".join(map(str, kernel.arguments))
            shared = int(match[2] or 0)
            found.append(Resources(backend, kernel.function, variant, arch, int(match[1]), shared, spilled))
            current = None
    return found


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None."""
    return shutil.which("nvcc")


def by_nvcc(kernels: list[Kernel], architectures: Iterable[str] = ARCHITECTURES) -> list[Resources]:
    """Compile `kernels` by nvcc as for `pyhar._native` and return what each takes on each architecture."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise CompilationError("no nvcc was found")
    codes = ",".join(architectures)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernels.cu")
        source.write_text(cuda_variants.source(kernels))
        command = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", "-fatbin", f"-I{cuda_sources.folder()}"]
        command += [
            "-gencode",
            f"arch=compute_80,code=[{codes}]",
            str(source),
            "-o",
            str(Path(folder, "kernels.fatbin")),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompilationError(result.stderr[:2000])
    return parse(result.stderr, "cuda", kernels)


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """Return NVIDIA's run-time compiler, as one of its Python packages brings it, or None."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in files]
        # The compiler looks its second library up by name, and finds it if it is loaded already.
        for pattern in (r"libnvrtc-builtins\.so\.[\d.]+", r"libnvrtc\.so\.\d+"):
            library = next((ctypes.CDLL(str(path)) for path in paths if re.fullmatch(pattern, path.name)), None)
        if library is not None:
            return library
    return None


def by_nvrtc(kernels: list[Kernel], constants: Constants | None = None, architecture: str = "sm_90") -> list[Resources]:
    """Compile `kernels` by NVRTC, for the sizes in `constants`, and return what each takes."""
    library = nvrtc()
    if library is None:
        raise CompilationError("NVRTC was not found: `pip install nvidia-cuda-nvrtc`")
    program = ctypes.c_void_p()
    text = cuda_variants.source(kernels).encode()
    headers = [(name.encode(), header.encode()) for name, header in cuda_sources.headers().items()]
    names = (ctypes.c_char_p * len(headers))(*(name for name, _ in headers))
    texts = (ctypes.c_char_p * len(headers))(*(header for _, header in headers))
    options = ["-std=c++17", f"-arch={architecture}", "--ptxas-options=-v"]
    words = [word.encode() for word in (*options, *(constants.options if constants else ()))]
    if library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", len(headers), texts, names):
        raise CompilationError("NVRTC makes no program")
    try:
        status = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode(errors="replace")
    if status:
        raise CompilationError(said[:2000])
    return parse(said, "nvrtc", kernels)


def main() -> None:
    """Print what each kernel compiled ahead takes."""
    for storage in cuda_variants.STORAGES:
        for row in by_nvcc(cuda_variants.ahead_of_time(storage)):
            print(f"{row.arch:7} {row.registers:4} registers {row.spill_bytes:5} spilled  {row.kernel} {row.variant}")


if __name__ == "__main__":
    main()
