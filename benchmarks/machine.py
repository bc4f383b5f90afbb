"""What a result was measured on, and the files it is kept in. `python -m benchmarks.machine` prints the former."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pyhar.files import write_text
from pyhar.info import cpu_name, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Settings that change what is measured.
VARIABLES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYHAR_BACKEND")


def device_name(device: torch.device) -> str:
    """Return the name of the processor or of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def slug(name: str) -> str:
    """Return a device's name as the name of a folder: "AMD EPYC 7B13 64-Core" gives "amd-epyc-7b13-64-core"."""
    name = re.sub(r"\((R|TM|C)\)|\bCPU\b|@.*", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def describe(device: torch.device) -> dict[str, Any]:
    """Return the device, versions, threads, settings and date of a measurement, ready for JSON."""
    found = versions()
    for name in ("dsntnn", "kornia"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    about: dict[str, Any] = {"type": device.type, "name": device_name(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "memory_gib": round(properties.total_memory / 2**30, 1),
        }
    return {
        "device": about,
        "versions": found,
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def results_folder(device: torch.device) -> Path:
    """Return benchmarks/results/<device>."""
    return RESULTS / slug(device_name(device))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where there is no file."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return result


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented save for innermost lists and objects without any inside, each on one line."""
    write_text(path, _format(content, "") + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, which may differ in their columns, as CSV; what is None or missing stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _format(value: Any, indent: str) -> str:
    if not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inside = value.values() if isinstance(value, dict) else value
    if not any(isinstance(item, (dict, list)) for item in inside):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(str(key), ensure_ascii=False)}: {_format(item, deeper)}" for key, item in value.items()]
    else:
        items = [_format(item, deeper) for item in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}{last}"


def main() -> int:
    """Print, as JSON, the device that a benchmark would take, its folder's name and the operator backends."""
    from pyhar.ops import available_backends

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = slug(device_name(device))
    print(json.dumps(describe(device) | {"folder": name, "backends": available_backends()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
