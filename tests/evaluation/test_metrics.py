from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pyhar.data.layouts import PA16, PA17
from pyhar.evaluation import metrics

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "measures_golden.json").read_text())["measures"]


def array(values: list[float | None], *shape: int) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values]).reshape(shape)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_measures_agree_with_the_release(case: dict) -> None:
    n = case["n"]
    true, predicted = array(case["pckh_y_true"], n, 16, 2), array(case["pckh_y_pred"], n, 16, 2)
    valid = np.isfinite(true).all(-1)
    counted = valid & np.isin(np.arange(16), metrics.pckh_joints(PA16))
    head = array(case["pckh_head_size"], n)
    assert metrics.pckh(predicted, true, counted, head).overall == pytest.approx(case["pckh05"])
    assert metrics.pckh(predicted, true, counted, head, 0.2).overall == pytest.approx(case["pckh02"])

    true, predicted = array(case["mpjpe_y_true"], n, 17, 3), array(case["mpjpe_y_pred"], n, 17, 3)
    valid = np.isfinite(true).all(-1)
    # The release measures poses as they are: a root at the origin makes the alignment do nothing.
    zero = np.zeros((n, 1, 3))
    aligned = metrics.mpjpe(
        np.concatenate([zero, predicted], 1),
        np.concatenate([zero, true], 1),
        np.concatenate([valid[:, :1] | True, valid], 1),
    )
    assert aligned.total[1:].sum() / aligned.count[1:].sum() == pytest.approx(case["mean_distance"])


def test_pckh_takes_the_same_14_joints_of_both_layouts() -> None:
    names = [[layout.joints[j] for j in metrics.pckh_joints(layout)] for layout in (PA16, PA17)]
    assert names[0] == names[1]
    assert len(names[0]) == 14
    assert not {"pelvis", "thorax", "spine"} & set(names[0])


def test_pckh_by_joint_and_threshold() -> None:
    true = np.zeros((2, 3, 2))
    predicted = np.array([[[5.0, 0], [0, 10], [30, 0]], [[0, 0], [0, 21], [np.nan, 0]]])
    valid = np.array([[True, True, False], [True, True, True]])
    mean = metrics.pckh(predicted, true, valid, [20.0, 40.0], [0.25, 0.5])
    # Distances in heads: 0.25, 0.5, -; 0, 0.525, infinite.
    np.testing.assert_allclose(mean.each, [[1, 1], [0, 0.5], [0, 0]])
    assert mean.overall == pytest.approx(5 / 10)
    np.testing.assert_array_equal(mean.count, [[2, 2], [2, 2], [1, 1]])


def test_area_under_curve() -> None:
    thresholds = np.linspace(0, 1, 11)
    assert metrics.area_under_curve(thresholds * 2, thresholds) == pytest.approx(0.5)
    assert metrics.area_under_curve(np.ones(11), thresholds, limit=0.3) == pytest.approx(1)


def test_mpjpe_forgets_where_the_root_is_and_counts_it() -> None:
    true = np.array([[[0.0, 0, 4000], [100, 0, 4000], [0, 200, 4100]]])
    predicted = true + np.array([50.0, -20, 300])
    predicted[0, 1] += [30, 0, 40]
    mean = metrics.mpjpe(predicted, true, np.ones((1, 3), bool))
    np.testing.assert_allclose(mean.each, [0, 50, 0], atol=1e-9)
    assert mean.overall == pytest.approx(50 / 3)
    assert metrics.mpjpe(predicted, true, [[True, False, True]]).overall == pytest.approx(0)
    assert np.isnan(metrics.mpjpe(predicted, true, [[False, True, True]]).overall)


def test_mpjpe_puts_what_is_not_finite_on_the_root() -> None:
    true = np.array([[[0.0, 0, 4000], [300, 400, 4000]]])
    predicted = true.copy()
    predicted[0, 1, 2] = np.nan
    np.testing.assert_allclose(metrics.root_aligned_errors(predicted, true), [[0, 500]])
    predicted[0, 0] = np.inf
    np.testing.assert_allclose(metrics.root_aligned_errors(predicted, true), [[0, 500]])


def test_procrustes_undoes_rotation_scale_and_shift_but_not_mirroring() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (5, 17, 3)) + np.array([0, 0, 4000])
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    moved = 1.7 * true @ rotation.T + [10, 20, 30]
    everything = np.ones((5, 17), bool)
    np.testing.assert_allclose(metrics.procrustes_errors(moved, true, everything), 0, atol=1e-6)
    mirrored = moved * [-1, 1, 1]
    assert metrics.procrustes_errors(mirrored, true, everything).mean() > 50

    # A joint that is not valid does not pull on the alignment; two joints cannot be aligned.
    moved[:, 3] += 500
    some = everything.copy()
    some[:, 3] = False
    np.testing.assert_allclose(metrics.procrustes_errors(moved, true, some)[some], 0, atol=1e-6)
    two = np.zeros((5, 17), bool)
    two[:, :2] = True
    np.testing.assert_allclose(metrics.procrustes_errors(moved, true, two), np.linalg.norm(moved - true, axis=-1))


def test_masked_mean_is_the_same_in_one_batch_or_many() -> None:
    rng = np.random.default_rng(1)
    values, valid = rng.normal(size=(20, 4)), rng.random((20, 4)) > 0.4
    values[~valid] = np.nan
    whole, parts = metrics.MaskedMean((4,)), metrics.MaskedMean((4,))
    whole.add(values, valid)
    for begin in range(0, 20, 7):
        parts.add(values[begin : begin + 7], valid[begin : begin + 7])
    np.testing.assert_allclose(parts.each, whole.each)
    np.testing.assert_allclose(whole.overall, np.nanmean(values))
    assert np.isnan(metrics.MaskedMean((2,)).each).all()
    assert np.isnan(metrics.MaskedMean().overall)


def test_accuracy_and_confusion() -> None:
    predicted, true = [0, 1, 1, -1, 2], [0, 1, 2, 2, 2]
    assert metrics.accuracy(predicted, true) == pytest.approx(0.6)
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, true, 3), [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert np.isnan(metrics.accuracy([], []))
