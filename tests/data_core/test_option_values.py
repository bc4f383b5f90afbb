"""Options on a command line have the types that the function asks for, or are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from pyhar.data.option_values import read_options
from pyhar.data.registry import ON_DISK
from pyhar.errors import UserError

KINDS = {
    "flag": bool,
    "count": int,
    "share": float,
    "name": str,
    "file": Path | None,
    "numbers": Sequence[int] | None,
    "names": Sequence[str],
    "choice": Literal["a", "b"],
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("flag=true", True),
        ("flag=False", False),
        ("count=3", 3),
        ("share=2", 2),
        ("share=2.5e-1", 0.25),
        ("name=2023", "2023"),
        ("name=a=b", "a=b"),
        ("file=a b.xml", "a b.xml"),
        ("file=null", None),
        ("numbers=[1, 5]", [1, 5]),
        ("numbers=1,5", [1, 5]),
        ("numbers=9", [9]),
        ("names=wave, bow", ["wave", "bow"]),
        ('names=["a, b"]', ["a, b"]),
        ("choice=a", "a"),
        ("unheard=1", "1"),
    ],
)
def test_values(word: str, value: Any) -> None:
    (read,) = read_options([word], KINDS).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("flag=no", "--set flag: expected true or false, not 'no'"),
        ("flag=1", "true or false"),
        ("count=true", "a whole number"),
        ("count=1.5", "a whole number"),
        ("share=nan", "a number"),
        ("share=Infinity", "a number"),
        ("numbers=S1,S5", "a list of numbers, not 'S1,S5'"),
        ("names=[1]", "a list of names"),
    ],
)
def test_values_of_another_type(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_options([word], KINDS)


def test_the_options_of_every_data_set_have_types() -> None:
    for name, wrong in {"mpii": "annotations", "penn": "derive", "human36m": "subjects", "ntu": "mirror"}.items():
        assert wrong in ON_DISK[name].options
    with pytest.raises(UserError, match="subjects: expected a list of numbers"):
        read_options(["subjects=one"], ON_DISK["human36m"].options)
    assert read_options(["layout=pa17", "box-margin=0"], ON_DISK["folder"].options) == {
        "layout": "pa17",
        "box_margin": 0,
    }
