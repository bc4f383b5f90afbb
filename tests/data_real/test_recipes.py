"""The paper's two scenarios on small data sets in the owners' formats: trained by one command through all four stages,
then judged by every published protocol."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from writers import human36m as human36m_writer
from writers import mpii as mpii_writer
from writers import ntu as ntu_writer
from writers import penn_action as penn_writer
from writers.rendered import Rendered

from pyhar.cli import run as run_command
from pyhar.convert import main as convert
from pyhar.data import registry
from pyhar.data.human36m import JOINTS
from pyhar.data.prepare import prepare
from pyhar.evaluate import evaluate_run
from pyhar.evaluate import main as evaluate
from pyhar.evaluation.report import warnings
from pyhar.evaluation.results import Evaluation
from pyhar.models import ModelMeta, SPNet, SPNetConfig, get_preset, load_model, save_model
from pyhar.train import main as train

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
TINY = {
    "model.image-size": 32,
    "model.clip-frames": 4,
    "model.num-pyramids": 2,
    "model.num-levels": 2,
    "model.growth": 8,
    "model.stem-features": 8,
    "model.pose-features": 16,
    "model.appearance-features": 16,
    "workers": 0,
    "log-every": 1,
}
STAGES = ("pose", "action", "joint", "decoupled")
FLAGS = ["--workers", "0", "--device", "cpu", "--no-speed", "--no-progress", "--no-report"]
QUICK = {"workers": 0, "device": "cpu", "speed": False, "progress": False, "report": False}


def options(**stage: int) -> list[str]:
    of_stages = {f"stages.{name}.{key}": value for name in STAGES for key, value in stage.items()}
    values = [f"--{name}={value}" for name, value in {**TINY, **of_stages}.items()]
    return ["--device", "cpu", "--model.action-pyramids", "1", "2", *values]


def write_mpii(root: Path) -> None:
    mpii_writer.write_mat(root, mpii_writer.example(root))
    prepare("mpii", root, progress=False)


def there_and_back(shot: Rendered) -> Rendered:
    """Twice as many frames."""
    both = {
        name: np.concatenate([values, values[::-1]]) if name != "camera" else values
        for name, values in vars(shot).items()
    }
    return Rendered(**both)


def write_penn(root: Path) -> None:
    """Two training and three test videos; all but the third are too short for a clip of every sixth frame."""
    for number, (label, flag, frames) in enumerate(
        [("squat", 1, 8), ("bowl", 1, 8), ("squat", -1, 30), ("bowl", -1, 8), ("situp", -1, 6)], start=1
    ):
        shot = there_and_back(penn_writer.example(number, frames=frames // 2))
        penn_writer.write(root, number, shot, penn_writer.labels(shot, label, flag))
    prepare("penn", root, progress=False)


def write_human36m(root: Path) -> None:
    """Recordings of 66 and 67 frames from one camera: the 64th of each is a second still."""
    human36m_writer.write_owners(root, human36m_writer.example(66, human36m_writer.CAMERAS[1:2]))
    prepare("human36m", root, progress=False)


def write_ntu(root: Path) -> None:
    names = ["S001C001P001R001A001", "S001C002P002R002A060", "S001C002P003R002A060", "S009C002P040R001A010"]
    recordings = {name: [ntu_writer.track(30, seed=i, action=i)] for i, name in enumerate(names)}
    ntu_writer.write_owners(root, recordings, frames=30)
    prepare("ntu", root, progress=False)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYHAR_DATA", str(tmp_path))
    for variable in ("PYHAR_INDEX", *(f"PYHAR_DATA_{name.upper()}" for name in registry.ON_DISK)):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    write_mpii(tmp_path / "mpii")
    return tmp_path


def check_run(run: Path, shares: list[float], actions: int) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["pose_shares"] == shares
    assert config["model"]["num_actions"] == [actions]
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert {record["stage"] for record in steps} == set(STAGES)
    assert np.isfinite([record["loss"] for record in steps]).all()
    model, _ = load_model(run)
    assert model.config.decoupled


def test_the_2d_scenario(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_penn(data / "penn")
    assert run_command(train, ["penn", "--run-dir", "run", *options(steps=2, images=5, clips=1)]) == 0
    check_run(data / "run", [0.8, 0.2], 15)
    assert capsys.readouterr().out.count("mpii, val split and penn, test split") == 1
    found = Evaluation.from_json((data / "run/evaluation.json").read_text())
    assert (found.pose_samples, found.clips) == (2, 3)
    assert found.skipped == 0
    assert set(found.protocols) == {"PCKh@0.5", "single clip", "multi clip", "boxes"}

    # The stills of the mixture's other data set have a table of their own; its clips are judged already.
    other = Evaluation.from_json((data / "run/penn/evaluation.json").read_text())
    assert (other.data, other.pose_samples, other.clips) == ("penn, test split", 3, 0)
    assert (data / "run/penn/report.html").is_file()

    assert run_command(evaluate, ["run", "--data", "mpii", *FLAGS, "--report"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mpii, val split" in printed
    assert "14 joints (pelvis, thorax and spine left out)" in printed
    assert "'val' is of every 10th video, not the people of published results" in printed
    mpii = Evaluation.from_json((data / "run/mpii/evaluation.json").read_text())
    assert (mpii.pose_samples, mpii.clips, len(mpii.poses)) == (2, 0, 2)
    assert len(mpii.pose.pckh_by_joint) == 14
    assert mpii.pose.pckh == pytest.approx(found.pose.pckh)
    assert mpii.pose.mpjpe is None
    page = (data / "run/mpii/report.html").read_text()
    assert "14 joints (pelvis, thorax and spine left out)" in page

    penn = evaluate_run("run", data="penn", **QUICK)
    assert penn.data == "penn, test split"
    assert penn.clips == 3
    assert set(penn.action.by_class) == {"squats", "bowling", "sit_ups"}
    assert penn.protocols["single clip"].startswith("4 frames around the middle of each video, every 6 frames")
    assert "every 6 frames, beginning every 2 frames" in penn.protocols["multi clip"]
    # In 30 frames clips of 4, every 6th, begin at 0, 2, 4 and 6; the short videos have one clip each. All are mirrored.
    assert penn.multi_clips == pytest.approx(2 * (4 + 1 + 1) / 3)
    capsys.readouterr()


def test_the_3d_scenario(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_human36m(data / "human36m")
    write_ntu(data / "ntu")
    assert run_command(train, ["ntu", "--run-dir", "run", *options(steps=2, images=8, clips=1)]) == 0
    check_run(data / "run", [0.5, 0.375, 0.125], 60)
    capsys.readouterr()
    assert run_command(evaluate, ["run", *FLAGS]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, stills in (("mpii", 2), ("ntu", 2)):
        other = Evaluation.from_json((data / "run" / name / "evaluation.json").read_text())
        assert (other.pose_samples, other.clips) == (stills, 0)
        assert other.data in printed

    assert run_command(evaluate, ["run", "--data", "human36m", *FLAGS]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = Evaluation.from_json((data / "run/human36m/evaluation.json").read_text())
    # Three recordings by subjects 9 and 11, of the fourth there is none to be used; frames 0 and 64 of each.
    assert (found.data, found.pose_samples, found.clips) == ("human36m, test split", 6, 0)
    errors = found.pose.mpjpe_by_action
    assert set(errors) == {"Photo", "Directions", "WalkTogether"}
    assert found.pose.mpjpe_over_actions == pytest.approx(np.mean(list(errors.values())), rel=1e-4)
    convention = '"release" (joints ' + ", ".join(map(str, JOINTS["release"])) + ")"
    assert f"17 joints by convention {convention}" in found.protocols["MPJPE"]
    assert f"17 joints by convention {convention}" in printed
    assert found.protocols["MPJPE"].endswith("millimetres; the subjects' own skeletons, every 64 frames.")
    for activity, error in errors.items():
        assert f"{activity} │ {error:,.1f}" in printed
    assert f"average over activities │ {found.pose.mpjpe_over_actions:,.1f}" in printed

    ntu = evaluate_run("run", data="ntu", **QUICK)
    assert (ntu.pose_samples, ntu.clips) == (2, 2)
    assert set(ntu.protocols) == {"MPJPE", "single clip", "multi clip", "boxes"}
    assert ntu.protocols["single clip"].endswith("every 8 frames; cross-subject split.")
    assert "convention" not in ntu.protocols["MPJPE"]
    mpii = evaluate_run("run", data="mpii", **QUICK)
    assert len(mpii.pose.pckh_by_joint) == 14
    capsys.readouterr()

    # One that is no longer there does not keep the others from being evaluated.
    (data / "mpii").rename(data / "elsewhere")
    assert run_command(evaluate, ["run", *FLAGS]) == 0
    told = capsys.readouterr()
    assert "mpii, which the network was also trained on, cannot be evaluated" in told.err
    assert "ntu, test split" in told.out


def test_converted_weights_on_every_data_set(data: Path) -> None:
    write_penn(data / "penn")
    write_human36m(data / "human36m")
    for name in ("A_tiny2d", "C_tiny3d_singleframe"):
        assert run_command(convert, [str(GOLDEN / f"{name}.hdf5"), "-o", f"{name}.safetensors"]) == 0
    mpii = evaluate_run("A_tiny2d.safetensors", data="mpii", **QUICK)
    assert len(mpii.pose.pckh_by_joint) == 14
    assert (data / "evaluations/A_tiny2d/mpii/evaluation.json").is_file()
    space = evaluate_run("C_tiny3d_singleframe.safetensors", data="human36m", **QUICK)
    assert set(space.pose.mpjpe_by_action) == {"Photo", "Directions", "WalkTogether"}
    # The 3D network on 2D people: both layouts are asked of each data set.
    assert len(evaluate_run("C_tiny3d_singleframe.safetensors", data="mpii", **QUICK).pose.pckh_by_joint) == 14

    # The paper's network of 15 actions in small, in the authors' settings, as conversion leaves it: without names.
    release = dataclasses.replace(
        get_preset("penn-release"),
        image_size=32,
        num_pyramids=2,
        action_pyramids=(1, 2),
        num_levels=2,
        growth=8,
        stem_features=8,
        pose_features=16,
        appearance_features=16,
    )
    save_model("release.safetensors", SPNet(release), ModelMeta.default(release))
    penn = evaluate_run("release.safetensors", data="penn", **QUICK)
    assert (penn.clips, len(penn.action_names)) == (3, 15)
    assert penn.action.multi_clip is not None
    # Human3.6M has 15 activities as well; they are not what the network was made to tell apart.
    human36m = evaluate_run("release.safetensors", data="human36m", **QUICK)
    assert not human36m.actions
    assert human36m.pose.mpjpe is None
    assert "poses have no score" in warnings(human36m)[0]


def test_boxes(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = SPNetConfig(image_size=32, num_pyramids=1, num_levels=2, growth=8, stem_features=8)
    save_model("net.safetensors", SPNet(config), ModelMeta.default(config))
    own = evaluate_run("net.safetensors", data="mpii", output="own", **QUICK)
    assert own.protocols["boxes"] == "the data set's own."

    people = registry.build("mpii", "val", "pose")
    boxes = {people[i]["name"]: [20.0, 10.0, 90.0, 80.0] for i in range(2)}
    Path("boxes.json").write_text(json.dumps(boxes))
    given = evaluate_run(
        "net.safetensors", data="mpii", boxes="boxes.json", output="given", **{**QUICK, "report": True}
    )
    assert given.protocols["boxes"] == "from boxes.json."
    assert "boxes: from boxes.json." in Path("given/report.html").read_text()
    assert given.worst_poses[0].error != own.worst_poses[0].error

    Path("some.json").write_text(json.dumps(dict(list(boxes.items())[:1])))
    some = evaluate_run("net.safetensors", data="mpii", boxes="some.json", output="some", **QUICK)
    assert some.protocols["boxes"] == "from some.json; 1 sequences that it does not name keep the data set's own."

    monkeypatch.setattr("pyhar.data.boxes.SURE", -1.0)  # Of an untrained network all joints are below the usual one.
    refined = evaluate_run("net.safetensors", data="mpii", boxes="refined", output="refined", **QUICK)
    assert refined.protocols["boxes"] == "predicted, two rounds from whole pictures."
    found = json.loads(Path("refined/boxes-mpii.json").read_text())
    assert found.keys() == boxes.keys()
    for x1, y1, x2, y2 in found.values():
        assert x2 - x1 == pytest.approx(y2 - y1, abs=0.01)  # Of poses; whole pictures are not square.
    capsys.readouterr()

    for words, message in (
        (["--data", "synthetic", "--boxes", "refined"], "synthetic has its own boxes"),
        (["--data", "mpii", "--boxes", "absent.json"], "absent.json cannot be read"),
    ):
        assert run_command(evaluate, ["net.safetensors", *words, *FLAGS]) == 2
        assert message in capsys.readouterr().err
