"""What pyproject.toml cannot say: where `pyhar.kernels` lies, and the native modules that may be left out.

Building needs no PyTorch. `PYHAR_NO_NATIVE=1` leaves the native modules out; so does a machine without a working C++17
compiler, with one line saying so. The CUDA kernels of `pyhar._native` are compiled where an nvcc is found
(`csrc/cuda_images.py`) and left out, with a line that says why, elsewhere or under `PYHAR_NO_CUDA=1`.
`pyhar._autograd`, which makes calls shorter, is compiled where the environment has PyTorch already.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

ROOT = Path(__file__).resolve().parent
BUILD_ERRORS = (BaseError, CompileError, LinkError)


# Printed by a Python that has it: cpp_extension would tell the same, but wants setuptools there.
DESCRIBE_PYTORCH = """
import json, pathlib, torch
folder = pathlib.Path(torch.__file__).parent
print(json.dumps([str(folder), torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI)]))
"""


class BuildNative(build_ext):
    """Builds the native modules, or says in one line why it does not."""

    def build_extension(self, ext: Extension) -> None:
        if os.environ.get("PYHAR_NO_NATIVE", "0") not in ("", "0"):
            self.leave_out(ext, "PYHAR_NO_NATIVE is set")
            return
        # Two modules that go together have the same.
        headers = b"".join(path.read_bytes() for path in sorted((ROOT / "csrc" / "cpu").glob("*.h")))
        ext.define_macros.append(("PYHAR_BUILD", f'"{hashlib.sha256(headers).hexdigest()[:16]}"'))
        without_cuda = None
        if ext is autograd:
            why_not = self.add_pytorch(ext)
            if why_not:
                self.leave_out(ext, why_not)
                return
        else:
            ext.define_macros.append(("PYHAR_VERSION", f'"{self.distribution.get_version()}"'))
            microsoft = self.compiler.compiler_type == "msvc"
            ext.extra_compile_args += ["/O2"] if microsoft else ["-O3"]
            if not microsoft:
                ext.extra_compile_args.append("-pthread")
                ext.extra_link_args.append("-pthread")
            without_cuda = self.add_cuda(ext)
        try:
            super().build_extension(ext)
        except (*BUILD_ERRORS, OSError) as error:
            self.leave_out(ext, textwrap.shorten(f"its C++ build failed: {error}", 160, placeholder=" ..."))
        else:
            if without_cuda:
                reason = textwrap.shorten(without_cuda, 160, placeholder=" ...")
                print(f"pyhar: installing without CUDA kernels compiled ahead: {reason}", file=sys.stderr, flush=True)

    def add_pytorch(self, ext: Extension) -> str | None:
        """Have a module compiled with the PyTorch of the environment; return why it is left out, if it is.

        An isolated build sees its own requirements alone, through PYTHONPATH: the environment is what lies below.
        """
        if self.compiler.compiler_type == "msvc":
            return "it is offered on Linux and macOS"
        below = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for variables in (os.environ, below):
            found = subprocess.run(
                [sys.executable, "-c", DESCRIBE_PYTORCH],
                capture_output=True,
                text=True,
                env=variables,
                cwd=ROOT / "csrc",
            )
            if found.returncode == 0:
                break
        else:
            return "PyTorch is not installed yet"
        folder, version, cxx11_abi = json.loads(found.stdout.splitlines()[-1])
        include = Path(folder, "include")
        if not include.is_dir():
            return f"PyTorch {version} came without its headers"
        ext.depends.append(str(include / "torch" / "csrc" / "api" / "include" / "torch" / "version.h"))
        ext.include_dirs += [str(include), str(include / "torch" / "csrc" / "api" / "include")]
        ext.library_dirs.append(str(Path(folder, "lib")))
        ext.libraries += ["c10", "torch_cpu", "torch_python"]
        ext.define_macros += [("PYHAR_TORCH_VERSION", f'"{version}"'), ("_GLIBCXX_USE_CXX11_ABI", str(cxx11_abi))]
        ext.extra_compile_args += ["-O2", "-g0", "-std=c++20", "-fvisibility=hidden"]
        return None

    def add_cuda(self, ext: Extension) -> str | None:
        """Compile the CUDA kernels and put them into the module; return why they are left out, if they are."""
        if os.environ.get("PYHAR_NO_CUDA", "0") not in ("", "0"):
            return "PYHAR_NO_CUDA is set"
        if not sys.platform.startswith("linux"):
            return "they are offered on Linux"
        spec = importlib.util.spec_from_file_location("cuda_images", ROOT / "csrc" / "cuda_images.py")
        assert spec
        assert spec.loader
        images = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(images)
        try:
            folder, toolkit = images.compile_images()
        except (images.NoImagesError, OSError) as error:
            return str(error)
        ext.define_macros += [("PYHAR_CUDA_IMAGES", f'"{folder}"'), ("PYHAR_CUDA_TOOLKIT", str(toolkit))]
        return None

    def leave_out(self, ext: Extension, reason: str) -> None:
        """Say why a module is missing and drop an older build of it, so that what runs is what was said."""
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        if self.editable_mode:
            Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        print(f"pyhar: installing without the native module {ext.name}: {reason}", file=sys.stderr, flush=True)


ParallelCompile().install()

native = Pybind11Extension(
    "pyhar._native",
    sources=sorted(glob("csrc/*.cpp")),
    depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True)),
    include_dirs=["csrc"],
    cxx_std=17,
    optional=True,  # setuptools then accepts that its file may be missing
)

autograd = Extension(
    "pyhar._autograd",
    sources=sorted(glob("csrc/autograd/*.cpp")),
    depends=sorted(glob("csrc/cpu/*.h")),
    include_dirs=["csrc"],
    language="c++",
    optional=True,
)

# A package called `kernels` belongs to somebody else on the package index, so the folder is installed inside pyhar.
kernels = ["pyhar.kernels"] + [f"pyhar.kernels.{name}" for name in find_packages("kernels")]
# Compiled at run time, so installed as text.
cuda_source = "pyhar.kernels.cuda_source"

setup(
    packages=[*find_packages(include=["pyhar", "pyhar.*"]), *kernels, cuda_source],
    package_dir={"pyhar.kernels": "kernels", cuda_source: "csrc/cuda"},
    ext_modules=[native, autograd],
    cmdclass={"build_ext": BuildNative},
)
