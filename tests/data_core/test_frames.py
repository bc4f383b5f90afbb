"""Pixels from disk: where they land, that nothing is resampled twice, and what broken files say."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from marked_media import GREEN, RED, WHITE, centroid, picture, write_picture, write_video

from pyhar.data import frames
from pyhar.data.decoded import FrameCrop, whole_frame
from pyhar.data.frames import check_picture, picture_size, read_crop, read_frames
from pyhar.data.geometry import crop_map, to_crop_pixels
from pyhar.data.parsing import read_video_header
from pyhar.data.video_reader import VideoReader
from pyhar.data.warp import View
from pyhar.errors import UserError


def crop(box: tuple[float, float, float, float], size: int, **changes: float) -> np.ndarray:
    return to_crop_pixels(crop_map(box, **changes), size)


def warp(rgb: np.ndarray, to_pixels: np.ndarray, size: int) -> np.ndarray:
    out = np.empty((size, size, 3), np.uint8)
    View(to_pixels, size, rgb.shape[1], rgb.shape[0]).write(rgb, out)
    return out


def whole(width: int, height: int) -> np.ndarray:
    """The map that shows a picture as it is, in a square of its width."""
    assert width == height
    return crop((-0.5, -0.5, width - 0.5, height - 0.5), width)


def test_the_identity_gives_the_pixels_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = write_picture(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(read_crop(path, "picture", [0], whole(40, 40), 40)[0], rgb)


@pytest.mark.parametrize("points", [2, 4, 8])
def test_shrinking_averages_the_area_of_each_pixel(points: int) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (24 * points, 24 * points, 3), dtype=np.uint8)
    blocks = rgb.reshape(24, points, 24, points, 3).mean(axis=(1, 3))
    shown = warp(rgb, crop((-0.5, -0.5, 24 * points - 0.5, 24 * points - 0.5), 24), 24)
    # Halved again and again, rounded each time.
    np.testing.assert_allclose(shown, blocks, atol=0.51 * np.log2(points))


@pytest.mark.parametrize(
    ("ratio", "block"), [(0.5, 1), (1.0, 1), (1.59, 1), (1.61, 2), (3.19, 2), (3.21, 4), (6.41, 8), (300.0, 256)]
)
def test_blocks_are_about_as_large_as_a_pixel_of_the_crop(ratio: float, block: int) -> None:
    to_pixels = crop((0, 0, 64 * ratio, 64 * ratio), 64, rotation=30)
    assert View(to_pixels, 64, 30000, 30000).block == block


def test_a_turned_and_shrunk_pattern_does_not_alias() -> None:
    # Stripes finer than the crop's pixels: bilinear samples alone would show them as a coarse pattern.
    rgb = np.zeros((600, 600, 3), np.uint8)
    rgb[:, ::2] = 255
    to_pixels = crop((100, 100, 500, 500), 100, rotation=3.0)
    shown = warp(rgb, to_pixels, 100)
    plain = cv2.warpAffine(rgb, to_pixels[:2], (100, 100), flags=cv2.INTER_LINEAR)
    assert shown.std() < 3
    assert plain.std() > 20


@pytest.mark.parametrize(("factor", "side"), [(1, 900), (1, 610), (2, 590), (2, 480), (4, 260), (4, 240), (8, 120)])
def test_a_jpeg_is_decoded_as_small_as_the_crop_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, side: int
) -> None:
    used = []
    decode = cv2.imdecode

    def spy(data: object, flags: int) -> np.ndarray:
        used.append(decode(data, flags))
        return used[-1]

    rgb = picture(963, 957, [(300.3, 640.7, WHITE)], sigma=2.5 * factor)
    path = write_picture(tmp_path / "a.jpg", rgb)
    monkeypatch.setattr(frames.cv2, "imdecode", spy)
    to_pixels = crop((0, 0, 960, 960), side)
    shown = read_crop(path, "picture", [0], to_pixels, side)[0]
    assert used[0].shape == (-(-957 // factor), -(-963 // factor), 3)  # which libjpeg rounds up
    expected = to_pixels[:2, :2] @ (300.3, 640.7) + to_pixels[:2, 2]
    np.testing.assert_allclose(centroid(shown), expected, atol=0.06)
    # But for the edge of the picture, which the smaller one rounds up.
    np.testing.assert_allclose(shown[:-4, :-4], warp(rgb, to_pixels, side)[:-4, :-4], atol=12)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", [0, 1, 2])  # as many as pixels, half as many, a quarter
def test_a_jpeg_is_decoded_as_far_down_as_the_crop_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, colours: int
) -> None:
    from PIL import Image

    rng = np.random.default_rng(factor)
    rough = rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    rgb = cv2.resize(rough, (517, 611), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=90, subsampling=colours)
    used = []
    decode = cv2.imdecode

    def spy(data: object, flags: int) -> np.ndarray:
        used.append(decode(data, flags))
        return used[-1]

    monkeypatch.setattr(frames.cv2, "imdecode", spy)
    for _ in range(12):
        left, top, side = *rng.uniform(-80, 500, 2), 32 * factor * rng.uniform(1.05, 1.4)
        to_pixels = crop((left, top, left + side, top + side), 32, rotation=rng.uniform(-40, 40))
        shown = read_crop(tmp_path / "a.jpg", "picture", [0], to_pixels, 32)
        with monkeypatch.context() as changed:
            changed.setattr(frames.jpeg, "upper_rows", lambda data, header, rows: data)
            np.testing.assert_array_equal(shown, read_crop(tmp_path / "a.jpg", "picture", [0], to_pixels, 32))
        part, all_of_it = used[-2:]
        assert all_of_it.shape[0] == -(-611 // factor)
        # A turned square reaches down by at most its diagonal, interpolation by two blocks more.
        lowest = max(top + side / 2 + side * 0.5**0.5, 0) + 4 * factor + 2 + 32
        assert part.shape[0] <= lowest / factor + 1


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_rows": 2}, {"restart_marker_blocks": 9}], ids=str
)
def test_a_jpeg_that_comes_in_pieces_is_decoded_whole(tmp_path: Path, options: dict[str, int]) -> None:
    from PIL import Image

    Image.fromarray(picture(200, 200, [(20, 20, WHITE)])).save(tmp_path / "a.jpg", **options)
    data = (tmp_path / "a.jpg").read_bytes()
    assert frames.jpeg.upper_rows(data, frames.jpeg.read_header(data), 32) is data
    assert centroid(read_crop(tmp_path / "a.jpg", "picture", [0], whole(64, 64), 64)[0]) == pytest.approx(
        (20, 20), abs=0.1
    )


def test_formats_become_rgb(tmp_path: Path) -> None:
    from PIL import Image

    rgb = picture(64, 64, [(20, 20, RED), (44, 40, GREEN)], 6.0)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    cv2.imwrite(str(tmp_path / "grey.jpg"), grey)
    cv2.imwrite(str(tmp_path / "grey16.png"), grey.astype(np.uint16) * 257)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "alpha.png")
    Image.fromarray(rgb).convert("P").save(tmp_path / "palette.png")
    for name, expected, tolerance in (
        ("grey.jpg", np.repeat(grey[..., None], 3, -1), 4),
        ("grey16.png", np.repeat(grey[..., None], 3, -1), 1),
        ("cmyk.jpg", rgb, 30),
        ("alpha.png", rgb, 0),
        ("palette.png", rgb, 60),
    ):
        shown = read_crop(tmp_path / name, "picture", [0], whole(64, 64), 64)[0]
        np.testing.assert_allclose(shown, expected, atol=tolerance, err_msg=name)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    from PIL import Image

    rgb = picture(80, 60, [(10, 50, WHITE)])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to show
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert picture_size(tmp_path / "a.jpg") == (80, 60)
    for scale in (1, 2):
        side = 80 // scale
        to_pixels = crop((-0.5, -0.5, 79.5, 79.5), side)
        shown = read_crop(tmp_path / "a.jpg", "picture", [0], to_pixels, side)[0]
        np.testing.assert_allclose(centroid(shown), to_pixels[:2, :2] @ (10, 50) + to_pixels[:2, 2], atol=0.2)


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    from PIL import Image

    rgb = picture(70, 50, [(10, 40, WHITE)])
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True}), ("c.png", {}), ("d.bmp", {})):
        Image.fromarray(rgb).save(tmp_path / name, **options)
        assert picture_size(tmp_path / name) == check_picture(tmp_path / name) == (70, 50)
    # A comment longer than what is read first, and a thumbnail with an end of its own.
    data = (tmp_path / "a.jpg").read_bytes()
    comment = b"\xff\xfe\xff\xff" + b"\xff\xd9" * 32766 + b"x"
    (tmp_path / "long.jpg").write_bytes(data[:2] + comment + data[2:])
    assert check_picture(tmp_path / "long.jpg") == (70, 50)
    (tmp_path / "cut.jpg").write_bytes((data[:2] + comment + data[2:])[:-100])
    with pytest.raises(UserError, match=r"cut\.jpg is cut off"):
        check_picture(tmp_path / "cut.jpg")


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    rgb = picture(64, 64, [(20, 20, WHITE)])
    for suffix in ("jpg", "png"):
        data = write_picture(tmp_path / f"a.{suffix}", rgb).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"no picture" * 99)
    for name, words in (
        ("cut.jpg", r"cut\.jpg is cut off"),
        ("cut.png", r"cut\.png is cut off"),
        ("empty.jpg", r"empty\.jpg is empty"),
        ("text.jpg", r"text\.jpg is damaged or not a picture"),
        ("none.jpg", r"none\.jpg cannot be read: No such file"),
    ):
        with pytest.raises(UserError, match=words):
            read_crop(tmp_path / name, "picture", [0], whole(64, 64), 64)
    with pytest.raises(UserError, match=r"000007\.jpg cannot be read"):
        read_crop(tmp_path / "%06d.jpg", "frames", [7], whole(64, 64), 64)
    with pytest.raises(UserError, match="no pattern with one number"):
        read_crop(tmp_path / "a.jpg", "frames", [7], whole(64, 64), 64)


def test_numbered_pictures_and_repeats(tmp_path: Path) -> None:
    for number in (3, 4):
        write_picture(tmp_path / f"{number:03d}.jpg", picture(32, 32, [(4.0 * number, 9, WHITE)]))
    shown = read_crop(tmp_path / "%03d.jpg", "frames", [3, 3, 4, 3], whole(32, 32), 32)
    assert [round(centroid(one)[0]) for one in shown] == [12, 12, 16, 12]
    assert read_crop(tmp_path / "003.jpg", "picture", [0, 0], whole(32, 32), 32).shape == (2, 32, 32, 3)


# Videos

LENGTH = 50
KINDS = [
    ("a.mp4", "libx264", 3, 12, True),
    ("b.avi", "mpeg4", 0, 12, True),
    ("c.avi", "mpeg4", 2, 9, True),
    ("d.mp4", "mpeg4", 2, 1000, True),
    ("e.mkv", "libx264", 3, 7, True),
    ("f.avi", "libx264", 3, 7, False),  # whose time stamps say nothing of the order of display
]


def numbered_video(path: Path, codec: str = "mpeg4", b_frames: int = 0, group: int = 12, length: int = LENGTH) -> Path:
    """Frame n is 4 n + 20 bright."""
    frames_ = [np.full((48, 64, 3), 20 + 4 * number, np.uint8) for number in range(length)]
    return write_video(path, frames_, codec, b_frames, group)


def number_of(frame: np.ndarray) -> int:
    return round((float(frame.mean()) - 20) / 4)


@pytest.mark.parametrize(("name", "codec", "b_frames", "group", "exact"), KINDS)
def test_any_frame_of_any_video_is_found(
    tmp_path: Path, name: str, codec: str, b_frames: int, group: int, exact: bool
) -> None:
    path = numbered_video(tmp_path / name, codec, b_frames, group)
    reader = VideoReader(path)
    assert (reader.num_frames, reader.width, reader.height) == (LENGTH, 64, 48)
    rng = np.random.default_rng(0)
    wanted = [sorted({int(n) for n in rng.integers(LENGTH, size=4)}) for _ in range(25)]
    wanted += [list(range(LENGTH)), [LENGTH - 1], [0], list(range(3, LENGTH, 10))]
    for numbers in wanted:
        found = [(n, number_of(frame.to_ndarray(format="rgb24"))) for n, frame in reader.read(numbers)]
        assert found == [(n, n) for n in numbers]
    assert reader.exact == exact
    reader.close()


def test_reading_on_decodes_no_frame_twice(tmp_path: Path) -> None:
    reader = VideoReader(numbered_video(tmp_path / "a.mp4", "libx264", 2, 10))
    starts: list[int] = []
    start = reader._start
    reader._start = lambda number: (starts.append(number), start(number))[1]  # type: ignore[method-assign]
    for numbers in ([3, 5], [6, 9], [11], [41, 45], [2]):
        list(reader.read(numbers))
    assert starts == [3, 41, 2]  # on into the next group; ahead by a key frame; and back


def test_frames_that_none_refers_to_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rough = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)) for _ in range(LENGTH)]
    path = write_video(tmp_path / "a.mp4", rough, "libx264", 3, 20)
    every = dict(read_frames(path, range(LENGTH)))
    reader, decoded = VideoReader(path), []
    decode = reader._decode

    def spy() -> Iterator[object]:
        for frame in decode():
            decoded.append(frame)
            yield frame

    reader._decode = spy  # type: ignore[method-assign]
    for numbers in ([1, 18], [2, 3, 19], [21, 37], [38]):
        for number, frame in reader.read(numbers):
            np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), every[number])
    assert 10 < len(decoded) < 45  # of 58 on the way
    # What a reading that was given up had left out is there for the next.
    next(iter(reader.read([21, 37])))
    for number in range(22, 30):
        ((_, frame),) = reader.read([number])
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), every[number])


def test_clips_of_a_video(tmp_path: Path) -> None:
    places = [(20 + 2 * n, 30 + n) for n in range(20)]
    path = write_video(tmp_path / "a.avi", [picture(128, 96, [(x, y, WHITE)], 3.0) for x, y in places])
    to_pixels = crop((10, 10, 90, 90), 64, rotation=15)
    numbers = [4, 4, 9, 19, 2]
    shown = read_crop(path, "video", numbers, to_pixels, 64)
    for one, number in zip(shown, numbers, strict=True):
        expected = to_pixels[:2, :2] @ places[number] + to_pixels[:2, 2]
        np.testing.assert_allclose(centroid(one), expected, atol=0.3)


@pytest.mark.parametrize("box", [(40, 30, 90, 80), (-60, -60, 20, 20), (500, 500, 600, 600), (33, 21, 34, 22)])
@pytest.mark.parametrize("size", [(128, 96), (127, 95)])
def test_the_shown_part_of_a_frame_is_that_of_the_whole(
    tmp_path: Path, box: tuple[float, ...], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(2)
    rough = cv2.resize(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    path = write_video(tmp_path / "a.mkv", [rough[: size[1] // 2 * 2, : size[0] // 2 * 2]] * 2)
    ((_, rgb),) = read_frames(path, [1])
    for side in (24, 96):
        to_pixels = crop(box, side, rotation=20)  # type: ignore[arg-type]
        shown = read_crop(path, "video", [1], to_pixels, side)[0]
        # Blocks that begin at another pixel average others.
        np.testing.assert_allclose(shown, warp(rgb, to_pixels, side), atol=1 if side == 96 else 6)


def test_few_videos_stay_open_and_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_open", OrderedDict())
    paths = [numbered_video(tmp_path / f"{n}.avi", length=4) for n in range(6)]
    to_pixels = crop((0, 0, 48, 48), 16)
    for path in paths:
        read_crop(path, "video", [1], to_pixels, 16)
    assert list(frames._open) == [str(path) for path in paths[2:]]
    reader = frames._open[str(paths[2])]
    read_crop(paths[2], "video", [2], to_pixels, 16)
    assert frames._open[str(paths[2])] is reader
    assert list(frames._open) == [str(path) for path in (*paths[3:], paths[2])]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.avi")
    to_pixels = crop((-0.5, -0.5, 47.5, 47.5), 48)
    read_crop(path, "video", [3], to_pixels, 48)
    child = os.fork()
    if child == 0:
        found = number_of(read_crop(path, "video", [40], to_pixels, 48)[0])
        os._exit(0 if found == 40 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert number_of(read_crop(path, "video", [4], to_pixels, 48)[0]) == 4


def test_broken_videos_are_named(tmp_path: Path) -> None:
    to_pixels = crop((-0.5, -0.5, 47.5, 47.5), 48)
    data = numbered_video(tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: 2 * len(data) // 3])
    reader = VideoReader(tmp_path / "cut.avi")
    assert 2 < reader.num_frames < LENGTH
    last = reader.num_frames - 1
    assert number_of(read_crop(tmp_path / "cut.avi", "video", [last - 1], to_pixels, 48)[0]) == last - 1
    with pytest.raises(UserError, match=rf"cut\.avi: frame {last} cannot be decoded: its data is damaged or cut off"):
        read_crop(tmp_path / "cut.avi", "video", [last], to_pixels, 48)
    with pytest.raises(UserError, match=r"cut\.avi has no frame 49: it holds \d+, counted from 0"):
        read_crop(tmp_path / "cut.avi", "video", [2, 49], to_pixels, 48)
    whole_ = numbered_video(tmp_path / "a.mp4", "libx264").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole_[: len(whole_) // 2])
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "head.avi").write_bytes(data[:5000])
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    for name, words in (
        ("cut.mp4", r"cut\.mp4 cannot be opened"),
        ("empty.avi", r"empty\.avi is empty"),
        ("head.avi", r"head\.avi holds no frames|head\.avi cannot be opened"),
        ("noise.avi", r"noise\.avi cannot be opened"),
        ("none.avi", r"none\.avi cannot be read: there is no such file"),
    ):
        with pytest.raises(UserError, match=words):
            read_crop(tmp_path / name, "video", [1], to_pixels, 48)


def test_tags_in_another_encoding_and_unknown_codecs(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Ubung"
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Ubung", b"\xdcbung"))
    assert VideoReader(path).num_frames == read_video_header(path).frames == 1
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(UserError, match="its codec is unknown; convert it"):
        VideoReader(path)
    with pytest.raises(UserError, match="of an unknown codec: convert it"):
        read_video_header(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    with pytest.raises(UserError, match="holds no video"):
        VideoReader(tmp_path / "a.wav")


@pytest.mark.parametrize("block", [2, 3, 4])
@pytest.mark.parametrize("size", [(320, 240), (319, 239)])
@pytest.mark.parametrize(
    ("pixels", "colours", "levels"),
    [("yuv420p", 2, 0), ("yuv420p", 1, 0), ("yuv420p", 1, 2), ("yuv420p", 5, 1), ("yuvj420p", 2, 0), ("yuv420p", 9, 0)],
)
def test_planes_that_are_shrunk_first_give_the_same_colours(
    block: int, size: tuple[int, int], pixels: str, colours: int, levels: int
) -> None:
    rng = np.random.default_rng(5)
    rough = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = cv2.resize(rough, size, interpolation=cv2.INTER_LINEAR)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)
    frame.colorspace, frame.color_range = colours, levels
    whole_rgb = whole_frame(frame)
    for left, top, rotation in ((20, 10, 0.0), (33, 25, 25.0), (-40, 90, 10.0), (260, 170, 0.0), (900, 900, 0.0)):
        side = 48 * (block + 0.3)
        to_pixels = crop((left, top, left + side, top + side), 48, rotation=rotation)
        shown, out = warp(whole_rgb, to_pixels, 48), np.full((48, 48, 3), 99, np.uint8)
        FrameCrop(to_pixels, 48).write(frame, out)
        difference = np.abs(out.astype(int) - shown)
        # At the frame's edge, blocks that begin at another pixel reach as far as another pixel.
        there = warp(np.full_like(whole_rgb, 255), to_pixels, 48)[..., 0]
        inside, outside = cv2.erode(there, np.ones((3, 3))) == 255, cv2.dilate(there, np.ones((3, 3))) == 0
        # Of a frame of odd size, FFmpeg interpolates colours.
        assert difference[inside].max(initial=0) <= (12 if size[0] % 2 else 8), (left, top)
        assert difference[inside].sum() <= 2 * inside.sum() * 3  # FFmpeg rounds down.
        assert out[outside].max(initial=0) == 0
        assert inside.any() == (left < 900)


def test_one_crop_of_frames_of_different_size() -> None:
    rng = np.random.default_rng(6)
    to_pixels = crop((40, 30, 140, 130), 32)
    kept = FrameCrop(to_pixels, 32)
    for width, height in ((160, 120), (100, 80), (160, 120)):
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        shown, fresh = (np.empty((32, 32, 3), np.uint8) for _ in range(2))
        kept.write(frame, shown)
        FrameCrop(to_pixels, 32).write(frame, fresh)
        np.testing.assert_array_equal(shown, fresh)


def test_a_png_that_says_it_has_no_pixels_is_damaged(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", picture(20, 10, []))
    data = bytearray(path.read_bytes())
    data[16:20] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        picture_size(path)


@pytest.mark.parametrize("side", [1e5, 1e9, 1e30])
def test_a_crop_much_larger_than_its_picture_takes_no_memory(tmp_path: Path, side: float) -> None:
    to_pixels = to_crop_pixels(crop_map((0, 0, side, side)), 16)
    assert View(to_pixels, 16, 20, 10).block <= 20
    for name in ("a.png", "a.jpg"):
        path = write_picture(tmp_path / name, picture(20, 10, [(5, 5, WHITE)]))
        assert read_crop(path, "picture", [0], to_pixels, 16).shape == (1, 16, 16, 3)
