"""Does the deployed network in int8 hold the accuracy of a trained one? `python -m benchmarks.int8 runs/small`.

On every instruction set of this CPU that multiplies int8; the deployed network in bfloat16 stands beside them. Compared
with the network in float32 on the evaluation's stills and clips: `joint_change_px` is the mean distance of joints in
pixels of the crop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import RESULTS, describe, write_json
from pyhar import cli
from pyhar.data import registry
from pyhar.data.batches import collate
from pyhar.data.geometry import normalised_to_picture
from pyhar.data.sample import model_input
from pyhar.deploy import deploy
from pyhar.errors import UserError
from pyhar.evaluation.pose_tally import PoseTally, Truth
from pyhar.kernels import native
from pyhar.models import SPNetOutput, load_model

Network = Callable[[Tensor], SPNetOutput]
CPU = torch.device("cpu")
ALLOWED = {"joint_change_px": 0.3, "pckh_change": 0.3, "accuracy_change": 0.3}


class Samples(NamedTuple):
    """Evaluation samples in batches."""

    stills: list[dict[str, Any]]
    clips: list[dict[str, Any]]


class Answers(NamedTuple):
    """Of the last block: poses (stills, J, 4), and classes (clips,)."""

    poses: Tensor
    classes: Tensor


@torch.inference_mode()
def answer(network: Network, samples: Samples) -> Answers:
    """What the network answers."""
    stills = [network(model_input(batch["frames"], CPU)).poses[-1] for batch in samples.stills]
    clips = [network(model_input(batch["frames"], CPU)).actions[-1][0].argmax(-1) for batch in samples.clips]
    return Answers(torch.cat(stills) if stills else torch.empty(0), torch.cat(clips))


def score(found: Answers, samples: Samples, data: registry.PoseData) -> dict[str, float]:
    """PCKh and accuracy, in per cent."""
    tally = PoseTally(data.layout, data.action_names)
    for pose, batch in zip(found.poses.split(len(samples.stills[0]["frames"])), samples.stills, strict=True):
        px = normalised_to_picture(pose[..., :2].double(), batch["to_crop"]).numpy()
        tally.add(px, None, Truth.of(batch, data.layout))
    pckh = tally.scores(1, 1).pckh
    assert pckh is not None
    labels = torch.cat([batch["action"] for batch in samples.clips])
    return {"pckh": pckh, "accuracy": 100 * float((found.classes == labels).double().mean())}


def compare(found: Answers, true: Answers, size: int, depth_range_mm: float) -> dict[str, float]:
    """How far the answers are from those in float32."""
    change = (found.poses - true.poses).double()
    row = {
        "joint_change_px": float(change[..., :2].norm(dim=-1).mean()) * size,
        "clips_decided_otherwise": int((found.classes != true.classes).sum()),
    }
    return row | (
        {"depth_change_mm": float(change[..., 2].abs().mean()) * depth_range_mm} if change.shape[-1] > 3 else {}
    )


def batched(data: registry.PoseData, count: int, size: int) -> list[dict[str, Any]]:
    """The first samples in batches."""
    return [collate([data[n] for n in range(k, min(k + size, count))]) for k in range(0, count, size)]


def sets_with_int8() -> list[str]:
    """The instruction sets of this CPU that multiply int8, best first. Leaves the best in use."""
    module = native.load()
    offered = [] if module is None else module.cpu_isas()
    found: list[str] = []
    for name in reversed(offered):
        module.use_cpu_isa(name)
        found = [name] * module.cpu_has_int8_units() + found
    return found


def main(argv: list[str] | None = None) -> int:
    """Read the command line, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run directory or model file, trained on the embedded data")
    parser.add_argument("--stills", type=int, help="so many (all)")
    parser.add_argument("--clips", type=int, help="so many (all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "small" / "int8.json", help="%(default)s")
    options = parser.parse_args(argv)
    sets, module = sets_with_int8(), native.load()
    if module is None or not sets:
        raise UserError("this CPU multiplies no int8, or the native module is missing: there is nothing to compare")
    model, meta = load_model(options.model)
    config = model.config
    shape: dict[str, Any] = {"image_size": config.image_size, "augment": False, "layout": config.layout}
    stills = registry.build("synthetic", "test", "pose", **shape)
    clips = registry.build("synthetic", "test", "clips", clip_frames=config.clip_frames, **shape)
    samples = Samples(
        batched(stills, options.stills or len(stills), 32), batched(clips, options.clips or len(clips), 4)
    )
    true = answer(model, samples)
    reference = score(true, samples, stills)
    rows: dict[str, dict[str, Any]] = {"float32": dict(reference)}

    def judge(name: str, dtype: torch.dtype) -> None:
        found = answer(deploy(model, dtype=dtype), samples)
        row = {**score(found, samples, stills), **compare(found, true, config.image_size, meta.depth_range_mm)}
        row |= {f"{what}_change": abs(row[what] - reference[what]) for what in reference}
        row = {key: round(value, 4) for key, value in row.items()}
        rows[name] = row | {"holds": all(row[what] <= most for what, most in ALLOWED.items())}
        print(f"{name:<24}", rows[name], flush=True)

    judge("bfloat16", torch.bfloat16)
    for name in sets:
        module.use_cpu_isa(name)
        judge(f"int8 on {name}", torch.int8)
    module.use_cpu_isa(module.cpu_isas()[0])
    counts = {"stills": len(true.poses), "clips": len(true.classes)}
    write_json(options.out, describe(CPU) | {"allowed": ALLOWED} | counts | {"rows": rows})
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
