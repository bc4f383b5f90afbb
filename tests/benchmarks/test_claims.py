"""The variants that show the method's claims: they differ in what they claim alone, and the table is the JSON's."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import claims
from benchmarks.machine import read_json
from pyhar.data import registry
from pyhar.errors import UserError
from pyhar.evaluation.results import ActionScores, Evaluation, PoseScores
from pyhar.models import load_model
from pyhar.training import config as training_config
from pyhar.training.config import STAGES, TrainConfig, load_config
from pyhar.training.interrupt import Interrupted
from pyhar.training.loop import TrainingError
from pyhar.training.stages import tasks_of

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import tiny_training


def batches(config: TrainConfig, task: str) -> int:
    """How many of a task's batches a run trains on."""
    stages = (config.stage(name) for name in config.enabled_stages())
    counts = zip(config.enabled_stages(), stages, strict=True)
    return sum(stage.steps // len(tasks_of(name)) for name, stage in counts if task in tasks_of(name))


@pytest.mark.parametrize("preset", ["small", "penn", "ntu", "penn-release", "ntu-release"])
@pytest.mark.parametrize("name", claims.VARIANTS)
def test_a_variant_differs_in_what_it_claims_alone(preset: str, name: str) -> None:
    default = claims.base(preset, 0.3)
    config = claims.VARIANTS[name].change(default)
    loss = {stage: default.stage(stage).loss for stage in STAGES}
    pyramids = default.model.num_pyramids
    action, joint = default.stages.action, default.stages.joint
    optimizer = {
        f"stages.joint.{part}.{key}": value
        for part in ("optimizer", "schedule", "loss")
        for key, value in claims._flat(dataclasses.asdict(getattr(action, part))).items()
        if value != getattr(getattr(joint, part), key)
    }
    silent = {"pose": 0.0, "confidence": 0.0, "coordinate_bce": 0.0, "clip_pose": 0.0}
    expected: dict[str, Any] = {
        "all": {},
        "last block supervised": {f"stages.{stage}.loss.blocks": "last" for stage in STAGES},
        "fewer pyramids": {
            "model.num_pyramids": pyramids // 2,
            "model.action_pyramids": {2: (1,), 6: (3,), 8: (3, 4)}[pyramids],
        },
        "pose features only": {"model.action_streams": "pose"},
        "appearance features only": {"model.action_streams": "appearance"},
        "not decoupled": {
            "stages.decoupled.enabled": False,
            "stages.joint.steps": joint.steps + default.stages.decoupled.steps,
        },
        "no pose supervision": {
            **optimizer,
            **{f"stages.{stage}.loss.{key}": 0.0 for stage in STAGES for key in silent if getattr(loss[stage], key)},
            "stages.pose.enabled": False,
            "stages.action.enabled": False,
            "stages.joint.steps": joint.steps + 2 * action.steps,
        },
    }
    if name == "no pose supervision":  # what the joint stage has of the action stage may be silenced as well
        expected[name] |= {f"stages.joint.loss.{key}": 0.0 for key in silent if getattr(loss["joint"], key)}
    assert claims.differences(config, default) == expected[name]
    assert batches(config, "action") == batches(default, "action")
    assert (config.seed, config.data) == (default.seed, default.data)


@pytest.mark.parametrize("name", [name for name in claims.VARIANTS if name != "no pose supervision"])
def test_steps_are_equal(name: str) -> None:
    for share in (1.0, 0.37):
        default = claims.base("small", share)
        config = claims.VARIANTS[name].change(default)
        assert [batches(config, task) for task in ("pose", "action")] == [
            batches(default, task) for task in ("pose", "action")
        ]


def test_shares_of_the_steps() -> None:
    def steps(config: TrainConfig) -> list[int]:
        return [config.stage(name).steps for name in STAGES]

    assert steps(claims.base("small")) == steps(training_config.get_train_preset("small"))
    assert steps(claims.base("small", 0.5, [10, 7, 10, 1])) == [5, 4, 4, 2]  # pairs of steps stay whole
    for bad, message in (({"share": 0.0}, "--share must be a positive number"), ({"preset": "pose"}, "no actions")):
        with pytest.raises(UserError, match=message):
            claims.base(**{"preset": "small", **bad})  # type: ignore[arg-type]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line of the tiny preset, whose runs are judged by a stand-in: they score their seed."""
    monkeypatch.setitem(registry.DATASETS, "tiny", lambda split, kind, **given: tiny_training.TinyData(kind, **given))
    monkeypatch.setitem(training_config.PRESETS, "tiny", tiny_training.config)

    def evaluate(directory: Path, **options: Any) -> Evaluation:
        assert options.pop("progress") in (True, False)
        assert options == {"device": "cpu", "workers": 0, "speed": False, "report": False}
        score = 50.0 + load_config(directory / "config.yaml").seed
        pose, action = PoseScores(1, 1, pckh=score, mpjpe=100 - score), ActionScores(1, 1, single_clip=score)
        poses, actions = [PoseScores(1, 1, pckh=1.0), pose], [ActionScores(1, 1), action]
        evaluation = Evaluation("tiny, test split", "cpu", poses=poses, actions=actions, pose_samples=5, clips=7)
        evaluation.save(directory / "evaluation.json")
        return evaluation

    monkeypatch.setattr(claims, "evaluate_run", evaluate)
    torch.set_num_threads(1)  # threads wait longer for each other than so small a network takes
    place = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "claims.json")]
    return ["--preset", "tiny", "--device", "cpu", "--preset-steps", "1", "1", "2", "2", *place]


def test_runs_are_kept_and_gone_on_with(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, train = [], claims.train

    def spy(config: TrainConfig, directory: Path, *rest: Any, resume: bool) -> None:
        trained.append((directory.name, resume))
        train(config, directory, *rest, resume=resume)

    monkeypatch.setattr(claims, "train", spy)
    names = ["all", "pose features only"]
    assert claims.main([*arguments, "--variants", *names, "--seeds", "0", "3"]) == 0
    folders = ["all-seed0", "pose-features-only-seed0", "all-seed3", "pose-features-only-seed3"]
    assert trained == [(folder, False) for folder in folders]
    content = read_json(tmp_path / "claims.json")
    assert content["steps"] == {"pose": 1, "action": 1, "joint": 2, "decoupled": 2}
    assert content["judged"] == {"data": "tiny, test split", "stills": 5, "videos": 7}
    assert {"device", "versions", "date"} <= set(content)
    assert {name: variant["differences"] for name, variant in content["variants"].items()} == {
        "all": {},
        "pose features only": {"model.action_streams": "pose"},
    }
    sizes = {name: variant["seeds"]["3"]["parameters"] for name, variant in content["variants"].items()}
    model, _ = load_model(tmp_path / "runs" / "tiny" / "pose-features-only-seed3")
    assert model.config.decoupled
    assert sizes["pose features only"] == sum(value.numel() for value in model.parameters()) < sizes["all"]
    scores = {"pckh": 53.0, "mpjpe": 47.0, "single_clip": 53.0, "multi_clip": None}
    assert content["variants"]["all"]["seeds"]["3"] == {**scores, "parameters": sizes["all"]}

    # Done is done; what was not evaluated is; what was stopped goes on; other variants join the file.
    runs = tmp_path / "runs" / "tiny"
    (runs / "pose-features-only-seed3" / "evaluation.json").unlink()
    (runs / "all-seed3" / "model.safetensors").unlink()
    trained.clear()
    assert claims.main([*arguments, "--variants", *names, "not decoupled", "--seeds", "3"]) == 0
    assert trained == [("all-seed3", True), ("not-decoupled-seed3", False)]
    assert (runs / "pose-features-only-seed3" / "evaluation.json").exists()
    after = read_json(tmp_path / "claims.json")["variants"]
    assert list(after) == ["all", "pose features only", "not decoupled"]
    assert {name: after[name] for name in names} == content["variants"]
    assert load_config(runs / "not-decoupled-seed3" / "config.yaml").stages.joint.steps == 4

    capsys.readouterr()
    for more, message in (
        (["--preset-steps", "1", "1", "2", "4"], "claims.json holds results of another preset or other numbers"),
        (
            ["--preset-steps", "2", "2", "2", "4", "--out", str(tmp_path / "b.json")],
            r"stages.decoupled.steps 2\): name",
        ),
        (["--variants", "al"], "did you mean 'all'"),
        (["--table", "--out", str(tmp_path / "c.json")], "no results at"),
        (["--table", "--readme", str(runs / "all-seed0" / "config.yaml")], "has no lines <!-- claims table -->"),
    ):
        with pytest.raises(UserError, match=message):
            claims.main([*arguments, *more])


def test_stopped_and_diverged_runs(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = claims.train

    def stopped(config: TrainConfig, directory: Path, *rest: Any, **more: Any) -> None:
        if directory.name == "not-decoupled-seed0":
            raise Interrupted("stopped", 2)
        if directory.name == "all-seed0":
            raise TrainingError("the loss is nan")
        train(config, directory, *rest, **more)

    monkeypatch.setattr(claims, "train", stopped)
    names = ["all", "fewer pyramids"]
    assert claims.main([*arguments, "--variants", *names]) == 1
    assert list(read_json(tmp_path / "claims.json")["variants"]) == ["fewer pyramids"]
    model, _ = load_model(tmp_path / "runs" / "tiny" / "fewer-pyramids-seed0")
    assert (model.config.num_pyramids, model.config.action_pyramids) == (1, (1,))
    assert claims.main([*arguments, "--variants", "not decoupled", "fewer pyramids"]) == 130
    errors = capsys.readouterr().err
    assert "all, seed 0 failed: the loss is nan" in errors
    assert "not-decoupled-seed0; the same command goes on there" in errors


def test_without_pose_supervision_no_pose_is_learnt(arguments: list[str], tmp_path: Path) -> None:
    """Whatever the joints are said to be, the network becomes the same; with supervision it does not."""
    found = []
    for shift in (0.0, 0.2):

        class Shifted(tiny_training.TinyData):
            def __getitem__(self, key: Any, shift: float = shift) -> dict[str, Any]:
                sample = super().__getitem__(key)
                return {**sample, "pose": sample["pose"] + shift, "confidence": 1 - sample["confidence"] * shift}

        registry.DATASETS["tiny"] = lambda split, kind, shifted=Shifted, **given: shifted(kind, **given)
        place = tmp_path / f"shift {shift}"
        names = ["no pose supervision", "all"]
        assert claims.main([*arguments, "--runs", str(place), "--variants", *names]) == 0
        folders = [place / "tiny" / f"{name.replace(' ', '-')}-seed0" for name in names]
        found.append([load_model(folder)[0].state_dict() for folder in folders])
    for number, same in ((0, True), (1, False)):
        pairs = [(found[0][number][name], found[1][number][name]) for name in found[0][number]]
        assert all(torch.equal(a, b) for a, b in pairs) == same


def test_the_table_is_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def variant(paper: str, *scores: tuple[float | None, ...]) -> dict[str, Any]:
        names = ("pckh", "mpjpe", "single_clip", "multi_clip")
        seeds = {str(seed): dict(zip(names, values, strict=True)) for seed, values in enumerate(scores)}
        return {"paper": paper, "differences": {}, "seeds": seeds}

    content = {
        "device": {"name": "Abacus"}, "date": "2026-01-02T03:04:05", "preset": "small", "share": 0.3,
        "judged": {"data": "synthetic, test split", "stills": 560, "videos": 280},
        "variants": {
            "all": variant("", (80.0, 90.0, 70.0, 75.0), (82.0, 91.0, 72.5, 75.0)),
            "not decoupled": variant("Table 5: -0.3, -0.1", (79.96, None, 60.0, 65.0)),
        },
    }  # fmt: skip
    path, readme = tmp_path / "claims.json", tmp_path / "README.md"
    path.write_text(json.dumps(content))
    readme.write_text("before\n<!-- claims table -->\nold\n<!-- /claims table -->\nafter\n")
    assert claims.main(["--table", "--out", str(path), "--readme", str(readme)]) == 0
    lines = readme.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["before", "<!-- claims table -->"], ["<!-- /claims table -->", "after"])
    assert "preset with 30 % of its steps, seeds 0, 1, last block, on 560 stills and 280 videos of" in lines[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0][:3] == ["variant", "PCKh@0.5", "MPJPE"]
    assert rows[2:] == [
        [
            "all",
            "81.0 % (80.0 to 82.0)",
            "90.5 mm (90.0 to 91.0)",
            "71.2 % (70.0 to 72.5)",
            "75.0 % (75.0 to 75.0)",
            "",
        ],
        ["not decoupled", "80.0 %", "–", "60.0 %", "65.0 %", "Table 5: \N{MINUS SIGN}0.3, \N{MINUS SIGN}0.1"],
    ]
