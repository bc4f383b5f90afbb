"""The console command: finding subcommands, exit statuses, errors in one line."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pyhar import __version__, cli
from pyhar.errors import UserError


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.main, ["--help"]) == 0
    out = capsys.readouterr().out
    assert {"train", "evaluate", "predict", "convert", "export", "prepare", "benchmark", "info"} == set(cli.SUBCOMMANDS)
    for name, purpose in cli.SUBCOMMANDS.items():
        assert any(line.split()[:1] == [name] and purpose in line for line in out.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.main, ["--version"]) == 0
    assert capsys.readouterr().out == f"pyhar {__version__}\n"


def test_no_subcommand_shows_the_usage_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.main, []) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: pyhar")


def test_unknown_subcommand_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.main, ["evalute"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: unknown subcommand 'evalute'; did you mean 'evaluate'?")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_subcommand_answers_help_under_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([name, "--help"])
    assert exit_info.value.code == 0
    assert f"pyhar {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no such thing: look there"), 2, "error: no such thing: look there\n"),
        (FileNotFoundError(2, "No such file or directory", "a.mp4"), 2, "error: a.mp4: No such file or directory\n"),
        (PermissionError(13, "Permission denied", "runs"), 2, "error: runs: Permission denied\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: a file cannot be written: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_mistakes_and_interrupts_become_one_line_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str] | None = None) -> int:
        raise error

    assert cli.run(main, []) == status
    assert capsys.readouterr().err == message


def test_a_termination_cleans_up(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pyhar import cli, files

def main(argv):
    with files.atomic({str(tmp_path / "file")!r}):
        os.kill(os.getpid(), signal.SIGTERM)
    return 0

raise SystemExit(cli.run(main, []))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (143, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError("no file named")])
def test_faults_of_the_program_keep_their_traceback(error: Exception) -> None:
    def main(argv: list[str] | None = None) -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        cli.run(main, [])


def test_run_hands_over_arguments_and_status() -> None:
    seen: list[list[str] | None] = []

    def main(argv: list[str] | None = None) -> int:
        seen.append(argv)
        return 7

    assert cli.run(main, ("a", "b")) == 7
    assert cli.run(main) == 7
    assert seen == [["a", "b"], None]


def test_only_the_called_subcommand_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Module:
        @staticmethod
        def main(argv: list[str]) -> int:
            return len(argv)

    def import_module(name: str) -> type[Module]:
        asked.append(name)
        return Module

    monkeypatch.setattr(importlib, "import_module", import_module)
    assert cli.main(["train", "--a", "b"]) == 2
    assert asked == ["pyhar.train"]


def test_python_m_pyhar_is_the_console_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyhar", "predikt"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "did you mean 'predict'?" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("printing", ["print", "Console().print"])
def test_a_reader_that_goes_away_is_no_fault(printing: str) -> None:
    code = "from pyhar import cli\nfrom rich.console import Console\nimport sys\n"
    code += f"sys.exit(cli.run(lambda argv: [{printing}('some words\\n' * 100) for _ in range(500)] and 0))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 141
    assert stderr == b""
