"""What the repository promises outside its code: two commands, one way to test, pinned versions, no machine's paths."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^python3 -m venv .*$", re.MULTILINE)
STUB = '#!/bin/sh\necho "$(basename "$0") $*" >> "{log}"\n{then}\n'


def readme_commands() -> list[str]:
    return COMMAND.findall((ROOT / "README.md").read_text())


def test_readme_gives_one_command_to_train_and_one_to_test() -> None:
    train, test = readme_commands()
    assert train.endswith("-m pyhar.train")
    assert test.endswith("-m pytest -n 2 --dist worksteal")
    for command in (train, test):
        torch, package = re.findall(r"pip install -c constraints.txt (\S+)", command)
        assert torch == "torch"  # a module is compiled with it
        assert package == "-e"
        assert "source" not in command


@pytest.fixture
def rehearsal(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the README, .ci/run and programs that only write down how they were called."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    for path in ("bin/python3", ".venv/bin/pip", ".venv/bin/python", ".venv/bin/ruff", ".venv/bin/mypy"):
        program(tmp_path, path)
    return tmp_path, {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def program(folder: Path, path: str, then: str = "exit 0") -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(STUB.format(log=folder / "log", then=then))
    target.chmod(0o755)


def test_ci_runs_the_readme_test_command_and_the_linters(rehearsal: tuple[Path, dict[str, str]]) -> None:
    folder, environment = rehearsal
    result = subprocess.run(
        ["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "log").read_text().splitlines() == [
        "python3 -m venv .venv",
        "pip install -c constraints.txt torch",
        "pip install -c constraints.txt -e .[test]",
        "python -m pytest -n 2 --dist worksteal",
        "ruff check .",
        "ruff format --check .",
        "mypy ",
    ]


@pytest.mark.parametrize("broken", [".venv/bin/pip", ".venv/bin/python", ".venv/bin/ruff", ".venv/bin/mypy"])
def test_ci_fails_where_a_step_fails(broken: str, rehearsal: tuple[Path, dict[str, str]]) -> None:
    folder, environment = rehearsal
    program(folder, broken, "exit 3")
    result = subprocess.run(
        ["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert (folder / "log").read_text().splitlines()[-1].startswith(Path(broken).name)


def test_the_public_workflow_runs_the_same_script() -> None:
    assert "- run: .ci/run\n" in (ROOT / ".github/workflows/ci.yml").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_constraints_pin_every_direct_dependency() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "torch" in pins
    missing = {re.split(r"[<>=!~\[ ;]", name)[0].lower() for name in asked} - set(pins)
    assert not missing


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    # A folder directly below the root, named and entered; not part of a longer path or an address.
    machine_path = re.compile(rb"(?<![\w.:/~*-])/(?:home|root|Users|tmp|mnt|work|opt)/\w")
    found = []
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            found += [f"{name}: {match.group().decode()}" for match in machine_path.finditer(data)]
    assert len(names) > 10
    assert not found


def blocks_of(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "subject", ["from pyhar import ops", "import dataclasses\n", "from pyhar.deploy import deploy"]
)
def test_readme_examples_run(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for block in blocks_of("README.md", "python") if subject in block]
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("torch.Size")


def test_readme_examples_import_what_exists() -> None:
    blocks = blocks_of("README.md", "python")
    assert len(blocks) >= 3
    for block in blocks:
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


def test_documented_command_lines_use_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(
        r"-m pyhar\.([\w.]+) *(.*)$",
        "\n".join(blocks_of("README.md", "sh") + blocks_of("docs/own-data.md", "sh")),
        re.MULTILINE,
    )
    commands = {"train", "evaluate", "predict", "benchmark", "export", "convert", "data.synthetic", "data.prepare"}
    assert {name for name, _ in lines} == commands
    for name in {name for name, _ in lines}:
        is_package = (ROOT / "pyhar" / name.replace(".", "/")).is_dir()
        with pytest.raises(SystemExit):
            importlib.import_module(f"pyhar.{name}.__main__" if is_package else f"pyhar.{name}").main(["--help"])
        known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
        used = {option for command, rest in lines if command == name for option in re.findall(r"--[\w.-]+", rest)}
        assert used <= known | {"--help"}, name


def test_every_benchmark_is_listed_with_its_question() -> None:
    readme = (ROOT / "benchmarks/README.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__.py"}
    assert scripts == set(re.findall(r"`(\w+\.py)`", readme))
    for name in re.findall(r"^\| `(\w+)\.py` \|", readme, re.MULTILINE):
        assert f"python -m benchmarks.{name}" in (ROOT / f"benchmarks/{name}.py").read_text()


def test_the_readme_shows_every_picture() -> None:
    shown = set(re.findall(r"\(docs/pictures/([\w.]+)\)", (ROOT / "README.md").read_text()))
    assert shown == {path.name for path in (ROOT / "docs/pictures").iterdir()}
