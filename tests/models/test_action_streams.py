"""Networks whose action part reads coordinates or appearance alone (Table 5): what is left out is neither built nor
computed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pyhar import ops
from pyhar.benchmarking.counting import operations
from pyhar.deploy import deploy
from pyhar.errors import UserError
from pyhar.inference.streaming import StreamingPredictor
from pyhar.models import ActionInput, ModelMeta, SPNet, SPNetConfig, load_model, save_model

BOTH = SPNetConfig(
    num_joints=5,
    dim=3,
    layout="five",
    image_size=32,
    clip_frames=4,
    num_pyramids=2,
    action_pyramids=(1, 2),
    num_levels=3,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=32,
    num_actions=(4, 3),
)
POSE = dataclasses.replace(BOTH, action_streams="pose")
APPEARANCE = dataclasses.replace(BOTH, action_streams="appearance")
REDUCED = pytest.mark.parametrize("config", [POSE, APPEARANCE], ids=["pose", "appearance"])


def make(config: SPNetConfig) -> SPNet:
    torch.manual_seed(0)
    model = SPNet(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():  # random weights alone answer much the same to all
        for name, weight in model.named_parameters():
            if ".action.heads." in name:
                weight.mul_(10)
    return model.eval()


def clip(config: SPNetConfig, batch: int = 1) -> torch.Tensor:
    size = config.image_size
    return torch.rand(batch, 4, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("config", "n"), [(BOTH, 32), (POSE, 16), (APPEARANCE, 32)], ids=["both", "pose", "app."])
def test_parameters_of_the_action_part(config: SPNetConfig, n: int, decoupled: bool) -> None:
    model = make(dataclasses.replace(config, decoupled=decoupled))
    blocks = [visit.block for visit in model.path]
    for number, (block, channels) in enumerate(zip(blocks, (32, 40, 32, 24), strict=True)):
        expected, inputs = 0, n if number else 0
        if config is not APPEARANCE:
            expected += 3 * (3 * 1 * 1 + 3 * 3 * 2 + 3 * 5 * 4)  # of x, y, z, to Np / 16, Np / 8 and Np / 4 features
            expected += 2 * 7 + 7 * 16 + 7 * 8 + 2 * 8 + 9 * 8 * 16  # unit: norm, shortcut, to a half, norm, 3x3
            inputs += 16
        if config is not POSE:
            expected += channels * 32
            inputs += 32
        middle = n // 4
        expected += 2 * inputs + (inputs * n if inputs != n else 0) + inputs * middle + 2 * middle + 9 * middle * n
        expected += 2 * n + 9 * n * n + 2 * n + 9 * n * 7 + (9 * 7 * n if number < 3 else 0)
        if decoupled:
            expected += 5 * channels * (1 if config is APPEARANCE else 2)  # nobody reads a depth of its own
        assert block.action is not None
        assert count(block.action) == expected
    assert [visit.action_unit is not None for visit in model.path] == [False, True, True, True]
    assert count(model.path[1].action_unit) == 2 * n + 9 * n + n * n  # type: ignore[arg-type]


@REDUCED
def test_nothing_of_the_other_stream_has_an_effect(config: SPNetConfig) -> None:
    model = make(config)
    frames = clip(config)
    given = ActionInput(torch.rand(1, 4, 5, 3), torch.rand(1, 4, 5), torch.rand(1, 4, 5, 40))
    for network in (model, deploy(model)):
        with torch.no_grad():
            seen = network.frame_features(frames.flatten(0, 1)).actions
            assert all((part is None) == (config is POSE) for part in (block.appearance for block in seen))
            assert all((part is None) == (config is APPEARANCE) for block in seen for part in block[:2])
            clips = [block.each(lambda part: part[None]) for block in seen]
            expected = network.recognise(clips)
            filled = [
                ActionInput(*(other if part is None else part for part, other in zip(block, given, strict=True)))
                for block in clips
            ]
            for same in (clips, filled, clips):  # the deployed network keeps its calls from the second on
                for found, block in zip(network.recognise(same), expected, strict=True):
                    torch.testing.assert_close(found, block, rtol=0, atol=0)
            changed = [block.each(torch.zeros_like) for block in clips]
            assert not torch.allclose(network.recognise(changed)[-1][0], expected[-1][0], atol=1e-4)
        lacking = [block._replace(confidence=None, appearance=None) for block in clips]
        with pytest.raises(
            ValueError, match=r"clips: the network reads (coordinates and confidence|appearance), which"
        ):
            network.recognise(lacking)


@pytest.mark.parametrize("deployed", [False, True], ids=["plain", "deployed"])
@pytest.mark.parametrize(
    ("config", "pose_block", "expected"),
    [
        (POSE, -1, {"decode_pose"}),
        (POSE, None, {"decode_pose"}),
        (APPEARANCE, -1, {"decode_pose_and_appearance", "pool_appearance"}),  # of one block both are answers
        (APPEARANCE, None, {"pool_appearance"}),
        (dataclasses.replace(APPEARANCE, decoupled=True), -1, {"decode_pose", "pool_appearance"}),
        (BOTH, None, {"decode_pose_and_appearance"}),
    ],
)
def test_kernels_of_what_is_left_out_are_not_called(
    config: SPNetConfig, pose_block: int | None, expected: set[str], deployed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(config).cut(pose_block, -1)
    network = deploy(model) if deployed else model
    called = set()
    for name in ("decode_pose", "pool_appearance", "decode_pose_and_appearance"):

        def spy(*args: object, name: str = name, original: object = getattr(ops, name), **options: object) -> object:
            called.add(name)
            return original(*args, **options)  # type: ignore[operator]

        monkeypatch.setattr(ops, name, spy)
    network(clip(config))
    assert called == expected


def test_each_stream_costs_something() -> None:
    frames = clip(BOTH)
    cuts = {config.action_streams: make(config).cut(None, -1) for config in (BOTH, POSE, APPEARANCE)}
    for form in (lambda model: model, deploy):
        costs = {name: operations(form(cut), frames) for name, cut in cuts.items()}
        assert max(costs["pose"], costs["appearance"]) < costs["both"]
    names = {name for name, _ in cuts["appearance"].named_parameters()}
    assert any(".block.heat." in name for name in names)
    # The last block's depth serves nobody; those before it go back into the features.
    assert [visit.block.depth is not None for visit in cuts["appearance"].path] == [True, True, True, False]
    assert [visit.block.depth is not None for visit in cuts["pose"].path] == [True] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@REDUCED
def test_deployed_networks_answer_alike(config: SPNetConfig, dtype: torch.dtype) -> None:
    model, frames = make(config), clip(config, 2)
    fast, error = deploy(model, dtype=dtype), 1e-4 if dtype == torch.float32 else 0.1
    with torch.no_grad():
        expected = model(frames)
    for _ in range(3):
        found = fast(frames)
        for pose, reference in zip(found.poses, expected.poses, strict=True):
            torch.testing.assert_close(pose, reference, atol=error, rtol=0)
        for block, references in zip(found.actions, expected.actions, strict=True):
            torch.testing.assert_close(block, references, atol=error, rtol=0)


@REDUCED
def test_decoupling_starts_equal(config: SPNetConfig) -> None:
    model, frames = make(config), clip(config)
    with torch.no_grad():
        before = model(frames)
        after = model.decouple()(frames)
    torch.testing.assert_close(after.poses, before.poses)
    torch.testing.assert_close(after.action_logits, before.action_logits)
    assert model.state_dict().keys() == SPNet(dataclasses.replace(config, decoupled=True)).state_dict().keys()


@REDUCED
def test_streams_of_frames_answer_as_clips_do(config: SPNetConfig) -> None:
    model = make(config)
    stream = StreamingPredictor(model, ModelMeta.default(config), device="cpu")
    rgb = ((clip(config)[0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
    with torch.no_grad():
        expected = model(rgb.permute(0, 3, 1, 2)[None] / 127.5 - 1).actions[-1][0][0]
    *_, last = stream.predict_frames(list(rgb.numpy()), box=(0, 0, 32, 32))
    assert last.action is not None
    torch.testing.assert_close(torch.tensor(list(last.action.probabilities[0].values())), expected, atol=0.02, rtol=0)
    moving: dict[int | str, tuple[float, float, float, float]] = {i: (i, 0, 28 + i, 28) for i in range(4)}
    assert list(stream.predict_frames(list(rgb.numpy()), box=moving))[-1].action is not None


@REDUCED
def test_files(config: SPNetConfig, tmp_path: Path) -> None:
    model = make(config)
    path = tmp_path / "model.safetensors"
    save_model(path, model, ModelMeta.default(config))
    loaded, _ = load_model(path)
    assert loaded.config == config
    torch.testing.assert_close(loaded(clip(config)).action_logits, model(clip(config)).action_logits)
    values = config.to_dict()
    del values["action_streams"]
    assert SPNetConfig.from_dict(values) == BOTH
    header = {"pyhar": json.dumps({"config": values, "meta": dataclasses.asdict(ModelMeta.default(config))})}
    save_file(load_file(path), path, metadata=header)
    absent = "appearance_conv" if config is POSE else "pose_convs"
    with pytest.raises(UserError, match=rf"another configuration than this network: missing \S+\.action\.{absent}"):
        load_model(path)


def test_names_of_streams() -> None:
    with pytest.raises(UserError, match="did you mean 'appearance'"):
        dataclasses.replace(BOTH, action_streams="apearance")  # type: ignore[arg-type]
