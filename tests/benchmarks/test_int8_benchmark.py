"""The imitation of int8: what is rounded, to how many values, and that the network itself is left alone."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import int8
from pyhar.models import SPNet, SPNetConfig

TINY = SPNetConfig(
    image_size=32,
    clip_frames=2,
    num_pyramids=1,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1,),
    num_actions=(3,),
    pose_features=16,
    appearance_features=16,
)


def test_convolutions_are_chosen_by_name() -> None:
    model = SPNet(TINY)
    everything = int8.chosen(model, int8.Rounding())
    assert len(everything) == sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    pose = int8.chosen(model, int8.ROUNDINGS["pose part"])
    assert 0 < len(pose) < len(everything)
    assert not any(".action." in name for name in pose)
    bare = int8.chosen(model, int8.ROUNDINGS["pose part but stem, heads and depthwise"])
    assert {name.rpartition(".")[2] for name in pose.keys() - bare.keys()} >= {"stem", "heat", "depthwise"}
    assert all(name.startswith("entry.units") for name in int8.chosen(model, int8.ROUNDINGS["entry flow but stem"]))


def test_weights_and_inputs_take_few_values() -> None:
    model = SPNet(TINY).eval()
    frames = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    clips = [{"frames": frames}]
    values = int8.input_values(model, clips)
    assert values.keys() == int8.chosen(model, int8.Rounding()).keys()
    ranges = {name: (float(found.min()), float(found.max())) for name, found in values.items()}
    imitation = int8.rounded(model, int8.Rounding(), ranges)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in int8.chosen(imitation, int8.Rounding()).items():
        layer.register_forward_hook(lambda _, x, out, name=name: seen.update({name: x[0]}))
    found, true = (int8.answer(network, int8.Samples(clips, clips)) for network in (imitation, model))
    assert seen.keys() == values.keys()
    for name, layer in int8.chosen(imitation, int8.Rounding()).items():
        original = model.get_submodule(name).weight
        assert all(2 <= kernel.unique().numel() <= 255 for kernel in layer.weight)
        assert not torch.equal(layer.weight, original)
        assert (layer.weight - original).abs().max() <= original.abs().max() / 127
        assert seen[name].unique().numel() <= 256
    assert 0 < (found.poses - true.poses).abs().max() < 0.1
    assert 0.5 < int8.share_of_products(model, int8.ROUNDINGS["pose part"], frames) < 1
