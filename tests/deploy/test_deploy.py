"""The deployed network against the network it was made of."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pyhar import ops
from pyhar.deploy import DeployedSPNet, choose_dtype, deploy
from pyhar.errors import UserError
from pyhar.models import PRESETS, SPNet, SPNetConfig, SPNetOutput

TINY = SPNetConfig(
    num_joints=5,
    dim=3,
    image_size=32,
    clip_frames=4,
    num_pyramids=3,
    action_pyramids=(2, 3),
    num_levels=3,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=32,
    num_actions=(4, 3),
)
RELEASE = {"appearance_source": "first", "confidence": "window", "grid": "corners", "reinjection": "logits"}
VARIANTS = {
    "paper": dataclasses.replace(TINY, action_layers="standard"),
    "centers, 2D, other stem": dataclasses.replace(TINY, grid="centers", dim=2, stem_features=6),
    "release": dataclasses.replace(TINY, **RELEASE),
    "decoupled": dataclasses.replace(TINY, decoupled=True),
    "release decoupled 2D": dataclasses.replace(TINY, dim=2, decoupled=True, **RELEASE),
    "release decoupled 3D": dataclasses.replace(TINY, decoupled=True, **RELEASE),
    "pose features": dataclasses.replace(TINY, action_streams="pose"),
    "appearance features, decoupled": dataclasses.replace(TINY, action_streams="appearance", decoupled=True),
    "pose alone": dataclasses.replace(TINY, action_pyramids=(), num_actions=()),
    "actions at first": dataclasses.replace(TINY, action_pyramids=(1, 3), kernel_size=3),
}


def trained(config: SPNetConfig, seed: int = 0) -> SPNet:
    """A network with norms that are not the initial ones, scaled so that maps have peaks and activations stay of order
    1, as in a trained one."""
    torch.manual_seed(seed)
    model = SPNet(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    frames = clip(config, 4)
    model.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics are those of the data then
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.9
            model(frames)
        for visit in model.path:
            if visit.block.heat is not None:
                visit.block.heat.weight *= 2
    return model.eval()


def clip(config: SPNetConfig, frames: int = 4, batch: int = 2) -> Tensor:
    size = 2 * config.size_multiple
    return torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tensors(output: SPNetOutput) -> Iterator[Tensor]:
    yield from output.poses
    for block in output.actions:
        yield from block
    for maps in output.maps:
        yield from (value for value in maps if value is not None)


def assert_same(found: SPNetOutput, expected: SPNetOutput, tolerance: float = 1e-4) -> None:
    assert len(found.poses) == len(expected.poses)
    assert [len(block) for block in found.actions] == [len(block) for block in expected.actions]
    assert [[value is None for value in maps] for maps in found.maps] == [
        [value is None for value in maps] for maps in expected.maps
    ]
    for value, reference in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(value, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_gives_the_networks_answers(name: str) -> None:
    config = VARIANTS[name]
    model = trained(config)
    deployed = deploy(model)
    assert deployed.config == config
    assert (deployed.num_pose_blocks, deployed.num_action_blocks) == (model.num_pose_blocks, model.num_action_blocks)
    frames = clip(config)
    with torch.no_grad():
        expected, still = model(frames, keep_maps=True), model(frames[:, 0])
    assert expected.poses[-1].std() > 0.01  # the maps have peaks: there is something to find
    assert_same(deployed(frames, keep_maps=True), expected)
    assert_same(deployed(frames[:, 0]), still)
    assert deployed(frames).maps == []


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("pose", "action"), [(-1, -1), (1, None), (None, 1), (3, 0), (0, 3), (None, -1)])
def test_cut_networks(name: str, pose: int | None, action: int | None) -> None:
    config = VARIANTS[name]
    if not config.num_actions and pose is None:
        pytest.skip("nothing left")
    cut = trained(config).cut(pose, action)
    frames = clip(config, batch=1)
    deployed = deploy(cut)
    with torch.no_grad():
        assert_same(deployed(frames), cut(frames))
        assert_same(deployed(frames[:, 0]), cut(frames[:, 0]))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    config = PRESETS[name]
    # The presets' own structure with fewer channels.
    small = {"pose_features": 32, "appearance_features": 32, "growth": 8, "stem_features": 8}
    config = dataclasses.replace(config, **small, image_size=64)
    model = trained(config)
    frames = clip(config, 8, 1)[..., : config.size_multiple, :]
    with torch.no_grad():
        assert_same(deploy(model)(frames), model(frames))
        if config.num_actions and not config.decoupled:
            model.decouple()
            for visit in model.path:
                if visit.block.action is not None:
                    visit.block.action.heat.weight.add_(0.1)  # type: ignore[union-attr]
            assert_same(deploy(model)(frames), model(frames))


@pytest.mark.parametrize("frames", [1, 3, 17])
def test_any_clip_length(frames: int) -> None:
    model = trained(TINY)
    with torch.no_grad():
        assert_same(deploy(model)(clip(TINY, frames)), model(clip(TINY, frames)))


def test_empty_batches_and_rectangular_pictures() -> None:
    model = trained(TINY)
    frames = clip(TINY)[..., :32]
    deployed = deploy(model)
    with torch.no_grad():
        assert_same(deployed(frames), model(frames))
        assert_same(deployed(frames[:0]), model(frames[:0]))


@pytest.mark.parametrize("name", ["release decoupled 3D", "paper"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_close(name: str, dtype: torch.dtype) -> None:
    model = trained(VARIANTS[name])
    frames = clip(TINY)
    with torch.no_grad():
        expected = list(tensors(model(frames)))
        with torch.autocast("cpu", dtype):  # coordinates are float32, from which the action part goes on
            plain = list(tensors(model.to(dtype)(frames.to(dtype))))
    found = list(tensors(deploy(trained(VARIANTS[name]), dtype=dtype)(frames)))
    assert all(value.dtype == torch.float32 for value in found)

    def off(values: list[Tensor]) -> list[float]:
        return [float((a.float() - b).abs().mean()) for a, b in zip(values, expected, strict=True)]

    # Both round their maps, at other places: neither loses far more than the other.
    assert 1e-6 < sum(off(found)) <= 2 * sum(off(plain))


@pytest.mark.parametrize("name", ["paper", "release decoupled 3D", "actions at first", "pose features"])
def test_the_two_parts_make_the_whole(name: str) -> None:
    model = trained(VARIANTS[name])
    deployed = deploy(model)
    frames = clip(TINY)
    whole = deployed(frames)
    seen = deployed.frame_features(frames.flatten(0, 1))
    clips = [block.each(lambda part: part.unflatten(0, (2, 4))) for block in seen.actions]
    for found, expected in zip(deployed.recognise(clips), whole.action_logits, strict=True):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=0, rtol=0)
    for found, expected in zip(seen.poses, whole.poses, strict=True):
        torch.testing.assert_close(found, expected.flatten(0, 1), atol=0, rtol=0)
    assert deployed.frame_features(frames[:, 0], actions=False).actions == []
    with pytest.raises(ValueError, match=r"action blocks, got 1"):
        deployed.recognise(clips[:1])


def test_what_nobody_reads_is_not_computed() -> None:
    config = dataclasses.replace(TINY, decoupled=True, **RELEASE)
    model = trained(config)
    frames = clip(config, batch=1)

    def operations(network: nn.Module, x: Tensor) -> int:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter, ops.use_backend("eager"):
            network(x)
        return counter.get_total_flops()

    cuts = [model.cut(pose, None) for pose in range(model.num_pose_blocks)]
    counts = [operations(deploy(cut), frames[:, 0]) for cut in cuts]
    assert counts == sorted(set(counts))
    # Depth is read with both signs where it is fed back, the stem is not padded, the shortcut is a quarter on the way
    # up: within a few per cent of the network's own count, block by block.
    for cut, count in zip(cuts, counts, strict=True):
        assert count <= 1.05 * operations(cut, frames[:, 0])
    assert operations(deploy(model), frames[:, 0]) < operations(deploy(model), frames[:, :1])
    assert operations(deploy(model.cut(None, 0)), frames) < operations(deploy(model.cut(-1, 0)), frames)


def test_weights_are_copies() -> None:
    model = trained(TINY)
    deployed = deploy(model)
    before = deployed(clip(TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same(deployed(clip(TINY)), before, 0.0)
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert not any(value.requires_grad for value in tensors(deployed(clip(TINY))))


def test_kernels_of_gpus_take_the_weights_as_they_lie() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from pyhar.kernels.triton.unit_product import taps_outside
    from pyhar.kernels.triton.unit_separable import channels_inside

    weights = {name: buffer for name, buffer in deploy(trained(TINY)).named_buffers() if buffer.dim() == 4}
    assert any("depthwise" in name for name in weights)
    for name, weight in weights.items():
        read = channels_inside if name.endswith("depthwise") else taps_outside
        assert read(weight).data_ptr() == weight.data_ptr(), name


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast))], ids=["copy", "pickle"]
)
def test_copies_answer_alike_after_calls_were_kept(copied: Callable[[DeployedSPNet], DeployedSPNet]) -> None:
    fast, frames = deploy(trained(TINY)), clip(TINY, 1)
    for _ in range(2):
        expected = fast(frames)
    other = copied(fast)
    for _ in range(3):
        assert_same(other(frames), expected, 0.0)


def test_a_deployed_network_keeps_its_type_wherever_it_goes() -> None:
    fast, frames = deploy(trained(TINY), dtype=torch.bfloat16), clip(TINY, 1)
    expected = fast(frames)
    for change in (fast.float, fast.half, fast.double, lambda: fast.to(torch.float16)):
        with pytest.raises(UserError, match="keeps its type: deploy the SPNet that it was made of in another one"):
            change()
    assert_same(fast.to("cpu").to(memory_format=torch.channels_last)(frames), expected, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_of_other_types_are_deployed(dtype: torch.dtype) -> None:
    model, frames = trained(TINY).half(), clip(TINY, 1)
    assert_same(deploy(model.to(dtype))(frames), deploy(model.float())(frames), 1e-6)


def test_bad_requests_are_named() -> None:
    with pytest.raises(UserError, match="only an SPNet can be deployed, not a DeployedSPNet"):
        deploy(deploy(trained(TINY)))  # type: ignore[arg-type]
    deployed = deploy(SPNet(TINY))
    with pytest.raises(UserError, match="only predicts"):
        deployed.train()
    assert deployed.eval() is deployed
    with pytest.raises(UserError, match="float64"):
        deploy(SPNet(TINY), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        deployed(torch.zeros(2, 4, 32, 32))
    with pytest.raises(UserError, match="multiples of 32"):
        deployed(torch.zeros(2, 3, 32, 40))
    with pytest.raises(ValueError, match="empty"):
        deployed(torch.zeros(2, 0, 3, 32, 32))
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        choose_dtype("bfloat61", torch.device("cpu"))
    assert choose_dtype("float16", torch.device("cpu")) == torch.float16
    assert choose_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
