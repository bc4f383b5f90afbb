import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyhar.errors import UserError
from pyhar.models import PRESETS, ActionInput, SPNet, SPNetConfig

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
    appearance_features=16,
    num_actions=(4, 3),
)
RELEASE = {
    "appearance_source": "first",
    "confidence": "window",
    "grid": "corners",
    "reinjection": "logits",
    "action_layers": "separable",
}
VARIANTS = {
    "paper": dataclasses.replace(TINY, action_layers="standard"),
    "release": dataclasses.replace(TINY, **RELEASE),
    "decoupled": dataclasses.replace(TINY, decoupled=True),
    "release decoupled 2D": dataclasses.replace(TINY, dim=2, decoupled=True, **RELEASE),
    "pose features": dataclasses.replace(TINY, action_streams="pose"),
    "appearance features, decoupled": dataclasses.replace(TINY, action_streams="appearance", decoupled=True),
    "pose alone": dataclasses.replace(TINY, action_pyramids=(), num_actions=()),
}


def make(config: SPNetConfig) -> SPNet:
    torch.manual_seed(0)
    model = SPNet(config)
    for module in model.modules():  # statistics that are not trivially 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def clip(config: SPNetConfig, frames: int = 4, batch: int = 2) -> Tensor:
    size = 2 * config.size_multiple
    return torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


PENN = dataclasses.replace(PRESETS["penn"], **RELEASE)
NTU = dataclasses.replace(PRESETS["ntu"], **RELEASE)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        pytest.param(
            dataclasses.replace(PENN, num_pyramids=2, action_pyramids=(1, 2), decoupled=True), 10.26, id="Table 4, P=2"
        ),
        pytest.param(PRESETS["penn-release"], 20.27, id="release, Penn"),
        pytest.param(dataclasses.replace(PENN, decoupled=True), 29.28, id="paper, Penn"),
        pytest.param(dataclasses.replace(PRESETS["ntu-release"], decoupled=True), 12.89, id="release, NTU"),
        pytest.param(dataclasses.replace(NTU, decoupled=True), 34.76, id="paper, NTU"),
        pytest.param(dataclasses.replace(PRESETS["pose"], **RELEASE), 21.34, id="pose baseline"),
    ],
)
def test_parameter_count(config: SPNetConfig, millions: float) -> None:
    with torch.device("meta"):
        total = count(SPNet(config))
    # Published counts include the last block's re-injections, which feed nothing and are not built here.
    joints, features = config.num_joints, 3 * config.growth
    total += features * joints + 2 * joints * features + (joints * features if config.dim == 3 else 0)
    total += sum(config.num_actions) * 9 * max(config.pose_features, config.appearance_features)
    assert round(total / 1e6, 2) == millions


def test_the_authors_count() -> None:
    with torch.device("meta"):
        assert count(SPNet(PRESETS["penn-release"])) == 20_236_000
        assert count(SPNet(dataclasses.replace(NTU, decoupled=True))) == 34_634_288


def test_where_the_paper_and_the_release_differ_the_presets_do() -> None:
    for name, config in PRESETS.items():
        if name in ("penn", "ntu"):
            assert {key: getattr(config, key) for key in RELEASE} == {
                "appearance_source": "same",  # Sec. 3.3.2
                "confidence": "max",  # Sec. 3.2.3
                "grid": "unit",  # Eq. 8
                "reinjection": "maps",  # Eq. 10
                "action_layers": "separable",
            }
        elif "release" in name:
            assert {key: getattr(config, key) for key in RELEASE} == RELEASE
    earlier = {key: value for key, value in TINY.to_dict().items() if key != "action_layers"}
    assert SPNetConfig.from_dict(earlier).action_layers == "separable"  # files that do not say it


def test_standard_action_layers_are_plain_3x3_convolutions() -> None:
    model = make(VARIANTS["paper"])
    units = [visit.action_unit for visit in model.path if visit.action_unit is not None]
    assert len(units) == model.num_action_blocks - 1
    y = torch.randn(2, 16, 4, 3)
    for unit in units:
        norm, weight = unit.norm, unit.main.weight
        assert weight.shape == (16, 16, 3, 3)
        scale = norm.weight / (norm.running_var + 1e-3).sqrt()
        a = (scale[:, None, None] * (y - norm.running_mean[:, None, None]) + norm.bias[:, None, None]).relu()
        torch.testing.assert_close(unit(y), y + torch.conv2d(a, weight, padding=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes(name: str) -> None:
    config = VARIANTS[name]
    model = make(config)
    with torch.no_grad():
        out = model(clip(config), keep_maps=True)
        still = model(clip(config)[:, 0])
    assert [tuple(pose.shape) for pose in out.poses] == [(2, 4, 5, config.dim + 1)] * 6
    assert [[tuple(a.shape) for a in block] for block in out.actions] == [
        [(2, n) for n in config.num_actions]
    ] * model.num_action_blocks
    for block in out.actions:
        for probabilities in block:
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))
    assert [tuple(pose.shape) for pose in still.poses] == [(2, 5, config.dim + 1)] * 6
    assert still.actions == []
    assert len(out.maps) == 6
    assert out.maps[0].heat_logits.shape[:2] == (8, 5)
    assert (out.maps[-1].action_heat_logits is not None) == config.decoupled
    for pose, of_still in zip(out.poses, still.poses, strict=True):
        torch.testing.assert_close(pose[:, 0], of_still, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 17])
def test_any_clip_length(frames: int) -> None:
    out = make(TINY)(clip(TINY, frames))
    assert out.poses[-1].shape == (2, frames, 5, 4)
    assert out.actions[-1][0].shape == (2, 4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("cut", [None, (0, 3), (5, 1), (None, 2), (2, None)])
def test_frames_seen_one_by_one_and_then_put_together_are_a_clip(name: str, cut: tuple | None) -> None:
    config = VARIANTS[name]
    if not config.num_actions and cut is not None and cut[0] is None:
        pytest.skip("nothing left")
    model = make(config) if cut is None else make(config).cut(*cut)
    frames = clip(config)
    with torch.no_grad():
        whole = model(frames)
        seen = [model.frame_features(frames[:, t]) for t in range(frames.shape[1])]
        parts = zip(*(frame.actions for frame in seen), strict=True)
        clips = [
            ActionInput(*(None if part[0] is None else torch.stack(part, 1) for part in zip(*block, strict=True)))
            for block in parts
        ]
        logits = model.recognise(clips)
    for t, frame in enumerate(seen):
        assert len(frame.poses) == model.num_pose_blocks
        for pose, of_clip in zip(frame.poses, whole.poses, strict=True):
            torch.testing.assert_close(pose, of_clip[:, t], atol=1e-5, rtol=1e-4)
    assert len(logits) == model.num_action_blocks
    for block, of_clip in zip(logits, whole.action_logits, strict=True):
        for head, expected in zip(block, of_clip, strict=True):
            torch.testing.assert_close(head, expected, atol=1e-4, rtol=1e-4)


def test_frame_features_computes_what_is_asked_for() -> None:
    model = make(TINY)
    stills = clip(TINY)[:, 0]
    assert model.frame_features(stills, actions=False).actions == []
    found = model.frame_features(stills, keep_maps=True)
    assert [tuple(part.shape) for part in found.actions[0]] == [(2, 5, 3), (2, 5), (2, 5, 32)]
    assert len(found.maps) == 6
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        model.frame_features(clip(TINY))
    with pytest.raises(ValueError, match="input of 4 action blocks, got 3"):
        model.recognise(found.actions[:3])


@pytest.mark.parametrize("name", VARIANTS)
def test_cut_equals_the_full_network(name: str) -> None:
    config = VARIANTS[name]
    model = make(config)
    with torch.no_grad():
        full = model(clip(config))
        for pose_block in (None, *range(model.num_pose_blocks)):
            for action_block in (None, *range(model.num_action_blocks)):
                if pose_block is None and action_block is None:
                    continue
                cut = model.cut(pose_block, action_block)
                out = cut(clip(config))
                assert len(out.poses) == (pose_block is not None)
                assert len(out.actions) == (action_block is not None)
                if pose_block is not None:
                    torch.testing.assert_close(out.poses[0], full.poses[pose_block], atol=1e-6, rtol=1e-5)
                if action_block is not None:
                    for a, b in zip(out.actions[0], full.actions[action_block], strict=True):
                        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("pose_block", "action_block"), [(-1, -1), (1, None), (None, 1), (2, 0), (0, 3), (-1, 0)])
def test_cut_computes_nothing_unread(name: str, pose_block: int | None, action_block: int | None) -> None:
    config = VARIANTS[name]
    if not config.num_actions and pose_block is None:
        pytest.skip("nothing left")
    cut = make(config).cut(pose_block, action_block)
    # Every parameter that is left must reach an output.
    out = cut(clip(config))
    total = sum(pose.square().sum() for pose in out.poses) + sum(
        a.square().sum() for block in out.action_logits for a in block
    )
    grads = torch.autograd.grad(total, list(cut.parameters()), allow_unused=True)
    unread = [key for (key, _), grad in zip(cut.named_parameters(), grads, strict=True) if grad is None]
    assert unread == []


@pytest.mark.parametrize("name", VARIANTS)
def test_stills_end_at_the_last_pose_of_a_cut(name: str) -> None:
    """What lies between a cut's pose and its action is computed of clips alone."""
    config = VARIANTS[name]
    cut = make(config).cut(1, -1)
    ran = set()
    for key, module in cut.named_modules():
        module.register_forward_hook(lambda *_, key=key: ran.add(f"{key}."))
    (pose,) = cut(clip(config)[:, 0]).poses
    grads = torch.autograd.grad(pose.square().sum(), list(cut.parameters()), allow_unused=True)
    unread = [key for (key, _), grad in zip(cut.named_parameters(), grads, strict=True) if grad is None]
    assert not ran & {key.rpartition(".")[0] + "." for key in unread}
    torch.testing.assert_close(pose, cut(clip(config)).poses[0][:, 0], atol=1e-5, rtol=1e-4)


def test_cut_shares_parameters_and_says_what_is_wrong() -> None:
    model = make(TINY)
    cut = model.cut(2, 0)
    assert cut.get_parameter("entry.stem.weight") is model.get_parameter("entry.stem.weight")
    assert cut.num_pose_blocks == cut.num_action_blocks == 1
    assert count(cut) < count(model)
    with pytest.raises(UserError, match="no pose block 6"):
        model.cut(6)
    with pytest.raises(UserError, match="no action block -5"):
        model.cut(0, -5)
    with pytest.raises(UserError, match="cut already"):
        cut.cut(0)
    with pytest.raises(UserError, match="at least one"):
        model.cut(None, None)


def test_decoupling_starts_equal_and_isolates_the_heads() -> None:
    model = make(TINY)
    frames = clip(TINY)
    with torch.no_grad():
        before = model(frames)
    model.decouple()
    out = model(frames)
    for a, b in zip((out.poses[-1], out.actions[-1][0]), (before.poses[-1], before.actions[-1][0]), strict=True):
        torch.testing.assert_close(a, b)
    out.action_logits[-1][0].square().sum().backward()
    last = model.visits[-1].block
    assert last.heat.weight.grad is None
    assert last.action.heat.weight.grad.abs().sum() > 0
    assert last.action.depth.weight.grad.abs().sum() > 0
    with pytest.raises(UserError, match="decoupled already"):
        model.decouple()
    with pytest.raises(UserError, match="recognises no actions"):
        make(VARIANTS["pose alone"]).decouple()


def test_freezing_keeps_the_pose_part() -> None:
    model = make(TINY).freeze_pose().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pose = {id(parameter) for parameter in model.pose_parameters()}
    assert not any(parameter.requires_grad for parameter in model.pose_parameters())
    assert all(parameter.requires_grad for parameter in model.action_parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(scores.square().sum() for block in model(clip(TINY)).action_logits for scores in block).backward()
    optimizer.step()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & {names[key] for key in pose}
    assert not any("running" in name and ".action" not in name for name in changed)
    assert any("running" in name and ".action." in name for name in changed)
    model.freeze_pose(False).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_wrong_input() -> None:
    model = make(TINY)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        model(torch.zeros(2, 4, 32, 32))
    with pytest.raises(UserError, match="multiples of 32"):
        model(torch.zeros(2, 3, 32, 40))
    with pytest.raises(UserError, match=r"0x32 pixels .* multiples of 32"):
        model(torch.zeros(2, 3, 32, 0))
    with pytest.raises(ValueError, match="empty"):
        model(torch.zeros(2, 0, 3, 32, 32))
    with pytest.raises(TypeError, match=r"frames: expected a floating type, RGB / 127.5 - 1, got torch.uint8"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_frames_of_any_floating_type(dtype: torch.dtype) -> None:
    model, frames = make(TINY), clip(TINY).to(dtype)
    with torch.no_grad():
        answers, expected = model(frames), model(frames.float())
    assert torch.equal(answers.poses[-1], expected.poses[-1])
    assert torch.equal(answers.action_logits[-1][0], expected.action_logits[-1][0])


def test_a_network_in_half_precision() -> None:
    model, frames = make(TINY), clip(TINY)
    with torch.no_grad():
        expected, answers = model(frames), model.bfloat16()(frames)
    for answer, right in zip(answers.actions[-1], expected.actions[-1], strict=True):
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, right, rtol=0, atol=0.05)


def test_rectangular_pictures() -> None:
    assert make(TINY)(torch.zeros(1, 3, 64, 32)).poses[-1].shape == (1, 5, 4)


def test_wrong_configuration() -> None:
    for change, message in [
        ({"dim": 4}, "dim must be 2 or 3"),
        ({"growth": 7}, "growth must be even"),
        ({"action_pyramids": (9,)}, "action pyramid 9"),
        ({"num_actions": ()}, "must both be given"),
        ({"grid": "corner"}, "did you mean 'corners'"),
        ({"pose_features": 20}, "multiple of 16"),
        ({"pose_features": 0}, "pose_features must be at least 1, not 0"),
        ({"kernel_size": -3}, "kernel_size must be at least 1, not -3"),
        ({"num_joints": 5.0}, r"num_joints must be a whole number, not 5\.0"),
        ({"growth": "8"}, "growth must be a whole number, not '8'"),
        ({"num_actions": 4}, "num_actions must be a tuple of whole numbers, not 4"),
        ({"action_pyramids": (2.5,)}, r"each of action_pyramids must be a whole number, not 2\.5"),
    ]:
        with pytest.raises(UserError, match=message):
            dataclasses.replace(TINY, **change)
    assert SPNetConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(UserError, match="did you mean 'growth'"):
        SPNetConfig.from_dict({"growht": 1})


def test_lists_and_numpy_numbers_in_a_configuration() -> None:
    """They become what a model file gives back."""
    made = dataclasses.replace(TINY, num_joints=np.int64(5), action_pyramids=[2, 3], num_actions=[np.int64(4), 3])
    assert made == TINY
    assert json.loads(json.dumps(made.to_dict())) == json.loads(json.dumps(TINY.to_dict()))
