"""Importing is light, works from any folder, and never touches a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_import_brings_in_no_optional_package(tmp_path: Path) -> None:
    """What PyTorch itself imports does not count."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import pyhar, pyhar.cli, pyhar.kernels.native, pyhar.nn, pyhar.ops\n"
        "assert not torch.cuda.is_initialized(), 'the GPU was initialised'\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    found = set(result.stdout.split())
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
