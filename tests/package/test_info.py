"""`pyhar info` says what is there and why the rest is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pyhar
from pyhar import info
from pyhar.kernels import native
from pyhar.models import PRESETS
from pyhar.ops import available_backends, native_calls


def test_json_says_what_the_libraries_themselves_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "system", "cpu", "cuda", "native", "calls", "backends", "presets"}
    assert set(found["versions"]) == {"pyhar", "python", "torch", "numpy", "opencv", "triton", "cupy"}
    assert found["versions"]["pyhar"] == pyhar.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["backends"] == available_backends()
    assert found["backends"]["eager"] is None
    assert set(found["presets"]) == set(PRESETS)
    assert found["cpu"]["cores"] >= 1
    assert found["native"]["missing"] == native.why_missing()
    assert found["calls"]["missing"] == native_calls.why_missing()
    assert len(found["cuda"]["devices"]) == torch.cuda.device_count()
    assert bool(found["cuda"]["devices"]) == (found["cuda"]["missing"] is None)


def test_tables_name_every_backend_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main([]) == 0
    out = capsys.readouterr().out
    for name in (*available_backends(), *PRESETS, pyhar.__version__):
        assert name in out


def test_a_missing_native_module_is_reported_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda: "it was not built [here]; install a compiler")
    found = info.collect()
    assert found["cpu"]["simd"] is None
    info.show(found)
    assert "it was not built [here]; install a compiler" in capsys.readouterr().out


def test_calls_that_go_through_python_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native_calls, "why_missing", lambda: "it was built for [another] PyTorch")
    info.show(info.collect())
    assert "it was built for [another] PyTorch" in capsys.readouterr().out


def test_a_missing_library_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(info.MODULES, "absent", "pyhar_no_such_module")
    assert info.versions()["absent"] is None


def test_does_not_import_the_trainer(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pyhar import cli\n"
        "cli.main(['info', '--json'])\n"
        "heavy = ('pyhar.train', 'pyhar.evaluat', 'pyhar.infer', 'pyhar.predict')\n"
        "print(*[name for name in sys.modules if name.startswith(heavy)], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "backends" in result.stdout
    assert result.stderr.strip() == ""
