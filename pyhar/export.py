"""`python -m pyhar.export MODEL -o FILE`: a trained network as a file that runs without pyhar."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pyhar import cli


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained network as a file that runs without pyhar, and check it against the network on random frames.

    It takes `frames`, float32 crops of a person, RGB / 127.5 - 1, and answers with `poses` and `action_0`...: those of
    the last block. Clips (batch, T, 3, H, W) where actions are recognised, else pictures (batch, 3, H, W). What the
    numbers mean is written in the file.
    """

    model: tyro.conf.Positional[Path]
    """A run directory or a model file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The file to write: *.onnx, or *.pt2 for torch and aoti. It is replaced if there is one."""
    format: Literal["onnx", "torch", "aoti"] = "onnx"
    """ONNX; a torch.export program; or an AOTInductor package, compiled for this machine's kind of processor."""
    stills: bool = False
    """Poses in single pictures, no actions."""
    pose_block: Annotated[int | Literal["none"], tyro.conf.arg(metavar="N|none")] = -1
    """Take the pose from this prediction block, from 0, or from the end with -1, -2...; earlier ones are faster; none:
    actions alone."""
    action_block: Annotated[int | Literal["none"], tyro.conf.arg(metavar="N|none")] = -1
    """Take the action from this action block; none: poses alone."""
    image_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Side of the crops in pixels; without it, what the network was trained on."""
    clip_frames: Annotated[int | None, tyro.conf.arg(metavar="T")] = None
    """Frames of a clip; without it, what the network was trained on."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and maps; frames and answers are float32 always. ONNX files take float32 or float16."""
    dynamic_batch: bool = True
    """Take batches of any size; if not, of one."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "cpu"
    """What torch and aoti files compute on."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, export, and return 0. Raises UserError for what the user can mend."""
    config = tyro.cli(ExportConfig, prog="pyhar export", args=argv)
    print(export(config))
    return 0


def export(config: ExportConfig) -> str:
    """Carry out an export and return its summary. Raises UserError for what the user can mend."""
    from pyhar.devices import choose_device
    from pyhar.inference.export import export_network
    from pyhar.models import load_model

    model, meta = load_model(config.model, choose_device(config.device))
    done = export_network(
        model,
        meta,
        config.output,
        config.format,
        stills=config.stills,
        pose_block=None if config.pose_block == "none" else config.pose_block,
        action_block=None if config.action_block == "none" else config.action_block,
        image_size=config.image_size,
        clip_frames=config.clip_frames,
        batch=None if config.dynamic_batch else 1,
        dtype=config.dtype,
    )

    def listed(shapes: dict[str, tuple[int | str, ...]]) -> str:
        return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items())

    return (
        f"{done.path}: {done.path.stat().st_size / 1e6:.1f} MB, {listed(done.inputs)} to {listed(done.outputs)}; "
        f"answers within {done.difference:.1e} of the network's"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
