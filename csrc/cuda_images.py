"""Compiles the CUDA kernels of `pyhar._native`, one image for each storage type, with nvcc. `setup.py` calls it.

For the GPUs of this machine, or for those that PYHAR_CUDA_ARCHS lists ("80 90 100"), and always as PTX too, which the
driver compiles when it is first loaded: that alone, where there is no GPU and nothing is asked for. Images are kept
under `build/`, by the text they are made of, so that installing again is quick.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
HEADERS = ROOT / "csrc" / "cuda"
# All images come of one PTX: no kernel uses what only later devices have, and making it takes much of the time.
VIRTUAL = 80  # the oldest device, as 10*major + minor
USUAL_HOME = Path("/usr/local/cuda")  # where NVIDIA's installers leave a toolkit, without putting it on the PATH


class NoImagesError(Exception):
    """Why the kernels are left out."""


def variants() -> ModuleType:
    """Return `kernels/cuda_variants.py`, which says what to compile."""
    spec = importlib.util.spec_from_file_location("cuda_variants", ROOT / "kernels" / "cuda_variants.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_nvcc() -> str:
    """Return the compiler: of CUDA_HOME, of CUDA_PATH, on the PATH, or in /usr/local/cuda."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [*(str(Path(home, "bin")) for home in homes), None, str(USUAL_HOME / "bin")]
    for nvcc in filter(None, (shutil.which("nvcc", path=folder) for folder in folders)):
        return nvcc
    raise NoImagesError(f"no nvcc was found (CUDA_HOME, PATH, {USUAL_HOME})")


def toolkit(nvcc: str) -> tuple[int, int]:
    """Return the version of the toolkit."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+)\.(\d+)", said)
    if match is None:
        raise NoImagesError(f"{nvcc} does not tell its version")
    return int(match[1]), int(match[2])


def architectures(nvcc: str) -> list[int]:
    """Return the devices to compile for, besides PTX."""
    asked = os.environ.get("PYHAR_CUDA_ARCHS")
    if asked:
        found = [int(word.replace(".", "")) for word in re.findall(r"\d+(?:\.\d+)?", asked)]
    else:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        try:
            said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
            found = [int(word.replace(".", "")) for word in said.split()]
        except (OSError, subprocess.SubprocessError, ValueError):
            found = []
    listing = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    known = {int(word) for word in re.findall(r"sm_(\d+)$", listing, re.MULTILINE)}
    if found and max(found) < VIRTUAL:
        raise NoImagesError(f"the devices ({found}) are older than {VIRTUAL}")
    if asked and not set(found) <= known:
        raise NoImagesError(f"{nvcc} does not know {sorted(set(found) - known)} of PYHAR_CUDA_ARCHS")
    return sorted(arch for arch in set(found) if arch >= VIRTUAL and arch in known)


def compile_images() -> tuple[Path, int]:
    """Return the folder of the images, <storage>.fatbin, and the version of the toolkit as the driver counts.

    Raises:
        NoImagesError: there is no nvcc, or it fails.
    """
    nvcc = find_nvcc()
    major, minor = toolkit(nvcc)
    targets = architectures(nvcc)
    codes = ",".join([*(f"sm_{arch}" for arch in targets), f"compute_{VIRTUAL}"])
    options = ["-std=c++17", "-O3", "-fatbin", "-gencode", f"arch=compute_{VIRTUAL},code=[{codes}]"]
    kinds = variants()
    sources = {storage: kinds.source(kinds.ahead_of_time(storage)) for storage in kinds.STORAGES}
    texts = [path.read_text() for path in sorted(HEADERS.glob("*.cuh"))]
    made_of = [f"{major}.{minor}", *options, *texts, *sources.values()]
    folder = ROOT / "build" / "cuda" / hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)

    def one(storage: str) -> None:
        image = folder / f"{storage}.fatbin"
        if image.exists():
            return
        source, unfinished = folder / f"{storage}.cu", folder / f"{storage}.{os.getpid()}.fatbin"
        source.write_text(sources[storage])
        command = [nvcc, *options, f"-I{HEADERS}", str(source), "-o", str(unfinished)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            errors = [line for line in (result.stderr + result.stdout).splitlines() if "error" in line.lower()]
            raise NoImagesError(f"nvcc fails: {(errors or [f'status {result.returncode}'])[0]}")
        unfinished.replace(image)

    with ThreadPoolExecutor(max(1, min(len(sources), os.cpu_count() or 1))) as pool:
        list(pool.map(one, sources))
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder, 1000 * major + 10 * minor
