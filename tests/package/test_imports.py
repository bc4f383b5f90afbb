"""Importing is light, works from any folder, and never touches a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = {
    "av",
    "cdflib",
    "cupy",
    "cv2",
    "h5py",
    "jinja2",
    "matplotlib",
    "rich",
    "scipy",
    "tensorboard",
    "triton",
    "tyro",
    "yaml",
}


def imported_with(module: str, cwd: Path) -> set[str]:
    """Names of the top-level packages that importing `module` brings in beyond those that PyTorch itself does."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        f"import {module}\n"
        "assert not torch.cuda.is_initialized(), 'the GPU was initialised'\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["pyhar", "pyhar.ops", "pyhar.nn", "pyhar.kernels.native", "pyhar.cli"])
def test_import_brings_in_no_optional_package(module: str, tmp_path: Path) -> None:
    found = imported_with(module, tmp_path)
    assert "pyhar" in found
    assert not found & OPTIONAL


def test_pyhar_alone_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, pyhar, pyhar.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_kernels_is_a_package_inside_pyhar() -> None:
    import pyhar.kernels.native

    assert pyhar.kernels.__name__ == "pyhar.kernels"
    assert Path(pyhar.kernels.__file__ or "").parent.name == "kernels"
    assert pyhar.kernels.native.__name__ == "pyhar.kernels.native"
    assert "kernels" not in sys.modules
