"""The kinds of file that a network is exported to: what each needs, how it is written, how it is run.

All three are made of one `torch.export` program and carry the same description, a dictionary of texts:

* "onnx": the model's metadata properties (`session.get_modelmeta().custom_metadata_map`);
* "torch": the extra file "pyhar.json" (`torch.export.load(path, extra_files={"pyhar.json": ""})`);
* "aoti": the package's metadata (`package.get_metadata()`).
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyhar.devices import why_no_compiler

DESCRIPTION_FILE = "pyhar.json"
"""Where a `torch.export` program keeps its description."""

Run = Callable[[Tensor], list[Tensor]]
"""An exported network: frames to its answers, in order."""


@dataclass(frozen=True)
class Program:
    """What files are written of."""

    exported: torch.export.ExportedProgram
    input_name: str
    output_names: list[str]
    description: dict[str, str]


@dataclass(frozen=True)
class Format:
    """One kind of file. `why_not` returns None if this machine can write it, else the reason; `load` gives what `write`
    wrote as a function; `dtypes` are what its runtime computes in."""

    suffix: str
    why_not: Callable[[], str | None]
    write: Callable[[Program, Path], None]
    load: Callable[[Path], Run]
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")


def _why_not_onnx() -> str | None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    are = "is" if len(missing) == 1 else "are"
    return f'ONNX files need {", ".join(missing)}, which {are} not installed: pip install "pyhar[export]"'


def _write_onnx(program: Program, path: Path) -> None:
    with _silence():
        made = torch.onnx.export(
            program.exported,
            input_names=[program.input_name],
            output_names=program.output_names,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    _tidy(made.model.graph)
    made.model.metadata_props.update(program.description)
    made.save(path, external_data=False)


def _tidy(graph: Any) -> None:
    """Call the batch size "batch" in all shapes instead of "s41", and drop how the graph came about: in whose folders
    the lines are that made its nodes."""
    import onnx_ir

    symbol = re.compile(rf"\b{graph.inputs[0].shape[0]}\b")
    nodes = list(graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in nodes for output in node.outputs)]
    for part in (graph, *nodes, *values):
        part.metadata_props.clear()
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            dims = (dim if isinstance(dim, int) else symbol.sub("batch", str(dim)) for dim in value.shape)
            value.shape = onnx_ir.Shape(dims)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda frames: [torch.from_numpy(value) for value in session.run(None, {name: frames.cpu().numpy()})]


def _write_torch(program: Program, path: Path) -> None:
    description = json.dumps(program.description, indent=2, ensure_ascii=False)
    exported = copy.copy(program.exported)
    exported.example_inputs = None  # the frames it was traced with
    content = io.BytesIO()  # written to a full disk directly, it aborts the process
    with _silence():
        torch.export.save(exported, content, extra_files={DESCRIPTION_FILE: description})
    path.write_bytes(content.getvalue())  # shares the memory; freeing a view of it crashes Python 3.12.1


def _load_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda frames: list(module(frames))


def _why_not_aoti() -> str | None:
    return why_no_compiler("AOTInductor")


def _write_aoti(program: Program, path: Path) -> None:
    with _silence():
        torch._inductor.aoti_compile_and_package(
            program.exported,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": program.description},
        )


def _load_aoti(path: Path) -> Run:
    package = torch._inductor.aoti_load_package(str(path))
    return lambda frames: list(package(frames))


@contextmanager
def _silence() -> Iterator[None]:
    """Without PyTorch's warnings of its own deprecated parts, of packages that nothing here needs, and of weights that
    lie in channels_last order."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


FORMATS = {
    # onnxruntime has no convolution in bfloat16; one in float16 it computes in float32 where a CPU has none.
    "onnx": Format(".onnx", _why_not_onnx, _write_onnx, _load_onnx, ("float32", "float16")),
    "torch": Format(".pt2", lambda: None, _write_torch, _load_torch),
    "aoti": Format(".pt2", _why_not_aoti, _write_aoti, _load_aoti),
}
