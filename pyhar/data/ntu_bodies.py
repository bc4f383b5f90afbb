"""Which of the bodies that a Kinect tracked is the person, and through which pinhole the colour picture was taken.

A Kinect takes chairs and bags for bodies, gives a person a new number when it lost them for a moment, and maps joints
to the colour picture through a second camera beside the first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyhar.data.ntu_files import Body

Array = npt.NDArray[np.float64]

# A track goes on in another if that begins after its end and within so many metres, and some more for each frame lost.
_JUMP = 0.3
_JUMP_PER_FRAME = 0.05
_MOST_LOST = 60
# Metres: how tall and wide bodies are, and how long the back is, from base to neck.
_TALLEST = 2.4
_SHORTEST = 0.4
_BACK = (0.25, 0.9)
_SPINE_BASE, _SPINE_TOP = 0, 20


def join_tracks(bodies: list[Body]) -> list[Body]:
    """Bodies (xyz in metres) with those joined that are one person under several numbers.

    Two tracks are one person if they have no frame in common and the second begins near where the first ended. Without
    xyz nothing is joined.
    """
    tracks = sorted((replace(body) for body in bodies), key=_first)
    joined: list[Body] = []
    for track in tracks:
        nearest, best = None, np.inf
        for place, before in enumerate(joined):
            distance = _gap(before, track)
            if distance < best:
                nearest, best = place, distance
        if nearest is None:
            joined.append(track)
        else:
            joined[nearest] = _union(joined[nearest], track)
    return joined


def _first(body: Body) -> int:
    return int(np.flatnonzero(body.present)[0])


def _gap(before: Body, after: Body) -> float:
    """Distance in metres from the end of a track to the start of another; infinite if they cannot be one person."""
    last, first = int(np.flatnonzero(before.present)[-1]), _first(after)
    lost = first - last
    if not 0 < lost <= _MOST_LOST:
        return np.inf
    both = np.isfinite(before.xyz[last]).all(-1) & np.isfinite(after.xyz[first]).all(-1)
    if not both.any():
        return np.inf
    distance = float(np.median(np.linalg.norm(before.xyz[last, both] - after.xyz[first, both], axis=-1)))
    return distance if distance <= _JUMP + _JUMP_PER_FRAME * (lost - 1) else np.inf


def _union(first: Body, second: Body) -> Body:
    there = second.present
    return Body(
        np.where(there[:, None, None], second.xyz, first.xyz),
        np.where(there[:, None, None], second.px, first.px),
        np.where(there[:, None], second.state, first.state),
    )


def rank_bodies(bodies: list[Body]) -> list[Body]:
    """Bodies, the likeliest person first: those of plausible extent before others, and of these the one that moves
    most.

    A frame is plausible if the body is 0.4 to 2.4 m large and its back 0.25 to 0.9 m long; a body, if most of its
    frames are, and more so if it is taller than 1.25 times its width, which furniture is not, but a person who lies
    down is not either. Motion: variance of the joints' places over time, times the part of the clip in which the body
    is there. So did the owners choose, by spread and variance. Bodies without xyz are judged by motion in pixels alone.
    """
    return sorted(bodies, key=lambda body: (_plausibility(body), _motion(body)), reverse=True)


def is_plausible(body: Body) -> bool:
    """Whether a body has the extent of a person, as `rank_bodies` says; without xyz that cannot be told, and it has."""
    return _plausibility(body) > 0 or not np.isfinite(body.xyz).any()


def _plausibility(body: Body) -> int:
    frames = body.xyz[np.isfinite(body.xyz).all(-1).sum(-1) >= 5]
    if not len(frames):
        return 0
    span = np.nanmax(frames, axis=1) - np.nanmin(frames, axis=1)
    size, back = np.linalg.norm(span, axis=-1), np.linalg.norm(frames[:, _SPINE_TOP] - frames[:, _SPINE_BASE], axis=-1)
    # An unknown back speaks neither for nor against.
    good_back = np.isnan(back) | ((back > _BACK[0]) & (back < _BACK[1]))
    if np.mean((size > _SHORTEST) & (size < _TALLEST) & good_back) < 0.5:
        return 0
    return 2 if np.mean(span[:, 0] <= 0.8 * span[:, 1]) >= 0.5 else 1


def _motion(body: Body) -> float:
    points = body.xyz if np.isfinite(body.xyz).any() else body.px
    points = points[body.present]
    if len(points) < 2:
        return 0.0
    known = np.isfinite(points).all(-1).sum(0) >= 2
    if not known.any():
        return 0.0
    return float(np.nanvar(points[:, known], axis=0).sum(-1).mean()) * len(points) / len(body.present)


def fit_pinhole(points_mm: Array, px: Array) -> tuple[Array, float]:
    """fx, fy, cx, cy that show camera points (n, 3) at pixels (n, 2) with the least squared error, and the error's
    root mean square in pixels; NaN where too little is known.

    Joints of one person hardly tell the two focal lengths apart if all lie in one column or row of the picture: they
    are then taken as equal. Points far off (beyond four times the median error) are left out of a second fit.
    """
    known = np.isfinite(points_mm).all(-1) & np.isfinite(px).all(-1) & (points_mm[:, 2] > 0)
    uv, px = points_mm[known, :2] / points_mm[known, 2:], px[known]
    if len(uv) < 4 or float(uv.std(axis=0).max()) < 1e-3:
        return np.full(4, np.nan), float("nan")
    keep = np.ones(len(uv), dtype=bool)
    for _ in range(2):
        camera = _least_squares(uv[keep], px[keep])
        error = np.linalg.norm(uv * camera[:2] + camera[2:] - px, axis=-1)
        keep = error <= 4.0 * max(float(np.median(error)), 0.05)
    return camera, float(np.sqrt(np.mean(error[keep] ** 2)))


def _least_squares(uv: Array, px: Array) -> Array:
    mean_uv, mean_px = uv.mean(0), px.mean(0)
    across, seen = uv - mean_uv, px - mean_px
    spread, product = (across**2).mean(0), (across * seen).mean(0)
    focal = product / np.maximum(spread, 1e-12)
    if spread.min() < 0.02**2:
        focal = np.full(2, product.sum() / spread.sum())
    return np.concatenate([focal, mean_px - focal * mean_uv])
