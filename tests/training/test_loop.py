"""Whole runs on the tiny data: what each stage changes, stopping and going on, and what stops a run."""

import dataclasses
import json
import signal

import pytest
import tiny_training
import torch
from tiny_training import config, only, register, run

from pyhar.data.layouts import PA16, custom_layout
from pyhar.errors import UserError
from pyhar.evaluate import _load
from pyhar.models import SPNet, load_model
from pyhar.training import loop
from pyhar.training.checkpoint import WeightAverage, read_checkpoint
from pyhar.training.config import LossConfig, OptimizerConfig, load_config
from pyhar.training.interrupt import Interrupted
from pyhar.training.sampling import StepBatches
from pyhar.training.setup import build_data
from pyhar.training.stages import prepare

STAGES = ("pose", "action", "joint", "decoupled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of an uninterrupted run of all stages."""
    register()
    return run(config(tmp_path_factory.mktemp("whole")))


def log_of(directory):
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "frames_per_s"} for line in lines]


def weights_of(path):
    return load_model(path)[0].state_dict()


def action_names(model):
    """Names of the state that belongs to the action part."""
    parts = {id(module) for module in model.action_modules()}
    prefixes = tuple(name + "." for name, module in model.named_modules() if id(module) in parts)
    return {name for name in model.state_dict() if name.startswith(prefixes)}


def test_a_run_leaves_its_files(whole):
    assert {path.name for path in whole.iterdir()} == {
        "config.yaml", "last.pt", "log.jsonl", "model.safetensors", "stages", "tensorboard"
    }  # fmt: skip
    assert {path.name for path in (whole / "stages").iterdir()} == {f"{stage}.safetensors" for stage in STAGES}
    assert list((whole / "tensorboard").iterdir())
    assert load_config(whole / "config.yaml") == config(whole)
    model, meta = load_model(whole)
    assert model.config.decoupled
    assert meta.action_names == [["sit", "stand", "walk"]]
    assert meta.joint_layout == PA16
    assert meta.extra["preset"] == "tiny"
    lines = log_of(whole)
    assert [(line["stage"], line["step"]) for line in lines] == [(stage, step) for stage in STAGES for step in (2, 4)]
    assert [line["global_step"] for line in lines] == list(range(2, 17, 2))
    assert "action_loss" not in lines[0]
    assert "pose_loss" not in lines[2]
    assert {"pose_loss", "confidence_loss", "action_loss", "lr", "loss"} <= set(lines[4])


def test_channels_are_raised_to_their_powers(tmp_path, monkeypatch):
    register()
    pictures, used = loop.model_input, []

    def spy(frames, device, colour_power):
        used.append(colour_power)
        return pictures(frames, device, colour_power=colour_power)

    monkeypatch.setattr(loop, "model_input", spy)
    run(only(config(tmp_path, steps=1), "pose"))
    assert used[0].shape == (4, 3)
    assert len(used[0].unique()) == 12


def test_the_action_stage_keeps_poses_bit_for_bit(whole):
    before, after = (weights_of(whole / "stages" / f"{stage}.safetensors") for stage in ("pose", "action"))
    of_action = action_names(load_model(whole / "stages" / "action.safetensors")[0])
    assert any("running_mean" in name for name in set(before) - of_action)
    assert all(torch.equal(before[name], after[name]) for name in set(before) - of_action)
    assert all(not torch.equal(before[name], after[name]) for name in of_action)


def test_each_stage_trains_its_part(whole):
    start = SPNet(config().model)
    of_action = action_names(start)
    torch.manual_seed(config().seed)
    first = SPNet(config().model).state_dict()
    pose, action, joint = (weights_of(whole / "stages" / f"{stage}.safetensors") for stage in STAGES[:3])
    last = weights_of(whole)
    assert all(torch.equal(first[name], pose[name]) for name in of_action)
    for before, after in ((first, pose), (action, joint), (joint, last)):
        assert all(not torch.equal(before[name], after[name]) for name in set(first) - of_action)
    assert all(not torch.equal(joint[name], last[name]) for name in of_action)
    block = load_model(whole)[0].visits[0].block
    assert not torch.equal(block.action.heat.weight, block.heat.weight)


def test_joint_steps_alternate(tmp_path, monkeypatch):
    seen = []
    losses = loop.batch_losses
    monkeypatch.setattr(
        loop,
        "batch_losses",
        lambda task, output, *rest: seen.append((task, len(output.action_logits))) or losses(task, output, *rest),
    )
    run(only(config(tmp_path), "joint"))
    assert seen == [("pose", 0), ("action", 2)] * 2


@pytest.mark.parametrize(("stage", "step"), [("pose", 1), ("action", 3), ("joint", 1), ("decoupled", 3)])
def test_a_resumed_run_ends_the_same(whole, tmp_path, stage, step):
    # The data sends an interrupt with the first sample of this step; the step is finished, then the run stops.
    turns = {"pose": step, "action": step, "joint": (step + 1) // 2, "decoupled": (step + 1) // 2}[stage]
    poses_before = {"pose": 0, "action": 4, "joint": 4, "decoupled": 6}[stage]
    clips_before = {"pose": 0, "action": 0, "joint": 4, "decoupled": 6}[stage]
    on_clips = stage == "action"
    at = (clips_before + turns - 1) * 2 + 1 if on_clips else (poses_before + turns - 1) * 4 + 1
    only_on = "clips" if on_clips else "pose"
    plain = tiny_training.TinyData
    tiny_training.registry.DATASETS["tiny"] = lambda split, kind, **given: plain(
        kind, **given, interrupt_at=at if kind == only_on else 0
    )
    with pytest.raises(
        Interrupted, match=f"stopped after step {step} of stage '{stage}'; go on with: .*--resume"
    ) as stop:
        run(config(tmp_path))
    assert stop.value.status == 130
    assert read_checkpoint(tmp_path / "last.pt")["progress"]["step"] == step
    assert not (tmp_path / "model.safetensors").exists()

    register()
    run(config(tmp_path), resume=True)
    expected, got = weights_of(whole), weights_of(tmp_path)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert log_of(tmp_path) == log_of(whole)
    for name in STAGES:
        a, b = (weights_of(folder / "stages" / f"{name}.safetensors") for folder in (whole, tmp_path))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_other_optimisers_resume_the_same(tmp_path, kind):
    changes = {"optimizer": OptimizerConfig(kind, lr=1e-2, momentum=0.9), "grad_clip": 1.0, "ema_decay": 0.0}
    whole = run(only(config(tmp_path / "whole", **changes), "joint"))
    settings = only(config(tmp_path / "parts", **changes), "joint")
    register(interrupt_at=1)
    for step in (1, 2):  # once in the step on poses, once in the one on clips
        with pytest.raises(Interrupted, match=f"after step {step}"):
            run(settings, resume=step > 1)
    register()
    run(settings, resume=True)
    expected, got = weights_of(whole), weights_of(tmp_path / "parts")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_later_log_is_cut_back(whole, tmp_path):
    settings = only(config(tmp_path), "pose")
    run(settings)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"stage": "action", "global_step": 6}\n{"sta\n{"stage": "act')
    run(settings, resume=True)
    assert [line["global_step"] for line in log_of(tmp_path)] == [2, 4]


def test_terminated_is_143(tmp_path):
    register(interrupt_at=2, interrupt=signal.SIGTERM)
    with pytest.raises(Interrupted) as stop:
        run(config(tmp_path))
    assert stop.value.status == 143


def test_signals_are_as_before_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(only(config(tmp_path, steps=1), "pose"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nan_at_the_first_step_names_the_samples(tmp_path):
    register(poisoned=range(24))
    with pytest.raises(loop.TrainingError) as stop:
        run(only(config(tmp_path), "pose"))
    message = str(stop.value)
    assert "step 1 of stage 'pose': the loss is nan" in message
    assert "none had been written yet" in message
    assert message.count("tiny/pose/") == 4
    assert not (tmp_path / "last.pt").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_nan_later_names_the_last_good_checkpoint(tmp_path):
    settings = only(config(tmp_path, checkpoint_every=1), "pose")
    data = build_data(settings)
    keys = StepBatches("pose", settings.stages.pose, data, (), settings.seed).keys(2)
    register(poisoned=[keys[1][2]])
    with pytest.raises(loop.TrainingError) as stop:
        run(settings)
    message = str(stop.value)
    assert "step 3 of stage 'pose'" in message
    assert f"the last good one is {tmp_path / 'last.pt'}" in message
    assert f"tiny/pose/{keys[1][2]}" in message
    state = read_checkpoint(tmp_path / "last.pt")
    assert state["progress"] == {"stage": "pose", "step": 2, "global_step": 2}
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, monkeypatch):
    losses = loop.batch_losses

    def steep(*arguments):
        made = losses(*arguments)
        return made._replace(total=made.total + (made.total - made.total.detach()).sqrt())  # 0, with an infinite slope

    monkeypatch.setattr(loop, "batch_losses", steep)
    with pytest.raises(loop.TrainingError, match=r"the loss is \d\.\d+, the norm of its gradient (nan|inf)"):
        run(only(config(tmp_path), "pose"))
    assert not (tmp_path / "last.pt").exists()


def test_unreadable_samples_are_counted(tmp_path, capsys):
    register(broken=(3, 4, 5))
    run(only(config(tmp_path, steps=6), "pose"))
    out = capsys.readouterr().out
    # Every one of 24 samples is drawn once, and its successor is tried where it cannot be read.
    assert [out.count(f"skipped a sample: tiny/{n}.jpg is broken\n") for n in (3, 4, 5)] == [1, 1, 1]
    assert out.endswith(
        "6 times a sample could not be read and was replaced by another:\n"
        "  3 times: tiny/5.jpg is broken\n  2 times: tiny/4.jpg is broken\n  1 times: tiny/3.jpg is broken\n"
    )


def test_start_from_poses_alone(whole, tmp_path):
    start = whole / "stages" / "pose.safetensors"
    run(only(config(tmp_path, init=str(start), steps=1), "action"))
    before, after = weights_of(start), weights_of(tmp_path)
    of_action = action_names(load_model(tmp_path)[0])
    assert all(torch.equal(before[name], after[name]) for name in set(before) - of_action)


def test_start_from_other_classes_keeps_what_fits(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tiny_training.TinyData, "action_names", ("sit", "stand", "walk", "run"))
    run(only(config(tmp_path, init=str(whole), steps=1), "action"))
    model, meta = load_model(tmp_path)
    assert model.config.num_actions == (4,)
    assert meta.action_names[0][-1] == "run"
    assert "weights of the action part start anew" in capsys.readouterr().out


def test_start_from_another_network_is_refused(whole, tmp_path):
    model = tiny_training.dataclasses.replace(tiny_training.MODEL, growth=16)
    with pytest.raises(UserError, match="its pose part is another network's"):
        run(config(tmp_path, model=model, init=str(whole)))
    assert list(tmp_path.iterdir()) == []


def test_resume_with_another_network_is_refused(tmp_path):
    run(only(config(tmp_path, steps=1), "pose"))
    model = tiny_training.dataclasses.replace(tiny_training.MODEL, growth=16)
    with pytest.raises(UserError, match=r"network of .*last.pt has growth 8, this configuration's 16"):
        run(only(config(tmp_path, steps=2, model=model), "pose"), resume=True)
    assert load_config(tmp_path / "config.yaml").model.growth == 8


def test_resume_with_another_optimiser_is_refused(tmp_path):
    run(only(config(tmp_path, steps=1), "pose"))
    with pytest.raises(UserError, match="made by RMSprop, not by AdamW"):
        run(only(config(tmp_path, steps=2, optimizer=OptimizerConfig("adamw")), "pose"), resume=True)


def test_resume_from_a_damaged_checkpoint_is_refused(tmp_path):
    settings = only(config(tmp_path, steps=1), "pose")
    run(settings)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"last.pt is not a whole checkpoint"):
        run(settings, resume=True)
    for other in (b"", b"hi\n"):
        (tmp_path / "last.pt").write_bytes(other)
        with pytest.raises(UserError, match=r"last.pt is not a whole checkpoint"):
            run(settings, resume=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OptimizerConfig("rmsprop", lr=1e-3), OptimizerConfig("rmsprop", lr=1e-3, momentum=0.9, weight_decay=0.3)),
        (OptimizerConfig("sgd", lr=1e-3), OptimizerConfig("sgd", lr=1e-3, momentum=0.9)),
        (OptimizerConfig("adamw", lr=1e-3), OptimizerConfig("adamw", lr=1e-3, betas=(0.5, 0.6))),
    ],
)
def test_a_resumed_run_takes_changed_constants_of_its_optimiser(tmp_path, before, after):
    run(only(config(tmp_path, steps=1, optimizer=before), "pose"))
    run(only(config(tmp_path, steps=2, optimizer=after), "pose"), resume=True)
    group = read_checkpoint(tmp_path / "last.pt")["optimizer"]["param_groups"][0]
    constants = {"weight_decay": after.weight_decay, "momentum": after.momentum, "betas": after.betas}
    assert {name: group[name] for name in constants if name in group} == {
        name: value for name, value in constants.items() if name in group
    }


def test_data_of_another_layout_is_refused(tmp_path):
    model = tiny_training.dataclasses.replace(tiny_training.MODEL, num_joints=17, layout="pa17")
    with pytest.raises(UserError, match="16 joints of layout 'pa16', the network 17 of 'pa17'"):
        run(config(tmp_path, model=model))


def test_a_model_knows_the_joints_of_its_data(tmp_path, monkeypatch):
    own = custom_layout("own", [f"j{k}" for k in range(16)], [(3, 1), (3, 2)], root=3)
    monkeypatch.setattr(tiny_training.TinyData, "layout", own)
    model = tiny_training.dataclasses.replace(tiny_training.MODEL, layout="own")
    run(only(config(tmp_path, model=model, steps=1), "pose"))
    assert load_model(tmp_path)[1].joint_layout == own


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_run_under_way_can_be_evaluated(tmp_path, capsys, ema_decay):
    register(interrupt_at=5)
    with pytest.raises(Interrupted):
        run(only(config(tmp_path, ema_decay=ema_decay), "decoupled"))
    state = read_checkpoint(tmp_path / "last.pt")
    model, meta = _load(tmp_path, torch.device("cpu"))
    assert "no trained network yet: this is its checkpoint last.pt" in capsys.readouterr().err
    assert model.config.decoupled
    assert not model.training
    assert meta.action_names == [["sit", "stand", "walk"]]
    assert meta.extra["pose_data"] == "tiny"
    expected = {**state["model"], **(state["average"] or {"mean": {}})["mean"]}
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    model, _ = _load(tmp_path / "last.pt", torch.device("cpu"))
    assert capsys.readouterr().err == ""
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_more_steps_go_on_from_the_end(tmp_path):
    run(only(config(tmp_path, steps=2, ema_decay=0.0), "pose"))
    run(only(config(tmp_path, steps=4, ema_decay=0.0), "pose"), resume=True)
    assert read_checkpoint(tmp_path / "last.pt")["progress"]["step"] == 4


@pytest.mark.parametrize("change", [{"amp": "bf16"}, {"channels_last": False}])
def test_variants_train_to_about_the_same(whole, tmp_path, change):
    run(only(config(tmp_path, **change), "pose"))
    assert log_of(tmp_path)[1]["loss"] == pytest.approx(log_of(whole)[1]["loss"], rel=0.02)


@pytest.mark.parametrize("streams", ["pose", "appearance"])
def test_networks_with_one_stream_train(tmp_path, streams):
    settings = config(tmp_path, model=dataclasses.replace(tiny_training.MODEL, action_streams=streams))
    assert load_config(run(settings) / "config.yaml") == settings
    action, joint = (weights_of(tmp_path / "stages" / f"{stage}.safetensors") for stage in ("action", "joint"))
    model, _ = load_model(tmp_path)
    assert (model.config.action_streams, model.config.decoupled) == (streams, True)
    assert all(not torch.equal(action[name], joint[name]) for name in action)


def test_compile_is_asked_for_fixed_shapes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    run(only(config(tmp_path / "plain", steps=1), "pose"))
    assert asked == []
    run(only(config(tmp_path / "compiled", steps=1, compile=True), "pose"))
    assert asked == [{"dynamic": False}]


def test_clips_can_teach_poses(tmp_path):
    run(only(config(tmp_path, loss=LossConfig(clip_pose=1.0)), "joint"))
    assert {"pose_loss", "action_loss"} <= set(log_of(tmp_path)[0])


def test_weight_average():
    network = SPNet(tiny_training.MODEL)
    prepare(network, "pose")
    average = WeightAverage(network, 0.5)
    weight = network.entry.stem.weight
    mean = weight.detach().clone()
    for update in range(1, 16):
        with torch.no_grad():
            weight.add_(1.0)
        average.update(network)
        decay = min(0.5, update / (update + 10))
        mean = decay * mean + (1 - decay) * weight.detach()
    average.copy_to(network)
    torch.testing.assert_close(weight.detach(), mean)
