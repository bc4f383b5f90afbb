"""`pyhar info`: versions, devices, which operator backends are usable and why not, presets."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

# By the module imported, since several distributions carry cv2 and cupy.
MODULES = {"torch": "torch", "numpy": "numpy", "opencv": "cv2", "triton": "triton", "cupy": "cupy"}


def collect() -> dict[str, Any]:
    """Return what `pyhar info` shows, ready for JSON.

    `versions`: name -> version or None where not installed. `system`: operating system and machine. `cpu`: name,
    cores this process may use, PyTorch's threads, vector instruction sets (None where the native module is missing).
    `cuda`: its devices, and why there are none. `native`: how the native module was built, or why it is missing.
    `calls`: why calls of the CPU's operators go through Python, None where they do not.
    `backends`: name -> None if usable, else the reason it is not. `presets`: name -> the network in a few words.
    """
    import torch

    from pyhar.kernels import native
    from pyhar.models import PRESETS
    from pyhar.ops import available_backends, native_calls

    core = native.load()
    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "name": cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "simd": core.cpu_features() if core else None,
        },
        "cuda": cuda(),
        "native": {
            "missing": native.why_missing(),
            **(core.build_info() | {"shares_threads": core.shares_threads()} if core else {}),
        },
        "calls": {"missing": native_calls.why_missing()},
        "backends": available_backends(),
        "presets": {
            name: f"{c.dim}D poses of {c.num_joints} joints, {'+'.join(map(str, c.num_actions)) or 'no'} actions, "
            f"{c.num_pyramids} pyramids, {c.image_size} px"
            for name, c in PRESETS.items()
        },
    }


def versions() -> dict[str, str | None]:
    """Return the versions of pyhar, Python and the libraries that matter here, None for those not installed."""
    from pyhar import __version__

    distributions = importlib.metadata.packages_distributions()
    found: dict[str, str | None] = {"pyhar": __version__, "python": platform.python_version()}
    for name, module in MODULES.items():
        names = distributions.get(module, [module])  # Python 3.10 knows the modules of a few distributions alone
        try:
            found[name] = importlib.metadata.version(names[0])
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cuda() -> dict[str, Any]:
    """Return the CUDA `devices` that PyTorch sees and, where there are none, the reason under `missing`."""
    import torch

    if torch.version.cuda is None:
        return {"devices": [], "missing": f"this PyTorch ({torch.__version__}) is built without CUDA"}
    if not torch.cuda.is_available():
        return {"devices": [], "missing": f"PyTorch is built for CUDA {torch.version.cuda} and finds no usable device"}
    devices = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": device.name,
                "capability": f"{device.major}.{device.minor}",
                "memory_gib": round(device.total_memory / 2**30, 1),
            }
        )
    return {"devices": devices, "missing": None}


def show(info: dict[str, Any]) -> None:
    """Print `collect()`'s result as tables in the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def table(title: str, rows: dict[str, str]) -> None:
        grid = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2))
        for name, value in rows.items():
            grid.add_row(name, Text(value))  # as Text, square brackets are not markup
        console.print(grid, "")

    cpu, cuda, native = info["cpu"], info["cuda"], info["native"]
    simd = "unknown (native module missing)" if cpu["simd"] is None else " ".join(cpu["simd"]) or "none"
    devices = {
        f"cuda:{i}": f"{d['name']}, compute capability {d['capability']}, {d['memory_gib']} GiB"
        for i, d in enumerate(cuda["devices"])
    }
    table("Versions", {name: version or "not installed" for name, version in info["versions"].items()})
    table(
        "Devices",
        {
            "system": info["system"],
            "cpu": f"{cpu['name']}, cores: {cpu['cores']}, PyTorch threads: {cpu['threads']}",
            "vector instructions": simd,
            **(devices or {"cuda": f"none: {cuda['missing']}"}),
        },
    )
    table(
        "Native module",
        {"missing": native["missing"]}
        if native["missing"]
        else {
            "built by": f"{native['compiler']}, {native['cpp_standard']}",
            "threads": "PyTorch's" if native["shares_threads"] else "its own",
        },
    )
    why_longer = info["calls"]["missing"]
    longer = f"go through Python, which takes twice the time on small maps: {why_longer}"
    table("Calls of the CPU's operators", {"plain calls": longer if why_longer else "go straight to the kernels"})
    table("Operator backends", {n: "usable" if why is None else f"no: {why}" for n, why in info["backends"].items()})
    table("Presets", info["presets"])


def main(argv: list[str] | None = None) -> int:
    """The command `pyhar info`."""
    parser = argparse.ArgumentParser(
        prog="pyhar info", description="Show versions, devices, usable operator backends and presets."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    args = parser.parse_args(argv)
    info = collect()
    if args.json:
        print(json.dumps(info, indent=2))
    else:
        show(info)
    return 0


if __name__ == "__main__":
    from pyhar import cli

    sys.exit(cli.run(main))
