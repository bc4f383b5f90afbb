"""NTU RGB+D: sixty actions of forty people before three Kinects; video, and 3D joints that the Kinects tracked.

`read` takes the owners' files (*_rgb.avi, *.skeleton) from whatever folders they were unpacked into, or the videos with
a pickle of joints of pyskl or mmaction2. Shahroudy et al., NTU RGB+D, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhar.data.index import Index
from pyhar.data.index_builder import IndexBuilder
from pyhar.data.layouts import PA16, PA17
from pyhar.data.ntu_bodies import fit_pinhole, is_plausible, join_tracks, rank_bodies
from pyhar.data.ntu_files import (
    Annotation,
    Array,
    Body,
    Name,
    find_files,
    read_annotations,
    read_missing,
    read_skeleton,
)
from pyhar.data.parsing import VideoHeader, check_splits, read_video_header
from pyhar.errors import UserError, unknown_name

ACTIONS = (
    "drink water",
    "eat meal/snack",
    "brushing teeth",
    "brushing hair",
    "drop",
    "pickup",
    "throw",
    "sitting down",
    "standing up (from sitting position)",
    "clapping",
    "reading",
    "writing",
    "tear up paper",
    "wear jacket",
    "take off jacket",
    "wear a shoe",
    "take off a shoe",
    "wear on glasses",
    "take off glasses",
    "put on a hat/cap",
    "take off a hat/cap",
    "cheer up",
    "hand waving",
    "kicking something",
    "put something inside pocket / take out something from pocket",
    "hopping (one foot jumping)",
    "jump up",
    "make a phone call/answer phone",
    "playing with phone/tablet",
    "typing on a keyboard",
    "pointing to something with finger",
    "taking a selfie",
    "check time (from watch)",
    "rub two hands together",
    "nod head/bow",
    "shake head",
    "wipe face",
    "salute",
    "put the palms together",
    "cross hands in front (say stop)",
    "sneeze/cough",
    "staggering",
    "falling",
    "touch head (headache)",
    "touch chest (stomachache/heart pain)",
    "touch back (backache)",
    "touch neck (neckache)",
    "nausea or vomiting condition",
    "use a fan (with hand or paper)/feeling warm",
    "punching/slapping other person",
    "kicking other person",
    "pushing other person",
    "pat on back of other person",
    "point finger at the other person",
    "hugging other person",
    "giving something to other person",
    "touch other person's pocket",
    "handshaking",
    "walking towards each other",
    "walking apart from each other",
)
"""The owners' titles, A001 first. From A050 on two people act."""
FIRST_OF_TWO = 50

TRAIN_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
TRAIN_CAMERAS = frozenset((2, 3))
PROTOCOLS = {"cross-subject": "xsub", "cross-view": "xview"}
"""Protocols, and what the community's splits of them begin with."""

KINECT = {
    "mirrored": (0, 20, 2, 3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18, 1),
    "as named": (0, 20, 2, 3, 8, 4, 9, 5, 10, 6, 16, 12, 17, 13, 18, 14, 1),
}
"""Which of the Kinect's 25 joints stand for the joints of "pa17" ("pa16" is without the last)."""
# Of the 17 joints of COCO: shoulders, elbows, wrists, hips, knees, ankles, right first; None: halfway between two.
_COCO = ((11, 12), (5, 6), (), (), (6,), (5,), (8,), (7,), (10,), (9,), (12,), (11,), (14,), (13,), (16,), (15,), ())
FULL_SIZE = (1920, 1080)
USUAL_CAMERA = np.array([1060.0, 1060.0, 970.0, 550.0])
"""fx, fy, cx, cy of a Kinect's colour camera to some 30 pixels: enough for boxes, not for joints."""
MARGIN = 0.5
"""The crop is this share larger than the longer side of the joints' box, as in the authors' code: a head's middle and
ankles are its ends."""
_VIDEO, _SKELETON = "_rgb.avi", ".skeleton"
"""How the owners' files are called after the recording's name."""


@dataclass
class _Recording:
    name: str
    parts: Name
    action: int
    bodies: list[Body]
    """The likeliest person first."""
    kinect: bool
    """Joints are the Kinect's 25 rather than COCO's 17."""
    size: tuple[int, int]
    """Of the picture that the pixels are given in."""
    split: str | None = None
    """None: by the protocol."""


def read(
    root: Path,
    *,
    source: str = "auto",
    protocol: str = "cross-subject",
    mirror: bool = True,
    layout: str = "pa17",
    people: int = 1,
    annotations: Path | None = None,
    check_media: bool = True,
    required: Iterable[str] = (),
) -> Index:
    """Index the data set under `root`.

    source: "owners", "pickle" or "auto", which takes the owners' skeletons if there are any. protocol: "cross-subject"
    (training: half of the subjects) or "cross-view" (training: cameras 2 and 3); there is no validation split. mirror:
    whether the Kinect's left joints are the layout's right ones, as in the authors' code: its colour pictures are
    mirrored, so its left arm lies where other data sets see a right one; False takes sides as the Kinect names them.
    layout: "pa17" or "pa16". people: how many people of an action of two (A050 on) get a sequence of their own.
    annotations: the pickle; None: the one *.pkl in `root`, or both halves of the protocol, such as
    ntu60_xsub_train.pkl and ntu60_xsub_val.pkl. check_media: open each video to compare its size and length
    with the joints; without it joints are not cut to the video's length. required: splits that must not be empty.

    Each sequence is one person through all frames of a video; frames in which the Kinect had lost them have no known
    joints. Of several bodies the person is chosen by plausible extent, then by motion (`pyhar.data.ntu_bodies`).
    Joints are the Kinect's camera space in millimetres with y turned down, and pixels of the colour picture, which a
    second camera took: `camera` is the pinhole that fits the one to the other best over the sequence, and
    notes["reprojection_px"] how well. Visible is what was tracked, rather than inferred. If videos were made smaller
    than 1920 x 1080, pixels and camera are scaled to them. A pickle of 25 joints gives no pixels and no camera, but
    boxes to some 30 pixels, by the camera that Kinects usually have: actions can be learned, poses cannot. Frames in
    which the Kinect saw nobody are left out of pyskl's, so the boxes after them come that much too early. One of COCO's
    17 joints (sides as one sees them) no millimetres, neck, head top and spine.

    What is missing, damaged, unlabelled or on the owners' list of recordings without skeletons is left out, and named
    in notes["skipped"] by reason. Raises UserError if there is nothing to read, a required split would be empty, a
    pickle is damaged, or an option is unknown.
    """
    root = Path(root)
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol of ntu", protocol, PROTOCOLS)
    if layout not in ("pa16", "pa17"):
        raise unknown_name("layout of ntu", layout, ("pa16", "pa17"))
    if people not in (1, 2):
        raise UserError(f"ntu: of an action of two, 1 or 2 people can be taken, not {people}")
    if not root.is_dir():
        raise UserError(f"ntu: there is no folder {root}")
    builder = IndexBuilder("ntu", PA17 if layout == "pa17" else PA16, ACTIONS)
    if source not in ("auto", "owners", "pickle"):
        raise unknown_name("source of ntu", source, ("owners", "pickle"))
    skeletons = {} if source == "pickle" or annotations is not None else find_files(root, _SKELETON)
    if source == "owners" and not skeletons:
        raise UserError(f"ntu: {root} has no nturgb+d_skeletons/*.skeleton: give the folder that holds it")
    source = "owners" if skeletons else "pickle"
    if skeletons:
        recordings = _owners(skeletons, _listed(root), builder)
    else:
        prefix = PROTOCOLS[protocol]
        recordings = _pickled([Path(annotations)] if annotations else _find_pickles(root, prefix), prefix, builder)
    notes = _fill(
        builder, root, recordings, protocol, KINECT["mirrored" if mirror else "as named"], people, check_media
    )
    index = builder.build(source=source, protocol=protocol, mirror=mirror, **notes)
    return check_splits(index, required)


def _fill(
    builder: IndexBuilder,
    root: Path,
    recordings: Iterator[_Recording],
    protocol: str,
    order: tuple[int, ...],
    people: int,
    check_media: bool,
) -> dict[str, Any]:
    """Add every recording to the index; returns notes about them all."""
    videos = find_files(root, _VIDEO)
    joints, errors, boxed = len(builder.layout.joints), list[float](), False
    cut: dict[str, list[str]] = {}
    scaled: dict[str, int] = {}
    for one in recordings:
        video = videos.get(one.name, root / "nturgb+d_rgb" / f"{one.name}{_VIDEO}")
        media = video.relative_to(root).as_posix()
        header, wrong = VideoHeader(*one.size, 0), None
        if one.name not in videos:
            wrong = "video missing" if check_media else None
        elif check_media:
            try:
                header = read_video_header(video)
            except UserError:
                wrong = "video damaged"
        if wrong is not None:
            builder.skip(wrong, one.name)
            continue
        length = len(one.bodies[0].xyz)
        if 0 < header.frames < length:
            cut.setdefault("skeleton longer than its video", []).append(one.name)
            length = header.frames
        taken = 0
        for body in one.bodies[: people if one.parts.action >= FIRST_OF_TWO else 1]:
            if not body.present[:length].any() or (taken and not is_plausible(body)):
                continue
            mm, px, visible = _in_layout(body, one.kinect, order[:joints], length)
            camera, error = fit_pinhole(mm.reshape(-1, 3), px.reshape(-1, 2))
            factor = _scale(header, one.size, camera)
            if factor is None:
                break
            if factor != (1.0, 1.0):
                scaled[f"{header.width} x {header.height}"] = scaled.get(f"{header.width} x {header.height}", 0) + 1
            px, camera = px * factor, camera * np.tile(factor, 2)
            box = None if np.isfinite(px).any() else _usual_box(mm) * np.tile(factor, 2)
            boxed |= box is not None
            taken += 1
            if np.isfinite(error):
                errors.append(error)
            builder.add(
                name=f"ntu/{one.name}" + (f"#{taken}" if taken > 1 else ""),
                media=media,
                kind="video",
                split=one.split or _split(one.parts, protocol),
                joints_px=px,
                joints_mm=mm,
                visible=visible,
                box=box,
                action=one.action,
                subject=one.parts.subject,
                camera=camera if np.isfinite(camera).all() else None,
            )
        if not taken:
            reason = f"video of {header.width} x {header.height} pixels, another shape than its joints are given in"
            builder.skip(reason if one.bodies[0].present[:length].any() else "no body within its video", one.name)
    notes: dict[str, Any] = {"joints_margin": MARGIN}
    if cut:
        notes["cut"] = cut
    if boxed:
        notes["box_margin"] = MARGIN
    if scaled:
        notes["scaled"] = scaled
    if errors:
        notes["reprojection_px"] = {"median": float(np.median(errors)), "largest": float(np.max(errors))}
    return notes


def _split(parts: Name, protocol: str) -> str:
    train = parts.subject in TRAIN_SUBJECTS if protocol == "cross-subject" else parts.camera in TRAIN_CAMERAS
    return "train" if train else "test"


def _in_layout(
    body: Body, kinect: bool, order: tuple[int, ...], length: int
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Millimetres (T, J, 3) with y down, pixels (T, J, 2) and visibility (T, J) of the first `length` frames."""
    if kinect:
        take = list(order)
        mm = 1000.0 * body.xyz[:length, take] * (1.0, -1.0, 1.0)
        return mm, body.px[:length, take], body.state[:length, take] == 2
    px = np.full((length, len(order), 2), np.nan)
    seen = np.zeros((length, len(order)), dtype=bool)
    for joint, parts in enumerate(_COCO[: len(order)]):
        if parts:
            px[:, joint] = body.px[:length, list(parts)].mean(axis=1)
            seen[:, joint] = (body.state[:length, list(parts)] == 2).all(axis=1)
    return np.full((length, len(order), 3), np.nan), px, seen


def _usual_box(mm: Array) -> Array:
    """Boxes (T, 4) about where joints (T, J, 3) lie in the colour picture, where no pixels are given; NaN where none is
    known."""
    known = np.isfinite(mm).all(axis=-1, keepdims=True) & (mm[..., 2:] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        px = mm[..., :2] / mm[..., 2:] * USUAL_CAMERA[:2] + USUAL_CAMERA[2:]
    low, high = np.where(known, px, np.inf).min(axis=1), np.where(known, px, -np.inf).max(axis=1)
    box = np.concatenate([low, high], axis=1)
    box[~np.isfinite(box).all(axis=1)] = np.nan
    return box


def _scale(header: VideoHeader, size: tuple[int, int], camera: Array) -> tuple[float, float] | None:
    """What to multiply pixels with for a video that was made smaller; None if it has another shape than the picture
    that they were given in.

    A writer may have scaled the pixels with the video: then the camera's axis already leaves the picture near its
    middle.
    """
    factor = header.width / size[0], header.height / size[1]
    if factor == (1.0, 1.0):
        return factor
    if np.isfinite(camera).all():
        here = np.abs(camera[2:] / (header.width, header.height) - 0.5).max()
        there = np.abs(camera[2:] / size - 0.5).max()
        if here < there:
            return 1.0, 1.0
    return factor if abs(factor[0] / factor[1] - 1.0) < 0.02 else None


def _listed(root: Path) -> set[str]:
    """Names on the owners' lists of recordings without skeletons, where they lie in `root`."""
    names: set[str] = set()
    # Their repository has them as Matlab/.._samples_with_missing_skeletons.txt and as Python/ntu_rgb120_missings.txt.
    for folder in (".", "Matlab", "Python"):
        for pattern in ("*missing_skeletons*.txt", "ntu*missing*.txt"):
            for path in sorted((root / folder).glob(pattern)):
                names |= read_missing(path)
    return names


def _owners(skeletons: dict[str, Path], missing: set[str], builder: IndexBuilder) -> Iterator[_Recording]:
    for name, path in sorted(skeletons.items()):
        parts = Name.of(name)
        if parts is None:
            builder.skip("name is not SsssCcccPpppRrrrAaaa", name)
        elif name in missing:
            builder.skip("on the list of recordings without skeletons", name)
        elif not 1 <= parts.action <= len(ACTIONS):
            builder.skip("unknown action", name)
        else:
            try:
                bodies = rank_bodies(join_tracks(read_skeleton(path)))
            except UserError:
                builder.skip("skeleton damaged", name)
                continue
            if not bodies:
                builder.skip("no bodies", name)
                continue
            yield _Recording(name, parts, parts.action - 1, bodies, True, FULL_SIZE)


def _find_pickles(root: Path, prefix: str) -> list[Path]:
    # Names that begin with a dot are what macOS adds to the files of others.
    found = sorted(path for path in root.glob("*.pkl") if not path.name.startswith("."))
    if not found:
        raise UserError(
            f"ntu: {root} has neither nturgb+d_skeletons/*.skeleton nor a pickle (*.pkl) of pyskl or mmaction2"
        )
    halves = [path for path in found if path.stem.endswith((f"{prefix}_train", f"{prefix}_val"))]
    if len(found) > 1 and len(halves) == 2:
        return halves
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"ntu: {root} has several pickles ({names}): name one with the option annotations={found[0]}")
    return found


def _pickled(paths: list[Path], prefix: str, builder: IndexBuilder) -> Iterator[_Recording]:
    for path in paths:
        yield from _of_pickle(path, prefix, builder)


def _of_pickle(path: Path, prefix: str, builder: IndexBuilder) -> Iterator[_Recording]:
    splits, found, skipped = read_annotations(path)
    for reason, names in skipped.items():
        for name in names:
            builder.skip(reason, name)
    train, test = splits.get(f"{prefix}_train"), splits.get(f"{prefix}_val")
    if splits and (train is None or test is None):
        raise UserError(f"{path} has no splits {prefix}_train and {prefix}_val, only {', '.join(sorted(splits))}")
    for one in found:
        parts = Name.of(one.name)
        if parts is None:
            builder.skip("name is not SsssCcccPpppRrrrAaaa", one.name)
        elif not 0 <= one.label < len(ACTIONS):
            builder.skip("unknown action", one.name)
        elif one.label != parts.action - 1:
            builder.skip("label and name disagree", one.name)
        elif train is not None and test is not None and one.name not in train | test:
            builder.skip("in no split", one.name)
        else:
            bodies = [body for body in _bodies(one) if body.present.any()]
            if not bodies:
                builder.skip("no bodies", one.name)
                continue
            split = None if train is None else "train" if one.name in train else "test"
            kinect = one.keypoint.shape[-1] == 3
            size = one.size or FULL_SIZE
            yield _Recording(one.name, parts, one.label, rank_bodies(join_tracks(bodies)), kinect, size, split)


def _bodies(one: Annotation) -> Iterator[Body]:
    for person, points in enumerate(one.keypoint.astype(np.float64)):
        frames, joints, _ = points.shape
        known = np.isfinite(points).all(-1) & (points != 0).any(-1)
        score = None if one.score is None else one.score[person].astype(np.float64)
        if score is not None:
            known &= score > 0
        points = np.where(known[..., None], points, np.nan)
        none = np.full((frames, joints, 3 if points.shape[-1] == 2 else 2), np.nan)
        xyz, px = (points, none) if points.shape[-1] == 3 else (none, points)
        yield Body(xyz, px, np.where(known, 2, 0))
