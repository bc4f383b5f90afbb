"""Would int8 hold the accuracy of a trained network? `python -m benchmarks.int8 runs/small`.

No kernel computes in int8: rounding is imitated. Weights of a convolution are rounded to int8, symmetric, with a scale
for each output channel, its inputs to 8 bits with a scale and a zero for the tensor; products and sums stay float32.
Inputs' ranges are those of training clips, from the smallest value to the largest or without the outermost values. What
convolutions are rounded differs by row; the deployed network in bfloat16 stands beside them. Compared with float32 on
the evaluation's stills and clips: `joint_change_px` is the mean distance of joints in pixels of the crop.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import RESULTS, describe, write_json
from pyhar import cli
from pyhar.data import registry
from pyhar.data.batches import collate
from pyhar.data.geometry import normalised_to_picture
from pyhar.data.sample import model_input
from pyhar.deploy import deploy
from pyhar.evaluation.pose_tally import PoseTally, Truth
from pyhar.models import SPNet, SPNetOutput, load_model

Network = Callable[[Tensor], SPNetOutput]
CPU = torch.device("cpu")
KEPT_VALUES = 50_000  # of a convolution's inputs, in each batch of the calibration
ALLOWED = {"joint_change_px": 0.3, "pckh_change": 0.3, "accuracy_change": 0.3}


class Rounding(NamedTuple):
    """What is rounded: convolutions by their names' parts, and how much of the inputs' values the range leaves out at
    either end."""

    left_out: Sequence[str] = ()
    only: str = ""
    beyond: float = 0.0


ACTION = (".action.", ".action_unit.")
HEADS = ("stem", ".heat", ".depth.", ".depth_back", ".forwarded")
ROUNDINGS = {
    "all": Rounding(),
    "all, outermost 0.01 % left out": Rounding(beyond=1e-4),
    "pose part": Rounding(ACTION),
    "pose part but stem and heads": Rounding((*ACTION, *HEADS)),
    "pose part but stem, heads and depthwise": Rounding((*ACTION, *HEADS, "depthwise")),
    "entry flow but stem": Rounding(("stem",), only="entry"),
}


class Samples(NamedTuple):
    """Evaluation samples in batches."""

    stills: list[dict[str, Any]]
    clips: list[dict[str, Any]]


class Answers(NamedTuple):
    """Of the last block: poses (stills, J, 4), and classes (clips,)."""

    poses: Tensor
    classes: Tensor


def rounded(model: SPNet, rounding: Rounding, ranges: dict[str, tuple[float, float]]) -> SPNet:
    """A copy of the network whose convolutions answer as in int8. ranges: of their inputs, by name."""
    model = copy.deepcopy(model)
    for name, layer in chosen(model, rounding).items():
        weight = layer.weight.data
        scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
        weight.copy_((weight / scale.clamp_min(1e-30)).round() * scale)
        low, high = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
        step = max(high - low, 1e-30) / 255
        zero = round(-low / step)
        layer.register_forward_pre_hook(
            lambda _, x, step=step, zero=zero: torch.fake_quantize_per_tensor_affine(x[0], step, zero, 0, 255)
        )
    return model


def chosen(model: SPNet, rounding: Rounding) -> dict[str, nn.Conv2d]:
    """The convolutions that are rounded, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
        and rounding.only in f"{name}."
        and not any(part in f"{name}." for part in rounding.left_out)
    }


def share_of_products(model: SPNet, rounding: Rounding, frames: Tensor) -> float:
    """How much of the convolutions' multiplications, for these frames, are of the rounded ones."""
    counts: dict[str, int] = {}
    layers = chosen(model, Rounding())
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, out, name=name: counts.update({name: out.numel() * layer.weight[0].numel()})
        )
        for name, layer in layers.items()
    ]
    with torch.inference_mode():
        model(model_input(frames, CPU))
    for hook in hooks:
        hook.remove()
    return sum(counts.get(name, 0) for name in chosen(model, rounding)) / sum(counts.values())


def input_values(model: SPNet, batches: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A sample of each convolution's inputs, its smallest and largest among them."""
    values: dict[str, list[np.ndarray]] = {}

    def keep(name: str, x: Tensor) -> None:
        flat = x.reshape(-1)
        step = max(flat.numel() // KEPT_VALUES, 1)
        values.setdefault(name, []).extend([flat[::step].numpy(), np.array([x.min(), x.max()], np.float32)])

    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: keep(name, x[0]))
        for name, layer in chosen(model, Rounding()).items()
    ]
    answer(model, Samples([], batches))
    for hook in hooks:
        hook.remove()
    return {name: np.concatenate(parts) for name, parts in values.items()}


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


def main(argv: list[str] | None = None) -> int:
    """Read the command line, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run directory or model file, trained on the embedded data")
    parser.add_argument("--stills", type=int, help="so many (all)")
    parser.add_argument("--clips", type=int, help="so many (all)")
    parser.add_argument("--calibration", type=int, default=64, help="training clips for the ranges (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "small" / "int8.json", help="%(default)s")
    options = parser.parse_args(argv)
    model, meta = load_model(options.model)
    config = model.config
    shape: dict[str, Any] = {"image_size": config.image_size, "augment": False, "layout": config.layout}
    stills = registry.build("synthetic", "test", "pose", **shape)
    clips, training = (
        registry.build("synthetic", split, "clips", clip_frames=config.clip_frames, **shape)
        for split in ("test", "train")
    )
    samples = Samples(
        batched(stills, options.stills or len(stills), 32), batched(clips, options.clips or len(clips), 4)
    )
    calibration = batched(training, options.calibration, 4)
    values = input_values(model, calibration)
    true = answer(model, samples)
    reference = score(true, samples, stills)
    rows: dict[str, dict[str, Any]] = {"float32": dict(reference)}

    def judge(name: str, network: Network, **more: Any) -> None:
        found = answer(network, samples)
        row = {**more, **score(found, samples, stills), **compare(found, true, config.image_size, meta.depth_range_mm)}
        row |= {f"{what}_change": abs(row[what] - reference[what]) for what in reference}
        row = {key: round(value, 4) for key, value in row.items()}
        rows[name] = row | {"holds": all(row[what] <= most for what, most in ALLOWED.items())}
        print(f"{name:<48}", rows[name], flush=True)

    judge("bfloat16, deployed", deploy(model, dtype=torch.bfloat16))
    for name, rounding in ROUNDINGS.items():
        share = rounding.beyond, 1 - rounding.beyond
        ranges = {name: tuple(np.quantile(found, share).tolist()) for name, found in values.items()}
        products = share_of_products(model, rounding, samples.clips[0]["frames"])
        judge(f"int8: {name}", rounded(model, rounding, ranges), share_of_products=products)
    counts = {"stills": len(true.poses), "clips": len(true.classes), "calibration_clips": options.calibration}
    write_json(options.out, describe(CPU) | {"allowed": ALLOWED} | counts | {"rows": rows})
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
