"""MPII Human Pose: the owners' `mpii_human_pose_v1_u12_1.mat` and the JSON lists the community made of it.

Expected under the root, the annotations also in `annot/`, `annotations/` or the owners' folder
`mpii_human_pose_v1_u12_2/`:

    images/*.jpg
    mpii_human_pose_v1_u12_1.mat
    train.json, valid.json (or mpii_train.json, mpii_val.json), test.json: the community's lists
    gt_valid.mat (or mpii_gt_val.mat): ground truth for valid.json, row by row, with head boxes
    mpii_annotations.json: both lists in one

Pixels are 1-based in all these files and 0-based in the index. The `box` of a person is the crop window of the
authors' release: with s = 1.25 * scale, a square of side 200 * s around (x, y + 12 * s) of `objpos`. The head size is
0.6 times the diagonal of the head box. There are no actions and no depth.

Splits. The community's lists say who is in "train" and "val" (22,246 and 2,958 people); if they lie beside the .mat, a
person is found in them by picture, position and scale, and people in neither are left out. Without lists, "train" is
`img_train` less the pictures from every tenth video (`vididx` divisible by 10; the picture's own number where there is
no video), which are "val", so that no video is in both. Pictures with `img_train` 0 are "test": they have boxes, but
no joints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhar.data import matlab
from pyhar.data.index import SPLITS, Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import get_layout
from pyhar.data.mpii_lists import Lists, Person, find_file, read_lists
from pyhar.errors import UserError

Array = npt.NDArray[np.float64]

JOINTS = (
    *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
    *("pelvis", "thorax", "neck", "head top"),
    *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
)
"""The data set's joints by id, named as in "pa16"; `neck` is its "upper neck"."""

ANNOTATION_NAMES = ("mpii_human_pose_v1_u12_1.mat", "mpii_human_pose_v1_u12_2.mat", "mpii_human_pose.mat")
VAL_EVERY = 10
"""Without lists, pictures of every so many-th video are for validation."""
OWN_SPLIT = (
    f"without train.json and valid.json, 'val' is of every {VAL_EVERY}th video, not the people of published results"
)

NO_HEADS = f"no head sizes in the val split, so no PCKh: put gt_valid.mat or {ANNOTATION_NAMES[0]} beside the lists"


def read(
    root: Path,
    *,
    annotations: Literal["auto", "mat", "json"] = "auto",
    people: Literal["all", "single"] = "all",
    layout: str = "pa16",
) -> Index:
    """The index of MPII under `root`, one sequence of one frame for each person.

    annotations: "mat" or "json"; "auto": the .mat if it is there. people: "single": only those who the owners say
    stand apart from others (`single_person`; the .mat has it). layout: "pa16" or "pa17". Raises UserError for missing
    or unreadable annotations, a missing folder of pictures, a list of whom nobody is left, or if nobody is left at
    all; single people that cannot be used are in `notes["skipped"]`.
    """
    if annotations not in ("auto", "mat", "json") or people not in ("all", "single"):
        raise UserError(
            f"annotations are 'auto', 'mat' or 'json' and people 'all' or 'single', not {annotations!r} and {people!r}"
        )
    root = Path(root)
    pictures = _picture_folder(root)
    source = find_file(root, ANNOTATION_NAMES) if annotations != "json" else None
    lists = read_lists(root)
    if annotations == "mat" and source is None:
        raise UserError(f"{root}: no {ANNOTATION_NAMES[0]}; unpack the owners' annotations there")
    if source is None and not lists:
        missing = "no" if annotations == "json" else f"neither {ANNOTATION_NAMES[0]} nor"
        raise UserError(f"{root}: {missing} train.json and valid.json: unpack them there")
    if source is None and people == "single":
        raise UserError("people='single' needs the owners' .mat file: the JSON lists do not say who stands apart")
    made = _People(root, pictures, layout)
    made.notes |= {"annotations": "mat" if source else "json", "box": "window of the authors' release"}
    if source is None:
        for name, person in lists.people:
            made.add_person(name, person)
        for reason, names in lists.skipped.items():
            for name in names:
                made.skip(reason, name)
        made.notes |= lists.notes
    else:
        _read_release(source, lists, made, people)
        made.notes |= {"activity": made.activity, "video": made.video, "split": "lists" if lists else "videos"}
        if not lists:
            made.notes["split_remark"] = OWN_SPLIT
    index = made.build()
    if "val" in lists.given and not np.isfinite(index.head_size[index.split == SPLITS.index("val")]).any():
        index.notes["remarks"] = [NO_HEADS]
    for split in lists.given:
        # A list that is there but of whom nobody is left is a mistake.
        if split != "test":
            _check_list(index, split)
    return index


def _check_list(index: Index, split: str) -> None:
    try:
        index.of_split(split)
    except UserError as error:
        skipped = index.notes.get("skipped", {})
        why = ", ".join(f"{reason} ({len(names)}, such as {names[0]})" for reason, names in skipped.items())
        raise UserError(f"nobody on the list for {split} can be used: {error}; left out: {why}") from error


class _People(IndexBuilder):
    """Turns people in the owners' convention into sequences."""

    def __init__(self, root: Path, pictures: Path, layout: str) -> None:
        super().__init__("mpii", get_layout(layout))
        self._folder = pictures.relative_to(root).as_posix()
        self._present = {path.name for path in pictures.iterdir()}
        self._place = [self.layout.index(joint) for joint in JOINTS]
        self.activity: dict[str, str] = {}
        self.video: dict[str, str] = {}

    def add_person(self, name: str, person: Person) -> bool:
        """Add a person unless there is nothing to see or to learn of them."""
        if person.image not in self._present:
            self.skip(f"picture missing from {self._folder}/", name)
            return False
        px = np.full((len(self.layout.joints), 2), np.nan)
        visible = np.zeros(len(px), dtype=bool)
        px[self._place] = person.joints - 1.0
        visible[self._place] = person.visible
        if person.split != "test" and np.isnan(px).all():
            self.skip("no joints", name)
            return False
        self.add(
            name=name,
            media=f"{self._folder}/{person.image}" if self._folder != "." else person.image,
            kind="picture",
            split=person.split,
            joints_px=px[None],
            visible=visible[None],
            box=crop_window(person.centre - 1.0, person.scale)[None],
            head_size=[head_size(person.head)],
        )
        return True


def crop_window(centre: Array, scale: float) -> Array:
    """The authors' crop: (4,) x1, y1, x2, y2 around `centre` (x, y of objpos, pixels); NaN for an unknown or empty
    one."""
    s = 1.25 * scale if scale > 0 else np.nan
    middle = np.asarray(centre, dtype=np.float64) + [0.0, 12.0 * s]
    return np.concatenate([middle - 100.0 * s, middle + 100.0 * s])


def head_size(box: Array) -> float:
    """PCKh's reference length: 0.6 times the diagonal of the head box (x1, y1, x2, y2); NaN if unknown or a point."""
    length = 0.6 * float(np.hypot(box[2] - box[0], box[3] - box[1]))
    return length if length > 0 else float("nan")


def _picture_folder(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds MPII's images/ and annotations")
    for folder in (root / "images", root / "mpii_human_pose_v1" / "images", root):
        if folder.is_dir() and (folder != root or any(root.glob("*.jpg"))):
            return folder
    raise UserError(f"{root}: no folder images/; unpack mpii_human_pose_v1.tar.gz there")


# The owners' .mat


def _read_release(source: Path, lists: Lists, made: _People, people: str) -> None:
    release = matlab.one(matlab.load(source, ("RELEASE",)).get("RELEASE"))
    pictures = matlab.struct(release.get("annolist"))
    if not pictures:
        raise UserError(f"{source}: no struct RELEASE with a field annolist: this is not MPII's annotation file")
    flags = matlab.matrix(release.get("img_train")).ravel()
    if len(flags) != len(pictures):
        raise UserError(f"{source}: {len(pictures)} pictures, but img_train says of {len(flags)} whether they train")
    apart = release.get("single_person")
    if people == "single" and not (isinstance(apart, list) and len(apart) == len(pictures)):
        raise UserError(f"{source}: no list single_person for each picture; read with people='all'")
    acts = matlab.struct(release.get("act"))
    videos = release.get("video_list")
    videos = videos if isinstance(videos, list) else []
    wanted = lists.finder() if lists else None

    for i, picture in enumerate(pictures):
        image = matlab.text(matlab.one(picture.get("image")).get("name"))
        stem = f"mpii/{Path(image).stem}" if image else f"mpii/annolist({i + 1})"
        if not image:
            made.skip("picture without a name", stem)
            continue
        video = matlab.number(picture.get("vididx"))
        held_out = (int(video) if video >= 1 else i + 1) % VAL_EVERY == 0
        split = "test" if flags[i] <= 0 else "val" if held_out else "train"
        alone = set(matlab.matrix(apart[i]).ravel().astype(int)) if people == "single" and apart else None
        for r, rect in enumerate(matlab.struct(picture.get("annorect")), start=1):
            name = f"{stem}/{r}"
            if alone is not None and r not in alone:
                made.skip("not apart from other people", name)
                continue
            try:
                person = _person(image, split, rect)
            except ValueError as error:
                made.skip(str(error), name)
                continue
            if split == "test" and not np.isfinite(person.centre).all():
                made.skip("test picture without a position", name)
                continue
            if split != "test" and wanted is not None:
                listed = wanted(person)
                if listed is None:
                    made.skip("in neither list of people", name)
                    continue
                person.split = listed
            if made.add_person(name, person):
                act = acts[i] if i < len(acts) else {}
                made.activity[name] = matlab.text(act.get("act_name"))
                known = np.isfinite(video) and 1 <= video <= len(videos)
                made.video[name] = matlab.text(videos[int(video) - 1]) if known else ""


def _person(image: str, split: str, rect: dict[str, Any]) -> Person:
    """One annorect, any field of which may be missing or empty. Raises ValueError for a joint that there is not."""
    place = matlab.one(rect.get("objpos"))
    person = Person(
        image,
        split,
        centre=np.array([matlab.number(place.get("x")), matlab.number(place.get("y"))]),
        scale=matlab.number(rect.get("scale")),
        head=np.array([matlab.number(rect.get(field)) for field in ("x1", "y1", "x2", "y2")]),
    )
    for point in matlab.struct(matlab.one(rect.get("annopoints")).get("point")):
        joint = matlab.number(point.get("id"))
        if joint not in range(len(JOINTS)):
            raise ValueError("point without an id from 0 to 15")
        person.set_joint(
            int(joint),
            matlab.number(point.get("x")),
            matlab.number(point.get("y")),
            # Often missing, empty or text; all but a 1 is read as hidden.
            matlab.number(point.get("is_visible")) == 1,
        )
    return person
