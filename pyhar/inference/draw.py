"""Drawing what was predicted onto the picture: skeleton, box, action, frames per second."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import JointLayout
from pyhar.inference.predictions import ActionPrediction, FramePrediction
from pyhar.inference.tracking import Box, whole_frame
from pyhar.inference.video import Picture

Colour = tuple[int, int, int]

RIGHT: Colour = (255, 140, 40)
LEFT: Colour = (60, 170, 255)
MIDDLE: Colour = (120, 230, 120)
TEXT: Colour = (255, 255, 255)
PANEL: Colour = (20, 22, 28)
BAR: Colour = (255, 200, 60)
FAINTEST = 0.3
"""Opacity of what the network does not believe in; what it is sure of is opaque."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def draw_prediction(
    rgb: Picture,
    prediction: FramePrediction,
    layout: JointLayout,
    *,
    frames_per_second: float | None = None,
    classes: int = 3,
) -> Picture:
    """A copy of the picture (H, W, 3) uint8 RGB with skeleton, action, and the box unless it is the whole frame.

    Right limbs are orange, left ones blue; joints fade and shrink as their confidence falls. classes: how many of the
    most probable actions get a bar.
    """
    out = rgb.copy()
    height, width = out.shape[:2]
    if prediction.box != whole_frame(width, height):
        draw_box(out, prediction.box)
    draw_skeleton(out, prediction.pose_px, prediction.confidence, layout)
    if prediction.action is not None:
        draw_action(out, prediction.action, classes)
    if frames_per_second is not None:
        _draw_rate(out, frames_per_second)
    return out


def draw_skeleton(
    rgb: Picture, pose_px: npt.NDArray[np.float32], confidence: npt.NDArray[np.float32], layout: JointLayout
) -> None:
    """Draw joints (J, 2), picture pixels, with confidence (J,) onto `rgb`, in place; large ones get thick lines."""
    height, width = rgb.shape[:2]
    extent = float(np.ptp(pose_px, axis=0).max())
    thick = max(1.5, min(extent / 60, min(height, width) / 60))
    pad = round(3 * thick) + 2
    # The part of the picture that the skeleton touches.
    x1, y1 = np.clip(np.floor(pose_px.min(axis=0)).astype(int) - pad, 0, (width, height))
    x2, y2 = np.clip(np.ceil(pose_px.max(axis=0)).astype(int) + pad + 1, 0, (width, height))
    if x2 <= x1 or y2 <= y1:
        return
    part = rgb[y1:y2, x1:x2]
    points = np.round((pose_px - np.array([x1, y1])) * 2**_SHIFT).astype(int)
    opacity = FAINTEST + (1 - FAINTEST) * np.clip(confidence, 0, 1)
    paint, cover = part.copy(), np.zeros(part.shape[:2], np.float32)

    limbs = sorted(layout.bones, key=lambda bone: min(opacity[bone[0]], opacity[bone[1]]))  # the surest on top
    for parent, child in limbs:
        a, b = tuple(map(int, points[parent])), tuple(map(int, points[child]))
        edge, core = round(thick) + 2, max(1, round(thick))
        colour = _side(layout.joints[child], layout.joints[parent])
        cv2.line(paint, a, b, PANEL, edge, cv2.LINE_AA, _SHIFT)
        cv2.line(paint, a, b, colour, core, cv2.LINE_AA, _SHIFT)
        cv2.line(cover, a, b, float(min(opacity[parent], opacity[child])), edge, cv2.LINE_8, _SHIFT)
    for joint in np.argsort(opacity):
        centre, share = tuple(map(int, points[joint])), float(opacity[joint])
        radius = thick * (0.6 + 0.8 * share)
        for grow, colour in ((1.2, PANEL), (0.0, _side(layout.joints[joint]))):
            cv2.circle(paint, centre, round((radius + grow) * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(cover, centre, round((radius + 1.2) * 2**_SHIFT), share, -1, cv2.LINE_8, _SHIFT)
    part[:] = cv2.blendLinear(paint, part.copy(), cover, 1 - cover)


def draw_box(rgb: Picture, box: Box) -> None:
    """Draw the corners of a box onto `rgb`, in place."""
    x1, y1, x2, y2 = (round(value) for value in box)
    arm = max(4, round(0.12 * min(x2 - x1, y2 - y1)))
    width = max(1, round(min(rgb.shape[:2]) / 240))
    for x, dx in ((x1, arm), (x2, -arm)):
        for y, dy in ((y1, arm), (y2, -arm)):
            corner = np.array([[x + dx, y], [x, y], [x, y + dy]], np.int32)
            for colour, thickness in ((PANEL, width + 2), (TEXT, width)):
                cv2.polylines(rgb, [corner], False, colour, thickness, cv2.LINE_AA)


def draw_action(rgb: Picture, action: ActionPrediction, classes: int) -> None:
    """Draw the most probable classes of the naming classifier onto `rgb`, in place, at the upper left."""
    head = next(probabilities for probabilities in action.probabilities if action.name in probabilities)
    best = sorted(head.items(), key=lambda item: -item[1])[:classes]
    scale = _font_scale(rgb)
    line, gap = round(30 * scale), round(10 * scale)
    bar = round(120 * scale)
    names = max(_text_width(name, scale) for name, _ in best)
    percent = _text_width("100 %", scale)
    _panel(rgb, 0, 0, names + bar + percent + 4 * gap, line * len(best) + gap)
    for row, (name, probability) in enumerate(best):
        base = gap // 2 + line * row + round(22 * scale)
        _text(rgb, name, gap, base, scale, TEXT if row == 0 else (190, 190, 190))
        left, top, bottom = names + 2 * gap, base - round(14 * scale), base + round(2 * scale)
        cv2.rectangle(rgb, (left, top), (left + bar, bottom), (70, 74, 84), -1)
        if probability > 0:
            cv2.rectangle(
                rgb, (left, top), (left + round(bar * probability), bottom), BAR if row == 0 else (150, 130, 80), -1
            )
        _text(rgb, f"{100 * probability:.0f} %", left + bar + gap, base, scale, TEXT)


def _side(joint: str, other: str = "") -> Colour:
    for name in (joint, other):
        if name.startswith("right "):
            return RIGHT
        if name.startswith("left "):
            return LEFT
    return MIDDLE


def _draw_rate(rgb: Picture, frames_per_second: float) -> None:
    """At the lower right, where it meets no action even on small pictures."""
    text, scale = f"{frames_per_second:.1f} frames/s", _font_scale(rgb)
    gap, line = round(10 * scale), round(34 * scale)
    left, top = rgb.shape[1] - _text_width(text, scale) - 2 * gap, max(0, rgb.shape[0] - line)
    _panel(rgb, left, top, rgb.shape[1] - left, line)
    _text(rgb, text, left + gap, top + round(24 * scale), scale, TEXT)


def _panel(rgb: Picture, x: int, y: int, width: int, height: int) -> None:
    part = rgb[y : y + height, max(x, 0) : x + width]
    part[:] = (0.35 * part + 0.65 * np.array(PANEL)).astype(np.uint8)


def _text(rgb: Picture, text: str, x: int, y: int, scale: float, colour: Colour) -> None:
    cv2.putText(rgb, text, (x, y), _FONT, 0.7 * scale, colour, max(1, round(1.6 * scale)), cv2.LINE_AA)


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, 0.7 * scale, max(1, round(1.6 * scale)))[0][0])


def _font_scale(rgb: Picture) -> float:
    """1 at 720 lines; never so small that letters run together."""
    return max(0.5, min(rgb.shape[:2]) / 720)
