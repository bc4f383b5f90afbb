from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pyhar.errors import UserError
from pyhar.inference.video import DEFAULT_FPS, VideoSource, open_source, read_picture
from pyhar.media import VideoWriter, write_picture


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def cut_in_half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_video(path: Path, frames: list[np.ndarray], error: BaseException | None = None) -> None:
    with VideoWriter(path, 15.0) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists() or path.read_bytes() == b"old"
        if error is not None:
            raise error


def test_pictures_are_read_as_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    write_picture(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), picture)
    cv2.imwrite(str(tmp_path / "grey.png"), picture[..., 0])
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), picture[..., :1].repeat(3, -1))
    cv2.imwrite(str(tmp_path / "deep.png"), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png"), picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_a_cut_off_picture_is_an_error(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_picture(path, picture)
    assert read_picture(path).shape == picture.shape
    with pytest.raises(UserError, match=rf"a{suffix} is (cut off|damaged)"):
        read_picture(cut_in_half(path))


def test_a_jpeg_with_a_whole_thumbnail_but_no_end_is_cut_off(tmp_path: Path, picture: np.ndarray) -> None:
    whole = cv2.imencode(".jpg", picture)[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + thumbnail + whole[2:])
    assert read_picture(path).shape == picture.shape
    path.write_bytes(whole[:2] + thumbnail + whole[2:-40])
    with pytest.raises(UserError, match="cut off"):
        read_picture(path)


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"hello", "not a picture"), (None, "No such file")])
def test_what_is_no_picture_is_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.png.*{message}"):
        read_picture(path)


def test_a_folder_skips_and_counts_broken_pictures(tmp_path: Path, picture: np.ndarray) -> None:
    for name in ("1.png", "2.jpg", "4.PNG"):
        write_picture(tmp_path / name, picture)
    (tmp_path / "3.png").write_bytes(b"no")
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(tmp_path)
    assert source.length == 4
    assert source.fps is None
    assert [(frame.index, frame.name) for frame in source] == [(0, "1.png"), (1, "2.jpg"), (3, "4.PNG")]
    assert len(source.notes) == 1
    assert source.notes[0].startswith("skipped 1 of 4 pictures:")
    assert "3.png" in source.notes[0]


def test_a_folder_of_broken_pictures_alone_is_an_error(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"no")
    with pytest.raises(UserError, match="none of the 2 pictures"):
        list(open_source(tmp_path))


def test_a_glob_keeps_folders_apart(tmp_path: Path, picture: np.ndarray) -> None:
    for name in ("one/a.png", "two/a.png", "two/b.jpg"):
        write_picture(tmp_path / name, picture)
    source = open_source(str(tmp_path / "*" / "*.png"))
    assert [frame.name for frame in source] == ["one/a.png", "two/a.png"]
    assert source.name == tmp_path.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "there is no .*missing.mp4: give an image"),
        ("*.png", "matches 0 files"),
        ("empty", "holds no pictures"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / name)


def test_a_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="camera 97 cannot be opened"):
        open_source("97")


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_video_gives_its_frames_in_order(make_video: Callable[..., Path], name: str) -> None:
    grey = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(10)]
    grey[3][..., 0] += 60  # red stays red
    source = open_source(make_video(name, grey, fps=20.0))
    frames = list(source)
    assert (source.length, source.fps, source.notes) == (10, 20.0, [])
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 20 for i in range(10)])
    for frame, expected in zip(frames, grey, strict=True):
        np.testing.assert_allclose(frame.rgb.mean((0, 1)), expected.mean((0, 1)), atol=6)


def test_a_video_is_read_frame_by_frame_and_can_be_stopped(make_video: Callable[..., Path]) -> None:
    source = open_source(make_video())
    iterator = iter(source)
    next(iterator)
    source.stop()
    assert list(iterator) == []
    assert source.notes == []


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("clip.mp4", lambda path: path.write_bytes(b""), "is empty"),
        ("clip.mp4", cut_in_half, "cannot be opened as a video"),
        ("clip.mp4", lambda path: path.write_text("no video" * 100), "cannot be opened as a video"),
    ],
)
def test_a_broken_video_is_an_error_that_says_what_to_do(
    make_video: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    path = make_video(name)
    spoil(path)
    capfd.readouterr()
    with pytest.raises(UserError, match=rf"clip\.mp4 {message}.*copy or record it again"):
        list(open_source(path))
    assert capfd.readouterr().err == ""  # no words of OpenCV's or FFmpeg's beside ours


def test_a_video_that_ends_early_is_reported(make_video: Callable[..., Path]) -> None:
    source = open_source(cut_in_half(make_video("clip.avi", 20)))
    frames = list(source)
    assert 0 < len(frames) < 20
    assert len(source.notes) == 1
    assert f"{len(frames)} frames decoded where the header announces 20" in source.notes[0]


PAUSE = [*range(0, 400, 40), *range(2000, 2400, 40)]


def write_varying(path: Path, times_ms: list[int]) -> Path:
    """A video with a frame at each time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        noise = np.random.default_rng(0)
        for time_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_have_the_times_of_the_file(tmp_path: Path, suffix: str) -> None:
    source = open_source(write_varying(tmp_path / f"pause{suffix}", PAUSE))
    assert [frame.time_s for frame in source] == pytest.approx([time / 1000 for time in PAUSE])
    assert source.notes == []  # Matroska stores no number of frames: 2.4 s at 25 frames/s are guessed


def test_a_video_without_a_stored_number_of_frames_that_ends_early_is_reported(tmp_path: Path) -> None:
    source = open_source(cut_in_half(write_varying(tmp_path / "pause.mkv", PAUSE)))
    assert 0 < len(list(source)) < len(PAUSE)
    assert "the rest is damaged or missing" in source.notes[0]


def test_a_video_without_a_decodable_frame_is_an_error(make_video: Callable[..., Path]) -> None:
    path = make_video("clip.mp4")
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(UserError, match="not one of the 10 frames"):
        list(open_source(path))


def test_a_video_without_a_frame_rate_gets_one(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video()
    real = cv2.VideoCapture(str(path))

    class Unsure:
        def __init__(self, path: str) -> None: ...

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, what: int) -> float:
            return 0.0 if what == cv2.CAP_PROP_FPS else real.get(what)

    monkeypatch.setattr(cv2, "VideoCapture", Unsure)
    source = VideoSource(path)
    assert source.fps == DEFAULT_FPS
    assert "does not say its frames per second" in source.notes[0]


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_written_video_can_be_read(tmp_path: Path, name: str) -> None:
    frames = [np.full((48, 64, 3), (200, 30, 20 * i), np.uint8) for i in range(6)]
    write_video(tmp_path / "new" / name, frames)
    source = open_source(tmp_path / "new" / name)
    assert source.fps == 15.0
    for frame, expected in zip(source, frames, strict=True):
        np.testing.assert_allclose(frame.rgb.mean((0, 1)), expected.mean((0, 1)), atol=6)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_an_interrupted_video_leaves_nothing_and_spares_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_video(path, [np.zeros((48, 64, 3), np.uint8)], error)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"old"


def test_video_writer_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.avi or \.mp4"):
        VideoWriter(tmp_path / "out.gif", 25.0)
    write_video(tmp_path / "none.mp4", [])
    with pytest.raises(UserError, match="60x40 pixels does not fit into a video of 64x48"):
        write_video(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8), np.zeros((40, 60, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_was_not_written_in_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        """Loses what it is given."""

        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *arguments: object) -> None: ...

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def write(self, picture: np.ndarray) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", FullDisk)
    with pytest.raises(UserError, match="only 0 of 2 frames could be written"):
        write_video(tmp_path / "a.avi", [np.zeros((48, 64, 3), np.uint8)] * 2)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"a\.xyz cannot be written"):
        write_picture(tmp_path / "a.xyz", picture)
    assert list(tmp_path.iterdir()) == []
