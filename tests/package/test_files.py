"""Files are written whole or not at all, and what stands in the way is said of the file that was asked for."""

from __future__ import annotations

import errno
import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pyhar import cli, files
from pyhar.errors import UserError
from pyhar.models import ModelMeta, SPNet, SPNetConfig, save_model
from pyhar.training.checkpoint import Progress, save_checkpoint

TINY = SPNetConfig(num_pyramids=1, num_levels=2, growth=8, stem_features=8, action_pyramids=(), num_actions=())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_model(path: Path) -> None:
    save_model(path, SPNet(TINY), ModelMeta.default(TINY))


def write_checkpoint(path: Path) -> None:
    model = SPNet(TINY)
    optimizer = torch.optim.SGD(model.parameters())
    save_checkpoint(path, Progress("pose"), model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None, {})


@pytest.mark.parametrize("write", [write_model, write_checkpoint, lambda path: files.write_text(path, "a" * 10000)])
def test_a_full_disk_is_one_line_that_names_the_file(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def main(argv: list[str] | None = None) -> int:
        with files_of_at_most(4096):
            write(path)
        return 0

    assert cli.run(main, []) == 2
    gc.collect()  # Python 3.12.1 crashes here if a view of a BytesIO is in the traceback
    assert capsys.readouterr().err == f"error: {path}: File too large\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 4096


def test_a_folder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} is a folder: give the name of a file"), files.atomic(tmp_path):
        pytest.fail("the block ran")


def test_where_results_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(files.os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"since {tmp_path} is no folder that you may write to: name another place"):
        files.check_folder(tmp_path / "new" / "folder")


def test_a_folder_that_takes_no_files_is_said_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".a.txt.x1y2.txt"))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError) as raised:
        files.write_text(tmp_path / "a.txt", "text")
    assert raised.value.filename == str(tmp_path / "a.txt")


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^unrelated$"), files.atomic(tmp_path / "a"):
        raise OSError("unrelated")
    with pytest.raises(BrokenPipeError) as raised, files.atomic(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert raised.value.filename is None
    assert list(tmp_path.iterdir()) == []
