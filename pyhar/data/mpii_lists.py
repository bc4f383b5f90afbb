"""MPII as the community's JSON lists and their ground truth (see `pyhar.data.mpii` for files and conventions)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data import matlab
from pyhar.errors import UserError, reason

Array = npt.NDArray[np.float64]

FOLDERS = ("", "annot", "annotations", "mpii_human_pose_v1_u12_2", "mpii_human_pose_v1")
LISTS: dict[str, tuple[str, ...]] = {
    "train": ("train.json", "mpii_train.json"),
    "val": ("valid.json", "mpii_val.json", "val.json", "mpii_valid.json"),
    "test": ("test.json", "mpii_test.json"),
}
BOTH = ("mpii_annotations.json",)
GROUND_TRUTH = ("gt_valid.mat", "mpii_gt_val.mat", "gt_val.mat", "mpii_gt_valid.mat")
SHORT_NAMES = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)
"""The joints in `dataset_joints`, in the data set's order."""


@dataclass
class Person:
    """A person as annotated: 1-based pixels, joints in the data set's order, NaN where unknown."""

    image: str
    split: str
    centre: Array
    """(2,) objpos."""
    scale: float
    """Height / 200 pixels."""
    head: Array = field(default_factory=lambda: np.full(4, np.nan))
    """(4,) x1, y1, x2, y2."""
    joints: Array = field(default_factory=lambda: np.full((16, 2), np.nan))
    visible: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(16, dtype=bool))

    def set_joint(self, joint: int, x: float, y: float, visible: bool) -> None:
        """Place a joint; (0, 0) and (-1, -1) are how the lists say that it is not there."""
        if np.isfinite([x, y]).all() and (x, y) not in ((0.0, 0.0), (-1.0, -1.0)):
            self.joints[joint], self.visible[joint] = (x, y), visible


@dataclass
class Lists:
    """The people of all lists that were found."""

    people: list[tuple[str, Person]] = field(default_factory=list)
    """With their names."""
    given: list[str] = field(default_factory=list)
    """The splits for which there are lists."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.given)

    def finder(self) -> Callable[[Person], str | None]:
        """What tells in which list a person of the owners' file is: same picture, position and scale."""
        of_picture: dict[str, list[Person]] = {}
        for _, person in self.people:
            of_picture.setdefault(person.image, []).append(person)

        def find(person: Person) -> str | None:
            for listed in of_picture.get(person.image, ()):
                if np.abs(listed.centre - person.centre).max() < 0.5 and abs(listed.scale - person.scale) < 1e-2:
                    return listed.split
            return None

        return find


def find_file(root: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` in the usual folders under `root`."""
    return next((root / f / n for f in FOLDERS for n in names if (root / f / n).is_file()), None)


def read_lists(root: Path) -> Lists:
    """All lists under `root`; ones that are not there are empty.

    Raises UserError for a list that is not JSON, is empty, or disagrees in length with its ground truth.
    """
    lists = Lists()
    for split, names in LISTS.items():
        path = find_file(root, names)
        if path is not None:
            _add_list(lists, path, split, root)
    both = find_file(root, BOTH)
    if not lists and both is not None:
        _add_list(lists, both, None, root)
    return lists


def _add_list(lists: Lists, path: Path, split: str | None, root: Path) -> None:
    """Read one file; split None: its entries say themselves whether they validate."""
    entries = _read_json(path)
    count: dict[str, int] = {}
    validation: list[Person | None] = []
    for i, entry in enumerate(entries):
        person: Person | None = None
        try:
            person = _person(entry, split)
        except ValueError as error:
            lists.skipped.setdefault(str(error), []).append(f"{path.name}[{i}]")
        if split == "val" or (split is None and isinstance(entry, dict) and _validates(entry)):
            validation.append(person)
        if person is not None:
            count[person.image] = count.get(person.image, 0) + 1
            kind = person.split
            lists.people.append((f"mpii/{kind}/{Path(person.image).stem}/{count[person.image]}", person))
            if kind not in lists.given:
                lists.given.append(kind)
    if split is not None and split not in lists.given:
        lists.given.append(split)
    truth = find_file(root, GROUND_TRUTH)
    if validation and truth is not None:
        _apply_truth(truth, validation, path)
        lists.notes["ground_truth"] = truth.name


def _read_json(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    # Of numbers with thousands of digits, and of lists within lists without end, Python raises other errors.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON, or cut short ({reason(error)}); fetch it again") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of people, and at least one; fetch it again")
    return entries


def _validates(entry: dict[str, Any]) -> bool:
    return matlab.number(entry.get("isValidation")) > 0


def _person(entry: Any, split: str | None) -> Person:
    """An entry of either form of list. Raises ValueError, with a reason that fits many, for one that is no person."""
    if not isinstance(entry, dict):
        raise ValueError("entry that is not an object")
    image = entry.get("image", entry.get("img_paths"))
    if not isinstance(image, str) or not image or not image.isprintable():
        raise ValueError("entry without image")
    if split is None:
        split = "val" if _validates(entry) else "train"
    centre = _numbers(entry.get("center", entry.get("objpos")), (2,))
    scale = _numbers(entry.get("scale", entry.get("scale_provided")), ())
    if centre is None or scale is None:
        raise ValueError("entry without center and scale")
    if (centre == -1).all():
        centre = np.full(2, np.nan)
    person = Person(Path(image).name, split, centre=centre, scale=float(scale))
    joints: Array | None
    if "joint_self" in entry:
        rows = _numbers(entry["joint_self"], (16, 3))
        joints, visible = (None, None) if rows is None else (rows[:, :2], rows[:, 2])
    elif split == "test" and "joints" not in entry:
        return person
    else:
        joints, visible = _numbers(entry.get("joints"), (16, 2)), _numbers(entry.get("joints_vis"), (16,))
    if joints is None or visible is None:
        raise ValueError("entry without 16 joints and as many joints_vis")
    for joint, ((x, y), seen) in enumerate(zip(joints, visible, strict=True)):
        person.set_joint(joint, float(x), float(y), bool(seen > 0))
    return person


def _numbers(value: Any, shape: tuple[int, ...]) -> Array | None:
    """`value` as float64 of `shape`, null as NaN; None if it is not that."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.shape == (*shape, 1):  # Some lists wrap each flag.
        array = array[..., 0]
    return array if array.shape == shape and value is not None else None


def _apply_truth(path: Path, people: list[Person | None], listing: Path) -> None:
    """Replace joints by the ground truth's, and add head boxes; entry i of the list is column i of the file."""
    truth = matlab.load(path)
    arrays = {}
    for name, shape in {"pos_gt_src": (16, 2), "headboxes_src": (2, 2), "jnt_missing": (16,)}.items():
        array = matlab.matrix(truth.get(name))
        if array.ndim == len(shape):  # MATLAB drops the last dimension of a single person.
            array = array[..., None]
        if array.shape[:-1] != shape:
            raise UserError(f"{path}: {name} should be {shape} for each person, but is {array.shape}; fetch it again")
        if array.shape[-1] != len(people):
            raise UserError(
                f"{path}: {name} is of {array.shape[-1]} people, but {listing.name} lists {len(people)} to validate: "
                "take both files from the same source"
            )
        arrays[name] = array
    order = _joint_order(truth.get("dataset_joints"), path)
    for i, person in enumerate(people):
        if person is None:
            continue
        joints, missing = arrays["pos_gt_src"][order, :, i], arrays["jnt_missing"][order, i] != 0
        person.joints = np.where((missing | ~np.isfinite(joints).all(-1))[:, None], np.nan, joints)
        person.visible &= np.isfinite(person.joints).all(-1)
        person.head = arrays["headboxes_src"][:, :, i].ravel()


def _joint_order(names: Any, path: Path) -> list[int]:
    """Rows of the ground truth in the data set's order of joints."""
    found = [matlab.text(name) for name in names] if isinstance(names, list) else []
    if not found or all(
        name == short or name not in SHORT_NAMES for name, short in zip(found, SHORT_NAMES, strict=False)
    ):
        return list(range(16))
    if sorted(found) != sorted(SHORT_NAMES):
        raise UserError(f"{path}: dataset_joints are {', '.join(found)}, but should be {', '.join(SHORT_NAMES)}")
    return [found.index(name) for name in SHORT_NAMES]
