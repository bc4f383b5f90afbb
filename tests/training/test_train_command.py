"""`python -m pyhar.train`: its command line, its configuration file, its end."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import tiny_training
import torch
import yaml
from torch._inductor import config as inductor

from pyhar import cli, train
from pyhar.data.layouts import PA17
from pyhar.errors import UserError
from pyhar.training import loop
from pyhar.training.checkpoint import read_checkpoint
from pyhar.training.config import (
    PRESETS,
    LossConfig,
    OptimizerConfig,
    get_train_preset,
    load_config,
    save_config,
)
from pyhar.training.setup import build_data

NAMES = ("small", "pose", "penn", "ntu", "penn-release", "ntu-release")


@pytest.mark.parametrize("name", NAMES)
def test_presets_survive_their_file(name, tmp_path):
    config = get_train_preset(name)
    assert config.preset == name
    assert not config.model.decoupled  # that is the last stage's doing
    save_config(tmp_path / "config.yaml", config)
    assert load_config(tmp_path / "config.yaml") == config


def test_the_papers_numbers():
    penn, ntu = get_train_preset("penn").stages, get_train_preset("ntu").stages
    assert (penn.pose.steps, penn.pose.images, penn.pose.optimizer.kind, penn.pose.optimizer.lr) == (
        32_000, 32, "rmsprop", 1e-3
    )  # fmt: skip
    assert (penn.joint.optimizer.kind, ntu.joint.optimizer.kind) == ("rmsprop", "sgd")
    assert (ntu.joint.optimizer.lr, ntu.joint.optimizer.momentum) == (0.01, 0.9)
    assert (penn.joint.clips, penn.joint.loss.action, penn.joint.loss.confidence) == (4, 0.01, 0.01)
    assert get_train_preset("ntu-release").stages.joint.loss.action == 0.1
    assert get_train_preset("penn-release").stages.joint.loss.normaliser == "coordinates"
    assert penn.joint.schedule.milestones == pytest.approx((15 / 30, 25 / 30))
    assert get_train_preset("pose").enabled_stages() == ["pose"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {pose: {step: 3}}", "unknown setting in .*pose 'step'; did you mean 'steps'"),
        ("seed: many", "seed: expected int, found 'many'"),
        ("amp: bf17", "unknown value in .*amp 'bf17'; did you mean 'bf16'"),
        ("stages: 3", "stages: expected named values"),
        ("data: {pose: synthetic}", "pose: expected a list"),
        ("seed: [", "is not a readable YAML file"),
    ],
)
def test_a_wrong_file_is_one_clear_error(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "config.yaml")


def test_augmentation_reaches_every_data_set(monkeypatch):
    """The paper's presets take the paper's ranges, the release's those of the authors' code, which erases rectangles
    of Human3.6M alone.
    """
    taken = {}

    class Source(types.SimpleNamespace):
        def __len__(self):
            return 1

    def build(name, split, kind, *, augment, **_):
        taken[name, kind] = augment
        return Source(layout=PA17, action_names=("sit", "stand"))

    monkeypatch.setattr("pyhar.data.registry.build", build)
    build_data(get_train_preset("ntu"))
    assert set(taken.values()) == {True}
    build_data(get_train_preset("ntu-release"))
    assert taken == {
        ("human36m", "pose"): "release-erasing",
        ("mpii", "pose"): "release",
        ("ntu", "pose"): "release",
        ("ntu", "clips"): "release",
    }
    assert get_train_preset("penn-release").data.augmentation == "release"
    build_data(train.parse(["ntu", "--data.augmentation", "gentle"])[0])
    assert set(taken.values()) == {"gentle"}


def test_options_override_the_preset():
    options = "--stages.pose.steps 7 --stages.action.enabled False --amp bf16 --seed 5 --model.growth 32 --no-evaluate"
    config, resumed = train.parse(["penn", *options.split(), "--data.pose", "synthetic", "--data.pose-shares", "1"])
    assert resumed is None
    assert config.stages.pose.steps == 7
    assert config.enabled_stages() == ["pose", "joint", "decoupled"]
    assert (config.amp, config.seed, config.model.growth, config.evaluate) == ("bf16", 5, 32, False)
    assert (config.data.pose, config.data.pose_shares) == (("synthetic",), (1.0,))
    assert config.stages.joint == PRESETS["penn"]().stages.joint


def test_no_argument_is_the_small_preset():
    assert train.parse([]) == (get_train_preset("small"), None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smal"], "error: unknown preset 'smal'; did you mean 'small'?"),
        (["--resume", "nowhere"], "error: no training configuration at nowhere/config.yaml"),
        (["--resume"], "error: nothing to resume: no run in runs/ has a checkpoint"),
        (["small", "--resume"], "error: a resumed run keeps its own preset: leave out 'small'"),
        (["penn"], "error: where is the data set mpii? Set PYHAR_DATA_MPII"),
        (["tiny", "--device", "gpu"], "error: unknown device 'gpu'"),
        (["tiny", "--init", "nothing.safetensors"], "error: no model at nothing.safetensors"),
        (["tiny", "--data.action", "tinny"], "error: unknown data set 'tinny'; did you mean 'tiny'?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("PYHAR_DATA", "PYHAR_DATA_MPII"):
        monkeypatch.delenv(variable, raising=False)
    assert cli.run(train.main, words) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_compiler_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert cli.run(train.main, ["tiny", "--device", "cpu", "--compile"]) == 2
    assert capsys.readouterr().err.startswith("error: --compile needs a C++ compiler")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_said(capsys):
    assert cli.run(train.main, ["tiny", "--device", "cuda"]) == 2
    assert "sees no CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages.pose.step", "3"], "--stages.pose.steps"),
        (["--amp", "bf17"], "bf17"),
        (["--stages.pose.steps", "x"], "invalid literal"),
        (["--stages.pose.steps", "0"], "stages.pose.steps must be at least 1, not 0"),
        (["pose", "--stages.action.enabled", "True"], "this network recognises no actions"),
        (["--workers", "-1"], "workers must be at least 0"),
        (["--data.pose-shares", "0.5", "0.5"], "data.pose-shares must give one positive number"),
    ],
)
def test_wrong_options_end_with_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    assert stop.value.code == 2
    out = capsys.readouterr()
    assert message in " ".join((out.out + out.err).split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": OptimizerConfig(momentum=-1.0)}, "optimizer.momentum must not be negative: -1.0"),
        ({"optimizer": OptimizerConfig(eps=-1.0)}, "optimizer.eps must not be negative: -1.0"),
        ({"optimizer": OptimizerConfig(decay=1.5)}, "optimizer.decay must lie in [0, 1), not 1.5"),
        ({"optimizer": OptimizerConfig(betas=(0.9, 1.0))}, "optimizer.betas must lie in [0, 1), not 1.0"),
        ({"loss": LossConfig(confidence=-1.0)}, "loss.confidence must not be negative: -1.0"),
    ],
)
def test_constants_that_make_no_sense_are_said(change, message):
    with pytest.raises(UserError, match=re.escape(f"stages.pose.{message}")):
        tiny_training.config(**change)


def test_nothing_to_train_is_said():
    with pytest.raises(UserError, match="every stage is switched off"):
        tiny_training.only(tiny_training.config())


def test_runs_get_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = [
        "--stages.action.enabled",
        "False",
        "--stages.joint.enabled",
        "False",
        "--stages.decoupled.enabled",
        "False",
    ]
    assert train.main(["tiny", *short]) == 0
    assert train.main(["tiny", *short]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny", "tiny-2"]
    assert load_config(Path("runs/tiny-2/config.yaml")).run_dir == "runs/tiny-2"
    assert train.newest_run() == Path("runs/tiny-2")
    assert cli.run(train.main, ["tiny", "--run-dir", "runs/tiny"]) == 2
    assert "runs/tiny holds a run already: go on with --resume runs/tiny" in capsys.readouterr().err
    assert cli.run(train.main, ["--resume", "runs/tiny", "--run-dir", "elsewhere"]) == 2
    assert "a resumed run stays in its folder" in capsys.readouterr().err


def test_resume_takes_the_newest_run_and_changed_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_training.run(tiny_training.only(tiny_training.config("runs/old"), "pose"))
    assert train.main(["--resume", "--stages.pose.steps", "6", "--log-every", "3"]) == 0
    assert read_checkpoint("runs/old/last.pt")["progress"]["step"] == 6
    assert load_config(Path("runs/old/config.yaml")).log_every == 3
    assert train.main(["--resume=runs/old"]) == 0  # nothing is left to do


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, status):
    """The whole program with its workers, as a terminal interrupts it: the whole process group gets the signal."""
    directory = tmp_path / "run"
    command = [sys.executable, tiny_training.__file__, "tiny", "--run-dir", str(directory), "--workers", "1"]
    program = subprocess.Popen(
        [*command, "--stages.pose.steps", "100000", "--checkpoint-every", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    log = directory / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(program.pid, number)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == status, errors
    assert f"go on with: python -m pyhar.train --resume {directory}" in errors
    assert "Traceback" not in errors
    assert read_checkpoint(directory / "last.pt")["progress"]["step"] >= 4
    assert not any(path.name.startswith(".") for path in directory.iterdir())


@pytest.mark.parametrize("native", [True, False])
def test_automatic_precision_is_what_the_device_computes_with_and_is_written_down(tmp_path, monkeypatch, native):
    monkeypatch.setattr(loop, "computes_in_bfloat16", lambda device: native)
    PRESETS["tiny"] = lambda: tiny_training.only(tiny_training.config(steps=1), "pose")
    assert train.main(["tiny", "--run-dir", str(tmp_path / "run"), "--amp", "auto"]) == 0
    assert load_config(tmp_path / "run" / "config.yaml").amp == ("bf16" if native else "off")


def test_the_report_follows(tmp_path, monkeypatch):
    import pyhar.evaluate

    called = []
    monkeypatch.setattr(
        pyhar.evaluate, "evaluate_run", lambda directory, **options: called.append((directory, options))
    )
    settings = dataclasses.replace(tiny_training.config(steps=1), evaluate=True)
    PRESETS["tiny"] = lambda: tiny_training.only(settings, "pose")
    assert train.main(["tiny", "--run-dir", str(tmp_path / "run")]) == 0
    assert called == [(tmp_path / "run", {"device": "cpu", "workers": 0})]
    assert train.main(["tiny", "--run-dir", str(tmp_path / "other"), "--no-evaluate"]) == 0
    assert len(called) == 1


def test_the_file_is_plain_yaml(tmp_path):
    save_config(tmp_path / "config.yaml", get_train_preset("small"))
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert values["stages"]["joint"]["optimizer"]["kind"] == "adamw"
    assert values["model"]["action_pyramids"] == [1, 2]
