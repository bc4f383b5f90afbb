import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pyhar import cli, predict
from pyhar.inference import draw, pipeline, video
from pyhar.inference.streaming import StreamingPredictor
from pyhar.inference.video import Frame, open_source, read_picture
from pyhar.media import write_picture

POINTS = np.array([[20, 10], [50, 20], [30, 40]])
PATIENCE_S = 60.0
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in an empty folder: status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        status = cli.run(predict.main, [str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def read_lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Header, frames, clips."""
    header, *rest = (json.loads(line) for line in path.read_text().splitlines())
    return header, [line for line in rest if line["type"] == "frame"], [line for line in rest if line["type"] == "clip"]


@pytest.fixture
def clip(dots: Callable[..., np.ndarray], make_video: Callable[..., Path]) -> Path:
    return make_video("walk.avi", [dots(POINTS + np.array([i, 0]), 80, 60, 2.0) for i in range(10)], fps=20.0)


def test_a_video(run: Run, clip: Path, dot_network: object, tmp_path: Path) -> None:
    status, out, err = run(clip, "--model", "any")
    assert (status, err) == (0, "")
    assert "10 frames in" in out
    assert "latency of a clip of 4 frames: mean" in out
    assert "note" not in out
    folder = tmp_path / "predictions" / "walk"
    assert sorted(file.name for file in folder.iterdir()) == ["predictions.jsonl", "walk.mp4"]
    header, frames, clips = read_lines(folder / "predictions.jsonl")
    assert header["type"] == "header"
    assert header["joints"] == ["hip", "right hand", "left hand"]
    assert header["fps"] == 20.0
    assert [line["index"] for line in frames] == list(range(10))
    assert [line["time_s"] for line in frames] == pytest.approx([i / 20 for i in range(10)])
    for i, line in enumerate(frames):
        np.testing.assert_allclose(line["pose_px"], POINTS + np.array([i, 0]), atol=0.5)
    assert [line["frames"] for line in clips] == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    annotated = list(open_source(folder / "walk.mp4"))
    assert len(annotated) == 10
    assert annotated[0].rgb.shape == (60, 80, 3)


def test_a_picture_with_a_box(run: Run, dots: Callable[..., np.ndarray], dot_network: object, tmp_path: Path) -> None:
    picture = dots(POINTS, 80, 60, 2.0)
    write_picture(tmp_path / "me.png", picture)
    status, _, _ = run(
        "me.png", "--model", "any", "--output", "out/here", "--box", "5,2,70,55", "--json", "lines.jsonl"
    )
    assert status == 0
    _, frames, clips = read_lines(tmp_path / "lines.jsonl")
    assert frames[0]["name"] == "me.png"
    assert frames[0]["box"] == [5, 2, 70, 55]
    np.testing.assert_allclose(frames[0]["pose_px"], POINTS, atol=0.2)
    assert clips == []
    assert [file.name for file in (tmp_path / "out" / "here").iterdir()] == ["me.png"]
    assert (read_picture(tmp_path / "out" / "here" / "me.png") != picture).any()


def test_a_folder_with_a_broken_picture(
    run: Run, dots: Callable[..., np.ndarray], dot_network: object, tmp_path: Path
) -> None:
    for i in (0, 1, 3):
        write_picture(tmp_path / "photos" / f"{i}.png", dots(POINTS, 80 + i, 60, 2.0))
    (tmp_path / "photos" / "2.png").write_bytes(b"broken")
    (tmp_path / "boxes.json").write_text('{"3": [0, 0, 80, 60], "1.png": [1, 1, 79, 59]}')
    status, out, _ = run("photos", "--model", "any", "--boxes", "boxes.json", "--no-video")
    assert status == 0
    assert "note: skipped 1 of 4 pictures" in out
    assert "note: 1 of 3 pictures have no box in boxes.json" in out
    assert "--sequence" in out
    folder = tmp_path / "predictions" / "photos"
    assert [file.name for file in folder.iterdir()] == ["predictions.jsonl"]
    _, frames, clips = read_lines(folder / "predictions.jsonl")
    assert [line["index"] for line in frames] == [0, 1, 3]
    assert [line["box"] for line in frames] == [[-0.5, -0.5, 79.5, 59.5], [1, 1, 79, 59], [0, 0, 80, 60]]
    assert clips == []


def test_a_folder_of_consecutive_frames(
    run: Run, dots: Callable[..., np.ndarray], dot_network: object, tmp_path: Path
) -> None:
    for i in range(5):
        write_picture(tmp_path / "frames" / f"{i}.png", dots(POINTS, 80, 60, 2.0))
    status, out, _ = run("frames/*.png", "--model", "any", "--sequence")
    assert status == 0
    assert "note" not in out
    _, frames, clips = read_lines(tmp_path / "predictions" / "frames" / "predictions.jsonl")
    assert len(frames) == 5
    assert [line["frames"] for line in clips] == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert len(list((tmp_path / "predictions" / "frames").glob("*.png"))) == 5


@pytest.mark.parametrize(
    ("options", "note"),
    [(["--max-frames", 3], "3 frames do not fill a clip of 4"), (["--subsample", 3], "10 frames are too few")],
)
def test_a_short_video_is_said_to_be_short(run: Run, clip: Path, dot_network: object, options: list, note: str) -> None:
    status, out, _ = run(clip, "--model", "any", *options)
    assert status == 0
    assert note in out


def test_a_video_that_ends_early_gives_what_there_is(
    run: Run, make_video: Callable[..., Path], dot_network: object
) -> None:
    path = make_video("part.avi", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    status, out, _ = run(path, "--model", "any")
    assert status == 0
    assert "frames decoded where the header announces 20" in out
    assert len(list(open_source("predictions/part/part.mp4"))) > 0


def test_with_a_real_network(run: Run, clip: Path, model_file: Path) -> None:
    status, _, _ = run(
        clip, "--model", model_file.parent, "--device", "cpu", "--format", "avi", "--follow", "--action-block", "none"
    )
    assert status == 0
    header, frames, clips = read_lines(Path("predictions/walk/predictions.jsonl"))
    assert header["model"] == str(model_file.parent)
    assert len(frames) == 10
    assert np.isfinite([line["pose_px"] for line in frames]).all()
    assert clips == []
    assert Path("predictions/walk/walk.avi").is_file()


def test_the_newest_run_is_the_default(run: Run, clip: Path, model_file: Path, tmp_path: Path) -> None:
    for name, written in (("old", 1_000), ("new", 2_000), ("older", 500)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        copy = tmp_path / "runs" / name / "model.safetensors"
        copy.write_bytes(model_file.read_bytes())
        os.utime(copy, (written, written))
    (tmp_path / "runs" / "unfinished").mkdir()
    assert run(clip, "--no-video")[0] == 0
    assert read_lines(Path("predictions/walk/predictions.jsonl"))[0]["model"] == str(Path("runs/new"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.mp4"], "there is no gone.mp4: give an image"),
        (["walk.avi", "--model", "nowhere"], "no model at nowhere"),
        (["walk.avi"], "no --model given and no trained one in runs/: train one with `python -m pyhar.train`"),
        (["walk.avi", "--box", "1,2,3"], "box '1,2,3': expected x1,y1,x2,y2"),
        (["walk.avi", "--boxes", "gone.json"], "boxes gone.json cannot be read"),
        (["walk.avi", "--box", "1,2,3,4", "--boxes", "a.json"], "--box and --boxes exclude each other"),
        (["walk.avi", "--max-frames", "0"], "--max-frames must be at least 1"),
        (["walk.avi", "--action-every", "0"], "--action-every must be at least 1"),
        (["walk.avi", "--model", "MODEL", "--action-every", "2"], "--action-every is for streams: add --stream"),
        (["walk.avi", "--model", "MODEL", "--json", "."], ". is a folder: give the name of a file"),
        (["empty.mp4"], "empty.mp4 is empty (0 bytes); copy or record it again"),
        (["text.mp4"], "text.mp4 cannot be opened as a video"),
        (["bad.png", "--model", "MODEL"], "bad.png is damaged or not a picture"),
        (["walk.avi", "--model", "MODEL", "--box", "900,0,950,50"], "lies outside the picture of 80x60"),
        (["walk.avi", "--model", "MODEL", "--pose-block", "7"], "there is no pose block 7"),
        (["walk.avi", "--model", "MODEL", "--subsample", "0"], "subsample must be at least 1"),
        (["walk.avi", "--model", "MODEL", "--device", "tpu9"], "unknown device 'tpu9'"),
        (["walk.avi", "--model", "MODEL", "--output", "text.mp4"], "text.mp4"),
    ],
)
def test_user_mistakes_give_one_line_and_leave_nothing(
    run: Run, clip: Path, model_file: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "bad.png").write_text("not a picture")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*(str(model_file) if word == "MODEL" else word for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "predictions"] == before


def test_originals_are_not_overwritten(
    run: Run, dots: Callable[..., np.ndarray], dot_network: object, tmp_path: Path
) -> None:
    write_picture(tmp_path / "me.png", dots(POINTS, 80, 60, 2.0))
    original = (tmp_path / "me.png").read_bytes()
    status, _, err = run("me.png", "--model", "any", "--output", ".")
    assert status == 2
    assert "would overwrite me.png: give another folder" in err
    assert (tmp_path / "me.png").read_bytes() == original
    assert [file.name for file in tmp_path.iterdir()] == ["me.png"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (video.UserError("late"), 2)])
def test_nothing_half_written_stays_behind(
    run: Run, clip: Path, dot_network: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, status: int
) -> None:
    real, calls = draw.draw_prediction, []

    def fails_late(*arguments: Any, **options: Any) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 7:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(draw, "draw_prediction", fails_late)
    assert run(clip, "--model", "any")[0] == status
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["walk.avi"]
    assert not (tmp_path / "predictions" / "walk").exists()


class Camera(video.PictureSource):
    """Gives each picture once the last is answered, or as fast as it can; then ends as `ending` says."""

    fps = 30.0
    live = True

    def __init__(self, pictures: list[np.ndarray], ending: Callable[["Camera"], object] = lambda camera: None) -> None:
        super().__init__("camera0", Path(), [])
        self.pictures, self.ending = pictures, ending
        self.length = None
        self.answered = threading.Semaphore(1)
        self.patient = True

    def __iter__(self) -> Iterator[Frame]:
        for index, picture in enumerate(self.pictures):
            if self.patient:
                assert self.answered.acquire(timeout=PATIENCE_S)
            if self._stopped:
                return
            yield Frame(picture, index, index / 30)
        if self.patient:
            assert self.answered.acquire(timeout=PATIENCE_S)
        self.ending(self)

    def origin(self, frame: Frame) -> None:
        return None


@pytest.fixture
def use_camera(monkeypatch: pytest.MonkeyPatch) -> Callable[[Camera], None]:
    def use(camera: Camera) -> None:
        real = StreamingPredictor._answer

        def answer(self: StreamingPredictor, *arguments: Any, **options: Any) -> Any:
            found = real(self, *arguments, **options)
            camera.answered.release()
            return found

        monkeypatch.setattr(video, "open_source", lambda source: camera)
        monkeypatch.setattr(StreamingPredictor, "_answer", answer)

    return use


def wait_for_stop(camera: Camera, number: int = signal.SIGINT) -> None:
    """Ctrl-C, as a camera sees it that would go on."""
    signal.raise_signal(number)
    for _ in range(6000):
        if camera._stopped:
            return
        time.sleep(0.01)
    raise AssertionError("the interrupt stopped nothing")


def test_a_camera_is_answered_frame_by_frame_until_an_interrupt(
    run: Run, dot_network: Any, tmp_path: Path, use_camera: Callable[[Camera], None], dots: Callable[..., np.ndarray]
) -> None:
    use_camera(Camera([dots(POINTS, 80, 60, 2.0)] * 9, wait_for_stop))
    status, out, _ = run("0", "--model", "any")
    assert status == 0
    assert "latency of a frame: mean" in out
    assert "from a frame's arrival to its answer: mean" in out
    assert "note: interrupted after 9 frames; they are written" in out
    assert "dropped" not in out
    _, frames, clips = read_lines(tmp_path / "predictions" / "camera0" / "predictions.jsonl")
    assert [line["index"] for line in frames] == list(range(9))
    assert [line["frames"] for line in clips] == [list(range(i, i + 4)) for i in range(6)]
    assert len(list(open_source(tmp_path / "predictions" / "camera0" / "camera0.mp4"))) == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert dot_network.calls == [(1, 3, 64, 64)] * 9


def test_a_camera_that_is_faster_loses_frames_that_are_counted_and_its_video_keeps_the_time(
    run: Run, dot_network: Any, tmp_path: Path, use_camera: Callable[[Camera], None], dots: Callable[..., np.ndarray]
) -> None:
    camera = Camera([dots(POINTS, 80, 60, 2.0)] * 40)
    camera.patient = False
    use_camera(camera)
    released = threading.Event()
    camera.ending = lambda camera: released.set()
    real = dot_network.frame_features

    def slow(*arguments: Any, **options: Any) -> Any:
        assert released.wait(PATIENCE_S)  # the camera is through before the first frame is computed
        return real(*arguments, **options)

    dot_network.frame_features = slow
    status, out, _ = run("0", "--model", "any")
    assert status == 0
    _, frames, _ = read_lines(tmp_path / "predictions" / "camera0" / "predictions.jsonl")
    indices = [line["index"] for line in frames]
    assert indices[-1] == 39
    assert len(indices) in (1, 2)
    assert f"{40 - len(indices)} of 40 frames came while another was computed" in out
    written = len(list(open_source(tmp_path / "predictions" / "camera0" / "camera0.mp4")))
    assert written == 39 - indices[0] + 1


def test_a_camera_that_vanishes_is_reported_and_its_results_are_kept(
    run: Run, dot_network: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unplugged:
        def __init__(self, number: int) -> None:
            self.left = 5

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, what: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return (True, np.zeros((48, 64, 3), np.uint8)) if self.left >= 0 else (False, None)

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Unplugged)
    status, out, err = run("3", "--model", "any", "--no-video")
    assert (status, err) == (0, "")
    assert "note: camera3 gave no more pictures after 5 frames: was it unplugged?" in out
    _, frames, _ = read_lines(tmp_path / "predictions" / "camera3" / "predictions.jsonl")
    assert 1 <= len(frames) <= 5
    monkeypatch.setattr(Unplugged, "read", lambda self: (False, None))
    status, _, err = run("/dev/video4", "--model", "any")
    assert status == 2
    assert "camera4 gives no picture: is another program using it?" in err


def test_a_camera_that_hangs_ends_with_an_interrupt(
    run: Run, dot_network: object, tmp_path: Path, use_camera: Callable[[Camera], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(camera: Camera) -> None:
        signal.raise_signal(signal.SIGINT)
        over.wait(PATIENCE_S)

    monkeypatch.setattr(pipeline, "_PATIENCE_S", 0.1)
    use_camera(Camera([np.zeros((48, 64, 3), np.uint8)] * 3, hang))
    status, out, _ = run("0", "--model", "any", "--no-video")
    over.set()
    assert status == 0
    assert "3 frames in" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_read_of_a_video(
    run: Run, dot_network: object, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = make_video("long.avi", 60)
    real = video.VideoSource.__iter__

    def interrupted(self: video.VideoSource) -> Iterator[Frame]:
        for frame in real(self):
            if self.length == 60 and frame.index == 20:
                wait_for_stop(self, number)
            yield frame

    monkeypatch.setattr(video.VideoSource, "__iter__", interrupted)
    status, out, _ = run(path, "--model", "any")
    assert status == 128 + number
    assert "note: interrupted after 21 frames; they are written" in out
    _, frames, _ = read_lines(Path("predictions/long/predictions.jsonl"))
    assert [line["index"] for line in frames] == list(range(21))
    assert len(list(open_source("predictions/long/long.mp4"))) == 21


@pytest.mark.parametrize("options", [[], ["--stream"], ["--follow"], ["--stream", "--follow"]])
def test_a_long_video_runs_in_constant_memory(
    run: Run, dot_network: object, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Long(video.PictureSource):
        fps = 25.0

        def __iter__(self) -> Iterator[Frame]:
            nonlocal most
            for index in range(120):
                frame = Frame(np.full((48, 64, 3), index, np.uint8), index, index / 25)
                alive.append(weakref.ref(frame.rgb))
                most = max(most, sum(ref() is not None for ref in alive))
                yield frame
                del frame

        def origin(self, frame: Frame) -> None:
            return None

    source = Long("long", Path(), [])
    source.length = None
    monkeypatch.setattr(video, "open_source", lambda name: source)
    status, out, _ = run("long", "--model", "any", *options)
    assert status == 0
    assert "120 frames in" in out
    assert len(alive) == 120
    _, frames, _ = read_lines(Path("predictions/long/predictions.jsonl"))
    assert [line["index"] for line in frames] == list(range(120))
    # Clips of four: one waits to be cut out, one is cut out, one waits for the network, one is in it, one was; a few
    # frames wait to be drawn and written.
    assert most <= 5 * 4 + 10


def test_a_stream_of_a_video(run: Run, clip: Path, dot_network: object, tmp_path: Path) -> None:
    status, out, _ = run(clip, "--model", "any", "--stream", "--subsample", 2, "--action-every", 2)
    assert status == 0
    assert "latency of a frame: mean" in out
    assert "note" not in out
    _, frames, clips = read_lines(tmp_path / "predictions" / "walk" / "predictions.jsonl")
    for i, line in enumerate(frames):
        np.testing.assert_allclose(line["pose_px"], POINTS + np.array([i, 0]), atol=0.5)
    assert [line["action"] is not None for line in frames] == [False] * 6 + [True] * 4
    assert [line["frames"] for line in clips] == [[0, 2, 4, 6], [2, 4, 6, 8]]
    assert len(list(open_source(tmp_path / "predictions" / "walk" / "walk.mp4"))) == 10
    status, out, _ = run(clip, "--model", "any", "--stream", "--subsample", 4, "--no-video")
    assert "note: 10 frames are fewer than the 13 that the first action takes" in out


def test_pictures_stream_if_they_are_a_sequence(
    run: Run, dots: Callable[..., np.ndarray], dot_network: object, tmp_path: Path
) -> None:
    for i in range(5):
        write_picture(tmp_path / "frames" / f"{i}.png", dots(POINTS, 80, 60, 2.0))
    status, _, err = run("frames", "--model", "any", "--stream")
    assert status == 2
    assert "--stream is for consecutive frames: add --sequence" in err
    assert run("frames", "--model", "any", "--stream", "--sequence")[0] == 0
    _, _, clips = read_lines(tmp_path / "predictions" / "frames" / "predictions.jsonl")
    assert [line["frames"] for line in clips] == [[0, 1, 2, 3], [1, 2, 3, 4]]


def test_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "pyhar.predict", "empty.mp4"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(predict.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: empty.mp4 is empty (0 bytes)")
    assert "Traceback" not in done.stderr


def test_help_and_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        predict.main(["--help"])
    assert stop.value.code == 0
    assert "--box X1,Y1,X2,Y2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        predict.main(["a.mp4", "--bos", "1,2,3,4"])
    assert stop.value.code == 2
