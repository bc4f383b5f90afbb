"""Files of a run that were changed or damaged: one error that names them, or lines that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from pyhar.benchmark import _evaluations
from pyhar.errors import UserError
from pyhar.evaluation.plots import losses, read_log
from pyhar.evaluation.results import ActionScores, Evaluation, PoseScores
from pyhar.models import ModelMeta, SPNet, SPNetConfig
from pyhar.training import checkpoint
from pyhar.training.config import get_train_preset, load_config, save_config
from pyhar.training.logging import _lines, _step

TINY = SPNetConfig(num_pyramids=1, num_levels=2, growth=8, stem_features=8)


def written(path: Path) -> dict[str, Any]:
    model = SPNet(TINY)
    optimizer, average = torch.optim.SGD(model.parameters(), 0.1), checkpoint.WeightAverage(model, 0.9)
    scaler = GradScaler("cpu", enabled=False)
    meta = ModelMeta.default(TINY)
    checkpoint.save_checkpoint(path, checkpoint.Progress("pose"), model, optimizer, scaler, average, {}, meta)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {"num_joints": []}},
        {"config": {"num_pyramids": 10**9}},
        {"model": {"entry.stem.weight": 1}},
        {"average": {}},
        {"average": {"updates": 1, "mean": {"entry.stem.weight": 1}}},
        {"meta": {"layout": "pa16"}},
        {"meta": {"layout": "pa16", "joints": [1] * 16}},
        {"meta": 3},
        {"format": torch.zeros(2)},
    ],
)
def test_checkpoints_that_hold_something_else(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "last.pt"
    state = written(path)
    checkpoint.load_network(path)
    torch.save({**state, **change}, path)
    with pytest.raises(UserError, match=r"last\.pt"):
        checkpoint.load_network(path)


@pytest.mark.parametrize("progress", [None, {}, {"stage": "nap"}, {"stage": "pose", "step": "1"}])
def test_checkpoints_that_stand_nowhere(progress: Any) -> None:
    with pytest.raises(UserError, match=r"last\.pt is damaged"):
        checkpoint.progress_of({"progress": progress}, "last.pt")


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    state = written(tmp_path / "last.pt")
    model = SPNet(TINY)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), GradScaler("cpu", enabled=False)
    for change in ({"optimizer": {}}, {"rng": None}, {"average": [1]}):
        with pytest.raises(UserError, match=r"last\.pt is damaged"):
            checkpoint.restore(
                {**state, **change}, "last.pt", model, optimizer, scaler, checkpoint.WeightAverage(model, 0.9)
            )


@pytest.mark.parametrize(
    "text",
    [
        "seed: " + "1" * 5000,
        "seed: 2026-13-45",
        "seed: " + "[" * 20_000,
        "run_dir: [" + "a" * 5000 + "]",
        "run_dir: [&a [x,x,x,x,x,x,x,x,x], "
        + ", ".join(f"&{n} [{','.join([f'*{m}'] * 9)}]" for m, n in zip("abcdefg", "bcdefgh", strict=True))
        + "]",
        "model: {growth: 7}",
    ],
    ids=["digits", "date", "nested", "long", "doubling", "odd"],
)
def test_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        load_config(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_step_size_beyond_floats(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save_config(path, get_train_preset("small"))
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 1" + 400 * "0"))
    with pytest.raises(UserError, match=r"config\.yaml: .*lr: expected float"):
        load_config(path)


@pytest.mark.parametrize(
    "change",
    [{"poses": [{"pyramid": "1", "level": 1}]}, {"cuts": {}}, {"clips": None}, {"joints": [1]}, {"actions": [[]]}],
)
def test_evaluations_of_other_values(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "evaluation.json"
    good = Evaluation(
        "a", "CPU", poses=[PoseScores(1, 1, 50, mpjpe_by_joint={"a": None})], actions=[ActionScores(1, 1)]
    )
    path.write_text(good.to_json())
    assert _evaluations([str(tmp_path)]) == {str(tmp_path): good}
    path.write_text(json.dumps({**json.loads(good.to_json()), **change}))
    with pytest.raises(UserError, match=r"evaluation\.json: this is not an evaluation"):
        _evaluations([str(tmp_path)])
    for content in (b"\xff{}", b"[" * 100_000, b"1" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"evaluation\.json: "):
            _evaluations([str(tmp_path)])


def test_lines_of_a_log_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = '{"stage": "pose", "global_step": 1, "pose_loss": 2.0, "lr": 0.1}\n'
    bad = [
        "[" * 100_000,
        "1" * 5000,
        '{"global_step": "x"}',
        '{"global_step": 1' + 400 * "0" + "}",
        '{"global_step": []}',
    ]
    odd = '{"stage": "pose", "global_step": 2, "pose_loss": 1' + 400 * "0" + ', "lr": 0.1}\n'
    path.write_bytes((good + odd + "".join(line + "\n" for line in bad)).encode() + b"\xff\xfe\n")
    assert [record["global_step"] for record in read_log(path)] == [1, 2]
    losses(read_log(path))
    steps = [_step(line) for line in _lines(path)]
    assert steps[:2] == [1, 2]
    assert steps[2:] == [float("inf")] * (len(bad) + 1)
