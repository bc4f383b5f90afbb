"""The running scores of one prediction block on stills."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyhar.data.layouts import JointLayout
from pyhar.evaluation import metrics
from pyhar.evaluation.results import PoseScores, finite

THRESHOLDS = np.linspace(0.0, 1.0, 51)
"""Of the PCKh curve."""


@dataclass
class Truth:
    """A batch of stills, in the form the measures take: float64 NumPy, invalid entries masked."""

    px: metrics.Floats  # (N, J, 2)
    head: metrics.Floats  # (N,)
    in_plane: metrics.Bools  # (N, J): counts for PCKh
    mm: metrics.Floats  # (N, J, 3)
    in_space: metrics.Bools  # (N, J): counts for MPJPE
    action: npt.NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, batch: dict[str, Tensor], layout: JointLayout) -> Truth:
        px, mm = batch["joints_px"].double().numpy(), batch["joints_mm"].double().numpy()
        head, valid = batch["head_size"].double().numpy(), batch["pose_valid"].numpy()
        counted = np.zeros(px.shape[1], dtype=bool)
        counted[metrics.pckh_joints(layout)] = True
        in_plane = valid[..., :2].all(-1) & np.isfinite(px).all(-1) & (head > 0)[:, None] & counted
        in_space = valid.all(-1) & np.isfinite(mm).all(-1)
        known = np.isfinite(batch["root_depth"].numpy()) & np.isfinite(batch["camera"].numpy()).all(-1)
        in_space &= (known & in_space[:, layout.root])[:, None]
        return cls(px, head, in_plane, mm, in_space, batch["action"].numpy())


class PoseTally:
    """The running scores of one prediction block."""

    def __init__(self, layout: JointLayout, action_names: tuple[str, ...]) -> None:
        joints = len(layout.joints)
        self.layout, self.action_names = layout, action_names
        self.within_half = metrics.MaskedMean((joints,))
        self.curve = metrics.MaskedMean((joints, len(THRESHOLDS)))
        self.error = metrics.MaskedMean((joints,))
        self.aligned = metrics.MaskedMean((joints,))
        self.by_action = [metrics.MaskedMean((joints,)) for _ in action_names]
        self.not_finite = 0
        """Predicted joints with a coordinate that is NaN or infinite, counted by the caller."""

    def add(self, px: metrics.Floats, mm: metrics.Floats | None, truth: Truth) -> metrics.Floats:
        """Count a batch of poses, px (N, J, 2) and mm (N, J, 3); returns how far each still (N,) is off, NaN if
        nothing is known.
        """
        distance = metrics.head_distances(px, truth.px, truth.head)
        metrics.add_within(self.within_half, distance, truth.in_plane, np.asarray(0.5))
        metrics.add_within(self.curve, distance, truth.in_plane, THRESHOLDS)
        each = _row_means(distance, truth.in_plane)
        if mm is not None:
            error = metrics.root_aligned_errors(mm, truth.mm, self.layout.root)
            self.error.add(error, truth.in_space)
            self.aligned.add(metrics.procrustes_errors(mm, truth.mm, truth.in_space), truth.in_space)
            for action in np.unique(truth.action[(truth.action >= 0) & (truth.action < len(self.by_action))]):
                of = truth.action == action
                self.by_action[action].add(error[of], truth.in_space[of])
            each = np.where(np.isnan(each), _row_means(error, truth.in_space), each)
        return each

    def scores(self, pyramid: int, level: int) -> PoseScores:
        names = self.layout.joints
        counted = [j for j in metrics.pckh_joints(self.layout) if self.within_half.count[j]]
        found = bool(counted)
        overall = np.divide(self.curve.total.sum(0), self.curve.count.sum(0)) if found else np.array([])
        by_action = {
            action: mean.overall
            for action, mean in zip(self.action_names, self.by_action, strict=True)
            if mean.count.any()
        }
        return PoseScores(
            pyramid,
            level,
            pckh=100 * self.within_half.overall if found else None,
            pckh_auc=100 * metrics.area_under_curve(overall, THRESHOLDS) if found else None,
            pckh_by_joint={names[j]: 100 * float(self.within_half.each[j]) for j in counted},
            pckh_curve={names[j]: [round(100 * float(v), 2) for v in self.curve.each[j]] for j in counted},
            mpjpe=finite(self.error.overall),
            pa_mpjpe=finite(self.aligned.overall),
            mpjpe_by_joint={n: float(v) for n, v in zip(names, self.error.each, strict=True) if np.isfinite(v)},
            mpjpe_by_action=dict(by_action),
            mpjpe_over_actions=sum(by_action.values()) / len(by_action) if by_action else None,
            not_finite=self.not_finite,
        )


def _row_means(values: metrics.Floats, valid: metrics.Bools) -> metrics.Floats:
    """Means (N,) over the valid entries of each row; NaN if there are none."""
    count = valid.sum(1)
    total = np.where(valid, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
