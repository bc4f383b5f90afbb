"""The measures of Sec. 4.1.1: PCKh, MPJPE (also after Procrustes alignment), accuracy. NumPy, float64, one batch at a
time.

Errors are computed per joint first (N, J), then averaged by `MaskedMean`, which takes batch after batch. A mean over
joints is the mean over all valid joint instances, as both data sets' own evaluations do. A prediction that is not
finite is always counted: as a miss in PCKh and accuracy, as a joint placed on the root in MPJPE.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyhar.data.layouts import JointLayout

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

PCKH_LEFT_OUT = ("pelvis", "thorax", "spine")


class MaskedMean:
    """The mean of values of one shape, over everything added so far; entries that are not valid do not count."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.total = np.zeros(shape)
        self.count = np.zeros(shape, dtype=np.int64)

    def add(self, values: npt.ArrayLike, valid: npt.ArrayLike) -> None:
        """values (N, *shape), valid bool (N, *shape) or anything that broadcasts to it; values that are not valid may
        be NaN.
        """
        values = np.asarray(values, dtype=np.float64)
        mask = np.broadcast_to(np.asarray(valid, dtype=bool), values.shape)
        self.total += np.where(mask, values, 0.0).sum(axis=0)
        self.count += mask.sum(axis=0)

    @property
    def each(self) -> Floats:
        """The mean of every entry, of the given shape; NaN where nothing was valid."""
        return np.divide(self.total, self.count, out=np.full(self.total.shape, np.nan), where=self.count > 0)

    @property
    def overall(self) -> float:
        """The mean over all entries together, each valid value weighing the same; NaN if nothing was valid."""
        count = self.count.sum()
        return float(self.total.sum() / count) if count else float("nan")


def pckh_joints(layout: JointLayout) -> list[int]:
    """The joints that PCKh is taken over: pelvis and thorax are left out, as on MPII, and the spine of "pa17", which
    leaves the same 14.
    """
    return [index for index, joint in enumerate(layout.joints) if joint not in PCKH_LEFT_OUT]


def head_distances(predicted_px: npt.ArrayLike, true_px: npt.ArrayLike, head_size: npt.ArrayLike) -> Floats:
    """Distances (N, J) between joints (N, J, 2) in picture pixels, in units of the head size (N,); inf for a
    prediction that is not finite.
    """
    predicted, true = np.asarray(predicted_px, dtype=np.float64), np.asarray(true_px, dtype=np.float64)
    distance = np.linalg.norm(predicted - true, axis=-1) / np.asarray(head_size, dtype=np.float64)[:, None]
    return np.where(np.isfinite(predicted).all(axis=-1), distance, np.inf)


def pckh(
    predicted_px: npt.ArrayLike,
    true_px: npt.ArrayLike,
    valid: npt.ArrayLike,
    head_size: npt.ArrayLike,
    thresholds: npt.ArrayLike = 0.5,
) -> MaskedMean:
    """Share of joints no further from the truth than a share of the head size.

    predicted_px, true_px: (N, J, 2) picture pixels; valid: bool (N, J); head_size: (N,) pixels; thresholds: one
    number, or (K,). Returns the means: `each` is (J,) or (J, K), `overall` the usual score.
    """
    distance = head_distances(predicted_px, true_px, head_size)
    limits = np.asarray(thresholds, dtype=np.float64)
    mean = MaskedMean(distance.shape[1:] + limits.shape)
    add_within(mean, distance, np.asarray(valid, dtype=bool), limits)
    return mean


def add_within(mean: MaskedMean, distance: Floats, valid: Bools, thresholds: Floats) -> None:
    """Add to `mean` whether each distance (N, J) is within each of the thresholds, () or (K,)."""
    if thresholds.ndim:
        distance, valid = distance[..., None], valid[..., None]
    mean.add(distance <= thresholds, valid)


def area_under_curve(values: npt.ArrayLike, thresholds: npt.ArrayLike, limit: float = 0.5) -> float:
    """Mean height of a curve (K,) over thresholds (K,) from the first up to `limit`, by the trapezoid rule."""
    x, y = np.asarray(thresholds, dtype=np.float64), np.asarray(values, dtype=np.float64)
    inside = x <= limit + 1e-9
    x, y = x[inside], y[inside]
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def root_aligned_errors(predicted_mm: npt.ArrayLike, true_mm: npt.ArrayLike, root: int = 0) -> Floats:
    """Distances (N, J) in millimetres between joints (N, J, 3), after both poses' roots are moved to the origin."""
    predicted, true = np.asarray(predicted_mm, dtype=np.float64), np.asarray(true_mm, dtype=np.float64)
    predicted = np.where(np.isfinite(predicted), predicted, np.nan)
    relative = predicted - predicted[:, root : root + 1]
    relative = np.where(np.isnan(relative).any(axis=-1, keepdims=True), 0.0, relative)
    return np.linalg.norm(relative - (true - true[:, root : root + 1]), axis=-1)


def procrustes_errors(predicted_mm: npt.ArrayLike, true_mm: npt.ArrayLike, valid: npt.ArrayLike) -> Floats:
    """Distances (N, J) in millimetres after the rotation, scale and shift that bring each predicted pose (N, J, 3)
    closest to the truth.

    A joint that is not finite is placed in the middle. The alignment reads the joints that are valid (N, J) and
    finite; with fewer than three of them a pose is not aligned.
    """
    predicted, true = np.asarray(predicted_mm, dtype=np.float64), np.asarray(true_mm, dtype=np.float64)
    used = np.asarray(valid, dtype=bool) & np.isfinite(predicted).all(axis=-1) & np.isfinite(true).all(axis=-1)
    weight = used[..., None] / np.maximum(used.sum(axis=1), 1)[:, None, None]
    x, y = np.where(used[..., None], predicted, 0.0), np.where(used[..., None], true, 0.0)
    mean_x, mean_y = (x * weight).sum(axis=1, keepdims=True), (y * weight).sum(axis=1, keepdims=True)
    x, y = (x - mean_x) * used[..., None], (y - mean_y) * used[..., None]
    u, singular, vt = np.linalg.svd(np.swapaxes(x, 1, 2) @ y)
    sign = np.ones_like(singular)
    sign[:, -1] = np.sign(np.linalg.det(u @ vt))  # a mirrored pose is not the same pose
    rotation = (u * sign[:, None, :]) @ vt
    scale = (singular * sign).sum(axis=1) / np.maximum((x**2).sum(axis=(1, 2)), 1e-12)
    aligned = scale[:, None, None] * (np.where(np.isfinite(predicted), predicted, mean_x) - mean_x) @ rotation + mean_y
    aligned = np.where((used.sum(axis=1) >= 3)[:, None, None], aligned, np.nan_to_num(predicted))
    return np.linalg.norm(aligned - true, axis=-1)


def mpjpe(predicted_mm: npt.ArrayLike, true_mm: npt.ArrayLike, valid: npt.ArrayLike, root: int = 0) -> MaskedMean:
    """Mean per joint position error after root alignment, millimetres; the root itself counts, with error 0.

    predicted_mm, true_mm: (N, J, 3); valid: bool (N, J). Returns the means: `each` is (J,), `overall` the usual score.
    A pose whose root is not valid does not count.
    """
    known = np.asarray(valid, dtype=bool)
    known = known & known[:, root : root + 1]
    mean = MaskedMean(known.shape[1:])
    mean.add(root_aligned_errors(predicted_mm, true_mm, root), known)
    return mean


def confusion_matrix(predicted: npt.ArrayLike, true: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    """Counts (classes, classes): row the true class, column the predicted one. Pairs with a class outside
    0..classes-1 are left out.
    """
    columns, rows = np.asarray(predicted, dtype=np.int64), np.asarray(true, dtype=np.int64)
    known = (rows >= 0) & (rows < classes) & (columns >= 0) & (columns < classes)
    return np.bincount(rows[known] * classes + columns[known], minlength=classes * classes).reshape(classes, classes)


def accuracy(predicted: npt.ArrayLike, true: npt.ArrayLike) -> float:
    """Share of predicted classes (N,) that equal the true ones (N,); NaN if there are none. A prediction of -1 is
    wrong.
    """
    columns, rows = np.asarray(predicted), np.asarray(true)
    return float((columns == rows).mean()) if rows.size else float("nan")
