"""MATLAB files: both formats give the same plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from writers.matlab_files import EMPTY, Cell, Structs, save

from pyhar.data import matlab
from pyhar.errors import UserError

WRITTEN: dict[str, Any] = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "cube": np.arange(24.0).reshape(2, 3, 4),
    "flags": np.array([[True, False, True]]),
    "bytes": np.array([[1], [2]], dtype=np.uint8),
    "word": "clean_and_jerk",
    "nothing": EMPTY,
    "no_word": "",
    "scalar": {"a": 1.0, "b": {"c": "deep"}},
    "array": Structs([{"a": 1.0, "b": "x"}, {"a": EMPTY}, {"a": Structs([{"k": 1.0}, {"k": 2.0}]), "b": Cell([])}]),
    "row": Cell(["one", np.ones((1, 2)), EMPTY, {"d": 4.0}]),
    "column": Cell([np.zeros((2, 1)), ""], column=True),
}

READ: dict[str, Any] = {
    "numbers": WRITTEN["numbers"],
    "cube": WRITTEN["cube"],
    "flags": WRITTEN["flags"],
    "bytes": WRITTEN["bytes"],
    "word": "clean_and_jerk",
    "nothing": EMPTY,
    "no_word": "",
    "scalar": [{"a": np.array([[1.0]]), "b": [{"c": "deep"}]}],
    "array": [
        {"a": np.array([[1.0]]), "b": "x"},
        {"a": EMPTY, "b": EMPTY},
        {"a": [{"k": np.array([[1.0]])}, {"k": np.array([[2.0]])}], "b": []},
    ],
    "row": ["one", np.ones((1, 2)), EMPTY, [{"d": np.array([[4.0]])}]],
    "column": [np.zeros((2, 1)), ""],
}


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            same(found[name], value)
    elif isinstance(wanted, list):
        assert isinstance(found, list)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("name", WRITTEN)
def test_every_kind_of_value(tmp_path: Path, version: str, name: str) -> None:
    save(tmp_path / "x.mat", {name: WRITTEN[name], "other": 1.0}, version)
    same(matlab.load(tmp_path / "x.mat", (name,)), {name: READ[name]})
    assert set(matlab.load(tmp_path / "x.mat")) == {name, "other"}


def test_what_values_mean() -> None:
    nan = float("nan")
    for value, wanted in (
        ("1", 1.0),
        ("one", nan),
        (np.array([[3, 4]], dtype=np.uint8), 3.0),
        (EMPTY, nan),
        ([np.array([[True]])], 1.0),
        ([], nan),
        (None, nan),
        (7, 7.0),
    ):
        np.testing.assert_equal(matlab.number(value), wanted)
    assert [matlab.text(v) for v in (" a ", ["b", "c"], EMPTY, [])] == ["a", "b", "", ""]
    assert [matlab.one(v) for v in (EMPTY, [{"a": 1}, {"a": 2}], "x", {"a": 3})] == [{}, {"a": 1}, {}, {"a": 3}]
    assert matlab.struct([[{"a": 1}], [], [{"a": 2}]]) == [{"a": 1}, {"a": 2}]
    assert matlab.matrix("x").shape == (0, 0)


def test_version_4_is_read_too(tmp_path: Path) -> None:
    """What other programs write: matrices and text, no structures."""
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.arange(6.0).reshape(2, 3), "action": "squat"}, format="4")
    content = matlab.load(tmp_path / "x.mat")
    np.testing.assert_array_equal(content["x"], np.arange(6.0).reshape(2, 3))
    assert content["action"] == "squat"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        matlab.load(tmp_path / "x.mat")
    (tmp_path / "x.mat").write_text("not one")
    with pytest.raises(UserError, match="not a MATLAB file, or damaged"):
        matlab.load(tmp_path / "x.mat")
