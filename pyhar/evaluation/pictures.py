"""The pictures of the report: skeletons on frames, poses in space, heat maps (Figs. 7, 8 and 10 of the paper).

The truth is drawn thin and white (in space: grey).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from pyhar.data.geometry import pose_to_camera
from pyhar.data.layouts import JointLayout
from pyhar.data.sample import DEPTH_RANGE_MM, Sample, model_input
from pyhar.evaluation.plots import FLOOR, GREY, RED, SOFT
from pyhar.evaluation.sheets import Sheet, bone_colours, probabilities
from pyhar.models import SPNet

Array = npt.NDArray[Any]

HIGHLIGHTED = ("head top", "right wrist", "left wrist", "right ankle", "left ankle")
"""Joints whose heat maps are shown one by one, as in Fig. 8."""
_YELLOW = np.array([255.0, 220.0, 60.0])
_PART_COLOURS = {
    "head": "#ffd23f",
    "right arm": "#ff8c28",
    "left arm": "#3caaff",
    "right leg": "#ff4d6d",
    "left leg": "#5ee07f",
}


@dataclass
class Shot:
    """What the last block says about one sample. A still is a clip of one frame: all arrays have a leading T."""

    name: str
    frames: Array
    """uint8 (T, S, S, 3)."""
    pose: Array
    """Predicted (T, J, dim + 1), normalised crop coordinates and confidence."""
    true: Array
    """(T, J, 3), NaN where not given."""
    space: Array | None
    """Predicted (T, J, 3), millimetres from the root, or None for a network without depth."""
    true_space: Array
    """(T, J, 3), NaN where not given."""
    label: int
    probabilities: Array
    """(classes,), empty if the network gives none."""
    heat: Array
    """Probability maps of the supervised joints (T, J, h, w)."""
    action_heat: Array | None
    """The same of the decoupled ones."""


class View(NamedTuple):
    """How to read the network's numbers."""

    depth_range: float = DEPTH_RANGE_MM
    """Millimetres that z = 0..1 spans."""
    action_head: int = 0
    """Which classifier."""


@torch.inference_mode()
def look(model: SPNet, sample: Sample, layout: JointLayout, view: View) -> Shot:
    """Run the network, in eval mode, on one sample."""
    clip = sample["frames"].ndim == 4
    device = next(model.parameters()).device
    output = model(model_input(sample["frames"].unsqueeze(0), device), keep_maps=True)

    def frames_first(value: torch.Tensor) -> torch.Tensor:
        return value if clip else value.unsqueeze(0)

    pose = output.poses[-1][0].cpu() if clip else output.poses[-1].cpu()
    true = frames_first(sample["pose"]).masked_fill(~frames_first(sample["pose_valid"]), torch.nan)
    true_mm = frames_first(sample["joints_mm"])
    space = None
    if model.config.dim == 3:
        root_depth = frames_first(sample["root_depth"]).unsqueeze(0)
        if torch.isfinite(root_depth).all() and torch.isfinite(sample["camera"]).all():
            to_crop, camera = sample["to_crop"].unsqueeze(0), sample["camera"].unsqueeze(0)
            space = pose_to_camera(pose[None, ..., :3], to_crop, camera, root_depth, view.depth_range)[0]
        else:
            space = pose[..., :3] * view.depth_range
        space = space - space[:, layout.root : layout.root + 1]
    replicas = [maps.action_heat_logits for maps in output.maps if maps.action_heat_logits is not None]
    decided = output.actions[-1][view.action_head][0].cpu().numpy() if output.action_logits else np.array([])
    return Shot(
        name=sample["name"],
        frames=frames_first(sample["frames"]).numpy(),
        pose=pose.numpy(),
        true=true.numpy(),
        space=None if space is None else space.numpy(),
        true_space=(true_mm - true_mm[:, layout.root : layout.root + 1]).numpy(),
        label=int(sample["action"]),
        probabilities=decided,
        heat=_planes(output.maps[-1].heat_logits),
        action_heat=_planes(replicas[-1]) if replicas else None,
    )


def stills(shots: Sequence[Shot], errors: Sequence[float | None], layout: JointLayout) -> Figure:
    """Frames with predicted and true skeletons, with the error that the evaluation found for each."""
    columns = min(len(shots), 6)
    sheet = Sheet(-(-len(shots) // columns), columns, cell=1.7, head=0.14)
    for number, (shot, error) in enumerate(zip(shots, errors, strict=True)):
        place = divmod(number, columns)
        sheet.picture(*place, shot.frames[0], "no answer" if error is None else f"{error:.2f}")
        sheet.skeleton(*place, shot.true[0], layout, "white")
        sheet.skeleton(*place, shot.pose[0], layout)
    return sheet.figure


def poses_in_space(shots: Sequence[Shot], layout: JointLayout) -> Figure:
    """For each shot the frame and its pose in space, seen from the front and from the side (Fig. 10)."""
    columns = min(len(shots), 2)
    rows = -(-len(shots) // columns)
    sheet = Sheet(rows, 3 * columns, cell=1.7)
    for number, shot in enumerate(shots):
        row, column = number // columns, 3 * (number % columns)
        sheet.picture(row, column, shot.frames[0])
        sheet.skeleton(row, column, shot.pose[0], layout)
        for place, (title, azimuth) in enumerate((("front", -90), ("side", -15)), start=1):
            view: Any = sheet.figure.add_axes(sheet.share(row, column + place), projection="3d")
            _draw_in_space(view, shot, layout, azimuth)
            x, y = sheet.corner(row, column + place)
            sheet.text(x + 0.04, y + 0.02, title, va="top", color=SOFT)
    return sheet.figure


def clips(shots: Sequence[Shot], layout: JointLayout, names: Sequence[str], columns: int = 6) -> Figure:
    """Frames of each clip with skeletons, beside the three most probable actions; the true one's bar is green."""
    columns = min(columns, max(len(shot.frames) for shot in shots))
    sheet = Sheet(len(shots), columns, cell=1.35, right=1.6)
    for row, shot in enumerate(shots):
        for column, t in enumerate(_some_frames(shot, columns)):
            sheet.picture(row, column, shot.frames[t])
            sheet.skeleton(row, column, shot.pose[t], layout)
        x, y = sheet.corner(row, columns)
        probabilities(sheet, (x + 0.08, y), 1.4, shot.probabilities, names, shot.label)
    return sheet.figure


def heat_maps(shot: Shot, layout: JointLayout, grid: str, columns: int = 6) -> Figure:
    """Fig. 7: frames of a clip, the supervised joints' probability maps, and the decoupled ones' if there are any."""
    rows: list[tuple[str, Array | None]] = [("frames", None), ("supervised", shot.heat)]
    if shot.action_heat is not None:
        rows.append(("decoupled", shot.action_heat))
    sheet = Sheet(len(rows), min(columns, len(shot.frames)), cell=1.55, left=0.2)
    for row, (title, maps) in enumerate(rows):
        for column, t in enumerate(_some_frames(shot, columns)):
            frame = shot.frames[t]
            sheet.picture(row, column, frame if maps is None else _paint_parts(frame, maps[t], layout, grid))
        sheet.row_title(row, title)
    return sheet.figure


def drifts(shot: Shot, layout: JointLayout, grid: str) -> Figure:
    """Fig. 8: single joints' maps on the frame where they differ most, supervised above decoupled, boxes around the
    responses.
    """
    assert shot.action_heat is not None
    names = [name for name in HIGHLIGHTED if name in layout.joints] or list(layout.joints[:5])
    joints = [layout.index(name) for name in names]
    distance = np.linalg.norm(_centres(shot.heat) - _centres(shot.action_heat), axis=-1)  # (T, J)
    t = int(distance[:, joints].sum(axis=1).argmax())
    sheet = Sheet(2, len(joints), cell=1.75, left=0.2, head=0.14)
    for row, (maps, title) in enumerate(((shot.heat, "supervised"), (shot.action_heat, "decoupled"))):
        for column, (joint, name) in enumerate(zip(joints, names, strict=True)):
            plane = _enlarge(maps[t, joint], shot.frames.shape[1], grid)
            plane = plane / max(plane.max(), 1e-12)
            moved = f", moved {100 * distance[t, joint]:.0f} %" if row else ""
            sheet.picture(row, column, _blend(_dim(shot.frames[t]), plane, _YELLOW), name + moved)
            ys, xs = (np.nonzero(plane.max(axis=axis) > 0.5)[0] / len(plane) for axis in (1, 0))
            sheet.frame(row, column, xs.min(), ys.min(), xs.max(), ys.max(), RED)
        sheet.row_title(row, title)
    return sheet.figure


# Drawing


def _draw_in_space(view: Any, shot: Shot, layout: JointLayout, azimuth: float) -> None:
    """Both poses of the first frame in a cube around the root, up shown up."""
    assert shot.space is not None
    for points, colours, width in ((shot.true_space[0], [GREY] * len(layout.bones), 2.6), (shot.space[0], None, 2.0)):
        for bone, colour in zip(layout.bones, colours or bone_colours(layout), strict=True):
            x, y, z = points[list(bone)].T
            if np.isfinite([x, y, z]).all():
                view.plot(x, z, -y, color=colour, lw=width, solid_capstyle="round")
    known = np.concatenate([shot.true_space[0], shot.space[0]])
    known = known[np.isfinite(known).all(axis=1)]
    reach = float(np.abs(known).max()) if len(known) else 1000.0
    floor = -float(known[:, 1].max()) if len(known) else -reach
    for line in np.linspace(-reach, reach, 7):
        view.plot([line, line], [-reach, reach], floor, color=FLOOR, lw=0.8, zorder=0)
        view.plot([-reach, reach], [line, line], floor, color=FLOOR, lw=0.8, zorder=0)
    view.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    view.set_box_aspect((1, 1, 1), zoom=1.45)
    view.view_init(elev=12, azim=azimuth)
    view.set_axis_off()
    view.patch.set_alpha(0)


# Heat maps


def _planes(logits: torch.Tensor) -> Array:
    """Softmax over each plane: (T, J, h, w)."""
    planes: Array = logits.float().flatten(2).softmax(dim=-1).view_as(logits).cpu().numpy()
    return planes


def _positions(count: int, grid: str) -> Array:
    """Where the columns or rows of a map lie in the crop, as the network's soft-argmax grid says."""
    index = np.arange(count)
    return {"unit": index / count, "corners": index / max(count - 1, 1), "centers": (index + 0.5) / count}[grid]


def _enlarge(plane: Array, size: int, grid: str) -> Array:
    """A map (h, w) on the pixels of a crop (size, size), linear between its cells."""
    pixels = (np.arange(size) + 0.5) / size
    down, across = (
        np.stack([np.interp(pixels, _positions(n, grid), unit) for unit in np.eye(n)], axis=1) for n in plane.shape
    )
    return down @ plane @ across.T


def _centres(maps: Array) -> Array:
    """Mean position (.., 2) of maps (.., h, w), as a share of the crop."""
    h, w = maps.shape[-2:]
    y = (maps.sum(-1) * (np.arange(h) + 0.5) / h).sum(-1)
    x = (maps.sum(-2) * (np.arange(w) + 0.5) / w).sum(-1)
    return np.stack([x, y], axis=-1)


def _paint_parts(frame: Array, maps: Array, layout: JointLayout, grid: str) -> Array:
    """All joints' maps over a dimmed frame, in the colours of their body parts."""
    out = _dim(frame)
    for joint, name in enumerate(layout.joints):
        part = _part(name)
        if part is not None:
            plane = _enlarge(maps[joint], len(frame), grid)
            colour = np.array([int(_PART_COLOURS[part][i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
            out = _blend(out, 0.9 * plane / max(plane.max(), 1e-12), colour)
    return out.astype(np.uint8)


def _part(joint: str) -> str | None:
    side, _, rest = joint.partition(" ")
    if side in ("right", "left"):
        return f"{side} {'arm' if rest in ('shoulder', 'elbow', 'wrist') else 'leg'}"
    return "head" if joint in ("neck", "head top") else None


def _dim(frame: Array) -> Array:
    """A frame in faint grey, float (S, S, 3)."""
    grey = frame.astype(float) @ np.array([0.299, 0.587, 0.114])
    return np.repeat(0.5 * grey[..., None], 3, axis=2)


def _blend(picture: Array, opacity: Array, colour: Array) -> Array:
    """A colour laid over a picture with an opacity for each pixel; uint8 values."""
    return np.clip(picture * (1 - opacity[..., None]) + colour * opacity[..., None], 0, 255).astype(np.uint8)


def _some_frames(shot: Shot, count: int) -> list[int]:
    return [int(t) for t in np.linspace(0, len(shot.frames) - 1, min(count, len(shot.frames))).round()]
