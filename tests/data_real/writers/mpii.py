"""Writes MPII Human Pose as its owners and the community ship it: 1-based pixels, nested structs, JSON lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from writers import matlab_files
from writers.matlab_files import EMPTY, Cell, Structs
from writers.rendered import Rendered, shoot, write_jpeg

FROM_PA16 = (14, 12, 10, 11, 13, 15, 0, 1, 2, 3, 8, 6, 4, 5, 7, 9)
"""The data set's joints by id, as places in "pa16": the authors' `map_to_mpii`."""
SHORT_NAMES = [
    "rank",
    "rkne",
    "rhip",
    "lhip",
    "lkne",
    "lank",
    "pelv",
    "thor",
    "neck",
    "head",
    "rwri",
    "relb",
    "rsho",
    "lsho",
    "lelb",
    "lwri",
]


@dataclass
class Subject:
    """A person of the test data: what the loader should find, in 0-based pixels."""

    joints: npt.NDArray[np.float64]
    """(16, 2) in the data set's order; NaN for those that are not annotated."""
    visible: npt.NDArray[np.bool_]
    centre: npt.NDArray[np.float64]
    scale: float
    head: npt.NDArray[np.float64]
    visibility_as: str = "number"
    """"number", "text", "logical", "empty", "absent": how `is_visible` is written."""

    def point(self, joint: int) -> dict[str, Any]:
        x, y = self.joints[joint] + 1
        value = {
            "number": float(self.visible[joint]),
            "text": str(int(self.visible[joint])),
            "logical": np.array([[self.visible[joint]]]),
            "empty": EMPTY,
        }
        flag = {} if self.visibility_as == "absent" else {"is_visible": value[self.visibility_as]}
        return {"x": float(x), "y": float(y), "id": float(joint), **flag}

    def rect(self) -> dict[str, Any]:
        points = [self.point(j) for j in range(16) if np.isfinite(self.joints[j]).all()]
        x1, y1, x2, y2 = self.head + 1
        return {
            "x1": float(x1),
            "y1": float(y1),
            "x2": float(x2),
            "y2": float(y2),
            "annopoints": {"point": Structs(points)},
            "scale": self.scale,
            "objpos": {"x": float(self.centre[0] + 1), "y": float(self.centre[1] + 1)},
        }

    def listed(self, image: str) -> dict[str, Any]:
        joints = [[-1.0, -1.0] if np.isnan(xy).any() else (xy + 1).tolist() for xy in self.joints]
        # The flag of the lists says "annotated"; a hidden joint that has a place is 0 here to see both kinds.
        return {
            "joints_vis": self.visible.astype(int).tolist(),
            "joints": joints,
            "image": image,
            "scale": self.scale,
            "center": (self.centre + 1).tolist(),
        }


@dataclass
class Picture:
    """One picture, who is annotated in it, and how the file speaks of it."""

    image: str
    train: bool
    video: int
    subjects: list[Subject]
    rects: Any = None
    """What stands in annorect, if not simply the subjects."""
    single: list[int] = field(default_factory=lambda: [1])


def subject(rendered: Rendered, frame: int = 0, **changes: Any) -> Subject:
    px = rendered.joints_px[frame, list(FROM_PA16)]
    low, high = px.min(axis=0), px.max(axis=0)
    neck, top = px[8], px[9]
    half = np.array([0.35, 0.5]) * np.linalg.norm(top - neck)
    middle = 0.5 * (neck + top)
    values = {
        "joints": px,
        "visible": rendered.visible[frame, list(FROM_PA16)],
        "centre": np.round(0.5 * (low + high)),
        "scale": float(high[1] - low[1]) / 200,
        "head": np.concatenate([middle - half, middle + half]),
    }
    return Subject(**{**values, **changes})


def example(root: Path) -> list[Picture]:
    """Pictures on disk with every form of annotation that the owners' file is known to hold."""
    shots = [shoot(seed, 1, action=seed) for seed in range(8)]
    names = [f"{seed:09d}.jpg" for seed in range(1, 9)]
    for name, shot in zip(names, shots, strict=True):
        write_jpeg(root / "images" / name, shot.pictures[0])
    people = [subject(shot) for shot in shots]
    partial = subject(shots[1], visibility_as="text")
    partial.joints[[0, 5, 10]] = np.nan
    partial.visible[[0, 5, 10]] = False
    lone = subject(shots[3], visibility_as="logical")
    lone.joints[np.arange(16) != 9] = np.nan
    lone.visible[:] = np.arange(16) == 9
    hidden = subject(shots[2], visibility_as="empty")
    hidden.visible[:] = False
    unflagged = subject(shots[4], visibility_as="absent")
    unflagged.visible[:] = False
    second = subject(shots[0], centre=people[0].centre + 20, joints=people[0].joints + 20.25)
    head_only = {"x1": 3.0, "y1": 3.0, "x2": 9.0, "y2": 9.0, "annopoints": EMPTY}
    test_rect = {"scale": 0.5, "objpos": {"x": 41.0, "y": 61.0}}
    return [
        Picture(names[0], True, 1, [people[0], second], single=[2]),
        Picture(names[1], True, 10, [partial]),
        Picture(names[2], True, 20, [hidden]),
        Picture(names[3], True, 2, [lone]),
        Picture(names[4], True, 3, [unflagged], single=[]),
        # Of the next two, one has no rectangle at all, the other a person without joints, as in the owners' file.
        Picture(names[5], True, 4, [], rects=EMPTY),
        Picture(names[6], True, 5, [], rects=Structs([head_only])),
        Picture(names[7], False, 6, [], rects=Structs([test_rect, {"scale": EMPTY, "objpos": EMPTY}])),
    ]


def release(pictures: list[Picture]) -> dict[str, Any]:
    """The struct RELEASE."""
    annolist = [
        {
            "image": {"name": p.image},
            "annorect": Structs([s.rect() for s in p.subjects]) if p.rects is None else p.rects,
            "frame_sec": float(10 * i),
            "vididx": float(p.video),
        }
        for i, p in enumerate(pictures)
    ]
    return {
        "annolist": Structs(annolist),
        "img_train": np.array([[float(p.train) for p in pictures]]),
        "version": "12",
        "single_person": Cell([np.array(p.single, dtype=float).reshape(-1, 1) for p in pictures], column=True),
        "act": Structs(
            [
                {"cat_name": "sports", "act_name": f"activity {i}", "act_id": float(i)}
                if p.train
                else {"cat_name": EMPTY, "act_name": EMPTY, "act_id": -1.0}
                for i, p in enumerate(pictures)
            ]
        ),
        "video_list": Cell([f"video{i}" for i in range(1, 21)]),
    }


def write_mat(
    root: Path,
    pictures: list[Picture],
    version: str = "5",
    name: str = "mpii_human_pose_v1_u12_1.mat",
    **changes: Any,
) -> Path:
    path = root / name
    matlab_files.save(path, {"RELEASE": {**release(pictures), **changes}}, version)
    return path


def write_list(path: Path, people: list[tuple[str, Subject]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([person.listed(image) for image, person in people]))


def write_truth(path: Path, people: list[Subject], order: list[int] | None = None, **changes: Any) -> None:
    """The ground truth of a validation list; order: of the joints, if not the data set's."""
    order = list(range(16)) if order is None else order
    joints = np.stack([p.joints[order] + 1 for p in people], axis=-1)
    missing = np.isnan(joints).any(axis=1)
    variables = {
        "pos_gt_src": np.where(missing[:, None], 0.0, joints),
        "headboxes_src": np.stack([p.head.reshape(2, 2) + 1 for p in people], axis=-1),
        "jnt_missing": missing.astype(np.uint8),
        "dataset_joints": Cell([SHORT_NAMES[j] for j in order]),
    }
    matlab_files.save(path, {**variables, **changes})


def write_joint_list(path: Path, people: list[tuple[str, Subject, bool]]) -> None:
    """`mpii_annotations.json`: both splits in one list, with flags in a third column."""
    entries = []
    for image, person, validates in people:
        missing = np.isnan(person.joints).any(axis=-1)
        rows = np.concatenate([np.where(missing[:, None], 0.0, person.joints + 1), person.visible[:, None]], axis=1)
        entries.append(
            {
                "dataset": "MPI",
                "isValidation": float(validates),
                "img_paths": image,
                "img_width": 160.0,
                "img_height": 120.0,
                "objpos": (person.centre + 1).tolist(),
                "joint_self": rows.tolist(),
                "scale_provided": person.scale,
                "joint_others": [],
                "people_index": 1.0,
                "numOtherPeople": 0.0,
            }
        )
    path.write_text(json.dumps(entries))
