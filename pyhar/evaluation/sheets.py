"""Rows and columns of pictures on one pair of axes, with skeletons, text and bars. Units are cells: a picture is 1 x
1, so normalised crop coordinates are places on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pyhar.data.layouts import JointLayout
from pyhar.evaluation.plots import GREEN, GREY, INK, RED

Array = npt.NDArray[Any]

RIGHT, LEFT, MIDDLE = "#ff8c28", "#3caaff", "#63d463"
DARK = "#14161c"
_GAP = 0.05


class Sheet:
    """An empty sheet. cell: inches; left, right: room beside the pictures, and head: above each, in cells."""

    def __init__(
        self, rows: int, columns: int, *, cell: float, left: float = 0.0, right: float = 0.0, head: float = 0.0
    ) -> None:
        self.cell, self.left, self.head = cell, left, head
        width = left + columns * (1 + _GAP) - _GAP + right
        height = rows * (1 + head + _GAP) - _GAP
        self.figure = Figure(figsize=(cell * width, cell * height))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """The upper left corner of a picture."""
        return self.left + column * (1 + _GAP), self.head + row * (1 + self.head + _GAP)

    def share(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Where a cell lies in the figure: left, bottom, width and height as shares of it."""
        x, y = self.corner(row, column)
        width, height = self.axes.get_xlim()[1], self.axes.get_ylim()[0]
        return x / width, 1 - (y + 1) / height, 1 / width, 1 / height

    def picture(self, row: int, column: int, pixels: Array, title: str = "") -> None:
        """Show a picture (S, S, 3), uint8."""
        x, y = self.corner(row, column)
        self.axes.imshow(pixels, extent=(x, x + 1, y + 1, y), interpolation="bilinear", aspect="auto")
        self.axes.set(xlim=self.axes.get_xlim(), ylim=self.axes.get_ylim())
        if title:
            self.text(x + 0.5, y - 0.04, title, ha="center", va="bottom")

    def skeleton(self, row: int, column: int, pose: Array, layout: JointLayout, colour: str | None = None) -> None:
        """Draw a pose (J, 2 or more), normalised; bones with an unknown end are left out. colour: of all bones,
        thinner.
        """
        corner = self.corner(row, column)
        points = pose[:, :2] + corner
        bones = [k for k, bone in enumerate(layout.bones) if np.isfinite(points[list(bone)]).all()]
        colours = [colour or bone_colours(layout)[k] for k in bones]
        width = (0.7 if colour else 1.2) * self.cell
        segments = [points[list(layout.bones[k])] for k in bones]
        lines = LineCollection(segments, colors=colours, linewidths=width, capstyle="round")
        lines.set_path_effects([effects.withStroke(linewidth=width + 1.2, foreground=DARK, alpha=0.7)])
        self.axes.add_collection(lines, autolim=False)
        lines.set_clip_path(Rectangle(corner, 1, 1, transform=self.axes.transData))

    def frame(self, row: int, column: int, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        """Draw a box, normalised, on a picture."""
        x, y = self.corner(row, column)
        self.axes.add_patch(Rectangle((x + x1, y + y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.4))

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle."""
        self.axes.add_patch(Rectangle((x, y), width, height, color=colour, lw=0))

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write."""
        look: dict[str, Any] = {"fontsize": 8.5, "color": INK} | style
        self.axes.text(x, y, text, **look)

    def row_title(self, row: int, title: str) -> None:
        """Write upwards to the left of a row."""
        x, y = self.corner(row, 0)
        self.text(x - 0.05, y + 0.5, title, rotation=90, ha="right", va="center", fontsize=9)


def bone_colours(layout: JointLayout) -> list[str]:
    """Right limbs orange, left ones blue, the middle green."""

    def colour(*joints: str) -> str:
        for joint in joints:
            if joint.startswith("right "):
                return RIGHT
            if joint.startswith("left "):
                return LEFT
        return MIDDLE

    return [colour(layout.joints[child], layout.joints[parent]) for parent, child in layout.bones]


def probabilities(
    sheet: Sheet, place: tuple[float, float], width: float, values: Array, names: Sequence[str], label: int
) -> None:
    """The three largest of the probabilities (classes,) as bars from `place` down over one cell, the true class above
    them: green for the true class, red for a wrong first choice.
    """
    x, y = place
    sheet.text(x, y + 0.02, f"true: {names[label]}" if label >= 0 else "unlabelled", va="top", fontweight="bold")
    for row, k in enumerate(np.argsort(-np.nan_to_num(values))[:3]):
        base = y + 0.36 + 0.28 * row
        share = float(np.nan_to_num(values[k]))
        sheet.bar(x, base, width, 0.075, "#e8ecf1")
        sheet.bar(x, base, width * share, 0.075, GREEN if k == label else RED if row == 0 else GREY)
        sheet.text(x, base - 0.025, names[k], va="bottom")
        sheet.text(x + width, base - 0.025, f"{100 * share:.0f} %", va="bottom", ha="right")
