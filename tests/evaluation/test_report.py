from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from stand_in import NAMES, StandIn, config

from pyhar import evaluate as command
from pyhar.cli import run as run_command
from pyhar.data import registry
from pyhar.data.layouts import PA17
from pyhar.errors import UserError
from pyhar.evaluation import pictures, plots, report
from pyhar.evaluation.results import ActionScores, CutScores, Evaluation, PoseScores
from pyhar.evaluation.run import classifier, evaluate_and_report
from pyhar.models import ModelMeta, SPNet, save_model


class Page(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "data", "action") and value is not None:
                self.links.append(value)
            if name == "id" and value is not None:
                self.ids.append(value)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The stand-in as a data set of the registry; returns the options it was built with."""
    asked: list[dict] = []

    def build(split: str, kind: str, **options):
        asked.append({"split": split, "kind": kind, **options})
        return StandIn(size=6, kind=kind)

    monkeypatch.setitem(registry.DATASETS, "stand-in", build)
    return asked


def meta(**extra: str) -> ModelMeta:
    return ModelMeta("pa17", list(PA17.joints), [list(NAMES)], extra=extra)


LOG = [
    {"stage": "pose", "step": 1, "global_step": 1, "loss": 1.0, "pose_loss": 0.9, "lr": 0.001},
    {"stage": "pose", "step": 2, "global_step": 2, "loss": 0.8, "pose_loss": 0.7, "lr": 0.002},
    {"stage": "joint", "step": 1, "global_step": 3, "loss": 0.8, "action_loss": 2.6, "lr": 0.002},
]


def test_a_run_is_evaluated_from_the_command_line(
    tmp_path: Path, stand_in: list[dict], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "first"
    save_model(run / "model.safetensors", SPNet(config()).decouple(), meta(pose_data="stand-in"))
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, LOG)) + '\n{"stage": "jo')
    status = run_command(command.main, [str(run), "--pose-samples", "4", "--no-progress", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert status == 0
    assert stand_in == [
        {"split": "test", "kind": "pose", "image_size": 32, "augment": False},
        {"split": "test", "kind": "clips", "image_size": 32, "augment": False, "clip_frames": 4},
    ]
    assert sorted(p.name for p in run.iterdir()) == ["evaluation.json", "log.jsonl", "model.safetensors", "report.html"]

    found = Evaluation.from_json((run / "evaluation.json").read_text())
    assert found.data == "stand-in, test split"
    assert found.pose_samples == 4
    assert found.clips == 6
    assert found.cuts[-1].pose_fps > 0
    assert f"{found.pose.mpjpe:,.1f}" in printed
    assert "4 stills and 6 videos" in printed

    page = Page((run / "report.html").read_text())
    for link in page.links:
        assert re.match(r"#[a-z]+$|data:image/(webp|svg\+xml);base64,", link), link[:80]
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.ids)
    assert set(page.ids) == {"blocks", "training", "poses", "actions", "speed", "stills", "space", "clips", "maps"}
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "first" in page.words
    assert f"{found.pose.pckh:,.1f}" in page.words
    for link in page.links:
        if link.startswith("data:image/svg"):
            svg = base64.b64decode(link.split(",", 1)[1]).decode()
            assert "<svg" in svg
            assert not re.search(r'(href|src)="(?!#|data:image/png;base64)', svg)
        elif link.startswith("data:image/webp"):
            assert base64.b64decode(link.split(",", 1)[1]).startswith(b"RIFF")


def test_where_results_cannot_go_is_said_before_anything_is_computed(
    tmp_path: Path, stand_in: list[dict], capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "net.safetensors", SPNet(config()), meta(pose_data="stand-in"))
    model = str(tmp_path / "net.safetensors")
    assert run_command(command.main, [model, "--output", model, "--device", "cpu"]) == 2
    said = f"since {model} is no folder that you may write to: name another place for the results\n"
    assert capsys.readouterr().err.endswith(said)
    assert stand_in == []


def test_options_of_the_command_line(tmp_path: Path, stand_in: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "net.safetensors", SPNet(config()), meta())
    options = [
        "--data",
        "stand-in",
        "--split",
        "train",
        "--no-report",
        "--no-multi-clip",
        "--no-speed",
        "--no-progress",
    ]
    assert command.main(["net.safetensors", *options]) == 0
    folder = tmp_path / "evaluations" / "net" / "stand-in"
    assert [p.name for p in folder.iterdir()] == ["evaluation.json"]
    found = Evaluation.from_json((folder / "evaluation.json").read_text())
    assert stand_in[0]["split"] == "train"
    assert found.action.multi_clip is None
    assert found.cuts[0].pose_fps is None

    again = command.evaluate_run(
        "net.safetensors", data="stand-in", output=tmp_path / "out", report=False, progress=False, deploy="float32"
    )
    assert again.protocols["network"] == "deployed in float32."
    assert again.pose.pckh == pytest.approx(found.pose.pckh, rel=1e-4)
    assert (tmp_path / "out" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent"], "no model at absent"),
        (["net.safetensors", "--data", "sinthetic"], "did you mean 'synthetic'"),
        (["net.safetensors", "--clips", "0"], "--clips must be at least 1"),
        (["net.safetensors", "--workers", "-1"], "--workers"),
        (["net.safetensors", "--device", "cuda:77"], "cuda"),
    ],
)
def test_mistakes_give_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "net.safetensors", SPNet(config()), meta())
    assert run_command(command.main, options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_classifier_is_found_by_its_names_then_by_their_number() -> None:
    several = ModelMeta("pa17", [], [["a", "b"], ["c", "d"], ["e", "f", "g"]])
    assert classifier(several, ("c", "d")) == 1
    assert classifier(several, ("x", "y", "z")) == 2
    with pytest.raises(UserError, match="4 actions, the network tells 2, 2, 3 apart"):
        classifier(several, ("p", "q", "r", "s"))


def test_a_second_classifier_is_evaluated(tmp_path: Path) -> None:
    model = SPNet(config(num_actions=(5, 3)))
    two = ModelMeta("pa17", list(PA17.joints), [list("abcde"), list(NAMES)])
    found = evaluate_and_report(tmp_path, model, two, None, StandIn(size=3, kind="clips"), speed=False, progress=False)
    assert len(found.action.confusion) == 3
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("changes", [{"dim": 2}, {"action_pyramids": (), "num_actions": ()}], ids=str)
def test_networks_of_all_kinds_have_a_report(changes: dict, tmp_path: Path) -> None:
    model = SPNet(config(**changes))
    names = meta() if model.num_action_blocks else ModelMeta("pa17", list(PA17.joints))
    evaluate_and_report(tmp_path, model, names, StandIn(size=4), StandIn(size=4, kind="clips"), progress=False)
    page = Page((tmp_path / "report.html").read_text())
    assert ("MPJPE, mm" in page.words) == (model.config.dim == 3)
    assert ("average over activities" in page.words) == (model.config.dim == 3)
    assert ("actions" in page.ids) == bool(model.num_action_blocks)
    assert "training" not in page.ids


def test_the_table_names_the_result_and_what_went_wrong() -> None:
    found = Evaluation(
        "stand-in", "CPU", pose_samples=7, clips=5, multi_clips=4.0, skipped=2, skipped_because=["a.jpg is cut off"],
        poses=[PoseScores(1, 2, pckh=51.26, mpjpe=1234.5), PoseScores(2, 1, pckh=88.04, mpjpe=70.0, not_finite=3)],
        actions=[ActionScores(2, 1, single_clip=86.0, multi_clip=90.0)],
        cuts=[CutScores(2, 1, 0, 88.04, 70.0, 86.0, 1210.0, 95.5)],
    )  # fmt: skip
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_table(found, console)
    text = console.export_text()
    rows = [re.findall(r"[\d.,–]+", line) for line in text.splitlines() if "│" in line]
    assert ["1", "1", "2", "51.3", "1,234.5", "–", "–"] in rows
    assert ["2", "2", "1", "88.0", "70.0", "86.0", "90.0"] in rows
    assert "1,210 frames/s in batches of 16" in text
    assert "2 samples could not be read: a.jpg is cut off" in text
    assert "3 predicted joints are not finite" in text


def test_tables_of_the_last_block_by_joint_and_activity() -> None:
    pose = PoseScores(
        1, 1, pckh=80.0, mpjpe=71.5, pckh_by_joint={"neck": 91.25}, mpjpe_by_joint={"pelvis": 0.0, "neck": 40.04},
        mpjpe_by_action={"Eating": 60.0, "Posing": 90.0}, mpjpe_over_actions=75.0,
    )  # fmt: skip
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_table(Evaluation("", "", joints=["pelvis", "neck"], poses=[PoseScores(1, 2), pose]), console)
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines() if "│" in line]
    assert ["pelvis", "–", "0.0"] in rows
    assert ["neck", "91.2", "40.0"] in rows
    assert ["Posing", "90.0"] in rows
    assert ["average", "over", "activities", "75.0"] in rows
    assert ["average", "over", "joints", "71.5"] in rows


def test_blocks_are_matched_by_place() -> None:
    found = Evaluation("", "", poses=[PoseScores(1, 2), PoseScores(2, 1)], actions=[ActionScores(2, 1)])
    assert [(b.pyramid, b.level, b.pose is None, b.action is None) for b in report.blocks(found)] == [
        (1, 2, False, True),
        (2, 1, False, False),
    ]


def test_read_log_leaves_out_what_is_not_whole(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"stage": "pose", "global_step": 5}\n\nnull\n{"note": 1}\n{"stage": "pose", "glo')
    assert plots.read_log(log) == [{"stage": "pose", "global_step": 5}]


def test_a_map_is_enlarged_to_where_the_grid_says() -> None:
    plane = np.zeros((4, 4))
    plane[1, 2] = 1
    pixel = (np.arange(64) + 0.5) / 64
    for grid, x, y in (("centers", 2.5 / 4, 1.5 / 4), ("unit", 2 / 4, 1 / 4), ("corners", 2 / 3, 1 / 3)):
        large = pictures._enlarge(plane, 64, grid)
        assert np.unravel_index(large.argmax(), large.shape) == (abs(pixel - y).argmin(), abs(pixel - x).argmin())
    np.testing.assert_allclose(pictures._enlarge(np.ones((3, 5)), 64, "unit"), 1)


def test_look_reads_the_last_block(tmp_path: Path) -> None:
    model, clips = SPNet(config()).decouple().eval(), StandIn(size=3, kind="clips")
    shot = pictures.look(model, clips[1], PA17, pictures.View())
    with torch.inference_mode():
        out = model(clips[1]["frames"].movedim(-1, -3)[None].float() / 127.5 - 1)
    torch.testing.assert_close(torch.tensor(shot.pose), out.poses[-1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(shot.probabilities), out.actions[-1][0][0], atol=1e-5, rtol=1e-4)
    assert shot.frames.shape == (4, 32, 32, 3)
    assert shot.heat.shape == shot.action_heat.shape == (4, 17, 4, 4)
    np.testing.assert_allclose(shot.heat.sum((-1, -2)), 1, atol=1e-5)
    assert shot.label == 1
    still = pictures.look(model, StandIn(size=3)[2], PA17, pictures.View())
    assert still.pose.shape == (1, 17, 4)
    assert np.abs(still.space[:, 0]).max() == 0
    assert still.action_heat is None or still.action_heat.shape[0] == 1
